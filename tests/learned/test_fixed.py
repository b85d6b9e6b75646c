"""Adam and Lion as rules: optax's own at the start, and trained from there."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx

SHAPES = {"a": (5,), "b": (), "c": (3, 3, 2, 4), "none": (0, 2)}


def problem(dtype):
    rng = np.random.default_rng(0)
    p = {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in SHAPES.items()}
    scales = [10.0**k for k in (0, -3, 2, 0, -8, 0)] + [0.0]
    return p, [jax.tree.map(lambda a, c=c: jnp.sin(3 * a + c) * c, p) for c in scales]


def walk(tx, dtype):
    p, gradients = problem(dtype)
    state, update, out = tx.init(p), jax.jit(tx.update), []
    for g in gradients:
        u, state = update(g, state, p)
        p = optax.apply_updates(p, u)
        out.append(u)
    return out


def close(found, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found, expected)


def start(rule):
    return rule.init(jax.random.key(0))


SAME = {
    "adam": (nx.learned.adam_like, {}, optax.adam),
    "adam, others": (
        nx.learned.adam_like,
        {"b1": 0.7, "b2": 0.95, "eps": 1e-3},
        lambda r: optax.adam(r, 0.7, 0.95, 1e-3),
    ),
    "adamw": (
        nx.learned.adam_like,
        {"weight_decay": 0.02},
        lambda r: optax.adamw(r, weight_decay=0.02),
    ),
    "lion": (nx.learned.lion_like, {}, optax.lion),
    "lion, others": (
        nx.learned.lion_like,
        {"b1": 0.5, "b2": 0.6, "weight_decay": 0.0},
        lambda r: optax.lion(r, 0.5, 0.6, weight_decay=0),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_untrained_they_are_optaxs(x64, name):
    make, options, peer = SAME[name]
    rule = make(**options)
    close(walk(rule(start(rule), 0.1), jnp.float64), walk(peer(0.1), jnp.float64), rtol=1e-9)


@pytest.mark.parametrize("name", ["adam", "lion"])
def test_untrained_they_are_optaxs_in_single_precision(name):
    """optax computes `1 - 0.999` to five digits in float32, and the root of it to 1e-5."""
    make, options, peer = SAME[name]
    rule = make(**options)
    found, expected = (walk(tx, jnp.float32) for tx in (rule(start(rule), 0.1), peer(0.1)))
    close(found, expected, rtol=3e-5, atol=1e-8)


def test_offsets_are_of_log_odds_and_of_logarithms(x64):
    def logit(b):
        return np.log(b) - np.log1p(-b)

    rule = nx.learned.adam_like(weight_decay=0.1)
    theta = {
        "scale": jnp.log(0.5),
        "b1": jnp.asarray(logit(0.6) - logit(0.9)),
        "b2": jnp.asarray(logit(0.99999) - logit(0.999)),
        "eps": jnp.log(10.0),
        "weight_decay": jnp.log(0.2),
    }
    peer = optax.adamw(0.1, 0.6, 0.99999, 1e-7, weight_decay=0.02)
    close(walk(rule(theta, 0.2), jnp.float64), walk(peer, jnp.float64), rtol=1e-8)
    rule = nx.learned.lion_like()
    theta = {"scale": jnp.log(0.5), "weight_decay": jnp.log(3.0)}
    theta |= {"b1": jnp.asarray(logit(0.2) - logit(0.9)), "b2": jnp.asarray(-logit(0.99))}
    peer = optax.lion(0.1, 0.2, 0.5, weight_decay=0.003)
    close(walk(rule(theta, 0.2), jnp.float64), walk(peer, jnp.float64), rtol=1e-9)


@pytest.mark.parametrize("make", [nx.learned.adam_like, nx.learned.lion_like])
@pytest.mark.parametrize("offset", [-300.0, 300.0])
def test_every_decay_is_valid(make, offset):
    rule = make()

    def size(theta):
        return sum(jnp.sum(jnp.square(a)) for a in jax.tree.leaves(walk(rule(theta), jnp.float32)))

    theta = {n: jnp.float32(offset if n in ("b1", "b2") else 0) for n in start(rule)}
    found, slopes = jax.value_and_grad(size)(theta)
    assert np.isfinite(found)
    assert all(np.isfinite(a) for a in jax.tree.leaves(slopes))


def end(rule, theta):
    """A loss after four steps on a bowl; one coordinate stays at a gradient of zero."""
    tx, p = rule(theta, 0.1), jnp.array([1.0, -2.0, 0.0, 0.3])
    state = tx.init(p)
    for c in (1.0, 3.0, 0.5, 2.0):
        u, state = tx.update(c * p, state, p)
        p = p + u
    return jnp.sum(jnp.square(p))


def test_adams_derivatives_are_those_of_differences(x64):
    rule = nx.learned.adam_like(eps=0.1, weight_decay=0.1)
    loss = jax.jit(lambda theta: end(rule, theta))
    theta = start(rule)
    theta = jax.tree.map(lambda a: a.astype(jnp.float64), theta)
    slopes = jax.grad(loss)(theta)
    for name in theta:
        step = 1e-5
        ends = [loss(theta | {name: theta[name] + s * step}) for s in (1, -1)]
        difference = (ends[0] - ends[1]) / (2 * step)
        assert abs(difference) > 1e-5
        np.testing.assert_allclose(slopes[name], difference, rtol=1e-5, err_msg=name)


def test_lions_decays_have_no_derivative():
    """Evolution strategies have no need of one."""
    rule = nx.learned.lion_like()
    slopes = jax.jit(jax.grad(lambda theta: end(rule, theta)))(start(rule))
    assert slopes["b1"] == slopes["b2"] == 0
    assert slopes["scale"] != 0 and slopes["weight_decay"] != 0


@pytest.mark.parametrize(
    ("make", "options", "text"),
    [
        (nx.learned.adam_like, {"b1": 0.0}, "adam_like: b1 must be above 0"),
        (nx.learned.adam_like, {"b2": 1.0}, r"adam_like: b2 must be in \[0, 1\)"),
        (nx.learned.adam_like, {"eps": 0.0}, "adam_like: eps must be above 0"),
        (nx.learned.lion_like, {"b2": -0.1}, "lion_like: b2 must be in"),
        (nx.learned.lion_like, {"weight_decay": -1.0}, "lion_like: weight_decay must be in"),
    ],
)
def test_options_are_checked(make, options, text):
    with pytest.raises(ValueError, match=text):
        make(**options)
