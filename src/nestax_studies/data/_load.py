"""What users call: load, fetch, locate and list data sets."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import _digits, _files, _omniglot, _text
from ._catalogue import CATALOGUE, Drawings, Entry, TextFile, entry
from ._dataset import Dataset, Split
from ._errors import DataError
from ._omniglot import Omniglot
from ._text import Text


@dataclass(frozen=True)
class Status:
    """What is known of a data set without reading it.

    Attributes:
        name: As given to `load`.
        train: Number of training images, or characters of a text.
        test: Number of test images or characters.
        image: (height, width) in pixels; empty for a text.
        classes: Number of classes, or of different characters.
        licence: As stated by its publishers.
        source: Authors and year.
        where: Where its files lie; None if they are not on this machine.
    """

    name: str
    train: int
    test: int
    image: tuple[int, ...]
    classes: int
    licence: str
    source: str
    where: Path | None


def names() -> tuple[str, ...]:
    """The names of all data sets."""
    return tuple(CATALOGUE)


def load(name: str, download: bool = True, progress: bool = True) -> Dataset:
    """Loads a data set, from `$NESTAX_DATA/<name>`, the user's cache, or the network.

    Every file is decompressed whole and checked, format and checksum, before anything is returned.

    Args:
        name: One of `names()`, but for omniglot and the texts tinyshakespeare and wikitext2, which
            have functions of their own.
        download: Whether to download what is not on this machine into the user's cache.
        progress: Whether to show a progress bar while downloading, on stderr.

    Returns:
        The data set: uint8 images (n, height, width) and int32 labels (n,) for both parts.

    Raises:
        DataError: If the name is unknown, the data set cannot be had, or a file is damaged or is
            not what its name says.
        ImportError: If an optional package is needed and missing.
    """
    which = entry(name)
    if not which.files:
        return _digits.load(which)
    if isinstance(which.files[0], Drawings):
        raise DataError(
            f"{name} is made of characters and their drawings, not of labelled images in two "
            f"splits; load it with nestax_studies.data.omniglot()"
        )
    if isinstance(which.files[0], TextFile):
        function = {"tinyshakespeare": "tiny_shakespeare"}.get(name, name)
        raise DataError(f"{name} is a text; load it with nestax_studies.data.{function}()")
    arrays = _files.read(which, _folder(which, download, progress))
    train, test = (
        Split(images, labels.astype(np.int32), which.scale)
        for images, labels in (arrays[:2], arrays[2:])
    )
    return Dataset(name, train, test, which.classes)


def omniglot(download: bool = True, progress: bool = True) -> Omniglot:
    """Loads Omniglot, from `$NESTAX_DATA/omniglot`, the user's cache, or the network.

    Both archives are read whole and checked before anything is returned, which takes some seconds;
    a second call returns the same arrays at once.

    Args:
        download: Whether to download what is not on this machine into the user's cache.
        progress: Whether to show a progress bar while downloading, on stderr.

    Returns:
        The characters: uint8 of shape (964, 20, 28, 28) and (659, 20, 28, 28), and their alphabets.

    Raises:
        DataError: If the data set cannot be had, or a file is damaged or is not what it should be.
        ImportError: If an optional package is needed and missing.
    """
    which = entry("omniglot")
    return _omniglot_in(_folder(which, download, progress))


@functools.cache
def _omniglot_in(folder: Path) -> Omniglot:
    which = entry("omniglot")
    pictures = _files.read(which, folder)
    alphabets = [
        _omniglot.alphabets(_omniglot.archive(_files.place(file, folder), empty=True), file)
        for file in which.files
        if isinstance(file, Drawings)
    ]
    return Omniglot(*pictures, *alphabets)


def tiny_shakespeare(download: bool = True, progress: bool = True) -> Text:
    """Loads tiny Shakespeare: from `$NESTAX_DATA`, the user's cache, or the network.

    Args:
        download: Whether to download what is not on this machine into the user's cache.
        progress: Whether to show a progress bar while downloading, on stderr.

    Returns:
        The text as numbers of its 65 characters, the last tenth of it to judge by.

    Raises:
        DataError: If the data set cannot be had, or the file is damaged or is not what it should
            be.
        ImportError: If an optional package is needed and missing.
    """
    which = entry("tinyshakespeare")
    return _text.split(_files.read(which, _folder(which, download, progress)), which)


def wikitext2(download: bool = True, progress: bool = True) -> Text:
    """Loads WikiText-2's validation and test articles: small enough to train on the former.

    The text is as published: words and punctuation between spaces, rare words as `<unk>`. The
    training articles are not part of it, so results do not compare with those of the benchmark.

    Args:
        download: Whether to download what is not on this machine into the user's cache.
        progress: Whether to show a progress bar while downloading, on stderr.

    Returns:
        The text as numbers of its 137 characters; the validation articles as `train`.

    Raises:
        DataError: If the data set cannot be had, or a file is damaged or is not what it should be.
        ImportError: If an optional package is needed and missing.
    """
    which = entry("wikitext2")
    return _text.split(_files.read(which, _folder(which, download, progress)), which)


def _folder(which: Entry, download: bool, progress: bool) -> Path:
    folder = _files.find(which)
    if folder is None:
        if not download:
            raise _files.absent(which, "not on this machine, and not to be downloaded.")
        folder = _files.download(which, progress)
    return folder


def fetch(name: str, progress: bool = True) -> Path:
    """Makes sure that the user's cache holds a data set, downloading what is missing or damaged.

    Args:
        name: One of `names()`. An embedded data set needs no fetching, and its place is returned.
        progress: Whether to show a progress bar for each file, on stderr.

    Returns:
        Where it is.

    Raises:
        DataError: If the name is unknown, or the download fails or has the wrong checksum.
        ImportError: If an optional package is missing.
    """
    which = entry(name)
    return _files.download(which, progress) if which.files else _digits.locate()


def locate(name: str) -> Path:
    """Where a data set is, or where `fetch` would put it. Reads and downloads nothing.

    Returns:
        A folder; for `digits` the file inside scikit-learn.

    Raises:
        DataError: If the name is unknown.
        ImportError: If an optional package is needed and missing.
    """
    which = entry(name)
    if not which.files:
        return _digits.locate()
    return _files.find(which) or _files.cache(which)


def describe(name: str) -> Status:
    """What is known of one data set, and where it is. Opens no file.

    Raises:
        DataError: If the name is unknown.
    """
    which = entry(name)
    try:
        where = _files.find(which) if which.files else _digits.find()
    except ImportError:  # without pooch there is no cache, so it is not found
        where = None
    return Status(
        name=which.name,
        train=which.train,
        test=which.test,
        image=which.image,
        classes=which.classes,
        licence=which.licence,
        source=which.source,
        where=where,
    )


def status() -> tuple[Status, ...]:
    """`describe` for every data set, in the order of `names()`."""
    return tuple(describe(name) for name in names())
