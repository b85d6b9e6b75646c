"""A nest's run, watched: progress, measurements and checkpoints in a run's folder, functions and
loggers that are told of every step."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..levels._fingerprint import differences, fingerprint
from .errors import RunError
from .folder import RunFolder
from .progress import bar, in_notebook

_ROWS = 500  # measurements kept of a run, about
_KIND = "nest"

Numbers = dict[str, dict[str, float]]
"""Level -> name -> number: "loss", "gradient_norm" and the scalars among its info."""


class Watch:
    """The folder and the progress bar of a run, for `Nest.run(..., watch=...)`.

    `nest.run(state, steps, watch="runs/mine")`, short for `watch=Watch("runs/mine")`, shows
    progress and writes a run's folder. The same line after an interruption, `kill -9` included,
    continues from the newest checkpoint and ends in exactly the state of an uninterrupted run. A
    finished run is not repeated; a larger number of steps continues it. Ctrl-C and a divergence
    leave a checkpoint of the last finite state. Make a new `Watch` for each call.

    The folder's `metrics.jsonl` gets about 500 lines, whatever the number of steps. A line has the
    step, and for each level the loss, the norm of the gradient and the scalars that the objective
    returns, at the last update of the step. They are means over copies, and over those of several
    runs side by side whose value is finite; null if there is none.

    A folder belongs to one run, which is recognised by its initial state (values, key, task) and by
    its program (objectives, data, starts, optimizers with their rates, clocks, flows). Programs are
    not compared across versions of JAX, and not in where their arrays lie: a run continues with
    another mesh, or without one.

    Where several processes run one nest, each gives the same `watch`. Process 0 alone opens the
    folder, writes and shows progress; see [Beyond one machine](../guides/machines.md).

    Args:
        folder: path of the run's folder, or an open `RunFolder`; None: only show progress.
        progress: whether to show a live bar, or lines when piped.
        checkpoint_seconds: seconds between two checkpoints, the most that an interruption costs; 0:
            one after every call of the program.

    Attributes:
        checkpoint_seconds: seconds between two checkpoints.

    Raises:
        RunError: when the run begins: the folder holds another run, or more steps than are asked
            for; it is in use, or cannot be written; a package that checkpoints need is not
            installed.

    Example:
        ```python
        import pathlib, tempfile

        w = nx.Level("w", lambda values, batch: (values["w"] - 3.0) ** 2, optax.sgd(0.5))
        nest = nx.Nest([w])
        state = nest.init({"w": 0.0}, jax.random.key(0))
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "run"
            state, infos = nest.run(state, 2, watch=nx.runs.Watch(path, progress=False))
            with nx.runs.RunFolder(path) as run:
                print([line["loss"]["w"] for line in run.metrics()])  # [9.0, 0.0]
        ```
    """

    def __init__(
        self,
        folder: str | Path | RunFolder | None = None,
        progress: bool = True,
        checkpoint_seconds: float | int = 30.0,
    ):
        self.checkpoint_seconds = checkpoint_seconds
        self._given, self._shows = folder, progress
        self._folder: RunFolder | None = folder if isinstance(folder, RunFolder) else None
        self._progress: Any = None
        self._identity: dict[str, Any] = {}
        self._saved_at = time.monotonic()
        self._last = -1
        self._recorded: tuple[int, Any, int] | None = None  # steps, state, bytes of metrics.jsonl
        self._steps, self._stopping = 0, False

    def begin(self, nest: Any, state: Any, steps: int) -> tuple[Any, int]:
        """Opens the folder and the bar; called by `Nest.run` before the first step.

        Args:
            nest: the nest that runs.
            state: its initial state.
            steps: of the whole run.

        Returns:
            (state, done): the state to continue from, and how many steps are done already.

        Raises:
            RunError: see the class.
        """
        done, self._steps = 0, steps
        if self._given is not None:
            done, state = self._open(nest, state, steps)
        if self._shows:
            self._progress = bar(max(steps, 1))
            self._progress.__enter__()
        self._saved_at = time.monotonic()
        return state, done

    def _open(self, nest: Any, state: Any, steps: int) -> tuple[int, Any]:
        self._identity = fingerprint(nest, state)
        if self._folder is None:
            path = Path(self._given)  # type: ignore[arg-type]
            if (path / "settings.json").exists():
                self._folder = RunFolder(path)
                if self._folder.experiment != _KIND:
                    what = f"a run of {self._folder.experiment!r}, not one of Nest.run"
                    raise RunError(f"{path} holds {what}; name another folder")
                self._is_the_same(self._folder.settings)
            else:
                self._folder = RunFolder.create(path, _KIND, self._identity)
        saved = self._folder.saved()
        if saved is None:
            self._folder.rewind()
            return 0, state
        if "run" in saved:
            self._is_the_same(saved["run"])
        done = saved["step"]
        if done > steps:
            raise RunError(
                f"{self._folder.path} has come to step {done} of this run, and {steps} steps were "
                f"asked for; ask for at least {done}, or name another folder. The state of a step "
                "that is past is not kept; its losses are in metrics.jsonl"
            )
        state = self._folder.restore(state)  # before anything is cut
        self._folder.rewind()
        self._last = done
        # A function has stopped the run: it is finished unless more is asked for than then.
        finished = steps <= saved.get("stopped", -1)
        return steps if finished else done, state

    def _is_the_same(self, known: dict[str, Any]) -> None:
        assert self._folder is not None
        if "program" not in known:
            raise RunError(
                f"{self._folder.path} was written by an earlier version of nestax, which did not "
                "say whose run it is; name another folder"
            )
        found = differences(known, self._identity)
        if found:
            more = f", and {len(found) - 3} other things" if len(found) > 3 else ""
            raise RunError(
                f"{self._folder.path} holds another run: {', '.join(found[:3])}{more}. Name "
                "another folder for this run, or delete that one"
            )

    def stops(self, nest: Any, state: Any, infos: Any, count: int) -> int | None:
        """Whether the run ends early; called after every piece of a run.

        Args:
            nest: the nest that runs.
            state: the state before the piece.
            infos: what `Nest.run` returns of the steps of the piece.
            count: steps of the piece.

        Returns:
            After how many of these steps the run ends; None if it continues.
        """
        return None

    def stopping(self) -> None:
        """Marks the run as finished although not all of its steps are done."""
        self._stopping = True

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        if self._folder is None:
            return False
        return time.monotonic() - self._saved_at >= self.checkpoint_seconds

    def record(self, nest: Any, state: Any, infos: Any, done: int, steps: int) -> None:
        """Writes the measurements of the steps just done; called after every piece of a run.

        Args:
            nest: the nest that runs.
            state: the state after the piece; None where it is not known yet (see `knows`).
            infos: what `Nest.run` returns of the steps of the piece.
            done: steps done so far.
            steps: of the whole run.
        """
        numbers = columns(nest, infos)
        if self._progress is not None:
            losses = "  ".join(f"{n} {level['loss'][-1]:.4g}" for n, level in numbers.items())
            self._progress.update(done, f"step {done}/{steps}  {losses}")
        if self._folder is None:
            return
        count = _count(nest, infos)
        # At fixed steps, however the clock cut the run into pieces.
        kept = [s for s in range(done - count + 1, done + 1) if _measured(s, steps)]
        if self._stopping and done not in kept:
            kept.append(done)
        self._folder.append(*(_line(s, numbers, s - done + count - 1) for s in kept))
        self._recorded = (done, state, self._folder.measured_bytes())
        if self.due:
            self._save()

    def knows(self, state: Any) -> None:
        """Hands in the state that belongs to what was recorded last; it is kept if that is due.

        Args:
            state: after the piece that `record` was called for without a state.
        """
        if self._recorded is not None:
            self._recorded = (self._recorded[0], state, self._recorded[2])
            if self.due:
                self._save()

    def _save(self) -> None:
        if self._folder is None or self._recorded is None or self._recorded[0] <= self._last:
            return
        done, state, _ = self._recorded
        if state is None:
            return
        meta = {"step": done, "run": self._identity}
        if self._stopping:
            meta["stopped"] = self._steps
        self._folder.checkpoint(done, state, meta)
        self._saved_at, self._last = time.monotonic(), done

    def keep(self) -> None:
        """Saves the newest recorded state, during an interruption; never raises."""
        if self._folder is None or self._recorded is None:
            return
        try:
            saved = self._folder.saved()
            self._last = self._last if saved is None else saved["step"]
            if self._recorded[0] > self._last:
                self._folder.cut(self._recorded[2])  # it may have been interrupted while writing
                self._save()
        except Exception as error:  # what interrupted the run is what must be told
            logging.getLogger(__name__).warning("the last state could not be kept: %s", error)

    def diverged(self, nest: Any, state: Any, infos: Any, done: int) -> str:
        """Saves the last finite state, and the measurements of the step that diverged.

        `metrics.jsonl` ends with that step; a run that continues removes it.

        Args:
            nest: the nest that runs.
            state: the last finite state.
            infos: what `Nest.run` returns of the step that diverged.
            done: finite steps.

        Returns:
            Where both are, for the error message.
        """
        if self._folder is None:
            return ""
        self.keep()
        self._folder.append(_line(done + 1, columns(nest, infos), 0))
        self._recorded = None
        kept = f"the checkpoint of step {self._last} and " if self._last >= 0 else ""
        return f"; {kept}the measurements are in {self._folder.path}"

    def end(self, nest: Any, state: Any, done: int) -> None:
        """Saves the last state, and closes the bar and the folder.

        Args:
            nest: the nest that runs.
            state: the last state.
            done: steps done.
        """
        self._save()
        self.close()

    def close(self) -> None:
        """Closes the bar and the folder; called by `end`, and if an error ends the run."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None
        if self._folder is not None and self._folder is not self._given:
            self._folder.close()
            self._folder = None
        self._recorded = None


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
        self._stride = self._every or max(1, steps // _ROWS)

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


# Numbers


def columns(nest: Any, infos: Any) -> dict[str, dict[str, np.ndarray]]:
    """Of every level and step the scalars that were reported at the step's last update, as means
    over copies, and over those runs side by side whose mean is finite: level -> name -> array
    (steps,)."""
    found = {}
    for level in nest.declaration.levels:
        per, info = nest.ticks_per_step // level.every, infos[level.name]
        runs = info.loss.ndim - 1 - nest.declaration.copied(level)
        axes = runs + (nest.copies is not None)
        found[level.name] = {
            name: _mean(array[per - 1 :: per], runs) for name, array in info.scalars(axes).items()
        }
    return found


def row(numbers: dict[str, dict[str, np.ndarray]], step: int) -> Numbers:
    """The numbers of one step."""
    return {
        level: {name: float(array[step]) for name, array in one.items()}
        for level, one in numbers.items()
    }


def _mean(array: np.ndarray, runs: int) -> np.ndarray:
    with np.errstate(all="ignore"):  # a mean that overflows is shown as what it is
        array = array.astype(np.float64)
        means = array.reshape(*array.shape[: 1 + runs], -1).mean(axis=-1)
        if not runs:
            return means
        finite = np.isfinite(means)
        total = np.where(finite, means, 0.0).sum(axis=1)
        return np.where(finite.any(axis=1), total / np.maximum(finite.sum(axis=1), 1), np.nan)


def _count(nest: Any, infos: Any) -> int:
    level = nest.declaration.levels[0]
    return len(infos[level.name].loss) * level.every // nest.ticks_per_step


def _measured(step: int, steps: int) -> bool:
    return step % max(1, steps // _ROWS) == 0 or step == steps


def _line(step: int, numbers: dict[str, dict[str, np.ndarray]], at: int) -> dict[str, Any]:
    """A line of metrics.jsonl: {"step": 3, "loss": {"w": 0.5}, "gradient_norm": ..., "info":
    {"w": {"accuracy": 0.9}}}."""
    line: dict[str, Any] = {"step": step, "loss": {}}
    for level, one in row(numbers, at).items():
        for name, number in one.items():
            number = number if np.isfinite(number) else None
            if name in ("loss", "gradient_norm"):
                line.setdefault(name, {})[level] = number
            else:
                line.setdefault("info", {}).setdefault(level, {})[name] = number
    return line
