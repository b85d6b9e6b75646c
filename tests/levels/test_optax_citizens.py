"""Optax's less ordinary transformations within copied levels, against a loop over single copies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.nests import noise

import nestax as nx
from nestax.levels import _draws

COPIES, EPISODE = 3, 6
BEGIN = {"kernel": jnp.array([2.0, -1.0]), "bias": jnp.array(0.5)}


def rate(count):
    return 0.1 * 0.9**count


CITIZENS = {
    "MultiSteps": optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
    "apply_if_finite": optax.apply_if_finite(optax.sgd(0.1, momentum=0.9), 3),
    "lbfgs": optax.lbfgs(memory_size=3),
    "masked": optax.masked(optax.adam(0.1), {"kernel": True, "bias": False}),
    "inject_hyperparams": optax.inject_hyperparams(optax.sgd)(learning_rate=rate),
    "reduce_on_plateau": optax.chain(
        optax.sgd(0.1), optax.contrib.reduce_on_plateau(factor=0.5, patience=2, accumulation_size=2)
    ),
    "scale_by_backtracking_linesearch": optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=8)
    ),
}


def loss(value, shared, batch):
    residual = batch["x"] @ value["kernel"] + value["bias"] - batch["y"]
    return jnp.sum(jnp.log(jnp.cosh(residual))) + 0.1 * jnp.sum((value["kernel"] - shared) ** 2)


def draw(key):
    numbers = noise(key, 9)
    return {"x": numbers[:8].reshape(4, 2), "scale": 0.5 + numbers[8] / 4}


def noisy(task, key):
    y = task["scale"] * jnp.sin(task["x"][:, 0]) + 0.1 * noise(key, 4)
    return {"x": task["x"], "y": y}


def nest_of(optimizer, **outer):
    def slow(values, batch):
        return loss(values["w"], values["m"], batch) + values["m"] @ values["m"]

    w = nx.Level(
        "w", lambda v, b: loss(v["w"], v["m"], b), optimizer, noisy, start=start, horizon=EPISODE
    )
    m = nx.Level("m", slow, optax.sgd(0.01), noisy, every=2, **outer)
    return nx.Nest([w, m], task=draw, copies=COPIES)


def start(values, task, key):
    return {"kernel": BEGIN["kernel"] + values["m"], "bias": BEGIN["bias"] * task["scale"]}


@functools.cache
def drawn():
    """The tasks and batches of the copies at every tick."""

    @jax.jit
    @jax.vmap
    def one(t, c):
        key = jax.random.key_data(jax.random.key(0))
        task = draw(_draws.task_key(key, t - t % EPISODE, c))
        return task, _draws.batch(noisy, key, task, t, c)

    ticks, copies = np.indices((12, COPIES))
    found = jax.device_get(one(ticks.ravel(), copies.ravel()))
    return [
        [jax.tree.map(lambda a, i=t * COPIES + c: a[i], found) for c in range(COPIES)]
        for t in range(12)
    ]


@jax.jit
def slope(m, values, batches):
    every = lambda m: jnp.mean(jax.vmap(loss, (0, None, 0))(values, m, batches)) + m @ m  # noqa: E731
    return jax.grad(every)(m)


def stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@pytest.mark.parametrize("name", CITIZENS)
def test_copies_are_what_a_loop_over_them_gives(x64, name):
    optimizer = optax.with_extra_args_support(CITIZENS[name])
    nest = nest_of(CITIZENS[name])
    state = nest.init({"m": jnp.zeros(2)}, jax.random.key(0))
    end, info = nest.run(state, steps=6)

    @jax.jit
    def step(value, held, m, batch):
        def value_fn(value, batch=batch):
            return loss(value, m, batch)

        found, gradient = jax.value_and_grad(value_fn)(value)
        change, held = optimizer.update(
            gradient, held, value, value=found, grad=gradient, value_fn=value_fn, batch=batch
        )
        return optax.apply_updates(value, change), held, found

    m, values, helds, losses = jnp.zeros(2), [None] * COPIES, [None] * COPIES, []
    for t in range(12):
        for c in range(COPIES):
            task, batch = drawn()[t][c]
            if t % EPISODE == 0:
                values[c] = start({"m": m}, task, None)
                helds[c] = optimizer.init(values[c])
            values[c], helds[c], found = step(values[c], helds[c], m, batch)
            losses.append(found)
        if t % 2:
            m = m - 0.01 * slope(m, stacked(values), stacked([batch for _, batch in drawn()[t]]))
    together = stacked(zip(values, helds, strict=True))
    found = end.values["w"], end.optimizers["w"]
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(info["w"].loss.ravel(), np.stack(losses), rtol=1e-9)
    np.testing.assert_allclose(end.values["m"], m, rtol=1e-9)


@pytest.mark.parametrize("name", ["MultiSteps", "masked", "inject_hyperparams"])
def test_unroll_differentiates_through_them(x64, name):
    nest = nest_of(CITIZENS[name], flow=nx.Unroll())
    state = nest.init({"m": jnp.array([0.1, 0.2])}, jax.random.key(1))
    optimizer = CITIZENS[name]

    def copied(m, c):
        task = draw(_draws.task_key(state.key, 0, c))
        value = start({"m": m}, task, None)
        held = optimizer.init(value)
        for t in range(2):
            batch = _draws.batch(noisy, state.key, task, t, c)
            change, held = optimizer.update(jax.grad(loss)(value, m, batch), held, value)
            value = optax.apply_updates(value, change)
        return loss(value, m, batch)

    def outer(m):
        return jnp.mean(jax.vmap(copied, (None, 0))(m, jnp.arange(COPIES))) + m @ m

    expected = jax.jit(jax.grad(outer))(state.values["m"])
    np.testing.assert_allclose(nest.gradient(state, "m"), expected, rtol=1e-9)


@pytest.mark.parametrize(
    "name", ["lbfgs", "scale_by_backtracking_linesearch", "reduce_on_plateau", "MultiSteps"]
)
def test_a_shared_level_searches_along_the_mean_over_copies(x64, name):
    """Its line search sees the loss that it descends."""
    w = nx.Level(
        "w",
        lambda v, b: loss(v["w"], v["m"], b),
        optax.sgd(0.0),
        start=lambda values, task, key: task["w"],
        horizon=4,
    )

    def slow(values, task):
        return jnp.sum(jnp.log(jnp.cosh(values["w"]["kernel"] * values["m"] - 1)))

    def task(key):
        return {"w": {"kernel": noise(key, 2), "bias": jnp.zeros(())}, **batch}

    batch = {"x": jnp.ones((4, 2)), "y": jnp.zeros(4)}
    optimizer = optax.with_extra_args_support(CITIZENS[name])
    nest = nx.Nest([w, nx.Level("m", slow, optimizer, flow=nx.Direct())], task=task, copies=COPIES)
    state = nest.init({"m": jnp.array([0.1, 0.2])}, jax.random.key(2))
    end, _ = nest.run(state, steps=4)
    kernels = [task(_draws.task_key(state.key, 0, c))["w"]["kernel"] for c in range(COPIES)]

    def value_fn(m, batch=None):
        return sum(jnp.sum(jnp.log(jnp.cosh(k * m - 1))) for k in kernels) / COPIES

    @jax.jit
    def descended(m, held):
        found, gradient = jax.value_and_grad(value_fn)(m)
        change, held = optimizer.update(
            gradient, held, m, value=found, grad=gradient, value_fn=value_fn
        )
        return optax.apply_updates(m, change), held

    m, held = state.values["m"], optimizer.init(state.values["m"])
    for _ in range(4):
        m, held = descended(m, held)
    np.testing.assert_allclose(end.values["m"], m, rtol=1e-8)


def test_what_is_no_transformation_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'w'.*MultiSteps"):
        nx.Level("w", lambda values, batch: 0.0, optax.MultiSteps(optax.sgd(0.1), 2))
