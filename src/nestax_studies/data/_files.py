"""Data sets kept in files: where they are looked for, how they are checked and downloaded.

A data set is a folder that holds all its files, packed as they are published or unpacked. It is
looked for in `$NESTAX_DATA/<name>` and where torchvision puts it there, then in the user's cache; a
folder that lacks a file is passed over. Downloads go to the cache, through a temporary file that
takes its place only when its checksum is right.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from . import _idx, _omniglot, _text
from ._catalogue import Drawings, Entry, File, IdxFile, TextFile
from ._errors import DataError, optional

VARIABLE = "NESTAX_DATA"
_TIMEOUT = 30  # seconds without an answer from a mirror
_CHUNK = 1 << 16  # bytes


def cache(entry: Entry) -> Path:
    """The folder of a data set in the user's cache, whether it exists or not.

    Raises:
        ImportError: If pooch is missing.
    """
    pooch = optional("pooch", f"Finding {entry.name} outside ${VARIABLE}")
    return Path(pooch.os_cache("nestax")).expanduser() / entry.name


def _folders(entry: Entry) -> Iterator[Path]:
    """The folders to look in, in order; lazily, so that the first needs no pooch."""
    if root := os.environ.get(VARIABLE):
        given = Path(root).expanduser()
        yield given / entry.name
        if entry.torchvision:
            yield given / entry.torchvision
            yield given / entry.name / entry.torchvision
    yield cache(entry)


def _lies(file: File, folder: Path) -> Path | None:
    """Where a file of a data set lies in a folder, packed or unpacked; None if it does not."""
    for name in file.names:
        path = folder / name
        if path.is_dir() if isinstance(file, Drawings) and not path.suffix else path.is_file():
            return path
    return None


def find(entry: Entry) -> Path | None:
    """The first folder that holds all files of a data set, or None. Opens no file.

    Raises:
        ImportError: If `NESTAX_DATA` lacks the data set and pooch is missing.
    """
    for folder in _folders(entry):
        if all(_lies(file, folder) for file in entry.files):
            return folder
    return None


def absent(entry: Entry, reason: str) -> DataError:
    """The error for a data set that cannot be had; says where it was looked for, and what to do."""
    looked = "".join(f"\n  {folder}{_lacking(entry, folder)}" for folder in _folders(entry))
    unset = "" if os.environ.get(VARIABLE) else f" ({VARIABLE} is not set)"
    return DataError(
        f"{entry.name}: {reason}\n"
        f"Looked for its files in{unset}:{looked}\n"
        f"Either run `nestax data fetch {entry.name}` with a network connection, or set "
        f"{VARIABLE} to a folder that holds these files:"
        + "".join(f"\n  {entry.name}/{file.name}" for file in entry.files)
        + _other_ways(entry)
    )


def _other_ways(entry: Entry) -> str:
    """In words, how else the files may be called and where they may lie."""
    others = [name for file in entry.files[:1] for name in file.names[1:]]
    called = f"\nThey may be unpacked, the first as {' or '.join(others)}." if others else ""
    lies = entry.torchvision
    return called + (f"\nThey may lie in {lies} too, as torchvision leaves them." if lies else "")


def _lacking(entry: Entry, folder: Path) -> str:
    lacking = [file.name for file in entry.files if not _lies(file, folder)]
    some = 0 < len(lacking) < len(entry.files)
    return f" (lacks {', '.join(lacking)})" if some else ""


def read(entry: Entry, folder: Path) -> list[np.ndarray]:
    """Reads and checks every file of a data set.

    Returns:
        One read-only uint8 array per file, in the order of `entry.files`.

    Raises:
        DataError: If a file is not exactly what it should be. Nothing is returned then.
    """
    return [_read(entry, file, place(file, folder)) for file in entry.files]


def place(file: File, folder: Path) -> Path:
    """Where a file of a data set lies in a folder, or would be put."""
    return _lies(file, folder) or folder / file.name


def _read(entry: Entry, file: File, path: Path) -> np.ndarray:
    try:
        if isinstance(file, Drawings):
            return _omniglot.read(_omniglot.archive(path), file)
        if isinstance(file, TextFile):
            return _text.read(path.read_bytes(), file)
        content = _idx_content(file, path)
        array = _idx.parse(content, file.shape)
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != file.content:
            raise ValueError(
                f"expected content with md5 {file.content}, found md5 {found}: well formed, but "
                f"not the data of {entry.name}"
            )
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: {error}.\n"
            f"This file cannot be used as {file.name} of {entry.name}. Delete it and run "
            f"`nestax data fetch {entry.name}`, or point {VARIABLE} to another folder."
        ) from error
    return array


def _idx_content(file: IdxFile, path: Path) -> bytes:
    limit = _idx.limit(file.shape)
    if path.name == file.name:
        return _idx.decompress(path.read_bytes(), limit)
    with path.open("rb") as unpacked:
        return unpacked.read(limit)


def download(entry: Entry, progress: bool = True) -> Path:
    """Downloads into the user's cache whatever is missing or damaged there.

    Args:
        entry: The data set.
        progress: Whether to show a progress bar for each file, on stderr.

    Returns:
        The folder in the cache, now complete; every file in it has been checked.

    Raises:
        DataError: If a file can be had, with the right checksum, from none of the mirrors.
        ImportError: If pooch, or for the progress bar tqdm, is missing.
    """
    pooch = optional("pooch", "Downloading data sets")
    if progress:
        optional("tqdm", "The progress bar of a download")
    folder = cache(entry)
    for file in entry.files:
        if not _sound(entry, file, place(file, folder)):
            _retrieve(pooch, entry, file, folder, progress)
    return folder


def _sound(entry: Entry, file: File, path: Path) -> bool:
    try:
        _read(entry, file, path)
    except DataError:
        return False
    return True


def _retrieve(pooch, entry: Entry, file: File, folder: Path, progress: bool) -> None:
    """Downloads one file from the first mirror that gives it with the published checksum."""
    failures = []
    for mirror in entry.mirrors:
        url = mirror + file.name
        fetcher = pooch.HTTPDownloader(progressbar=progress, chunk_size=_CHUNK, timeout=_TIMEOUT)
        try:
            pooch.retrieve(
                url, f"md5:{file.archive}", fname=file.name, path=folder, downloader=fetcher
            )
            return
        except (OSError, ValueError) as error:  # connection, answer, disk; checksum
            failures.append(f"\n  {url}\n    {type(error).__name__}: {error}")
    raise absent(entry, f"the download of {file.name} failed. Tried:{''.join(failures)}")
