"""Formal languages: strings and their classes against enumeration."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax_studies.formal_languages.languages import LANGUAGES


def shuffled(word):
    """Whether both kinds of brackets are balanced, each by itself."""
    for pair in ("()", "[]"):
        depths = list(itertools.accumulate({pair[0]: 1, pair[1]: -1}.get(c, 0) for c in word))
        if depths and (min(depths) < 0 or depths[-1] != 0):
            return False
    return True


MEMBERS = {
    "parity": lambda word: word.count("1") % 2 == 0,
    "aa": lambda word: len(word) % 2 == 0,
    "abab": lambda word: re.fullmatch("(abab)*", word) is not None,
    "anbn": lambda word: any(word == n * "a" + n * "b" for n in range(1, 6)),
    "anbncn": lambda word: any(word == n * "a" + n * "b" + n * "c" for n in range(1, 6)),
    "shuffle2": lambda word: word != "" and shuffled(word),
}


def following(name, longest):
    """Prefix of a word of at most `longest` symbols -> which symbols, or the end, may follow it."""
    words = [
        "".join(letters)
        for n in range(longest + 1)
        for letters in itertools.product(LANGUAGES[name].symbols, repeat=n)
        if MEMBERS[name]("".join(letters))
    ]
    found = {}
    for word in words:
        for i in range(len(word)):
            found.setdefault(word[:i], set()).add(word[i])
        found.setdefault(word, set()).add("$")
    return found


# The longest words enumerated: strings drawn are short enough for all that may follow to be seen.
@pytest.mark.parametrize(
    ("name", "drawn", "longest"),
    [("parity", 6, 8), ("aa", 6, 8), ("abab", 8, 12), ("anbn", 6, 8), ("anbncn", 6, 9),
     ("shuffle2", 4, 6)],
)  # fmt: skip
def test_classes_are_the_symbols_that_may_follow(name, drawn, longest):
    language, known = LANGUAGES[name], following(name, longest)
    assert language.vocabulary >= max(len(language.symbols), len(set(language.sets)))
    keys = jax.random.split(jax.random.key(0), 60)
    draw = jax.jit(jax.vmap(lambda key, place: language.example(key, place, 1, drawn)))
    strings, seen = draw(keys, jnp.linspace(0, 0.999, 60)), set()
    for tokens, classes, mask in zip(*map(np.asarray, strings), strict=True):
        word = "".join(language.symbols[i] for i in tokens[mask])
        seen.add(word)
        assert mask.sum() == len(word) and mask[: len(word)].all()
        assert len(word) == drawn if language.regular else MEMBERS[name](word)
        for i, answer in enumerate(classes[mask]):
            assert set(language.sets[answer]) == known[word[: i + 1]], word
    # One string of each length, or of brackets and bits many.
    least = {"parity": 30, "aa": 1, "abab": 1, "anbn": 3, "anbncn": 2, "shuffle2": 6}
    assert len(seen) >= least[name]


@pytest.mark.parametrize("name", ["anbn", "anbncn", "shuffle2"])
def test_places_spread_the_lengths_of_counted_strings(name):
    language, place = LANGUAGES[name], jnp.arange(40) / 40
    keys = jax.random.split(jax.random.key(0), 40)
    draw = jax.jit(jax.vmap(lambda key, place: language.example(key, place, 51, 100)))
    found = draw(keys, place)
    lengths = np.asarray(found.mask).sum(1)
    assert (np.diff(lengths) >= 0).all() and (lengths % language.divisor == 0).all()
    assert lengths[0] == 51 + -51 % language.divisor and lengths[-1] == 100 - 100 % language.divisor


def test_long_shuffles_end_with_everything_closed_and_use_all_classes():
    language = LANGUAGES["shuffle2"]
    found = language.example(jax.random.key(3), jnp.asarray(0.999), 101, 500)
    word = "".join(language.symbols[i] for i in np.asarray(found.tokens))
    assert len(word) == 500 and shuffled(word)
    assert set(np.ravel(found.targets)) == {0, 1, 2, 3}
