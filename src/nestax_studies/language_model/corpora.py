"""The texts: what is learned from, what rates are chosen by, what is judged by."""

import dataclasses
from collections.abc import Callable

import numpy as np

from .. import data

_TUNING = 0.05  # of the training text, its end, is kept out and chosen by


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """A text as numbers, in three parts that do not overlap.

    Attributes:
        train, tune, test: to learn from, to choose a rate by, to judge by.
        vocabulary: how many numbers there are.
        decode: numbers -> the text that they stand for.
    """

    train: np.ndarray
    tune: np.ndarray
    test: np.ndarray
    vocabulary: int
    decode: Callable[[np.ndarray], str]


def load(name: str) -> Corpus:
    """Tiny Shakespeare by characters, or WikiText-2 by bytes.

    Of WikiText-2 the validation text is learned from, and the test text is judged by.
    """
    if name == "tinyshakespeare":
        text = data.tiny_shakespeare()
        learn, test = text.train, text.test
        vocabulary, decode = len(text.characters), text.decode
    else:
        text, tokens = data.wikitext2(), data.ByteTokenizer()
        learn, test = (
            tokens.encode(text.decode(part)).astype(np.uint8) for part in (text.train, text.test)
        )
        vocabulary, decode = tokens.vocabulary, tokens.decode
    kept = round(_TUNING * len(learn))
    return Corpus(learn[:-kept], learn[-kept:], test, vocabulary, decode)


def windows(part: np.ndarray, count: int, length: int) -> np.ndarray:
    """`count` pieces of a text, (count, length + 1), evenly spaced; as many as fit without overlap,
    if that is fewer. The last number of a piece is only predicted."""
    fit = (len(part) - 1) // length
    count = min(count, fit)
    if count < 1:
        raise ValueError(
            f"windows: a text of {len(part)} is too short for one piece of {length} and what "
            "follows; give a smaller length"
        )
    starts = np.linspace(0, len(part) - 1 - length, count).astype(int)
    return part[starts[:, None] + np.arange(length + 1)[None]]


def streams(part: np.ndarray, count: int, pieces: int, length: int) -> np.ndarray:
    """`count` long stretches cut into pieces that follow one another: (pieces, count, length + 1).
    A piece's last number is the next one's first."""
    pieces = min(pieces, (len(part) - 1) // (length * count))
    whole = windows(part, count, pieces * length)
    cut = np.arange(pieces)[:, None] * length + np.arange(length + 1)[None]
    return np.swapaxes(whole[:, cut], 0, 1)
