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

    def encode(self, text: str | bytes | bytearray) -> np.ndarray:
        """Numbers of the text's bytes, int32 of shape (n,).

        Raises:
            DataError: neither a `str` nor `bytes`, or a `str` with half of a surrogate pair, which
                UTF-8 cannot hold.
        """
        if isinstance(text, str):
            try:
                text = text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise DataError(
                    f"ByteTokenizer: {text[error.start]!r} at position {error.start} is half of a "
                    'surrogate pair and has no UTF-8; replace it, as text.encode("utf-8", '
                    '"replace") does'
                ) from None
        # Of other objects bytes() makes zeros, as many as an int says, or a copy of their memory.
        if not isinstance(text, bytes | bytearray):
            raise DataError(
                f"ByteTokenizer: text must be a str or bytes, got {_described(text)}; tokens need "
                "no encoding, decode() makes them text"
            )
        return np.frombuffer(text, np.uint8).astype(np.int32)

    def decode(self, tokens: Any) -> str:
        """The text of numbers; bytes that are no UTF-8 become U+FFFD.

        Raises:
            DataError: a number that is no byte, or no sequence of whole numbers.
        """
        return bytes(check_numbers("ByteTokenizer", tokens, 256)).decode("utf-8", errors="replace")


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
        DataError: characters that are no `str`, or twice the same; an `unknown` that is not among
            them.
    """

    characters: str
    unknown: str | None = None
    _numbers: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.characters, str):
            raise DataError(
                "CharacterTokenizer: characters must be a str of all characters, got "
                f"{_described(self.characters)}; CharacterTokenizer.of(texts) collects them"
            )
        numbers = {character: i for i, character in enumerate(self.characters)}
        if len(numbers) < len(self.characters):
            twice = next(c for c in self.characters if self.characters.count(c) > 1)
            raise DataError(f"CharacterTokenizer: {twice!r} is among the characters twice")
        if self.unknown is not None and not (
            isinstance(self.unknown, str) and self.unknown in numbers
        ):
            raise DataError(
                f"CharacterTokenizer: unknown must be one of the characters, got {self.unknown!r}"
            )
        object.__setattr__(self, "_numbers", numbers)

    @classmethod
    def of(cls, texts: str | Iterable[str], unknown: str | None = None) -> "CharacterTokenizer":
        """For all characters that occur in one text or several, and `unknown`, in their order.

        Raises:
            DataError: texts that are no `str`, or an `unknown` that is not one character.
        """
        if unknown is not None and not (isinstance(unknown, str) and len(unknown) == 1):
            raise DataError(f"CharacterTokenizer: unknown must be one character, got {unknown!r}")
        several = isinstance(texts, Iterable) and not isinstance(texts, str | bytes | bytearray)
        characters = set(unknown or "")
        for text in texts if several else [texts]:
            if not isinstance(text, str):
                raise DataError(
                    "CharacterTokenizer: texts must be a str or several, got "
                    f"{_described(text)}{' among them' if several else ''}"
                )
            characters.update(text)
        return cls("".join(sorted(characters)), unknown)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """Numbers of the text's characters, int32 of shape (n,).

        Raises:
            DataError: no `str`; a character that is not among them, if there is no `unknown`.
        """
        if not isinstance(text, str):
            raise DataError(f"CharacterTokenizer: text must be a str, got {_described(text)}")
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
            DataError: a number that stands for nothing, or no sequence of whole numbers.
        """
        checked = check_numbers("CharacterTokenizer", tokens, self.vocabulary)
        return "".join(self.characters[number] for number in checked)


def check_numbers(name: str, tokens: Any, vocabulary: int) -> list[int]:
    """Numbers below the vocabulary, of one sequence.

    Raises:
        DataError: anything else.
    """
    try:
        array = np.asarray(tokens)
    except (TypeError, ValueError) as error:  # rows of different lengths, or a traced array
        raise DataError(
            f"{name}: one sequence of whole numbers is expected, got {_described(tokens)}"
        ) from error
    sequence = isinstance(tokens, list | tuple)
    bools = sequence and any(isinstance(token, bool | np.bool_) for token in tokens)
    if array.ndim != 1 or bools or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise DataError(
            f"{name}: one sequence of whole numbers is expected, got "
            f"{'bools' if bools else _described(array)}"
        )
    if np.ma.is_masked(tokens):
        raise DataError(
            f"{name}: the tokens have masked entries, which stand for nothing; pass those that "
            "are left, tokens.compressed()"
        )
    if array.size and not 0 <= array.min() <= array.max() < vocabulary:
        raise DataError(
            f"{name}: tokens are numbers from 0 to {vocabulary - 1}, got {array.min()} to "
            f"{array.max()}; leave padding out, as tokens[tokens >= 0] does"
        )
    return array.tolist()


def _described(value: Any) -> str:
    """What a value is, for messages."""
    if isinstance(value, np.ndarray | np.generic):
        return f"{value.dtype} of shape {value.shape}"
    return f"{value!r:.40}, a {type(value).__name__}"
