"""DARTS: one virtual step of the inner level, its mixed derivative by a central difference.

Source: Liu, Simonyan and Yang, "DARTS" (2019), equations (7) and (8).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from . import _vectors as vectors
from ._flow import Flow
from ._hoist import is_inexact
from ._implicit import DIVERGED, Diagnostics, check_scalar
from ._inner import Inner
from ._linear import close
from ._point_response import point_response
from ._solvers import Identity, check_number


@dataclasses.dataclass(frozen=True, repr=False)
class FiniteDifference(Flow):
    """Second-order DARTS: the inner level is one step of gradient descent away.

    With `w' = w - rate d_w L_in(w)` and `v = d_w' L_out(w')`,

    ```text
    d L_out(w', slow) / d slow = d_slow L_out
        - rate (d_slow L_in(w + e v) - d_slow L_in(w - e v)) / (2 e),   e = scale / |v|,
    ```

    which needs two more gradients and no second derivative. Apart from rounding and the error of
    the difference it is `Implicit(Identity(rate))` at w'.

    Attributes:
        rate: xi, the step size of the virtual step; best that of the inner level. 0 is first-order
            DARTS.
        scale: length of the difference's step in weight space, `|e v|`.

    Raises:
        ValueError: `rate` is not a finite Python number of at least 0; `scale` is not a positive
            one.

    Source: Liu, Simonyan and Yang, "DARTS" (2019), equations (7) and (8).
    """

    differences: ClassVar[bool] = True
    rough: ClassVar[bool] = True
    rate: float | int = 1.0
    scale: float | int = 0.01

    def __post_init__(self) -> None:
        check_number("FiniteDifference", "rate", self.rate, least=0)
        check_number("FiniteDifference", "scale", self.scale, least=0)
        if self.scale == 0:
            raise ValueError("FiniteDifference: scale must be positive, 0.01 in the paper; got 0")

    @property
    def linear(self) -> Identity:
        """The solver that this flow stands for where an inner level is an implicit function."""
        return Identity(self.rate)

    def response(self, inner: Inner) -> Callable[[PyTree, PyTree], PyTree]:
        """See `Flow.response`."""
        return point_response(self, inner)

    def root(self, condition: Callable, inner: Callable, stays: bool = False) -> Callable:
        """The levels inside as a function of the values outside.

        Args:
            condition: what vanishes where they have settled; not used here.
            inner: the sum of their objectives, `(fast, slow, data) -> scalar`.
            stays: whether the value is `fast` itself, instead of the end of the virtual step.

        Returns:
            `(fast, slow, data) -> fast`, as from `virtual_step`.
        """
        del condition
        return virtual_step(inner, self, stays)

    def value_and_gradient(
        self, loss: Callable, condition: Callable, inner: Callable, slow: PyTree, fast: PyTree
    ) -> tuple[tuple[Array, Any], PyTree, Diagnostics]:
        """The total derivative of a loss at the virtual point.

        Args:
            loss: `(fast, slow, None) -> (scalar, aux)`.
            condition: what vanishes where the levels inside have settled; not used here.
            inner: the sum of their objectives, `(fast, slow, data) -> scalar`.
            slow: the level's own value.
            fast: the values of the levels inside.

        Returns:
            ((value, aux), gradient, diagnostics), as from `finite_difference_gradient`.
        """
        del condition
        return finite_difference_gradient(loss, inner, self, slow, fast)

    def doubt(self, report: Any) -> str | None:
        """See `Flow.doubt`."""
        return DIVERGED if np.any(report.diverged) else None


def virtual_step(inner: Callable, flow: FiniteDifference, stays: bool = False) -> Callable:
    """The map `(fast, slow, data=None) -> fast - rate d_fast inner`, differentiated as by DARTS.

    The derivative with respect to `slow` is the central difference. With respect to `fast` it is
    zero: the point from which the step starts counts as given. Inexact arrays that `inner` closes
    over are differentiated like `slow`; `data` is constant.

    Args:
        inner: `(fast, slow, data) -> scalar`.
        flow: rate and scale.
        stays: whether the value is `fast` itself: it is the end of an earlier step, and higher
            derivatives treat it as a function of `slow`.

    Returns:
        The map.

    Raises:
        ValueError: when called: `inner` does not return a real scalar.

    Source: Liu, Simonyan and Yang, "DARTS" (2019), equations (7) and (8).
    """

    def step(fast: PyTree, slow: PyTree, data: Any = None) -> PyTree:
        return _Step(inner, flow, fast, slow, data, stays).fast()

    return step


def finite_difference_gradient(
    loss: Callable,
    inner: Callable,
    flow: FiniteDifference,
    slow: PyTree,
    fast: PyTree,
    data: Any = None,
) -> tuple[tuple[Array, Any], PyTree, Diagnostics]:
    """The gradient of loss(w', slow) by DARTS, at the virtual point w'.

    Args:
        loss: `(fast, slow, data) -> (scalar, aux)`.
        inner: `(fast, slow, data) -> scalar`, the inner objective itself.
        flow: rate and scale.
        slow: a pytree; the gradient is taken with respect to its inexact arrays.
        fast: a pytree; the inner level's present value.
        data: constants of any dtype.

    Returns:
        ((value, aux), gradient, diagnostics): value and aux are those at w'. The gradient is a
        pytree like `slow`. In the `Diagnostics` the norm of the inner gradient is that at `fast`;
        no linear system is solved (residual -1), and no product is counted.

    Raises:
        ValueError: `loss` or `inner` does not return a real scalar.

    Source: Liu, Simonyan and Yang, "DARTS" (2019), equations (7) and (8).
    """
    step = _Step(inner, flow, fast, slow, data)

    def total(coordinates: list) -> tuple[Array, Any]:
        value, aux = loss(step.fast(coordinates), step.join_slow(coordinates), step.data)
        check_scalar("loss", value)
        return value, aux

    found, (value, aux) = _value_first(total)(step.slow)
    length = vectors.norm(step.gradient())
    diagnostics = Diagnostics(
        inner_gradient=length,
        residual=jnp.full_like(length, -1),
        products=jnp.zeros_like(length, jnp.int32),
        diverged=~jnp.isfinite(vectors.norm(found)),
    )
    return (value, aux), vectors.as_gradient(slow, found), diagnostics


def _value_first(function: Callable) -> Callable:
    def both(coordinates: list) -> tuple[list, tuple[Array, Any]]:
        result, gradient = jax.value_and_grad(function, has_aux=True)(coordinates)
        return gradient, result

    return both


class _Step:
    """An inner objective in real coordinates, and the virtual step on it."""

    def __init__(
        self,
        inner: Callable,
        flow: FiniteDifference,
        fast: PyTree,
        slow: PyTree,
        data: Any,
        stays: bool = False,
    ):
        self.flow, self.stays = flow, stays
        self.point, self.join_fast = vectors.split(fast)
        self.slow, self.join_slow = vectors.split(slow)
        self.data = jax.tree.map(lambda a: jax.lax.stop_gradient(a) if is_inexact(a) else a, data)

        def objective(fast: list, slow: list) -> list:
            value = inner(self.join_fast(fast), self.join_slow(slow), self.data)
            check_scalar("inner", value)
            return [value]

        self.objective, self.hoisted, self.constants = close(objective, self.point, self.slow)

    def gradient(self) -> list:
        at = lambda point: self.objective(point, (self.slow, self.hoisted), self.constants)[0]  # noqa: E731
        return jax.grad(at)(self.point)

    def fast(self, slow: list | None = None) -> PyTree:
        """Where the step leads; `slow` in place of the present one, for its derivative."""
        slow = self.slow if slow is None else slow
        rule = _step_rule(self.objective, self.flow, self.stays)
        return self.join_fast(rule(self.point, (slow, self.hoisted), self.constants))


def _step_rule(objective: Callable, flow: FiniteDifference, stays: bool) -> Callable:
    def gradient(argument: int, point: list, parameters: tuple, constants: list) -> Any:
        return jax.grad(lambda *args: objective(*args)[0], argument)(point, parameters, constants)

    @jax.custom_vjp
    def step(point: list, parameters: tuple, constants: list) -> list:
        if stays:
            return point
        slope = gradient(0, point, parameters, constants)
        return [a - flow.rate * b for a, b in zip(point, slope, strict=True)]

    def forward(point: list, parameters: tuple, constants: list) -> tuple[list, tuple]:
        moved = step(point, parameters, constants)
        return moved, (moved if stays else point, parameters, constants)

    def backward(kept: tuple, cotangent: Any) -> tuple:
        point, parameters, constants = kept
        length = vectors.norm(cotangent)
        # Where nothing is asked for, the two points coincide and the difference is 0.
        e = flow.scale / jnp.where(length == 0, 1, length)
        up = gradient(1, vectors.plus(point, e, list(cotangent)), parameters, constants)
        down = gradient(1, vectors.plus(point, -e, list(cotangent)), parameters, constants)
        slope = jax.tree.map(jnp.subtract, up, down)
        return None, vectors.scaled(-flow.rate / (2 * e), slope), None

    step.defvjp(forward, backward)
    return step
