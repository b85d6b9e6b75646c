"""Where an inner problem ends, as a function of what its loss depends on, by looking at the end."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from . import _vectors as vectors
from ._hoist import hoist, is_inexact
from ._inner import Inner
from .fixed_point import Motion, difference, memory_of, merge, moved_by, remembering
from .jaxprs import dependence


def point_response(flow: Any, inner: Inner) -> Callable[[PyTree, PyTree], PyTree]:
    """(values, start) -> where the steps end, as a function of the values near that end.

    Args:
        flow: whose `root` differentiates it.
        inner: the inner problem.

    Raises:
        ValueError: the values do not occur in the loss.
    """
    transformation = inner.transformation

    def respond(values: PyTree, point: PyTree) -> PyTree:
        pure, constants, jaxpr = hoist(inner.loss, point, values)
        if jax.tree.leaves(values):
            first = len(constants_of := jaxpr.invars) - len(jax.tree.leaves(values))
            used = {id(v) for equation in jaxpr.eqns for v in equation.invars}
            if not any(id(v) in used for v in constants_of[first:]):
                raise ValueError(
                    f"best_response: the derivative by {flow} would be zero, since slow does not "
                    "occur in the objective; if it acts through the start or the optimizer, "
                    "differentiate the trajectory: flow=Unroll()"
                )
        end, state = settled(inner, pure, constants, values, point)
        frozen = jax.lax.stop_gradient(values)
        moving = [leaf for leaf in constants if is_inexact(leaf)]
        if not jax.tree.leaves((values, moving)):
            return end
        tried = _tried(transformation, frozen, jax.lax.stop_gradient(point))
        if tried is not None and tried.drifts:
            _warn_of_drift(flow)
        fixed = [leaf for leaf in constants if not is_inexact(leaf)]

        def of(point: PyTree, slow: tuple, fixed: list) -> Array:
            values, moving = slow
            moves, stays = iter(moving), iter(fixed)
            leaves = [next(moves) if is_inexact(leaf) else next(stays) for leaf in constants]
            return pure(leaves, point, values)

        def update(point: PyTree, state: Any, slow: tuple, fixed: list) -> tuple[PyTree, Any]:
            value, gradient = jax.value_and_grad(of)(point, slow, fixed)
            gradient = vectors.uphill(gradient)
            return transformation(slow[0]).update(
                gradient,
                state,
                point,
                value=value,
                grad=gradient,
                value_fn=lambda point: of(point, slow, fixed),
            )

        # Leaves that the optimizer cannot move are constants.
        found = dependence(lambda *args: update(*args)[0], end, state, (values, moving), fixed)
        free = [bool(needs) for needs in found]
        if tried is not None and any(tried.moves):
            free = [a and b for a, b in zip(free, tried.moves, strict=True)]
        moves = jax.tree.structure(end).unflatten(free)

        def restricted(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda leaf, free: leaf if free else None, tree, moves)

        def filled(free: PyTree) -> PyTree:
            return merge(free, end)

        def loss(unknowns: tuple, slow: tuple, fixed: list) -> Array:
            return of(filled(unknowns[0]), slow, fixed)

        def gradient(unknowns: tuple, slow: tuple, fixed: list) -> tuple[PyTree, list]:
            return jax.grad(loss)(unknowns, slow, fixed)

        def change(unknowns: tuple, slow: tuple, fixed: list) -> tuple[PyTree, list]:
            free, memory = unknowns
            updates, after = update(filled(free), remembering(state, memory), slow, fixed)
            moved = jax.tree.map(jnp.negative, restricted(updates))
            return moved, difference(memory, memory_of(after))

        unknowns = (restricted(end), memory_of(state) if flow.by_update else [])
        root = flow.root(change if flow.by_update else gradient, loss, stays=True)
        return filled(root(unknowns, (values, moving), fixed)[0])

    return respond


def settled(
    inner: Inner, pure: Callable, constants: list, values: PyTree, point: PyTree
) -> tuple[PyTree, Any]:
    """Where the steps end, and the optimizer's state there, as constants.

    Args:
        inner: the inner problem.
        pure, constants: its loss, hoisted: `pure(constants, point, values)`.
        values, point: what the loss depends on, and where the steps begin.
    """
    frozen, begin, still = jax.lax.stop_gradient((values, point, constants))
    rule = inner.transformation(frozen)
    carry = (begin, rule.init(begin))
    return inner.frozen(
        lambda point, values: pure(still, point, values), frozen, carry, inner.steps
    )


def _tried(transformation: Callable, values: PyTree, point: PyTree) -> Motion | None:
    """How the optimizer moves weights; None if it depends on traced values."""
    try:
        return moved_by(transformation(values), point)
    except (jax.errors.ConcretizationTypeError, jax.errors.UnexpectedTracerError):
        return None


def _warn_of_drift(flow: Any) -> None:
    if not (flow.by_update or flow.differences):
        warnings.warn(
            "best_response: Implicit takes the weights to settle where the objective is "
            "stationary, but the optimizer moves them where its gradient is zero (weight decay, a "
            "projection or noise inside the optimizer); put that term into the objective, or use "
            'Implicit(GMRES(), condition="update"), which differentiates the fixed point of the '
            "update",
            stacklevel=5,
        )
