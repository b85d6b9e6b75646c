"""Dataset distillation: the nest, how images are judged, a whole small run, verdicts."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax.runs import SettingsError
from nestax_studies import distillation, lab
from nestax_studies.images import Pool

TINY = {"data": ("digits",), "steps": 20, "batch_size": 20, "images": 600, "seeds": 2}


DESK = lab.Desk(print, Path("none"))


class Few(distillation.Settings):
    """Few draws, fresh networks and updates of them."""

    draws, fresh, fit, tried = 3, 2, 20, ((0.1, 1e-2),)


def squares(count):
    """Images of ten classes, each with a pixel of its own, and their labels."""
    labels = np.arange(count, dtype=np.int32) % 10
    return Pool(np.eye(16, dtype=np.uint8)[labels], labels, 1)


def test_only_unrolled_weights_begin_anew():
    settings = distillation.Settings(**TINY)
    for arm, horizon in (("implicit", 400), ("identity", 400), ("unroll", 20)):
        weights, images = distillation.system(settings, squares(60), arm).declaration.levels
        assert (weights.horizon, images.horizon) == (horizon, 400)


def test_fresh_networks_learn_from_images_that_tell_the_classes_apart(monkeypatch):
    monkeypatch.setattr(distillation.Settings, "tried", [(1e-6, 0.0), (0.5, 0.0)])
    pool = squares(50)
    scores = distillation.fresh(distillation.Settings(), (16, 10), pool, pool)
    told, mute = scores(distillation.whole(pool)[0][:10]), scores(jnp.zeros((10, 16)))
    assert told["rate"] == 0.5  # the other one teaches nothing
    np.testing.assert_allclose(told["test"], 1)
    assert jnp.max(mute["test"]) < 0.5


def test_distilled_images_lower_the_loss_on_real_ones():
    settings = distillation.Settings(**TINY)
    nest = distillation.system(settings, squares(60), "unroll")
    _, info = nest.run(nest.init({}, jax.random.key(0)), 20)
    loss = info["images"].loss
    assert loss.shape == (20, 2) and (loss[-1] < loss[0]).all()


def test_real_images_are_of_their_classes():
    settings = Few(**TINY)
    train, valid, test = distillation.parts(settings, "digits")
    assert (len(train.labels), len(valid.labels), len(test.labels)) == (500, 100, 360)
    drawn = distillation.real_images(settings, "digits", "random", DESK)
    images, labels = map(np.asarray, distillation.whole(train))
    for number, image in enumerate(np.asarray(drawn["images"])):
        match = np.abs(images - image).max(1) < 1e-3
        assert number in labels[match]
    assert np.shape(drawn["linear"]["test"]) == (3, 2)


def test_a_small_run_and_its_figures():
    settings = Few(**TINY)
    record = distillation.distil(settings, "digits", "unroll", DESK)
    assert np.shape(record["loss"]) == (20, 2) and record["step"] == list(range(1, 21))
    assert np.shape(record["mlp"]["test"]) == (2, 2)
    pictures, losses = distillation.draw(settings, {"digits unroll": record})
    label = distillation.LABELS["unroll"]
    np.testing.assert_allclose(pictures.drawn[label].reshape(10, -1), record["images"])
    _, middle, low, high = losses.drawn["digits"][label]
    for drawn, rule in ((middle, np.median), (low, np.min), (high, np.max)):
        np.testing.assert_allclose(drawn, rule(record["loss"], axis=1))


def test_the_example_has_levels():
    example = distillation.example(distillation.Settings(**TINY))
    assert "images" in str(example.nest.levels(example.state))
    assert example.level == "images" and len(example.flows) == 3


# Settings, verdicts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": ("cifar",)}, "digits, mnist, fashion-mnist; got cifar"),
        ({"data": ()}, "got none"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"steps": 30}, "multiple of 20, got 30"),
        ({"data": ("digits",), "images": 2000}, "between 600 and 1437, got 2000"),
        ({"images": 100}, "between 600 and 60000, got 100"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        distillation.Settings(**options)


def record(*sets):
    """Accuracies of the fresh networks of each set; those of both kinds are alike."""
    one = {"test": [list(scores) for scores in sets], "valid": [list(scores) for scores in sets]}
    return {network: one for network in distillation.NETWORKS}


@pytest.mark.parametrize(
    ("learned", "holds"),
    [
        (record((0.8, 0.9), (0.7, 0.8)), True),
        (record((0.8, 0.9), (0.6, 0.8)), False),  # one network below the means
        (record((0.69, 0.69), (0.69, 0.69)), False),  # not ten points above the best draw
    ],
)
def test_verdicts(learned, holds):
    records = {
        "mnist implicit": learned,
        "mnist means": record((0.6, 0.65, 0.7)),
        "mnist random": record((0.5, 0.4), (0.61, 0.59), (0.3, 0.3)),
    }
    found = distillation.find(distillation.Settings(), records)
    assert [v.holds for v in found.verdicts] == [holds, None, None] * 2
    best = found.numbers.summary()["mnist / random images, best of 20"]["measures"]["MLP"]
    assert best["values"] == [61.0, 59.0]
    only = distillation.find(distillation.Settings(), {"mnist implicit": learned}).verdicts
    assert all(v.holds is None for v in only)
