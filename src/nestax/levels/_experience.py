"""Processes as a nest runs them: when they draw, and what they remember (rule R4)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ..flows.internal import first_memory, same_memory, strong
from . import _draws, _episodes
from ._calls import arrays_only, call_with_values, plain, shown
from ._carry import Carry, View
from ._copy_number import with_copy
from ._problem import Problem
from ._values import Parts, whole


def drawn(problem: Problem, every: int, carry: Carry, view: View) -> Carry:
    """The carry with the batches of those processes that draw once in so many ticks."""
    contexts = dict(carry.contexts)
    for name, process in problem.processes.items():
        if process.every == every:
            contexts[name] = _draw(problem, name, carry, view)
    return carry._replace(contexts=contexts)


def _draw(problem: Problem, name: str, carry: Carry, view: View) -> tuple[Any, Any]:
    """The batch of a process and its memory afterwards."""
    process, restarts = problem.processes[name], problem.nest.longest is not None
    whose = f"the process of level {name!r}"

    def one(
        values: dict[str, Parts], memory: Any, task: Parts, copy: Any, began: Any
    ) -> tuple[Any, Any]:
        number = problem.nest.number(copy)
        key = _draws.batch_key(problem.identities[id(process)], carry.key, carry.tick, number)
        seen, given = whole(values), task.whole()
        if process.init is None:
            batch = _called(problem, name, "draw", number, seen, given, key)
            arrays_only(whose, batch)
            return jax.tree.map(strong, batch), ()
        if restarts:
            fresh = _fresh_memory(problem, name, carry, seen, given, number)
            memory = jax.tree.map(lambda a, b: jnp.where(began, a, b), fresh, memory)
        returned = _called(problem, name, "draw", number, seen, memory, given, key)
        if not (isinstance(returned, tuple) and len(returned) == 2):
            raise ValueError(
                f"{whose} has an init, so its draw returns (batch, memory), got {shown(returned)}"
            )
        batch, after = returned
        arrays_only(whose, batch)
        return jax.tree.map(strong, batch), same_memory(whose, memory, after)

    memory = carry.contexts[name][1]
    began = _episodes.began(problem, carry, view) if restarts else False
    if view.copies is None:
        return one(carry.values, memory, carry.task, view.copy, began)
    axes = (problem.axes(carry.values), 0, problem.nest.task_axis, 0, 0 if restarts else None)
    given = (carry.values, memory, carry.task, jnp.arange(view.copies), began)
    return problem.placed(problem.lift(one, view, axes)(*given))


def _called(
    problem: Problem, name: str, role: str, number: Any, values: dict[str, Any], *rest: Any
) -> Any:
    """What the draw or the init of a process returns; a name that `values` lacks is explained."""
    function = functools.partial(with_copy, plain(getattr(problem.processes[name], role)), number)
    what = f"process's {role}"
    return call_with_values(name, what, function, values, *rest, levels=problem.levels)


def _fresh_memory(
    problem: Problem, name: str, carry: Carry, values: Any, task: Any, number: Any
) -> Any:
    process = problem.processes[name]
    key = _draws.memory_key(problem.identities[id(process)], carry.key, carry.tick, number)
    memory = _called(problem, name, "init", number, values, task, key)
    return first_memory(f"the process of level {name!r}", memory)


def remembered(problem: Problem, carry: Carry, view: View) -> Carry:
    """The carry with the memories that processes begin with, and no batches yet."""
    contexts: dict[str, Any] = {}
    for name, process in problem.processes.items():
        if process.init is None:
            contexts[name] = ((), ())
            continue

        def one(values: Any, task: Any, copy: Any, name: str = name) -> Any:
            given = (whole(values), task.whole(), problem.nest.number(copy))
            return _fresh_memory(problem, name, carry, *given)

        if view.copies is None:
            contexts[name] = ((), one(carry.values, carry.task, view.copy))
        else:
            axes = (problem.axes(carry.values), problem.nest.task_axis, 0)
            copies = jnp.arange(view.copies)
            made = problem.lift(one, view, axes)(carry.values, carry.task, copies)
            contexts[name] = ((), problem.placed(made))
    return carry._replace(contexts=contexts)


def with_batches(problem: Problem, carry: Carry, view: View, blank: bool) -> Carry:
    """The carry with a batch of every process: that of the present tick, or zeros where the
    program will draw before anybody looks."""
    contexts = dict(carry.contexts)
    for name in problem.processes:
        if blank:
            shapes = jax.eval_shape(
                lambda carry, name=name: _draw(problem, name, carry, view)[0], carry
            )
            batch = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        else:
            batch = _draw(problem, name, carry, view)[0]
        contexts[name] = (batch, contexts[name][1])
    return carry._replace(contexts=contexts)
