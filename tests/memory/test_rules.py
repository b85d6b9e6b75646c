"""Rules are the steps that they are said to be, and tend to what they are said to."""

from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from references.memory_rules import LOSSES, gradient, mirror_map, proximal_descent

from nestax import memory as nm

EXACT = {"rtol": 1e-10, "atol": 1e-12}
OBJECTIVES = {"dot": "dot", "l2": "l2", "l3": nm.lp(3.0), "huber": nm.huber(0.7)}


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.fixture
def token(x64):
    """A memory, a key and a value."""
    return draw(3, 5), draw(5, seed=1), draw(3, seed=2)


# What a step is.


@pytest.mark.parametrize("loss", LOSSES)
def test_a_write_is_a_gradient_step(token, loss):
    m, k, v = token
    new = nm.write(m, k, v, 0.3, 0.9, OBJECTIVES[loss])
    np.testing.assert_allclose(new, 0.9 * m - 0.3 * gradient(loss, m, k, v), **EXACT)


@pytest.mark.parametrize("loss", LOSSES)
def test_implicit_delta_gradient_descent_is_a_minimiser(token, loss):
    """Of |M k - u|^2 / 2 + |M - a M_old|^2 / (2 eta), for keys of any length."""
    m, k, v = token
    error = gradient(loss, m, k, v) @ k / (k @ k)
    expected = proximal_descent(m, k, -error, 0.3, 0.9 * m)
    new = nm.write(m, k, v, 0.3, 0.9, OBJECTIVES[loss], "dgd")
    np.testing.assert_allclose(new, expected, **EXACT)


@pytest.mark.parametrize("loss", LOSSES)
def test_explicit_delta_gradient_descent_is_hopes(token, loss):
    m, k, v = token
    kept = m @ (0.9 * jnp.eye(5) - 0.3 * jnp.outer(k, k))
    new = nm.delta_gradient_descent(m, k, v, 0.3, 0.9, OBJECTIVES[loss], implicit=False)
    np.testing.assert_allclose(new, kept - 0.3 * gradient(loss, m, k, v), **EXACT)


def test_named_rules_are_writes(token):
    m, k, v = token
    np.testing.assert_allclose(nm.hebbian(m, k, v), m + jnp.outer(v, k), **EXACT)
    step = m @ (jnp.eye(5) - 0.3 * jnp.outer(k, k)) + 0.3 * jnp.outer(v, k)
    np.testing.assert_allclose(nm.delta(m, k, v, 0.3), step, **EXACT)
    gated = 0.9 * m @ (jnp.eye(5) - 0.3 * jnp.outer(k, k)) + 0.3 * jnp.outer(v, k)
    np.testing.assert_allclose(nm.gated_delta(m, k, v, 0.3, 0.9), gated, **EXACT)


def test_delta_gradient_descent_on_the_dot_product_is_the_delta_rule(token):
    """Hope's memory is the gated delta rule with b = eta / a, and a v; implicit, b = eta'."""
    m, k, v = token
    implicit = nm.delta_gradient_descent(m, k, v, 0.3, 0.9)
    b = 0.3 / (1 + 0.3 * k @ k)
    np.testing.assert_allclose(implicit, nm.gated_delta(m, k, v, b, 0.9), **EXACT)
    for objective, times, share in (("dot", 1, 1), ("l2", 2, 1 / 2), (full_square, 3, 2 / 3)):
        explicit = nm.delta_gradient_descent(m, k, v, 0.3, 0.9, objective, implicit=False)
        gated = nm.gated_delta(m, k, 0.9 * share * v, jnp.asarray(times * 0.3 / 0.9), 0.9)
        np.testing.assert_allclose(explicit, gated, **EXACT)


def full_square(prediction, value):
    return 2 * (prediction - value)


def test_oja_is_a_gradient_step(token):
    m, k, v = token
    slope = jax.grad(lambda m: -2 * jnp.vdot(m @ k, v) + jnp.sum((m.T @ v) ** 2))(m)
    np.testing.assert_allclose(nm.oja(m, k, v, 0.3, 0.9), 0.9 * m - 0.15 * slope, **EXACT)


def test_omega_is_a_step_on_the_last_tokens(x64):
    m, ks, vs = draw(3, 5), draw(6, 5, seed=1), draw(6, 3, seed=2)
    weights = jnp.array([0.05, 0.1, 0.2])
    state = nm.omega_state(m, 3)

    def pairs(m, state, ks, vs, weights):
        for t in range(6):
            seen = range(max(0, t - 2), t + 1)

            def loss(m, seen=seen, t=t):
                return sum(weights[i - t + 2] * LOSSES["l2"](m @ ks[i], vs[i]) for i in seen)

            m = 0.9 * m - jax.grad(loss)(m)
            state = nm.omega(state, ks[t], vs[t], weights, 0.9)
            yield state.memory, m
        one = nm.omega(nm.omega_state(m, 1), ks[0], vs[0], 0.3)
        yield one.memory, nm.delta(m, ks[0], vs[0], 0.3)

    for found, expected in jax.jit(lambda *given: list(pairs(*given)))(m, state, ks, vs, weights):
        np.testing.assert_allclose(found, expected, **EXACT)


@pytest.mark.parametrize("loss", LOSSES)
def test_titans_carries_its_surprise(x64, loss):
    """After a chunk, all steps weighted by what momentum and retention left of them."""
    m, ks, vs = draw(3, 5), draw(4, 5, seed=1), draw(4, 3, seed=2)
    rate, mu, a = 0.1, 0.7, 0.9
    slopes, state = [], (m, jnp.zeros_like(m))
    for k, v in zip(ks, vs, strict=True):
        slopes.append(gradient(loss, state[0], k, v))
        state = nm.titans_rule(state, k, v, rate, mu, a, OBJECTIVES[loss])
    shares = [sum(a ** (3 - i) * mu ** (i - j) for i in range(j, 4)) for j in range(4)]
    expected = a**4 * m - rate * sum(c * g for c, g in zip(shares, slopes, strict=True))
    np.testing.assert_allclose(state[0], expected, **EXACT)


# Miras.


def test_yaad_shortens_surprises(token):
    m, k, v = token
    length = jnp.linalg.norm(m @ k - v)
    for threshold in (0.01, 0.9 * length, 1.1 * length):
        step = m - nm.yaad(m, k, v, 1.0, threshold)
        expected = jnp.minimum(1, threshold / length) * (m - nm.delta(m, k, v, 1.0))
        np.testing.assert_allclose(step, expected, **EXACT)


@pytest.mark.parametrize("q", [2.0, 3.0, 4.0])
def test_moneta_reads_through_the_mirror_map(token, q):
    m, k, v = token
    state = (m, draw(3, 5, seed=3))
    gathered = 0.9 * state[1] - 0.3 * gradient("l3", m, k, v)
    new, kept = nm.moneta(state, k, v, 0.3, 0.9, 3.0, q)
    np.testing.assert_allclose(kept, gathered, **EXACT)
    np.testing.assert_allclose(new, mirror_map(gathered, q), **EXACT)


def test_moneta_begins_at_zero_and_is_gradient_descent_for_twos(token):
    m, k, v = token
    zero = jnp.zeros_like(m)
    new, _ = nm.moneta((zero, zero), k, jnp.zeros(3), 0.3)
    assert not jnp.any(new)
    new, _ = nm.moneta((m, m), k, v, 0.3, 0.9, 2.0, 2.0)
    np.testing.assert_allclose(new, nm.delta(m, k, v, 0.3, 0.9), **EXACT)


def test_memora_is_mirror_descent_on_entries_of_a_fixed_sum(token):
    """The minimiser of <W, G> + KL(W, M) + (1/a - 1) sum W log W, up to scale, on the simplex."""
    m, k, v = token
    m, rate, a = jnp.exp(m), 0.3, 0.8
    new = nm.memora(m, k, v, rate, a)
    assert jnp.all(new > 0)
    np.testing.assert_allclose(jnp.sum(new), jnp.sum(m), **EXACT)

    def objective(w):
        step = rate * jnp.vdot(w, gradient("l2", m, k, v))
        return step + jnp.sum(w * jnp.log(w)) - a * jnp.sum(w * jnp.log(m))

    slope = jax.grad(objective)(new)  # constant: the multiplier of the sum
    np.testing.assert_allclose(slope - jnp.mean(slope), jnp.zeros_like(m), atol=1e-12)
    assert jnp.all(jnp.isnan(nm.memora(-m, k, v, rate)))


def test_entries_of_memora_that_underflow_come_back():
    """Float32, at rates far beyond the stable ones."""
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(40, 4))
    keys = jnp.asarray(keys / np.linalg.norm(keys, axis=1, keepdims=True), jnp.float32)
    values = jnp.asarray(rng.uniform(size=(40, 3)), jnp.float32)
    begin = jnp.full((3, 4), 0.25)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def graded(rate):
        write = lambda m, kv: (nm.memora(m, *kv, rate), None)  # noqa: E731
        end = jax.lax.scan(write, begin, (keys, values))[0]
        return jnp.sum(jnp.sin(end)), end

    for rate in (40.0, 1e4):
        gradient, end = graded(jnp.float32(rate))
        assert jnp.isfinite(gradient)
        np.testing.assert_allclose(jnp.sum(end), 3.0, rtol=1e-4)
    dead = begin.at[0, 0].set(0.0)
    low = nm.memora(dead, keys[0], values[0], 0.1, 0.0)
    assert jnp.all(low > 0.1)


# What pairs tend to, and up to which rate.


def shown_again(rule, k, v, times=2000):
    """What a memory says for a key that it was shown so often."""
    m = jax.lax.fori_loop(0, times, lambda _, m: rule(m, k, v), jnp.zeros((len(v), len(k))))
    return m @ k


TABLE = [  # objective, rule, implicit, limit, the largest stable eta |k|^2
    ("l2", "gd", False, 1, 2.0),
    ("dot", "dgd", False, 1, 2.0),
    ("l2", "dgd", False, 1 / 2, 1.0),
    (full_square, "dgd", False, 2 / 3, 2 / 3),
    ("dot", "dgd", True, 1, None),
    ("l2", "dgd", True, 1 / 2, None),
    (full_square, "dgd", True, 2 / 3, 2.0),
]


@pytest.mark.parametrize("objective, rule, implicit, limit, largest", TABLE)
def test_what_one_pair_tends_to(x64, objective, rule, implicit, limit, largest):
    k, v = draw(5), draw(3, seed=1)

    def step(rate):
        rate = rate / (k @ k)
        return lambda m, k, v: nm.write(m, k, v, rate, 1.0, objective, rule, implicit)

    for rate in (0.1, 1000.0 if largest is None else 0.95 * largest):
        np.testing.assert_allclose(shown_again(step(rate), k, v, 30_000), limit * v, rtol=1e-6)
    if largest is not None:
        assert jnp.max(jnp.abs(shown_again(step(1.05 * largest), k, v))) > 1e6


@pytest.mark.parametrize("objective", ["dot", "l2"])
def test_no_retention_makes_an_implicit_rate_unstable(x64, objective):
    k, v = draw(5), draw(3, seed=1)
    rule = partial(nm.write, rate=1000.0, retain=0.2, objective=objective, rule="dgd")
    assert jnp.all(jnp.abs(shown_again(rule, k, v)) <= jnp.abs(v))


def test_explicit_rates_near_two_turn_around_and_implicit_ones_cannot(x64):
    k = draw(5)
    k, m = k / jnp.linalg.norm(k), jnp.outer(draw(3, seed=1), k)
    none = jnp.zeros(3)
    turned = nm.delta_gradient_descent(m, k, none, 2.0, implicit=False)
    np.testing.assert_allclose(turned, -m, **EXACT)
    left = nm.delta_gradient_descent(m, k, none, 2.0)
    np.testing.assert_allclose(left, m / 3, **EXACT)


# Over a sequence.


@pytest.mark.parametrize("read", ["before", "after"])
def test_a_rule_over_a_sequence(x64, read):
    q, k, v, rate = draw(7, 5), draw(7, 5, seed=1), draw(7, 3, seed=2), jnp.linspace(0.1, 0.4, 7)
    m, expected = draw(3, 5, seed=3), []
    outputs, last = nm.scan_rule(nm.delta, q, k, v, m, read, rate=rate, retain=0.9)
    for t in range(7):
        new = nm.delta(m, k[t], v[t], rate[t], 0.9)
        expected.append((m if read == "before" else new) @ q[t])
        m = new
    np.testing.assert_allclose(outputs, jnp.stack(expected), **EXACT)
    np.testing.assert_allclose(last, m, **EXACT)


RULES = {
    "hebbian": (nm.hebbian, None),
    "delta": (nm.delta, None),
    "gated_delta": (nm.gated_delta, None),
    "delta_gradient_descent": (partial(nm.delta_gradient_descent, objective="l2"), None),
    "l1.5": (partial(nm.write, objective=nm.lp(1.5)), None),
    "oja": (nm.oja, None),
    "omega": (nm.omega, lambda m: nm.omega_state(m, 3)),
    "titans": (partial(nm.titans_rule, momentum=0.5), lambda m: (m, jnp.zeros_like(m))),
    "moneta": (nm.moneta, lambda m: (m, m)),
    "yaad": (partial(nm.yaad, threshold=0.5), None),
    "memora": (nm.memora, jnp.exp),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_are_differentiated_through_their_writes(x64, name):
    """To the start, rates, keys and values; both modes, second order and vmap, by differences."""
    rule, start = RULES[name]
    q, k, v = draw(4, 5), jnp.asarray(np.asarray(draw(4, 5, seed=1)) / 2), draw(4, 3, seed=2)
    point = (draw(3, 5, seed=3), jnp.asarray(0.2), k, v)
    direction = jax.tree.map(lambda a: draw(*a.shape, seed=4), point)

    def loss(m, rate, k, v):
        state = m if start is None else start(m)
        outputs, _ = nm.scan_rule(rule, q, k, v, state, "after", rate=rate, retain=0.9)
        return jnp.sum(jnp.sin(outputs))

    @jax.jit
    @jax.vmap
    def along(*p):
        """The loss and its gradient, and how they change in the direction."""
        return jax.jvp(jax.value_and_grad(loss, range(4)), p, direction)

    def stacked(a, d):
        return np.stack([a + h * np.asarray(d) for h in (1e-5, -1e-5, 0)])

    values, changes = along(*jax.tree.map(stacked, point, direction))
    values, (slope, product) = (
        jax.tree.map(np.asarray, values),
        jax.tree.map(lambda a: a[2], changes),
    )
    (ahead, behind, _), gradients = values
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-8)
    for p, sides in zip(product, gradients, strict=True):
        np.testing.assert_allclose(p, (sides[0] - sides[1]) / 2e-5, rtol=1e-5, atol=1e-6)
    assert all(np.any(p != 0) for p in product)
    along_gradient = sum(np.vdot(g[2], d) for g, d in zip(gradients, direction, strict=True))
    np.testing.assert_allclose(slope, along_gradient, rtol=1e-10)


@pytest.mark.parametrize("name", ["yaad", "l1.5", "moneta"])
def test_no_error_has_finite_derivatives(x64, name):
    rule, start = RULES[name]
    k = draw(1, 5)

    def loss(m, v):
        state = m if start is None else start(m)
        return jnp.sum(nm.scan_rule(rule, k, k, v, state, "after", rate=0.2)[0] ** 2)

    def twice(m, v):
        first = jax.grad(loss, (0, 1))(m, v)
        return first, first

    both = jax.jit(jax.jacfwd(twice, (0, 1), has_aux=True))(jnp.zeros((3, 5)), jnp.zeros((1, 3)))
    assert all(jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves(both))


def test_half_precision_is_remembered_in_single():
    q, k, v = (draw(9, 4, seed=s).astype(jnp.bfloat16) for s in range(3))
    outputs, state = nm.scan_rule(nm.delta, q, k, v, jnp.zeros((4, 4), jnp.bfloat16), rate=0.1)
    assert outputs.dtype == jnp.bfloat16
    assert state.dtype == jnp.float32


def test_refusals(monkeypatch):
    q, k, v, m = draw(4, 5), draw(4, 5), draw(4, 3), draw(3, 5)
    with pytest.raises(ValueError, match="objective must be"):
        nm.write(m, k[0], v[0], 0.1, objective="cosine")
    with pytest.raises(ValueError, match="rule must be"):
        nm.write(m, k[0], v[0], 0.1, rule="delta")
    with pytest.raises(ValueError, match="read must be"):
        nm.scan_rule(nm.delta, q, k, v, m, "during", rate=0.1)
    with pytest.raises(ValueError, match="leading axis of 4 tokens"):
        nm.scan_rule(nm.delta, q, k, v, m, rate=jnp.ones(3))
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="scan_rule: queries, keys and values must be of floating"):
        nm.scan_rule(nm.delta, q, k, v.astype(int), m, rate=0.1)
    with pytest.raises(ValueError, match="p must be at least 1"):
        nm.lp(0.5)
    with pytest.raises(ValueError, match="threshold must be above 0"):
        nm.huber(0.0)
    with pytest.raises(ValueError, match="q must be at least 2"):
        nm.moneta((m, m), k[0], v[0], 0.1, q=1.5)
    with pytest.raises(ValueError, match="window must be at least 1"):
        nm.omega_state(m, 0)
