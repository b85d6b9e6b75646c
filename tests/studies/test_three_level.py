"""Three levels: update rules, the nest against a loop, a small run, figures, verdicts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from studies.drawn import assert_range

from nestax.runs import SettingsError
from nestax_studies import lab
from nestax_studies import three_level as three
from nestax_studies.images import cross_entropy


class Short(three.Settings):
    """Runs of six updates of the weights."""

    inner, middle = 2, 3


TINY = Short(images=20, validation=30, runs=3, seeds=2)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Of a run of some stages."""
    stages, desk = three.stages(TINY), lab.Desk(print, tmp_path_factory.mktemp("desk"))
    return {name: stages[name](desk) for name in ("check", "each", "tuned")}


def test_rates_are_for_all_weights_or_for_each_and_a_grid_is_gone_through():
    gradient = [jnp.ones(2), jnp.full(1, 2.0)]
    each = [jnp.log(jnp.array([0.1, 0.2])), jnp.zeros(1)]
    for rates, expected in ((jnp.log(0.5), [-0.5, -0.5, -1]), (each, [-0.1, -0.2, -2])):
        rule = three.descent(rates)
        update, _ = rule.update(gradient, rule.init(gradient), gradient)
        np.testing.assert_allclose(jnp.concatenate(update), expected, rtol=1e-6)
    tried, seen = jnp.array([1.0, 2.0, 4.0]), []
    rule, value = three.grid_search(tried), tried[0]
    state = rule.init(value)
    for _ in range(4):
        seen.append(float(value))
        update, state = rule.update(jnp.array(7.0), state, value)
        value = optax.apply_updates(value, update)
    assert seen == [1, 2, 4, 4]


def test_images_that_there_are_not_are_refused():
    with pytest.raises(SettingsError, match="1437 at most, got 1438"):
        three.Settings(images=638)


def test_the_gradient_with_decays_taken_as_constants_is_that_of_a_loop(x64, monkeypatch):
    monkeypatch.setattr(Short, "middle", 2)
    weights = three.models.mlp_init(jax.random.key(1), (64, 10))
    monkeypatch.setattr(three.models, "mlp_init", lambda key, sizes: weights)
    nest = three.system(Short(images=20, validation=30, runs=3, seeds=1), "frozen")
    state = nest.init({}, jax.random.key(0))
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
        decays = jax.tree.map(lambda a: jnp.full_like(a, three.DECAY), weights)
        for _ in range(2):
            slope = jax.grad(follow)(decays, weights, rates)
            weights = two_steps(weights, decays, rates)
            size = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(slope)))
            scale = -three.STRIDE * 650**0.5 / (size + 1e-6)
            moved = jax.tree.map(lambda d, g, scale=scale: d + scale * g, decays, slope)
            decays = jax.lax.stop_gradient(moved)
        return cross_entropy(weights, task["B"])

    gradient = jax.tree.map(lambda a: a[0], nest.gradient(state, "rates"))
    expected = jax.jit(by_hand)(rates, weights)
    for own, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-8, atol=1e-14)


def test_a_run_has_the_numbers_of_before_and_shows_them(records, before):
    before("three-level", records, rtol=1e-5)
    assert three.find(TINY, records).verdicts[0].holds
    assert records["check"]["each"][0] < 1e-8
    losses, rates = three.draw(TINY, records)
    for title, name in (("Test images", "test"), ("Validation images B", "valid")):
        for arm in ("each", "tuned"):
            assert_range(losses.drawn[title][three.LABELS[arm]], records[arm][name], [1, 2, 3])
    assert list(rates.drawn) == [str(n) for n in range(10)]
    recorded = np.asarray(records["each"]["rates"])
    np.testing.assert_allclose(rates.drawn["3"].ravel(), recorded[3])
    (empty,) = three.draw(TINY, {"check": records["check"]})
    assert not empty.drawn


def test_the_example_has_flows_to_compare(monkeypatch):
    monkeypatch.setattr(three.Nest, "run", lambda nest, state, steps: (state, None))
    example = three.example(TINY)
    assert example.level == "rates" and len(example.flows) == 3
    assert set(example.state.values) == {"weights", "decays", "rates"}


def test_the_gradient_is_judged_with_and_without_the_middle_level():
    for own, frozen, holds in ((9e-7, 1.1e-3, True), (1.1e-6, 1.1e-3, False), (9e-7, 9e-4, False)):
        found = three.find(TINY, {"check": {"each": [own], "frozen": [frozen]}})
        assert [v.holds for v in found.verdicts] == [holds, None, None, None]


def record(*test):
    """Of two runs, the last of which counts, and two seeds."""
    made = {"test": [[9.0, 9.0], list(test)], "rate": [0.1, 0.1], "finite": [2, 2]}
    return made | {name: [[1.0, 1.0], [0.1, 0.1]] for name in ("valid", "accuracy")}


@pytest.mark.parametrize(("place", "other"), [(1, "tuned"), (2, "frozen"), (3, "common")])
def test_a_rate_for_each_weight_is_judged_against_less(place, other):
    for each, holds in (
        ((0.391, 0.489), True),
        ((0.394, 0.492), False),  # less than 2 % in the median
        ((0.3, 0.501), False),  # not with every seed
        ((0.5, 0.6), False),
    ):
        found = three.find(TINY, {"each": record(*each), other: record(0.4, 0.5)})
        assert [v.holds for v in found.verdicts if v.holds is not None] == [holds]
        assert found.verdicts[place].values[three.LABELS["each"]].tolist() == list(each)
        arms = found.numbers.summary()
        assert arms[three.LABELS["each"]]["measures"]["test loss"]["values"] == list(each)
