"""Episodes: fresh values, optimizer states and tasks, and the ticks at which they begin (rules R7,
R8).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ..flows import check_arrays
from . import _draws
from ._calls import call, call_with_values, plain
from ._carry import Carry, View
from ._copy_number import with_copy
from ._level import Level
from ._problem import Problem
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


def _where(due: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(due.reshape(due.shape + (1,) * (new.ndim - due.ndim)), new, old)
