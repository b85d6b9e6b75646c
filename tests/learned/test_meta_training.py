"""Meta-training: the nest against loops by hand, lost tasks, resumed runs, several devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import nestax as nx
from nestax.learned import Family, PerTensor, cosine, curves, meta_nest, meta_train, rescaled


class Rate(PerTensor):
    """Gradient descent; theta is the logarithm of its rate, or what is added to parameters."""

    name = "rate"

    def init(self, key):
        return {"log": jnp.zeros(())}

    def begin_tensor(self, theta, param):
        return jnp.zeros_like(param)

    def update_tensor(self, theta, gradient, state, param, moment):
        return -jnp.exp(theta["log"]) * gradient, state + gradient


SPECTRUM = np.array([1.0, 0.3, 0.05], np.float32)


def quadratic(name="quadratic", **changes):
    """Without noise, so that loops by hand need the task alone."""
    family = Family(
        name,
        lambda key: jax.random.normal(key, (3,)),
        lambda task, key: 0.5 * task,
        lambda task, key: task,
        lambda params, batch: jnp.sum(SPECTRUM * (params + batch) ** 2),
        lambda task: jnp.sum(task**2),
    )
    return dataclasses.replace(family, **changes)


def by_hand(log, task, steps, horizon, rate=lambda t: 0.5, log_loss=False, late=0, ceiling=np.inf):
    """The mean meta-loss over the first steps of an episode, `late` steps later."""
    params, total = 0.5 * task, 0.0
    for t in range(steps + late):
        loss = jnp.sum(SPECTRUM * (params + task) ** 2) / jnp.sum(task**2)
        loss = jnp.minimum(loss, ceiling)
        total += (t >= late) * (jnp.log(loss) if log_loss else loss) / steps
        slope = 2 * SPECTRUM * (params + task)
        params = params - rate(t / horizon) * jnp.exp(log) * slope
    return total


@pytest.mark.parametrize("log_loss", [False, True])
def test_the_gradient_is_that_of_a_loop_by_hand(x64, log_loss):
    options = {"meta_loss": "log" if log_loss else "mean", "ceiling": 1.2}
    nest = meta_nest(
        Rate(), quadratic(), tasks=3, horizon=8, truncation=4, flow=nx.Unroll(), stagger=False,
        learning_rate=cosine(0.5), **options,
    )  # fmt: skip
    state = nest.init({"rule": {"log": jnp.zeros(())}}, jax.random.key(0))
    tasks = np.asarray(state.task["tasks"]["quadratic"])
    rate = lambda done: 0.5 * (1 + np.cos(np.pi * done)) / 2  # noqa: E731

    def loss(log):
        each = [by_hand(log, task, 4, 8, rate, log_loss, 1, 1.2) for task in tasks]
        return sum(each) / len(each)

    found = nest.gradient(state, "rule")["log"]
    np.testing.assert_allclose(found, jax.grad(loss)(jnp.zeros(())), rtol=1e-10)


def test_curves_are_those_of_a_loop_by_hand(x64):
    family, rule = quadratic(), Rate()
    optimizer = lambda log: rule({"log": log}, 0.5)  # noqa: E731
    logs = jnp.array([0.0, 0.5])
    found = curves(optimizer, family, jax.random.key(3), steps=4, tasks=2, settings=logs)
    assert found.shape == (2, 2, 4)
    for task in range(2):
        own = family.sample(jax.random.split(jax.random.split(jax.random.key(3), 2)[task], 3)[0])
        for number, log in enumerate(logs):
            scale = jnp.sum(own**2)
            mean = by_hand(log, own, 4, 1) * scale
            np.testing.assert_allclose(jnp.mean(found[number, task]), mean, rtol=1e-10)
    plain = curves(optax.sgd(0.5), family, jax.random.key(3), steps=4, tasks=2)
    np.testing.assert_allclose(plain, found[0], rtol=1e-12)


def test_horizons_are_drawn_in_whole_truncations_and_seen_by_the_schedule():
    seen = []

    def schedule(count, num_steps):
        return 0.1 * (1 - count / num_steps)

    nest = meta_nest(
        Rate(), quadratic(), tasks=4, horizon=(4, 32), truncation=4, learning_rate=schedule
    )
    state = nest.init({"rule": {"log": jnp.zeros(())}}, jax.random.key(0))
    for _ in range(12):
        steps, count = state.task["num_steps"], state.optimizers["params"]["quadratic"].count
        assert np.all(steps % 4 == 0) and np.all(count <= steps)
        np.testing.assert_array_equal(steps[::2], steps[1::2])
        seen.append(np.asarray(steps))
        state, _ = nest.step(state)
    assert len(np.unique(seen)) > 3 and np.min(seen) >= 4 and np.max(seen) <= 32


def lost_at(limit):
    """Tasks of which those with a first entry above the limit are lost after a step."""

    def loss(params, batch):
        error = jnp.sum(SPECTRUM * (params + batch) ** 2)
        lost = (batch[0] > limit) & jnp.any(params != 0.5 * batch)
        return jnp.where(lost, jnp.nan, 1.0) * error

    return quadratic(loss=loss)


@pytest.mark.parametrize("flow", [nx.PES(0.1), nx.Unroll()], ids=["pes", "unroll"])
def test_lost_tasks_are_counted_and_neither_stop_nor_spoil(flow):
    options = {"tasks": 8, "horizon": 16, "truncation": 4, "learning_rate": 0.1, "flow": flow}
    found = meta_train(Rate(), lost_at(1.5), 30, jax.random.key(0), **options)
    assert 0 < np.mean(found.bad) < 0.5 and np.all(np.isfinite(found.losses))
    assert found.theta["log"] > 0 and "% bad" in repr(found)
    if flow == nx.Unroll():
        return
    # All are lost: theta gets no news of how, and stays finite.
    none = meta_train(Rate(), lost_at(-9.0), 5, jax.random.key(0), **options)
    assert np.min(none.bad) > 0.7 and np.isfinite(none.theta["log"])


def test_tasks_without_a_meaning_are_lost():
    """A scale that is 0 or negative, and a negative loss whose logarithm is asked for."""
    options = {"tasks": 2, "horizon": 8, "truncation": 4, "learning_rate": 0.1}
    negative = quadratic(loss=lambda params, batch: -jnp.sum(params**2) - 1.0)
    for family, more in (
        (quadratic(scale=lambda task: 0.0), {}),
        (quadratic(scale=lambda task: -1.0), {}),
        (negative, {"meta_loss": "log"}),
    ):
        found = meta_train(Rate(), family, 1, jax.random.key(0), **options, **more)
        assert np.all(found.bad == 1) and np.isfinite(found.theta["log"])
    with pytest.raises(ValueError, match="must be scalars"):
        meta_train(Rate(), quadratic(scale=lambda task: task**2), 1, jax.random.key(0), **options)
    none = meta_train(Rate(), quadratic(), 0, jax.random.key(0), **options)
    assert none.losses.size == none.bad.size == 0 and "nothing done" in repr(none)


def test_a_run_goes_on_where_it_was_stopped(tmp_path):
    family = [quadratic(), rescaled(quadratic("other"))]
    options = {"tasks": 2, "horizon": 8, "truncation": 4, "learning_rate": 0.1}

    def train(steps, watch=None):
        return meta_train(Rate(), family, steps, jax.random.key(1), watch=watch, **options)

    whole = train(6)
    first = train(4, watch=tmp_path / "run")
    rest = train(6, watch=tmp_path / "run")
    assert rest.theta["log"] == whole.theta["log"] != first.theta["log"]
    assert len(rest.losses) == 2 and len(first.losses) == 4
    np.testing.assert_array_equal([*first.losses, *rest.losses], whole.losses)


def test_devices_give_the_numbers_of_one():
    options = {"tasks": 4, "horizon": 8, "truncation": 4, "learning_rate": 0.1}
    mesh = jax.make_mesh((2,), ("copies",), axis_types=(AxisType.Auto,))
    one, two = (
        meta_train(Rate(), quadratic(), 4, jax.random.key(1), mesh=where, **options)
        for where in (None, mesh)
    )
    np.testing.assert_allclose(one.theta["log"], two.theta["log"], rtol=1e-5)
    np.testing.assert_allclose(one.losses, two.losses, rtol=1e-5)


def test_rescaled_tasks_begin_at_the_same_loss(x64):
    family, key = quadratic(), jax.random.key(0)
    other = rescaled(family, 0.1, 10.0)
    task = other.sample(key)
    params, batch = other.init(task, key), other.batch(task, key)
    plain = family.loss(family.init(task["task"], key), task["task"])
    np.testing.assert_allclose(other.loss(params, batch), plain, rtol=1e-12)
    factors = jnp.stack([other.sample(jax.random.key(i))["factors"] for i in range(200)])
    assert 0.1 <= jnp.min(factors) < 0.15 and 7 < jnp.max(factors) <= 10
    assert abs(jnp.mean(jnp.log(factors))) < 0.3
    assert other.scale(task) == family.scale(task["task"])


def test_bad_arguments_are_refused():
    rule, family = Rate(), quadratic()
    for arguments, words in (
        ({"rule": "adam"}, "rule is a nestax.learned.Rule, got str"),
        ({"families": [family, 3]}, "got int"),
        ({"families": []}, "at least one family"),
        ({"families": [family, family]}, "dataclasses.replace"),
        ({"tasks": 0}, "tasks"),
        ({"horizon": 30}, "whole truncations of 20"),
        ({"horizon": (40, 20)}, r"\(least, most\)"),
        ({"meta_loss": "final"}, '"mean"'),
        ({"ceiling": -1.0}, "ceiling"),
        ({"ceiling": 0}, "ceiling is a positive number"),
        ({"learning_rate": lambda count: count}, "learning_rate"),
    ):
        with pytest.raises(ValueError, match=words):
            meta_nest(**{"rule": rule, "families": family, **arguments})
    with pytest.raises(ValueError, match=r"theta\['log'\]"):
        meta_train(rule, family, 1, jax.random.key(0), theta={"rate": jnp.zeros(())})
    for arguments, words in (
        ({"optimizer": lambda rate: optax.sgd(rate)}, "needs settings="),
        ({"steps": 0}, "steps"),
        ({"family": rule}, "got Rate"),
    ):
        given = {"optimizer": optax.sgd(0.1), "family": family, "steps": 1, **arguments}
        with pytest.raises(ValueError, match=words):
            curves(key=jax.random.key(0), **given)
    for fields, words in (
        ({"name": ""}, "name is a word"),
        ({"loss": 3}, "loss is a function"),
        ({"batch": lambda task: task}, "batch"),
    ):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(family, **fields)
    with pytest.raises(ValueError, match="0 < least <= most"):
        rescaled(family, 2.0, 1.0)


def test_theta_that_is_lost_is_told():
    family = quadratic(scale=None)
    with pytest.raises(nx.DivergenceError, match=r"'rule'.*theta"):
        meta_train(
            Rate(), family, 3, jax.random.key(0), theta={"log": jnp.asarray(jnp.nan)}, horizon=20
        )
