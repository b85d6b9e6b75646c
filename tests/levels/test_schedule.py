"""A learning-rate schedule of two parameters: truncations mislead all but persistent estimates.

Vicol et al. (2021), section 5.2: where a step leads late depends on the rates of earlier steps.
"""

import jax
import jax.numpy as jnp
import optax
import pytest

import nestax as nx

LENGTH = 100


def surface(x):
    bowl = jnp.sqrt(x[0] ** 2 + 5) - 5**0.5
    return bowl + jnp.sin(x[1]) ** 2 * jnp.exp(-5 * x[0] ** 2) + jnp.abs(x[1] - 100) / 4


def rate(theta, tick):
    part = tick / LENGTH
    return (1 - part) * jnp.exp(theta[0]) + part * jnp.exp(theta[1])


def total(theta):
    def step(x, tick):
        x = x - rate(theta, tick) * jax.grad(surface)(x)
        return x, surface(x)

    return jnp.sum(jax.lax.scan(step, jnp.ones(2), jnp.arange(LENGTH))[1])


@pytest.fixture(scope="module")
def best():
    """The smallest sum of losses on a grid of schedules, and the sum at the start."""
    axis = jnp.linspace(-8, 6, 60)
    grid = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    found = jax.jit(jax.vmap(total))(grid)
    return float(jnp.nanmin(found)), float(jax.jit(total)(jnp.full(2, jnp.log(0.01))))


def schedule(flow):
    x = nx.Level(
        "x",
        lambda values, batch: surface(values["x"]),
        lambda values: optax.sgd(lambda tick: rate(values["theta"], tick)),
        start=lambda values, task, key: jnp.ones(2),
        horizon=LENGTH,
    )
    theta = nx.Level(
        "theta",
        lambda values, batch: surface(values["x"]),
        optax.adam(0.01),
        every=10,
        flow=flow,
        accumulate="mean",
    )
    return nx.Nest([x, theta], copies=100, stagger=True)


@pytest.mark.parametrize("flow", [nx.PES(0.3), nx.ES(0.3), nx.Unroll()], ids=repr)
def test_schedule(threefry, flow, best):
    nest = schedule(flow)
    begin = nest.init({"theta": jnp.log(jnp.array([0.01, 0.01]))}, jax.random.key(0))
    state, _ = nest.run(begin, 3000)
    found, (optimum, start) = float(jax.jit(total)(state.values["theta"])), best
    if isinstance(flow, nx.PES):
        assert found < 1.02 * optimum
    else:
        assert found > 0.9 * start
