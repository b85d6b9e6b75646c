"""What optimizers remember, against their closed forms and finite differences."""

import cmath

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nestax.optim import (
    complex_adam,
    complex_momentum,
    delta_momentum,
    ema_sign,
    influence,
    m3,
    momentum,
    multi_timescale,
    normalized_descent,
)

T = 12
AGES = np.arange(T)[::-1]  # of g_1, ..., g_T when the last update is made
BETA = 0.9 * cmath.exp(1j * cmath.pi / 8)
methods = pytest.mark.parametrize("method", ["derivative", "removal"])


def stream(steps=T, seed=0):
    rng = np.random.default_rng(seed)
    return {"b": rng.normal(size=steps), "w": rng.normal(size=(steps, 4, 3))}


# Optimizers whose update is linear in the stream, and what they hold of a gradient by its age.
LINEAR = {
    "sgd": (optax.sgd(1.0), 1.0 * (AGES == 0)),
    "momentum": (momentum(1.0, 0.8), 0.8**AGES),
    "rate": (momentum(0.05, 0.8), 0.05 * 0.8**AGES),
    "nesterov": (optax.sgd(1.0, momentum=0.8, nesterov=True), 0.8 ** (AGES + 1) + (AGES == 0)),
    "average": (optax.chain(optax.ema(0.8, debias=False), optax.scale(-1.0)), 0.2 * 0.8**AGES),
    "complex": (complex_momentum(1.0, BETA), abs(0.9**AGES * np.cos(np.pi / 8 * AGES))),
    "period, due": (multi_timescale(1.0, {"": 4}), (AGES < 4) / 4),
    "period, sum": (multi_timescale(1.0, {"": 4}, accumulate="sum"), 1.0 * (AGES < 4)),
    "period, not due": (multi_timescale(1.0, {"": 5}), 0.0 * AGES),
    "slow momentum": (multi_timescale(momentum(1.0, 0.8), {"": 3}), 0.8 ** (AGES // 3) / 3),
}


@methods
@pytest.mark.parametrize("name", LINEAR)
def test_closed_forms(x64, name, method):
    tx, expected = LINEAR[name]
    found = influence(tx, stream(), method=method)
    assert found.shape == (T,) and found.dtype == jnp.float64
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)


def last_update(tx, gradients, params):
    state, updates, update = tx.init(params), None, jax.jit(tx.update)
    for t in range(len(gradients["b"])):
        updates, state = update(jax.tree.map(lambda g, t=t: jnp.asarray(g[t]), gradients), state)
    return updates


# Optimizers that are not linear: the derivative is that of finite differences.
CURVED = {
    "adam": optax.adam(0.1),
    "complex_adam": complex_adam(0.1, BETA),
    "normalized_descent": normalized_descent(0.1),
    "clipped momentum": optax.chain(optax.clip_by_global_norm(0.5), momentum(1.0)),
    "delta momentum": delta_momentum(0.1, block=None),
    "m3": m3(0.1, period=2, steps=2),
    "adam by periods": multi_timescale(optax.adam(0.1), {"w": 2, "b": 1}),
}


def naive(tx, gradients, method, leaves):
    zeros = jax.tree.map(lambda g: jnp.zeros(g.shape[1:]), gradients)

    def with_factor(s, factor):
        changed = {k: np.where(np.arange(6)[(...,) + (None,) * (g.ndim - 1)] == s, factor * g, g)
                   for k, g in gradients.items()}  # fmt: skip
        return last_update(tx, changed, zeros)

    found = []
    for s in range(6):
        up, down, scale = (
            (with_factor(s, 1 + 1e-5), with_factor(s, 1 - 1e-5), 2e-5)
            if method == "derivative"
            else (with_factor(s, 1), with_factor(s, 0), 1)
        )
        change = np.concatenate([np.ravel(up[k] - down[k]) / scale for k in leaves])
        size = np.concatenate([np.ravel(gradients[k][s]) for k in leaves])
        found.append(np.linalg.norm(change) / np.linalg.norm(size))
    return np.asarray(found)


@methods
@pytest.mark.parametrize("name", CURVED)
def test_equals_the_naive_computation(x64, name, method):
    gradients = stream(6)
    # A difference of 1e-5 leaves an error of its square in the derivative.
    close = dict(rtol=1e-10 if method == "removal" else 1e-7, atol=1e-10)
    found = influence(CURVED[name], gradients, method=method)
    expected = naive(CURVED[name], gradients, method, ["b", "w"])
    np.testing.assert_allclose(found, expected, **close)
    assert np.all(found[-1] > 0) or method == "derivative"
    each = influence(CURVED[name], gradients, method=method, per_leaf=True)
    for leaf in ("b", "w"):
        expected = naive(CURVED[name], gradients, method, [leaf])
        np.testing.assert_allclose(each[leaf], expected, **close)


def test_delta_momentum_forgets_what_comes_again_and_keeps_what_does_not(x64):
    """Gradients of one direction erase each other; those of orthogonal ones stay as in momentum."""
    tx, ages = delta_momentum(1.0, 0.9, 0.7), np.arange(5)[::-1]
    again = influence(tx, np.stack([(1.0 + s) * np.outer([1.0, 2.0], [3.0, -1.0]) for s in ages]))
    np.testing.assert_allclose(again, 0.7 * 0.2**ages, rtol=1e-10)
    orthogonal = influence(tx, np.stack([np.outer([1.0, 2.0], row) for row in np.eye(5)]))
    np.testing.assert_allclose(orthogonal, 0.7 * 0.9**ages, rtol=1e-10)


def test_m3_remembers_on_two_clocks(x64):
    """Without its slow memory, of age above 30, only 0.9^30 is left."""
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(64, 4, 3))
    both, fast = (
        influence(m3(1.0, period=16, slow=0.5, slow_weight=w), gradients) for w in (1.0, 0.0)
    )
    assert np.max(fast[:30]) < 0.1 * np.max(fast)
    assert np.max(both[:30]) > 0.2 * np.max(both)


def test_adam_with_equal_decays_by_hand(x64):
    """d/dg_s of m / sqrt(v) in one coordinate, both averages with the weights w_s."""
    g = np.asarray([0.5, -1.0, 2.0, 0.3])
    weights = 0.1 * 0.9 ** np.arange(4)[::-1] / (1 - 0.9**4)
    m, v = weights @ g, weights @ g**2
    expected = np.abs(weights * (1 / np.sqrt(v) - m * g / v**1.5))
    found = influence(optax.adam(1.0, 0.9, 0.9, eps=0.0), g)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_each_leaf_by_its_own_clock(x64):
    found = influence(multi_timescale(1.0, {"w": 3, "b": 1}), stream(), per_leaf=True)
    np.testing.assert_allclose(found["b"], 1.0 * (AGES == 0), atol=1e-14)
    np.testing.assert_allclose(found["w"], (AGES < 3) / 3, atol=1e-14)


def test_signs_are_seen_by_removal_only(x64):
    """Two coordinates of the average stand on the last gradient; its removal flips one sign."""
    g = np.asarray([[1.0, 1.0], [1.0, 1.0], [2.0, -9.0]])
    tx = ema_sign(0.1, decay=0.5)
    np.testing.assert_array_equal(influence(tx, g), np.zeros(3))
    found = influence(tx, g, method="removal")
    np.testing.assert_allclose(found, [0, 0, 0.2 / np.sqrt(85)], rtol=1e-10)


def test_the_parameters_are_held_where_they_are_said_to_be(x64):
    """A step that grows with the weights."""

    def update(updates, state, params=None):
        return jax.tree.map(lambda g, p: g * p, updates, params), state

    tx = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    g, p = np.ones((3, 2)), jnp.asarray([3.0, 4.0])
    np.testing.assert_allclose(influence(tx, g, p), [0, 0, 5 / np.sqrt(2)], rtol=1e-12)
    np.testing.assert_array_equal(influence(tx, g), np.zeros(3))


@methods
def test_batches_change_nothing_and_zeros_move_nothing(x64, method):
    gradients = stream(10)
    gradients = {k: np.where(np.arange(10).reshape(-1, *[1] * (g.ndim - 1)) == 4, 0, g)
                 for k, g in gradients.items()}  # fmt: skip
    found = [
        influence(momentum(1.0), gradients, None, method, batch_size=n) for n in (1, 3, 10, 64)
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-12)
    assert found[0][4] == 0 and np.all(np.delete(np.asarray(found[0]), 4) > 0)


def test_dtypes_and_lengths():
    half = jnp.ones((1, 3), jnp.bfloat16)
    found = influence(momentum(1.0, 0.5), half)
    assert found.dtype == jnp.float32 and found.shape == (1,)
    np.testing.assert_allclose(found, [1.0], rtol=1e-6)


def test_inside_a_transformation():
    """Profiles of several decays at once."""
    g = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    decays = jnp.asarray([0.3, 0.9])
    found = jax.jit(jax.vmap(lambda d: influence(optax.sgd(1.0, momentum=d), g)))(decays)
    np.testing.assert_allclose(found, np.asarray(decays)[:, None] ** AGES[-5:], rtol=1e-5)


def test_compiles_once_for_streams_of_the_same_shape():
    traces = []

    def update(updates, state, params=None):
        traces.append(None)
        return updates, state

    tx = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    influence(tx, np.ones((4, 3), np.float32))
    first = len(traces)
    influence(tx, np.zeros((4, 3), np.float32))
    assert len(traces) == first


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda tx: influence(tx, np.ones(3), method="add"), 'method must be "derivative" or'),
        (lambda tx: influence(tx, np.ones(3), batch_size=0), "batch_size must be an int"),
        (lambda tx: influence(tx, {}), "the same leading axis.*no leaves"),
        (lambda tx: influence(tx, np.ones((0, 2))), "the same leading axis"),
        (lambda tx: influence(tx, np.ones(())), "the same leading axis"),
        (
            lambda tx: influence(tx, {"a": np.ones(2), "b": np.ones(3)}),
            "the same leading axis.*'a': 2, 'b': 3",
        ),
        (
            lambda tx: influence(tx, {"a": np.ones(2, int)}),
            r"gradients\['a'\] must be an array of floating-point numbers, got an array",
        ),
        (
            lambda tx: influence(tx, {"a": np.ones((2, 3))}, {"a": np.ones(2)}),
            r"gradients\['a'\]\[t\] must have the shape of the parameter, \(2,\), got \(3,\)",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=f"influence: .*{message}"):
        call(optax.sgd(1.0))
