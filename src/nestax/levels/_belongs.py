"""Whether a state is one of a nest's: of the same levels, structures and shapes, at the boundary of
a step of the nest, over the nest's task."""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from . import _feed, _side_by_side
from ._machine import Machine
from ._state import State
from ._values import Parts

_REPAIR = "begin with nest.init(values, key) and take over what fits by state.replace(values={...})"


def structure(machine: Machine, state: State) -> None:
    """Refuses a state of other levels, structures or shapes. Costs nothing but time for tracing: it
    is called where a program is traced, once for each structure.

    Raises:
        ValueError: by level and path, what differs and how to repair it.
    """
    found = _feed.shapes(state)
    if state.runs is not None:
        found = _side_by_side.shapes_of_one(found, machine.declaration.draws_task)
    if machine.shapes is not None and _equal(machine.shapes[0], found):
        return
    _levels(machine, found)
    begun = _begun(machine, found)
    for name in found.parts:
        _alike(f"level {name!r}: its value", begun.parts[name], found.parts[name])
        states = begun.optimizers[name], found.optimizers[name]
        _alike(f"level {name!r}: its optimizer state", *states)
    _alike("its task", begun.held, found.held)
    _alike("its episodes", begun.episodes, found.episodes)
    _alike("its key", begun.key, found.key)


def _levels(machine: Machine, state: State) -> None:
    if not isinstance(getattr(state, "parts", None), dict):
        raise ValueError(
            f"a nest's state is what its init, step and run return, got {type(state).__name__}"
        )
    names = [level.name for level in machine.declaration.levels]
    for name in names:
        if name not in state.parts:
            _refuse(f"it has no level {name!r}, only {', '.join(map(repr, state.parts))}")
    for name in state.parts:
        if name not in names:
            _refuse(f"the nest has no level {name!r}, only {', '.join(map(repr, names))}")


def _begun(machine: Machine, state: State) -> State:
    """The shapes of the state that the nest would begin with, given this state's values."""
    parts = {}
    for level in machine.declaration.levels:
        if level.start is not None:
            continue
        parts[level.name] = state.parts[level.name]
        if machine.declaration.copied(level) and machine.declaration.episodic:
            for path, a in jax.tree_util.tree_leaves_with_path(parts[level.name].arrays):
                if a.shape[:1] != (machine.copies,):
                    _refuse(
                        f"level {level.name!r}: its value{jax.tree_util.keystr(path)} is "
                        f"{a.dtype}{list(a.shape)}, without a first axis of {machine.copies} copies"
                    )
            parts[level.name] = jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), parts[level.name]
            )
    task = Parts.of(machine.given_task, copy=False)
    try:
        return jax.eval_shape(machine.begin, parts, state.key, task)
    except Exception as error:
        raise ValueError(
            f"a state of another nest: no state of this nest begins with its values "
            f"({type(error).__name__}: {error}); {_REPAIR}"
        ) from error


def moment(machine: Machine, state: State) -> None:
    """Refuses a state between two steps of the nest, or over another task than the nest's.

    It reads numbers of the state, and waits until they are computed; a state that comes straight
    from this nest is not looked at.

    Raises:
        ValueError: what differs and how to repair it.
    """
    tick = getattr(state, "tick", None)
    if isinstance(tick, Tracer) or (tick is not None and known(machine, state)):
        return
    _levels(machine, state)
    if rest := int(state.tick) % machine.ticks_per_step:
        slowest = machine.declaration.periods[-1]
        name = next(level.name for level in machine.declaration.levels if level.every == slowest)
        raise ValueError(
            f"a state of another nest: after {int(state.tick)} ticks it is {rest} ticks into a "
            f"step of level {name!r} (every={slowest}), and what begins with a step, such as an "
            "episode, would never begin; use state.replace(tick=0), which begins all episodes, or "
            f"another multiple of {machine.ticks_per_step}"
        )
    if not machine.declaration.draws_task:
        _same_task(machine, state.held)
    machine.seen = state.tick, state.held


def known(machine: Machine, state: State) -> bool:
    """Whether the state came straight from this nest, or was found to be its own just before."""
    tick, held = machine.seen
    return state.tick is tick and state.held is held


def _same_task(machine: Machine, held: Any) -> None:
    own, given = (
        Parts.of(machine.given_task, copy=False),
        "task" if machine.tasks is None else "tasks",
    )
    if not isinstance(held, Parts) or not _equal(_feed.shapes(own), _feed.shapes(held)):
        return  # refused where the program is traced
    leaves = jax.tree_util.tree_leaves_with_path(own.arrays)
    for (path, a), b in zip(leaves, jax.tree.leaves(held.arrays), strict=True):
        both = all(isinstance(x, jax.Array) and not isinstance(x, Tracer) for x in (a, b))
        local = both and a.is_fully_addressable and b.is_fully_addressable
        if local and a is not b and not _same_numbers(np.asarray(a), np.asarray(b)):
            raise ValueError(
                f"a state of another nest: its task{jax.tree_util.keystr(path)} holds other "
                "numbers than the nest's, and batches come from the state's task; use "
                f"state.replace(task=nest.{given}), or the nest that the state came from"
            )


def _same_numbers(a: np.ndarray, b: np.ndarray) -> bool:
    inexact = np.issubdtype(a.dtype, np.inexact)
    return np.array_equal(a, b, equal_nan=inexact)


def _equal(a: Any, b: Any) -> bool:
    (xs, one), (ys, other) = jax.tree.flatten(a), jax.tree.flatten(b)
    return one == other and all(map(_fits, xs, ys))


def _fits(a: Any, b: Any) -> bool:
    return (a.shape, a.dtype) == (b.shape, b.dtype)


def _alike(what: str, expected: Any, found: Any) -> None:
    one, other = jax.tree.structure(expected), jax.tree.structure(found)
    if one != other:
        _refuse(f"{what} has the structure {other}, expected {one}")
    expected, found = (x.arrays if isinstance(x, Parts) else x for x in (expected, found))
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    for (path, a), b in zip(leaves, jax.tree.leaves(found), strict=True):
        if not _fits(a, b):
            _refuse(
                f"{what}{jax.tree_util.keystr(path)} is {b.dtype}{list(b.shape)}, expected "
                f"{a.dtype}{list(a.shape)}"
            )


def _refuse(what: str) -> None:
    raise ValueError(f"a state of another nest: {what}; {_REPAIR}")
