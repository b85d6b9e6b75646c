"""What a run has written, line by line: the content of a folder's lock file.

Before a file changes, a checksum of each of its new lines is added here, and afterwards that the
change is done. When the folder is opened, every file must have the lines that it was given. A
process killed in between leaves the old file or the new one, and both are then accepted. Any other
difference was made by somebody else, and is refused by file and line.

An empty lock file, as older folders have it, or none: the files are taken as they are.

The entries, one JSON object a line, each with the name of a `file`:

    next: checksums of its lines, about to be written; with `from`, after its first so many lines
    cut: to this many lines it is about to be cut
    kept: it now has this many lines, or for a file that is written whole, `next` is done
    taken: the lines that the file has, and `whole`, the other files, found without a journal
    files: of the folder of a checkpoint, once it is there, the checksum of each file in it
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from .errors import RunError

NAME = ".lock"


def content(path: Path) -> bytes | None:
    """The bytes of a file; None if there is none.

    Raises:
        RunError: it is a directory, or the system refuses to read it.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(
            f"{path} cannot be read: {error.strerror}; put back the file that the run wrote"
        ) from None


def document(path: Path, raw: bytes, what: str, line: int = 1) -> dict[str, Any]:
    """The JSON object in the bytes of a file, or in those of one of its lines.

    Args:
        path: of the file, for the error.
        raw: its bytes.
        what: the object, for the error.
        line: number of the first line.

    Raises:
        RunError: there is none, by file and line.
    """
    try:
        found = json.loads(raw.decode("utf-8"), parse_constant=_not_a_number)
    except json.JSONDecodeError as error:
        found, why, line = None, str(error), line + error.lineno - 1
    except UnicodeDecodeError as error:
        found, why, line = None, "it is not UTF-8", line + raw[: error.start].count(b"\n")
    except (ValueError, RecursionError) as error:
        found, why = None, str(error)
    else:
        why = f"expected an object in braces, found {type(found).__name__}"
    if not isinstance(found, dict):
        raise RunError(f"{path}, line {line}, is not {what}: {why}; put back what the run wrote")
    return found


def _not_a_number(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


class Journal:
    """The checksums of a folder's files, in its lock file.

    Attributes:
        lines: checksums of the lines that `metrics.jsonl` may have.
        least: how many of them it must have.
        versions: name of a file that is written whole -> the checksums of its lines, in each of the
            versions that it may have; None for no file.
        checkpoint: path of the newest checkpoint, and the checksums of its files.
    """

    def __init__(self, folder: Path, lock: IO[bytes]):
        self._folder, self._lock = folder, lock
        self._end = 0  # of the last whole entry
        self.lines: list[str] = []
        self.least = 0
        self.versions: dict[str, list[list[str] | None]] = {}
        self.checkpoint: tuple[str, dict[str, str]] = ("", {})

    def read(self) -> bool:
        """Reads all entries; False if there are none.

        Raises:
            RunError: an entry is damaged.
        """
        self._lock.seek(0)
        raw = self._lock.read()
        self._end = raw.rfind(b"\n") + 1  # half an entry: what it announced was not begun
        path = self._folder / NAME
        for number, line in enumerate(raw[: self._end].splitlines(), 1):
            entry = document(path, line, "an entry", number)
            try:
                self._apply(**entry)
            except TypeError:
                raise RunError(
                    f"{path}, line {number}: damaged. Delete this file to take the others as they "
                    "are"
                ) from None
        return self._end > 0

    def clear(self) -> None:
        """Forgets everything."""
        self._lock.truncate(0)
        self.__init__(self._folder, self._lock)

    def _apply(self, file: str, **entry: Any) -> None:
        match entry:
            case {"from": int(count), "next": list(sums)}:
                self.least, self.lines = count, self.lines[:count] + sums
            case {"next": list() | None as sums}:
                self.versions[file] = [self.versions.get(file, [None])[-1], sums]
            case {"taken": list(sums), "whole": dict(whole)}:
                self.least, self.lines = len(sums), sums
                self.versions = {name: [lines] for name, lines in whole.items()}
            case {"files": dict(sums)}:
                self.checkpoint = file, sums
            case {"cut": int(count)}:
                self.least = count
            case {"kept": int(count)} if file not in self.versions:
                self.least, self.lines = count, self.lines[:count]
            case {"kept": int()}:
                self.versions[file] = self.versions[file][-1:]
            case _:
                raise TypeError("not an entry")

    def _add(self, sync: bool, **entry: Any) -> None:
        self._lock.truncate(self._end)
        self._lock.seek(self._end)
        self._lock.write(json.dumps(entry).encode() + b"\n")
        self._lock.flush()
        if sync:
            os.fsync(self._lock.fileno())
        self._apply(**entry)
        self._end = self._lock.tell()

    # Changes

    def writes(self, name: str, raw: bytes) -> None:
        """A file is about to be written whole."""
        self._settle(name)
        self._add(True, file=name, next=_sums(raw))

    def _settle(self, name: str) -> None:
        """If an earlier change was broken off, finds out whether it was done."""
        if len(self.versions.get(name, ())) > 1:
            raw = content(self._folder / name)
            self._add(True, file=name, next=None if raw is None else _sums(raw))
            self.wrote(name)

    def wrote(self, name: str) -> None:
        """It has been."""
        self._add(False, file=name, kept=len(self.versions[name][-1] or ()))

    def appends(self, name: str, count: int, raw: bytes) -> None:
        """Lines are about to be added after the first `count`."""
        self._add(True, **{"file": name, "from": count, "next": _sums(raw)[:-1]})

    def cuts(self, name: str, count: int) -> None:
        """All but the first `count` lines are about to be cut off."""
        self._add(True, file=name, cut=count)

    def has(self, name: str, count: int) -> None:
        """The file has so many lines."""
        self._add(False, file=name, kept=count)

    def takes(self, name: str, raw: bytes, others: Mapping[str, bytes | None]) -> None:
        """Takes files as they are: one of lines, and those that are written whole. In one entry,
        so that no part of it can be left."""
        whole = {name: _sums(one) for name, one in others.items() if one is not None}
        self._add(True, file=name, taken=_sums(raw)[:-1], whole=whole)

    def keeps(self, name: str) -> None:
        """A checkpoint is there, in a folder of its own."""
        self._add(False, file=name, files=_sums_in(self._folder / name))

    # Checks

    def check(self, name: str) -> None:
        """Holds a file that is written whole against its entry, if there is one.

        Raises:
            RunError: it has been changed or is missing.
        """
        versions = self.versions.get(name)
        if versions is None:
            return
        raw = content(self._folder / name)
        found = None if raw is None else _sums(raw)
        if found in versions:
            return
        if raw is None or found is None:
            raise self._changed(f"{self._folder / name} is missing, and the run wrote it")
        pairs = zip([*found, None], [*(versions[-1] or ()), None], strict=False)
        line = next((i for i, (a, b) in enumerate(pairs, 1) if a != b), 1)
        raise self._changed(self._difference(name, raw, line))

    def check_lines(self, name: str) -> None:
        """Holds a file of lines against its entries.

        Raises:
            RunError: a line has been changed, added or removed.
        """
        raw = content(self._folder / name) or b""
        whole = raw.split(b"\n")[:-1]  # half a line, left by a killed process, does not count
        for number, line in enumerate(whole, 1):
            if number > len(self.lines) or _sum(line) != self.lines[number - 1]:
                raise self._changed(self._difference(name, raw, number))
        if len(whole) < self.least:
            raise self._changed(
                f"{self._folder / name} has lost measurements: it has {len(whole)} whole lines, "
                f"and the run wrote {self.least}"
            )

    def check_checkpoint(self, name: str) -> None:
        """Holds the files of a checkpoint against its entry, if there is one.

        Raises:
            RunError: one has been changed or is missing.
        """
        known, sums = self.checkpoint
        if known != name:
            return
        found = _sums_in(self._folder / name)
        for file in sums:
            if found.get(file) != sums[file]:
                what = "was changed" if file in found else "is gone"
                raise RunError(
                    f"the checkpoint {self._folder / name} cannot be read: its file {file} {what}. "
                    "Put it back; or delete that folder, to begin again from the start with the "
                    "same call"
                )

    def _difference(self, name: str, raw: bytes, line: int) -> str:
        here = raw.split(b"\n")[line - 1 : line]
        ends = ", its line ends were made CRLF" if here and here[0].endswith(b"\r") else ""
        return f"{self._folder / name}, line {line}: not what the run wrote{ends}"

    def _changed(self, what: str) -> RunError:
        return RunError(
            f"{what}. Put back what was there; or delete {self._folder / NAME} if the files are "
            "to be taken as they are"
        )


def _sum(line: bytes) -> str:
    return hashlib.blake2b(line, digest_size=4).hexdigest()


def _sums(raw: bytes) -> list[str]:
    return [_sum(line) for line in raw.split(b"\n")]


def _sums_in(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _sum(path.read_bytes()) for path in files}
