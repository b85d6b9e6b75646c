"""Finds a `stop_gradient` in an inner objective that hides how the level's updates move.

A level that descends `(w - d - stop_gradient(w) / 2)**2 / 2` follows the field `w - d - w / 2`, but
JAX gives that field the derivative 1 in w, not 1/2: every flow through the level would be wrong.
Many are harmless, such as that of a softmax's largest logit. So where there is one, the derivative
of the level's gradient is compared with that of the same function in which the stop holds for the
gradient itself and not for its derivative.
"""

import warnings
from typing import Any

import jax
import jax.numpy as jnp

from ..flows.internal import any_equation, evaluate, has_reverse_only_rule
from ._carry import View
from ._declaration import flow_of
from ._field import Field
from ._level import Level
from ._machine import Machine
from ._noise import noise
from ._state import State

_TOLERANCE = 1e-3  # of the whole derivative, as rounding in single precision leaves less


def check(machine: Machine, begun: State) -> None:
    """Warns once where a trajectory flow differentiates such a level.

    Raises:
        ValueError: where a point flow does, naming both levels.
    """
    for outer in machine.declaration.levels:
        flow = flow_of(outer)
        for level in () if flow.partial else machine.declaration.inside(outer):
            if not _hides(machine, level, outer, begun):
                continue
            repair = (
                "write its Field without the stop_gradient"
                if isinstance(level.objective, Field)
                else "give the level by its Field, written without the stop_gradient, or let the "
                'frozen copy be a peer level with sgd(1.0) in a nest of order="alternating" (see '
                "the cookbook)"
            )
            message = (
                f"level {level.name!r}: a stop_gradient in its objective hides from the flow "
                f"{type(flow).__name__} of {outer.name!r} how its updates depend on the values "
                f"that move, and the gradient of {outer.name!r} misses that part; {repair}"
            )
            if not flow.follows:
                raise ValueError(message)
            if (key := f"{level.name}: stop_gradient") not in machine.warned:
                machine.warned.add(key)
                warnings.warn(message, UserWarning, stacklevel=4)


def _hides(machine: Machine, level: Level, outer: Level, begun: State) -> bool:
    problem, view, feed = machine.problem, View(machine.copies), machine.example(begun)
    moving = [outer.name, *(one.name for one in machine.declaration.inside(outer))]

    def look(begun: State, feed: Any) -> tuple[dict[str, Any], Any]:
        """The values that move, and the objective as a function of them."""
        carry = problem.single(machine.carry(begun, feed), view)
        batch, axis = problem.batch(level.context, carry, View())

        def objective(trained: dict[str, Any]) -> Any:
            parts = {n: carry.values[n].but(one) for n, one in trained.items()}
            values = {**carry.values, **parts}
            if isinstance(level.objective, Field):
                return problem.field(level, values, batch, axis, View())[2]
            return problem.losses(level, values, batch, axis, View())[0]

        return {name: carry.values[name].trained for name in moving}, objective

    def applied(begun: State, feed: Any) -> Any:
        trained, objective = look(begun, feed)
        return objective(trained)

    jaxpr = jax.make_jaxpr(applied)(begun, feed)
    if not any_equation(jaxpr, _is_stop):
        return False
    is_field = isinstance(level.objective, Field)

    def missing(begun: State, feed: Any, key: jax.Array, first: bool) -> jax.Array:
        """The part of a derivative along a random direction that the stops hide: of the objective
        itself (`first`), or of the vector that the level follows."""
        trained, objective = look(begun, feed)
        closed, shape = jax.make_jaxpr(objective, return_shape=True)(trained)
        plain = first or is_field

        def opened(trained: dict[str, Any]) -> Any:
            rule = {"stop_gradient": lambda _, xs: [xs[0] if plain else _stopped_once(xs[0])]}
            outputs = evaluate(closed, jax.tree.leaves(trained), rule)
            return jax.tree.unflatten(jax.tree.structure(shape), outputs)

        def along(function: Any) -> Any:
            def followed(trained: dict[str, Any]) -> Any:
                # By all of them, for the stop to act in this derivative wherever it stands.
                return function(trained) if plain else jax.grad(function)(trained)[level.name]

            return jax.jvp(followed, (point,), (direction,))[1]

        leaves, structure = jax.tree.flatten((trained, trained))
        moved, direction = structure.unflatten(noise(key, leaves))
        point = jax.tree.map(lambda a, n: a + 0.1 * n, trained, moved)
        whole, seen = along(opened), along(objective)
        return _size(jax.tree.map(jnp.subtract, whole, seen)) > _TOLERANCE * _size(whole)

    def found(first: bool) -> bool:
        fast = {"xla_backend_optimization_level": 0}  # it runs once
        compiled = jax.jit(missing, static_argnums=3, compiler_options=fast)
        return bool(compiled(begun, feed, jax.random.key(0), first))

    # What does not feel its stops at all does not feel them in its gradient: no second derivative.
    reverse_only = has_reverse_only_rule(jaxpr.jaxpr)
    return (is_field or reverse_only or found(True)) and found(False)


def _is_stop(equation: Any) -> bool:
    return equation.primitive.name == "stop_gradient"


@jax.custom_vjp
def _stopped_once(x: Any) -> Any:
    """No part of the derivative, but of the derivative's derivative."""
    return x


_stopped_once.defvjp(lambda x: (x, x), lambda x, _: (jnp.zeros_like(x),))


def _size(tree: Any) -> jax.Array:
    return jnp.linalg.norm(jnp.concatenate([jnp.ravel(a) for a in jax.tree.leaves(tree)]))
