"""A small decoder-only transformer: plain functions on a pytree of matrices (out, in).

Pre-norm residual blocks of causal self-attention and a GELU layer, RMS norms (Zhang and Sennrich
2019), rotary positions (Su et al. 2021), no biases, no dropout. It is meant for comparisons of
optimizers: every weight but the norms' is a matrix, and each one's own leaf.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

Linear = Callable[[Array, Array], Array]
_EPS = 1e-6
_BASE = 10_000.0  # of the rotary wavelengths, in positions


class Block(NamedTuple):
    """Attention, then a layer of 4 x width GELU units; each on the normed sum so far, added to it.

    The norms' scales are (width,), attention's four matrices (width, width).
    """

    attention_norm: Float[Array, " width"]
    query: Float[Array, "width width"]
    key: Float[Array, "width width"]
    value: Float[Array, "width width"]
    output: Float[Array, "width width"]
    hidden_norm: Float[Array, " width"]
    up: Float[Array, "hidden width"]
    down: Float[Array, "width hidden"]


class Transformer(NamedTuple):
    """Embedding and head are of shape (vocabulary, width), and not the same."""

    embedding: Float[Array, "vocabulary width"]
    blocks: tuple[Block, ...]
    norm: Float[Array, " width"]
    head: Float[Array, "vocabulary width"]


def transformer_init(
    key: PRNGKeyArray, vocabulary: int, width: int, depth: int, ratio: int = 4
) -> Transformer:
    """Draws a network: normal with variance 1 / inputs, embeddings with variance 1.

    What is added to the residual sum is smaller by sqrt(2 depth), so that the sum's size does not
    depend on the depth; the head is smaller by 10, so that first predictions are nearly uniform.

    Args:
        key: a typed PRNG key.
        vocabulary: number of tokens.
        width: of the residual sum.
        depth: number of blocks.
        ratio: hidden units of a block, in multiples of the width.

    Returns:
        `2 vocabulary width + depth (4 + 2 ratio) width^2` weights, and the norms' scales.

    Raises:
        ValueError: a size below 1.
    """
    if min(vocabulary, width, depth, ratio) < 1:
        raise ValueError(
            "transformer_init: sizes must be at least 1, got "
            f"vocabulary={vocabulary}, width={width}, depth={depth}, ratio={ratio}"
        )
    keys = iter(jax.random.split(key, 2 + 6 * depth))

    def matrix(rows: int, columns: int, scale: float = 1.0) -> Array:
        return scale * columns**-0.5 * jax.random.normal(next(keys), (rows, columns))

    added = (2 * depth) ** -0.5
    blocks = tuple(
        Block(
            attention_norm=jnp.ones(width),
            query=matrix(width, width),
            key=matrix(width, width),
            value=matrix(width, width),
            output=matrix(width, width, added),
            hidden_norm=jnp.ones(width),
            up=matrix(ratio * width, width),
            down=matrix(width, ratio * width, added),
        )
        for _ in range(depth)
    )
    return Transformer(
        embedding=matrix(vocabulary, width, width**0.5),
        blocks=blocks,
        norm=jnp.ones(width),
        head=matrix(vocabulary, width, 0.1),
    )


def apply_linear(weight: Float[Array, "out in"], x: Float[Array, "*rows in"]) -> Array:
    """x W': the matrix applied to every row."""
    return x @ weight.T


def transformer(
    weights: Transformer,
    tokens: Int[Array, "*batch time"],
    heads: int,
    linear: Linear = apply_linear,
) -> Float[Array, "*batch time vocabulary"]:
    """Scores of the token that follows each position; they depend on it and those before only.

    Args:
        weights: as `transformer_init` draws them.
        tokens: numbers of tokens.
        heads: of attention; must divide the width into even parts.
        linear: how a matrix (out, in) is applied to rows (..., in), for layers whose gradients are
            made otherwise (`nestax.optim.delta_linear`). The embedding is looked up, not applied.

    Raises:
        ValueError: heads that do not divide the width into even parts.
    """
    width = weights.embedding.shape[1]
    if heads < 1 or width % (2 * heads):
        raise ValueError(
            f"transformer: heads must divide the width {width} into even parts, got {heads}"
        )
    x = weights.embedding[tokens]
    turns = _turns(tokens.shape[-1], width // heads, x.dtype)
    for block in weights.blocks:
        x = x + _attention(block, _normed(x, block.attention_norm), heads, turns, linear)
        inner = linear(block.up, _normed(x, block.hidden_norm))
        x = x + linear(block.down, jax.nn.gelu(inner))
    return linear(weights.head, _normed(x, weights.norm))


def _normed(x: Array, scale: Array) -> Array:
    size = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + _EPS)
    return x * size * jnp.broadcast_to(scale, x.shape)


def _attention(block: Block, x: Array, heads: int, turns: Any, linear: Linear) -> Array:
    def split(weight: Array) -> Float[Array, "*batch heads time size"]:
        made = linear(weight, x).reshape(*x.shape[:-1], heads, -1)
        return jnp.swapaxes(made, -2, -3)

    query, key = (_rotated(split(w), turns) for w in (block.query, block.key))
    scores = query @ jnp.swapaxes(key, -1, -2) * query.shape[-1] ** -0.5
    time = x.shape[-2]
    seen = jnp.broadcast_to(jnp.tril(jnp.ones((time, time), bool)), scores.shape)
    shares = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    mixed = jnp.swapaxes(shares @ split(block.value), -2, -3)
    return linear(block.output, mixed.reshape(x.shape))


def _turns(time: int, size: int, dtype: Any) -> tuple[Array, Array]:
    """Cosine and sine of every position's angles, (time, size / 2) each."""
    wave = _BASE ** (-jnp.arange(0, size, 2) / size)
    angle = jnp.outer(jnp.arange(time), wave)
    return jnp.cos(angle).astype(dtype), jnp.sin(angle).astype(dtype)


def _rotated(x: Array, turns: tuple[Array, Array]) -> Array:
    """Pairs of coordinates turned by their position's angles."""
    a, b = jnp.split(x, 2, axis=-1)
    cosine, sine = (jnp.broadcast_to(turn, a.shape) for turn in turns)
    return jnp.concatenate([a * cosine - b * sine, a * sine + b * cosine], axis=-1)
