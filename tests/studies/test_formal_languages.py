"""Formal languages: classes against enumeration, settings, a whole small run, verdicts."""

import itertools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references.sequence_models import Recurrent

from nestax_studies import formal_languages
from nestax_studies.formal_languages import find
from nestax_studies.formal_languages.languages import LANGUAGES
from nestax_studies.sequences import ARMS, Arm


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
    keys = jax.random.split(jax.random.key(0), 60)
    draw = jax.vmap(lambda key, place: language.example(key, place, 1, drawn))
    strings, seen = draw(keys, jnp.linspace(0, 0.999, 60)), set()
    for tokens, classes, mask in zip(*map(np.asarray, strings), strict=True):
        word = "".join(language.symbols[i] for i in tokens[mask])
        seen.add(word)
        assert mask.sum() == len(word) and mask[: len(word)].all()
        if language.regular:
            assert len(word) == drawn
        else:
            assert MEMBERS[name](word)
        for i, answer in enumerate(classes[mask]):
            assert set(language.sets[answer]) == known[word[: i + 1]], word
    # One string of each length, or of brackets and bits many.
    least = {"parity": 30, "aa": 1, "abab": 1, "anbn": 3, "anbncn": 2, "shuffle2": 6}
    assert len(seen) >= least[name]


@pytest.mark.parametrize("name", ["anbn", "anbncn", "shuffle2"])
def test_places_spread_the_lengths_of_counted_strings(name):
    language, place = LANGUAGES[name], jnp.arange(40) / 40
    keys = jax.random.split(jax.random.key(0), 40)
    found = jax.vmap(lambda key, place: language.example(key, place, 51, 100))(keys, place)
    lengths = np.asarray(found.mask).sum(1)
    assert (np.diff(lengths) >= 0).all() and (lengths % language.divisor == 0).all()
    assert lengths[0] == 51 + -51 % language.divisor and lengths[-1] == 100 - 100 % language.divisor


def test_long_shuffles_end_with_everything_closed_and_use_all_classes():
    language = LANGUAGES["shuffle2"]
    found = language.example(jax.random.key(3), jnp.asarray(0.999), 101, 500)
    word = "".join(language.symbols[i] for i in np.asarray(found.tokens))
    assert len(word) == 500 and shuffled(word)
    assert set(np.ravel(found.targets)) == {0, 1, 2, 3}


def test_every_language_has_a_token_for_every_symbol_and_every_answer():
    for language in LANGUAGES.values():
        assert language.vocabulary >= len(language.symbols)
        assert language.vocabulary >= len(language.sets)
        assert len(set(language.sets)) == len(language.sets)


# Studies


def test_a_model_that_keeps_a_parity_is_told_apart(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Arm, "make", lambda self, vocabulary, *sizes: Recurrent(vocabulary, *sizes))
    settings = formal_languages.Settings(
        languages=("parity",), arms=("hope",), steps=60, batch_size=4, seeds=2, trials=2,
        tuning_seeds=1, longest=150,
    )  # fmt: skip
    with folder(tmp_path / "run", settings) as opened:
        formal_languages.STUDY.run(settings, opened)
        summary = formal_languages.STUDY.report(settings, opened)
        records = {record["stage"]: record for record in opened.metrics()}
    assert summary["complete"] and [v["verdict"] for v in summary["claims"]] == [
        "supported", "supported", *["not measured"] * 3
    ]  # fmt: skip
    assert records["parity hope"]["tests"]["long"]["last"] == [1.0, 1.0]
    measures = summary["arms"]["parity / Hope"]["measures"]
    assert measures["last symbol, longest"]["values"] == [100.0, 100.0]
    along, training = formal_languages.STUDY.draw(settings, records)
    x, middle, low, high = along.drawn["parity"]["Hope"]
    assert len(x) == 25 and x[-1] == 150 and (low <= middle).all() and (middle <= high).all()
    right = np.asarray(records["parity hope"]["accuracy"])
    np.testing.assert_allclose(training.drawn["parity"]["Hope"][3], 100 * right.max(1), rtol=1e-6)


def record(whole, last):
    """What three seeds make of every test."""
    numbers = {"whole": [whole] * 3, "last": [last] * 3, "accuracy": [last] * 3}
    return {
        "rates": [0.1], "scores": [1.0], "rate": 0.1, "edge": True, "parameters": 7,
        "tests": {test: numbers for test in ("short", "longer", "long")},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "good", "bad", "expected"),
    [
        ("parity", (1.0, 0.99), (0.0, 0.5), [True, True, True, True, True]),
        ("parity", (0.98, 0.98), (0.6, 0.8), [False, False, False, False, False]),
        ("parity", (None, None), (0.0, 0.5), [False, False, True, False, True]),
        ("aa", (1.0, 1.0), (0.0, 0.5), [True, True, True]),
        ("anbn", (1.0, 1.0), (1.0, 1.0), [True, True, True]),
        ("anbn", (1.0, 1.0), (0.9, 1.0), [True, True, False]),
    ],
)
def test_verdicts(name, good, bad, expected):
    settings = formal_languages.Settings(languages=(name,))
    records = {
        f"{name} {arm}": record(*(good if arm in ("hope", "delta") else bad)) for arm in ARMS
    }
    found = find(settings, records)
    assert [v.holds for v in found.verdicts] == expected
    assert len(found.numbers.rows) == len(ARMS) and json.dumps(found.numbers.summary())
    del records[f"{name} transformer"]
    assert find(settings, records).verdicts[2].holds is None


def test_counters_choose_rates_by_whole_strings():
    settings = formal_languages.Settings()
    by = {name: formal_languages.task_of(settings, name) for name in settings.languages}
    chosen = {name: (task.tune, task.measure) for name, task in by.items()}
    for name in ("parity", "aa", "abab"):
        assert chosen.pop(name) == ("long", "accuracy")
    assert set(chosen.values()) == {("longer", "whole")} and len(chosen) == 3


def test_the_last_symbol_alone_is_not_enough():
    """Of (aa)* there is one string of each length, and half of its last symbols are guessed."""
    known = record(1.0, 1.0)
    known["tests"]["long"] = {**known["tests"]["long"], "accuracy": [0.5, 0.98, 1.0]}
    settings = formal_languages.Settings(languages=("aa",))
    verdict = find(settings, {"aa hope": known}).verdicts[1]
    assert verdict.holds is False and "98.0 (50.0 to 100.0)" in verdict.measured
