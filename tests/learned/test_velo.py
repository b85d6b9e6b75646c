"""The rule after VeLO against numpy, what it reads, and its derivatives."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.learned_velo import velo_updates
from references.learned_weights import filled as filled_with

import nestax as nx

GOLDEN = Path(__file__).parent / "golden" / "velo.json"
SHAPES = {"a": (5,), "b": (), "c": (3, 3, 2, 4), "d": (4, 3), "e": (1, 7), "none": (0, 2)}
NAMES = [name for name in SHAPES if name != "none"]
STEPS = 20
LOSSES = [3.0, 2.5, 9.0, 40.0, 1.0]  # the third is clipped a little, the fourth much

rule = functools.partial(nx.learned.velo, lstm_hidden=3, bank=2, hidden=(4, 3), step=0.1)


def filled():
    """Small enough for the magnitudes, whose weights are a hundredfold of the bank's."""
    return filled_with(rule(), 0.15)


def problem(steps=5):
    """Parameters and gradients of all sizes, some of which are clipped, as numpy's."""
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}

    def one(shape):
        return rng.normal(size=shape) * 10.0 ** rng.integers(-3, 5, size=shape)

    return params, [{name: one(shape) for name, shape in SHAPES.items()} for _ in range(steps)]


def walk(theta, params, gradients, dtype, steps=STEPS):
    """The updates of the compiled transformation at fixed parameters; the horizon is traced."""
    theta, p = (jax.tree.map(lambda a: jnp.asarray(a, dtype), tree) for tree in (theta, params))
    state, out = rule()(theta, num_steps=steps).init(p), []
    update = jax.jit(
        lambda g, s, loss, steps: rule()(theta, num_steps=steps).update(g, s, p, value=loss)
    )
    for g, loss in zip(gradients, LOSSES, strict=True):
        g = jax.tree.map(lambda a: jnp.asarray(a, dtype), g)
        u, state = update(g, state, loss, steps)
        out.append(u)
    return out


def expected(theta, params, gradients, steps=STEPS):
    return velo_updates(
        theta,
        [params[name] for name in NAMES],
        [[g[name] for name in NAMES] for g in gradients],
        LOSSES,
        steps,
        0.1,
    )


@pytest.mark.parametrize("steps", [STEPS, 4, 2000])
def test_updates_are_those_of_the_formulas(x64, steps):
    theta, (params, gradients) = filled(), problem()
    found = walk(theta, params, gradients, jnp.float64, steps)
    for u, own in zip(found, expected(theta, params, gradients, steps), strict=True):
        assert u["none"].shape == (0, 2)
        for name, values in zip(NAMES, own, strict=True):
            assert np.max(np.abs(values)) > 1e-4
            np.testing.assert_allclose(u[name], values, rtol=1e-8, atol=1e-12, err_msg=name)


def test_updates_are_those_that_were_stored():
    """In float32, relative to the largest number of a tensor."""
    found = walk(filled(), *problem(), jnp.float32)
    for u, stored in zip(found, json.loads(GOLDEN.read_text())["updates"], strict=True):
        for name, values in stored.items():
            size = np.max(np.abs(values))
            np.testing.assert_allclose(np.ravel(u[name]), values, rtol=0, atol=1e-5 * size)


def test_the_sizes_of_the_source_give_its_weights_without_the_dead_ones():
    big = nx.learned.velo(lstm_hidden=512, bank=256)
    drawn = jax.eval_shape(big.init, jax.eval_shape(lambda: jax.random.key(0)))
    assert {a.dtype for a in jax.tree.leaves(drawn)} == {jnp.dtype(jnp.float32)}
    count = sum(a.size for a in jax.tree.leaves(drawn))
    assert count == 2_301_185
    unused_layer = (30 + 1) * 512
    third_output = 256 * (4 + 1)
    two_more_inputs = 2 * 2 * 512
    assert count + unused_layer + third_output + two_more_inputs == 2_320_385


def test_tensors_hear_of_each_other_and_the_loss_and_the_horizon_are_read():
    theta, (params, gradients) = filled(), problem(1)
    p, g = (jax.tree.map(jnp.float32, tree) for tree in (params, gradients[0]))

    @jax.jit
    def first(p, g, losses, steps):
        tx = rule()(jax.tree.map(jnp.float32, theta), num_steps=steps)
        state = tx.init(p)
        for loss in losses:
            u, state = tx.update(g, state, p, value=loss)
        return u["a"]

    plain = first(p, g, (1.0, 2.0, 3.0), 20)
    others = p | {"d": 100 * p["d"], "e": 0.01 * p["e"]}
    # One program and one seen tensor: what differs was heard.
    for changed in (
        first(others, g, (1.0, 2.0, 3.0), 20),
        first(p, g, (1.0, 2.0, 1.5), 20),
        first(p, g, (1.0, 2.0, 3.0), 10),
    ):
        assert np.max(np.abs(changed / plain - 1)) > 1e-5


def test_what_is_needed_is_asked_for():
    theta = jax.tree.map(jnp.float32, filled())
    with pytest.raises(ValueError, match=r"velo: the rule needs the number of updates"):
        rule()(theta)
    tx, p = rule()(theta, num_steps=10), {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"velo: the rule reads the loss"):
        tx.update(p, tx.init(p), p)
    for empty in ({}, {"w": jnp.ones((0, 2))}):
        u, _ = tx.update(empty, tx.init(empty), empty, value=1.0)
        assert jax.tree.structure(u) == jax.tree.structure(empty)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lstm_hidden": 0}, "velo: lstm_hidden must be an int of at least 1"),
        ({"bank": 0}, "velo: bank must be an int of at least 1"),
        ({"hidden": 4}, "velo: hidden must be a sequence of sizes"),
        ({"step": -1.0}, "velo: step must be in"),
    ],
)
def test_options_are_checked(options, text):
    with pytest.raises(ValueError, match=text):
        nx.learned.velo(**options)


def test_derivatives_in_theta_are_those_of_differences(x64):
    """Through four updates of a bowl that feel the loss, beside a tensor of zeros."""
    flat, unflatten = jax.flatten_util.ravel_pytree(jax.tree.map(jnp.asarray, filled()))

    @jax.jit
    def end(flat):
        tx = rule()(unflatten(flat), num_steps=10)
        p = {"w": jnp.array([[1.0, -0.1, 3.0], [0.5, 0.2, 2.0]]), "z": jnp.zeros(2)}
        state = tx.init(p)

        def step(carry, _):
            p, state = carry
            loss = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p))
            u, state = tx.update(p, state, p, value=loss)
            return (optax.apply_updates(p, u), state), None

        p, _ = jax.lax.scan(step, (p, state), length=4)[0]
        return jnp.sum(p["w"] ** 2) + jnp.sum(p["z"])

    slopes = jax.grad(end)(flat)
    assert np.all(np.isfinite(slopes))
    rng, step = np.random.default_rng(0), 1e-7
    for _ in range(3):
        d = rng.normal(size=flat.size)
        difference = (end(flat + step * d) - end(flat - step * d)) / (2 * step)
        np.testing.assert_allclose(slopes @ d, difference, rtol=1e-5)


def test_population_of_weights_is_mapped_at_once():
    theta, (params, gradients) = filled(), problem(1)
    many = jax.tree.map(lambda a: jnp.stack([jnp.float32(a), jnp.float32(2 * a)]), theta)
    p, g = (jax.tree.map(jnp.float32, tree) for tree in (params, gradients[0]))

    def first(theta):
        tx = rule()(theta, num_steps=20)
        return tx.update(g, tx.init(p), p, value=1.0)[0]

    u = jax.jit(jax.vmap(first))(many)
    alone = jax.jit(first)(jax.tree.map(lambda a: a[1], many))
    for name in NAMES:
        assert not np.allclose(u[name][0], u[name][1])
        np.testing.assert_allclose(u[name][1], alone[name], rtol=1e-5, atol=1e-6)
