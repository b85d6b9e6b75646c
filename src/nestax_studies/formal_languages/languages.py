"""Formal languages: strings, and after every symbol which symbols may come next.

A model reads a string of the language, or the beginning of one, and says after every symbol which
symbols may follow, the end being one of them. Each set of symbols that occurs is a class. To know
the set is to know, for the regular languages, a state, and for the others whether counters are 0.

Sources: Bhattamishra, Ahuja and Goyal, "On the ability and limitations of transformers to recognize
formal languages" (2020), for the task; Irie, Csordas and Schmidhuber, "Practical computational
power of linear transformers and their recurrent and self-referential extensions" (2023), for the
languages, which are those that the paper on nested learning reports.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ..sequences.tasks import Example


@dataclasses.dataclass(frozen=True)
class Language:
    """A language.

    Attributes:
        label: as it is written.
        symbols: one letter each; a token is a symbol's number.
        sets: the symbols that may follow, by class; "$" is the end.
        regular: whether a finite automaton knows it. Strings are then beginnings of strings, as
            long as may be; otherwise they are whole.
        draw: (key, length in all, half the length of this string or a third) -> tokens and classes,
            whatever they like beyond the string's end.
        divisor: of the length of every string.
    """

    label: str
    symbols: str
    sets: tuple[str, ...]
    regular: bool
    draw: Callable[[Array, int, Array], tuple[Int[Array, " time"], Int[Array, " time"]]]
    divisor: int = 1

    @property
    def vocabulary(self) -> int:
        """Tokens in all: symbols to read, classes to answer."""
        return max(len(self.symbols), len(self.sets))

    def example(self, key: Array, place: Array, shortest: int, longest: int) -> Example:
        """A string of between `shortest` and `longest` symbols; for counters the longer, the larger
        the place in [0, 1). Masked and padded to `longest`."""
        low, high = -(-shortest // self.divisor), longest // self.divisor
        count = low + jnp.floor(place * (high - low + 1)).astype(jnp.int32)
        if self.regular:
            count = jnp.asarray(high, jnp.int32)
        tokens, classes = self.draw(key, longest, count)
        inside = jnp.arange(longest) < count * self.divisor
        return Example(jnp.where(inside, tokens, 0), jnp.where(inside, classes, 0), inside)


def _parity(key: Array, length: int, count: Array) -> tuple[Array, Array]:
    ones = jax.random.randint(key, (length,), 0, 2)
    return ones, jnp.cumsum(ones) % 2


def _pairs(key: Array, length: int, count: Array) -> tuple[Array, Array]:
    return jnp.zeros(length, jnp.int32), (jnp.arange(length) + 1) % 2


def _fours(key: Array, length: int, count: Array) -> tuple[Array, Array]:
    place = jnp.arange(length)
    return place % 2, jnp.asarray([0, 1, 2, 1])[(place + 1) % 4]


def _counted(kinds: int) -> Callable[[Array, int, Array], tuple[Array, Array]]:
    """a^n b^n, a^n b^n c^n: symbol i says class i while some of it must follow, or, of the first,
    may; the last of symbol i > 0 says class i + 1."""

    def draw(key: Array, length: int, count: Array) -> tuple[Array, Array]:
        place = jnp.arange(length)
        own = jnp.minimum(place // jnp.maximum(count, 1), kinds - 1)
        done = (own > 0) & ((place + 1) % jnp.maximum(count, 1) == 0)
        return own, own + done

    return draw


def _shuffle(key: Array, length: int, count: Array) -> tuple[Array, Array]:
    """Two kinds of brackets, each balanced by itself, shuffled. At every symbol as likely to open
    as to close where both are possible, kinds alike where they are."""

    def symbol(open_: Array, drawn: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        place, noise = drawn
        left = 2 * count - place  # symbols, this one included
        depth = jnp.sum(open_)
        up = (depth == 0) | ((noise[0] < 0.5) & (depth < left))
        fewer = (open_[1] > 0) & ((open_[0] == 0) | (noise[1] < 0.5))
        kind = jnp.where(up, noise[1] < 0.5, fewer).astype(jnp.int32)
        step = jnp.where(up, 1, -1) * (jnp.arange(2) == kind)
        open_ = open_ + step
        return open_, (2 * kind + 1 - up, 2 * (open_[0] > 0) + (open_[1] > 0))

    noise = jax.random.uniform(key, (length, 2))
    start = jnp.zeros(2, jnp.int32)
    tokens, classes = jax.lax.scan(symbol, start, (jnp.arange(length), noise))[1]
    return tokens.astype(jnp.int32), classes.astype(jnp.int32)


LANGUAGES = {
    "parity": Language("parity", "01", ("01$", "01"), True, _parity),
    "aa": Language("(aa)*", "a", ("a$", "a"), True, _pairs),
    "abab": Language("(abab)*", "ab", ("a$", "b", "a"), True, _fours),
    "anbn": Language("a^n b^n", "ab", ("ab", "b", "$"), False, _counted(2), 2),
    "anbncn": Language("a^n b^n c^n", "abc", ("ab", "b", "c", "$"), False, _counted(3), 3),
    "shuffle2": Language(
        "shuffle of two brackets", "()[]", ("([$", "([]", "([)", "([)]"), False, _shuffle, 2
    ),
}
