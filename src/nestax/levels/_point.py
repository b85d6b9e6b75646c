"""Flows that look at one point: implicit differentiation of the levels inside (rules R5 and R6).

Inside a level with `Implicit`, the levels that no flow between has eliminated are functions of the
rest through their stationarity conditions, jointly; those that one has eliminated enter as
functions too, wherever they occur, the stationarity conditions included. `filled` puts those
functions in
place: an Implicit inside gives the implicit function of its own levels, an Unroll inside runs its
level's last period again.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ..flows import (
    Direct,
    FiniteDifference,
    finite_difference_gradient,
    implicit_gradient,
    implicit_root,
    virtual_step,
)
from ._carry import Carry, Mode, View
from ._declaration import TRAJECTORY, Declaration, flow_of
from ._level import Level
from ._values import Parts

if TYPE_CHECKING:
    from ._program import Program

Trained = dict[str, Any]


def rerun(nest: Declaration) -> set[str]:
    """Names of the levels whose last period some outer point flow runs again."""
    names = set()
    for level in nest.levels:
        if isinstance(flow_of(level), (Direct, *TRAJECTORY)):
            continue
        group = nest.group(level)
        while group > 0:
            group = nest.flow_group(group)
            inner = nest.eliminator(group)
            if inner is not None and isinstance(flow_of(inner), TRAJECTORY):
                names.add(inner.name)
                break
    return names


def gradient(
    program: "Program", level: Level, carry: Carry, view: View, mode: Mode
) -> tuple[jax.Array, Any, Any, dict[str, Any]]:
    """Losses, the objective's info, the gradient and diagnostics of a level with a point flow.

    Where every eliminated level is copied, each copy has a linear system of its own.
    """
    apart = all(program.copied[one.name] for one in program.nest.eliminated(level))
    if view.copies is None or not apart:
        return _Point(program, carry, view).implicit(level)

    def one(carry: Carry, copy: Any) -> Any:
        return _Point(program, carry, View(None, copy)).implicit(level)

    axes = (program.carry_axes(carry), 0)
    losses, user, found, diagnostics = program.lift(one, view, axes)(carry, jnp.arange(view.copies))
    if not program.copied[level.name]:
        found = jax.tree.map(lambda a: jnp.mean(a, axis=0), found)
    return losses, user, found, diagnostics


class _Point:
    """Levels as functions of one another around a carry; `free` maps names to trained values."""

    def __init__(self, program: "Program", carry: Carry, view: View):
        self.program, self.nest, self.carry, self.view = program, program.nest, carry, view

    def current(self, levels: Any) -> Trained:
        return {level.name: self.carry.values[level.name].trained for level in levels}

    def parts(self, free: Trained) -> dict[str, Parts]:
        return {name: self.carry.values[name].but(one) for name, one in free.items()}

    def loss(self, level: Level, values: Trained, context: Any) -> tuple[jax.Array, Any]:
        batch, axis = self.program.batch(context, self.carry, self.view)
        losses, user = self.program.losses(level, self.parts(values), batch, axis, self.view)
        return self.program.total(level, losses), (losses, user)

    def filled(self, group: int, free: Trained) -> Trained:
        """Every level's value, given those of the groups from `group` on."""
        inner = self.nest.eliminator(group) if group else None
        if inner is None:
            return free
        if isinstance(flow_of(inner), TRAJECTORY):
            reached = self.again(inner, free)[0]
            lower = self.nest.inside(inner)
            return {**free, **{one.name: reached.values[one.name].trained for one in lower}}
        return self.filled(self.nest.flow_group(group), {**free, **self.response(inner, free)})

    def response(self, level: Level, free: Trained) -> Trained:
        """The levels that a point flow eliminates as a function of the rest."""
        flow, fast = flow_of(level), self.current(self.nest.eliminated(level))
        if isinstance(flow, FiniteDifference):
            step = virtual_step(lambda fast, slow, _: self.inner(level, {**slow, **fast}), flow)
            return step(fast, free)
        root = implicit_root(
            lambda fast, slow, _: self.stationarity(level, {**slow, **fast}), flow.solver
        )
        return root(fast, free)

    def again(self, level: Level, free: Trained, own: Any = None) -> tuple[Carry, jax.Array]:
        """The last period of a level with a trajectory flow, run again for other values of it and
        of what lies outside; where it comes to and the loss (of each copy) that its flow follows.

        `own` is the variable of the level's own gradient, in place where its flow begins to look.
        """
        program, flow = self.program, flow_of(level)
        carry = program.restored(self.carry.before[level.name], self.carry)
        carry = carry._replace(values={**carry.values, **self.parts(free)})
        k = program.periods.index(level.every)
        q = next(i for i, peers in enumerate(program.due[k]) if level in peers)
        carry = program.opened(k, carry, self.view)
        inner = {one.name for one in self.nest.inside(level)}
        pending, swaps = program.restarts(k), ()
        if None in pending:
            carry = program.restart((None,), carry, self.view)
        # What lies outside has its values from `free`.
        pending = tuple(name for name in pending if name in inner)
        if own is not None:
            parts = carry.values[level.name].but(own)
            length, last = program.iterations(k), getattr(flow, "last", None)
            if last is not None and last < length:
                swaps = ((length - last, level.name, parts),)
            else:
                carry = carry._replace(values={**carry.values, level.name: parts})
        carry, _ = program.until(k, q, carry, pending, self.view, Mode(flow), swaps)
        return carry, program._followed(level, carry, self.view)[0]

    def own_gradient(self, level: Level, boundary: int, free: Trained, context: Any) -> Any:
        """The level's gradient as its flow computes it; `free` holds the groups from `boundary`
        on."""
        flow, name = flow_of(level), level.name
        if isinstance(flow, Direct):
            values = self.filled(boundary, free)

            def partial(one: Any) -> jax.Array:
                return self.loss(level, {**values, name: one}, context)[0]

            return jax.grad(partial)(free[name])
        if isinstance(flow, TRAJECTORY):

            def followed(one: Any) -> jax.Array:
                losses = self.again(level, free, one)[1]
                return self.program.total(level, losses)

            return jax.grad(followed)(free[name])
        return self.formula(level, self.response(level, free), free, context)[2]

    def stationarity(self, level: Level, free: Trained) -> Trained:
        """The gradients that vanish where the levels which this one eliminates have settled."""
        boundary = self.nest.flow_group(self.nest.group(level))
        override = getattr(flow_of(level), "context", None)
        return {
            one.name: self.own_gradient(one, boundary, free, override or one.context)
            for one in self.nest.eliminated(level)
        }

    def formula(self, level: Level, fast: Trained, slow: Trained, context: Any) -> Any:
        """The flow's gradient at (fast, slow); differentiable as it stands."""
        flow, name = flow_of(level), level.name
        boundary = self.nest.flow_group(self.nest.group(level))

        def loss(fast: Trained, own: Any, _: Any) -> Any:
            free = {**slow, name: own, **fast}
            return self.loss(level, self.filled(boundary, free), context)

        def condition(fast: Trained, own: Any, _: Any) -> Trained:
            return self.stationarity(level, {**slow, name: own, **fast})

        def inner(fast: Trained, own: Any, _: Any) -> jax.Array:
            return self.inner(level, {**slow, name: own, **fast})

        if isinstance(flow, FiniteDifference):
            found = finite_difference_gradient(loss, inner, flow, slow[name], fast)
        else:
            found = implicit_gradient(loss, condition, flow.solver, slow[name], fast, settled=False)
        (_, (losses, user)), gradient, diagnostics = found
        return losses, user, gradient, diagnostics._asdict()

    def inner(self, level: Level, free: Trained) -> jax.Array:
        """The sum of the objectives of the levels that this one eliminates."""
        override = getattr(flow_of(level), "context", None)
        inner = self.nest.eliminated(level)
        return sum(self.loss(one, free, override or one.context)[0] for one in inner)  # type: ignore

    def implicit(self, level: Level) -> tuple[jax.Array, Any, Any, dict[str, Any]]:
        group = self.nest.group(level)
        slow = self.current(one for one in self.nest.levels if self.nest.group(one) >= group)
        fast = self.current(self.nest.eliminated(level))
        return self.formula(level, fast, slow, level.context)


def solver_of(level: Level) -> Any:
    """The linear solver that stands for a point flow where its inner levels are a function."""
    flow = flow_of(level)
    return flow.linear if isinstance(flow, FiniteDifference) else flow.solver
