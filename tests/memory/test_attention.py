"""Softmax attention against numpy, and the streams whose cache it carries."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from references import memory_continuum as naive

import nestax as nx
from nestax.memory import _attention
from nestax.memory._attention import CausalAttention
from nestax.memory._parts import rotary, split_heads

WIDTH, TIME = 8, 11


def layer(window=4, heads=2):
    return CausalAttention(WIDTH, heads, window=window, key=jax.random.key(0))


def tokens(time=TIME, *shape):
    return jax.random.normal(jax.random.key(1), (*shape, time, WIDTH))


@eqx.filter_jit
def apply(layer, x, state=None):
    return layer(x, state)


@pytest.mark.parametrize("window", [1, 4, 11, 30])
@pytest.mark.parametrize("heads", [1, 2])
def test_equals_a_naive_loop(x64, window, heads):
    made, x = layer(window, heads), tokens()
    y, _ = apply(made, x)
    np.testing.assert_allclose(
        y, naive.attention(made, np.asarray(x), window), rtol=1e-10, atol=1e-12
    )


def regressions(layer, x):
    """For every head and token: what weighs the values it sees, exp(q . k_i / sqrt(size))."""
    at, size = jnp.arange(len(x), dtype=jnp.int32), WIDTH // layer.heads
    q, k, v = (
        split_heads(x @ matrix.T, layer.heads) for matrix in (layer.query, layer.key, layer.value)
    )
    kernel = np.exp(np.asarray(rotary(q, at) @ jnp.swapaxes(rotary(k, at), 1, 2)) / size**0.5)
    for head, t in np.ndindex(layer.heads, len(x)):
        seen = slice(max(0, t - layer.window + 1), t + 1)
        yield head, t, kernel[head, t, seen, None], np.asarray(v[head, seen])


def test_it_solves_a_regression_anew_at_every_token(x64):
    """The minimiser of sum_i s_i |v_i - m|^2 (Nadaraya-Watson, NL 62), which needs no softmax."""
    made, x = eqx.tree_at(lambda m: m.output, layer(), jnp.eye(WIDTH)), tokens()
    found = split_heads(apply(made, x)[0], made.heads)
    for head, t, s, v in regressions(made, x):
        solved = np.linalg.lstsq(s**0.5, s**0.5 * v)[0][0]
        np.testing.assert_allclose(found[head, t], solved, rtol=1e-12, atol=1e-14)


def test_its_frequency_is_the_limit_of_ever_more_writes_per_token(x64):
    """n gradient steps on that regression, which the table counts, leave 1 / 2^n of the error."""
    made, x = eqx.tree_at(lambda m: m.output, layer(), jnp.eye(WIDTH)), tokens()
    *_, (head, t, s, v) = regressions(made, x)
    wanted = split_heads(apply(made, x)[0], made.heads)[head, t]

    def token(m, s, v, steps):
        slope = jax.grad(lambda m: jnp.sum(s * jnp.square(m[None] - v)) / 2)
        return jax.lax.fori_loop(0, steps, lambda _, m: m - slope(m) / (2 * jnp.sum(s)), m)

    for steps in (1, 5, 25):
        solve = functools.partial(token, steps=steps)
        assert nx.level_table(solve, jnp.zeros(4), s, v).frequencies == {"": steps}
        left = (wanted - solve(jnp.zeros(4), s, v)) * 2**steps
        np.testing.assert_allclose(left, wanted, rtol=1e-7)


@pytest.mark.parametrize("window", [1, 4, 30])
@pytest.mark.parametrize("sizes", [(1,) * TIME, (2, 0, 1, 6, 2), (5, 6)], ids=str)
def test_pieces_are_one_pass(x64, window, sizes):
    made, x = layer(window), tokens()
    y, state = apply(made, x)
    parts, held = [], made.init_state()
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        part, held = apply(made, x[end - size : end], held)
        parts.append(part)
    np.testing.assert_allclose(jnp.concatenate(parts), y, rtol=1e-10, atol=1e-12)
    for a, b in zip(held, state, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    like = jax.eval_shape(made.init_state)
    assert [(a.shape, a.dtype) for a in like] == [(a.shape, a.dtype) for a in held]


@pytest.mark.parametrize("window", [3, 30])
def test_blocks_of_queries_are_one_pass(x64, window, monkeypatch):
    made, x = layer(window), tokens(TIME)
    start = apply(made, x[:5])[1]

    def both(layer):
        (y, _), later = layer(x), layer(x, start)
        return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.sin(later[0])), (y, later)

    whole, gradient = jax.jit(jax.grad(both, has_aux=True))(made)[::-1]
    monkeypatch.setattr(_attention, "_BLOCK", 4)
    cut, other = jax.jit(jax.grad(lambda m: both(m), has_aux=True))(made)[::-1]
    for a, b in zip(jax.tree.leaves((whole, gradient)), jax.tree.leaves((cut, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_it_sees_its_window_and_nothing_else(x64):
    made, x = layer(), tokens()
    jacobian = jax.jit(jax.jacrev(lambda x: made(x)[0]))(x)
    for t in range(TIME):
        for i in range(TIME):
            assert np.any(jacobian[t, :, i]) == (t - 4 < i <= t)


def test_only_distances_count(x64):
    """The same piece answers the same at another place of the stream."""
    made, x = layer(), tokens(9)
    late = made.init_state()._replace(position=jnp.asarray(1000, jnp.int32))
    # What precedes is out of the window by then.
    y, _ = apply(made, jnp.concatenate([x, x]), late)
    z, _ = apply(made, x)
    np.testing.assert_allclose(y[12:], z[3:], rtol=1e-9)


def test_sequences_of_a_batch_are_independent(x64):
    made, x = layer(), tokens(6, 3)
    _, state = jax.jit(jax.vmap(made))(x)
    y, _ = jax.jit(jax.vmap(made))(x, state)
    for b in range(3):
        alone, _ = apply(made, x[b], jax.tree.map(lambda s: s[b], state))  # noqa: B023
        np.testing.assert_allclose(y[b], alone, rtol=1e-10)


def test_half_precision_keeps_the_state_single():
    made, x = layer(), tokens(6).astype(jnp.bfloat16)
    y, state = apply(made, x)
    again, state = apply(made, x, state)
    assert y.dtype == again.dtype == jnp.bfloat16 and state.keys.dtype == jnp.float32
    exact, _ = apply(made, x.astype(jnp.float32))
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.1)


def test_long_streams_stay_finite():
    made = CausalAttention(WIDTH, 2, key=jax.random.key(0))
    x = 30 * tokens(8192)
    y, state = apply(made, x)
    assert np.all(np.isfinite(y)) and state.position == 8192
    half, held = apply(made, x[:5000])
    rest, _ = apply(made, x[5000:], held)
    np.testing.assert_allclose(jnp.concatenate([half, rest]), y, rtol=1e-3, atol=1e-3)


def test_the_cache_is_written_at_every_token_and_nothing_else_is():
    made = layer()
    step = lambda s, x: made(x, s)[::-1]  # noqa: E731
    table = nx.level_table(step, made.init_state(), tokens(1), calls=3, hidden=True)
    assert table.frequencies == {".keys": 1, ".values": 1, ".position": 1}
    assert table.kinds[".position"] == "clock"


def test_bad_arguments_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for options, message in (
        ({"heads": 3}, "heads must divide the width"),
        ({"heads": 8}, "a head must have an even number"),
        ({"window": 0}, "window must be at least 1"),
        ({"window": 4.5}, "window must be a whole number, got 4.5"),
    ):
        with pytest.raises(ValueError, match=message):
            layer(**options)
    with pytest.raises(ValueError, match="one sequence of shape"):
        layer()(jnp.ones((3, 5)))
    with pytest.raises(ValueError, match=r"CausalAttention: .* pass jax.random.key\(seed\)"):
        CausalAttention(WIDTH, 2, key=jax.random.PRNGKey(0))
    for wrong, message in (
        (layer(window=5).init_state(), r"state.keys must be of shape \(2, 4, 4\), got \(2, 5, 4\)"),
        ((1, 2, 3), "state must be a AttentionState, got a tuple"),
    ):
        with pytest.raises(ValueError, match=f"CausalAttention: {message}"):
            layer()(tokens(), wrong)
    with pytest.raises(ValueError, match=r"CausalAttention: reset must be .* of shape \(11,\)"):
        layer()(tokens(), reset=np.ones(3, bool))
