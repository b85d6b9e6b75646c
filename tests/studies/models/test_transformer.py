"""The transformer against numpy, position by position."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax_studies import models


def network(depth=2, width=8, vocabulary=11):
    return models.transformer_init(jax.random.key(0), vocabulary, width, depth)


def tokens(*shape, vocabulary=11):
    return jnp.asarray(np.random.default_rng(0).integers(vocabulary, size=shape), jnp.int32)


def naive(weights, sequence, heads):
    """One sequence, one position and one head at a time."""

    def normed(x, scale):
        return x / np.sqrt(np.mean(x**2) + 1e-6) * np.asarray(scale)

    def turned(v, position):
        half = len(v) // 2
        out = np.empty_like(v)
        for i in range(half):
            angle = position * 10_000.0 ** (-2 * i / len(v))
            c, s = np.cos(angle), np.sin(angle)
            out[i], out[i + half] = c * v[i] - s * v[i + half], s * v[i] + c * v[i + half]
        return out

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    rows = [np.asarray(weights.embedding)[t] for t in np.asarray(sequence)]
    size = len(rows[0]) // heads
    for block in weights.blocks:
        block = jax.tree.map(np.asarray, block)
        seen = [normed(x, block.attention_norm) for x in rows]
        parts = {
            name: [getattr(block, name) @ x for x in seen] for name in ("query", "key", "value")
        }
        for t in range(len(rows)):
            mixed = []
            for head in range(heads):
                own = slice(head * size, (head + 1) * size)
                q = turned(parts["query"][t][own], t)
                scores = [q @ turned(parts["key"][s][own], s) / size**0.5 for s in range(t + 1)]
                share = np.exp(scores) / np.sum(np.exp(scores))
                mixed.append(sum(p * parts["value"][s][own] for s, p in enumerate(share)))
            rows[t] = rows[t] + block.output @ np.concatenate(mixed)
        rows = [x + block.down @ gelu(block.up @ normed(x, block.hidden_norm)) for x in rows]
    return np.stack([np.asarray(weights.head) @ normed(x, weights.norm) for x in rows])


@pytest.mark.parametrize("heads", [1, 2])
def test_equals_a_naive_loop(x64, heads):
    weights = network()
    # Norms other than at their start.
    scale = jnp.linspace(0.5, 2, 8)
    blocks = tuple(
        b._replace(attention_norm=scale, hidden_norm=scale[::-1]) for b in weights.blocks
    )
    weights = weights._replace(blocks=blocks, norm=scale)
    sequences = tokens(2, 7)
    scores = models.transformer(weights, sequences, heads)
    assert scores.shape == (2, 7, 11)
    for sequence, one in zip(sequences, scores, strict=True):
        np.testing.assert_allclose(one, naive(weights, sequence, heads), rtol=1e-10, atol=1e-12)


def test_one_sequence_is_a_batch_of_one(x64):
    weights, sequence = network(), tokens(6)
    one, batch = (models.transformer(weights, t, 2) for t in (sequence, sequence[None]))
    np.testing.assert_allclose(one, batch[0], rtol=1e-12)


def test_it_is_causal(x64):
    """Scores do not depend on later tokens, and do on every earlier one."""
    weights, sequence = network(), tokens(9)
    scores = models.transformer(weights, sequence, 2)
    for t in range(9):
        other = models.transformer(weights, sequence.at[t].set((sequence[t] + 1) % 11), 2)
        np.testing.assert_array_equal(scores[:t], other[:t])
        assert np.all(np.any(np.abs(scores[t:] - other[t:]) > 1e-9, axis=1))


def test_positions_count_only_by_their_distance(x64):
    """Turned queries and keys have products that depend on how far apart they are."""
    rng = np.random.default_rng(1)
    query, key = (jnp.broadcast_to(rng.normal(size=(1, 6)), (9, 6)) for _ in range(2))
    turns = models._transformer._turns(9, 6, jnp.float64)
    turned = [models._transformer._rotated(x, turns) for x in (query, key)]
    products = turned[0] @ turned[1].T
    np.testing.assert_allclose(products[1:, 1:], products[:-1, :-1], rtol=1e-10)
    assert len(np.unique(np.round(products[0], 9))) == 9


def test_every_weight_has_a_finite_gradient_that_is_not_zero():
    weights, sequences = network(), tokens(3, 8)

    def loss(weights):
        scores = jax.nn.log_softmax(models.transformer(weights, sequences[:, :-1], 2))
        return -jnp.mean(jnp.take_along_axis(scores, sequences[:, 1:, None], axis=-1))

    value, gradient = jax.value_and_grad(loss)(weights)
    # Nearly uniform at first.
    assert value == pytest.approx(np.log(11), abs=0.1)
    for leaf in jax.tree.leaves(gradient):
        assert np.all(np.isfinite(leaf)) and np.any(leaf)


def test_linear_is_applied_to_every_matrix_but_the_embedding():
    weights, seen = network(depth=3), []

    def linear(weight, x):
        seen.append(weight.shape)
        return models.apply_linear(weight, x)

    models.transformer(weights, tokens(4), 2, linear)
    assert sorted(seen) == sorted([(11, 8)] + 3 * (4 * [(8, 8)] + [(32, 8), (8, 32)]))


def test_size_and_scale_of_the_initial_weights():
    weights = models.transformer_init(jax.random.key(1), 65, 64, 3)
    count = sum(leaf.size for leaf in jax.tree.leaves(weights))
    assert count == 2 * 65 * 64 + 3 * 12 * 64**2 + 7 * 64
    assert np.std(weights.embedding) == pytest.approx(1, rel=0.05)
    assert np.std(weights.blocks[0].up) == pytest.approx(64**-0.5, rel=0.05)
    assert np.std(weights.blocks[2].down) == pytest.approx((256 * 6) ** -0.5, rel=0.05)
    assert not np.allclose(weights.blocks[0].query, weights.blocks[1].query)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="sizes must be at least 1, got vocabulary=5, width=0"):
        models.transformer_init(jax.random.key(0), 5, 0, 1)
    for heads in (0, 3, 8):
        with pytest.raises(ValueError, match="heads must divide the width 8 into even parts"):
            models.transformer(network(), tokens(4), heads)
