"""Flows that look at one point: implicit differentiation of the levels inside (rules R5 and R6).

Inside a level with `Implicit`, the levels that no flow between has eliminated are functions of the
rest through their stationarity conditions, jointly; those that one has eliminated enter as
functions too, wherever they occur, the stationarity conditions included. `filled` puts those
functions in
place: an Implicit inside gives the implicit function of its own levels, an Unroll inside runs its
level's last period again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..flows import Unroll
from ..flows.internal import difference, memory_of, merge, norm, remembering
from . import _known
from ._carry import Carry, Mode, View
from ._declaration import Declaration, flow_of, weights_of
from ._field import Field
from ._level import Level
from ._problem import Problem
from ._values import Parts

Trained = dict[str, Any]

Again = Callable[..., tuple[Carry, jax.Array]]
"""`(level, carry, view, values, own) -> (carry, losses)`: the last period of a level with a flow
that follows it, run again with other values (by name, `Parts`) of it and of what lies outside. What
is returned is where it comes to and the loss (of each copy) that the flow follows. `own` is the
variable of the level's own gradient, in place where its flow begins to look."""


class Unknowns(NamedTuple):
    """What a point flow solves for, by level name: trained leaves that the optimizer can move, and
    where the condition is the update itself, what the optimizer remembers."""

    values: Trained
    memories: dict[str, list]


def rerun(nest: Declaration) -> set[str]:
    """Names of the levels whose last period some outer point flow runs again."""
    names = set()
    for level in nest.levels:
        if flow_of(level).partial or flow_of(level).follows:
            continue
        group = nest.group(level)
        while group > 0:
            group = nest.flow_group(group)
            inner = nest.eliminator(group)
            if inner is not None and flow_of(inner).follows:
                peers = nest.groups[group]
                names |= {one.name for one in peers if flow_of(one).follows}
                break
    return names


def gradient(
    problem: Problem, again: Again, level: Level, carry: Carry, view: View
) -> tuple[jax.Array, Any, Any, dict[str, Any]]:
    """Losses, the objective's info, the gradient and diagnostics of a level with a point flow.

    `again` is for the periods that flows inside follow. Where every eliminated level is copied,
    each copy has a linear system of its own.
    """
    apart = all(problem.copied[one.name] for one in problem.nest.eliminated(level))
    if view.copies is None or not apart:
        return Point(problem, again, carry, view).implicit(level)

    def one(carry: Carry, copy: Any) -> Any:
        return Point(problem, again, carry, View(None, copy)).implicit(level)

    axes = (problem.carry_axes(carry), 0)
    losses, user, found, diagnostics = problem.lift(one, view, axes)(carry, jnp.arange(view.copies))
    if not problem.copied[level.name]:
        found = jax.tree.map(lambda a: jnp.mean(a, axis=0), found)
    return losses, user, found, diagnostics


class Point:
    """Levels as functions of one another around a carry; `free` maps names to trained values."""

    def __init__(self, problem: Problem, again: Again, carry: Carry, view: View):
        # Derivatives are taken by, and linear systems solved in, float32 at least.
        wide = {name: parts.wide() for name, parts in carry.values.items()}
        self.problem, self.again, self.nest, self.view = problem, again, problem.nest, view
        self.carry = carry._replace(values=wide)

    def current(self, levels: Any) -> Trained:
        return {level.name: self.carry.values[level.name].trained for level in levels}

    def parts(self, free: Trained) -> dict[str, Parts]:
        """Values as objectives see them; leaves that are None keep their present values."""
        values = self.carry.values
        held = {one.name: values[one.name] for one in self.nest.levels if one.held}
        return held | {
            name: one
            if isinstance(one, Parts)
            else values[name].but(merge(one, values[name].trained))
            for name, one in free.items()
        }

    def movable(self, level: Level, trained: Any) -> Any:
        """The leaves that the level's optimizer can move; None for the others, which are constants
        to every flow outside."""
        moves = _known.moves(self.problem, level, self.carry, self.view)
        return jax.tree.map(lambda leaf, free: leaf if free else None, trained, moves)

    def unknowns(self, level: Level) -> Unknowns:
        """What a point flow of this level solves for: where the levels inside are now."""
        eliminated = self.nest.eliminated(level)
        memories = {}
        if flow_of(level).by_update:
            memories = {one.name: memory_of(self.carry.optimizers[one.name]) for one in eliminated}
        values = self.current(eliminated)
        values = {one.name: self.movable(one, values[one.name]) for one in eliminated}
        return Unknowns(values, memories)

    def loss(self, level: Level, values: Trained, context: Any) -> tuple[jax.Array, Any]:
        batch, axis = self.problem.batch(context, self.carry, self.view)
        losses, user = self.problem.losses(level, self.parts(values), batch, axis, self.view)
        return self.problem.total(level, losses), (losses, user)

    def filled(self, group: int, free: Trained) -> Trained:
        """Every level's value, given those of the groups from `group` on."""
        inner = self.nest.eliminator(group) if group else None
        if inner is None:
            return free
        if flow_of(inner).follows:
            reached = self.run_again(inner, free)[0]
            lower = self.nest.inside(inner)
            # Whole: a start may have made what is not trained of outer values.
            return {**free, **{one.name: reached.values[one.name] for one in lower}}
        return self.filled(
            self.nest.flow_group(group), {**free, **self.response(inner, free).values}
        )

    def response(self, level: Level, free: Trained) -> Unknowns:
        """The levels that a point flow eliminates as a function of the rest."""
        flow, fast = flow_of(level), self.unknowns(level)
        return flow.root(
            lambda fast, slow, _: self.stationarity(level, fast, slow),
            lambda fast, slow, _: self.inner(level, {**slow, **fast.values}),
        )(fast, free)

    def run_again(
        self, level: Level, free: Trained, own: Parts | None = None
    ) -> tuple[Carry, jax.Array]:
        """The last period of a level inside, at other values of it and of what lies outside."""
        return self.again(level, self.carry, self.view, self.parts(free), own)

    def own_gradient(
        self, level: Level, boundary: int, free: Trained, context: Any
    ) -> tuple[jax.Array, Any]:
        """The level's losses and its gradient, in all of its trained leaves, as its flow computes
        them; `free` holds the groups from `boundary` on."""
        flow, name = flow_of(level), level.name
        own = self.parts({name: free[name]})[name].trained
        if flow.partial:
            values = self.filled(boundary, free)
            if isinstance(level.objective, Field):
                return self.over_period(level, lambda point: point.field(level, values, context))

            def partial(one: Any) -> tuple[jax.Array, Any]:
                return self.gathered_loss(level, {**values, name: one}, context)

            gradient, losses = jax.grad(partial, has_aux=True)(own)
            return losses, gradient
        if flow.follows:
            variable = self.parts({name: own})[name]

            def followed(one: Any) -> tuple[jax.Array, Any]:
                losses = self.run_again(level, free, variable.but(one))[1]
                return self.problem.total(level, losses), losses

            gradient, losses = jax.grad(followed, has_aux=True)(own)
            return losses, gradient
        losses, _, gradient, _ = self.formula(level, self.response(level, free), free, context)
        return losses, gradient

    def field(self, level: Level, values: Trained, context: Any) -> tuple[jax.Array, Any]:
        """The losses and the field of a level that is given by one."""
        batch, axis = self.problem.batch(context, self.carry, self.view)
        losses, _, field = self.problem.field(level, self.parts(values), batch, axis, self.view)
        return losses, field

    def gathered_loss(self, level: Level, values: Trained, context: Any) -> tuple[jax.Array, Any]:
        """The total loss and the losses; of a level that accumulates, over its period."""

        def loss(point: Point) -> tuple[jax.Array, jax.Array]:
            total, (losses, _) = point.loss(level, values, context)
            return total, losses

        return self.over_period(level, loss)

    def over_period(self, level: Level, function: Callable[["Point"], Any]) -> Any:
        """A function of the point; of a level that accumulates, its weighted sum over all ticks of
        the level's last complete period."""
        if not level.accumulate or level.every == 1:
            return function(self)
        tick, every = self.carry.tick, level.every
        # Before the first period is over, that one: batches are functions of the tick.
        begin = jnp.maximum((tick + 1) // every * every - every, 0)
        weights = jnp.asarray(weights_of(level))

        def add(total: Any, at: Any) -> Any:
            offset, weight = at
            point = Point(
                self.problem, self.again, self.carry._replace(tick=begin + offset), self.view
            )
            added = jax.tree.map(lambda b: weight.astype(b.dtype) * b, function(point))
            return jax.tree.map(jnp.add, total, added), None

        shapes = jax.eval_shape(lambda: function(self))
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        ticks = jnp.arange(every, dtype=tick.dtype)
        return jax.lax.scan(add, zeros, (ticks, weights))[0]

    def stationarity(self, level: Level, fast: Unknowns, slow: Trained) -> Unknowns:
        """What vanishes where the levels that this one eliminates have settled: their gradients,
        or what their updates would change."""
        boundary = self.nest.flow_group(self.nest.group(level))
        flow, free = flow_of(level), {**slow, **fast.values}
        override = flow.context
        values, memories = {}, {}
        for one in self.nest.eliminated(level):
            losses, gradient = self.own_gradient(one, boundary, free, override or one.context)
            if one.name in fast.memories:
                values[one.name], memories[one.name] = self.change(
                    one, boundary, free, fast.memories[one.name], losses, gradient
                )
            else:
                values[one.name] = self.movable(one, gradient)
        return Unknowns(values, memories)

    def change(
        self, level: Level, boundary: int, free: Trained, memory: list, losses: Any, gradient: Any
    ) -> tuple[Any, list]:
        """By how much an update would change a level's value and its optimizer's memory."""
        values = {**self.carry.values, **self.parts(self.filled(boundary, free))}
        optimizers = dict(self.carry.optimizers)
        optimizers[level.name] = remembering(optimizers[level.name], memory)
        carry = self.carry._replace(values=values, optimizers=optimizers)
        mode = Mode(Unroll())  # differentiated in reverse
        parts, state = self.problem.update(level, carry, gradient, losses, self.view, mode)
        old, new = carry.values[level.name].trained, parts.trained
        changed = self.movable(level, jax.tree.map(jnp.subtract, old, new))

        return changed, difference(memory, memory_of(state))

    def formula(self, level: Level, fast: Unknowns, slow: Trained, context: Any) -> Any:
        """The flow's gradient at (fast, slow); differentiable as it stands."""
        flow, name = flow_of(level), level.name
        boundary = self.nest.flow_group(self.nest.group(level))

        def loss(fast: Unknowns, own: Any, _: Any) -> Any:
            free = {**slow, name: own, **fast.values}
            return self.loss(level, self.filled(boundary, free), context)

        def condition(fast: Unknowns, own: Any, _: Any) -> Unknowns:
            return self.stationarity(level, fast, {**slow, name: own})

        def inner(fast: Unknowns, own: Any, _: Any) -> jax.Array:
            return self.inner(level, {**slow, name: own, **fast.values})

        found = flow.value_and_gradient(loss, condition, inner, slow[name], fast)
        (_, (losses, user)), gradient, diagnostics = found
        return losses, user, gradient, diagnostics._asdict()

    def inner(self, level: Level, free: Trained) -> jax.Array:
        """The sum of the objectives of the levels that this one eliminates."""
        override = flow_of(level).context
        inner = self.nest.eliminated(level)
        found = [self.gathered_loss(one, free, override or one.context)[0] for one in inner]
        return sum(found)  # type: ignore

    def implicit(self, level: Level) -> tuple[jax.Array, Any, Any, dict[str, Any]]:
        group = self.nest.group(level)
        slow = self.current(one for one in self.nest.levels if self.nest.group(one) >= group)
        losses, user, found, diagnostics = self.formula(
            level, self.unknowns(level), slow, level.context
        )
        diagnostics |= {"at_rest": self.at_rest(level, slow), "moving": self.moving(level, slow)}
        return losses, user, found, diagnostics

    def moving(self, level: Level, slow: Trained) -> jax.Array:
        """By how much, relative to their norm, the next update would change the inner weights,
        where they are taken to be at a fixed point of it; -1 elsewhere."""
        if not flow_of(level).by_update:
            return -jnp.ones(())
        unknowns = self.unknowns(level)
        changed = self.stationarity(level, unknowns, slow).values
        return jax.lax.stop_gradient(norm(changed) / (norm(unknowns.values) + 1e-30))

    def at_rest(self, level: Level, slow: Trained) -> jax.Array:
        """The share of the inner gradient's norm in those weights that their optimizer leaves
        exactly where they are; -1 where it is not measured."""
        flow = flow_of(level)
        inner = [
            one
            for one in self.nest.eliminated(level)
            if _known.may_rest(self.problem, one, self.carry, self.view)
        ]
        if flow.by_update or flow.differences or not inner:
            return -jnp.ones(())
        boundary = self.nest.flow_group(self.nest.group(level))
        free = {**slow, **self.unknowns(level).values}
        override = flow.context
        still, everything, moved = [], [], jnp.zeros((), bool)
        for one in inner:
            losses, gradient = self.own_gradient(one, boundary, free, override or one.context)
            updates, _ = self.problem.proposed(one, self.carry, gradient, losses, self.view)
            gradient_of_all = gradient
            gradient, updates = self.movable(one, gradient), self.movable(one, updates)
            everything += jax.tree.leaves(gradient)
            # A rate that has decayed to zero lets no gradient move them, a bound lets some.
            turned = jax.tree.map(jnp.negative, gradient_of_all)
            others, _ = self.problem.proposed(one, self.carry, turned, losses, self.view)
            moved |= jnp.any(jnp.stack([jnp.any(u != 0) for u in jax.tree.leaves(others)]))
            resting = jax.tree.map(lambda u, g: jnp.where(u == 0, g, 0), updates, gradient)
            still += jax.tree.leaves(resting)
        length = norm(everything)
        # Optimizers that divide by squared gradients, as Polyak's, stop where those are rounding.
        settled = length <= jnp.finfo(length.dtype).eps ** 0.5
        length = jnp.where(settled | ~moved, jnp.inf, length)
        return jax.lax.stop_gradient(norm(still) / length)
