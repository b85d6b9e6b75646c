"""A run's folder: complete in itself, safe to interrupt at any moment.

    settings.json    what was asked for
    metrics.jsonl    one measurement a line, in order; no clock in it, so that runs compare
    facts.json       what the run found out besides: rates chosen, time spent, the machine
    checkpoints/     the state to go on from, and how much of metrics.jsonl belongs to it
    summary.json     every number that the report prints
    figures/, report.html

Order makes it safe: a measurement is on disk before the checkpoint that counts it, and going on
cuts `metrics.jsonl` back to what the checkpoint counts. Checkpoints are orbax's, which appear
whole or not at all.
"""

import contextlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import IO, Any, TypeVar

import jax

from .errors import RunError, needed
from .files import refusals, write_atomically

try:
    import fcntl
except ModuleNotFoundError:  # Windows: nothing keeps two processes apart there
    fcntl = None

State = TypeVar("State")

_OURS = ("metrics.jsonl", "facts.json", "checkpoints", "summary.json", "figures", "report.html")
_AGAIN = "to start the run again delete the folder, or give nestax run --overwrite"


class RunFolder:
    """An open run's folder; one process at a time. Close it, or use it in a `with` statement."""

    def __init__(self, path: Path):
        """Opens an existing run.

        Raises:
            RunError: no run there, its settings are unreadable, or another process has it open.
        """
        if not (path / "settings.json").is_file():
            raise RunError(
                f"{path} holds no run (no settings.json); name a folder that a run wrote"
            )
        self._open(path, _lock(path))

    def _open(self, path: Path, lock: IO[str]) -> None:
        self.path, self._lock, self._checkpoints = path, lock, None
        try:
            header = json.loads((path / "settings.json").read_text())
            self.experiment: str = header["experiment"]
            self.settings: dict[str, Any] = header["settings"]
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            lock.close()
            raise RunError(f"{path / 'settings.json'} is not a run's settings: {error}") from error

    @classmethod
    def create(
        cls, path: Path, experiment: str, settings: dict[str, Any], overwrite: bool = False
    ) -> "RunFolder":
        """Starts a run in a new folder, an empty one, or one whose run has measured nothing yet.

        Args:
            path: the folder; parents are made.
            experiment: name of the experiment, by which it is found again.
            settings: JSON-able.
            overwrite: delete the run that is there; files that no run makes are left alone.

        Raises:
            RunError: the folder is in use, holds something else, or cannot be written.
        """
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; name a folder")
        with refusals(path):
            path.mkdir(parents=True, exist_ok=True)
            foreign = [p.name for p in path.iterdir() if not _made_by_a_run(p.name)]
            if foreign and not (path / "settings.json").is_file():
                raise RunError(f"{path} is not empty and holds no run; name another folder")
            lock = _lock(path)
            try:
                measured = (path / "metrics.jsonl").is_file() and (
                    (path / "metrics.jsonl").stat().st_size > 0
                )
                if measured and not overwrite:
                    raise RunError(
                        f"{path} already holds a run; continue it with --resume, replace it with "
                        "--overwrite (in Python overwrite=True), or name another folder"
                    )
                # Settings, which make the folder a run's, go last and come first.
                for name in _OURS:
                    _remove(path / name)
                header = {"experiment": experiment, "settings": settings}
                write_atomically(path / "settings.json", json.dumps(header, indent=2) + "\n")
            except BaseException:
                lock.close()
                raise
        folder = cls.__new__(cls)
        folder._open(path, lock)
        return folder

    def close(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close()
            self._checkpoints = None
        self._lock.close()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Measurements

    def append(self, *records: dict[str, Any]) -> None:
        """Adds measurements to metrics.jsonl; on disk when this returns.

        Raises:
            ValueError: a number is not finite; nothing is written.
        """
        lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        path = self.path / "metrics.jsonl"
        with refusals(self.path), path.open("a") as file:
            before = file.tell()
            try:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):  # no half line stays behind
                    os.truncate(path, before)
                raise

    def metrics(self) -> list[dict[str, Any]]:
        """All measurements so far; an unfinished last line is left out."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    # Checkpoints

    def checkpoint(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Saves the state to go on from and counts the measurements made so far into it.

        Args:
            step: larger than that of every earlier checkpoint.
            state: pytree of arrays.
            meta: JSON-able facts that go with it.
        """
        ocp = _orbax()
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.tree.leaves(state)),
            meta=ocp.args.JsonSave({**meta, "metrics_bytes": self.measured_bytes()}),
        )
        # What orbax would log of a failure, a traceback of its threads, is in the error as well.
        log = logging.getLogger("absl")
        level = log.level
        log.setLevel(logging.CRITICAL)
        try:
            with refusals(self.path):
                self._manager().save(step, args=arguments)
        except BaseException:
            self._checkpoints = None  # a new one removes what was half written
            raise
        finally:
            log.setLevel(level)

    def saved(self) -> dict[str, Any] | None:
        """The facts saved with the newest checkpoint; None without one."""
        ocp = _orbax()
        if self._manager().latest_step() is None:
            return None
        return dict(self._restore("meta", ocp.args.JsonRestore()))

    def rewind(self) -> dict[str, Any] | None:
        """Cuts metrics.jsonl back to what the newest checkpoint counts; returns `saved()`.

        Raises:
            RunError: there are fewer measurements than the checkpoint counts.
        """
        meta = self.saved()
        counted = meta["metrics_bytes"] if meta else 0
        if self.measured_bytes() < counted:
            raise RunError(
                f"{self.path / 'metrics.jsonl'} has lost measurements that its checkpoint counts; "
                f"{_AGAIN}"
            )
        self.cut(counted)
        return meta

    def cut(self, counted: int) -> None:
        """Keeps the first bytes of metrics.jsonl only."""
        with refusals(self.path):
            (self.path / "metrics.jsonl").touch()
            os.truncate(self.path / "metrics.jsonl", counted)

    def restore(self, like: State) -> State:
        """The state of the newest checkpoint.

        Args:
            like: a state of the same structure, shapes and dtypes.
        """
        ocp = _orbax()
        leaves, structure = jax.tree.flatten(like)
        shapes = [ocp.utils.to_shape_dtype_struct(leaf) for leaf in leaves]
        return structure.unflatten(self._restore("state", ocp.args.StandardRestore(shapes)))

    def _restore(self, item: str, arguments: Any) -> Any:
        ocp = _orbax()
        manager = self._manager()
        try:
            step = manager.latest_step()
            return manager.restore(step, args=ocp.args.Composite(**{item: arguments}))[item]
        except Exception as error:
            raise RunError(
                f"the checkpoint in {self.path} cannot be read ({type(error).__name__}); it was "
                f"damaged or made by another version; {_AGAIN}"
            ) from error

    def measured_bytes(self) -> int:
        """Length of metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        return path.stat().st_size if path.is_file() else 0

    def _manager(self) -> Any:
        if self._checkpoints is None:
            ocp = _orbax()
            options = ocp.CheckpointManagerOptions(
                max_to_keep=1, enable_async_checkpointing=False, cleanup_tmp_directories=True
            )
            with refusals(self.path):
                self._checkpoints = ocp.CheckpointManager(
                    (self.path / "checkpoints").absolute(), options=options
                )
        return self._checkpoints

    # Results

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Writes a JSON file of the folder, whole or not at all."""
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        with refusals(self.path):
            write_atomically(self.path / name, text)

    def read_json(self, name: str) -> dict[str, Any]:
        """Reads a JSON file of the folder; {} if it is not there."""
        path = self.path / name
        return json.loads(path.read_text()) if path.is_file() else {}


def _orbax() -> Any:
    return needed("orbax.checkpoint", "orbax-checkpoint", "a run's checkpoints")


def _made_by_a_run(name: str) -> bool:
    parts = name.split(".")  # ".settings.json.123" is left by a process killed while writing
    whole = ".".join(parts[1:-1]) if name.startswith(".") and parts[-1].isdigit() else name
    return whole in (*_OURS, "settings.json", ".lock")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _lock(path: Path) -> IO[str]:
    """The open lock file, which stays where it is; closing it gives the lock back."""
    with refusals(path):
        lock = (path / ".lock").open("w")
    if fcntl is None:
        return lock
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise RunError(f"another process is writing to {path}; wait for it or stop it") from error
    return lock
