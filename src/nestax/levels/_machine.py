"""What a nest runs on: a declaration over a task, its program, and what is known of its states.

Whatever checks, runs or differentiates a nest works on this object; `Nest` is its public face.
"""

import copy as _copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from . import (
    _consistency,
    _episodes,
    _experience,
    _feed,
    _processes,
    _side_by_side,
    _trajectory,
)
from ._carry import Carry, Mode, View
from ._declaration import Declaration, flow_of
from ._info import LevelInfo
from ._level import Level
from ._problem import Problem
from ._program import Program
from ._state import State
from ._updates import begun
from ._values import Parts

Info = dict[str, LevelInfo]


def _memories(carry: Carry) -> dict[str, Any]:
    """What processes remember; those that remember nothing are left out."""
    memories = {name: memory for name, (_, memory) in carry.contexts.items()}
    return {name: memory for name, memory in memories.items() if jax.tree.leaves(memory)}


class Machine:
    """A declaration over a task as functions of states.

    Attributes:
        declaration: the levels.
        task: what the nest was given: data, or a function that draws it.
        tasks: in its place a task for each copy, or None.
        mesh: over whose first axis copies are spread, or None.
        norms: whether reports hold the norms of gradients.
        problem: the levels at one point.
        program: the loops.
        warned: what was warned about already.
        sound: shapes of states for which the levels were checked, see `Machine.like`.
        shapes: shapes of a state and of the host data of a step, once they are known.
        seen: tick and task of the last state that is known to be this nest's.
        compiled: programs that were compiled, by what they are for.

    Raises:
        ValueError: a declaration that makes no sense, by level.
    """

    def __init__(
        self, declaration: Declaration, task: Any, tasks: Any, mesh: Any = None, norms: bool = True
    ):
        _consistency.check(declaration)
        self.declaration, self.task, self.tasks = declaration, task, tasks
        self.mesh, self.norms = mesh, norms
        self.problem = Problem(declaration, mesh, task if declaration.draws_task else None)
        self.program = Program(self.problem, norms)
        self.warned: set[Any] = set()
        self.sound: set[Any] = set()
        self.shapes: Any = None
        self.seen: Any = (None, None)
        self.compiled: dict[Any, Any] = {}
        self._host: Any = None

    @property
    def copies(self) -> int | None:
        return self.declaration.copies

    @property
    def ticks_per_step(self) -> int:
        """Ticks of one step of the slowest level."""
        return self.declaration.periods[-1]

    @property
    def given_task(self) -> Any:
        """The task to begin with, or those of all copies; None if tasks are drawn."""
        if self.declaration.draws_task:
            return None
        return self.task if self.tasks is None else self.tasks

    def changed(self, change: Callable[[Level], Level]) -> "Machine":
        """A machine of the same groups and options, each level replaced by `change(level)`."""
        groups = tuple(tuple(map(change, group)) for group in self.declaration.groups)
        paired = self.declaration.paired  # whatever the levels become, they draw the same
        declaration = dataclasses.replace(self.declaration, groups=groups, pairs=paired)
        return Machine(declaration, self.task, self.tasks, self.mesh, self.norms)

    def own(self, state: State) -> State:
        """Remembers that a state is this nest's."""
        if not isinstance(state.tick, Tracer):
            self.seen = state.tick, state.held
        return state

    def feed(self, state: State, steps: int = 1) -> Any:
        """The batches of the nest's streams for the next steps; empty without streams."""
        return self.fed(state, steps * self.ticks_per_step)

    def fed(self, state: State, ticks: int) -> Any:
        """The same for the next ticks."""
        if not self.problem.streams:
            return {}

        def read() -> Any:
            return _feed.feed(self.problem, int(state.tick), ticks)

        if _processes.together(state):
            return _processes.same_batches(read, self.problem.streaming())
        return read()

    def example(self, state: State) -> Any:
        """The host data of one step, or its shapes: for those who need no more, and read once for
        a nest, since every reading costs time and an iterator its batches."""
        if self._host is None:
            self._host = _feed.shapes(self.feed(state))
        return self._host

    def read(self, state: State) -> Any:
        """The host data of one step from this state; kept until the state is noted."""
        self._host = self.feed(state)
        return self._host

    def like(self, state: State) -> Any:
        """What states and their host data have in common if the same programs run on them."""
        leaves, structure = jax.tree.flatten((state, self.example(state)))
        leaves = tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        return structure, leaves, jnp.result_type(float)

    def noted(self, state: State) -> None:
        """Notes the shapes of a state that was looked at, and of its host data."""
        self.shapes = _feed.shapes((state, self._host))
        self._host = self.shapes[1]

    def begin(self, parts: dict[str, Parts], key: jax.Array, task: Parts) -> State:
        """The state to begin with, from the values that are given, taken apart."""
        problem, nest = self.problem, self.declaration
        view = View(nest.copies)
        zero = jnp.zeros((), jnp.int32)
        carry = Carry({}, {}, task, zero, key, {}, {}, {}, {}, {}, {})
        if nest.draws_task:
            carry = carry._replace(task=_episodes.drawn_task(problem, self.task, carry, view))
        elif nest.given_tasks:
            carry = carry._replace(task=problem.placed(task))
        for level in reversed(nest.levels):
            name = level.name
            if level.start is None:
                one = parts[name]
                if problem.copied[name]:
                    spread = lambda a: jnp.broadcast_to(a, (nest.copies, *a.shape))  # noqa: E731
                    one = problem.placed(jax.tree.map(spread, one) if nest.episodic else one)
                carry = carry._replace(values={name: one, **carry.values})
        # A start may look at any level outside it: persistent values are all there by now.
        for level in reversed(nest.episodic):
            value, state = _episodes.fresh(problem, level, carry, view)
            carry = carry._replace(
                values={level.name: value, **carry.values},
                optimizers={level.name: state, **carry.optimizers},
            )
        optimizers = {
            level.name: carry.optimizers[level.name]
            if level.start is not None
            else self.optimizer(level, carry.values)
            for level in nest.levels
        }
        values = {level.name: carry.values[level.name] for level in nest.levels}
        flows = {level.name: _trajectory.memory(problem, level, values) for level in nest.levels}
        flows = {name: memory for name, memory in flows.items() if jax.tree.leaves(memory)}
        contexts = _memories(_experience.remembered(problem, carry._replace(values=values), view))
        episodes = _episodes.first_episodes(problem, carry, view)
        return State(values, optimizers, zero, key, carry.task, flows, contexts, episodes)

    def begin_each(
        self, parts: dict[str, Parts], each: dict[str, Parts], keys: jax.Array, task: Parts
    ) -> State:
        """The state that runs side by side begin with; `each` holds what differs between them."""
        begin = lambda own, key: self.begin({**parts, **own}, key, task)  # noqa: E731
        return _side_by_side.begun(begin, each, keys, self.declaration.draws_task)

    def optimizer(self, level: Level, values: dict[str, Parts]) -> Any:
        """The state that a level's optimizer begins with."""
        problem, copies = self.problem, self.declaration.copies
        if problem.copied[level.name]:

            def one(values: dict[str, Parts]) -> Any:
                made = problem.transformation(level, values)
                return begun(level.name, made, values[level.name].trained)

            return problem.lift(one, View(copies), (problem.axes(values),))(values)
        visible = {n: p for n, p in values.items() if copies is None or not problem.copied[n]}
        made = problem.transformation(level, visible)
        return begun(level.name, made, values[level.name].trained)

    def carry(self, state: State, feed: Any, blank: bool = False) -> Carry:
        """A state as programs take it; `blank`: without the batches of processes."""
        contexts = {n: ((), state.contexts.get(n, ())) for n in self.problem.processes}
        carry = Carry(
            state.parts,
            state.optimizers,
            state.held,
            state.tick,
            state.key,
            {},
            {},
            feed or {},
            state.flows,
            contexts,
            state.episodes,
        )
        return _experience.with_batches(self.problem, carry, View(self.declaration.copies), blank)

    def advance(
        self, state: State, feed: Any, k: int, program: Program | None = None, anew: bool = True
    ) -> tuple[State, Info]:
        """One period of the k-th clock, by `program` or the machine's own, and its reports; `anew`:
        episodes begin that are due at this tick by slower clocks."""
        program = self.program if program is None else program
        return self._each(lambda one: self._advance_one(one, feed, k, program, anew), state)

    def _each(
        self, advance: Callable[[State], tuple[State, Info]], state: State
    ) -> tuple[State, Info]:
        """Of one run, or of each of those side by side."""
        if state.runs is None:
            after, infos = advance(state)
        else:
            after, infos = _side_by_side.advanced(advance, state, self.declaration.draws_task)
        return after, self.everywhere(infos)

    def _advance_one(
        self, state: State, feed: Any, k: int, program: Program, anew: bool
    ) -> tuple[State, Info]:
        view = View(self.declaration.copies)
        carry = program.entered(k, self.carry(state, feed, blank=True), view, anew)
        carry = carry._replace(before={name: program.kept(carry) for name in program.rerun})
        carry, infos = program.advance(k, carry, view, Mode())
        order = [level.name for level in self.declaration.levels if level.name in infos]
        rest = (carry.tick + 1, carry.key, carry.task, carry.flows, _memories(carry))
        state = State(carry.values, carry.optimizers, *rest, carry.episodes)
        return state, {name: infos[name] for name in order}

    def everywhere(self, reports: Any) -> Any:
        """Reports that every process of a mesh can read."""
        if self.mesh is None:
            return reports
        everywhere = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())
        return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, everywhere), reports)

    @functools.cached_property
    def _step(self) -> Callable[[State, Any], tuple[State, Info]]:
        last = len(self.declaration.periods) - 1

        def step(state: State, feed: Any) -> tuple[State, Info]:
            return self._advance_one(state, feed, last, self.program, True)

        return jax.jit(step, inline=True)  # traced once, for whoever needs it

    def step(self, state: State, feed: Any) -> tuple[State, Info]:
        """One period of the slowest clock; traced once for each shape of its arguments."""
        return self._each(lambda one: self._step(one, feed), state)

    def gradient(self, *names: str) -> Callable[[State, Any], dict[str, Any]]:
        """(state, feed) -> what some levels hand to their optimizers at their next updates, by
        name."""
        program = _copy.copy(self.program)
        program.captured = frozenset(names)
        periods = [program.levels[name].every for name in names]
        for level in self.declaration.levels:  # inside these, levels see perturbed values
            inside = {one.name for one in self.declaration.inside(level)}
            if flow_of(level).perturbs and inside.intersection(names):
                periods.append(level.every)
        k = program.periods.index(max(periods))

        def gradient(state: State, feed: Any) -> Any:
            infos = self.advance(state, feed, k, program)[1]
            found = {name: infos[name].gradient for name in names}
            return jax.tree.map(lambda a: a[0], found)

        return gradient
