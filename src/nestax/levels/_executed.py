"""The executed program as a function of one level's value: what central differences are taken of.

The independent check of every flow. Nothing here differentiates; the function runs the program at
another value and reads the level's loss.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..flows import Unroll
from . import _trajectory
from ._declaration import flow_of
from ._level import Level
from ._machine import Machine
from ._problem import Problem
from ._program import Program
from ._state import State, single_state
from ._values import Parts

MOST_TICKS = 20_000  # that inner levels are given to settle


def executed(machine: Machine, name: str, state: State, feed: Any = None) -> Callable[[Any], Any]:
    """The loss of a level at its next update as a function of a displacement of its value.

    Under Direct only the level's own objective sees the displaced value. Under Unroll and Forward
    its period is run from the beginning with it, or from where the flow begins to look. Under
    Implicit and FiniteDifference the levels outside are held and the period is repeated, batches
    included, until the inner levels have settled.

    Args:
        machine: what the nest runs on.
        state: where in it, at the boundary of a step.
        name: of the level.
        feed: batches of the nest's streams for the level's period.

    Returns:
        displacement -> loss, summed over copies of a copied level and averaged over those that
        share it. The displacement is a pytree like `nest.gradient(state, name)`.
    """
    single_state(state, "executed")
    level = machine.problem.levels[name]
    flow, feed = flow_of(level), feed or {}
    if flow.partial:

        def displaced(by: Any) -> Any:
            problem = Problem(machine.declaration, machine.mesh, machine.problem.draw)
            problem.displaced = {name: by}
            program = Program(problem, norms=False)
            return _loss(machine, program, level, state, feed)

        return displaced
    if flow.follows:

        def run(by: Any) -> Any:
            probe = _Probe(flow.last, checkpoint=False, first_order=flow.first_order, by=by)
            other = with_flow(machine, name, probe)
            return _loss(other, other.program, level, state, feed)

        return run
    return _settled(machine, level, state, feed)


def with_held(machine: Machine, name: str, flow: Any) -> Machine:
    """The nest with another flow for one level, and with optimizers that move nothing for this
    level and for those that are not inside it."""
    resting = _resting(machine, name)

    def hold(one: Level) -> Level:
        if one.name in resting:
            return dataclasses.replace(one, optimizer=optax.set_to_zero(), keep=None)
        return one

    return with_flow(machine, name, flow, hold)


def held_state(machine: Machine, name: str, state: State) -> State:
    """The state as `with_held` has its levels, the flow of `name` having nothing to remember."""
    resting = _resting(machine, name)
    optimizers = {
        one: optax.set_to_zero().init({}) if one in resting else memory
        for one, memory in state.optimizers.items()
    }
    return dataclasses.replace(fresh(machine, name, state), optimizers=optimizers)


def _resting(machine: Machine, name: str) -> set[str]:
    inside = machine.declaration.inside(machine.problem.levels[name])
    return {one.name for one in machine.declaration.levels if one not in inside and not one.held}


def fresh(machine: Machine, name: str, state: State) -> State:
    """The state with what the flow of a level remembers at first."""
    memory = _trajectory.memory(machine.problem, machine.problem.levels[name], state.parts)
    flows = {one: kept for one, kept in state.flows.items() if one != name}
    if jax.tree.leaves(memory):
        flows[name] = memory
    return dataclasses.replace(state, flows=flows)


def executed_sum(
    machine: Machine, name: str, state: State, feed: Any, updates: int
) -> Callable[[Any], Any]:
    """As `executed`, the sum of a level's losses at some updates in a row, itself and the levels
    that are not inside it being held, as a function of a displacement of its value throughout."""
    other = with_held(machine, name, None)
    k = other.program.periods.index(other.problem.levels[name].every)
    begin = held_state(other, name, state)

    def run(by: Any) -> Any:
        parts = {**begin.parts, name: _moved(begin.parts[name], by)}

        def one(state: State, _: Any) -> tuple[State, Any]:
            state, info = other.advance(state, feed, k, anew=False)
            return state, jnp.sum(info[name].loss[0])

        start = dataclasses.replace(begin, parts=parts)
        return jnp.sum(jax.lax.scan(one, start, None, updates)[1])

    return run


def _loss(machine: Machine, program: Program, level: Level, state: State, feed: Any) -> Any:
    k = program.periods.index(level.every)
    return jnp.sum(machine.advance(state, feed, k, program)[1][level.name].loss[0])


def _settled(machine: Machine, level: Level, state: State, feed: Any) -> Callable[[Any], Any]:
    inside = [one.name for one in machine.declaration.inside(level)]
    rest = optax.set_to_zero()

    def held(one: Level) -> Level:
        if one.name in inside:
            return one
        return dataclasses.replace(one, flow=None, optimizer=rest, accumulate=None)

    other = with_flow(machine, level.name, None, held)
    period = max(level.every, *(one.every for one in machine.declaration.inside(level)))
    k = other.program.periods.index(period)

    def settle(by: Any) -> Any:
        parts = {**state.parts, level.name: _moved(state.parts[level.name], by)}
        optimizers = {
            name: state.optimizers[name] if name in inside else rest.init(one.trained)
            for name, one in parts.items()
        }
        begin = dataclasses.replace(state, parts=parts, optimizers=optimizers)

        def again(carried: Any, anew: bool = False) -> Any:
            now, _, _, count = carried
            after, info = other.advance(now, feed, k, anew=anew)
            same = {"contexts": state.contexts, "episodes": state.episodes}
            after = dataclasses.replace(after, tick=state.tick, **same)
            loss = jnp.sum(info[level.name].loss[-1])
            return after, _distance(now, after, inside), loss, count + 1

        def unsettled(carried: Any) -> Any:
            now, moved, _, count = carried
            size = jnp.sqrt(sum(_square(now.parts[one].trained) for one in inside))
            eps = jnp.finfo(size.dtype).eps
            return (moved > 4 * eps * (size + 1)) & (count < max(1, MOST_TICKS // period))

        first = again((begin, 0, 0, jnp.zeros((), jnp.int32)), anew=True)
        return jax.lax.while_loop(unsettled, again, first)[2]

    return settle


def with_flow(
    machine: Machine, name: str, flow: Any, change: Callable[[Level], Level] = lambda level: level
) -> Machine:
    """The same machine, which draws the same, with another flow for one level; `change` is applied
    to every level."""
    other = machine.changed(
        lambda one: change(dataclasses.replace(one, flow=flow) if one.name == name else one)
    )
    other.problem.draw = machine.problem.draw
    other.problem.moves = dict(machine.problem.moves)
    return other


@dataclasses.dataclass(frozen=True, eq=False)
class _Probe(Unroll):
    """Reads the losses of a trajectory at displaced values; finds no gradient."""

    by: Any = None

    def value_and_gradients(self, losses: Any, values: tuple) -> tuple[tuple, tuple, Any]:
        (value,) = values
        outputs, aux = losses((jax.tree.map(jnp.add, value, self.by),))
        return outputs, (jax.tree.map(jnp.zeros_like, value),), aux


def _moved(parts: Parts, by: Any) -> Parts:
    return parts.but(jax.tree.map(jnp.add, parts.trained, by))


def _square(tree: Any) -> Any:
    return sum(jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(tree))


def _distance(a: State, b: State, names: list[str]) -> Any:
    """How far the named levels moved."""
    return jnp.sqrt(
        sum(
            _square(jax.tree.map(jnp.subtract, a.parts[name].trained, b.parts[name].trained))
            for name in names
        )
    )
