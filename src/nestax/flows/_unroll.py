"""Trajectory flows: derivatives through the steps of an inner level, backward or forward."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._flow import Flow
from ._forward import pushed_forward
from ._inner import Inner
from ._scan import check_checkpoint, check_count, unrolled

Losses = Callable[[tuple], tuple[tuple, Any]]


@dataclasses.dataclass(frozen=True, repr=False)
class Unroll(Flow):
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

    follows: ClassVar[bool] = True
    joint: ClassVar[bool] = True
    reverse: ClassVar[bool] = True
    last: int | None = None
    checkpoint: int | None = None
    first_order: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.first_order, bool):
            raise TypeError(f"Unroll: first_order is True or False, got {self.first_order!r}")
        if self.last is not None:
            check_count("Unroll", "last", self.last, "None to differentiate all steps")
        check_checkpoint(self.checkpoint)

    def loop(self, make_body: Callable[[bool], Callable], carry: Any, length: int) -> Any:
        """See `Flow.loop`: checkpointed."""
        return unrolled(make_body, carry, None, length, self.checkpoint)

    def response(self, inner: Inner) -> Callable[[PyTree, PyTree], PyTree]:
        """See `Flow.response`."""
        last = inner.steps if self.last is None else self.last

        def respond(values: PyTree, point: PyTree) -> PyTree:
            carry = (point, inner.transformation(values).init(point))
            inner.check_differentiable(values, carry)
            if last < inner.steps:
                carry = inner.frozen(inner.loss, values, carry, inner.steps - last)
            return inner.run(values, carry, last, self.checkpoint, self.first_order)[0]

        return respond

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
class Forward(Flow):
    """Forward mode: the derivative of the state is carried along with the state.

    Memory does not grow with the number of steps but is (numbers in the values) x (size of the
    state), and so is the time: for few slow values. The derivative is that of `Unroll()`. Where
    something inside has a rule for reverse mode only (an implicit gradient, a user's
    `jax.custom_vjp`), nests fall back to reverse mode, whose result is the same.
    """

    follows: ClassVar[bool] = True
    joint: ClassVar[bool] = True

    def response(self, inner: Inner) -> Callable[[PyTree, PyTree], PyTree]:
        """See `Flow.response`."""
        return pushed_forward(Unroll().response(inner))

    def value_and_gradients(self, losses: Losses, values: tuple) -> tuple[tuple, tuple, Any]:
        """As `Unroll.value_and_gradients`, from derivatives that are carried along."""
        return Unroll().value_and_gradients(pushed_forward(losses), values)


def _check_losses(outputs: tuple, values: tuple) -> None:
    if len(outputs) != len(values):
        raise ValueError(
            f"expected one loss for each of the {len(values)} values, got {len(outputs)} losses"
        )
