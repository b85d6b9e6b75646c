"""A nest's run, watched: progress on the terminal, measurements and checkpoints in a run's
folder."""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .errors import RunError
from .folder import RunFolder
from .progress import Progress

_ROWS = 500  # measurements kept of a run, about
_CHECKPOINT_SECONDS = 30.0  # the most that an interruption costs


class Watch:
    """What `Nest.run(..., watch=...)` tells of a run, and where the run goes on from.

    `nest.run(state, steps, watch=Watch("runs/mine"))` shows progress and writes a run's folder. The
    same line after an interruption, `kill -9` included, goes on from the newest checkpoint and ends
    in the very state of an uninterrupted run; a finished run is not done again. Use one for each
    call.

    Attributes:
        folder: path of the run's folder, or an open `RunFolder`; None to show progress only.
        progress: whether to show a live bar, or lines when piped.
        checkpoint_seconds: between two checkpoints; 0 for one after every call of the program.

    Raises:
        RunError: the folder holds another nest's run, is in use, or cannot be written.
    """

    def __init__(
        self,
        folder: str | Path | RunFolder | None = None,
        progress: bool = True,
        checkpoint_seconds: float | int = _CHECKPOINT_SECONDS,
    ):
        self.checkpoint_seconds = checkpoint_seconds
        self._given, self._shows = folder, progress
        self._folder: RunFolder | None = folder if isinstance(folder, RunFolder) else None
        self._progress: Progress | None = None
        self._saved_at = time.monotonic()
        self._last = -1

    def begin(self, nest: Any, state: Any, steps: int) -> tuple[Any, int]:
        """The state to go on from, and how many of the steps are done already."""
        done = 0
        if self._given is not None:
            done, state = self._open(nest, state)
        if self._shows:
            self._progress = Progress(max(steps, 1))
            self._progress.__enter__()
        self._saved_at = time.monotonic()
        return state, min(done, steps)

    def _open(self, nest: Any, state: Any) -> tuple[int, Any]:
        settings = {"levels": _declared(nest)}
        if self._folder is None:
            path = Path(self._given)  # type: ignore[arg-type]
            if (path / "settings.json").is_file():
                self._folder = RunFolder(path)
                if self._folder.settings != settings:
                    self.close()
                    raise RunError(f"{path} holds the run of another nest; name another folder")
            else:
                self._folder = RunFolder.create(path, "nest", settings)
        saved = self._folder.rewind()
        if saved is None:
            return 0, state
        self._last = saved["step"]
        return saved["step"], self._folder.restore(state)

    def record(self, nest: Any, state: Any, infos: Any, done: int, steps: int) -> None:
        """Keeps the losses of the steps just done; called after every piece of a run."""
        losses = {name: np.asarray(info.loss) for name, info in infos.items()}
        if self._progress is not None:
            numbers = "  ".join(f"{n} {_mean(loss[-1]):.4g}" for n, loss in losses.items())
            self._progress.update(done, f"step {done}/{steps}  {numbers}")
        if self._folder is None:
            return
        per = {level.name: nest.ticks_per_step // level.every for level in nest.declaration.levels}
        count = len(next(iter(losses.values()))) // next(per[n] for n in losses)
        # At fixed steps, however the clock cut the run into pieces.
        for step in range(done - count + 1, done + 1):
            if step % max(1, steps // _ROWS) and step != steps:
                continue
            rows = {n: loss[(step - done + count) * per[n] - 1] for n, loss in losses.items()}
            self._folder.append({"step": step, "loss": {n: _mean(a) for n, a in rows.items()}})
        if time.monotonic() - self._saved_at >= self.checkpoint_seconds:
            self._save(state, done)

    def _save(self, state: Any, done: int) -> None:
        if self._folder is not None and done > self._last:
            self._folder.checkpoint(done, state, {"step": done})
            self._saved_at, self._last = time.monotonic(), done

    def end(self, nest: Any, state: Any, done: int) -> None:
        """Keeps the last state and closes what was opened."""
        self._save(state, done)
        self.close()

    def close(self) -> None:
        """Closes the bar and the folder; called by `end`, and when a run breaks off."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None
        if self._folder is not None and self._folder is not self._given:
            self._folder.close()
            self._folder = None

    def hint(self) -> str:
        """Where the last good state is kept."""
        if self._folder is None or self._last < 0:
            return ""
        return f"; the checkpoint of step {self._last} is in {self._folder.path}"


def _declared(nest: Any) -> list[dict[str, Any]]:
    return [
        {"name": level.name, "every": level.every, "group": index}
        for index, group in enumerate(nest.groups)
        for level in group
    ]


def _mean(losses: Any) -> float:
    """The mean over copies, as JSON takes it; a loss that is not finite stops the run elsewhere."""
    return float(np.nan_to_num(np.mean(jax.device_get(losses))))
