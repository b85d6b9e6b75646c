"""Three levels: update rules, the nest against a loop, a whole small run, verdicts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nestax.runs import SettingsError
from nestax_studies import three_level as three
from nestax_studies._images import Pool, cross_entropy

TINY = {"images": 20, "validation": 30, "runs": 3, "seeds": 2}


@pytest.fixture
def short(monkeypatch):
    """Runs of six updates of the weights."""
    for name, value in {"_INNER": 2, "_MIDDLE": 3, "_RUN": 6}.items():
        monkeypatch.setattr(three, name, value)


def test_no_image_is_in_two_parts():
    numbers = np.arange(80)
    pool = Pool(numbers[:, None].astype(np.uint8), (numbers % 10).astype(np.int32), 1)
    task = three.draw_task(three.Settings(**TINY), pool, jax.random.key(0))
    assert [len(task[part][1]) for part in ("train", "A", "B")] == [20, 30, 30]
    images = np.concatenate([images[:, 0] for images, _ in task.values()])
    assert sorted(images) == list(range(80))


def test_rates_are_for_all_weights_or_for_each():
    gradient = [jnp.ones(2), jnp.full(1, 2.0)]
    for rates, expected in (
        (jnp.log(0.5), ([-0.5, -0.5], [-1.0])),
        ([jnp.log(jnp.array([0.1, 0.2])), jnp.zeros(1)], ([-0.1, -0.2], [-2.0])),
    ):
        rule = three.descent(rates)
        update, _ = rule.update(gradient, rule.init(gradient), gradient)
        for one, other in zip(update, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_grid_is_gone_through():
    tried, seen = jnp.array([1.0, 2.0, 4.0]), []
    rule, value = three.grid_search(tried), tried[0]
    state = rule.init(value)
    for _ in range(4):
        seen.append(float(value))
        update, state = rule.update(jnp.array(7.0), state, value)
        value = optax.apply_updates(value, update)
    assert seen == [1, 2, 4, 4]


def test_the_gradient_with_decays_taken_as_constants_is_that_of_a_loop(short, x64, monkeypatch):
    weights = three.models.mlp_init(jax.random.key(1), (64, 10))
    monkeypatch.setattr(three.models, "mlp_init", lambda key, sizes: weights)
    nest = three.system(three.Settings(**{**TINY, "seeds": 1}), "frozen")
    state, _ = nest.step(nest.init({}, jax.random.key(0)))
    task, rates = jax.tree.map(lambda a: a[0], (state.task, state.values["rates"]))

    def train(weights, decays):
        squares = jax.tree.map(lambda w, d: jnp.sum(jax.nn.sigmoid(d) * w**2) / 2, weights, decays)
        return cross_entropy(weights, task["train"]) + 0.1 * sum(jax.tree.leaves(squares))

    def two_steps(weights, decays, rates):
        for _ in range(2):
            slope = jax.grad(train)(weights, decays)
            weights = jax.tree.map(lambda w, g, r: w - jnp.exp(r) * g, weights, slope, rates)
        return weights

    def follow(decays, weights, rates):
        return cross_entropy(two_steps(weights, decays, rates), task["A"])

    @jax.grad
    def by_hand(rates, weights):
        decays = jax.tree.map(lambda a: jnp.full_like(a, three._FIRST_DECAY), weights)
        for _ in range(3):
            slope = jax.grad(follow)(decays, weights, rates)
            weights = two_steps(weights, decays, rates)
            size = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(slope)))
            scale = -three._STRIDE * 650**0.5 / (size + 1e-6)
            moved = jax.tree.map(lambda d, g, scale=scale: d + scale * g, decays, slope)
            decays = jax.lax.stop_gradient(moved)
        return cross_entropy(weights, task["B"])

    found = jax.tree.map(lambda a: a[0], nest.gradient(state, "rates"))
    expected = jax.jit(by_hand)(rates, weights)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-14)


def test_a_run_is_complete_and_a_half_finished_one_goes_on(folder, tmp_path, short, monkeypatch):
    arms = {arm: three.LABELS[arm] for arm in ("each", "tuned")}
    monkeypatch.setattr(three, "LABELS", arms)
    settings = three.Settings(**TINY)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with folder(whole, settings) as opened:
        three.STUDY.run(settings, opened)
        lines = three.STUDY.report(settings, opened)
        records = opened.metrics()
    assert len(lines) == 2 and not any("not measured" in line for line in lines)
    assert lines[0].startswith("supported")  # the gradient, against central differences
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["complete"] and len(summary["each"]["test"]) == 2
    for name in ("losses", "rates"):
        assert (whole / "figures" / f"{name}.png").stat().st_size > 5_000
    with folder(broken, settings) as opened:
        for record in records[:2]:
            opened.append(record)
        three.STUDY.report(settings, opened)
        three.STUDY.run(settings, opened)
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_the_example_has_three_levels(short):
    example = three.example(three.Settings(**TINY))
    table = str(example.nest.levels(example.state))
    assert all(name in table for name in ("weights", "decays", "rates"))
    assert example.level == "rates" and len(example.flows) == 3


# Settings, verdicts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "images must be at least 1, got 0"),
        ({"runs": 1}, "runs must be at least 2, got 1"),
        ({"images": 638}, "1437 at most, got 1438"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        three.Settings(**options)


def record(*test):
    """Of two runs, the last of which counts, and two seeds."""
    made = {"test": [[9.0, 9.0], list(test)], "rate": [0.1, 0.1], "finite": [2, 2]}
    return made | {name: [[1.0, 1.0], [0.1, 0.1]] for name in ("valid", "accuracy")}


GOOD, WORSE = {"each": 1e-9, "frozen": 0.1}, record(0.4, 0.5)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ({"check": GOOD, "tuned": WORSE, "frozen": WORSE, "common": WORSE}, [True] * 4),
        ({"check": {**GOOD, "frozen": 1e-9}, "tuned": record(0.4, 0.3)}, [False, False]),
        ({"check": {**GOOD, "each": 1e-3}, "common": record(0.31, 0.41)}, [False, False]),
        ({}, []),
    ],
)
def test_verdicts(records, expected):
    each = record(0.308, 0.408)
    found = three.find(three.Settings(seeds=2), {"each": each, **records})
    assert [v.holds for v in found.verdicts] == expected
    assert found.summary["each"]["test"] == [0.308, 0.408]
