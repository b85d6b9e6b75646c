"""Muon is optax's; with its own rate for vectors, decoupled decay, and matrices of any axes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from nestax import optim

SHAPES = {"w": (4, 6), "b": (5,), "kernel": (2, 3, 4)}
AXES = {"w": MuonDimensionNumbers(0, 1), "b": None, "kernel": MuonDimensionNumbers(1, (0, 2))}


def draw(seed, names=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=SHAPES[name])) for name in names}


@pytest.mark.parametrize("nesterov", [True, False])
def test_is_optaxs_up_to_its_eps(x64, nesterov):
    schedule = optax.linear_schedule(0.1, 0.01, 4)
    ours = optim.muon(
        schedule,
        0.9,
        nesterov=nesterov,
        weight_decay=0.1,
        adam_learning_rate=0.03,
        axes=AXES,
    )
    theirs = optax.contrib.muon(
        schedule,
        beta=0.9,
        nesterov=nesterov,
        weight_decay=0.1,
        adam_learning_rate=0.03,
        muon_weight_dimension_numbers=AXES,
        mu_dtype=jnp.float64,
    )
    p = q = draw(0)
    s, t = ours.init(p), theirs.init(q)
    update, update_theirs = jax.jit(ours.update), jax.jit(theirs.update)
    for seed in range(5):
        u, s = update(draw(seed + 1), s, p)
        v, t = update_theirs(draw(seed + 1), t, q)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), u, v)
        p, q = optax.apply_updates(p, u), optax.apply_updates(q, v)


def test_vectors_have_a_rate_of_their_own(x64):
    p = draw(0, ("w", "b"))
    one, other = (
        tx.update(p, tx.init(p), p)[0]
        for tx in (optim.muon(0.1), optim.muon(0.1, adam_learning_rate=0.3))
    )
    np.testing.assert_array_equal(one["w"], other["w"])
    np.testing.assert_allclose(3 * one["b"], other["b"], rtol=1e-12)
