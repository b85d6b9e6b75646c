"""Episodes: fresh values, optimizer states and tasks, and the ticks at which they begin (rules R7,
R8).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ..flows import check_arrays
from . import _draws
from ._calls import arrays_only, call, call_with_values, plain, shown
from ._carry import Carry, View
from ._copy_number import with_copy
from ._level import Level
from ._problem import Problem
from ._process import Process
from ._updates import begun
from ._values import Parts, whole


class Episodes(Problem):
    """A problem whose levels begin anew."""

    def fresh(self, level: Level, carry: Carry, view: View) -> tuple[Parts, Any]:
        """A value to begin an episode with, and the optimizer state that goes with it: a fresh one,
        or the present one where the level keeps it."""
        visible = {
            one.name: carry.values[one.name]
            for one in (*self.nest.groups[self.nest.group(level)], *self.nest.outside(level))
            if one.name in carry.values and (one.start is None or one in self.nest.outside(level))
        }

        kept = None if level.reset_optimizer else carry.optimizers.get(level.name)

        def one(values: dict[str, Parts], task: Parts, copy: Any) -> tuple[Parts, Any]:
            assert level.start is not None
            copy = self.nest.number(copy)
            key = _draws.start_key(carry.key, level.name, carry.tick, copy)
            value = call_with_values(
                level.name,
                "start",
                functools.partial(with_copy, plain(level.start), copy),
                whole(values),
                task.whole(),
                key,
                levels=self.levels,
                sees="a start sees the levels outside it, and its peers that have no start",
            )
            parts = self.taken_apart(level, value)
            if kept is not None:
                return parts, ()
            transformation = self.transformation(level, {**values, level.name: parts})
            return parts, begun(level.name, transformation, parts.trained)

        if view.copies is None:
            parts, state = one(visible, carry.task, view.copy)
        else:
            lifted = self.lift(one, view, (self.axes(visible), self.nest.task_axis, 0))
            parts, state = self.placed(lifted(visible, carry.task, jnp.arange(view.copies)))
        return parts, state if kept is None else kept

    def drawn_task(self, draw: Any, carry: Carry, view: View) -> Parts:
        """A task for the episode that begins now; one for each copy."""

        def one(copy: Any) -> Parts:
            task = call(
                "the task function",
                draw,
                _draws.task_key(carry.key, carry.tick, self.nest.number(copy)),
            )
            check_arrays("the task", task)
            return Parts.of(task)

        if view.copies is None:
            return one(view.copy)
        return self.placed(jax.vmap(one)(jnp.arange(view.copies)))

    # Processes: batches that depend on values, and what is remembered from one to the next.

    def drawn(self, every: int, carry: Carry, view: View) -> Carry:
        """The carry with the batches of those processes that draw once in so many ticks."""
        contexts = dict(carry.contexts)
        for name, process in self.processes.items():
            if process.every == every:
                contexts[name] = self._draw(name, carry, view)
        return carry._replace(contexts=contexts)

    def _draw(self, name: str, carry: Carry, view: View) -> tuple[Any, Any]:
        """The batch of a process and its memory afterwards."""
        process, longest = self.processes[name], self.nest.longest
        whose = f"the process of level {name!r}"

        def one(values: dict[str, Parts], memory: Any, task: Parts, copy: Any) -> tuple[Any, Any]:
            number = self.nest.number(copy)
            occurrence = self.occurrences[id(process)]
            key = _draws.batch_key(process, carry.key, carry.tick, number, occurrence)
            seen, given = whole(values), task.whole()
            if process.init is None:
                batch = with_copy(process.draw, number, seen, given, key)
                arrays_only(whose, batch)
                return jax.tree.map(jnp.asarray, batch), ()
            if longest is not None:
                age = (carry.tick + self.phase(copy)) % self.nest.horizon(longest)
                fresh = self._fresh_memory(process, carry, seen, given, number)
                memory = jax.tree.map(lambda a, b: jnp.where(age == 0, a, b), fresh, memory)
            returned = with_copy(process.draw, number, seen, memory, given, key)
            if not (isinstance(returned, tuple) and len(returned) == 2):
                raise ValueError(
                    f"{whose} has an init, so its draw returns (batch, memory), got "
                    f"{shown(returned)}"
                )
            batch, after = returned
            arrays_only(whose, batch)
            return jax.tree.map(jnp.asarray, batch), alike_memory(whose, memory, after)

        memory = carry.contexts[name][1]
        if view.copies is None:
            return one(carry.values, memory, carry.task, view.copy)
        axes = (self.axes(carry.values), 0, self.nest.task_axis, 0)
        copies = jnp.arange(view.copies)
        return self.placed(self.lift(one, view, axes)(carry.values, memory, carry.task, copies))

    def _fresh_memory(
        self, process: Process, carry: Carry, values: Any, task: Any, number: Any
    ) -> Any:
        assert process.init is not None
        key = _draws.memory_key(
            process, carry.key, carry.tick, number, self.occurrences[id(process)]
        )
        memory = with_copy(process.init, number, values, task, key)
        arrays_only("the memory of a process", memory)
        return jax.tree.map(strong, memory)

    def remembered(self, carry: Carry, view: View) -> Carry:
        """The carry with the memories that processes begin with, and no batches yet."""
        contexts: dict[str, Any] = {}
        for name, process in self.processes.items():
            if process.init is None:
                contexts[name] = ((), ())
                continue

            def one(values: Any, task: Any, copy: Any, process: Process = process) -> Any:
                given = (whole(values), task.whole(), self.nest.number(copy))
                return self._fresh_memory(process, carry, *given)

            if view.copies is None:
                contexts[name] = ((), one(carry.values, carry.task, view.copy))
            else:
                axes = (self.axes(carry.values), self.nest.task_axis, 0)
                copies = jnp.arange(view.copies)
                made = self.lift(one, view, axes)(carry.values, carry.task, copies)
                contexts[name] = ((), self.placed(made))
        return carry._replace(contexts=contexts)

    def with_batches(self, carry: Carry, view: View, blank: bool) -> Carry:
        """The carry with a batch of every process: that of the present tick, or zeros where the
        program will draw before anybody looks."""
        contexts = dict(carry.contexts)
        for name in self.processes:
            if blank:
                shapes = jax.eval_shape(
                    lambda carry, name=name: self._draw(name, carry, view)[0], carry
                )
                batch = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
            else:
                batch = self._draw(name, carry, view)[0]
            contexts[name] = (batch, contexts[name][1])
        return carry._replace(contexts=contexts)

    def placed(self, copied: Any) -> Any:
        """Arrays with a leading axis of copies, spread over the mesh."""
        if self.mesh is None:
            return copied
        axis = self.mesh.axis_names[0]
        sharding = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec(axis))
        return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, sharding), copied)

    def phase(self, copy: Any) -> Any:
        """By how many ticks a copy is ahead in its episodes."""
        longest = self.nest.longest
        if not self.nest.stagger or longest is None:
            return 0
        grid = self.nest.restart_period(longest)
        count = self.nest.draws
        assert count is not None
        return self.nest.number(copy) * (self.nest.horizon(longest) // grid) // count * grid

    def restart(self, names: tuple[str | None, ...], carry: Carry, view: View) -> Carry:
        """Begins the episodes that are due; None stands for the task."""
        for name in names:
            level = self.nest.longest if name is None else self.levels[name]
            assert level is not None
            horizon = self.nest.horizon(level)

            def begin(carry: Carry, name=name, level=level) -> tuple[Any, Any]:
                if name is None:
                    return self.drawn_task(self.draw, carry, view), ()
                return self.fresh(level, carry, view)

            old = (carry.task, ()) if name is None else (carry.values[name], carry.optimizers[name])
            if not self.nest.stagger and horizon == self.nest.restart_period(level):
                new = begin(carry)
            elif self.nest.stagger and view.copies is not None:
                due = (carry.tick + self.phase(jnp.arange(view.copies))) % horizon == 0
                new = jax.tree.map(lambda a, b, due=due: _where(due, a, b), begin(carry), old)
            else:
                due = (carry.tick + self.phase(view.copy)) % horizon == 0
                new = jax.lax.cond(due, begin, lambda _, old=old: old, carry)
            if name is None:
                carry = carry._replace(task=new[0])
            else:
                carry = carry._replace(
                    values={**carry.values, name: new[0]},
                    optimizers={**carry.optimizers, name: new[1]},
                )
        return carry

    def restarts(self, k: int) -> tuple[str | None, ...]:
        """What may begin anew at the beginning of a period of the k-th clock, outermost first."""
        here = [
            level.name
            for level in reversed(self.nest.episodic)
            if self.nest.restart_period(level) == self.periods[k]
        ]
        longest = self.nest.longest
        if self.nest.draws_task and longest is not None and longest.name in here:
            return (None, *here)
        return tuple(here)


def strong(leaf: Any) -> jax.Array:
    """An array that is not weakly typed."""
    leaf = jnp.asarray(leaf)
    return jax.lax.convert_element_type(leaf, leaf.dtype)


def alike_memory(whose: str, before: Any, after: Any) -> Any:
    """The memory after a draw, which must be like the one before."""
    after = jax.tree.map(strong, after)
    told = [
        (jax.tree.structure(one), [(a.shape, a.dtype) for a in jax.tree.leaves(one)])
        for one in (before, after)
    ]
    if told[0] != told[1]:
        raise ValueError(
            f"{whose} changes its memory from {told[0]} to {told[1]}; draw must return a memory of "
            "the structure, shapes and dtypes that init returns"
        )
    return after


def _where(due: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(due.reshape(due.shape + (1,) * (new.ndim - due.ndim)), new, old)
