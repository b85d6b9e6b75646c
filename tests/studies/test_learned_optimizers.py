"""Trained rules against tuned optimizers, with a cheap rule in place of theirs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nestax import learned
from nestax_studies import learned_optimizers as study

TINY = study.Settings(
    arms=("normalized",), worlds=("trained on",), seeds=2, training=0.01, tasks=2, trials=4,
    outer=2, problems=16,
)  # fmt: skip


@pytest.fixture
def cheap(monkeypatch):
    """Adam's hyperparameters in place of a perceptron, digits in place of other images."""
    arm = study.Arm(learned.adam_like(), (study.SHORT._replace(horizon=20),), 0.03)
    monkeypatch.setitem(study.TRAINED, "normalized", arm)
    digits = study.images("digits")
    monkeypatch.setattr(study, "images", lambda name: digits)
    monkeypatch.setattr(study, "BATCH", 8)
    monkeypatch.setattr(study, "TUNED", {"adam": study.TUNED["adam"]})


def test_a_rule_is_trained_and_judged(cheap, desk):
    stages = study.stages(TINY)
    assert list(stages) == [
        "train normalized", "trained on", "least squares", "inside"
    ]  # fmt: skip
    record = stages["train normalized"](desk)
    assert record["steps"] == [25] and np.shape(record["losses"]) == (1, 2)
    assert np.all(record["bad"] == 0)
    rule = study.TRAINED["normalized"].rule
    thetas = study.weights(record, rule)
    assert jax.tree.structure(thetas) == jax.tree.structure(rule.init(jax.random.key(0)))
    assert np.all(np.asarray(thetas["scale"]) != 0) and thetas["scale"].shape == (2,)
    desk.done["train normalized"] = record
    records = {"train normalized": record, "trained on": stages["trained on"](desk)}
    found = records["trained on"]["normalized"]
    assert np.shape(found["loss"]) == (2,) == np.shape(found["untuned"])
    assert np.shape(found["curve"]) == (2, 50) and np.shape(found["scores"]) == (4,)
    assert np.shape(records["trained on"]["adam"]["loss"]) == (1,)
    records["inside"] = stages["inside"](desk)
    findings = study.find(TINY, records)
    told = {v.of: v.holds for v in findings.verdicts if v.holds is not None}
    assert {"normalized: trained on", "normalized: momentum", "normalized: adaptation"} <= set(told)
    assert told["normalized: adaptation"]  # it is Adam
    names = [sheet.name for sheet in study.draw(TINY, records)]
    assert names == ["worlds", "training", "inside"]
    assert findings.more["train normalized"]["outer steps"] == 25


def test_tuning_takes_the_best_rate_of_its_own_tasks():
    """The score of a rate is its distance from 0.1, and on the second key everything differs."""
    settings = study.Settings(trials=5, seeds=3)

    def program():
        def run(given, key):
            rate = np.asarray(given["rate"])
            score = np.abs(np.log10(rate / 0.1)) + 10 * np.asarray(given["theta"]["w"])
            return np.broadcast_to(score[:, None, None], (len(rate), 2, 20))

        return run

    thetas = {"w": jnp.array([0.0, 1.0, 2.0])}
    found = study.tried(settings, program, 0.1 / 10**0.25, thetas)
    assert np.isclose(found["rate"], 0.1) and not found["edge"]
    np.testing.assert_allclose(found["loss"], [0, 10, 20], atol=1e-6)
    np.testing.assert_allclose(found["untuned"], [0.25, 10.25, 20.25], atol=1e-5)
    assert study.tried(settings, program, 0.1 / 10**0.5, thetas)["edge"]


def test_responses_are_those_of_known_optimizers():
    stream = (jnp.ones((30, 3)), jnp.zeros(3))
    plain = study.responses(optax.sgd(1.0), stream)
    np.testing.assert_allclose(plain["past"], np.eye(30)[0], atol=1e-6)
    assert np.isclose(plain["louder"], 10, rtol=1e-4) and np.allclose(plain["size"], 1)
    heavy = study.responses(optax.sgd(1.0, 0.5), stream)
    np.testing.assert_allclose(heavy["past"][:3], [0.5, 0.25, 0.125], rtol=1e-4)
    assert np.isclose(study.responses(optax.adam(1.0), stream)["louder"], 1, rtol=1e-3)


def test_images_are_reduced_to_eight_by_eight(monkeypatch):
    pixels = np.zeros((1, 28, 28), np.uint8)
    pixels[0, :2, :2] = 200  # after padding by 2 the corner of the first block

    class Split:
        images, labels, scale = pixels, np.zeros(1, np.int32), 200

        def __len__(self):
            return 1

    class Set:
        train = test = Split()

    monkeypatch.setattr(study.data, "load", lambda name: Set())
    small = study.images.__wrapped__("any")[0][0].reshape(8, 8)
    assert small[0, 0] == 4 / 16 and small.sum() == 4 / 16


def test_least_squares_are_learned(desk):
    record = study.stages(TINY)["least squares"](desk)
    assert np.shape(record["lstm"]["curve"]) == (100,) == np.shape(record["adam"]["curve"])
    verdicts = study.on_least_squares(record)
    assert [v.holds for v in verdicts] == [False, False]  # after two outer steps
    assert study.on_least_squares(None)[0].holds is None
