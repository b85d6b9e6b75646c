"""A nest: levels over a task, compiled to one step function."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ..flows.internal import check_arrays
from . import (
    _belongs,
    _checks,
    _draws,
    _feed,
    _fingerprint,
    _map,
    _processes,
    _run,
    _show,
    _side_by_side,
)
from ._calls import shown
from ._declaration import Declaration, read_groups
from ._level import Level
from ._machine import Info, Machine
from ._peers import Order, Peers
from ._state import State, taken_state
from ._table import LevelTable, level_table
from ._values import Parts


class Nest:
    """Levels over a task, compiled to one step function.

    Values may be in half precision. These are computed in float32 at least: losses, sums and means
    over a period or over copies, and derivatives along a period with respect to the level's own
    value. The gradient gets the dtype of the value when it is handed to the optimizer. Derivatives
    that pass through the values of inner levels have the dtypes of those values.

    The rules by which a nest runs are in the guide [The rules of a nest](../guides/levels.md).

    Example:
        ```python
        w = nx.Level("w", lambda v, batch: (v["w"] - v["goal"]) ** 2, optax.sgd(0.4))
        outer = lambda v, batch: (v["w"] - 1) ** 2
        goal = nx.Level("goal", outer, optax.sgd(0.4), every=10, flow=nx.Unroll())
        nest = nx.Nest([w, goal])
        state = nest.init({"w": 0.0, "goal": 0.0}, jax.random.key(0))
        state, info = nest.run(state, steps=20)
        print(f"{state.values['goal']:.3f}")  # 1.000
        ```

    Args:
        levels: the levels, innermost first. A tuple is a group of peers, which form a game;
            adjacent single levels of the same period without a flow are read as one tuple. A
            level's flow passes through every group before its own.
        task: data for the contexts: a pytree; or a function `key -> task`, drawn anew for every
            longest episode. A pytree is a single task: every copy gets all of it, whatever the
            shapes of its arrays. `tasks` gives each copy its own task.
        copies: number of independent episodes side by side. Every group up to the last one with a
            start is copied: its arrays have a leading axis of copies. Levels outside see the mean
            over copies. Without any start all levels are copied, and `init` takes values with that
            axis. A level to be shared that would be read as a peer of a level with a start is given
            as a tuple, `(policy,)`.
        order: how peers of the same period move: "simultaneous", all from one point, or
            "alternating", each from where the previous one arrived. A group given as `Peers(...,
            order=...)` has its own order.
        stagger: whether the episodes of the copies begin at evenly spread ticks.
        mesh: a `jax.sharding.Mesh` (with axis_types Auto) over whose first axis the copies are
            spread. It may span all devices of several processes, which then make the same calls.
        norms: whether reports contain the norms of gradients. They are computed at every update of
            every level and copy. If a step takes a few milliseconds, they may take a twentieth of
            it.
        tasks: in place of `task`, one fixed task for each copy: a pytree of arrays whose leading
            axis has length `copies`. `state.task` has that axis; contexts and starts see the task
            of their copy.

    Raises:
        ValueError: a declaration that makes no sense; the message names the level and the repair.

    Source: Nested Learning (Behrouz et al., 2025), Definitions 2 and 3. Gradients between levels
    are those of bilevel and multilevel optimization.
    """

    def __init__(
        self,
        levels: Iterable[Level | Sequence[Level] | Peers],
        task: Any = None,
        copies: int | None = None,
        order: Order = "simultaneous",
        stagger: bool = False,
        mesh: Any = None,
        norms: bool = True,
        tasks: Any = None,
    ):
        # A function is a leaf; a pytree that happens to be callable is data.
        draws = callable(task) and jax.tree.leaves(task) == [task]
        _checks.task(task, draws)
        if not isinstance(norms, bool):
            raise ValueError(f"norms is True or False, got {shown(norms)}")
        if tasks is not None:
            _checks.tasks(tasks, task, copies)
        declaration = Declaration(
            *read_groups(levels, order), copies, stagger, draws, given_tasks=tasks is not None
        )
        self.task, self.order, self.mesh, self.norms = task, order, mesh, norms
        self.tasks = tasks
        if mesh is not None:
            _checks.mesh(mesh, copies)
        self.machine = Machine(declaration, task, tasks, mesh, norms)
        if tasks is not None and declaration.paired:
            _checks.paired(tasks)

    def __repr__(self) -> str:
        return _show.nest(self.declaration, self.ticks_per_step)

    def _repr_html_(self) -> str:
        return _show.nest_html(self.declaration, self.ticks_per_step)

    @property
    def declaration(self) -> Declaration:
        """The levels, groups, periods and options as they were read; for tools that show a nest."""
        return self.machine.declaration

    @property
    def groups(self) -> tuple[tuple[Level, ...], ...]:
        """The levels as they were read: groups of peers, innermost first."""
        return self.declaration.groups

    @property
    def copies(self) -> int | None:
        """The number of copies, or None."""
        return self.declaration.copies

    @property
    def orders(self) -> tuple[str, ...]:
        """How the peers of each group move: "simultaneous" or "alternating"."""
        return self.declaration.orders

    @property
    def stagger(self) -> bool:
        """Whether the episodes of the copies begin at evenly spread ticks."""
        return self.declaration.stagger

    @property
    def ticks_per_step(self) -> int:
        """Ticks of one step of the slowest level."""
        return self.declaration.periods[-1]

    def init(
        self, values: Mapping[str, Any], key: jax.Array, each: Mapping[str, Any] | None = None
    ) -> State:
        """The state to begin with, of one run or of several runs side by side.

        Example:
            ```python
            w = nx.Level("w", lambda values, batch: (values["w"] - 3) ** 2, optax.sgd(0.25))
            state = nx.Nest([w]).init({"w": 1.0}, jax.random.key(0))
            print(state.values["w"], state.tick)  # 1.0 0
            ```

        Args:
            values: a value for every level without a start, by name. Levels with a start are
                started, and a `Held` with a report needs no value. All runs side by side begin with
                these values. If the nest has copies and no level has a start, every array has a
                leading axis of copies.
            key: `jax.random.key(seed)` for one run. For n independent runs in one state, keys along
                a leading axis: `jax.random.split(key, n)`. Each run is the one that its key alone
                would begin.
            each: the values that differ between runs, in place of entries of `values`: level name
                -> a value whose arrays have a leading axis of runs.

        Returns:
            The `State` at tick 0. With keys along an axis, all arrays but the tick have a leading
            axis of runs.

        Raises:
            ValueError: values missing, unknown or without anything to train; leaves of a value that
                are not weights and that the level's `trained` does not exclude; an update or start
                that changes structure, shape or dtype; an implicit flow whose gradient is zero or
                whose solver does not fit; a level both in `values` and in `each`, or in `each`
                without the axis of runs. The message names level and path. Processes whose values,
                key, task or programs differ.
        """
        raw = _draws.raw_keys("init", key)
        runs = _side_by_side.count(raw)
        differing = _side_by_side.each_run(each, values, runs)
        given = {**values, **differing} if isinstance(values, Mapping) else values
        _checks.names(self.declaration, given)
        levels = self.machine.problem.levels
        values = {**values, **{n: None for n in levels if levels[n].reports and n not in given}}
        parts = {
            n: self.machine.problem.taken_apart(levels[n], value) for n, value in values.items()
        }
        own = {n: _side_by_side.taken_apart(levels[n], one) for n, one in differing.items()}
        single = parts | jax.tree.map(lambda a: a[0], own)
        _checks.trainable(single, levels)
        _checks.for_copies(self.declaration, single)
        check_arrays("the task", self.machine.given_task)
        task = Parts.of(self.machine.given_task, copy=False)
        told = {f"the value of level {n!r}": one for n, one in {**parts, **own}.items()}
        _processes.same_beginning(self.mesh, {**told, "the key": raw, "the task": task})
        if runs is None:
            state = first = self._begin(parts, raw, task)
        else:
            state = self._begin_each(parts, own, raw, task)
            first = state.run(0)
        _feed.check_streams(self.machine.problem, self.machine.read(first))
        _checks.state(self.machine, first)
        if _processes.together(first):
            traced = _fingerprint.program(self.machine, first)
            # Of streams the batches are compared: what reads them may be at home elsewhere.
            streams = [name for name in traced if name.startswith("the stream of")]
            _processes.same_program({n: traced[n] for n in traced if n not in streams})
        self.machine.noted(first)
        return self.machine.own(state)

    @functools.cached_property
    def _begin(self) -> Callable[..., State]:
        return jax.jit(self.machine.begin)  # one program instead of hundreds of single operations

    @functools.cached_property
    def _begin_each(self) -> Callable[..., State]:
        return jax.jit(self.machine.begin_each)

    @functools.cached_property
    def _step(self) -> Callable[[State, Any], tuple[State, Info]]:
        def step(state: State, feed: Any) -> tuple[State, Info]:
            _belongs.structure(self.machine, state)
            return self.machine.step(state, feed)

        return jax.jit(step)

    def step(self, state: State, feed: Any = None) -> tuple[State, Info]:
        """One step of the slowest level, as a pure function of the state.

        It may be jitted, differentiated and vectorized with `jax.vmap`.

        Example:
            ```python
            w = nx.Level("w", lambda values, batch: (values["w"] - 3) ** 2, optax.sgd(0.25))
            nest = nx.Nest([w])
            state, info = nest.step(nest.init({"w": 1.0}, jax.random.key(0)))
            print(state.values["w"], info["w"].loss)  # 2.0 [4.]
            ```

        Args:
            state: from `init` or an earlier step.
            feed: batches of the nest's streams for this step, from `Nest.feed`. None: they are
                drawn now.

        Returns:
            (state, info): the next state, and a `LevelInfo` by level name. Its arrays have a
            leading axis of updates, then one of runs side by side. Such runs see the same batches
            of streams; the batches of other contexts are drawn for each run.

        Raises:
            ValueError: a state of another nest; the message says what differs and how to repair it.
        """
        taken_state(state, "step")
        _belongs.moment(self.machine, state)
        if feed is None:
            feed = self.feed(state)
        else:
            _checks.feed(self.machine, state, feed)
        after, info = self._step(state, feed)
        return self.machine.own(after), info

    def map(
        self, state: State, feed: Any = None
    ) -> tuple[Callable[[dict[str, Any]], dict[str, Any]], dict[str, Any]]:
        """A step as a pure function of everything that moves, at fixed random draws.

        For Jacobians, Lyapunov exponents and other analyses. Derivatives pass in both modes and to
        any order, through the optimizers and through `Unroll` and `Forward`; through `Implicit` in
        reverse mode only.

        Example:
            ```python
            w = nx.Level("w", lambda values, batch: (values["w"] - 3) ** 2, optax.sgd(0.125))
            nest = nx.Nest([w])
            f, x = nest.map(nest.init({"w": 1.0}, jax.random.key(0)))
            print(jax.jacobian(f)(x)["values"]["w"]["values"]["w"])  # 0.75
            ```

        Args:
            state: from `init` or an earlier step; may be traced.
            feed: batches of the nest's streams, from `nest.feed(state)`; needed if it has any.

        Returns:
            (f, x): x is the point of the state, a dict with "values" by level name (the trained
            leaves, and those that `keep` changes) and with those parts of "optimizers", "flows" and
            "contexts" that are inexact arrays; other leaves are None. f(x) is the point after one
            step. It always uses the batches, starts and tasks of the state's tick, whatever x is
            and however often f is applied. Counts stay as they are too: schedules and the bias
            correction of Adam are those of the state's step.

        Raises:
            ValueError: a state of another nest; streams without a feed; a level whose update treats
                something as constant that moves, so that derivatives would be wrong without a
                warning (`keep`, `Unroll(first_order=True)`, `FiniteDifference`, `Implicit` over a
                solver that is rough by design). f raises it for a point that is not like x.
        """
        taken_state(state, "map")
        _map.check(self.declaration)
        if feed is None and self.machine.problem.streams:
            raise ValueError("map: this nest reads streams; give feed=nest.feed(state)")
        moving = _map.point(self.machine, state)
        return _map.stepped(self.machine, self._step, state, feed or {}), moving

    def feed(self, state: State, steps: int = 1) -> Any:
        """The batches of the nest's streams for the next steps.

        Args:
            state: from `init` or an earlier step; the batches are those that follow its tick.
            steps: number of steps, at least 1.

        Returns:
            A pytree of arrays for `step` and `map`; an empty dict if the nest has no streams.

        Raises:
            ValueError: `steps` is not a whole number of at least 1; not a state.
            StreamEnded: a stream has no more batches.
        """
        taken_state(state, "feed")
        if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
            raise ValueError(f"steps is a whole number of at least 1, got {shown(steps)}")
        return self.machine.feed(state, int(steps))

    def run(
        self, state: State, steps: int, *, watch: Any = None, check: bool = True
    ) -> tuple[State, Info]:
        """Many steps of the slowest level in one compiled loop.

        The program is compiled once, whatever the number of steps.

        Example:
            ```python
            w = nx.Level("w", lambda values, batch: (values["w"] - 3) ** 2, optax.sgd(0.25))
            nest = nx.Nest([w])
            state, info = nest.run(nest.init({"w": 1.0}, jax.random.key(0)), steps=3)
            print(info["w"].loss)  # [4.   1.   0.25]
            ```

        Args:
            state: from `init`, `step` or an earlier run.
            steps: number of steps; each takes `ticks_per_step` ticks.
            watch: the watcher of the run, or a list of several.

                * A path: progress is shown, and measurements and checkpoints are written to that
                  folder. The same call made again goes on from there. `nestax.runs.Watch` has the
                  options. Measurements are means over runs side by side; evaluate
                  `state.run(i).values` for each.
                * A function `(step, numbers) -> bool | None`, called after every step with the
                  number of steps done since `init` and, by level name, a dict of floats: "loss",
                  "gradient_norm", and the scalars of the objective's info by their paths, such as
                  "accuracy" or "aux/kl". They belong to the last update of the step and are means
                  over copies, and over those runs side by side in which they are finite. If it
                  returns True the run ends after that step.
                * A logger with `add_scalar`, such as TensorBoard's writers, or with `log`, such as
                  a run of Weights & Biases: it gets about 500 points of the run.
                  `nestax.runs.to_writer` has the options.
                * None: no watcher; in a notebook a bar shows progress.

                Where several processes run the nest, all give the same watcher. Process 0 writes,
                shows progress and calls functions and loggers; its answer holds for all.
            check: whether to stop when the run is lost: a value or an optimizer state is not finite
                after a step, or a loss is not finite although its gradient is. If only a loss or a
                gradient is not finite, an optimizer such as `optax.apply_if_finite` has handled it:
                the run goes on, with one warning for each level (with `norms=False` only losses are
                seen). Values of episodes that are over do not count, nor do infinities that a value
                had before, such as those of a mask. Of several runs side by side the others go on,
                and a warning says which run is lost, where and why; the call stops when all of them
                are lost.

        Returns:
            (state, info): the last state, and a `LevelInfo` by level name. The leading axis of its
            arrays counts the level's updates in this call; the second one counts runs side by side,
            if there are any. A call that goes on in a folder reports its own updates only: none if
            the run had ended there.

        Raises:
            DivergenceError: the run is lost and `check` is set. The error has the level, the step,
                what is not finite, the last finite state and the reports so far.
            StreamEnded: a stream's iterator has no more batches. The error has the last state and
                the reports so far.
            ValueError: `steps` is not a whole number of at least 0; a state of another nest;
                processes that differ in steps, in whether they watch, or in a stream's batches.
            RuntimeError: another process failed; the message quotes its error.
            TypeError: `watch` is none of the above.
        """
        taken_state(state, "run")
        return _run.run(self.machine, state, steps, watch, check)

    def gradient(self, state: State, name: str | Sequence[str]) -> Any:
        """The gradient that a level hands to its optimizer at its next update.

        Example:
            ```python
            w = nx.Level("w", lambda values, batch: (values["w"] - 3) ** 2, optax.sgd(0.25))
            nest = nx.Nest([w])
            print(nest.gradient(nest.init({"w": 1.0}, jax.random.key(0)), "w"))  # -4.0
            ```

        Args:
            state: at the boundary of a step, as `init`, `step` and `run` return it.
            name: the level's name. Several names, such as those of all players of a game, give the
                joint field in one program.

        Returns:
            A pytree like the level's value, with None where nothing is trained. Its arrays have
            leading axes of runs side by side, and of copies for copied levels. For several names a
            dict of such pytrees.

        Raises:
            ValueError: no level has that name; a state of another nest.
        """
        taken_state(state, "gradient")
        several = isinstance(name, (tuple, list))
        names: tuple[Any, ...] = tuple(name) if several else (name,)
        for one in names:
            _checks.known(self.declaration, one)
        if not names:
            raise ValueError("gradient takes the name of a level, or several, got none")
        _belongs.moment(self.machine, state)
        every = max(self.machine.problem.levels[one].every for one in names)
        feed = self.machine.fed(state, every)
        found = self._gradient(*names)(state, feed)
        return found if several else found[names[0]]

    def levels(self, state: State | None = None, hidden: bool = False) -> LevelTable:
        """The level table of one step: how often each part of the state is written.

        Example:
            ```python
            w = nx.Level("w", lambda v, batch: (v["w"] - v["goal"]) ** 2, optax.sgd(0.4))
            outer = lambda v, batch: (v["w"] - 1) ** 2
            nest = nx.Nest([w, nx.Level("goal", outer, optax.sgd(0.4), every=10, flow=nx.Unroll())])
            table = nest.levels(nest.init({"w": 0.0, "goal": 0.0}, jax.random.key(0)))
            print(table.frequencies[".values['w']"], table.frequencies[".values['goal']"])  # 10 1
            ```

        Args:
            state: a state to run a step from, to count conditional writes. None: the shapes of the
                last `init` are used. Of runs side by side the first is used.
            hidden: whether to list loop carries that are not a part of the state.

        Returns:
            A `LevelTable`; print it.

        Raises:
            ValueError: neither a state nor an `init` before; a state of another nest.

        Source: Nested Learning (Behrouz et al., 2025), Definition 2.
        """
        if state is None and self.machine.shapes is None:
            raise ValueError("levels() looks at a state: call init first, or give one")
        if state is not None:
            taken_state(state, "levels")
            _belongs.moment(self.machine, state)
            _belongs.structure(self.machine, state)
            state = state if state.runs is None else state.run(0)
        shapes, feed = self.machine.shapes if state is None else (state, self.feed(state))  # type: ignore
        return level_table(
            lambda state, feed: self.machine.step(state, feed)[0], shapes, feed, hidden=hidden
        )

    def _gradient(self, *names: str) -> Callable[[State, Any], dict[str, Any]]:
        kept = self.machine.compiled
        if ("gradient", names) not in kept:
            gradient = self.machine.gradient(*names)

            def checked(state: State, feed: Any) -> Any:
                _belongs.structure(self.machine, state)
                return gradient(state, feed)

            kept["gradient", names] = jax.jit(checked)
        return kept["gradient", names]
