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
    `optax.apply_if_finite`, adds nothing to the gradient, even if it contains NaN.

    Example:
        ```python
        inner = lambda goal, w: (w - goal) ** 2
        end = nx.best_response(inner, optax.sgd(0.25), 3, nx.Unroll())
        print(jax.grad(end)(1.0, jnp.zeros(())))  # 0.875
        ```

    Attributes:
        last: number of steps to differentiate, the last ones of the loop just inside. Earlier steps
            are run without derivatives, and their result is a constant. None: all of them.
        checkpoint: what the backward pass may store. None: chosen from the problem (see
            `unrolled`). False: everything. An int: the carries of every so many steps.
        first_order: whether inner gradients are constants, so that no second derivative is taken:
            first-order MAML. Other inputs of the updates (a starting point, a learning rate) are
            differentiated; a term of the inner objective is not.

    Raises:
        ValueError: `last` or `checkpoint` is below 1.
        TypeError: an attribute has another type than the above.

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
        """See `Flow.loop`; with checkpoints."""
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
        """Losses and their gradients, by one backward pass for each distinct loss.

        Args:
            losses: `values -> (losses, aux)`, with as many scalar losses as there are values. The
                same array may stand for several of them; it is then differentiated once.
            values: a tuple of pytrees of inexact arrays.

        Returns:
            (losses, gradients, aux), where `gradients[i]` is `d losses[i] / d values[i]`.
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

    After K steps of gradient descent this is the one-term Neumann series. Its relative error is of
    the order of the contraction factor of a step.

    Example:
        ```python
        inner = lambda goal, w: (w - goal) ** 2
        end = nx.best_response(inner, optax.sgd(0.25), 3, nx.OneStep())
        print(jax.grad(end)(1.0, jnp.zeros(())))  # 0.5
        ```

    Args:
        checkpoint: as for `Unroll`.

    Returns:
        `Unroll(last=1, checkpoint=checkpoint)`.

    Source: Bolte, Pauwels and Vaiter, "One-step differentiation of iterative algorithms" (2023),
    corollary 1.
    """
    return Unroll(last=1, checkpoint=checkpoint)


@dataclasses.dataclass(frozen=True, repr=False)
class Forward(Flow):
    """Forward mode: the derivative of the state is carried along with the state.

    The derivative is that of `Unroll()`. Memory does not grow with the number of steps; memory and
    time are proportional to the number of slow values times the size of the state. Use it for few
    slow values. Where something inside has a rule for reverse mode only (an implicit gradient, a
    `jax.custom_vjp` of your own), nests use reverse mode, whose result is the same.

    Example:
        ```python
        inner = lambda goal, w: (w - goal) ** 2
        end = nx.best_response(inner, optax.sgd(0.25), 3, nx.Forward())
        print(jax.grad(end)(1.0, jnp.zeros(())))  # 0.875
        ```
    """

    follows: ClassVar[bool] = True
    joint: ClassVar[bool] = True

    def response(self, inner: Inner) -> Callable[[PyTree, PyTree], PyTree]:
        """See `Flow.response`."""
        return pushed_forward(Unroll().response(inner))

    def value_and_gradients(self, losses: Losses, values: tuple) -> tuple[tuple, tuple, Any]:
        """As `Unroll.value_and_gradients`, from derivatives that are carried along.

        Args:
            losses: `values -> (losses, aux)`, as there.
            values: a tuple of pytrees of inexact arrays.

        Returns:
            (losses, gradients, aux), as there.
        """
        return Unroll().value_and_gradients(pushed_forward(losses), values)


def _check_losses(outputs: tuple, values: tuple) -> None:
    if len(outputs) != len(values):
        raise ValueError(
            f"expected one loss for each of the {len(values)} values, got {len(outputs)} losses"
        )
