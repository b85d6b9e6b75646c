"""Omniglot: 1,623 hand-written characters of 50 alphabets, each drawn once by each of 20 people.

Source: B. M. Lake, R. Salakhutdinov and J. B. Tenenbaum, Human-level concept learning through
probabilistic program induction, Science 350(6266), 2015. Background and evaluation share no
alphabet.

The published archives hold black and white PNG files of 105x105 pixels. They are reduced to 28x28
here by averaging over areas, in whole numbers, so that every machine gets the same bytes.
"""

import hashlib
import io
import math
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ._catalogue import Drawings
from ._errors import optional

SIDE = 28
_LARGEST = 1 << 16  # bytes of one PNG file, of which the published ones have 500
_MEMBER = re.compile(r"(?P<root>[^/]+)/(?P<alphabet>[^/]+)/(?P<character>[^/]+)/[^/.][^/]*\.png")


@dataclass(frozen=True, eq=False)
class Omniglot:
    """The characters, each class with its 20 drawings. The arrays are read-only.

    Attributes:
        background: to learn from; uint8 of shape (964, 20, 28, 28), ink in 0..255.
        evaluation: to judge by; uint8 of shape (659, 20, 28, 28). No alphabet is in both.
        background_alphabets: int32 of shape (964,), number of each character's alphabet, from 0.
        evaluation_alphabets: int32 of shape (659,).
    """

    background: np.ndarray
    evaluation: np.ndarray
    background_alphabets: np.ndarray
    evaluation_alphabets: np.ndarray


def read(data: bytes, file: Drawings) -> np.ndarray:
    """Reads a zip archive of drawings and reduces them.

    Args:
        data: the archive.
        file: what it must hold.

    Returns:
        uint8 array of shape (characters, drawings, 28, 28), read-only; characters in the order of
        their paths. 255 is ink all over the pixel's area.

    Raises:
        ValueError: it is not a sound zip archive, or not of exactly these drawings.
        ImportError: pillow is missing.
    """
    image = optional("PIL.Image", "Reading the PNG files of Omniglot")
    characters, drawings, height, width = file.shape
    with _opened(data) as archive:
        members = _members(archive, file)
        content = hashlib.md5(usedforsecurity=False)
        reduced = np.empty((len(members), SIDE, SIDE), np.uint8)
        for index, member in enumerate(members):
            ink = _ink(image, archive, member, (height, width))
            content.update(f"{member.filename}\n".encode())
            content.update(np.packbits(ink).tobytes())
            reduced[index] = reduce(ink)
    # Either sum is proof. The content's recognises the same drawings in another packing.
    sums = hashlib.md5(data, usedforsecurity=False).hexdigest(), content.hexdigest()
    if sums[0] != file.archive and sums[1] != file.content:
        raise ValueError(
            f"expected drawings with md5 {file.content}, found md5 {sums[1]}: well formed, but not "
            f"those of {file.name}"
        )
    reduced.flags.writeable = False
    return reduced.reshape(characters, drawings, SIDE, SIDE)


def archive(path: Path, empty: bool = False) -> bytes:
    """The zip archive at a path, or one made of the drawings in a folder that was unpacked.

    Args:
        path: of the file or folder.
        empty: names suffice; the drawings of a folder are not read.
    """
    if not path.is_dir():
        return path.read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as made:
        for drawing in path.rglob("*.png"):
            if not drawing.name.startswith("."):  # such as macOS leaves behind
                name = drawing.relative_to(path.parent).as_posix()
                made.writestr(zipfile.ZipInfo(name), b"" if empty else drawing.read_bytes())
    return packed.getvalue()


def alphabets(data: bytes, file: Drawings) -> np.ndarray:
    """The alphabet of each character: int32 of shape (characters,), numbered in order of names.

    Raises:
        ValueError: as for `read`.
    """
    with _opened(data) as archive:
        members = _members(archive, file)[:: file.shape[1]]
    names = [member.filename.split("/")[1] for member in members]
    return np.unique(names, return_inverse=True)[1].astype(np.int32)


def reduce(ink: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Averages a picture over the areas of fewer pixels.

    Args:
        ink: bool of shape (n, n), n at least `side`.
        side: pixels of the result in each direction.

    Returns:
        uint8 of shape (side, side): the share of each pixel's area that is ink, 255 for all of it.
    """
    size = len(ink)
    edges = np.arange(size)[None, :] * side, np.arange(side)[:, None] * size
    # How much of pixel j lies in area i, in units of 1 / side of a pixel; the rows add up to size.
    overlap = np.minimum(edges[0] + side, edges[1] + size) - np.maximum(edges[0], edges[1])
    overlap = np.maximum(overlap, 0).astype(np.float32)
    # Whole numbers below 2^24 are exact in float32, whatever the order of addition.
    area = (overlap @ ink.astype(np.float32) @ overlap.T).astype(np.int64)
    return ((2 * 255 * area + size**2) // (2 * size**2)).astype(np.uint8)


def _opened(data: bytes) -> zipfile.ZipFile:
    if not data:
        raise ValueError("expected a zip archive, found an empty file")
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"expected a zip archive, found {len(data)} bytes that are none or break off ({error})"
        ) from error


def _members(archive: zipfile.ZipFile, file: Drawings) -> list[zipfile.ZipInfo]:
    """The drawings' entries, in the order of their paths."""
    root = file.name.removesuffix(".zip")
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        # Folders, and what macOS leaves in archives.
        if member.is_dir() or member.filename.startswith("__MACOSX/"):
            continue
        match = _MEMBER.fullmatch(member.filename)
        if match is None or match["root"] != root:
            raise ValueError(
                f"expected drawings {root}/ALPHABET/CHARACTER/*.png, found {member.filename!r}"
            )
        if member.filename in found:
            raise ValueError(f"expected each drawing once, found {member.filename!r} twice")
        if member.file_size > _LARGEST:
            raise ValueError(f"{member.filename!r} has {member.file_size} bytes, too many for one")
        found[member.filename] = member
    characters, drawings = file.shape[:2]
    if len(found) != math.prod(file.shape[:2]):
        raise ValueError(f"expected {characters * drawings} drawings, found {len(found)}")
    names = sorted(found)
    for first in range(0, len(names), drawings):
        folders = {name.rpartition("/")[0] for name in names[first : first + drawings]}
        if len(folders) > 1:
            raise ValueError(
                f"expected {drawings} drawings of each character, found another number in one of "
                f"{', '.join(sorted(folders))}"
            )
    return [found[name] for name in names]


def _ink(
    image, archive: zipfile.ZipFile, member: zipfile.ZipInfo, shape: tuple[int, int]
) -> np.ndarray:
    """The picture of one entry: bool, True for ink."""
    damage = (zipfile.BadZipFile, zlib.error, EOFError, OSError, SyntaxError, ValueError)
    try:
        # Checked by the archive's CRC-32; pillow raises SyntaxError for a broken PNG file.
        with image.open(io.BytesIO(archive.read(member)), formats=["PNG"]) as picture:
            mode, pixels = picture.mode, np.asarray(picture)
    except (*damage, RuntimeError, image.DecompressionBombError) as error:
        raise ValueError(f"{member.filename!r} cannot be read ({error})") from error
    if mode != "1" or pixels.shape != shape:
        raise ValueError(
            f"expected pictures of {shape[0]}x{shape[1]} pixels of one bit, found "
            f"{member.filename!r} of shape {pixels.shape} and pillow's mode {mode!r}"
        )
    return ~pixels
