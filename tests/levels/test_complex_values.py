"""Complex values go down their loss, in nests and in `best_response`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx

CENTRE = jnp.array([1 - 2j, 0.5 + 1j])


def distance(values, batch):
    away = values["z"] - values.get("c", CENTRE)
    return jnp.sum(away * away.conj()).real / 2  # jnp.abs has no second derivative at 0


@pytest.mark.parametrize("copies", [None, 2])
def test_levels_arrive(x64, copies):
    start = (lambda values, task, key: jnp.zeros(2, complex)) if copies else None
    z = nx.Level("z", distance, optax.sgd(0.5), start=start, horizon=64 if copies else None)
    nest = nx.Nest([z], copies=copies)
    state = nest.init({} if copies else {"z": jnp.zeros(2, complex)}, jax.random.key(0))
    found = nest.run(state, 40)[0].values["z"]
    np.testing.assert_allclose(found, jnp.broadcast_to(CENTRE, found.shape), atol=1e-10)


def test_what_is_handed_to_the_optimizer_points_uphill(x64):
    nest = nx.Nest([nx.Level("z", distance, optax.sgd(0.1))])
    state = nest.init({"z": jnp.zeros(2, complex)}, jax.random.key(0))
    np.testing.assert_allclose(nest.gradient(state, "z"), -CENTRE)


@pytest.mark.parametrize("flow", [nx.Unroll(), nx.Implicit(nx.Dense())], ids=repr)
def test_flows_pass_through_them(x64, flow):
    """z settles at c, so |z|^2 / 2 has the gradient c, as the optimizer takes it."""
    z = nx.Level("z", distance, optax.sgd(0.5))
    outer = lambda v, b: jnp.sum(jnp.abs(v["z"]) ** 2) / 2 + 0 * v["c"][0].real  # noqa: E731
    c = nx.Level("c", outer, optax.sgd(0.1), every=50, flow=flow)
    nest = nx.Nest([z, c])
    state = nest.init({"z": jnp.zeros(2, complex), "c": CENTRE}, jax.random.key(0))
    np.testing.assert_allclose(nest.gradient(state, "c"), CENTRE, atol=1e-10)
    response = nx.best_response(
        lambda c, z: distance({"z": z, "c": c}, None), optax.sgd(0.5), 60, flow
    )
    found = jax.grad(lambda c: jnp.sum(jnp.abs(response(c, jnp.zeros(2, complex))) ** 2) / 2)
    np.testing.assert_allclose(np.conj(jax.jit(found)(CENTRE)), CENTRE, atol=1e-10)


def test_perturbations_are_real():
    z = nx.Level("z", distance, optax.sgd(0.5), start=lambda values, task, key: jnp.zeros(2))
    c = nx.Level("c", lambda v, b: jnp.sum(v["z"]), optax.sgd(0.1), every=2, flow=nx.ES(0.1))
    nest = nx.Nest([z, c], copies=2)
    with pytest.raises(ValueError, match="ES perturbs real numbers"):
        nest.init({"c": CENTRE}, jax.random.key(0))
