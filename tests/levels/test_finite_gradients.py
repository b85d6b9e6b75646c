"""Hypergradients stay finite where an inner gradient is exactly zero or rejected.

The right values are those of a program without the level's zero gradient, or without its rejected
update.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx


def nested(tx, inner, outer, flow, every=2, **options):
    w = nx.Level("w", inner, tx, start=lambda values, task, key: values["init"])
    init = nx.Level("init", outer, optax.sgd(0.0), every=every, flow=flow)
    return nx.Nest([w, init], **options)


def uniform(key):
    """A number from 0 to 1."""
    return jax.random.key_data(key)[0] / 2.0**32


def hypergradient(nest, value):
    return nest.gradient(nest.init({"init": jnp.asarray(value)}, jax.random.key(0)), "init")


STILL = {
    "adam": optax.adam(0.1),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    "normalized": optax.chain(optax.normalize_by_update_norm(), optax.sgd(0.1)),
    "injected": optax.inject_hyperparams(optax.adam)(0.1),
    "finite": optax.apply_if_finite(optax.adam(0.1), 3),
}


@pytest.mark.parametrize("flow", [nx.Unroll(), nx.Forward()], ids=repr)
@pytest.mark.parametrize("name", STILL)
def test_weights_that_stay_hand_on_the_whole_derivative(name, flow, x64):
    nest = nested(
        STILL[name],
        lambda v, _: 0 * jnp.sum((v["w"] - 1) ** 2),
        lambda v, _: jnp.sum(v["w"] ** 2),
        flow,
    )
    np.testing.assert_array_equal(hypergradient(nest, [1.0, 3.0]), [2, 6])


def test_best_response_of_weights_that_stay(x64):
    for flow in (nx.Unroll(), nx.Unroll(checkpoint=1), nx.Unroll(checkpoint=False), nx.Forward()):
        response = nx.best_response(lambda s, w: 0 * s * w, optax.adam(0.1), 2, flow)
        slopes = jax.jit(jax.grad(lambda s, w, r=response: r(s, w) ** 2, (0, 1)))(1.0, 1.0)
        np.testing.assert_array_equal(slopes, [0, 2])


REJECTING = {
    "apply_if_finite": optax.apply_if_finite(optax.sgd(0.1), 9),
    "adam": optax.apply_if_finite(optax.adam(0.1, eps=0.1), 9),  # both branches run under vmap
    "zero_nans": optax.chain(optax.zero_nans(), optax.sgd(0.1)),
    "skipping": optax.MultiSteps(
        optax.sgd(0.1), 1, should_skip_update_fn=optax.skip_not_finite
    ).gradient_transformation(),
}


@pytest.mark.parametrize(
    ("name", "flow"),
    [(name, nx.Unroll()) for name in REJECTING]
    + [("adam", nx.Unroll(checkpoint=1)), ("adam", nx.Forward())],
)
def test_a_rejected_update_leaves_the_other_copies_their_gradients(name, flow, x64):
    """Six copies, the loss of one is NaN."""
    tx, begin = REJECTING[name], jnp.array([0.1, 0.2, 0.3])
    worst = np.inf

    def inner(v, task):
        return jnp.where(task < worst, 1, jnp.nan) * jnp.sum((v["w"] - 1) ** 2)

    outer = lambda v, _: jnp.sum(v["w"] ** 2)  # noqa: E731
    nest = nested(tx, inner, outer, flow, 3, task=uniform, copies=6)
    state = nest.init({"init": begin}, jax.random.key(0))
    worst = jnp.max(state.task)
    found = nest.gradient(state, "init")

    def three_steps(w):
        state = tx.init(w)
        for _ in range(3):
            updates, state = tx.update(2 * (w - 1), state, w)
            w = w + updates
        return jnp.sum(w**2)

    expected = (5 * jax.jit(jax.grad(three_steps))(begin) + 2 * begin) / 6
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    if tx is REJECTING["apply_if_finite"]:
        np.testing.assert_allclose(found, [0.49345, 0.57047, 0.64750], atol=5e-6)


def test_a_rejected_update_of_a_best_response(x64):
    def objective(slow, w):
        return jnp.where(slow > 0, 1, jnp.nan) * (w - slow) ** 2

    tx = optax.apply_if_finite(optax.sgd(0.1), 9)
    response = nx.best_response(objective, tx, 2)
    slopes = jax.jit(jax.vmap(jax.grad(response, (0, 1))))(jnp.array([1.0, -1.0]), jnp.zeros(2))
    np.testing.assert_allclose(slopes, [[0.36, 0], [0.64, 1]], rtol=1e-12)


def test_a_rejected_update_below_an_implicit_level(x64):
    """Derivatives of derivatives: as if the NaN loss were constant, for which weights stay too."""

    def slope(factor, tx):
        def inner(v, task):
            return jnp.where(task < 0.5, factor, 1) * jnp.sum((v["w"] - v["v"] * v["u"]) ** 2)

        def middle(v, task):
            return jnp.sum((v["w"] - 1) ** 2) + jnp.sum((v["v"] - v["u"]) ** 4)

        w = nx.Level("w", inner, tx, start=lambda v, task, key: v["v"])
        v = nx.Level("v", middle, optax.sgd(0.1), every=2, flow=nx.Unroll())
        outer = lambda v, _: jnp.sum(v["w"] ** 2) + jnp.sum(v["v"])  # noqa: E731
        u = nx.Level("u", outer, optax.sgd(0.0), every=2, flow=nx.Implicit(nx.Dense()))
        nest = nx.Nest([w, v, u], task=uniform, copies=4)
        state = nest.init({"v": jnp.array([0.7]), "u": jnp.array([1.3])}, jax.random.key(0))
        assert 0 < jnp.sum(state.task < 0.5) < 4
        return nest.gradient(state, "u")

    still = slope(0, optax.sgd(0.1))
    np.testing.assert_allclose(slope(jnp.nan, REJECTING["apply_if_finite"]), still, rtol=1e-10)
    assert abs(still) > 0.1


def test_a_rate_shared_by_copies_of_which_one_rejects(x64):
    """What is not batched under `vmap` has the sum of its copies' derivatives, once."""

    def objective(slow, w):
        return jnp.where(slow["task"] > 0, 1, jnp.nan) * (w - slow["task"]) ** 2

    def optimizer(slow):
        return optax.apply_if_finite(optax.sgd(slow["rate"]), 9)

    response = nx.best_response(objective, optimizer, 2)
    tasks = jnp.array([1.0, -1.0, 2.0])

    def total(rate):
        ends = jax.vmap(lambda task: response({"rate": rate, "task": task}, jnp.zeros(())))(tasks)
        return jnp.sum(ends**2)

    def by_hand(rate):
        return sum((task * (1 - (1 - 2 * rate) ** 2)) ** 2 for task in (1, 2))

    rate = jnp.asarray(0.1)
    for function in (jax.grad, lambda f: jax.grad(jax.grad(f))):
        found, expected = (jax.jit(function(one))(rate) for one in (total, by_hand))
        np.testing.assert_allclose(found, expected, rtol=1e-10)
