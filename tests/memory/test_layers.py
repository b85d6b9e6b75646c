"""Layers against loops written out in numpy, and what every layer has to keep."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from modules import drawn, redrawn, run, slopes
from references.memory_layers import naive_delta_memory, naive_linear_attention, naive_titans

from nestax.memory.layers import (
    DeltaMemory,
    LinearAttention,
    SelfModifyingMemory,
    TitansMemory,
)

WIDTH, TIME = 6, 13
LAYERS = {
    "linear attention": (LinearAttention, {"decay": True, "key_size": 2, "trained_start": True}),
    "linear attention, bare": (LinearAttention, {"conv": None}),
    "gated delta": (DeltaMemory, {"chunk": 4, "trained_start": True}),
    "delta": (DeltaMemory, {"chunk": 4, "gated": False, "negative": False, "conv": 2}),
    "titans": (TitansMemory, {"chunk": 4}),
    "titans dgd": (TitansMemory, {"chunk": 4, "rule": "dgd", "read": "after"}),
    "titans dot": (TitansMemory, {"chunk": 4, "objective": "dot", "momentum": False}),
    "titans mlp": (TitansMemory, {"chunk": 4, "memory": "mlp", "hidden": 5}),
    "titans mlp dgd": (
        TitansMemory,
        {"chunk": 4, "memory": "mlp", "rule": "dgd", "momentum": False, "decay": False},
    ),
    "titans mlp local": (TitansMemory, {"chunk": 4, "memory": "mlp", "rule": "local"}),
    "self-modifying": (SelfModifyingMemory, {"chunk": 4, "momentum": True, "adaptive": ("v",)}),
}
NAIVE = {
    LinearAttention: naive_linear_attention,
    DeltaMemory: naive_delta_memory,
    TitansMemory: naive_titans,
}
ONE_OF_EACH = ["linear attention", "gated delta", "titans", "titans mlp"]


def make(name, seed=0, width=WIDTH, scale=1.0, **more):
    """A layer all of whose parameters are drawn anew, none zero."""
    kind, options = LAYERS[name]
    if scale == 1:
        return drawn(kind, width, 2, seed=seed, **{**options, **more})
    layer = kind(width, 2, **{**options, **more}, key=jax.random.key(seed))
    return redrawn(layer, 0.3, seed, scale)


def sequence(time=TIME, width=WIDTH, seed=1):
    return np.random.default_rng(seed).normal(size=(time, width))


@functools.cache
def one_pass(name):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, slopes(make(name), sequence()))


def weights_of(layer, state):
    """The memories, as the naive loops give them."""
    memory = state.memory
    if not isinstance(layer, TitansMemory):
        return [memory]
    if len(layer.initial) > 1:
        return list(memory.now)
    return [memory if layer.mu is None else memory[0]]


def test_the_usual_chunk_is_of_speed_only_or_16(x64):
    x = sequence(37)
    y, state = run(make("gated delta", chunk=None), x)
    expected, end = run(make("gated delta", chunk=5), x)
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-11)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(end), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    # As programs; all tokens are one chunk of a linear memory if there are so few.
    for name, usual, time in (("titans", 64, TIME), ("titans mlp", 16, 37)):
        told, untold = (
            str(jax.make_jaxpr(lambda layer, x: layer(x))(make(name, chunk=chunk), sequence(time)))
            for chunk in (usual, None)
        )
        assert told == untold


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "self-modifying"])
def test_equals_a_loop_in_outputs_state_and_gradients_and_is_causal(x64, name):
    layer, x = make(name), sequence()
    naive = NAIVE[type(layer)]
    y, state, (by_layer, by_x) = one_pass(name)
    expected, memory = naive(layer, x)
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-11)
    memory = memory if isinstance(memory, list) else [memory]
    for a, b in zip(weights_of(layer, state), memory, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)

    rng = np.random.default_rng(2)
    seen = rng.normal(size=y.shape)
    leaves, treedef = jax.tree.flatten(jax.tree.map(np.asarray, layer))
    for i, slope in enumerate(jax.tree.leaves(by_layer)):
        slope = np.tensordot(seen.ravel(), slope, 1)
        direction = rng.normal(size=slope.shape)

        def moved(step, i=i, direction=direction):
            other = [a + step * direction if j == i else a for j, a in enumerate(leaves)]
            return np.sum(naive(treedef.unflatten(other), x)[0] * seen)

        difference = (moved(2e-6) - moved(-2e-6)) / 4e-6
        assert abs(difference) > 1e-6
        np.testing.assert_allclose(np.sum(slope * direction), difference, rtol=1e-6, atol=1e-8)
    # Outputs depend on all tokens until their own, and on no later ones.
    depends = np.any(by_x.reshape(TIME, WIDTH, TIME, WIDTH) != 0, axis=(1, 3))
    np.testing.assert_array_equal(depends, np.tril(np.ones((TIME, TIME), bool)))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_stream_cut_anywhere_is_one_pass(x64, name):
    layer, x = make(name), sequence()
    whole, end, _ = one_pass(name)
    # Pieces of 0, 1, 3 and 5 tokens, shorter and longer than a chunk, from all places in one.
    for cuts in ([3, 3, 8, 11, 12], range(1, TIME)):
        state, made = layer.init_state(), []
        for piece in np.split(x, np.array(cuts)):
            shapes = jax.tree.map(lambda a: (a.shape, a.dtype), state)
            y, state = run(layer, piece, state)
            assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == shapes
            made.append(y)
        np.testing.assert_allclose(np.concatenate(made), whole, rtol=1e-9, atol=1e-11)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9, 1e-11), state, end)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_samples_of_a_batch_do_not_touch_each_other(x64, name):
    layer, batch = make(name), np.stack([sequence(seed=s) for s in (1, 2)])
    both, states = jax.jit(jax.vmap(layer))(batch)
    for i in range(2):
        y, state, _ = slopes(layer, batch[i])
        np.testing.assert_allclose(both[i], y, rtol=1e-10, atol=1e-12)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, 1e-10), states, state)


@pytest.mark.parametrize(
    "name", ["self-modifying", "linear attention", "gated delta", "titans mlp"]
)
def test_devices_can_be_given_heads(x64, name):
    """Each computes its own heads, and what they say is added up at the end. Linear Titans are the
    layer of one of these with the scan of another."""
    mesh = jax.make_mesh((2,), ("heads",), axis_types=(AxisType.Auto,))

    def place(path, a):
        path = jax.tree_util.keystr(path)
        axes = {".output.scale": P(), ".output.out": P(None, "heads")}.get(path, P("heads"))
        return jax.device_put(a, NamedSharding(mesh, axes))

    layer, x = make(name), jnp.asarray(sequence())
    placed = jax.tree_util.tree_map_with_path(place, layer)
    everywhere = jax.device_put(x, NamedSharding(mesh, P()))
    compiled = jax.jit(lambda layer, x: layer(x)).lower(placed, everywhere).compile()
    moves = re.findall(r" (all-\w+|collective-\w+|reduce-scatter)[\w-]*\(", compiled.as_text())
    assert moves == ["all-reduce"]
    made, state, gradients = slopes(placed, everywhere)
    for found, wanted, tolerance in (
        ((made, state), one_pass(name)[:2], (1e-9, 1e-11)),
        (gradients, one_pass(name)[2], (1e-8, 1e-10)),
    ):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, *tolerance)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_half_precision_parameters_have_single_precision_states(name):
    with jax.enable_x64(True):
        layer, exact = make(name), one_pass(name)[0]
    half = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.bfloat16), layer)
    y, state = run(half, jnp.asarray(sequence(), jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, float), exact, atol=0.1 * np.max(np.abs(exact)))
    begin = jax.eval_shape(half.init_state)
    for old, new in zip(*map(jax.tree.leaves, (begin, state)), strict=True):
        assert old.dtype == new.dtype and old.dtype in (jnp.float32, jnp.int32)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_many_tokens_and_large_weights_stay_finite(name):
    more = {"chunk": 16 if "mlp" in name else 64} if "chunk" in LAYERS[name][1] else {}
    layer = make(name, width=8, scale=3.0, **more)
    x = jnp.asarray(sequence(8192, 8), jnp.float32)

    def loss(layer):
        y, state = layer(x)
        return jnp.mean(jnp.square(y)), (y, state)

    (_, made), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(layer)
    for leaf in jax.tree.leaves((made, gradient)):
        assert np.all(np.isfinite(leaf))


@pytest.mark.parametrize("gated", [True, False])
def test_delta_memory_begins_with_small_decay_and_rates_of_one(gated):
    layer = DeltaMemory(8, 2, gated=gated, key=jax.random.key(0))
    nothing = jnp.zeros((1, 8))
    np.testing.assert_allclose(2 * layer.rate(nothing), 1)
    if gated:
        np.testing.assert_array_less(0.95, layer.forget(nothing))


def test_wrong_arguments_are_refused():
    key = jax.random.key(0)
    for kind in (LinearAttention, DeltaMemory, TitansMemory):
        with pytest.raises(ValueError, match=f"{kind.__name__}: heads must divide the width"):
            kind(6, 4, key=key)
        with pytest.raises(ValueError, match=f"{kind.__name__}: one sequence of shape"):
            drawn(kind, 6, 3)(jnp.zeros((5, 7)))
    with pytest.raises(ValueError, match="LinearAttention: key_size must be at least 1, got 0"):
        LinearAttention(6, 3, key_size=0, key=key)
    for name, value in (("memory", "deep"), ("objective", "l3"), ("rule", "x"), ("read", "never")):
        with pytest.raises(ValueError, match=f"TitansMemory: {name} must be one of .*{value}"):
            TitansMemory(6, 3, **{name: value}, key=key)
    with pytest.raises(ValueError, match="a linear memory has no hidden units"):
        TitansMemory(6, 3, hidden=4, key=key)
