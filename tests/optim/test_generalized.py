"""Generalized gradient descent against a numerical minimiser and what it contains."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from nestax.optim import GeneralizedState, generalized_gradient_descent

CUBE = (lambda w: w**3 + w, lambda z: _cube_root(z))  # grad of w^4 / 4 + w^2 / 2
POTENTIALS = {
    None: lambda w: w**2 / 2,
    "entropy": lambda w: w * jnp.log(w) - w,
    "hypentropy": lambda w: w * jnp.arcsinh(w / 0.5) - jnp.sqrt(w**2 + 0.25),
    CUBE: lambda w: w**4 / 4 + w**2 / 2,
}
SIZE = 4


def _cube_root(z):
    """The real root of w^3 + w = z (Cardano)."""
    root = jnp.sqrt(z**2 / 4 + 1 / 27)
    return jnp.cbrt(z / 2 + root) + jnp.cbrt(z / 2 - root)


def gradients(steps, seed=0, size=SIZE):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(steps, size)))


def trajectory(tx, stream, w):
    """All weights, the first ones first."""
    state, weights, update = tx.init(w), [w], jax.jit(tx.update)
    for g in stream:
        u, state = update(g, state, weights[-1])
        weights.append(optax.apply_updates(weights[-1], u))
    return weights


@pytest.mark.parametrize("mirror", POTENTIALS, ids=["none", "entropy", "hypentropy", "pair"])
@pytest.mark.parametrize("retention", [(1.0,), (1.0, 0.5), (2, 0.3, 0.2), (1.0, -0.4)])
def test_every_step_is_the_minimiser_of_the_stated_objective(x64, mirror, retention):
    psi, rate = POTENTIALS[mirror], 0.2
    tx = generalized_gradient_descent(rate, retention, mirror, scale=0.5)
    start = jnp.linspace(0.5, 2.0, SIZE)
    stream = gradients(4)
    weights = trajectory(tx, stream, start)

    def divergence(a, b):
        return jnp.sum(psi(a) - psi(b) - jax.vmap(jax.grad(psi))(b) * (a - b))

    def objective(z, g, past):
        w = jnp.exp(z) if mirror == "entropy" else z
        near = [gamma * divergence(w, b) for gamma, b in zip(retention, past, strict=True)]
        return w @ g + sum(near) / rate

    for t, g in enumerate(stream):
        past = [weights[max(t - i, 0)] for i in range(len(retention))]
        new = weights[t + 1]
        z = jnp.log(new) if mirror == "entropy" else new
        np.testing.assert_allclose(jax.grad(objective)(z, g, past), 0, atol=1e-10)
        value = jax.jit(objective)
        found = minimize(
            value, np.zeros(SIZE), (g, past), jac=jax.jit(jax.grad(objective)), tol=1e-8
        )
        np.testing.assert_allclose(z, found.x, rtol=1e-5, atol=1e-5)


def test_one_weight_and_no_mirror_is_gradient_descent_to_the_bit():
    stream, w = gradients(5).astype(jnp.float32), jnp.ones(SIZE)
    ours = trajectory(generalized_gradient_descent(0.1), stream, w)
    for a, b in zip(ours, trajectory(optax.sgd(0.1), stream, w), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("beta", [0.5, 0.9, -0.3])
def test_repulsion_from_the_weights_before_is_heavy_ball_momentum(x64, beta):
    tx = generalized_gradient_descent(0.1, (1.0, -beta / (1 + beta)))
    stream, w = gradients(20), jnp.ones(SIZE)
    heavy_ball = trajectory(optax.sgd(0.1 * (1 + beta), momentum=beta), stream, w)
    for a, b in zip(trajectory(tx, stream, w), heavy_ball, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_mirrors_are_the_rules_of_their_names(x64):
    g, w = gradients(1), jnp.linspace(0.1, 2, SIZE)
    (_, new) = trajectory(generalized_gradient_descent(0.1, mirror="entropy"), g, w)
    np.testing.assert_allclose(new, w * jnp.exp(-0.1 * g[0]), rtol=1e-12)
    wide = generalized_gradient_descent(1e-4, mirror="hypentropy", scale=1e3)
    np.testing.assert_allclose(trajectory(wide, g, -w)[1], -w - 0.1 * g[0], rtol=1e-6)
    narrow = generalized_gradient_descent(0.1, mirror="hypentropy", scale=1e-9)
    np.testing.assert_allclose(trajectory(narrow, g, -w)[1], -w * jnp.exp(0.1 * g[0]), rtol=1e-12)


@pytest.mark.parametrize("mirror", [None, "entropy", "hypentropy"])
@pytest.mark.parametrize("retention", [(1.0,), (1.0, 0.5), (1.0, -0.3)])
def test_descends(mirror, retention):
    target = jnp.array([0.2, 1.0, 2.0, 0.5])
    tx = generalized_gradient_descent(
        optax.cosine_decay_schedule(0.5, 300), retention, mirror, scale=0.5
    )

    def step(carry, _):
        w, state = carry
        u, state = tx.update(w - target, state, w)
        return (optax.apply_updates(w, u), state), None

    w = jnp.ones(SIZE)
    (w, _), _ = jax.jit(lambda w: jax.lax.scan(step, (w, tx.init(w)), length=300))(w)
    np.testing.assert_allclose(w, target, rtol=1e-3)


def test_a_weight_at_zero_spoils_nothing_under_entropy():
    tx = generalized_gradient_descent(0.5, (1.0, -0.4), "entropy")
    w = trajectory(tx, jnp.array([[300.0, 1.0], [300.0, 1.0], [-0.1, 1.0]]), jnp.ones(2))[-1]
    assert np.all(np.isfinite(w)) and np.all(w >= 0) and w[0] < 1e-30 < w[1]


def test_small_steps_in_single_precision_are_not_lost():
    tx = generalized_gradient_descent(1e-6, mirror="hypentropy")
    u, _ = tx.update(jnp.ones(2), tx.init(jnp.full(2, 0.75)), jnp.full(2, 0.75))
    np.testing.assert_allclose(u, -1.25e-6, rtol=1e-5)


def test_schedules_act_inside_and_the_state_holds_the_weights_before():
    tx = generalized_gradient_descent(lambda count: 0.1 / (1.0 + count), (1.0, 0.5, 0.25))
    w = {"half": jnp.ones(3, jnp.bfloat16), "scalar": jnp.ones(())}
    state = tx.init(w)
    shapes = jax.tree.map(lambda a: (a.shape, a.dtype), state)
    for k in range(3):
        old = w
        u, state = tx.update(jax.tree.map(jnp.ones_like, w), state, w)
        w = optax.apply_updates(w, u)
        assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == shapes
        assert isinstance(state, GeneralizedState) and state.count == k + 1
        np.testing.assert_array_equal(state.past[0]["scalar"], old["scalar"])
    assert state.past[1]["half"].dtype == jnp.float32 and u["half"].dtype == jnp.bfloat16
    first, _ = tx.update(
        {"scalar": jnp.ones(())}, tx.init({"scalar": jnp.ones(())}), {"scalar": jnp.ones(())}
    )
    np.testing.assert_allclose(first["scalar"], -0.1 / 1.75, rtol=1e-6)


def test_wrong_arguments_are_refused_by_name():
    tx = generalized_gradient_descent(0.1)
    with pytest.raises(ValueError, match=r"call update\(gradients, state, params\)"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    for retention in ((), (1.0, -1.0), (-1.0,)):
        with pytest.raises(ValueError, match=r"generalized_gradient_descent: .*retention"):
            generalized_gradient_descent(0.1, retention)
    with pytest.raises(ValueError, match="mirror must be None"):
        generalized_gradient_descent(0.1, mirror="euclid")
    with pytest.raises(ValueError, match="scale must be positive"):
        generalized_gradient_descent(0.1, mirror="hypentropy", scale=0.0)
    with pytest.raises(ValueError, match=r"positive parameters, and params\['w'\] has others"):
        generalized_gradient_descent(0.1, mirror="entropy").init({"w": jnp.array([1.0, -1.0])})
