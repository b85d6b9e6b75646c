"""Optax's less ordinary transformations within copied levels, against a loop over single copies."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

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
    return {"x": jax.random.normal(key, (4, 2)), "scale": jax.random.uniform(key, ())}


def noisy(task, key):
    y = task["scale"] * jnp.sin(task["x"][:, 0]) + 0.1 * jax.random.normal(key, (4,))
    return {"x": task["x"], "y": y}


def nest_of(optimizer, **outer):
    def slow(values, batch):
        return loss(values["w"], values["m"], batch) + values["m"] @ values["m"]

    def start(values, task, key):
        return {"kernel": BEGIN["kernel"] + values["m"], "bias": BEGIN["bias"] * task["scale"]}

    w = nx.Level(
        "w", lambda v, b: loss(v["w"], v["m"], b), optimizer, noisy, start=start, horizon=EPISODE
    )
    m = nx.Level("m", slow, optax.sgd(0.01), noisy, every=2, **outer)
    return nx.Nest([w, m], task=draw, copies=COPIES)


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

    def slow(m, values, batches):
        every = [loss(v, m, b) for v, b in zip(values, batches, strict=True)]
        return sum(every) / COPIES + m @ m

    start = nest.groups[0][0].start
    m, values, helds, losses = jnp.zeros(2), [None] * COPIES, [None] * COPIES, []
    for t in range(12):
        for c in range(COPIES):
            if t % EPISODE == 0:
                task = draw(_draws.task_key(state.key, t, c))
                values[c] = start({"m": m}, task, None)
                helds[c] = optimizer.init(values[c])
        tasks = [draw(_draws.task_key(state.key, t - t % EPISODE, c)) for c in range(COPIES)]
        batches = [_draws.batch(noisy, state.key, task, t, c) for c, task in enumerate(tasks)]
        for c in range(COPIES):
            values[c], helds[c], found = step(values[c], helds[c], m, batches[c])
            losses.append(found)
        if t % 2:
            m = m - 0.01 * jax.grad(slow)(m, values, batches)
    together = jax.tree.map(lambda *x: jnp.stack(x), *zip(values, helds, strict=True))
    found = end.values["w"], end.optimizers["w"]
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(info["w"].loss.ravel(), jnp.stack(losses), rtol=1e-9)
    np.testing.assert_allclose(end.values["m"], m, rtol=1e-9)


@pytest.mark.parametrize("name", ["MultiSteps", "masked", "inject_hyperparams"])
def test_unroll_differentiates_through_them(x64, name):
    nest = nest_of(CITIZENS[name], flow=nx.Unroll())
    state = nest.init({"m": jnp.array([0.1, 0.2])}, jax.random.key(1))
    optimizer = CITIZENS[name]

    def outer(m):
        total = 0.0
        for c in range(COPIES):
            task = draw(_draws.task_key(state.key, 0, c))
            value = nest.groups[0][0].start({"m": m}, task, None)
            held = optimizer.init(value)
            for t in range(2):
                batch = _draws.batch(noisy, state.key, task, t, c)
                change, held = optimizer.update(jax.grad(loss)(value, m, batch), held, value)
                value = optax.apply_updates(value, change)
            total += loss(value, m, batch) / COPIES
        return total + m @ m

    expected = jax.grad(outer)(state.values["m"])
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
        return {"w": {"kernel": jax.random.normal(key, (2,)), "bias": jnp.zeros(())}, **batch}

    batch = {"x": jnp.ones((4, 2)), "y": jnp.zeros(4)}
    optimizer = optax.with_extra_args_support(CITIZENS[name])
    nest = nx.Nest([w, nx.Level("m", slow, optimizer, flow=nx.Direct())], task=task, copies=COPIES)
    state = nest.init({"m": jnp.array([0.1, 0.2])}, jax.random.key(2))
    end, _ = nest.run(state, steps=4)
    kernels = [task(_draws.task_key(state.key, 0, c))["w"]["kernel"] for c in range(COPIES)]

    def value_fn(m, batch=None):
        return sum(jnp.sum(jnp.log(jnp.cosh(k * m - 1))) for k in kernels) / COPIES

    m, held = state.values["m"], optimizer.init(state.values["m"])
    for _ in range(4):
        found, gradient = jax.value_and_grad(value_fn)(m)
        change, held = optimizer.update(
            gradient, held, m, value=found, grad=gradient, value_fn=value_fn
        )
        m = optax.apply_updates(m, change)
    np.testing.assert_allclose(end.values["m"], m, rtol=1e-8)


def test_what_is_no_transformation_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'w'.*MultiSteps"):
        nx.Level("w", lambda values, batch: 0.0, optax.MultiSteps(optax.sgd(0.1), 2))
