"""Data hyper-cleaning: the task, the trusts' gradient, a whole small run, verdicts."""

from pathlib import Path

import jax
import numpy as np
import pytest

from nestax.runs import SettingsError
from nestax_studies import cleaning, data, lab
from nestax_studies.images import MOST, Pool

TINY = {"data": "digits", "images": 60, "validation": 40, "steps": 10, "seeds": 2}


def numbered(count):
    """A pool in which the image says which one it is."""
    numbers = np.arange(count)
    return Pool(numbers[:, None].astype(np.uint8), (numbers % 10).astype(np.int32), 1)


def test_the_most_images_are_those_of_the_catalogue():
    assert {name: data.describe(name).train for name in MOST} == MOST


def test_wrong_labels_are_wrong_and_no_image_is_in_both_parts():
    settings = cleaning.Settings(**{**TINY, "corrupted": 0.3})
    task = cleaning.draw_task(settings, numbered(100), jax.random.key(0))
    (images, labels), (others, clean) = task["train"], task["valid"]
    wrong = np.asarray(images[:, 0].astype(int) % 10 != labels)
    np.testing.assert_array_equal(wrong, task["wrong"])
    assert wrong.sum() == 18 and labels.min() >= 0 and labels.max() <= 9
    np.testing.assert_array_equal(others[:, 0].astype(int) % 10, clean)
    assert sorted(np.concatenate([images, others])[:, 0]) == list(range(100))


def test_validation_distrusts_wrong_labels():
    settings = cleaning.Settings(**TINY)
    nest = cleaning.system(settings, cleaning.pools("digits", 100)[0], "unroll")
    state, _ = nest.run(nest.init({}, jax.random.key(0)), 5)
    gradient, wrong = nest.gradient(state, "trust"), state.task["wrong"]
    for one, bad in zip(gradient, wrong, strict=True):
        assert one[bad].mean() > 0 > one[~bad].mean()


def test_a_small_run_and_its_figures():
    settings = cleaning.Settings(arms=("unroll",), **TINY)
    desk = lab.Desk(print, Path("none"))
    record = cleaning.learn(settings, "unroll", desk)
    assert np.shape(record["test"]) == (10, 2) and len(record["retrained"]) == 2
    assert record["step"] == list(range(1, 11))
    np.testing.assert_allclose(np.sum(record["trust_wrong"]), 1, rtol=1e-5)
    sheets = cleaning.draw(settings, {"unroll": record})
    assert [sheet.name for sheet in sheets] == ["cleaning", "trusts"]
    label = cleaning.LABELS["unroll"]
    for panel, name in (("Test images", "test"), ("Labels found", "f1")):
        x, middle, low, high = sheets[0].drawn[panel][label]
        assert x.tolist() == record["step"]
        for drawn, rule in ((middle, np.median), (low, np.min), (high, np.max)):
            np.testing.assert_allclose(drawn, 100 * rule(record[name], axis=1))
    assert sheets[1].drawn[label]["wrong label"][1].tolist() == record["trust_wrong"]


def test_the_example_has_levels():
    example = cleaning.example(cleaning.Settings(arms=("identity",), **TINY))
    assert "trust" in str(example.nest.levels(example.state))
    assert example.level == "trust" and len(example.flows) == 4


# Settings, verdicts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ("sgd",)}, "cg, neumann, identity, unroll; got sgd"),
        ({"arms": ()}, "got none"),
        ({"images": 0}, "images must be at least 1, got 0"),
        ({"steps": 15}, "multiple of 10, got 15"),
        ({"corrupted": 1.0}, "below 1, got 1.0"),
        ({"data": "digits", "images": 1400, "validation": 100}, "1437 at most, got 1500"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        cleaning.Settings(**options)


def record(test, retrained, f1=None):
    """Of two points and three seeds; only the last point counts."""
    made = {"test": [[0.0] * 3, list(test)], "retrained": list(retrained), "decay": 1e-2}
    return made if f1 is None else {**made, "f1": [[0.0] * 3, [f1] * 3]}


NONE, ORACLE = record((0.6, 0.61, 0.62), (0.7,) * 3), record((0.8, 0.81, 0.82), (0.9,) * 3)
ALONE = {key: value for key, value in record((0.75,) * 3, ()).items() if key != "retrained"}


@pytest.mark.parametrize(
    ("learned", "expected"),
    [
        (record((0.75, 0.76, 0.77), (0.76,) * 3, 0.9), [True, True, True]),
        # F1 below 5/6, less than half of the way, one seed not above the clean images alone.
        (record((0.69, 0.7, 0.71), (0.8, 0.8, 0.75), 0.8), [False, False, False]),
        # More than half of the way in the median, but one seed lost.
        (record((0.59, 0.76, 0.77), (0.76,) * 3, 0.9), [True, False, True]),
    ],
)
def test_verdicts(learned, expected):
    records = {"none": NONE, "oracle": ORACLE, "validation": ALONE, "cg": learned}
    settings = cleaning.Settings(arms=("cg",), seeds=3)
    assert [v.holds for v in cleaning.find(settings, records).verdicts] == expected
    only = cleaning.find(settings, {"cg": learned}).verdicts
    assert [v.holds for v in only] == [*expected[:1], None, None]
