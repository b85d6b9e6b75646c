"""Trajectory flows: derivatives through the steps of an inner level, backward or forward."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array

from ._brief import Brief
from ._hoist import has_reverse_only_rule, hoist, pushing_forward
from ._scan import check_checkpoint, check_count

Losses = Callable[[tuple], tuple[tuple, Any]]


@dataclasses.dataclass(frozen=True, repr=False)
class Unroll(Brief):
    """Reverse mode through the steps as they were executed.

    Where an optimizer takes the root of exactly zero, as Adam and clipping by norm do at a gradient
    of zero, the derivative of the root counts as 0. Derivatives of size 1 / eps are still possible
    where a gradient passes through zero; Adam's `eps_root` bounds them. A rejected update, as of
    `optax.apply_if_finite`, adds nothing to the gradient, even if what it rejected is NaN.

    Attributes:
        last: differentiate only the last so many steps of the loop just inside; what came before
            is computed outside of the differentiation, its result a constant. None: all of them.
        checkpoint: what the backward pass may store. None: chosen from the problem (see
            `unrolled`); False: everything; an int: carries every so many steps.
        first_order: inner gradients are constants, so no second derivative is taken: first-order
            MAML. What the updates depend on otherwise (a starting point, a learning rate) is
            differentiated; a term of the inner objective is not.

    Raises:
        ValueError: `last` or `checkpoint` below 1.
        TypeError: one of them of another type than the above.

    Source: Finn, Abbeel and Levine, "Model-agnostic meta-learning" (2017), section 5.2, for
    `first_order`.
    """

    last: int | None = None
    checkpoint: int | None = None
    first_order: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.first_order, bool):
            raise TypeError(f"Unroll: first_order is True or False, got {self.first_order!r}")
        if self.last is not None:
            check_count("Unroll", "last", self.last, "None to differentiate all steps")
        check_checkpoint(self.checkpoint)

    def value_and_gradients(self, losses: Losses, values: tuple) -> tuple[tuple, tuple, Any]:
        """One forward pass, and one backward pass for each distinct loss.

        Args:
            losses: values -> (losses, aux): as many scalar losses as there are values; the same
                array may stand for several of them and is then pulled back once.
            values: tuple of pytrees of inexact arrays.

        Returns:
            (losses, gradients, aux), where `gradients[i]` is d losses[i] / d values[i].
        """
        positions: list[int] = []

        def distinct(values: tuple) -> tuple[list, Any]:
            outputs, aux = losses(values)
            _check_losses(outputs, values)
            identities = [id(output) for output in outputs]
            firsts = list(dict.fromkeys(identities))
            positions[:] = [firsts.index(identity) for identity in identities]
            return [outputs[identities.index(first)] for first in firsts], aux

        outputs, pullback, aux = jax.vjp(distinct, values, has_aux=True)
        pulled = []
        for position in range(len(outputs)):
            seeds = [
                jnp.ones_like(output) if other == position else jnp.zeros_like(output)
                for other, output in enumerate(outputs)
            ]
            pulled.append(pullback(seeds)[0])
        gradients = tuple(pulled[position][i] for i, position in enumerate(positions))
        return tuple(outputs[position] for position in positions), gradients, aux


def OneStep(checkpoint: int | None = None) -> Unroll:
    """Only the last step is differentiated: `Unroll(last=1)`.

    With K steps of gradient descent it is the one-term Neumann series; its relative error is of the
    order of the contraction factor of a step. Source: Bolte, Pauwels and Vaiter, "One-step
    differentiation of iterative algorithms" (2023), corollary 1.
    """
    return Unroll(last=1, checkpoint=checkpoint)


@dataclasses.dataclass(frozen=True, repr=False)
class Forward(Brief):
    """Forward mode: the derivative of the state is carried along with the state.

    Memory does not grow with the number of steps but is (numbers in the values) x (size of the
    state), and so is the time: for few slow values. The derivative is that of `Unroll()`. Where
    something inside has a rule for reverse mode only (an implicit gradient, a user's
    `jax.custom_vjp`), nests fall back to reverse mode, whose result is the same.
    """

    def value_and_gradients(self, losses: Losses, values: tuple) -> tuple[tuple, tuple, Any]:
        """As `Unroll.value_and_gradients`, by one jvp for each number in the values, vmapped."""
        with pushing_forward():
            pure, constants, jaxpr = hoist(losses, values)
        if has_reverse_only_rule(jaxpr):
            return Unroll(checkpoint=None).value_and_gradients(losses, values)
        flat, unravel = jax.flatten_util.ravel_pytree(values)

        def push(direction: Array) -> tuple[tuple, tuple, Any]:
            def outputs(flat: Array) -> tuple[tuple, Any]:
                outputs, aux = pure(constants, unravel(flat))
                _check_losses(outputs, values)
                return outputs, aux

            return jax.jvp(outputs, (flat,), (direction,), has_aux=True)

        basis = jnp.eye(flat.size, dtype=flat.dtype)
        outputs, tangents, aux = jax.vmap(push, out_axes=(None, 0, None))(basis)
        # Row j is the derivative in the j-th number; each loss is asked for its own value's only.
        gradients = tuple(
            unravel(tangent.astype(flat.dtype))[i] for i, tangent in enumerate(tangents)
        )
        return outputs, gradients, aux


def _check_losses(outputs: tuple, values: tuple) -> None:
    if len(outputs) != len(values):
        raise ValueError(
            f"expected one loss for each of the {len(values)} values, got {len(outputs)} losses"
        )
