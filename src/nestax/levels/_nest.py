"""A nest: levels over a task, compiled to one step function."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ..flows.internal import check_arrays
from . import _belongs, _checks, _draws, _feed, _map, _run, _show, _side_by_side
from ._calls import shown
from ._declaration import Declaration, read_groups
from ._level import Level
from ._machine import Info, Machine
from ._peers import Order, Peers
from ._state import State, taken_state
from ._table import LevelTable, level_table
from ._values import Parts


class Nest:
    """An ordered set of levels over a task.

    Args:
        levels: innermost first. A tuple is a group of peers, which form a game; adjacent single
            levels of the same period without a flow are read as one tuple. A level's flow passes
            through every group before its own.
        task: data for the contexts: a pytree, or a function `key -> task` drawn anew for every
            longest episode. A pytree is a single task: every copy gets all of it, whatever the
            shapes of its arrays. `tasks` gives each copy its own.
        copies: this many independent episodes side by side: every group up to the last one with a
            start is copied, arrays have a leading axis; levels outside see the mean over copies.
            Without any start all levels are copied, and `init` takes values with that axis. A
            level to be shared that would be read as a peer of one with a start goes in as a tuple,
            `(policy,)`.
        order: how peers of one period move: "simultaneous", from one point, or "alternating". A
            group given as `Peers(..., order=...)` has its own order.
        stagger: whether the copies' episodes begin at evenly spread ticks.
        mesh: a `jax.sharding.Mesh` (axis_types Auto) over whose first axis the copies are spread.
        norms: whether reports hold the norms of gradients. They are taken at every update of every
            level and copy; where steps are a few milliseconds that may be a twentieth of the time.
        tasks: in place of `task`, one fixed task for each copy: a pytree of arrays whose leading
            axis has length `copies`. `state.task` has that axis, contexts and starts see the task
            of their copy.

    Values may be in half precision. Losses, sums and means over a period or over copies, and
    derivatives along a period with respect to the level's own value are computed in float32 at
    least; the gradient gets the value's dtype when it is handed to the optimizer. Derivatives that
    pass through the values of the levels inside have the dtypes of those.

    Raises:
        ValueError: a declaration that makes no sense, by the level's name and how to mend it.

    The source of the idea is Nested Learning (Behrouz et al. 2025), Definitions 2 and 3; gradients
    between levels are those of bilevel and multilevel optimization.
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
        return self.machine.declaration

    @property
    def groups(self) -> tuple[tuple[Level, ...], ...]:
        """The levels as they were read: groups of peers, innermost first."""
        return self.declaration.groups

    @property
    def copies(self) -> int | None:
        return self.declaration.copies

    @property
    def orders(self) -> tuple[str, ...]:
        """How the peers of each group move: "simultaneous" or "alternating"."""
        return self.declaration.orders

    @property
    def stagger(self) -> bool:
        return self.declaration.stagger

    @property
    def ticks_per_step(self) -> int:
        """Ticks of one step of the slowest level."""
        return self.declaration.periods[-1]

    def init(
        self, values: Mapping[str, Any], key: jax.Array, each: Mapping[str, Any] | None = None
    ) -> State:
        """The state to begin with, of one run or of several that go on side by side.

        Args:
            values: a value for every level without a start, by name; levels with a start are
                started, and a `Held` with a report needs no value. Runs side by side all begin
                with it. If copies are given and no level has a start, every array has a leading
                axis of copies: where each of them begins.
            key: `jax.random.key(seed)`; or keys along a leading axis, `jax.random.split(key, n)`,
                for n independent runs in one state. Each of them is the run that its key alone
                would begin.
            each: in place of entries of `values`, what differs between runs: level name -> a value
                whose arrays have a leading axis of runs.

        Raises:
            ValueError: values missing, unknown or without anything to train; leaves of a value that
                are no weights, and that the level's `trained` does not exclude; an update or start
                that changes structure, shape or dtype; an implicit flow whose gradient is zero or
                whose solver does not fit; a level both in `values` and in `each`, or there without
                the axis of runs. By level and path.
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
        if runs is None:
            state = first = self._begin(parts, raw, task)
        else:
            state = self._begin_each(parts, own, raw, task)
            first = state.run(0)
        _feed.check_streams(self.machine.problem, self.machine.read(first))
        _checks.state(self.machine, first)
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
        """One step of the slowest level; a pure function of the state, to be jitted or
        differentiated.

        Args:
            state: from `init` or an earlier step.
            feed: batches of the nest's streams for this step, from `feed`; drawn now if absent.

        Returns:
            The next state and, by level name, a `LevelInfo`; runs side by side are its second axis,
            after that of updates. They all see the same batches of streams, each its own of other
            contexts.

        Raises:
            ValueError: a state of another nest: what differs and how to repair it.
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
        """A step as a pure function of everything that moves, at fixed draws: for Jacobians,
        exponents and analysis of your own.

            f, x = nest.map(state)
            pushed = jax.jvp(f, (x,), (direction,))[1]  # a direction is a pytree like x

        Derivatives pass in both modes and to any order, through the optimizers and through
        `Unroll` and `Forward`; through `Implicit` in reverse mode only.

        Args:
            state: from `init` or an earlier step; may be traced.
            feed: batches of the nest's streams, from `nest.feed(state)`; needed if it has any.

        Returns:
            (f, x): x is the state's point, a dict of "values" by level name (what is trained of
            them, and what `keep` changes), and of those parts of "optimizers", "flows" and
            "contexts" that are inexact arrays, None in place of others. f(x) is the point after one
            step, with the batches, starts and tasks of that tick, whatever x is and however often f
            is applied.

        Raises:
            ValueError: a state of another nest; streams without a feed; a level whose update counts
                something as constant that moves, so that derivatives would be wrong without a word
                (`keep`, `Unroll(first_order=True)`, `FiniteDifference`, `Implicit` over a solver
                that is rough by design); f, for what is no point like x.
        """
        taken_state(state, "map")
        _map.check(self.declaration)
        if feed is None and self.machine.problem.streams:
            raise ValueError("map: this nest reads streams; give feed=nest.feed(state)")
        moving = _map.point(self.machine, state)
        return _map.stepped(self.machine, self._step, state, feed or {}), moving

    def feed(self, state: State, steps: int = 1) -> Any:
        """The batches of the nest's streams for the next steps; empty without streams."""
        taken_state(state, "feed")
        if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
            raise ValueError(f"steps is a whole number of at least 1, got {shown(steps)}")
        return self.machine.feed(state, int(steps))

    def run(
        self, state: State, steps: int, *, watch: Any = None, check: bool = True
    ) -> tuple[State, Info]:
        """Many steps of the slowest level in one compiled loop, whatever their number.

        Args:
            state: from `init` or an earlier run.
            steps: how many; a step is `ticks_per_step` ticks.
            watch: who is told of the run, or a list of several.
                A path: progress is shown, and measurements and checkpoints are kept in that folder,
                from which the same call goes on; `nestax.runs.Watch` has the options. Measurements
                are means over runs side by side: for each run evaluate `state.run(i).values`.
                A function `(step, numbers) -> bool | None`: called after every step with the number
                of steps done since `init` and, by level name, a dict of floats ("loss",
                "gradient_norm", and the scalars of the objective's info by their names, such as
                "accuracy" or "aux/kl"): those of the step's last update, means over copies, and of
                runs side by side over those where it is finite. True ends the run after that step.
                A logger with `add_scalar`, as TensorBoard's writers, or `log`, as a run of Weights
                & Biases: given about 500 points of the run; `nestax.runs.to_writer` has options.
                None: nobody, but in a notebook a bar shows progress.
            check: stop where the run is lost: a value or an optimizer state is not finite after a
                step, or a loss is not although its gradient is. A loss or gradient that is not
                finite, while all values and optimizer states stay so, has been dealt with by an
                optimizer such as `optax.apply_if_finite`: the run goes on, with one warning for
                each level (with `norms=False` only losses are seen). Values of episodes that are
                over do not count, nor infinities that a value has had before, such as a mask's.
                Of several runs side by side the others go on, with a warning that says which run is
                lost, where and why; the call stops where all of them are.

        Returns:
            The last state and, by level name, a `LevelInfo` whose leading axis is the level's
            updates in this call; the second is that of runs side by side, if there are any. A call
            that goes on in a folder reports its own updates only, none if the run had ended there.

        Raises:
            DivergenceError: as `check` says. It holds the level, the step, what is not finite, the
                last finite state and the infos so far.
            StreamEnded: a stream's iterator has no more batches; it holds the last state and the
                infos so far.
            ValueError: steps is not a whole number of at least 0; a state of another nest.
            TypeError: watch is none of these.
        """
        taken_state(state, "run")
        return _run.run(self.machine, state, steps, watch, check)

    def gradient(self, state: State, name: str | Sequence[str]) -> Any:
        """What a level hands to its optimizer at its next update, from this state.

        Args:
            state: at the boundary of a step, as `init`, `step` and `run` return it.
            name: the level's name. Several names, such as those of all players of a game: the joint
                field, in one program.

        Returns:
            A pytree like the level's value with None where nothing is trained; with leading axes
            of runs side by side, and of copies for copied levels. For several names a
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
        feed = {}
        if self.machine.problem.streams:
            feed = _feed.feed(self.machine.problem, int(state.tick), every)
        found = self._gradient(*names)(state, feed)
        return found if several else found[names[0]]

    def levels(self, state: State | None = None, hidden: bool = False) -> LevelTable:
        """The level table of one step (NL Definition 2): who moves how often, who waits for whom.

        Args:
            state: where conditional writes are counted by running; otherwise the shapes of the last
                `init` will do. Of runs side by side the first is looked at.
            hidden: whether loop carries that are no part of the state are listed.

        Raises:
            ValueError: neither a state nor an `init` before; a state of another nest.
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
