"""A run of several processes, watched: process 0 writes, the others only take part in what all
processes must do together."""

from typing import Any

import jax

from ..levels import _processes


class OfAll:
    """A `Watch`, or what behaves like one, in a run of several processes.

    Process 0 opens the folder, shows progress, calls functions and loggers, and decides: where the
    run goes on from, how long it goes, whether it stops. The others hear of it, errors included.
    States that are kept are first brought to process 0, by all processes. What `keep` is asked for,
    in the middle of an interruption, is no moment for that: then the newest checkpoint is what a
    run goes on from.

    Args:
        watch: the same in every process; used in process 0 only.
    """

    def __init__(self, watch: Any):
        self._watch, self._leads = watch, jax.process_index() == 0

    def begin(self, nest: Any, state: Any, steps: int) -> tuple[Any, int]:
        whole = _processes.whole(state)
        found: list[Any] = [whole]

        def begin() -> list[Any]:
            found[0], done = self._watch.begin(nest, whole, steps)
            return [done, found[0] is not whole]

        done, restored = _processes.led(begin)
        return (_processes.spread(found[0], state) if restored else state), done

    def stops(self, nest: Any, state: Any, infos: Any, count: int) -> int | None:
        return _processes.led(lambda: self._watch.stops(nest, state, infos, count))

    def record(self, nest: Any, state: Any, infos: Any, done: int, steps: int) -> None:
        def record() -> bool:
            known = None if hasattr(self._watch, "knows") else state
            self._watch.record(nest, known, infos, done, steps)
            return getattr(self._watch, "due", False)

        self._state = state
        if _processes.led(record):
            self._bring()

    def diverged(self, nest: Any, state: Any, infos: Any, done: int) -> str:
        self._bring()
        return _processes.led(lambda: self._watch.diverged(nest, state, infos, done))

    def end(self, nest: Any, state: Any, done: int) -> None:
        self._bring()
        _processes.led(lambda: self._watch.end(nest, state, done))

    def keep(self) -> None:
        if self._leads:
            self._watch.keep()

    def close(self) -> None:
        if self._leads:
            self._watch.close()

    _state: Any = None  # that was recorded last

    def _bring(self) -> None:
        if self._state is not None:
            whole = _processes.whole(self._state)
            if hasattr(self._watch, "knows"):
                _processes.led(lambda: self._watch.knows(whole))
            self._state = None
