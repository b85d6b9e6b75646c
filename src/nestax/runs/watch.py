"""A nest's run, watched: progress, measurements and checkpoints in a run's folder."""

import logging
import time
from pathlib import Path
from typing import Any

from ..levels._fingerprint import differences, fingerprint
from .errors import RunError
from .folder import RunFolder
from .numbers import columns, line, measured, steps_in
from .progress import bar

_KIND = "nest"


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
        count = steps_in(nest, infos)
        # At fixed steps, however the clock cut the run into pieces.
        kept = [s for s in range(done - count + 1, done + 1) if measured(s, steps)]
        if self._stopping and done not in kept:
            kept.append(done)
        self._folder.append(*(line(s, numbers, s - done + count - 1) for s in kept))
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
        self._folder.append(line(done + 1, columns(nest, infos), 0))
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
