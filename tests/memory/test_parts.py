"""The parts of layers against what they are by definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax.memory import _checks, _parts


def rows(time, channels, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(time, channels)))


def test_convolution_is_causal_and_of_each_channel_alone(x64):
    x, conv = rows(9, 3), _parts.ShortConvolution(3, 4, key=jax.random.key(0))
    y, tail = conv(x, conv.init_state(jnp.float64))
    for t in range(9):
        for c in range(3):
            seen = sum(conv.weight[c, j] * x[t - j, c] for j in range(4) if t >= j)
            np.testing.assert_allclose(y[t, c], seen, rtol=1e-10)
    np.testing.assert_array_equal(tail, x[-3:])


@pytest.mark.parametrize("window", [None, 0, 1, 4])
def test_convolution_of_pieces_is_that_of_the_whole(x64, window):
    x, conv = rows(9, 3), _parts.ShortConvolution(3, window, key=jax.random.key(0))
    start = conv.init_state(jnp.float64)
    whole, last = conv(x, start)
    made, tail = [], start
    for piece in jnp.split(x, [1, 1, 3, 8]):
        y, tail = conv(piece, tail)
        assert tail.shape == start.shape
        made.append(y)
    np.testing.assert_array_equal(jnp.concatenate(made), whole)
    np.testing.assert_array_equal(tail, last)
    if not window:
        np.testing.assert_array_equal(whole, x)


def test_unit_is_never_longer_than_one_and_has_a_gradient_at_zero():
    x = jnp.concatenate([rows(50, 7) * 10.0 ** jnp.linspace(-4, 4, 50)[:, None], jnp.zeros((1, 7))])
    size = jnp.linalg.norm(_parts.unit(x), axis=1)
    assert np.all(size <= 1 + 1e-6) and size[-1] == 0
    np.testing.assert_allclose(size[25:-1], 1, rtol=1e-3)
    gradient = jax.grad(lambda x: jnp.sum(_parts.unit(x)))(jnp.zeros(7))
    assert np.all(np.isfinite(gradient)) and np.any(gradient)


def test_norms_are_in_float32_and_keep_or_widen_the_dtype():
    x = rows(3, 8).astype(jnp.bfloat16) * 1e3
    assert _parts.unit(x).dtype == jnp.float32
    made = _parts.rms_norm(x, jnp.full(8, 2.0))
    assert made.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64)
    exact = 2 * exact / np.sqrt(np.mean(exact**2, axis=1, keepdims=True))
    np.testing.assert_allclose(made.astype(jnp.float32), exact, rtol=4e-3)


def test_rotary_products_depend_on_distances_only(x64):
    q, k = (jnp.broadcast_to(rows(1, 6, s), (8, 6)) for s in (1, 2))
    for start in (0, 1000):
        turned = [_parts.rotary(a, start + jnp.arange(8)) for a in (q, k)]
        products = turned[0] @ turned[1].T
        np.testing.assert_allclose(products[1:, 1:], products[:-1, :-1], rtol=1e-8)
        np.testing.assert_allclose(jnp.diagonal(products), q[0] @ k[0], rtol=1e-8)
    np.testing.assert_array_equal(_parts.rotary(q, jnp.arange(8))[0], q[0])
    with pytest.raises(ValueError, match=r"rotary: coordinates are turned in pairs, .* got 5"):
        _parts.rotary(q[:, :5], jnp.arange(8))


def test_heads_are_contiguous_channels():
    x = rows(4, 6)
    heads = _parts.split_heads(x, 3)
    np.testing.assert_array_equal(heads[1], x[:, 2:4])
    np.testing.assert_array_equal(_parts.merge_heads(heads), x)


def test_gates_lie_between_zero_and_one_and_heads_begin_apart():
    bias = _parts.spread(3.0, 5.0, 4)
    np.testing.assert_allclose(bias, [3.25, 3.75, 4.25, 4.75])
    gate = _parts.Gate(6, bias, key=jax.random.key(0))
    made = gate(jnp.zeros((5, 6), jnp.bfloat16))
    assert made.shape == (4, 5) and made.dtype == jnp.float32
    np.testing.assert_allclose(made[:, 0], 1 / (1 + np.exp(-bias)), rtol=1e-6)


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match=r"ShortConvolution: .* got -1"):
        _parts.ShortConvolution(3, -1, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"Layer: heads must divide .* width=6 and heads=4"):
        _checks.check_sizes("Layer", 6, 4)
    with pytest.raises(ValueError, match="Layer: chunk must be at least 1, got 0"):
        _checks.whole("Layer", "chunk", 0)
    with pytest.raises(ValueError, match=r"Layer: one sequence of shape \(time, 6\) .* jax.vmap"):
        _checks.check_input("Layer", jnp.zeros((2, 3, 6)), 6)
    with pytest.raises(ValueError, match=r"Layer: one sequence of shape .* got a list; make lists"):
        _checks.check_input("Layer", [[1.0]], 1)
    for dtype in (jnp.int32, jnp.complex64, bool):
        with pytest.raises(
            ValueError, match=r"Layer: .* must be of floating point, got (int|co|bo)"
        ):
            _checks.check_input("Layer", jnp.zeros((2, 6), dtype), 6)


def test_sizes_numbers_and_options_are_plain():
    assert 2 * _checks.whole("Layer", "chunk", np.uint8(200)) == 400
    for value, kind in (
        (_checks.whole("Layer", "chunk", np.int64(2)), int),
        (_checks.choice("Layer", "read", np.str_("after"), ("before", "after")), str),
        (_checks.real("Layer", "scale", jnp.float32(2)), float),
        (_checks.positive("Layer", "limit", np.float32(np.inf)), float),
    ):
        assert type(value) is kind
    for wrong in (
        None,
        "1",
        [1.0],
        np.ones(2),
        1j,
        np.nan,
        np.inf,
        True,
        jax.random.key(0),
        10**400,
    ):
        with pytest.raises(ValueError, match="Layer: scale must be one finite number, got"):
            _checks.real("Layer", "scale", wrong)
    for wrong in (np.ones(2), ["after"], 5, None, len):
        with pytest.raises(ValueError, match=r"Layer: read must be one of .*, got"):
            _checks.choice("Layer", "read", wrong, ("before", "after"))


def test_keys_are_typed_and_single():
    _checks.check_key("Layer", jax.random.key(0))
    jax.vmap(lambda key: _checks.check_key("Layer", key))(jax.random.split(jax.random.key(0)))
    for wrong, got in (
        (0, "Got 0"),
        (None, "Got None"),
        (jax.random.PRNGKey(0), r"Got uint32 of shape \(2,\), as the older"),
        (jax.random.split(jax.random.key(0)), r"Got \(2,\) of them"),
    ):
        with pytest.raises(ValueError, match=rf"Layer: .*pass jax.random.key\(seed\)\. {got}"):
            _checks.check_key("Layer", wrong)


def test_states_are_those_of_the_layer():
    def init_state(width=3):
        return _parts.LayerState(jnp.zeros((2, width)), (jnp.zeros(4), None))

    _checks.check_state("Layer", init_state(), init_state)
    of_numpy = jax.tree.map(np.asarray, init_state())
    held = _checks.check_state("Layer", of_numpy, init_state)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(held))
    hidden = np.ma.masked_array(of_numpy.tail, True)
    for wrong, message in (
        (3, "state must be a LayerState, got a int; pass a state that this layer returned"),
        (tuple(init_state()), "state must be a LayerState, got a tuple"),
        (init_state()._replace(memory=()), "state must hold 2 arrays, got 1"),
        (init_state(5), r"state.tail must be of shape \(2, 3\), got \(2, 5\)"),
        (init_state()._replace(tail=np.full((2, 3), "a")), "state.tail must be .* got <U1; pass"),
        (init_state()._replace(tail=jnp.ones((2, 3)) * 1j), "state.tail must be .* got complex64"),
        (init_state()._replace(tail=jnp.ones((2, 3), int)), "state.tail must be .* got int32"),
        (init_state()._replace(tail=hidden), "state.tail must be an array, got a masked one"),
    ):
        with pytest.raises(ValueError, match=f"Layer: {message}"):
            _checks.check_state("Layer", wrong, init_state)
