"""The step as a differentiable map of the state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx


def maml():
    loss = lambda v, batch: jnp.sum(jnp.cosh(v["w"] - batch))  # noqa: E731
    start = lambda v, task, key: v["init"]  # noqa: E731
    w = nx.Level("w", loss, optax.sgd(0.1), start=start)
    outer = nx.Level("init", loss, optax.sgd(0.1, momentum=0.5), every=3, flow=nx.Unroll())
    return nx.Nest([w, outer], jnp.array([0.4, -0.1])), {"init": jnp.array([1.0, 2.0])}


def game(optimizer, order="simultaneous"):
    x = nx.Level("x", lambda v, b: jnp.sum(v["x"] * v["y"]) + jnp.sum(v["x"] ** 4), optimizer)
    y = nx.Level("y", lambda v, b: -jnp.sum(v["x"] * v["y"]), optax.sgd(0.2))
    values = {"x": jnp.array([0.3, -0.2]), "y": jnp.array([1.0, 0.5])}
    return nx.Nest([(x, y)], order=order), values


NESTS = {
    "sgd": functools.partial(game, optax.sgd(0.1)),
    "momentum": functools.partial(game, optax.sgd(0.1, momentum=0.9), "alternating"),
    "maml": maml,
}


@pytest.mark.parametrize("name", NESTS)
def test_both_modes_equal_differences(x64, name):
    """With respect to values and what optimizers remember, after a few steps."""
    nest, values = NESTS[name]()
    state = nest.run(nest.init(values, jax.random.key(0)), 3)[0]
    leaves, structure = jax.tree.flatten(state)
    moving = [i for i, a in enumerate(leaves) if jnp.issubdtype(a.dtype, jnp.inexact)]

    def ahead(point):
        now = list(leaves)
        for i, a in zip(moving, point, strict=True):
            now[i] = a
        after = jax.tree.leaves(nest.map(structure.unflatten(now)))
        return [after[i] for i in moving]

    point = [leaves[i] for i in moving]
    rng = np.random.default_rng(0)
    along, back = ([jnp.asarray(rng.normal(size=a.shape)) for a in point] for _ in range(2))
    shifted = lambda s: ahead([a + s * 1e-5 * b for a, b in zip(point, along, strict=True)])  # noqa: E731
    slope = [(a - b) / 2e-5 for a, b in zip(shifted(1), shifted(-1), strict=True)]
    dot = lambda one, two: sum(jnp.vdot(a, b) for a, b in zip(one, two, strict=True))  # noqa: E731

    pushed = jax.jvp(ahead, (point,), (along,))[1]
    linear = jax.linearize(ahead, point)[1](along)
    pulled = jax.vjp(ahead, point)[1](back)[0]
    for a, b, c in zip(pushed, linear, slope, strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(dot(pulled, along), dot(back, pushed), rtol=1e-10)


def test_what_has_no_derivative_is_refused():
    coupled = lambda v, b: jnp.sum((v["w"] - v["init"]) ** 2)  # noqa: E731
    w = nx.Level("w", coupled, optax.sgd(0.1))
    outer = nx.Level("init", coupled, optax.sgd(0.1), every=3, flow=nx.FiniteDifference())
    nest = nx.Nest([w, outer])
    state = nest.init({"w": jnp.ones(2), "init": jnp.zeros(2)}, jax.random.key(0))
    with pytest.raises(ValueError, match=r"map: level 'init' has the flow FiniteDifference\(\)"):
        nest.map(state)
    stream = nx.Stream(lambda index: np.ones(2))
    nest = nx.Nest([nx.Level("w", lambda v, b: jnp.sum((v["w"] - b) ** 2), optax.sgd(0.1), stream)])
    state = nest.init({"w": jnp.ones(2)}, jax.random.key(0))
    with pytest.raises(ValueError, match=r"give feed=nest.feed\(state\)"):
        nest.map(state)
    np.testing.assert_allclose(nest.map(state, nest.feed(state)).values["w"], 1.0)
