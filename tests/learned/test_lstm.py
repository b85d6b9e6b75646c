"""The coordinatewise LSTM against numpy, and its derivatives."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.learned_lstm import lstm_updates
from references.learned_weights import filled

import nestax as nx

GOLDEN = Path(__file__).parent / "golden" / "lstm.json"
SHAPES = {"a": (5,), "b": (), "c": (3, 3, 2, 4), "d": (4, 3), "e": (1, 7), "none": (0, 2)}


def stream(steps=4, scale=3.0):
    """Gradients of all sizes, and zeros."""
    rng = np.random.default_rng(0)

    def one(shape):
        g = scale * rng.normal(size=shape) * 10.0 ** rng.integers(-6, 2, size=shape)
        return np.where(rng.random(shape) < 0.1, 0, g)

    return [{name: one(shape) for name, shape in SHAPES.items()} for _ in range(steps)]


def walk(rule, theta, gradients, dtype):
    """The updates of the compiled transformation along the gradients."""
    p = {name: jnp.ones(shape, dtype) for name, shape in SHAPES.items()}
    tx = rule(jax.tree.map(lambda a: jnp.asarray(a, dtype), theta))
    state, update, out = tx.init(p), jax.jit(tx.update), []
    for g in gradients:
        u, state = update(jax.tree.map(lambda a: jnp.asarray(a, dtype), g), state, p)
        out.append(u)
    return out


@pytest.mark.parametrize("preprocess", [10.0, 2.0, None])
def test_updates_are_those_of_the_formulas(x64, preprocess):
    rule = nx.learned.lstm(hidden=3, scale=0.1, preprocess=preprocess)
    theta, given = filled(rule), stream(scale=3.0 if preprocess else 0.1)
    found = walk(rule, theta, given, jnp.float64)
    for name, shape in SHAPES.items():
        if name == "none":
            assert all(u[name].shape == shape for u in found)
            continue
        expected = lstm_updates(theta, [g[name] for g in given], 0.1, preprocess)
        np.testing.assert_allclose([u[name] for u in found], expected, rtol=1e-9, atol=1e-12)


def test_updates_are_those_that_were_stored():
    """In float32; the size of the largest one is 0.2."""
    rule = nx.learned.lstm(hidden=4, scale=0.1)
    found = walk(rule, filled(rule), stream(3), jnp.float32)
    stored = json.loads(GOLDEN.read_text())["updates"]
    for u, expected in zip(found, stored, strict=True):
        for name, values in expected.items():
            np.testing.assert_allclose(np.ravel(u[name]), values, rtol=1e-5, atol=2e-7)


def test_layers_and_sizes_are_those_asked_for():
    def count(**options):
        rule = nx.learned.lstm(**options)
        drawn = jax.eval_shape(rule.init, jax.eval_shape(lambda: jax.random.key(0)))
        assert {a.dtype for a in jax.tree.leaves(drawn)} == {jnp.dtype(jnp.float32)}
        return sum(a.size for a in jax.tree.leaves(drawn))

    def layer(inputs, n):
        return 4 * n * (inputs + n + 1)

    assert count() == layer(2, 20) + layer(20, 20) + 21 == 5141
    assert count(hidden=3, layers=3, preprocess=None) == layer(1, 3) + 2 * layer(3, 3) + 4


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"hidden": 0}, "lstm: hidden must be an int of at least 1"),
        ({"layers": 0}, "lstm: layers must be an int of at least 1"),
        ({"scale": -1.0}, "lstm: scale must be in"),
        ({"preprocess": 0.0}, "lstm: preprocess must be above 0, or None"),
        ({"preprocess": -1.0}, "lstm: preprocess must be in"),
    ],
)
def test_options_are_checked(options, text):
    with pytest.raises(ValueError, match=text):
        nx.learned.lstm(**options)


def test_derivatives_in_theta_are_those_of_differences(x64):
    """Through five updates of a bowl; some gradients lie below the threshold."""
    rule = nx.learned.lstm(hidden=2, scale=0.3, preprocess=1.0)
    theta = jax.tree.map(jnp.asarray, filled(rule))
    flat, unflatten = jax.flatten_util.ravel_pytree(theta)

    @jax.jit
    def end(flat):
        tx, p = rule(unflatten(flat)), jnp.array([1.0, -0.1, 3.0, 0.0])
        state = tx.init(p)
        for _ in range(5):
            u, state = tx.update(p, state, p)
            p = optax.apply_updates(p, u)
        return jnp.sum(p**2)

    slopes = jax.grad(end)(flat)
    rng, step = np.random.default_rng(0), 1e-6
    for _ in range(3):
        d = rng.normal(size=flat.size)
        difference = (end(flat + step * d) - end(flat - step * d)) / (2 * step)
        np.testing.assert_allclose(slopes @ d, difference, rtol=1e-6)


def test_second_derivatives_are_left_out_where_the_flow_does():
    """The rule stops none: by `Unroll` the gradient is one of theta, and by its first order that
    of a loop with stopped gradients."""
    rule = nx.learned.lstm(hidden=2, scale=0.3, preprocess=None)
    theta = jax.tree.map(jnp.float32, filled(rule))

    def loss(values, batch):
        return jnp.sum(values["w"] ** 4 - values["w"])

    def gradient(first_order):
        w = nx.Level("w", loss, lambda v: rule(v["theta"]), start=lambda *_: jnp.array([0.3, 1.5]))
        flow = nx.Unroll(first_order=first_order)
        outer = nx.Level("theta", loss, optax.sgd(0.1), every=4, flow=flow)
        nest = nx.Nest([w, outer])
        return nest.gradient(nest.init({"theta": theta}, jax.random.key(0)), "theta")

    def by_hand(theta, stop):
        tx, w = rule(theta), jnp.array([0.3, 1.5])
        state = tx.init(w)
        for _ in range(4):
            g = jax.grad(lambda w: loss({"w": w}, None))(w)
            u, state = tx.update(jax.lax.stop_gradient(g) if stop else g, state, w)
            w = w + u
        return loss({"w": w}, None)

    found = [jax.flatten_util.ravel_pytree(gradient(first))[0] for first in (False, True)]
    for own, stop in zip(found, (False, True), strict=True):
        expected = jax.flatten_util.ravel_pytree(jax.jit(jax.grad(by_hand), static_argnums=1)(
            theta, stop
        ))[0]  # fmt: skip
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(*found, rtol=0.1)
