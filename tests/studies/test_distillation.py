"""Dataset distillation: the nest, how images are judged, a whole small run, verdicts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax.runs import SettingsError
from nestax_studies import distillation
from nestax_studies._images import Pool

TINY = {"data": ("digits",), "steps": 20, "batch_size": 20, "images": 600, "seeds": 2}


@pytest.fixture
def few(monkeypatch):
    """Fewer draws, fresh networks and updates of them."""
    for name, value in {"_DRAWS": 3, "_FRESH": 2, "_FIT": 20, "_TRIED": [(0.1, 1e-2)]}.items():
        monkeypatch.setattr(distillation, name, value)


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
    monkeypatch.setattr(distillation, "_TRIED", [(1e-6, 0.0), (0.5, 0.0)])
    pool = squares(50)
    scores = distillation.fresh((16, 10), pool, pool)
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


def test_real_images_are_of_their_classes(few):
    settings = distillation.Settings(**TINY)
    train, valid, test = distillation._parts(settings, "digits")
    assert (len(train.labels), len(valid.labels), len(test.labels)) == (500, 100, 360)
    drawn = distillation.real_images(settings, "digits", "random", lambda text: None)
    images, labels = map(np.asarray, distillation.whole(train))
    for number, image in enumerate(np.asarray(drawn["images"])):
        match = np.abs(images - image).max(1) < 1e-3
        assert number in labels[match]
    assert np.shape(drawn["linear"]["test"]) == (3, 2)


def test_a_run_is_complete_and_a_half_finished_one_goes_on(folder, tmp_path, few, monkeypatch):
    arms = {arm: distillation._ARMS[arm] for arm in ("identity", "unroll")}
    monkeypatch.setattr(distillation, "_ARMS", arms)
    settings = distillation.Settings(**TINY)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with folder(whole, settings) as opened:
        distillation.STUDY.run(settings, opened)
        lines = distillation.STUDY.report(settings, opened)
        records = opened.metrics()
    assert len(lines) == 4 and not any("not measured" in line for line in lines)
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["complete"] and len(summary["digits"]["best"]["mlp"]) == 2
    for name in ("digits", "losses"):
        assert (whole / "figures" / f"{name}.png").stat().st_size > 10_000
    with folder(broken, settings) as opened:
        for record in records[:3]:
            opened.append(record)
        distillation.STUDY.run(settings, opened)
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_the_example_has_levels():
    example = distillation.example(distillation.Settings(**TINY))
    assert "images" in str(example.nest.levels(example.state))
    assert example.level == "images" and len(example.flows) == 3


# Settings, verdicts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": ("cifar",)}, "of digits, mnist, fashion-mnist; got cifar"),
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
    return {network: one for network in distillation._NETWORKS}


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
    assert [v.holds for v in found.verdicts] == [holds, holds]
    assert found.summary["mnist"]["best"]["mlp"] == [0.61, 0.59]
    assert not distillation.find(distillation.Settings(), {"mnist implicit": learned}).verdicts
