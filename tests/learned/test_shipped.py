"""Weights that come with the library: they are read as text, and do what their record says."""

import json
from importlib.resources import files

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import nestax as nx
from nestax import learned
from nestax.learned.loading import text

NAMES = learned.names()


def test_there_are_weights_and_they_are_small():
    assert {"small_fc", "normalized", "delta_momentum"} <= set(NAMES)
    folder = files("nestax.learned") / "weights"
    assert sum(len(f.read_bytes()) for f in folder.iterdir()) < 64 * 1024


@pytest.fixture(scope="module")
def family():
    digits = load_digits()
    images = np.float32(digits.images.reshape(-1, 64) / 16)
    return learned.mlps((images, np.int32(digits.target)), hidden=(32,), batch=128)


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_reproduce_their_curve(name, family):
    shipped = learned.shipped(name)
    record = shipped.record
    found = learned.curves(
        learned.load(name, 50), family, jax.random.key(7), steps=50, tasks=8
    ).mean(0)
    # Rounding grows along training; another rule, seed or rate is further away by the 10th step.
    np.testing.assert_allclose(found[:10], record["curve"][:10], rtol=2e-2)
    np.testing.assert_allclose(found, record["curve"], rtol=0.15)
    assert found[-1] < 0.5 * found[0]
    for key in ("licence", "recipe", "seed", "seeds", "curve_of"):
        assert key in record


def test_loading_gives_a_schedule_for_the_run_or_takes_one():
    name, params = "normalized", {"w": jnp.ones((3, 2))}
    shipped = learned.shipped(name)
    gradient = {"w": jnp.arange(6.0).reshape(3, 2) - 2}

    def first(tx):
        updates, _ = tx.update(gradient, tx.init(params), params)
        return optax.tree.norm(updates) / np.sqrt(6)

    np.testing.assert_allclose(first(learned.load(name, 100)), shipped.learning_rate, rtol=1e-3)
    np.testing.assert_allclose(first(learned.load(name, 100, 0.5)), 0.5, rtol=1e-3)
    with pytest.warns(UserWarning, match=f"up to {shipped.most} steps"):
        learned.load(name, shipped.most + 1)
    with pytest.raises(ValueError, match="there are delta_momentum"):
        learned.load("velo", 100)
    with pytest.raises(ValueError, match="num_steps"):
        learned.load(name, 0)


def test_text_is_read_as_it_was_written(tmp_path, monkeypatch):
    rule = learned.small_fc((2, 3))
    theta = rule.init(jax.random.key(0))
    content = text("small_fc", {"hidden": [2, 3]}, theta, most=7, learning_rate=None, note="a")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mine.json").write_text(content)
    monkeypatch.setattr("nestax.learned.loading.files", lambda package: tmp_path)
    found = learned.shipped("mine")
    assert json.loads(content)["note"] == found.record["note"] == "a" and found.most == 7
    jax.tree.map(np.testing.assert_array_equal, found.theta, theta)
    assert isinstance(nx.learned.load("mine", 5), optax.GradientTransformation)


def test_what_is_read_belongs_to_the_caller_and_only_readable_text_is_written():
    one = learned.shipped("small_fc")
    jax.tree.leaves(one.theta)[0][...] = 9
    one.record.clear()
    assert np.max(jax.tree.leaves(learned.shipped("small_fc").theta)[0]) < 9
    assert learned.shipped("small_fc").record
    theta = learned.small_fc().init(jax.random.key(0))
    with pytest.raises(ValueError, match="rule is one of"):
        text("lstm", {}, theta, most=1)
    with pytest.raises(ValueError, match="theta"):
        text("normalized", {}, theta, most=1)
