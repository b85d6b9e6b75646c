"""Episodes: fresh values, optimizer states and tasks, and the ticks at which they begin (rules R7,
R8).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from ..flows.internal import check_arrays
from . import _draws
from ._calls import call, call_with_values, is_data, plain, shown
from ._carry import NEVER, Carry, Episode, View
from ._copy_number import with_copy
from ._field import Field
from ._level import Level
from ._problem import Problem
from ._updates import begun
from ._values import Parts, whole


def fresh(problem: Problem, level: Level, carry: Carry, view: View) -> tuple[Parts, Any]:
    """A value to begin an episode with, and the optimizer state that goes with it: a fresh one,
    or the present one where the level keeps it."""
    visible = {
        one.name: carry.values[one.name]
        for one in (*problem.nest.groups[problem.nest.group(level)], *problem.nest.outside(level))
        if one.name in carry.values and (one.start is None or one in problem.nest.outside(level))
    }

    kept = None if level.reset_optimizer else carry.optimizers.get(level.name)

    def one(values: dict[str, Parts], task: Parts, copy: Any) -> tuple[Parts, Any]:
        assert level.start is not None
        copy = problem.nest.number(copy)
        key = _draws.start_key(carry.key, level.name, carry.tick, copy)
        value = call_with_values(
            level.name,
            "start",
            functools.partial(with_copy, plain(level.start), copy),
            whole(values),
            task.whole(),
            key,
            levels=problem.levels,
            sees="a start sees the levels outside it, and its peers that have no start",
        )
        parts = problem.taken_apart(level, value)
        if kept is not None:
            return parts, ()
        transformation = problem.transformation(level, {**values, level.name: parts})
        return parts, begun(level.name, transformation, parts.trained)

    if view.copies is None:
        parts, state = one(visible, carry.task, view.copy)
    else:
        lifted = problem.lift(one, view, (problem.axes(visible), problem.nest.task_axis, 0))
        parts, state = problem.placed(lifted(visible, carry.task, jnp.arange(view.copies)))
    return parts, state if kept is None else kept


def drawn_task(problem: Problem, draw: Any, carry: Carry, view: View) -> Parts:
    """A task for the episode that begins now; one for each copy."""

    def one(copy: Any) -> Parts:
        task = call(
            "the task function",
            draw,
            _draws.task_key(carry.key, carry.tick, problem.nest.number(copy)),
        )
        check_arrays("the task", task)
        return Parts.of(task)

    if view.copies is None:
        return one(view.copy)
    return problem.placed(jax.vmap(one)(jnp.arange(view.copies)))


def phase(problem: Problem, copy: Any) -> Any:
    """By how many ticks a copy is ahead in its episodes, which have fixed lengths."""
    longest = problem.nest.longest
    if not problem.nest.stagger or longest is None:
        return 0
    return ahead(problem, copy, int(problem.nest.horizon(longest)))


def ahead(problem: Problem, copy: Any, length: Any) -> Any:
    """How old the longest episode of a copy, of this length, is at first."""
    assert problem.nest.longest is not None
    grid, count = problem.nest.restart_period(problem.nest.longest), problem.nest.draws
    assert count is not None
    number, (whole, rest) = problem.nest.number(copy), divmod(length // grid, count)
    return (number * whole + number * rest // count) * grid  # their product could overflow


def began(problem: Problem, carry: Carry, view: View) -> jax.Array:
    """Whether the longest episode (of each copy) begins at the present tick, at whichever side
    of the restart it is asked."""
    longest = problem.nest.longest
    assert longest is not None
    if longest.name in carry.episodes:
        return _begins(problem, longest, carry)
    if not problem.nest.ending(longest):
        begins = carry.tick == 0
    else:
        copies = view.copy if view.copies is None else jnp.arange(view.copies)
        begins = (carry.tick + phase(problem, copies)) % int(problem.nest.horizon(longest)) == 0
    return jnp.broadcast_to(begins, () if view.copies is None else (view.copies,))


def _begins(problem: Problem, level: Level, carry: Carry) -> Any:
    episode = carry.episodes[level.name]
    return (episode.began == carry.tick) | (carry.tick >= episode.ends)


def _due(problem: Problem, level: Level, carry: Carry, view: View) -> Any:
    """Whether an episode of the level begins now: True, a flag, or one for each copy."""
    if level.name in carry.episodes:
        return _begins(problem, level, carry)
    if not problem.nest.ending(level):
        return carry.tick == 0  # in the program, so that flows see where it begins
    horizon = int(problem.nest.horizon(level))
    if not problem.nest.stagger and horizon == problem.nest.restart_period(level):
        return True
    together = not problem.nest.stagger or view.copies is None
    copies = view.copy if together else jnp.arange(view.copies)
    return (carry.tick + phase(problem, copies)) % horizon == 0


def _length(problem: Problem, level: Level, carry: Carry, task: Parts, copy: Any) -> Any:
    """How many ticks an episode of one copy will have that begins now; NEVER if it has no
    end."""
    horizon, grid = level.horizon, problem.nest.grid(level)
    drawn = callable(horizon) or isinstance(horizon, tuple)
    if not drawn:
        most = problem.nest.horizon(level)
        return jnp.asarray(NEVER if most == math.inf else int(most), jnp.int32)
    number = problem.nest.number(copy)
    key = _draws.horizon_key(carry.key, level.name, carry.tick, number)
    if isinstance(horizon, tuple):
        share = jax.random.uniform(key, (), jnp.float32)
        ticks = horizon[0] * (horizon[1] / horizon[0]) ** share
        return (jnp.round(ticks / grid) * grid).astype(jnp.int32)
    who = f"level {level.name!r}: the horizon"
    ticks = call(who, functools.partial(with_copy, plain(horizon), number), task.whole(), key)
    if not _is_real(ticks):
        raise ValueError(f"{who} must return a number of ticks, got {shown(ticks)}")
    if isinstance(ticks, int):
        ticks = min(max(ticks, 1), NEVER // 2)
    ticks = jax.lax.stop_gradient(jnp.asarray(ticks))
    whole = jnp.issubdtype(ticks.dtype, jnp.integer)
    periods = -(-ticks // grid) if whole else jnp.ceil(ticks / grid)
    periods = jnp.where(periods >= 1, jnp.minimum(periods, NEVER // 2 // grid), 1)  # so is NaN
    return periods.astype(jnp.int32) * grid


def _lengths(problem: Problem, level: Level, carry: Carry, view: View) -> Any:
    """The same of each copy, if there are any."""
    length = lambda task, copy: _length(problem, level, carry, task, copy)  # noqa: E731
    if view.copies is None:
        return length(carry.task, view.copy)
    lifted = problem.lift(length, view, (problem.nest.task_axis, 0))
    return lifted(carry.task, jnp.arange(view.copies))


def _episode(problem: Problem, level: Level, carry: Carry, view: View, age: Any = 0) -> Any:
    """The episode of the level that begins now, or began some ticks ago; nothing where the tick
    tells."""
    if not problem.nest.kept_episodes:
        return ()
    length = _lengths(problem, level, carry, view)
    began = jnp.broadcast_to(carry.tick - age % length, length.shape)
    return Episode(began, jnp.where(length == NEVER, NEVER, began + length))


def first_episodes(problem: Problem, carry: Carry, view: View) -> dict[str, Episode]:
    """The episodes that go on at the first tick, at staggered ages."""
    if not problem.nest.kept_episodes:
        return {}
    longest, age = problem.nest.longest, jnp.zeros((), jnp.int32)
    assert longest is not None
    if problem.nest.stagger:
        copies = jnp.arange(view.copies, dtype=jnp.int32)
        age = ahead(problem, copies, _lengths(problem, longest, carry, view))
    return {
        level.name: _episode(problem, level, carry, view, age) for level in problem.nest.episodic
    }


def ended(
    problem: Problem, level: Level, value: Parts, info: Any, carry: Carry, view: View
) -> Carry:
    """The carry after the level's `done` has seen an update: where it says so, the episode ends
    with the present restart period."""

    def one(value: Parts, info: Any) -> jax.Array:
        assert level.done is not None
        who = f"level {level.name!r}: done"
        returns = "(field, info) from the Field" if is_field else "(loss, info) from the objective"
        try:
            flag = call(who, level.done, value.whole(), info)
        except jax.errors.TracerBoolConversionError as error:
            raise ValueError(
                f"{who} asks whether a traced number is true, as `if`, `and`, `or` and `not` do; "
                "return the comparison itself, such as value > 3, combined by &, | and ~"
            ) from error
        except (TypeError, AttributeError) as error:
            if info is not None or "NoneType" not in str(error):
                raise
            raise ValueError(f"{who} got None for an info; return {returns}") from error
        if not is_data(flag) or jnp.shape(flag) != () or not _is_bool(flag):
            repair = f"; return {returns}" if info is None else ""
            raise ValueError(f"{who} must return True or False, got {shown(flag)}{repair}")
        return jnp.asarray(flag)

    is_field = isinstance(level.objective, Field)
    grid, episode = problem.nest.grid(level), carry.episodes[level.name]
    done = problem.lift(one, view, 0)(value, info)
    if problem.nest.paired and view.copies is not None:  # a pair's episodes end together
        done = jnp.repeat(jnp.any(done.reshape(-1, 2), axis=1), 2)
    soon = jnp.minimum(episode.ends, (carry.tick // grid + 1) * grid)
    episode = Episode(episode.began, jnp.where(done, soon, episode.ends))
    return carry._replace(episodes={**carry.episodes, level.name: episode})


def restart(problem: Problem, names: tuple[str | None, ...], carry: Carry, view: View) -> Carry:
    """Begins the episodes that are due; None stands for the task."""
    for name in names:
        level = problem.nest.longest if name is None else problem.levels[name]
        assert level is not None

        def begin(carry: Carry, name=name, level=level) -> tuple[Any, Any, Any]:
            if name is None:
                return drawn_task(problem, problem.draw, carry, view), (), ()
            return *fresh(problem, level, carry, view), _episode(problem, level, carry, view)

        old: tuple[Any, Any, Any] = (carry.task, (), ())
        if name is not None:
            parts = (carry.values, carry.optimizers, carry.episodes)
            old = tuple(part.get(name, ()) for part in parts)  # type: ignore
        due = _due(problem, level, carry, view)
        some = lambda carry, due=due, begin=begin, old=old: jax.tree.map(  # noqa: E731
            lambda a, b: _where(due, a, b), begin(carry), old
        )
        keep = lambda carry, old=old: old  # noqa: E731
        if due is True:
            new = begin(carry)
        elif jnp.ndim(due) == 0:
            new = jax.lax.cond(due, begin, keep, carry)
        elif level.name in carry.episodes:
            new = jax.lax.cond(jnp.any(due), some, keep, carry)
        else:
            new = some(carry)  # staggered: there is nearly always one of them
        if name is None:
            carry = carry._replace(task=new[0])
            continue
        carry = carry._replace(
            values={**carry.values, name: new[0]},
            optimizers={**carry.optimizers, name: new[1]},
        )
        if name in carry.episodes:
            carry = carry._replace(episodes={**carry.episodes, name: new[2]})
    return carry


def restarts(problem: Problem, k: int) -> tuple[str | None, ...]:
    """What may begin anew at the beginning of a period of the k-th clock, outermost first."""
    here = [
        level.name
        for level in reversed(problem.nest.episodic)
        if problem.nest.restart_period(level) == problem.periods[k]
    ]
    longest = problem.nest.longest
    if problem.nest.draws_task and longest is not None and longest.name in here:
        return (None, *here)
    return tuple(here)


def _is_real(ticks: Any) -> bool:
    if not is_data(ticks) or jnp.shape(ticks) != () or isinstance(ticks, bool):
        return False
    if isinstance(ticks, (int, float)):
        return True
    dtype = jnp.result_type(ticks)
    return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)


def _is_bool(flag: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(flag), jnp.bool_)


def _where(due: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(due.reshape(due.shape + (1,) * (new.ndim - due.ndim)), new, old)
