"""Levels at one point: their batches, losses, partial derivatives and updates, copies included
(rules R4, R6, R8 and R9).

Everything is a function of a `Carry`, in one of two views: all copies at once, or a single one.
"""

import copy as _copy
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..flows.internal import lean_gradient, quiet, rejects, safe_update, trained_leaves, uphill
from . import _draws
from ._calls import arrays_only, call_with_values, loss_of, noted
from ._carry import Carry, Mode, View
from ._declaration import Declaration, flow_of
from ._field import Field, half_squared_norm, like_value
from ._level import Level
from ._process import Process
from ._signatures import is_transformation, repaired
from ._stream import Stream, levels_named
from ._updates import applied, explained, proposed
from ._values import Parts, whole, widened


class Problem:
    """A declaration's levels as functions of a carry.

    Attributes:
        nest: the declaration.
        mesh: over whose first axis copies are spread, or None.
        draw: key -> task, or None where the task is fixed.
        copied: by level, whether its value has an axis of copies.
        displaced: level name -> by how much the objective of that level, and nobody else, sees its
            value displaced: for central differences.
    """

    def __init__(self, declaration: Declaration, mesh: Any = None, draw: Any = None):
        self.nest, self.mesh = declaration, mesh
        self.periods = declaration.periods
        self.levels = {level.name: level for level in declaration.levels}
        self.copied = {name: declaration.copied(level) for name, level in self.levels.items()}
        self.streams = {
            number: context
            for number, context in enumerate(self.contexts())
            if isinstance(context, Stream)
        }
        self.identities = _draws.identities(self._given())
        self.processes: dict[str, Process] = {}
        for context in self.contexts():
            if isinstance(context, Process):
                name = self.readers(context)[0]
                number = next(i for i in itertools.count() if _keyed(name, i) not in self.processes)
                self.processes[_keyed(name, number)] = context
        self.draw = draw
        self.displaced: dict[str, Any] = {}
        # What is known of the optimizers, by level; see `_known`.
        self.moves: dict[str, Any] = {}
        self.may_rest: dict[str, bool] = {}
        self._rejecting: dict[str, bool] = {}

    def contexts(self) -> list[Any]:
        """The distinct contexts, overrides of implicit flows included, in the order of the list."""
        found: list[Any] = []
        for context in self._given():
            if not any(_draws.same(context, one) for one in found):
                found.append(context)
        return found

    def _given(self) -> list[Any]:
        """Every level's contexts; several of them may be the same."""
        given = []
        for level in self.nest.levels:
            given += [level.context, flow_of(level).context]
        return [context for context in given if context is not None]

    # Views.

    def spread(self, name: str) -> "Problem":
        """The same problem in which every copy has a value of its own of one more level."""
        other = _copy.copy(self)
        other.copied = {**self.copied, name: True}
        return other

    def lift(self, function: Any, view: View, in_axes: Any, out_axes: Any = 0) -> Any:
        """`function` of single copies as one of the view's arrays."""
        if view.copies is None:
            return function
        return jax.vmap(function, in_axes, out_axes, axis_size=view.copies)

    def axes(self, names: Any = None) -> dict[str, int | None]:
        """Where the copies' axis of each level's value lies."""
        return {
            name: 0 if self.copied[name] else None
            for name in (self.levels if names is None else names)
        }

    def carry_axes(self, carry: Carry) -> Any:
        """The same for a whole carry."""
        return Carry(
            self.axes(carry.values),  # type: ignore
            self.axes(carry.optimizers),
            self.nest.task_axis,
            None,  # type: ignore
            None,
            {name: self._gathered_axes(name) for name in carry.gathered},
            {name: self.carry_axes(one) for name, one in carry.before.items()},
            {number: (None, 1) for number in carry.feed},
            {name: None for name in carry.flows},
            {name: None if self.nest.copies is None else 0 for name in carry.contexts},
            self.axes(carry.episodes),  # type: ignore
        )

    def _gathered_axes(self, name: str) -> tuple:
        level = self.levels[name]
        return (0,) if flow_of(level).follows else (0, self.axes()[name])

    def single(self, carry: Carry, view: View) -> Carry:
        """The carry of the first copy, to be looked at without copies."""
        if view.copies is None:
            return carry
        lifted = self.lift(lambda carry, _: carry, view, (self.carry_axes(carry), 0))
        return jax.tree.map(lambda a: a[0], lifted(carry, jnp.arange(view.copies)))

    def placed(self, copied: Any) -> Any:
        """Arrays with a leading axis of copies, spread over the mesh."""
        if self.mesh is None:
            return copied
        axis = self.mesh.axis_names[0]
        sharding = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec(axis))
        return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, sharding), copied)

    # Data.

    def batch(self, context: Any, carry: Carry, view: View) -> tuple[Any, int | None]:
        """The batch of a context at the present tick, and the axis of its copies."""
        if context is None:
            return carry.task.whole(), None if view.copies is None else self.nest.task_axis
        if isinstance(context, Stream):
            return self._fed(context, carry), None if view.copies is None else 0
        if isinstance(context, Process):
            name = next(n for n, one in self.processes.items() if one is context)
            return carry.contexts[name][0], None if view.copies is None else 0
        identity = self.identities[id(context)]

        def one(task: Parts, copy: Any) -> Any:
            with noted(self.whose(context)):
                number = self.nest.number(copy)
                batch = _draws.batch(context, carry.key, task.whole(), carry.tick, number, identity)
            if view.copies is not None:
                arrays_only(self.whose(context), batch)
            return batch

        if view.copies is None:
            return one(carry.task, view.copy), None
        draw = self.lift(one, view, (self.nest.task_axis, 0))
        return draw(carry.task, jnp.arange(view.copies)), 0

    def whose(self, context: Any) -> str:
        """What an error calls a context."""
        return f"the context of level {' and '.join(map(repr, self.readers(context)))}"

    def streaming(self) -> str:
        """What an error calls all streams together."""
        return levels_named([n for s in self.streams.values() for n in self.readers(s)])

    def readers(self, context: Any) -> tuple[str, ...]:
        """Names of the levels that read a context."""
        return tuple(
            level.name
            for level in self.nest.levels
            if level.context is context or flow_of(level).context is context
        )

    def stride(self, context: Stream) -> int:
        """Ticks between two batches of a stream that anybody looks at."""
        periods = []
        for level in self.nest.levels:
            flow = flow_of(level)
            used = level.context is context or flow.context is context
            if used:
                periods.append(1 if level.accumulate else level.every)
            if not (flow.partial or flow.follows) and any(
                one.context is context for one in self.nest.inside(level)
            ):
                periods.append(level.every)
        return min(periods)

    def _fed(self, context: Stream, carry: Carry) -> Any:
        number = next(n for n, one in self.streams.items() if one is context)
        base, batches = carry.feed[number]
        index = (carry.tick - base + 1) // self.stride(context) - 1
        return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, index, 0, False), batches)

    # Objectives and updates.

    def taken_apart(self, level: Level, value: Any) -> Parts:
        """A value of the level; refused if it holds what is no weight."""
        who = f"level {level.name!r}: its value"
        return Parts.of(value, weights=trained_leaves(who, value, level.trained))

    def losses(
        self, level: Level, values: dict[str, Parts], batch: Any, axis: int | None, view: View
    ) -> tuple[jax.Array, Any]:
        """The level's loss, of each copy if there are any, in float32 at least, and what else its
        objective returned."""
        if isinstance(level.objective, Field):
            return self.field(level, values, batch, axis, view)[:2]

        def one(values: dict[str, Parts], batch: Any) -> tuple[jax.Array, Any]:
            returned = call_with_values(
                level.name, level.role, level.objective, whole(values), batch, levels=self.levels
            )
            loss, user = loss_of(level.name, returned, level.role)
            return widened(loss), user

        return self.lift(one, view, (self.axes(values), axis))(values, batch)

    def field(
        self,
        level: Level,
        values: dict[str, Parts],
        batch: Any,
        axis: int | None,
        view: View,
        mode: Mode = Mode(),  # noqa: B008
        rejecting: bool = False,
    ) -> tuple[jax.Array, Any, Any]:
        """Losses, info and field of a level given by its `Field`; if shared, the copies' mean."""

        def one(values: dict[str, Parts], batch: Any) -> tuple[jax.Array, Any, Any]:
            returned = call_with_values(
                level.name, "objective", level.objective, whole(values), batch, levels=self.levels
            )
            field, user = like_value(level.name, returned, values[level.name])
            return half_squared_norm(field), user, field

        if mode.lean and not mode.forward:
            one = jax.checkpoint(one)
        if rejecting:
            one = quiet(one)
        losses, user, field = self.lift(one, view, (self.axes(values), axis))(values, batch)
        if losses.ndim and not self.copied[level.name]:
            field = jax.tree.map(lambda a: jnp.mean(a, axis=0), field)
        return losses, user, field

    def total(self, level: Level, losses: jax.Array) -> jax.Array:
        """What is differentiated: copied values have a loss each, shared ones the mean."""
        if losses.ndim == 0:
            return losses
        return jnp.sum(losses) if self.copied[level.name] else jnp.mean(losses)

    def direct(
        self, level: Level, carry: Carry, view: View, mode: Mode
    ) -> tuple[jax.Array, Any, Any]:
        """Losses, the objective's info, and the partial derivative at this point."""
        name = level.name
        if name in self.displaced:
            parts = carry.values[name]
            moved = jax.tree.map(jnp.add, parts.trained, self.displaced[name])
            carry = carry._replace(values={**carry.values, name: parts.but(moved)})
        batch, axis = self.batch(level.context, carry, view)
        values = carry.values
        rejecting = self.rejecting(level, carry, view, mode)
        if isinstance(level.objective, Field):
            return self.field(level, values, batch, axis, view, mode, rejecting)
        # Where some copies may reject their gradients, each copy is differentiated by itself.
        apart = rejecting and view.copies is not None and self.copied[name]
        seen, seen_axis = (View(), None) if apart else (view, axis)

        def total(trained: Any, rest: dict[str, Any], data: Any) -> tuple[jax.Array, Any]:
            fixed, batch = data
            parts = {n: values[n].but(rest.get(n), fixed[n]) for n in values}
            parts[name] = values[name].but(trained, fixed[name])
            losses, user = self.losses(level, parts, batch, seen_axis, seen)
            return self.total(level, losses), (losses, user)

        rest = {n: parts.trained for n, parts in values.items() if n != name}
        data = ({n: parts.fixed for n, parts in values.items()}, batch)
        if mode.lean and not mode.forward:
            take = lean_gradient(total)
        else:
            take = jax.value_and_grad(total, has_aux=True)
        if rejecting:
            take = quiet(take)
        if apart:
            axes = self.axes(values)
            take = self.lift(take, view, (0, {n: axes[n] for n in rest}, (axes, axis)))
        (_, (losses, user)), gradient = take(values[name].trained, rest, data)
        return losses, user, gradient

    def rejecting(self, level: Level, carry: Carry, view: View, mode: Mode) -> bool:
        """Whether the level's update is differentiated in reverse and may reject a gradient."""
        if mode.under is None or mode.forward:
            return False
        if level.name not in self._rejecting:

            def update(carry: Carry, loss: Any) -> Any:
                here, one = carry, view
                if self.copied[level.name]:  # under `vmap` branches are no longer to be seen
                    here, one = self.single(carry, view), View()
                return self.update(level, here, here.values[level.name].trained, loss, one)

            bare = carry._replace(gathered={}, before={})
            self._rejecting[level.name] = rejects(update, bare, 0.0)
        return self._rejecting[level.name]

    def transformation(self, level: Level, values: dict[str, Parts]) -> Any:
        made = level.optimizer
        if not is_transformation(made):
            with explained(level.name):
                made = call_with_values(
                    level.name,
                    "optimizer",
                    made,
                    whole(values),
                    levels=self.levels,
                    sees="the optimizer of a level that copies share is made of what they share",
                )
            if not is_transformation(made):
                repair = repaired(made)
                raise ValueError(
                    f"level {level.name!r}: the optimizer's function returned "
                    f"{type(made).__name__}, expected an optax transformation"
                    + (f"; {repair}" if repair else "")
                )
        return optax.with_extra_args_support(made)

    def update(
        self,
        level: Level,
        carry: Carry,
        gradient: Any,
        losses: jax.Array,
        view: View,
        mode: Mode = Mode(),  # noqa: B008
    ) -> tuple[Parts, Any]:
        """The level's next value and optimizer state."""
        updates, state = self.proposed(level, carry, gradient, losses, view, mode)
        parts = carry.values[level.name]
        return parts.but(applied(level.name, parts.trained, updates, state)), state

    def proposed(
        self,
        level: Level,
        carry: Carry,
        gradient: Any,
        losses: jax.Array,
        view: View,
        mode: Mode = Mode(),  # noqa: B008
    ) -> tuple[Any, Any]:
        """By how much the level's optimizer would move its value, and the optimizer's next state.

        A level shared by copies has one transformation, made of values that are shared themselves,
        and its loss is the mean over copies.
        """
        rejecting = self.rejecting(level, carry, view, mode)
        batch, axis = self.batch(level.context, carry, view)
        name = level.name
        shared = view.copies is not None and not self.copied[name]
        inside, axis_inside = (view, axis) if shared else (View(), None)
        gradient = self.handed(level, gradient)

        def one(values, state, gradient, loss, batch):
            trained = values[name].trained
            visible = {n: p for n, p in values.items() if not (shared and self.copied[n])}

            def value_fn(trained: Any, batch: Any) -> jax.Array:
                searchable(level)
                here = {**values, name: values[name].but(trained)}
                return jnp.mean(self.losses(level, here, batch, axis_inside, inside)[0])

            rule = self.transformation(level, visible)

            def update(gradient: Any, state: Any, trained: Any) -> tuple[Any, Any]:
                return proposed(level.name, rule, gradient, state, trained, loss, value_fn, batch)

            moving = (gradient, state, trained)
            if mode.under is None:
                return update(*moving)
            return safe_update(update, *moving, rejecting=rejecting)  # differentiated

        arguments = (carry.values, carry.optimizers[name], gradient)
        if shared:
            return one(*arguments, jnp.mean(losses), batch)
        axes = (self.axes(carry.values), 0, 0, 0, axis)
        return self.lift(one, view, axes)(*arguments, losses, batch)

    def handed(self, level: Level, gradient: Any) -> Any:
        """A gradient as the level's optimizer gets it; a field is taken as it is."""
        return gradient if isinstance(level.objective, Field) else uphill(gradient)


def _keyed(name: str, number: int) -> str:
    """What a process is called in the state."""
    return f"{name} {number}" if number else name


def searchable(level: Level) -> None:
    """Refuses an optimizer that evaluates the objective elsewhere than at the level's value, where
    what the level descends is not its objective at one point."""
    flow, label = flow_of(level), f"level {level.name!r}"
    if isinstance(level.objective, Field):
        raise ValueError(
            f"{label}: its optimizer evaluates the loss elsewhere (value_fn), and a Field has "
            "none; use an optimizer that needs the gradient only"
        )
    repair = "use one without a line search, such as optax.lbfgs(learning_rate, linesearch=None)"
    if not flow.partial:
        raise ValueError(
            f"{label}: its optimizer evaluates the objective at other values, where the levels "
            f"inside would have to respond as under {type(flow).__name__}, and do not; {repair}"
        )
    if level.accumulate and level.every > 1:
        raise ValueError(
            f"{label}: its optimizer evaluates the objective at one tick, and "
            f"accumulate={level.accumulate!r} gathers it over {level.every}; {repair}"
        )
