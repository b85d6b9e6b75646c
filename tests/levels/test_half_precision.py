"""Values in half precision: what is summed over ticks and copies is summed in float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx

KEY = jax.random.key(0)
TICKS = 512  # in bfloat16, 256 + 1 is 256
WEIGHTS = np.full(TICKS, 1 / TICKS)


def still(name, dtype, **more):
    """A level that stays where it is."""
    return nx.Level(
        name, lambda values, batch: values[name], optax.sgd(0.0),
        start=lambda values, task, key: jnp.zeros((), dtype), **more,
    )  # fmt: skip


def ran(nest, values):
    """What a step reports of `slow`, its gradient, and where it goes."""
    begun = nest.init(values, KEY)
    end, info = nest.run(begun, 1)
    return info["slow"], nest.gradient(begun, "slow"), end.values["slow"]


FLOWS = (None, nx.Unroll(), nx.Unroll(last=TICKS // 2), nx.Unroll(checkpoint=16), nx.Forward())


@pytest.mark.filterwarnings("ignore:.*nothing but the partial derivative")
@pytest.mark.parametrize(
    ("flow", "accumulate"),
    [(flow, "mean") for flow in FLOWS] + [(nx.Unroll(), "sum"), (None, WEIGHTS)],
    ids=str,
)
def test_a_period_of_many_ticks(flow, accumulate):
    """Every tick has the loss 1 and the gradient 1."""

    def run(dtype):
        def objective(values, batch):
            loss = values["slow"]
            assert loss.dtype == dtype
            return loss

        slow = nx.Level(
            "slow", objective, optax.sgd(2.0**-10), every=TICKS, flow=flow, accumulate=accumulate
        )
        return ran(nx.Nest([still("fast", dtype), slow]), {"slow": jnp.ones((), dtype)})

    (info, gradient, end), (expected, right, right_end) = run(jnp.bfloat16), run(jnp.float32)
    assert gradient.dtype == end.dtype == jnp.bfloat16
    assert info.loss.dtype == info.gradient_norm.dtype == np.float32
    np.testing.assert_array_equal(info.loss, expected.loss)
    np.testing.assert_array_equal(info.gradient_norm, expected.gradient_norm)
    np.testing.assert_array_equal(gradient.astype(jnp.float32), right)
    np.testing.assert_array_equal(end, right_end.astype(jnp.bfloat16))


@pytest.mark.parametrize("flow", [None, nx.Unroll(), nx.Implicit(nx.Dense())], ids=str)
def test_a_mean_over_many_copies(flow):
    """Losses of 1 and 1 + 2**-7 in turn; 1 + 2**-8 is no number of bfloat16."""

    def run(dtype):
        def batch(task, key, copy):
            return (1 + (copy % 2) * 2.0**-7).astype(dtype)

        def objective(values, batch):
            loss = values["slow"] * batch + 0 * values["fast"]
            assert loss.dtype == dtype
            return loss

        fast = nx.Level(
            "fast", lambda v, b: (v["fast"] - v["slow"]) ** 2, optax.sgd(0.0),
            start=lambda values, task, key: jnp.zeros((), dtype),
        )  # fmt: skip
        slow = nx.Level("slow", objective, optax.sgd(0.0), batch, every=2, flow=flow)
        return ran(nx.Nest([fast, slow], copies=TICKS), {"slow": jnp.ones((), dtype)})

    (info, gradient, _), (expected, right, _) = run(jnp.bfloat16), run(jnp.float32)
    assert info.loss.dtype == np.float32 and gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(info.loss, expected.loss)
    np.testing.assert_array_equal(gradient, right.astype(jnp.bfloat16))


def test_rounding_is_no_asymmetry():
    """Two levels of one objective have a symmetric system, also in bfloat16."""

    def inner(values, batch):
        u, w = values["u"], values["w"]
        return jnp.sum(1.3 * u**2 + 0.7 * w**2 + 0.3 * jnp.sin(u * w) - values["x"] * (u + w))

    u, w = (nx.Level(name, inner, optax.sgd(0.1)) for name in "uw")
    x = nx.Level(
        "x", lambda v, b: jnp.sum(v["u"] * v["w"]), optax.sgd(0.1), every=2,
        flow=nx.Implicit(nx.CG(4)),
    )  # fmt: skip
    begin = {name: jnp.array([0.3, 0.7], jnp.bfloat16) for name in "uwx"}
    nx.Nest([(u, w), x]).init(begin, KEY)


def objective(name, target):
    def loss(values, batch):
        own = jnp.sum((values[name] - target) ** 2)
        return own + 0.5 * jnp.sum(jnp.sin(sum(values[n] for n in sorted(values)) + own))

    return loss


def of_levels(*given):
    """Coupled levels (name, every, flow, more), the first of which begins anew."""

    def start(values, task, key):
        return values["c"] / 2

    rate = optax.sgd(0.1, momentum=0.5)
    levels = [
        nx.Level(name, objective(name, 0.5), rate, every=every, flow=flow, **more)
        for name, every, flow, more in given
    ]
    return dataclasses.replace(levels[0], start=start), *levels[1:]


def period_run_again():
    levels = of_levels(
        ("a", 1, None, {}),
        ("b", 2, nx.Unroll(), {"accumulate": "mean"}),
        ("c", 4, nx.Implicit(nx.Dense()), {}),
    )
    return nx.Nest(levels)


def loop_within_a_loop():
    a, b, d, c = of_levels(
        ("a", 1, None, {}),
        ("b", 2, nx.Unroll(), {}),
        ("d", 2, nx.Unroll(), {"accumulate": (1.0, 2.0)}),
        ("c", 4, nx.Unroll(last=1), {}),
    )
    return nx.Nest([a, nx.Peers(b, d, order="alternating"), c])


@pytest.mark.parametrize("make", [period_run_again, loop_within_a_loop])
def test_half_precision_goes_through_loops_within_loops(make):
    def run(dtype):
        nest = make()
        persistent = [one.name for group in nest.groups for one in group if not one.start]
        values = {name: jnp.array([0.5, -0.25], dtype) for name in persistent}
        state, info = nest.step(nest.init(values, KEY))
        assert {leaf.dtype for leaf in jax.tree.leaves(state.values)} == {jnp.dtype(dtype)}
        assert {one.loss.dtype for one in info.values()} == {np.dtype(np.float32)}
        return state.values, info

    (values, info), (right, expected) = run(jnp.float16), run(jnp.float32)
    for name in values:
        np.testing.assert_allclose(info[name].loss, expected[name].loss, rtol=1e-2, err_msg=name)
        np.testing.assert_allclose(values[name], right[name], atol=1e-2, err_msg=name)
