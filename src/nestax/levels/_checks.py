"""What `Nest.init` refuses, by level and path (rule R12)."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from . import _episodes, _frozen, _move, _processes, _soundness, _stopped
from ._calls import is_data, no_level, shown
from ._carry import View
from ._declaration import Declaration, flow_of
from ._level import Level
from ._machine import Machine
from ._signatures import check_arguments
from ._state import State
from ._updates import kinds
from ._values import Parts


def mesh(given: Any, copies: int | None) -> None:
    if not isinstance(given, jax.sharding.Mesh):
        raise ValueError(
            'mesh is a jax.sharding.Mesh, such as jax.make_mesh((8,), ("copies",), '
            f"axis_types=(AxisType.Auto,)); got {type(given).__name__}"
        )
    if copies is None:
        raise ValueError("a mesh spreads copies; give copies as well, or shard the values instead")
    axis, size = given.axis_names[0], given.shape[given.axis_names[0]]
    if copies % size:
        raise ValueError(
            f"{copies} copies do not divide over the {size} devices of the mesh's axis "
            f"{axis!r}; use "
            f"{copies + size - copies % size}"
        )


def tasks(given: Any, task: Any, copies: int | None) -> None:
    """One task for each copy, along the leading axis of every array."""
    if task is not None:
        raise ValueError(
            "task and tasks are both given; task is shared by all copies, tasks holds one for each "
            "copy: give one of the two"
        )
    if copies is None:
        raise ValueError(
            "tasks holds one task for each copy; give copies as well, or a single task as task"
        )
    if callable(given) and jax.tree.leaves(given) == [given]:
        raise ValueError("tasks is a pytree of arrays; a function key -> task is given as task")
    leaves = jax.tree_util.tree_leaves_with_path(given)
    if not leaves:
        raise ValueError("tasks holds no arrays; expected arrays with a leading axis of copies")
    for path, leaf in leaves:
        where = "tasks" + jax.tree_util.keystr(path)
        if not isinstance(leaf, (jax.Array, np.ndarray)) or leaf.ndim == 0:
            found = "a scalar" if isinstance(leaf, (jax.Array, np.ndarray)) else repr(leaf)
            raise ValueError(
                f"{where} needs a leading axis of {copies} copies, got {found}; stack the tasks, "
                "as in jax.tree.map(lambda *a: jnp.stack(a), *list_of_tasks)"
            )
        if leaf.shape[0] != copies:
            raise ValueError(
                f"{where} has a leading axis of {leaf.shape[0]}, but there are {copies} copies, "
                f"each of which needs a task; stack {copies} tasks or give copies={leaf.shape[0]}"
            )


def paired(tasks: Any) -> None:
    """Under evolution strategies the two copies of a pair have one task."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tasks):
        if isinstance(leaf, Tracer) or leaf.shape[0] % 2:
            continue
        one, other = _processes.on_host(leaf[::2]), _processes.on_host(leaf[1::2])
        inexact = np.issubdtype(one.dtype, np.inexact)
        if not np.array_equal(one, other, equal_nan=inexact):
            raise ValueError(
                f"tasks{jax.tree_util.keystr(path)}: copies 2i and 2i + 1 are an antithetic pair "
                "of evolution strategies, which shares a task, and theirs differ; give the task of "
                "each pair twice, jax.tree.map(lambda a: jnp.repeat(a, 2, axis=0), tasks)"
            )


def task(given: Any, draws: bool) -> None:
    if draws:
        check_arguments("Nest", "task", given, ("key",))
    elif isinstance(given, Iterator):
        raise ValueError(
            f"Nest: the task is data or a function key -> task, got {shown(given)}; give batches "
            "that the host makes as the context nx.Stream(index -> batch)"
        )


def known(nest: Declaration, name: Any, function: str = "") -> None:
    who = f"{function}: " if function else ""
    if isinstance(name, Level):
        raise ValueError(
            f"{who}a level is called by its name: {name.name!r}, not by the level itself"
        )
    names = [level.name for level in nest.levels]
    if not isinstance(name, str) or name not in names:
        raise ValueError(who + no_level(name, names))


def names(nest: Declaration, values: Any) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"init takes a dict of level name -> value, got {shown(values)}")
    started = {level.name for level in nest.episodic}
    for name in values:
        known(nest, name)
        if name in started:
            raise ValueError(
                f"level {name!r} has a start, which gives its value; leave it out of init"
            )
    for level in nest.levels:
        if level.name not in values and level.name not in started and not level.reports:
            raise ValueError(f"level {level.name!r} has no start: init needs a value for it")


def trainable(parts: dict[str, Parts], levels: dict[str, Level]) -> None:
    for name, one in parts.items():
        if not levels[name].held and not any(
            np.size(leaf) for leaf in jax.tree.leaves(one.trained)
        ):
            held = [jnp.result_type(a) for a in jax.tree.leaves(one.whole()) if is_data(a)]
            whole = any(jnp.issubdtype(dtype, np.integer) for dtype in held)
            raise ValueError(
                f"level {name!r}: its value holds nothing to train (no array of floating point or "
                "complex numbers, or none that `trained` chooses)"
                + ("; convert whole numbers to float" if whole else "")
            )


def for_copies(nest: Declaration, parts: dict[str, Parts]) -> None:
    """Values of a nest in which copies persist: where each copy begins, on a leading axis."""
    if nest.copies is None or nest.episodic:
        return
    for name, one in parts.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(one.arrays):
            if np.shape(leaf)[:1] != (nest.copies,):
                raise ValueError(
                    f"level {name!r}: its value{jax.tree_util.keystr(path)} has the shape "
                    f"{list(np.shape(leaf))}; no level has a start, so each of the {nest.copies} "
                    "copies begins at a value of its own, along a leading axis. For equal ones use "
                    f"jax.tree.map(lambda a: jnp.stack([a] * {nest.copies}), value)"
                )


def feed(machine: Machine, state: State, given: Any) -> None:
    """Refuses batches of another nest, and those of other ticks than the step about to be done."""
    streams = machine.problem.streams
    repair = "draw it with feed of the same nest, at the same state"
    if not isinstance(given, Mapping) or given.keys() != streams.keys():
        what = repair if streams else "it has no streams, so leave the feed out"
        raise ValueError(f"step takes a feed of this nest, got {shown(given)}; {what}")
    for number, stream in streams.items():
        base, batches = given[number]
        where, stride = machine.problem.whose(stream), machine.problem.stride(stream)
        if machine.shapes is not None:
            expected = machine.shapes[1][number][1]
            shape = lambda a: (np.shape(a)[1:], jnp.result_type(a))  # noqa: E731
            if jax.tree.map(shape, expected) != jax.tree.map(shape, batches):
                raise ValueError(f"{where}: the feed holds batches of other shapes; {repair}")
        length = len(jax.tree.leaves(batches)[0]) * stride if jax.tree.leaves(batches) else 0
        if any(isinstance(a, Tracer) for a in (state.tick, base)) or not length:
            continue
        first, begins = int(state.tick), int(base)
        if not begins <= first <= begins + length - machine.ticks_per_step:
            raise ValueError(
                f"{where}: the feed holds ticks {begins} to {begins + length - 1}, and the state "
                f"is at tick {first}; {repair}"
            )


def state(machine: Machine, begun: State) -> None:
    """The levels at a state to begin with; once for each structure and shapes, which is what the
    answers depend on."""
    problem = machine.problem
    trainable(begun.parts, problem.levels)
    if (like := machine.like(begun)) in machine.sound:
        return
    fed = machine.example(begun)
    if machine.declaration.draws_task:
        view = View(machine.copies)
        _steady(
            "the task function",
            "episode; draw with jax.random and the key",
            lambda begun: _episodes.drawn_task(
                problem, problem.draw, machine.carry(begun, {}), view
            ),
            begun,
        )
    seen = {level.name: _stable(machine, level, begun, fed) for level in machine.declaration.levels}
    for level in machine.declaration.levels:
        _differentiable(machine, level, begun, fed, seen)
    _stopped.check(machine, begun)
    _soundness.check(machine, begun)
    machine.sound.add(like)


class _Seen(NamedTuple):
    """What stands in the way of derivatives through a level's functions.

    Attributes:
        objective: whether it holds what reverse mode may fail at.
        update: whether the update does.
        hidden: whether the optimizer hides a part of its step from derivatives.
    """

    objective: bool
    update: bool
    hidden: bool


def _stable(machine: Machine, level: Level, begun: State, fed: Any) -> _Seen:
    """An update must leave the level's value and optimizer state as it found them in shape, and
    every function must be the same program at every call."""
    problem, view, label = machine.problem, View(machine.copies), f"level {level.name!r}"
    old = (begun.parts[level.name], begun.optimizers[level.name])

    def batch(begun: State, fed: Any) -> Any:
        found = problem.batch(level.context, machine.carry(begun, fed), view)[0]
        return [leaf for leaf in jax.tree.leaves(found) if is_data(leaf)]

    def losses(begun: State, fed: Any) -> Any:
        carry = machine.carry(begun, fed)
        batch, axis = problem.batch(level.context, carry, view)
        return problem.losses(level, carry.values, batch, axis, view)

    def update(begun: State, fed: Any, losses: Any) -> Any:
        carry = machine.carry(begun, fed)
        return problem.update(level, carry, carry.values[level.name].trained, losses, view)

    def start(begun: State, fed: Any) -> Any:
        return _episodes.fresh(problem, level, machine.carry(begun, fed), view)

    again = None
    if level.start is not None:
        way = "episode; draw with jax.random and the key"
        _, again = _steady(f"{label}: its start", way, start, begun, fed)
        _same(level, "its start", "value", old[0], again[0])
    if level.context is not None:
        way = "batch; draw with jax.random and the key, or give data of the host as an nx.Stream"
        _steady(f"{label}: its context", way, batch, begun, fed)
    way = "step; draw noise in the context, from its key, and hand it over in the batch"
    objective, (loss, user) = _steady(f"{label}: its {level.role}", way, losses, begun, fed)
    way = "step; keep what changes in the optimizer's state, or in a level's value"
    moved, (parts, optimizer) = _steady(f"{label}: its optimizer", way, update, begun, fed, loss)
    if level.keep is not None:
        kept = lambda parts, user: _move.kept(problem, level, parts, user, view)[0]  # noqa: E731
        parts = jax.eval_shape(kept, parts, user)
    if level.done is not None:

        def ended(begun: State, fed: Any, parts: Any, user: Any) -> Any:
            return _episodes.ended(problem, level, parts, user, machine.carry(begun, fed), view)

        jax.eval_shape(ended, begun, fed, parts, user)
    _same(level, "its optimizer's update", "value", old[0], parts)
    _same(level, "its optimizer's update", "optimizer state", old[1], optimizer)
    stopped = _frozen.holds(moved, _STOP) and not _frozen.holds(objective, _STOP)
    return _Seen(
        _frozen.holds(objective, _ONE_WAY),
        _frozen.holds(moved, _ONE_WAY),
        stopped and "ScaleByLBFGSState" in kinds(optimizer),
    )


_STOP = frozenset({"stop_gradient"})
_ONE_WAY = frozenset({"while", "pure_callback", "io_callback"})  # reverse mode may fail at these


def _steady(who: str, way: str, function: Any, *arguments: Any) -> tuple[Any, Any]:
    """The jaxpr of a function and the shapes that it returns, where every trace gives the same."""
    found = _frozen.steady(function, *arguments)
    if found is None:
        raise ValueError(
            f"{who} uses numbers that change from call to call and come from none of its "
            "arguments, such as those of numpy.random, a clock or an iterator. Compiled once, they "
            f"would be the same in every {way}"
        )
    return found


def _differentiable(
    machine: Machine, level: Level, begun: State, fed: Any, seen: dict[str, _Seen]
) -> None:
    """A loop of unknown length, or a callback, where the level's gradient cannot go through it; an
    update whose derivative is not that of the program."""
    flow, inside = flow_of(level), machine.declaration.inside(level)
    hidden = [one.name for one in inside if seen[one.name].hidden]
    if hidden and flow.follows:
        raise ValueError(
            f"level {level.name!r}: its flow {type(flow).__name__} differentiates the updates of "
            f"{hidden[0]!r}, and optax.lbfgs hides the scale of its first step from derivatives, "
            f"which would be off; give {hidden[0]!r} optax.lbfgs(..., linesearch=None, "
            "scale_init_precond=False)"
        )
    by_update = flow.follows or flow.by_update
    followed = [
        o.name for o in inside if seen[o.name].objective or (seen[o.name].update and by_update)
    ]
    if flow.partial:
        followed = []
    if not followed and not seen[level.name].objective:
        return
    try:
        jax.eval_shape(machine.gradient(level.name), begun, fed)
    except Exception as error:
        if not followed:
            raise ValueError(
                f"level {level.name!r}: its objective cannot be differentiated: {error}"
            ) from error
        names = " and ".join(map(repr, followed))
        ways = ("Forward()", "Implicit(CG(20))")
        ways = " or ".join(way for way in ways if not way.startswith(type(flow).__name__))
        raise ValueError(
            f"level {level.name!r}: its flow {type(flow).__name__} cannot differentiate the "
            f"updates of {names}: {error} If that is a line search, as in optax.lbfgs: use an "
            f"optimizer without one for {names}, or the flow {ways} for {level.name!r}"
        ) from error


def _same(level: Level, who: str, what: str, old: Any, new: Any) -> None:
    before, after = jax.tree.structure(old), jax.tree.structure(new)
    static = old.static_difference(new) if isinstance(old, Parts) else []
    if static:
        raise ValueError(
            f"level {level.name!r}: {who} changes its {what}, which holds {shown(static[0])}, "
            "no array, and unequal to the one before. Register its class as a pytree, or give it "
            "__eq__ and __hash__"
        )
    if before != after:
        raise ValueError(
            f"level {level.name!r}: {who} changes the structure of its {what}, from {before} to "
            f"{after}"
        )
    # By the paths of the owner's value.
    old, new = (one.arrays if isinstance(one, Parts) else one for one in (old, new))
    pairs = zip(jax.tree_util.tree_leaves_with_path(old), jax.tree.leaves(new), strict=True)
    for (path, a), b in pairs:
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise ValueError(
                f"level {level.name!r}: {who} changes {what}{jax.tree_util.keystr(path)} from "
                f"{a.dtype}{list(a.shape)} to {b.dtype}{list(b.shape)}; it must keep shape and "
                f"dtype"
            )
