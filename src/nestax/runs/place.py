"""The place of a run: whether one can begin there, its lock, and the run that it replaces.

A run that is replaced lies in `.replaced` until the new run has measured something, and is put back
if that cannot be. Moved there, its settings go last; moved back, they come first. So in `.replaced`
without settings the way there or back was broken off, whatever moment the process was killed in.
"""

import os
import shutil
from pathlib import Path
from typing import IO

from .errors import RunError
from .exclusive import hold
from .files import refusals
from .journal import NAME as LOCK
from .journal import content

OURS = ("metrics.jsonl", "facts.json", "checkpoints", "summary.json", "figures", "report.html")
REPLACED, _DROPPED = ".replaced", ".dropped"
_SETTINGS = "settings.json"


def vacant(path: Path) -> None:
    """Refuses what is no place for a run; writes nothing.

    Raises:
        RunError: it is a file, or a folder with something else in it.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; name a folder")
    with refusals(path):
        foreign = path.exists() and any(not _made_by_a_run(one.name) for one in path.iterdir())
    if foreign and not holds_run(path):
        raise RunError(f"{path} is not empty and holds no run; name another folder")


def holds_run(path: Path) -> bool:
    """Whether a run has begun in a folder."""
    return (path / _SETTINGS).exists() or (path / REPLACED).is_dir()


def _made_by_a_run(name: str) -> bool:
    parts = name.split(".")  # ".settings.json.123" is left by a process killed while writing
    whole = ".".join(parts[1:-1]) if name.startswith(".") and parts[-1].isdigit() else name
    return whole in (*OURS, _SETTINGS, LOCK, REPLACED, _DROPPED)


def lock(path: Path) -> IO[bytes]:
    """The open lock file, which stays where it is; closing it gives the lock back."""
    with refusals(path / LOCK):
        opened = os.fdopen(os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            hold(opened.fileno())
        except OSError as error:
            opened.close()
            if not isinstance(error, (BlockingIOError, PermissionError)):
                raise
            raise RunError(
                f"another process is writing to {path}; wait for it or stop it"
            ) from error
    return opened


def aside(path: Path) -> None:
    """Moves a run out of the way, or deletes it if it has replaced one and measured nothing."""
    kept = path / REPLACED
    if not (kept / _SETTINGS).exists():
        kept.mkdir(exist_ok=True)
        shutil.copyfile(path / LOCK, kept / LOCK)
        for name in (*OURS, _SETTINGS):
            if (path / name).exists():
                os.replace(path / name, kept / name)
    for name in (*OURS, _SETTINGS):
        remove(path / name)


def back(path: Path, lock: IO[bytes]) -> None:
    """Puts back what `aside` has moved, in place of what is there; `lock` is the open lock file."""
    kept = path / REPLACED
    if (kept / _SETTINGS).exists():
        for name in (_SETTINGS, *OURS):
            remove(path / name)
        lock.truncate(0)
        lock.seek(0)
        lock.write((kept / LOCK).read_bytes())
        lock.flush()
        os.replace(kept / _SETTINGS, path / _SETTINGS)
    for name in OURS:
        if (kept / name).exists():
            os.replace(kept / name, path / name)
    drop(path)


def settle(path: Path, lock: IO[bytes]) -> None:
    """Brings to an end what was broken off when a process was killed."""
    kept = path / REPLACED
    shutil.rmtree(path / _DROPPED, ignore_errors=True)
    if kept.exists() and not ((kept / _SETTINGS).exists() and (path / _SETTINGS).exists()):
        back(path, lock)
    elif kept.exists() and content(path / OURS[0]):
        drop(path)


def drop(path: Path) -> None:
    """Deletes what `aside` has moved."""
    if (path / REPLACED).exists():
        shutil.rmtree(path / _DROPPED, ignore_errors=True)
        os.replace(path / REPLACED, path / _DROPPED)  # at once: half of it would be put back
        shutil.rmtree(path / _DROPPED, ignore_errors=True)


def remove(path: Path) -> None:
    """Deletes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
