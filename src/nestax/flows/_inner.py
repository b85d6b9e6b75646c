"""An inner problem as `best_response` solves it: a number of steps of an optimizer on a loss."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from . import _vectors as vectors
from ._hoist import is_pushing_forward
from ._lean import lean_gradient
from ._safe_update import quiet, rejects, safe_update
from ._scan import unrolled
from .jaxprs import equations


@dataclasses.dataclass(frozen=True)
class Inner:
    """What the flows of `best_response` are given.

    Attributes:
        loss: (point, values) -> scalar of float32 at least.
        transformation: values -> optimizer.
        steps: number of updates.
    """

    loss: Callable[[PyTree, PyTree], Array]
    transformation: Callable[[PyTree], optax.GradientTransformationExtraArgs]
    steps: int

    def frozen(self, loss: Callable, values: PyTree, carry: PyTree, steps: int) -> PyTree:
        """The carry after some updates through which nothing is differentiated."""
        values, carry = jax.lax.stop_gradient((values, carry))
        inner = dataclasses.replace(self, loss=loss)
        return jax.lax.stop_gradient(inner.run(values, carry, steps, False, differentiated=False))

    def run(
        self,
        values: PyTree,
        carry: PyTree,
        steps: int,
        checkpoint: int | None,
        first_order: bool = False,
        differentiated: bool = True,
    ) -> PyTree:
        """`steps` updates of the carry (point, optimizer state).

        Derivatives with respect to slow values are sums over the steps: those of half precision are
        summed in float32, for which every step casts the wide values down by itself.
        """
        wide = jax.tree.map(vectors.widen, values)
        half = any(
            a.dtype != b.dtype for a, b in zip(*map(jax.tree.leaves, (values, wide)), strict=True)
        )
        dtypes = jax.tree.map(lambda leaf: leaf.dtype, values)
        made = None if half else self.transformation(values)

        def given(wide: PyTree) -> PyTree:
            return jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), wide, dtypes)

        def with_aux(point: PyTree, wide: PyTree, _: tuple) -> tuple[Array, tuple]:
            return self.loss(point, given(wide)), ()

        def update(
            wide: PyTree, gradient: PyTree, state: PyTree, point: PyTree, value: Array
        ) -> tuple:
            rule = self.transformation(given(wide)) if made is None else made
            return rule.update(
                gradient,
                state,
                point,
                value=value,
                grad=gradient,
                value_fn=lambda point: self.loss(point, given(wide)),
            )

        # What stores everything may also be pushed forward, which the rules for rejection cannot.
        rejecting = differentiated and checkpoint is not False and not is_pushing_forward()
        rejecting = rejecting and rejects(update, wide, carry[0], carry[1], carry[0], 0.0)

        def make_body(lean: bool) -> Callable:
            plain = jax.value_and_grad(with_aux, has_aux=True)
            take = lean_gradient(with_aux) if lean else plain
            take = quiet(take) if rejecting else take

            def body(carry: PyTree, _: None) -> tuple[PyTree, None]:
                point, state = carry
                (value, _aux), gradient = take(point, wide, ())
                gradient = vectors.uphill(gradient)
                gradient = jax.lax.stop_gradient(gradient) if first_order else gradient
                step = functools.partial(update, wide)
                if differentiated:
                    step = functools.partial(safe_update, step, rejecting=rejecting)
                updates, state = step(gradient, state, point, value)
                return (optax.apply_updates(point, updates), state), None

            return body

        return unrolled(make_body, carry, None, steps, checkpoint)[0]

    def check_differentiable(self, values: PyTree, carry: tuple) -> None:
        """Refuses updates whose derivative is not that of the program."""
        rule = self.transformation(values)

        def update(point: PyTree, state: PyTree) -> Any:
            gradient = jax.tree.map(jnp.zeros_like, point)
            value_fn = lambda point, **_: self.loss(point, values)  # noqa: E731
            extras = {"value": jnp.zeros(()), "grad": gradient, "value_fn": value_fn}
            return rule.update(gradient, state, point, **extras)

        own = {e.primitive.name for e in equations(jax.make_jaxpr(self.loss)(carry[0], values))}
        names = {e.primitive.name for e in equations(jax.make_jaxpr(update)(*carry))} - own
        repair = "optax.lbfgs(learning_rate, linesearch=None, scale_init_precond=False)"
        if "while" in names and not is_pushing_forward():
            raise ValueError(
                "best_response: Unroll() cannot differentiate the optimizer, whose update is a "
                f"loop of unknown length, as in a line search; use one without, such as {repair}, "
                "or the flow Forward() or Implicit(CG(20))"
            )
        kinds = {type(part).__name__ for part in jax.tree.leaves(carry[1], is_leaf=_is_lbfgs)}
        if "stop_gradient" in names and "ScaleByLBFGSState" in kinds:
            raise ValueError(
                "best_response: optax.lbfgs hides the scale of its first step from derivatives, "
                f"which would be off; use {repair}"
            )


def _is_lbfgs(part: Any) -> bool:
    return type(part).__name__ == "ScaleByLBFGSState"
