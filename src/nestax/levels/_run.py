"""The run loop: one compiled program for a run of any length, host data drawn ahead, stops that
lose nothing."""

import concurrent.futures
import dataclasses
import functools
import importlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _belongs, _feed, _finite, _lost_runs, _processes, _trust
from ._calls import shown
from ._machine import Info, Machine
from ._state import State
from ._stream import StreamEnded

_BUFFER = 2**24  # bytes of reports, and of host data, that one call of the program holds
_LONGEST = 1024  # steps in one call
_PIECE_SECONDS = 0.5  # between two reports to a watcher


class DivergenceError(FloatingPointError):
    """A loss, a gradient, a value or an optimizer state is not finite.

    Attributes:
        level: name of the level where this is seen first.
        step: number of the nest's step, counted from 0 since `Nest.init`.
        what: "loss", "gradient", "value" or "optimizer state".
        state: the state before that step, the last one that is finite.
        info: everything reported up to and including that step.
    """

    def __init__(
        self,
        level: str,
        step: int,
        state: Any,
        info: Any,
        hint: str = "",
        what: str = "loss",
        repair: str = "lower its learning rate or that of a level it depends on",
    ):
        self.level, self.step, self.state, self.info = level, step, state, info
        self.what = what
        super().__init__(
            f"level {level!r}: the {what} is not finite in step {step}; {repair}{hint}. The "
            f"error's `state` is the one before that step, after {int(state.tick)} ticks, and its "
            "`info` all reports up to that step"
        )


def _chunk(machine: Machine, length: int) -> Any:
    """A compiled function of (state, count, feed): `count` steps, reports in buffers of
    `length`, and what of the state at their end is not finite."""

    def chunk(state: State, count: jax.Array, fed: Any) -> tuple[State, Any, jax.Array]:
        held, key = state.held, state.key

        def slim(state: State) -> State:  # what never changes stays out of the loop
            task = state.held if machine.declaration.draws_task else None
            return dataclasses.replace(state, key=None, held=task)

        def whole(state: State) -> State:
            task = state.held if machine.declaration.draws_task else held
            return dataclasses.replace(state, key=key, held=task)

        _belongs.structure(machine, state)

        def step(moving: State) -> tuple[State, Any]:
            after, infos = machine.step(whole(moving), fed)
            return slim(after), infos

        shapes = jax.eval_shape(step, slim(state))[1]
        buffers = jax.tree.map(lambda a: jnp.zeros((length, *a.shape), a.dtype), shapes)

        def body(i: jax.Array, carried: Any) -> Any:
            moving, buffers = carried
            moving, infos = step(moving)
            return moving, jax.tree.map(lambda b, a: b.at[i].set(a), buffers, infos)

        moving, buffers = jax.lax.fori_loop(0, count, body, (slim(state), buffers))
        after = whole(moving)
        return after, buffers, machine.everywhere(_finite.lost(machine, state, after))

    return jax.jit(chunk)


def _length(machine: Machine, state: State) -> int:
    """Steps in one call, so that reports and host data stay small."""
    _belongs.structure(machine, state)
    fed = machine.example(state)
    shapes = jax.eval_shape(machine.step, state, fed)[1]
    size = max(
        sum(np.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))
        for tree in (shapes, fed)
    )
    return int(min(max(_BUFFER // max(size, 1), 1), _LONGEST))


def run(
    machine: Machine, state: State, steps: int, watch: Any, check: bool
) -> tuple[State, "Info"]:
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 0:
        raise ValueError(f"steps is a whole number of at least 0, got {shown(steps)}")
    watch = _watcher(watch)
    if _processes.together(state):
        watch = _of_all(watch, steps, check)
    if watch is None:
        return _loop(machine, state, steps, 0, None, check)
    try:
        state, done = watch.begin(machine, state, steps)
        return _loop(machine, state, steps, done, watch, check)
    except BaseException:
        watch.keep()  # an interruption loses nothing
        raise
    finally:
        watch.close()


def _watcher(given: Any) -> Any:
    """Who watches a run. Found by name: the library proper brings no progress package."""
    if given is None and "IPython" not in sys.modules:
        return None
    return importlib.import_module("nestax.runs.watcher").watcher(given)


def _of_all(watch: Any, steps: int, check: bool) -> Any:
    """Who watches a run of several processes: process 0 decides, and tells the others."""
    given = {"steps": steps, "check": check, "watch": watch is not None}
    _processes.alike(
        lambda: given,
        lambda given: given,
        lambda names: (
            f"Nest.run: {' and '.join(sorted(names))}: all processes make the same call (only "
            "process 0 writes, shows progress and calls functions). What was given is"
        ),
    )
    if watch is None:
        return None
    return importlib.import_module("nestax.runs.processes").OfAll(watch)


def _loop(
    machine: Machine, state: State, steps: int, done: int, watch: Any, check: bool
) -> tuple[State, "Info"]:
    _belongs.moment(machine, state)
    parts: list[Any] = []
    kept = machine.compiled
    if state.runs not in kept:
        length = _length(machine, state)
        kept[state.runs] = length, _chunk(machine, length)
    length, chunk = kept[state.runs]
    gone: set[int] = set()  # of runs side by side, those that are lost
    pieces = _pieces(machine, state, steps - done, length, watch is not None)
    together = _processes.together(state)
    with concurrent.futures.ThreadPoolExecutor(1) as ahead:
        waiting, ended = None, None
        for count, tell in pieces:
            tick = int(state.tick)
            ticks = length * machine.ticks_per_step
            fed: Any = {}
            if machine.problem.streams:
                if waiting is None or waiting[0] != tick:
                    waiting = (tick, ahead.submit(_partial_feed, machine, tick, count, ticks))
                try:
                    fed = _read(machine, waiting[1], together)
                except StreamEnded as error:
                    fed, count, ended = _until_end(machine, tick, ticks, error)
                    if not count:
                        break
                after = tick + count * machine.ticks_per_step
                left = steps - done - count
                waiting = None
                if left > 0 and ended is None:
                    following = min(left, length)
                    waiting = (after, ahead.submit(_partial_feed, machine, after, following, ticks))

            def piece(state: State, count: int, fed: Any = fed) -> Any:
                after, buffers, lost = chunk(state, jnp.asarray(count, jnp.int32), fed)
                rows = jax.tree.map(lambda a: _rows(a, count), buffers)
                return after, rows, _processes.on_host(lost)

            began = time.monotonic()
            next_state, infos, lost = piece(state, count)
            took = time.monotonic() - began
            if together and watch is not None:  # or every process would go its own number of steps
                took = _processes.led(lambda took=took: took)
            tell(took)
            stop = None
            if check:
                looked = functools.partial(_finite.with_norms, machine, fed)
                seen = (machine, piece, looked, state, count, infos, lost)
                if state.runs is None:
                    stop = _finite.examine(*seen)
                else:
                    stop = _lost_runs.examine(*seen, gone)
            good = count if stop is None else stop.step
            wanted = None if watch is None else watch.stops(machine, state, infos, good)
            if stop is not None and wanted is None:
                _diverged(machine, stop, parts, infos, done, steps, watch)
            if wanted is not None and wanted < count:
                count, infos = wanted, _first(machine, infos, wanted)
                next_state = piece(state, wanted)[0]
            parts.append(infos)
            _trust.warn(machine, infos, state.runs, gone)
            state, done = machine.own(next_state), done + count
            if watch is not None:
                watch.record(machine, state, infos, done, steps)
            ended = ended if wanted is None else None  # nobody asked for the batches that lack
            if wanted is not None or ended is not None:
                break
    if not parts:
        shapes = jax.eval_shape(machine.step, state, machine.example(state))[1]
        parts = [jax.tree.map(lambda a: np.zeros((0, *a.shape[1:]), a.dtype), shapes)]
    info = jax.tree.map(lambda *a: np.concatenate(a), *parts)
    if ended is not None:
        message = (
            f"{ended}, in step {done + 1} of {steps}. The error's `state` is that after the whole "
            "steps before it, and its `info` their reports; for several epochs give Stream.of a "
            "function that yields from the data again and again"
        )
        error = StreamEnded(ended.batches, ended.ticks, message)
        error.state, error.info = state, info
        raise error
    if watch is not None:
        watch.end(machine, state, done)
    return state, info


def _first(machine: Machine, infos: Any, count: int, after: int = 0) -> Any:
    """The reports of `count` steps."""
    cut = {}
    for level in machine.declaration.levels:
        per = machine.ticks_per_step // level.every
        rows = slice(after * per, (after + count) * per)
        cut[level.name] = jax.tree.map(lambda a, rows=rows: a[rows], infos[level.name])
    return {name: cut[name] for name in infos}


def _diverged(
    machine: Machine, stop: Any, parts: list, infos: Any, done: int, steps: int, watch: Any
) -> None:
    """Ends a run at a step that is not finite; everything before it is kept."""
    good, bad = _first(machine, infos, stop.step), _first(machine, infos, 1, stop.step)
    hint = ""
    if watch is not None:
        if stop.step:
            watch.record(machine, stop.state, good, done + stop.step, steps)
        hint = watch.diverged(machine, stop.state, bad, done + stop.step)
    info = jax.tree.map(lambda *a: np.concatenate(a), *parts, good, bad)
    step = int(stop.state.tick) // machine.ticks_per_step
    raise DivergenceError(stop.level, step, stop.state, info, hint, stop.what, stop.repair)


def _rows(buffer: Any, count: int) -> np.ndarray:
    rows = _processes.on_host(buffer)[:count]
    return rows.reshape(-1, *rows.shape[2:])


def _read(machine: Machine, waiting: Any, together: bool) -> Any:
    """Host data that was read ahead, the same in all processes.

    Raises:
        StreamEnded: in all of them at the same batch.
        ValueError: they have read something else.
    """
    if not together:
        return waiting.result()

    def read() -> Any:
        try:
            return waiting.result(), None
        except StreamEnded as end:
            return (end.batches, end.ticks), end

    fed, end = _processes.same_batches(read, machine.problem.streaming())
    if end is not None:
        raise end
    return fed


def _partial_feed(machine: Machine, tick: int, count: int, ticks: int) -> Any:
    """Host data for `count` steps, padded to that of a full call."""
    fed = _feed.feed(machine.problem, tick, count * machine.ticks_per_step)

    def padded(number: int, batches: Any) -> Any:
        size = ticks // machine.problem.stride(machine.problem.streams[number])

        def pad(a: np.ndarray) -> np.ndarray:
            whole = np.zeros((size, *a.shape[1:]), a.dtype)
            whole[: len(a)] = a
            return whole

        return jax.tree.map(pad, batches)

    return {number: (base, padded(number, batches)) for number, (base, batches) in fed.items()}


def _until_end(
    machine: Machine, tick: int, ticks: int, end: StreamEnded
) -> tuple[Any, int, StreamEnded]:
    """Host data for the whole steps before the first end of a stream, how many, and that end."""
    while (count := (end.ticks - tick) // machine.ticks_per_step) > 0:
        try:
            return _partial_feed(machine, tick, count, ticks), count, end
        except StreamEnded as earlier:  # another stream's end
            end = earlier
    return {}, 0, end


def _pieces(
    machine: Machine, state: State, steps: int, length: int, watched: bool
) -> Iterator[tuple[int, Any]]:
    """How many steps to do in each call: as many as fit, or about half a second of them."""
    count = 1 if watched else length
    while steps > 0:
        count = min(count, steps, length)
        took: list[float] = []
        yield count, took.append
        steps -= count
        if watched:
            count = max(1, min(2 * count, int(count * _PIECE_SECONDS / max(took[0], 1e-6))))
        else:
            count = length
