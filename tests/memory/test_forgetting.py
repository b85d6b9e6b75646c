"""Memories that are products of matrices learn however much they have forgotten."""

import jax
import numpy as np
import pytest

from nestax import memory as nm

LAYERS = {
    "titans": (nm.TitansMemory, {"memory": "mlp"}),
    "self-modifying": (nm.SelfModifyingMemory, {"memory": "mlp"}),
    "self-modifying, no skip": (nm.SelfModifyingMemory, {"skip": False}),
}


def matrices(state):
    """The memories without momentum and anchors."""
    return jax.tree.leaves(state.memory.now if hasattr(state, "memory") else state.now)


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_shown_after_many_tokens_is_learnt_as_from_the_start(name):
    """8,192 tokens, then four shown 64 times: the same is written as without the many. All in
    pieces of 256, for which there is one program."""
    kind, options = LAYERS[name]
    layer = kind(4, 1, **options, key=jax.random.key(0))
    run = jax.jit(lambda x, state: layer(x, state))
    many = np.asarray(jax.random.normal(jax.random.key(1), (8192, 4)))
    four = np.tile(jax.random.normal(jax.random.key(2), (4, 4)), (64, 1))
    start = tired = layer.init_state()
    for piece in many.reshape(32, 256, 4):
        _, tired = run(piece, tired)
    wanted, fresh = jax.tree.map(np.asarray, run(four, start))
    found, late = jax.tree.map(np.asarray, run(four, tired))
    start = jax.tree.map(np.asarray, start)
    length = lambda matrix: np.linalg.norm(matrix.ravel())  # noqa: E731
    for begun, before, after in zip(*map(matrices, (start, fresh, late)), strict=True):
        assert length(before - begun) > 0.01 * length(begun)
        assert min(length(before), length(after)) > 0.1 * length(begun)
        assert length(after - before) < 0.1 * length(before - begun) + 0.01 * length(begun)
    last = wanted[-4:]
    assert length(found[-4:] - last) < 0.1 * length(last) and length(last) > 0.1
