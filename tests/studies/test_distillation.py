"""Dataset distillation: the nest, how images are judged, a whole small run, verdicts."""

import jax.numpy as jnp
import numpy as np
import pytest
from studies.drawn import assert_range

from nestax.runs import SettingsError
from nestax_studies import distillation
from nestax_studies.images import Pool

TINY = {"data": ("digits",), "steps": 20, "batch_size": 20, "images": 600, "seeds": 2}


class Few(distillation.Settings):
    """Few draws, fresh networks and updates of them."""

    draws, fresh, fit, tried = 3, 2, 20, ((0.1, 1e-2),)


def test_images_are_as_many_as_are_needed_and_there_are():
    for given, said in (({"images": 2000}, "600 and 1437, got 2000"), ({}, "600 and 1437, got 12")):
        with pytest.raises(SettingsError, match=said):
            distillation.Settings(data=("digits", "mnist"), **given)
    with pytest.raises(SettingsError, match="between 600 and 60000, got 100"):
        distillation.Settings(images=100)


def test_only_unrolled_weights_begin_anew_in_the_example_too():
    settings, example = Few(**TINY), distillation.example(Few(**TINY))
    for arm, horizon in (("implicit", 400), ("identity", 400), ("unroll", 20)):
        nest = distillation.system(settings, distillation.parts(settings, "digits")[0], arm)
        assert [level.horizon for level in nest.declaration.levels] == [horizon, 400]
    assert example.level == "images" and len(example.flows) == 3
    assert [level.horizon for level in example.nest.declaration.levels] == [400, 400]


def test_fresh_networks_learn_from_images_that_tell_the_classes_apart(monkeypatch):
    """Ten classes, each with a pixel of its own."""
    monkeypatch.setattr(distillation.Settings, "tried", [(1e-6, 0.0), (0.5, 0.0)])
    labels = np.arange(50, dtype=np.int32) % 10
    pool = Pool(np.eye(16, dtype=np.uint8)[labels], labels, 1)
    scores = distillation.fresh(distillation.Settings(), (16, 10), pool, pool)
    told, mute = scores(distillation.whole(pool)[0][:10]), scores(jnp.zeros((10, 16)))
    assert told["rate"] == 0.5  # the other one teaches nothing
    np.testing.assert_allclose(told["test"], 1)
    assert jnp.max(mute["test"]) < 0.5


def test_real_images_are_of_their_classes(desk):
    settings = Few(**TINY)
    train, valid, test = distillation.parts(settings, "digits")
    assert (len(train.labels), len(valid.labels), len(test.labels)) == (500, 100, 360)
    drawn = distillation.real_images(settings, "digits", "random", desk)
    images, labels = map(np.asarray, distillation.whole(train))
    for number, image in enumerate(np.asarray(drawn["images"])):
        match = np.abs(images - image).max(1) < 1e-3
        assert number in labels[match]
    assert np.shape(drawn["linear"]["test"]) == (3, 2)


def test_a_small_run_lowers_the_loss_on_real_images_and_is_drawn(desk):
    settings = Few(**TINY)
    record = distillation.distil(settings, "digits", "unroll", desk)
    losses = np.asarray(record["loss"])
    assert losses.shape == (20, 2) and (losses[-1] < losses[0]).all()
    assert np.shape(record["mlp"]["test"]) == (2, 2)
    pictures, curves = distillation.draw(settings, {"digits unroll": record})
    label = distillation.LABELS["unroll"]
    np.testing.assert_allclose(pictures.drawn[label].reshape(10, -1), record["images"])
    assert_range(curves.drawn["digits"][label], losses, range(1, 21))


def record(*sets):
    """Accuracies of the fresh networks of each set; those of both kinds are alike."""
    one = {"test": [list(scores) for scores in sets], "valid": [list(scores) for scores in sets]}
    return {network: one for network in distillation.NETWORKS}


def test_verdicts():
    beside = {"mnist means": record((0.6, 0.65, 0.7))}
    beside |= {"mnist random": record((0.5, 0.4), (0.61, 0.59), (0.3, 0.3))}
    for learned, holds in (
        (record((0.8, 0.9), (0.7, 0.8)), True),
        (record((0.8, 0.9), (0.6, 0.8)), False),  # one network below the means
        (record((0.69, 0.69), (0.69, 0.69)), False),  # not ten points above the best draw
    ):
        found = distillation.find(distillation.Settings(), {**beside, "mnist implicit": learned})
        assert [v.holds for v in found.verdicts] == [holds, None, None] * 2
        best = found.numbers.summary()["mnist / random images, best of 20"]["measures"]["MLP"]
        assert best["values"] == [61.0, 59.0]
    only = distillation.find(distillation.Settings(), {"mnist implicit": learned}).verdicts
    assert all(v.holds is None for v in only)
