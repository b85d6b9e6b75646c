"""A needle in a haystack: haystacks against plain reading, settings, a small run, verdicts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references.sequence_models import Bag

from nestax.runs import SettingsError
from nestax_studies import needle
from nestax_studies.needle import BLOCK, NAMES, VOCABULARY, find, haystack
from nestax_studies.sequences import ARMS, Arm


@pytest.mark.parametrize("passkeys", (1, NAMES))
def test_a_passkey_lies_where_its_place_says_and_is_asked_for_by_name(passkeys):
    length, count = 64, 40
    keys, places = jax.random.split(jax.random.key(0), count), np.arange(count) / count
    draw = jax.vmap(haystack(length, passkeys), (None, 0, 0))
    depths = []
    for tokens, targets, mask in zip(*map(np.asarray, draw(None, keys, places)), strict=True):
        assert tokens.max() < VOCABULARY and tokens.min() >= 0
        marks = np.flatnonzero(tokens == 30)
        assert len(marks) == passkeys and (marks % BLOCK == 0).all()
        known = {int(tokens[m + 1]): tokens[m + 2 : m + BLOCK] for m in marks}
        assert len(known) == passkeys and all(16 <= name < 20 for name in known)
        assert all(((digits >= 20) & (digits < 30)).all() for digits in known.values())
        (ask,) = np.flatnonzero(tokens == 31)
        assert ask == length - BLOCK + 1 and marks.max() + BLOCK <= ask
        digits = known[int(tokens[ask + 1])]
        np.testing.assert_array_equal(tokens[ask + 2 :], digits[:-1])
        np.testing.assert_array_equal(targets[mask], digits)
        assert mask[-4:].all() and mask.sum() == 4
        inside = np.zeros(length, bool)
        inside[(marks[:, None] + np.arange(BLOCK)).ravel()] = True
        inside[ask:] = True
        assert (tokens[~inside] < 16).all()
        depths.append(next(m for m in marks if tokens[m + 1] == tokens[ask + 1]))
    assert depths == sorted(depths) and depths[0] == 0 and len(set(depths)) == 9


def test_a_haystack_must_hold_its_passkeys():
    haystack(5 * BLOCK - 1, 4)
    with pytest.raises(ValueError, match="take 30 tokens, got length=28"):
        haystack(28, 4)


def test_tests_are_longer_and_read_in_pieces_of_the_length_learned_from():
    settings = needle.Settings(length=48, times=(1, 4))
    task = needle.task_of(settings, "names")
    assert task.tune == "1" and list(task.tests) == ["1", "4"]
    shapes = [
        jax.eval_shape(draw, None, jax.random.key(0), jnp.zeros(())).tokens.shape
        for draw in (task.train, *(test.draw for test in task.tests.values()))
    ]
    assert shapes == [(48,), (48,), (192,)]
    assert all(test.piece == 48 for test in task.tests.values())


# Studies


def test_a_run_is_complete_and_its_figures_show_what_was_recorded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Arm, "make", lambda self, *sizes: Bag(*sizes))
    monkeypatch.setattr(needle, "_COUNT", 8)
    settings = needle.Settings(
        arms=("hope",), length=40, times=(1, 2), steps=20, batch_size=4, seeds=2, trials=2
    )
    with folder(tmp_path / "run", settings) as opened:
        needle.STUDY.run(settings, opened)
        summary = needle.STUDY.report(settings, opened)
        records = {record["stage"]: record for record in opened.metrics()}
    assert summary["complete"] and len(summary["claims"]) == 3 + 3
    whole = [records["names hope"]["tests"][times]["whole"] for times in ("1", "2")]
    measures = summary["arms"]["one of 4 passkeys / Hope"]["measures"]
    for name, one in zip(("found in 40 tokens", "found in 80 tokens"), whole, strict=True):
        np.testing.assert_allclose(measures[name]["values"], 100 * np.asarray(one), rtol=1e-6)
    length, *depths = needle.STUDY.draw(settings, records)
    x, middle, low, high = length.drawn["one of 4 passkeys"]["Hope"]
    assert x.tolist() == [40, 80]
    for drawn, rule in ((middle, np.median), (low, np.min), (high, np.max)):
        np.testing.assert_allclose(drawn, 100 * rule(whole, axis=1))
    assert [sheet.name for sheet in depths] == ["passkey", "names"]
    by_place = records["names hope"]["tests"]["2"]["whole_by_place"]
    assert np.shape(by_place) == (8, 2)
    np.testing.assert_allclose(
        depths[1].drawn["Hope"][:, 1], 100 * np.median(by_place, axis=1), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ("hay",)}, "of all, passkey, names; got hay"),
        ({"times": (2, 4)}, "begin with 1 and rise, got 2,4"),
        ({"times": (1, 4, 2)}, "got 1,4,2"),
        ({"times": ()}, "got none"),
        ({"length": 35}, "at least 36, got 35"),
        ({"steps": 30}, "multiple of 20, got 30"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        needle.Settings(**options)


@pytest.mark.parametrize(
    ("kind", "shares", "expected"),
    [
        ("passkey", {"hope": 1.0, "hope_attention": 0.99, "transformer": 0.8}, [True, True, True]),
        ("passkey", {"hope": 0.98, "hope_attention": 0.9, "transformer": 0.95}, [False] * 3),
        ("names", {"hope": 0.2, "titans": 0.1, "transformer": 0.6, "hope_attention": 0.58},
         [True, True, True]),
        ("names", {"hope": 0.6, "titans": 0.58, "transformer": 0.6, "hope_attention": None},
         [False, False, False]),
    ],
)  # fmt: skip
def test_verdicts(kind, shares, expected):
    settings = needle.Settings(kinds=(kind,), times=(1, 8))
    records = {
        f"{kind} {arm}": {
            "rates": [0.1], "scores": [1.0], "rate": 0.1, "edge": False, "parameters": 7,
            "tests": {"1": {"whole": [0.5] * 3}, "8": {"whole": [shares.get(arm, 0.0)] * 3}},
        }
        for arm in ARMS
    }  # fmt: skip
    found = find(settings, records)
    assert [v.holds for v in found.verdicts] == expected
    assert len(found.numbers.rows) == len(ARMS) and json.dumps(found.numbers.summary())
    del records[f"{kind} hope"]
    assert find(settings, records).verdicts[0].holds is None
