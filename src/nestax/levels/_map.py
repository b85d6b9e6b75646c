"""A step as a differentiable map of everything that moves."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ._calls import is_data, shown
from ._declaration import Declaration, flow_of
from ._machine import Machine
from ._state import State

Point = dict[str, Any]

_LIKE = "the map of a nest takes a point like the one that came with it"
_REPAIR = (
    ". With f, x = nest.map(state) give x, or a pytree like it; for one array: flat, back = "
    "jax.flatten_util.ravel_pytree(x), and f(back(flat))"
)


def point(machine: Machine, state: State) -> Point:
    """What of a state moves: inexact arrays, None in place of others; empty parts are left out."""
    levels = [level for level in machine.declaration.levels if not level.held]
    values = {level.name: state.parts[level.name].trained for level in levels}
    rest = {"optimizers": state.optimizers, "flows": state.flows, "contexts": state.contexts}
    found = {"values": values, **jax.tree.map(_inexact, rest)}
    return {part: tree for part, tree in found.items() if jax.tree.leaves(tree)}


def check(nest: Declaration) -> None:
    """Refuses levels whose updates count as constant what moves.

    Raises:
        ValueError: by level, with the repair.
    """
    for level in nest.levels:
        flow, label = flow_of(level), f"map: level {level.name!r}"
        if level.keep is not None:
            raise ValueError(
                f"{label} keeps what its objective returns, which is a constant to every "
                "derivative, so the map's would be wrong; leave keep out and hold the statistics "
                'fixed, as trained={"params": True, "stats": False} does'
            )
        if flow.first_order:
            raise ValueError(
                f"{label} has the flow {flow!r}, which takes inner gradients as constants, so the "
                "map's derivative would be wrong; use Unroll()"
            )
        if flow.rough:
            raise ValueError(
                f"{label} has the flow {flow!r}, whose gradient is an approximation with a "
                "derivative of its own, so the map's would be wrong; use Implicit(CG(20)) or "
                "Implicit(Dense())"
            )


def stepped(
    machine: Machine, step: Callable[[State, Any], tuple[State, Any]], state: State, feed: Any
) -> Callable[[Point], Point]:
    """The step from `state` as a function of its point."""
    expected = jax.eval_shape(lambda: point(machine, state))
    structure = jax.tree.structure(expected)

    def forward(x: Any) -> Point:
        """The point after one step."""
        found = jax.tree.structure(x)
        if found != structure:
            if isinstance(x, State):
                got = "a state"
            elif found == jax.tree.structure(0):
                got = shown(x)
            else:
                got = f"the structure {found}, expected {structure}"
            raise ValueError(f"{_LIKE}; got {got}{_REPAIR}")
        for (path, wanted), leaf in zip(
            jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(x), strict=True
        ):
            shape = jnp.shape(leaf) if is_data(leaf) else None
            if shape != wanted.shape:
                got = shown(leaf) if shape is None else f"the shape {list(shape)}"
                raise ValueError(
                    f"{_LIKE}; at {jax.tree_util.keystr(path)} it has {got}, expected "
                    f"{wanted.dtype}{list(wanted.shape)}{_REPAIR}"
                )
        return point(machine, step(_placed(state, x), feed)[0])

    return forward


def _placed(state: State, x: Point) -> State:
    """The state at another point."""
    parts = dict(state.parts)
    for name, value in x.get("values", {}).items():
        parts[name] = parts[name].having(_merged(parts[name].arrays, value))
    names = ("optimizers", "flows", "contexts")
    given = {name: _merged(getattr(state, name), x[name]) for name in names if name in x}
    return dataclasses.replace(state, parts=parts, **given)


def _inexact(leaf: Any) -> Any:
    return leaf if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) else None


def _merged(old: Any, new: Any) -> Any:
    return jax.tree.map(
        lambda a, b: b if a is None else a, new, old, is_leaf=lambda leaf: leaf is None
    )
