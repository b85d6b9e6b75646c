"""A run's folder: complete in itself, safe to interrupt at any moment.

    settings.json    what was asked for
    metrics.jsonl    one measurement a line, in order; no clock in it, so that runs compare
    facts.json       what the run found out besides: rates chosen, time spent, the machine
    checkpoints/     the state to go on from, and how much of metrics.jsonl belongs to it
    summary.json     every number that the report prints
    figures/, report.html
    .lock            who has it open, and checksums of the lines of the first three files
    .replaced/       the run that this one replaces, until it has measured something

Order makes it safe: a measurement is on disk before the checkpoint that counts it, and going on
cuts `metrics.jsonl` back to what the checkpoint counts. What was changed by somebody else is
refused when the folder is opened.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import IO, Any, TypeVar

from . import place
from .checkpoints import Checkpoints
from .errors import RunError
from .files import refusals, write_atomically
from .journal import Journal, content, document

State = TypeVar("State")

_CHECKED = ("settings.json", "facts.json")  # and metrics.jsonl
_AGAIN = "to start the run again delete the folder, or give nestax run --overwrite"


class RunFolder:
    """The folder of a run, opened by one process at a time.

    Close it, or use it in a `with` statement. It holds the run's settings (`settings.json`), its
    measurements (`metrics.jsonl`, one line each), its checkpoints and its results. A process may be
    killed at any moment: a measurement is on disk before the checkpoint that counts it, and a run
    that continues cuts `metrics.jsonl` back to its newest checkpoint.

    If an error leaves the `with` statement before a run that replaces another one has measured
    anything, the other run is put back.

    An open folder has the attributes `path`, `experiment` and `settings`.
    """

    _replaces = False  # a run, and was itself begun by this process

    def __init__(self, path: str | Path):
        """Opens an existing run.

        Args:
            path: its folder.

        Raises:
            RunError: there is no run; a file that the run wrote was changed (the message names file
                and line); or another process has it open.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; name the folder that a run wrote")
        if not place.holds_run(path):
            _refuse_lost_settings(path)
            raise RunError(
                f"{path} holds no run (no settings.json); name a folder that a run wrote"
            )
        self._open(path, place.lock(path))

    def _open(self, path: Path, lock: IO[bytes]) -> None:
        self.path, self._lock, self._journal = path, lock, Journal(path, lock)
        self._checkpoints = Checkpoints(path, self._journal)
        try:
            with refusals(path):
                place.settle(path, lock)
            known = self._journal.read()
            if known:
                for name in _CHECKED:
                    self._journal.check(name)
                self._journal.check_lines("metrics.jsonl")
            self._read()
            if not known:
                self._adopt()
        except BaseException:
            lock.close()
            raise

    def _read(self) -> None:
        """Reads settings, facts and measurements, so that what is unreadable is found at once."""
        path = self.path / "settings.json"
        header = document(path, content(path) or b"", "a run's settings")
        experiment, settings = header.get("experiment"), header.get("settings")
        if not isinstance(experiment, str) or not isinstance(settings, dict):
            raise RunError(
                f"{path} is not a run's settings: expected an experiment and its settings, found "
                f"{', '.join(header) or 'nothing'}; put back what the run wrote"
            )
        self.experiment, self.settings = experiment, settings
        self.read_json("facts.json")
        self.metrics()

    def _adopt(self) -> None:
        """Takes the files as they are."""
        found = {name: content(self.path / name) for name in _CHECKED}
        with refusals(self.path):
            self._journal.takes("metrics.jsonl", self._measured(), found)

    @classmethod
    def create(
        cls, path: str | Path, experiment: str, settings: dict[str, Any], overwrite: bool = False
    ) -> "RunFolder":
        """Starts a run in a new folder, an empty one, or one whose run has measured nothing yet.

        Args:
            path: the folder; it and its parents are made.
            experiment: name of the experiment.
            settings: the settings of the run, JSON-able.
            overwrite: whether to delete a run that is there, as soon as this one has measured
                something; files that no run makes are left alone.

        Returns:
            The open folder.

        Raises:
            RunError: the folder is in use, holds something else, or cannot be written.
        """
        path = Path(path)
        place.vacant(path)
        with refusals(path):
            path.mkdir(parents=True, exist_ok=True)
            lock = place.lock(path)
            try:
                place.settle(path, lock)
                content(path / "settings.json")  # a directory of that name is not ours to delete
                journal = Journal(path, lock)
                if not overwrite:
                    _refuse_lost_settings(path)
                if not overwrite and (content(path / "metrics.jsonl") or _counted(journal)):
                    raise RunError(
                        f"{path} already holds a run; continue it with --resume, replace it with "
                        "--overwrite (in Python overwrite=True), or name another folder"
                    )
                header = {"experiment": experiment, "settings": settings}
                text = json.dumps(header, indent=2, allow_nan=False) + "\n"
                # Settings, which make the folder a run's, go last and come first.
                if replaces := overwrite and (path / "settings.json").exists():
                    place.aside(path)
                journal.clear()
                for name in place.OURS:
                    place.remove(path / name)
                write_atomically(path / "settings.json", text)
            except BaseException:
                lock.close()
                raise
        folder = cls.__new__(cls)
        folder._open(path, lock)
        folder._replaces = replaces
        return folder

    def close(self) -> None:
        """Finishes the writing of checkpoints, and lets other processes open the folder."""
        self._close(None)

    def _close(self, error: BaseException | None) -> None:
        self._checkpoints.close()
        try:
            if self._replaces and (self.path / place.REPLACED).exists():
                with refusals(self.path):
                    if isinstance(error, Exception):
                        place.back(self.path, self._lock)
                        error.add_note("The run that was to be replaced is in its place again.")
                    elif error is None:
                        place.drop(self.path)
        finally:
            self._lock.close()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._close(error)

    # Measurements

    def append(self, *records: dict[str, Any]) -> None:
        """Adds measurements to metrics.jsonl; they are on disk when this returns.

        An incomplete last line of a killed process is removed first.

        Args:
            *records: one JSON-able dict for each measurement.

        Raises:
            ValueError: a number is not finite; nothing is written.
            RunError: the file cannot be written.
        """
        if not records:
            return
        lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode()
        path, before = self.path / "metrics.jsonl", self._measured()
        whole = before[: before.rfind(b"\n") + 1]
        with refusals(self.path):
            self._journal.appends(path.name, whole.count(b"\n"), lines)
            with path.open("ab") as file:
                try:
                    file.truncate(len(whole))
                    file.write(lines)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    with contextlib.suppress(OSError):  # no half line stays behind
                        os.truncate(path, len(whole))
                    raise
            self._journal.has(path.name, (whole + lines).count(b"\n"))
            place.drop(self.path)

    def metrics(self, *keys: str) -> list[dict[str, Any]]:
        """Reads all measurements so far, without an incomplete last line.

        Args:
            *keys: keys that every measurement must have.

        Returns:
            The measurements, in the order in which they were made.

        Raises:
            RunError: a line is unreadable, or lacks one of the keys.
        """
        path, found = self.path / "metrics.jsonl", []
        for number, line in enumerate(self._measured().split(b"\n")[:-1], 1):
            if line.endswith(b"\r"):
                raise RunError(
                    f"{path}, line {number}: its line ends were made CRLF; make them LF again"
                )
            found.append(document(path, line, "a measurement", number))
            if lacking := [key for key in keys if key not in found[-1]]:
                raise RunError(
                    f"{path}, line {number}, lacks {', '.join(lacking)}; put back what the run "
                    "wrote"
                )
        return found

    def _measured(self) -> bytes:
        return content(self.path / "metrics.jsonl") or b""

    # Checkpoints

    def checkpoint(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Saves a state to continue from, with the number of measurements made so far.

        Args:
            step: larger than the step of every earlier checkpoint.
            state: pytree of arrays and numbers, Python's or numpy's.
            meta: JSON-able facts that are saved with the state.
        """
        raw = self._measured()
        counted = {"metrics_bytes": len(raw), "metrics_sum": _sum(raw)}
        self._checkpoints.save(step, state, {**meta, **counted})

    def saved(self) -> dict[str, Any] | None:
        """The facts saved with the newest checkpoint; None if there is no checkpoint."""
        return self._checkpoints.saved()

    def rewind(self) -> dict[str, Any] | None:
        """Cuts metrics.jsonl back to the measurements of the newest checkpoint; returns `saved()`.

        Raises:
            RunError: the checkpoint counts other measurements; nothing is cut.
        """
        meta = self.saved()
        counted = meta["metrics_bytes"] if meta else 0
        raw = self._measured()
        if len(raw) < counted:
            raise RunError(
                f"{self.path / 'metrics.jsonl'} has lost measurements that its checkpoint counts; "
                f"{_AGAIN}"
            )
        if meta and _sum(raw[:counted]) != meta.get("metrics_sum", _sum(raw[:counted])):
            raise RunError(
                f"{self.path / 'metrics.jsonl'} has other measurements than its checkpoint counts: "
                f"its first {counted} bytes were changed. Put them back; {_AGAIN}"
            )
        self.cut(counted)
        return meta

    def cut(self, counted: int) -> None:
        """Cuts metrics.jsonl to its first bytes, which must be complete lines.

        Args:
            counted: how many bytes to keep.

        Raises:
            RunError: they are not complete lines; nothing is cut.
        """
        path, raw = self.path / "metrics.jsonl", self._measured()
        if counted > len(raw) or (counted and raw[counted - 1 : counted] != b"\n"):
            line = raw[:counted].count(b"\n") + 1
            raise RunError(
                f"{path}, line {line}: {counted} bytes of measurements do not end with a line; the "
                f"file was changed. Put it back; {_AGAIN}"
            )
        lines = raw[:counted].count(b"\n")
        with refusals(self.path):
            self._journal.cuts(path.name, lines)
            path.touch()
            os.truncate(path, counted)
            self._journal.has(path.name, lines)

    def restore(self, like: State) -> State:
        """Reads the state of the newest checkpoint.

        Args:
            like: a state of the same structure, shapes and dtypes.

        Returns:
            The saved state.

        Raises:
            RunError: the checkpoint is damaged or has another structure, or there is none.
        """
        return self._checkpoints.restore(like)

    def measured_bytes(self) -> int:
        """The length of metrics.jsonl in bytes."""
        path = self.path / "metrics.jsonl"
        return path.stat().st_size if path.is_file() else 0

    # Results

    def write_json(self, name: str, written: dict[str, Any]) -> None:
        """Writes a JSON file into the folder, completely or not at all.

        Args:
            name: of the file.
            written: its content, JSON-able.

        Raises:
            RunError: the file cannot be written.
            ValueError: a number is not finite; nothing is written.
        """
        text = json.dumps(written, indent=2, allow_nan=False) + "\n"
        with refusals(self.path):
            if name in _CHECKED:
                self._journal.writes(name, text.encode())
            write_atomically(self.path / name, text)
            if name in _CHECKED:
                self._journal.wrote(name)

    def read_json(self, name: str, *tables: str) -> dict[str, Any]:
        """Reads a JSON file of the folder.

        Args:
            name: of the file.
            *tables: keys that must be there and have objects as values.

        Returns:
            Its content; {} if there is no such file.

        Raises:
            RunError: the file is unreadable (the message names file and line), or lacks one of the
                tables.
        """
        path = self.path / name
        raw = content(path)
        if raw is None:
            return {}
        found = document(path, raw, "a JSON object")
        if lacking := [key for key in tables if not isinstance(found.get(key), dict)]:
            raise RunError(
                f"{path} lacks an object for each of {', '.join(lacking)}; put back what the run "
                "wrote"
            )
        return found


def _refuse_lost_settings(path: Path) -> None:
    if not (path / "settings.json").exists() and content(path / "metrics.jsonl"):
        raise RunError(
            f"{path / 'settings.json'} is missing, and there are measurements. Put it back; "
            f"{_AGAIN}"
        )


def _counted(journal: Journal) -> int:
    journal.read()
    return journal.least


def _sum(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=8).hexdigest()
