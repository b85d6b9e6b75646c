"""Data hyper-cleaning: the task, the trusts' gradient, a whole small run, verdicts."""

import jax
import numpy as np
import pytest
from studies.drawn import assert_range

from nestax.runs import SettingsError
from nestax_studies import cleaning, data
from nestax_studies.images import MOST, Pool

TINY = {"data": "digits", "images": 60, "validation": 40, "steps": 10, "seeds": 2}


def test_images_are_as_many_as_there_are():
    assert {name: data.describe(name).train for name in MOST} == MOST
    with pytest.raises(SettingsError, match="1437 at most, got 1500"):
        cleaning.Settings(data="digits", images=1400, validation=100)


def test_wrong_labels_are_wrong_and_no_image_is_in_both_parts():
    """The image says which one it is."""
    numbers = np.arange(100)
    pool = Pool(numbers[:, None].astype(np.uint8), (numbers % 10).astype(np.int32), 1)
    settings = cleaning.Settings(**{**TINY, "corrupted": 0.3})
    task = cleaning.draw_task(settings, pool, jax.random.key(0))
    (images, labels), (others, clean) = task["train"], task["valid"]
    wrong = np.asarray(images[:, 0].astype(int) % 10 != labels)
    np.testing.assert_array_equal(wrong, task["wrong"])
    assert wrong.sum() == 18 and labels.min() >= 0 and labels.max() <= 9
    np.testing.assert_array_equal(others[:, 0].astype(int) % 10, clean)
    assert sorted(np.concatenate([images, others])[:, 0]) == list(range(100))


def test_in_the_example_validation_distrusts_wrong_labels():
    example = cleaning.example(cleaning.Settings(arms=("unroll",), **TINY))
    assert example.level == "trust" and len(example.flows) == 4
    state, _ = example.nest.run(example.state, 5)
    gradient, wrong = example.nest.gradient(state, "trust"), state.task["wrong"]
    for one, bad in zip(gradient, wrong, strict=True):
        assert one[bad].mean() > 0 > one[~bad].mean()


def test_a_small_run_and_its_figures(desk):
    settings, steps = cleaning.Settings(arms=("unroll",), **TINY), list(range(1, 11))
    record = cleaning.learn(settings, "unroll", desk)
    assert np.shape(record["test"]) == (10, 2) and len(record["retrained"]) == 2
    np.testing.assert_allclose(np.sum(record["trust_wrong"]), 1, rtol=1e-5)
    curves, trusts = cleaning.draw(settings, {"unroll": record})
    label = cleaning.LABELS["unroll"]
    assert_range(curves.drawn["Test images"][label], 100 * np.asarray(record["test"]), steps)
    assert_range(curves.drawn["Labels found"][label], 100 * np.asarray(record["f1"]), steps)
    assert trusts.drawn[label]["wrong label"][1].tolist() == record["trust_wrong"]


def record(test, retrained, f1=None):
    """Of two points and three seeds; only the last point counts."""
    made = {"test": [[0.0] * 3, list(test)], "retrained": list(retrained), "decay": 1e-2}
    return made if f1 is None else {**made, "f1": [[0.0] * 3, [f1] * 3]}


def test_verdicts():
    beside = {"none": record((0.6, 0.61, 0.62), (0.7,) * 3)}
    beside |= {"oracle": record((0.8, 0.81, 0.82), (0.9,) * 3)}
    alone = record((0.75,) * 3, ())
    del alone["retrained"]
    settings = cleaning.Settings(arms=("cg",), seeds=3)
    for learned, expected in (
        (record((0.75, 0.76, 0.77), (0.76,) * 3, 0.9), [True, True, True]),
        # F1 below 5/6, less than half of the way, one seed not above the clean images alone.
        (record((0.69, 0.7, 0.71), (0.8, 0.8, 0.75), 0.8), [False, False, False]),
        # More than half of the way in the median, but one seed lost.
        (record((0.59, 0.76, 0.77), (0.76,) * 3, 0.9), [True, False, True]),
    ):
        found = cleaning.find(settings, {**beside, "validation": alone, "cg": learned})
        assert [v.holds for v in found.verdicts] == expected
        only = cleaning.find(settings, {"cg": learned}).verdicts
        assert [v.holds for v in only] == [*expected[:1], None, None]
