"""Everything that a nest carries from step to step (rule R10)."""

import dataclasses
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _draws, _show
from ._calls import shown
from ._carry import NEVER, Episode
from ._values import Parts, Values, alike, joined, parted, whole


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class State:
    """Everything that a nest carries from step to step, as one pytree of arrays.

    Save its leaves and load them, and the run goes on bit for bit. Several runs side by side
    (`Nest.init` with several keys) are one state: every array has a leading axis of runs, except
    `tick`, which they share, and a given task, which exists once.

    Example:
        ```python
        w = nx.Level("w", lambda values, batch: (values["w"] - 3) ** 2, optax.sgd(0.25))
        state = nx.Nest([w]).init({"w": 1.0}, jax.random.key(0))
        print(state.values["w"], state.tick, state.runs)  # 1.0 0 None
        ```

    Attributes:
        parts: level name -> its value, divided into trained and other leaves; read `values`
            instead.
        optimizers: level name -> the state of its optimizer.
        tick: number of ticks done, int32, shape ().
        key: the key of the nest as raw numbers (uint32).
        held: the present task, divided like a value; read `task` instead.
        flows: level name -> the memory of its flow, such as the perturbations that `PES` has added
            up. Levels whose flow has no memory are left out.
        contexts: the memories of processes, by the name of the first level that reads each.
        episodes: level name -> an `Episode`: for each copy the tick at which its present episode
            began and the tick at which it will end. Empty if all episodes have fixed lengths: the
            tick determines them.
        tasks_differ: whether each run side by side has its own task; a Python bool.
    """

    parts: Any  # annotated no further: transformations fill pytrees with what they like
    optimizers: Any
    tick: Any
    key: Any
    held: Any
    flows: Any = dataclasses.field(default_factory=dict)
    contexts: Any = dataclasses.field(default_factory=dict)
    episodes: Any = dataclasses.field(default_factory=dict)
    tasks_differ: bool = False

    @property
    def ages(self) -> dict[str, Any]:
        """The age of each level's episode in ticks, by level name; with copies one age for each.

        Like `episodes` it is empty if all episodes have fixed lengths: a nest has ages if any
        horizon is drawn or any level has a `done`. Staggered first episodes count as begun before
        tick 0.
        """
        return {name: self.tick - episode.began for name, episode in self.episodes.items()}

    @property
    def values(self) -> dict[str, Any]:
        """Level name -> its value, in the structure given to `Nest.init`.

        Arrays of copied levels have a leading axis of copies. Read only: `replace` gives a state
        with other values.
        """
        return Values(whole(self.parts))

    @property
    def task(self) -> Any:
        """The present task.

        If copies have tasks of their own, its arrays have a leading axis of copies.
        """
        return self.held.whole()

    @property
    def runs(self) -> int | None:
        """The number of runs side by side; None for the state of a single run."""
        return self.key.shape[0] if getattr(self.key, "ndim", 1) == 2 else None

    def run(self, number: Any) -> "State":
        """The state of one of several runs side by side.

        Args:
            number: the number of the run, from 0; a whole number, also one in an array such as
                `jnp.nanargmin(losses)`.

        Returns:
            The state of a single run of the same nest.

        Raises:
            ValueError: there is no such run, or the state is that of a single run.
        """
        if self.runs is None:
            raise ValueError(
                "State.run: this state is that of a single run; runs side by side begin with "
                "nest.init(values, jax.random.split(key, n))"
            )
        try:
            index = -1 if isinstance(number, (bool, np.bool_)) else operator.index(number)
        except TypeError:  # no whole number, or a traced one
            index = -1
        if not 0 <= index < self.runs:
            raise ValueError(
                f"State.run: the number of a run is a whole number from 0 to {self.runs - 1}, got "
                f"{shown(number)}"
            )
        moving, shared = split(self, self.tasks_differ)
        return rejoined(_taken(moving, index), shared, self.tasks_differ, one=True)

    def replace(
        self,
        *,
        values: Any = None,
        optimizers: Any = None,
        tick: Any = None,
        key: Any = None,
        task: Any = None,
        contexts: Any = None,
    ) -> "State":
        """This state with some of its parts replaced.

        Everything else is kept, including the optimizer states of levels whose values are replaced.
        A level with a start whose episode begins at the next tick is started, whatever its value.

        Example:
            ```python
            w = nx.Level("w", lambda values, batch: (values["w"] - 3) ** 2, optax.sgd(0.25))
            state = nx.Nest([w]).init({"w": 1.0}, jax.random.key(0))
            print(state.replace(values={"w": 2.0}).values["w"])  # 2.0
            ```

        Args:
            values: level name -> value, with the structure, shapes and dtypes of the present one,
                including the leading axes of runs and of copies. Python numbers are accepted.
            optimizers: level name -> state of its optimizer.
            tick: number of ticks done, a multiple of the nest's `ticks_per_step`. At 0 all episodes
                begin; with `stagger` and fixed lengths only those that begin at the first tick of a
                run, while copies that are ahead go on from their values.
            key: the key of the nest, such as `jax.random.key(1)`, which gives other batches, starts
                and tasks; one key for each run if there are several.
            task: the task, in the form of `State.task`.
            contexts: the memories of processes, by the names in `State.contexts`. A memory begins
                anew with the episode, whatever it is.

        Returns:
            A new state; this one is unchanged.

        Raises:
            ValueError: a level that the state does not have, or a part that does not fit in place
                of the present one; the message names level and path.
        """
        parts, states = dict(self.parts), dict(self.optimizers)
        for name, value in _by_level(self, "values", values).items():
            parts[name] = parts[name].like(value, f"level {name!r}: value")
        for name, state in _by_level(self, "optimizers", optimizers).items():
            states[name] = Parts.of(states[name], copy=False)
            states[name] = states[name].like(state, f"level {name!r}: optimizer state").whole()
        memories = dict(self.contexts)
        for name, memory in _by_level(self, "contexts", contexts, self.contexts).items():
            memories[name] = Parts.of(memories[name], copy=False)
            memories[name] = memories[name].like(memory, f"the memory of {name!r}").whole()
        if tick is not None:
            if isinstance(tick, (int, np.integer)):
                if isinstance(tick, bool) or tick < 0:
                    raise ValueError(f"tick is a number of ticks, at least 0, got {tick!r}")
                tick = int(tick)
            tick = alike(self.tick, tick, "tick")
        if key is not None:
            key = _draws.raw_keys("State.replace", key)
            if key.shape != self.key.shape:
                wanted = "one key, such as jax.random.key(1)"
                if self.runs is not None:
                    wanted = f"{self.runs} keys, such as jax.random.split(key, {self.runs})"
                given = "one" if key.ndim == 1 else len(key)
                raise ValueError(f"State.replace: this state takes {wanted}; got {given}")
        episodes = self.episodes
        if tick is not None:  # they go on for as long as they would have, and begin anew at 0
            ends = lambda a: jnp.where(tick == 0, 0, _later(a, tick - self.tick))  # noqa: E731
            episodes = {
                name: Episode(_later(one.began, tick - self.tick), ends(one.ends))
                for name, one in episodes.items()
            }
        return dataclasses.replace(
            self,
            parts=parts,
            optimizers=states,
            tick=self.tick if tick is None else tick,
            key=self.key if key is None else key,
            held=self.held if task is None else self.held.like(task, "task"),
            contexts=memories,
            episodes=episodes,
        )

    def __repr__(self) -> str:
        return _show.state(self)

    def _repr_html_(self) -> str:
        return _show.state_html(self)

    def tree_flatten_with_keys(self):
        children, static = self.tree_flatten()
        keys = map(
            jax.tree_util.GetAttrKey,
            ("values", "optimizers", "tick", "key", "task", "flows", "contexts", "episodes"),
        )
        return tuple(zip(keys, children, strict=True)), static

    def tree_flatten(self):
        # Leaves have the paths of their owners' values, in `values` and in `task`.
        values, kinds = joined(self.parts)
        held, kind = joined({"task": self.held})
        rest = (self.optimizers, self.tick, self.key, held["task"], self.flows, self.contexts)
        return (values, *rest, self.episodes), (kinds, kind, self.tasks_differ)

    @classmethod
    def tree_unflatten(cls, static, children):
        values, optimizers, tick, key, task, flows, contexts, episodes = children
        kinds, kind, differ = static
        held = parted({"task": task}, kind)["task"]
        rest = (flows, contexts, episodes, differ)
        return cls(parted(values, kinds), optimizers, tick, key, held, *rest)


def split(state: State, drawn: bool) -> tuple[State, tuple[Any, Any]]:
    """What each run has for itself, and what all of them share: the tick and, unless tasks are
    drawn, the task."""
    moving = dataclasses.replace(state, tick=None, held=state.held if drawn else None)
    return moving, (state.tick, None if drawn else state.held)


def rejoined(moving: State, shared: tuple[Any, Any], drawn: bool, one: bool = False) -> State:
    """The inverse of `split`; `one`: of a single run."""
    tick, held = shared
    held = moving.held if drawn else held
    return dataclasses.replace(moving, tick=tick, held=held, tasks_differ=drawn and not one)


@jax.jit
def _taken(tree: Any, number: Any) -> Any:
    """An entry of every array's leading axis."""
    take = jax.lax.dynamic_index_in_dim
    return jax.tree.map(lambda a: take(a, number, 0, keepdims=False), tree)


def _later(tick: Any, by: Any) -> Any:
    """A tick moved; an episode without an end keeps none."""
    return jnp.where(tick == NEVER, tick, tick + by)


def _by_level(state: State, what: str, given: Any, remembered: Any = None) -> dict[str, Any]:
    """What `State.replace` is given for some levels, by names that the state has; `remembered`:
    those of the processes that remember something."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ValueError(
            f"{what} is a dict of level name -> replacement, got {type(given).__name__}"
        )
    for name in given:
        if remembered is not None and name not in remembered:
            there = ", ".join(map(repr, remembered))
            raise ValueError(
                f"{what}: no process remembers anything under the name {name!r}; "
                + (f"there are {there}" if there else "this state has no memories of processes")
            )
        if name not in state.parts:
            there = ", ".join(map(repr, state.parts))
            raise ValueError(f"{what}: no level is called {name!r}; there are {there}")
    return given


def taken_state(given: Any, method: str) -> None:
    """Refuses what is no state, with the name of the method that it was given to."""
    if isinstance(given, State):
        if getattr(given.tick, "ndim", 0) == 0:
            return
        raise ValueError(
            f"{method} takes a state with one tick, and this one has {given.tick.shape[0]}, as if "
            "states were stacked; begin runs side by side with nest.init(values, keys), or map "
            f"over them, jax.vmap(nest.{method})(states)"
        )
    unpack = isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], State)
    raise ValueError(
        f"{method} takes a state as init, step and run return it, got "
        + ("the pair (state, info); unpack it: state, info = ..." if unpack else shown(given))
    )


def single_state(given: Any, function: str) -> None:
    """Refuses what is no state, and a state of several runs, by the name of the function."""
    taken_state(given, function)
    if given.runs is not None:
        raise ValueError(
            f"{function} looks at one run, and this state holds {given.runs} side by side; take "
            "one of them: state.run(0)"
        )
