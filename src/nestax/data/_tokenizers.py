"""Texts as numbers and back, without training: bytes, or the characters of a given text."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ._errors import DataError


@dataclass(frozen=True)
class ByteTokenizer:
    """Every byte of a text in UTF-8 is a token: any text at all, 256 tokens."""

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return 256

    def encode(self, text: str | bytes) -> np.ndarray:
        """Numbers of the text's bytes, int32 of shape (n,)."""
        raw = text.encode("utf-8") if isinstance(text, str) else bytes(text)
        return np.frombuffer(raw, np.uint8).astype(np.int32)

    def decode(self, tokens: Any) -> str:
        """The text of numbers; bytes that are no UTF-8 become U+FFFD.

        Raises:
            DataError: a number that is no byte.
        """
        return bytes(_checked("ByteTokenizer", tokens, 256)).decode("utf-8", errors="replace")


@dataclass(frozen=True)
class CharacterTokenizer:
    """Every character is a token: number i stands for `characters[i]`.

        tokenizer = CharacterTokenizer.of(text)
        tokenizer.decode(tokenizer.encode(text)) == text

    `CharacterTokenizer(data.tiny_shakespeare().characters)` numbers as that text is numbered.

    Attributes:
        characters: all there are, each once, in the order of their numbers.
        unknown: one of them, that stands for every character that is not among them; None: such a
            character is an error.

    Raises:
        DataError: a character twice, or an `unknown` that is not among them.
    """

    characters: str
    unknown: str | None = None
    _numbers: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        numbers = {character: i for i, character in enumerate(self.characters)}
        if len(numbers) < len(self.characters):
            twice = next(c for c in self.characters if self.characters.count(c) > 1)
            raise DataError(f"CharacterTokenizer: {twice!r} is among the characters twice")
        if self.unknown is not None and self.unknown not in numbers:
            raise DataError(
                f"CharacterTokenizer: unknown must be one of the characters, got {self.unknown!r}"
            )
        object.__setattr__(self, "_numbers", numbers)

    @classmethod
    def of(cls, texts: str | Iterable[str], unknown: str | None = None) -> "CharacterTokenizer":
        """For all characters that occur in one text or several, and `unknown`, in their order."""
        found = set(texts) if isinstance(texts, str) else set().union(*texts)
        return cls("".join(sorted(found | set(unknown or ""))), unknown)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """Numbers of the text's characters, int32 of shape (n,).

        Raises:
            DataError: a character that is not among them, if there is no `unknown`.
        """
        if self.unknown is not None:
            other = self._numbers[self.unknown]
            return np.array([self._numbers.get(c, other) for c in text], np.int32)
        try:
            return np.array([self._numbers[c] for c in text], np.int32)
        except KeyError as error:
            raise DataError(
                f"CharacterTokenizer: {error.args[0]!r} is none of the {self.vocabulary} "
                "characters; add it, or pass unknown="
            ) from None

    def decode(self, tokens: Any) -> str:
        """The text of numbers.

        Raises:
            DataError: a number that stands for nothing.
        """
        checked = _checked("CharacterTokenizer", tokens, self.vocabulary)
        return "".join(self.characters[number] for number in checked)


def _checked(name: str, tokens: Any, vocabulary: int) -> list[int]:
    """Numbers below the vocabulary, of one sequence."""
    array = np.asarray(tokens)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise DataError(
            f"{name}: one sequence of whole numbers is expected, got {array.dtype} of shape "
            f"{array.shape}"
        )
    if array.size and not 0 <= array.min() <= array.max() < vocabulary:
        raise DataError(
            f"{name}: tokens are numbers from 0 to {vocabulary - 1}, got {array.min()} to "
            f"{array.max()}"
        )
    return array.tolist()
