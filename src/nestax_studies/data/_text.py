"""A text as a sequence of small numbers, one for each character.

Known here are tiny Shakespeare (A. Karpathy, char-rnn, github.com/karpathy/char-rnn, 2015), and the
validation and test articles of WikiText-2 (S. Merity, C. Xiong, J. Bradbury and R. Socher, Pointer
sentinel mixture models, ICLR 2017).
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._catalogue import Entry, TextFile
from ._errors import DataError
from ._tokenizers import check_numbers


@dataclass(frozen=True, eq=False)
class Text:
    """A text in two parts, in its order. The arrays are read-only.

    Attributes:
        characters: all that occur, in the order of their codes; number i stands for
            `characters[i]`.
        train: uint8 of shape (n,), numbers of characters; of tiny Shakespeare the first nine
            tenths, of WikiText-2 the validation articles.
        test: what to judge by; uint8 of shape (m,).
    """

    characters: str
    train: np.ndarray
    test: np.ndarray

    def decode(self, numbers: Any) -> str:
        """The text that numbers stand for.

        Raises:
            DataError: a number that stands for nothing, or no sequence of whole numbers.
        """
        checked = check_numbers("Text", numbers, len(self.characters))
        return "".join(self.characters[number] for number in checked)


def read(data: bytes, file: TextFile) -> np.ndarray:
    """Checks the bytes of a file.

    Returns:
        uint8 of shape (size,), read-only: the bytes.

    Raises:
        ValueError: they are not exactly that file.
    """
    if len(data) != file.size:
        raise ValueError(f"expected {file.size} bytes of text, found {len(data)}")
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != file.archive:
        raise ValueError(
            f"expected a text with md5 {file.archive}, found md5 {found}: of the right length, but "
            f"not {file.name}"
        )
    return np.frombuffer(data, np.uint8)


def split(files: list[np.ndarray], entry: Entry) -> Text:
    """Numbers the characters of one or two files, and splits the text by position.

    Raises:
        DataError: it has another number of characters than the catalogue says.
    """
    text = "".join(bytes(file).decode("utf-8") for file in files)
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    kinds, numbers = np.unique(codes, return_inverse=True)
    if (len(kinds), len(codes)) != (entry.classes, entry.train + entry.test):
        raise DataError(
            f"{entry.name}: expected {entry.train + entry.test} characters of {entry.classes} "
            f"kinds, found {len(codes)} of {len(kinds)}"
        )
    numbers = numbers.astype(np.uint8)
    numbers.flags.writeable = False
    characters = "".join(chr(kind) for kind in kinds)
    return Text(characters, numbers[: entry.train], numbers[entry.train :])
