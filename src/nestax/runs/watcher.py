"""What `Nest.run(..., watch=...)` takes: a `Watch`, functions and loggers told of every step."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .folder import RunFolder
from .numbers import ROWS, Numbers, columns, row
from .progress import in_notebook
from .watch import Watch


class _Told:
    """Functions and loggers that are told of every step, beside at most one `Watch`."""

    def __init__(self, watches: Sequence[Any], functions: Sequence[Callable[..., Any]]):
        self._watch = watches[0] if watches else Watch(None, progress=False)
        self._functions, self._steps = functions, 0

    def begin(self, nest: Any, state: Any, steps: int) -> tuple[Any, int]:
        self._steps = steps
        for function in self._functions:
            if isinstance(function, _Writer):
                function.begin(steps)
        return self._watch.begin(nest, state, steps)

    def stops(self, nest: Any, state: Any, infos: Any, count: int) -> int | None:
        first = int(state.tick) // nest.ticks_per_step
        numbers = columns(nest, infos)
        for step in range(count):
            if self._tell(first + step + 1, row(numbers, step)):
                self._watch.stopping()
                return step + 1
        return None

    def _tell(self, step: int, numbers: Numbers) -> bool:
        """Tells all, also those after one that wants to stop."""
        return any([_answer(function, step, numbers) for function in self._functions])

    def diverged(self, nest: Any, state: Any, infos: Any, done: int) -> str:
        hint = self._watch.diverged(nest, state, infos, done)
        self._tell(int(state.tick) // nest.ticks_per_step + 1, row(columns(nest, infos), 0))
        return hint

    def __getattr__(self, name: str) -> Any:
        return getattr(self._watch, name)


def _answer(function: Callable[..., Any], step: int, numbers: Numbers) -> bool:
    answer = function(step, {name: dict(level) for name, level in numbers.items()})
    if answer is None:
        return False
    if isinstance(answer, (bool, np.bool_)) or getattr(answer, "shape", None) == ():
        return bool(answer)
    raise TypeError(
        f"watch: a function returns True to stop the run and None or False to go on; "
        f"{getattr(function, '__name__', function)!r} returned {answer!r}"
    )


def to_writer(writer: Any, every: int | None = None) -> Callable[[int, Numbers], None]:
    """Logs a run: `nest.run(..., watch=to_writer(SummaryWriter(), 1))`.

    `watch=` also accepts the logger itself, which means `every=None`. The names are `level/loss`,
    `level/gradient_norm` and `level/...` for the scalars that an objective returns; the step is the
    number of steps done since `Nest.init`.

    Args:
        writer: an object with `add_scalar(name, number, step)`, such as TensorBoard's writers, or
            with `log({name: number}, step=step)`, such as runs of Weights & Biases.
        every: steps between two calls; None: about 500 calls in a run.

    Returns:
        A function `(step, numbers)` for `watch=`.

    Raises:
        TypeError: the writer has neither.
        ValueError: `every` is below 1.
    """
    if not _is_writer(writer):
        raise TypeError(
            "to_writer: expected something with add_scalar(name, number, step) or "
            f"log({{name: number}}, step=step), got {type(writer).__name__}"
        )
    if every is not None and every < 1:
        raise ValueError(f"to_writer: every is a number of steps, at least 1, got {every}")
    return _Writer(writer, every)


class _Writer:
    """A function for `watch=` that hands numbers to a logger."""

    def __init__(self, writer: Any, every: int | None):
        self._writer, self._every, self._stride = writer, every, every or 1

    def begin(self, steps: int) -> None:
        """A run of so many steps begins."""
        self._stride = self._every or max(1, steps // ROWS)

    def __call__(self, step: int, numbers: Numbers) -> None:
        if step % self._stride:
            return
        flat = {f"{level}/{name}": x for level, one in numbers.items() for name, x in one.items()}
        if hasattr(self._writer, "add_scalar"):
            for name, number in flat.items():
                self._writer.add_scalar(name, number, step)
        else:
            self._writer.log(flat, step=step)


def _is_writer(thing: Any) -> bool:
    if isinstance(thing, logging.Logger):  # its `log` takes a level and a text
        return False
    return callable(getattr(thing, "add_scalar", None)) or callable(getattr(thing, "log", None))


def watcher(given: Any) -> Any:
    """What `Nest.run(..., watch=given)` means: a `Watch` or what behaves like one, or None.

    Args:
        given: None, a path, a `Watch`, a function, a logger, or a list of these. None shows a bar
            in notebooks.

    Raises:
        TypeError: something else.
        ValueError: two folders.
    """
    if given is None:
        return Watch() if in_notebook() else None
    if isinstance(given, (str, Path, RunFolder)):
        return Watch(given)
    if _is_watch(given):
        return given
    every = list(given) if isinstance(given, (list, tuple)) else [given]
    watches, functions = [], []
    for one in every:
        if isinstance(one, (str, Path, RunFolder)):
            watches.append(Watch(one))
        elif _is_watch(one):
            watches.append(one)
        elif _is_writer(one):
            functions.append(to_writer(one))
        elif callable(one):
            functions.append(one)
        else:
            raise TypeError(
                "watch takes a path, a function (step, numbers) -> bool or None, a Watch, a logger "
                f"with add_scalar or log, or a list of these; got {one!r}"
            )
    if len(watches) > 1:
        raise ValueError("watch: a run has one folder and one bar; give one path or Watch")
    if not functions:
        return watches[0] if watches else None
    if not watches and in_notebook():
        watches = [Watch()]
    return _Told(watches, functions)


def _is_watch(thing: Any) -> bool:
    return hasattr(thing, "begin") and hasattr(thing, "record")
