"""Independent runs side by side: which arrays have their axis, and one run's program mapped over
it.

Arrays of such a state have a leading axis of runs, with two exceptions: the tick, which all runs
share, so that what depends on the tick alone stays a branch of the program; and a task that is
given, which is one for all runs. A drawn task has the axis.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ..flows.internal import trained_leaves
from ._calls import shown
from ._level import Level
from ._state import State, rejoined, split
from ._values import Parts

_REPAIR = "begin with nest.init(values, keys)"


def count(keys: jax.Array) -> int | None:
    """How many runs these raw keys begin; None for a single key."""
    return None if keys.ndim == 1 else keys.shape[0]


def each_run(each: Any, values: Any, runs: int | None) -> dict[str, Any]:
    """What `init` is given for each run by itself, level name -> value.

    Raises:
        ValueError: by level and path.
    """
    if each is None:
        return {}
    if not isinstance(each, Mapping):
        raise ValueError(
            "init: each is a dict of level name -> value with a leading axis of runs, got "
            f"{shown(each)}"
        )
    for name, value in each.items():
        label = f"level {name!r}"
        if runs is None:
            raise ValueError(
                f"init: each gives {label} a value for every run, and one key is one run; give "
                "jax.random.split(key, n) in place of the key"
            )
        if isinstance(values, Mapping) and name in values:
            raise ValueError(
                f"init: {label} is both in values, which all runs share, and in each, which holds "
                "a value for every run; leave it out of one of them"
            )
        for path, leaf in jax.tree_util.tree_leaves_with_path(value):
            where = f"init: each: {label}: its value{jax.tree_util.keystr(path)}"
            array = isinstance(leaf, (jax.Array, np.ndarray, np.generic))
            if not array and not isinstance(leaf, (float, complex)):
                continue  # static, such as a function or a count of heads: all runs have it
            shape = np.shape(leaf)
            if not shape:
                raise ValueError(
                    f"{where} is a single number, {shown(leaf)}, and there are {runs} runs; give "
                    f"an array with a leading axis of {runs}, such as jnp.array([...]) or "
                    f"jnp.full({runs}, number)"
                )
            if shape[0] != runs:
                raise ValueError(
                    f"{where} has shape {list(shape)}, and there are {runs} runs; give a leading "
                    f"axis of {runs}, one entry for each key"
                )
    return dict(each)


def taken_apart(level: Level, value: Any) -> Parts:
    """A level's value of every run taken apart; what is trained is what is so in a single run."""
    array = lambda a: isinstance(a, (jax.Array, np.ndarray))  # noqa: E731
    first = jax.tree.map(lambda a: a[0] if array(a) else a, value)
    who = f"level {level.name!r}: its value"
    return Parts.of(value, weights=trained_leaves(who, first, level.trained))


def begun(
    begin: Callable[[dict[str, Parts], jax.Array], State],
    each: dict[str, Parts],
    keys: jax.Array,
    drawn: bool,
) -> State:
    """The state that runs begin with.

    Args:
        begin: (values of a run's own, its key) -> its state.
        each: level name -> a value with an axis of runs.
        keys: raw, one for each run.
        drawn: whether tasks are drawn.
    """

    def one(each: dict[str, Parts], key: jax.Array) -> tuple[State, Any]:
        return split(begin(each, key), drawn)

    moving, shared = jax.vmap(one, (0, 0), (0, None))(each, keys)
    return rejoined(moving, shared, drawn)


def advanced(
    step: Callable[[State], tuple[State, Any]], state: State, drawn: bool
) -> tuple[State, Any]:
    """A step of every run, and their reports, whose axis of runs comes after that of updates.

    Args:
        step: state -> (state, reports), of one run.
        state: of runs side by side.
        drawn: whether tasks are drawn.
    """
    _fits(state, drawn)
    moving, shared = split(state, drawn)

    def one(moving: State, shared: Any) -> tuple[State, Any, Any]:
        after, reports = step(rejoined(moving, shared, drawn, one=True))
        moving, (tick, _) = split(after, drawn)
        return moving, tick, reports

    over = jax.vmap(one, (0, None), (0, None, 1), axis_size=state.runs)
    moving, tick, reports = over(moving, shared)
    return rejoined(moving, (tick, shared[1]), drawn), reports


def each_of(function: Callable[..., Any], *states: State) -> Any:
    """`function` of the states of each single run: arrays with a leading axis of runs."""
    drawn = states[0].tasks_differ
    moving, shared = zip(*(split(state, drawn) for state in states), strict=True)

    def one(*moving: State) -> Any:
        pairs = zip(moving, shared, strict=True)
        return function(*(rejoined(a, b, drawn, one=True) for a, b in pairs))

    return jax.vmap(one, axis_size=states[0].runs)(*moving)


def shapes_of_one(shapes: State, drawn: bool) -> State:
    """The shapes of the state of one run, from those of several.

    Raises:
        ValueError: arrays that do not all have the axis, or a task of another kind.
    """
    _fits(shapes, drawn)
    moving, shared = split(shapes, drawn)
    moving = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), moving)
    return rejoined(moving, shared, drawn, one=True)


def _fits(state: State, drawn: bool) -> None:
    """Refuses a state whose arrays do not all have the axis, or whose task is of another kind."""
    if drawn != state.tasks_differ:
        kinds = ("one task for all runs", "a task for every run")
        raise ValueError(
            f"a state of another nest: it has {kinds[state.tasks_differ]}, expected "
            f"{kinds[drawn]}; {_REPAIR}"
        )
    moving, _ = split(state, drawn)
    for path, leaf in jax.tree_util.tree_leaves_with_path(moving):
        if np.shape(leaf)[:1] != (state.runs,):
            raise ValueError(
                f"a state of another nest: its {jax.tree_util.keystr(path).lstrip('.')} is "
                f"{leaf.dtype}{list(np.shape(leaf))}, without a leading axis of {state.runs} runs; "
                f"{_REPAIR}, and change parts of that state by state.replace"
            )
