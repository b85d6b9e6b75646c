"""Updates at gradients of zero and updates that reject a gradient, by hand and through flows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax.flows._safe_update import quiet, rejects, safe_update

ZERO, POINT = np.zeros(3), np.array([0.3, -0.2, 0.9])


def norm(g):
    return jnp.sqrt(jnp.sum(g**2))


UPDATES = {
    "norm": lambda g: g * norm(g),
    "power": lambda g: g * jnp.sum(g**2) ** 0.5,
    "clipped": lambda g: jnp.where(norm(g) < 1, g, g / norm(g)),
    "divided": lambda g: g / jnp.where(norm(g) > 0, norm(g), 1),
    "called": lambda g: g * jax.jit(norm)(g),
    "branch": lambda g: g * jax.lax.cond(jnp.sum(g) > 9, jnp.sum, norm, g),
    "scan": lambda g: jax.lax.scan(lambda s, x: (jnp.sqrt(s**2 + x**2), x), 0 * g[0], g)[0] * g,
    "while": lambda g: jax.lax.fori_loop(0, 2, lambda _, u: u * norm(u) / 2, g),
    "rematerialized": lambda g: g * jax.checkpoint(norm)(g),
}


@pytest.mark.parametrize("name", UPDATES)
def test_derivatives_at_zero_are_those_of_zero_and_elsewhere_their_own(name, x64):
    """g |g| and the like are flat at 0, what is clipped or divided by its norm is g or 0 there."""
    update = UPDATES[name]
    backward = jax.jacfwd if name == "while" else jax.jacrev  # JAX' loops have no reverse mode

    def safe(g):
        return safe_update(update, g)

    @jax.jit
    def derivatives(both):
        modes = backward(safe), jax.jacfwd(safe), backward(update)
        found = [jax.vmap(f)(both) for f in (safe, *modes)]
        beside = jax.vmap(jax.jacfwd(update))(POINT + np.array([[1e-6, 0, 0], [-1e-6, 0, 0]]))
        return *found, jax.vmap(jax.jacfwd(modes[0]))(both), update(both[1]), beside

    value, *modes, own, second, at_point, (ahead, behind) = derivatives(np.stack([ZERO, POINT]))
    np.testing.assert_allclose(value[1], at_point, rtol=1e-14)
    expected = np.eye(3) if name in ("clipped", "divided") else np.zeros((3, 3))
    for found in modes:
        np.testing.assert_array_equal(found[0], expected)
        np.testing.assert_allclose(found[1], own[1], rtol=1e-12)
    assert not second[0].any()
    np.testing.assert_allclose(second[1][..., 0], (ahead - behind) / 2e-6, atol=1e-8)


def test_an_update_without_a_root_is_traced_as_it_is():
    for tx in (
        optax.sgd(optax.cosine_decay_schedule(0.1, 10), momentum=0.9),
        optax.adam(0.1, eps_root=1e-8),  # nothing that it divides by or takes the root of vanishes
        nx.optim.complex_momentum(0.1, 0.9),
    ):
        point = jnp.asarray(POINT)
        state = tx.init(point)
        plain = jax.make_jaxpr(tx.update)(point, state)
        safe = jax.make_jaxpr(lambda g, s, tx=tx: safe_update(tx.update, g, s))(point, state)
        assert str(safe) == str(plain)


def test_which_updates_may_reject_a_gradient():
    point = jnp.asarray(POINT)
    finite, plain = optax.apply_if_finite(optax.sgd(0.1), 3), optax.adam(0.1)
    large = partial(optax.skip_large_updates, max_squared_norm=1.0)
    skipping = optax.MultiSteps(optax.sgd(0.1), 1, should_skip_update_fn=large)
    skipping = skipping.gradient_transformation()
    for tx in (finite, skipping, optax.zero_nans()):
        assert rejects(tx.update, point, tx.init(point), point)
    gathering = optax.MultiSteps(plain, 2).gradient_transformation()
    for tx in (plain, nx.optim.m3(0.1), gathering, optax.clip_by_global_norm(1.0)):
        assert not rejects(tx.update, point, tx.init(point), point)


def test_the_pullback_of_zero_is_zero_and_others_are_untouched(x64):
    def function(x, count):
        return {"log": jnp.log(x) * count, "count": count + 1}, jnp.sum(x)

    @jax.jit
    def pulled(of_log, of_sum):
        out, pull = jax.vjp(lambda x: quiet(function)(x, 3), jnp.array([-1.0, 2.0]))
        count = np.zeros((), jax.dtypes.float0)
        return out[0]["log"], pull(({"log": of_log, "count": count}, of_sum))[0]

    log, pull = pulled(np.zeros(2), 0.0)
    assert np.isnan(log[0])
    np.testing.assert_array_equal(pull, [0, 0])
    np.testing.assert_array_equal(pulled(np.array([0.0, 4.0]), 1.0)[1], [1, 7])
    first = jax.grad(lambda x: quiet(function)(x, 3)[0]["log"].sum())
    np.testing.assert_allclose(
        jax.jit(jax.jacrev(first))(POINT), np.diag(-3 / POINT**2), rtol=1e-12
    )
