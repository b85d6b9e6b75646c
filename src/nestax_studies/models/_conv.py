"""A small convolutional network for pictures of one character, as few-shot learning uses it."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def conv_init(key: PRNGKeyArray, filters: int, ways: int) -> dict[str, Any]:
    """Four blocks of 3x3 filters and a linear layer."""
    blocks, inputs = [], 1
    for number in range(4):
        scale = (2 / (9 * inputs)) ** 0.5
        draw = jax.random.normal(jax.random.fold_in(key, number), (9 * inputs, filters))
        blocks.append(
            {"filters": scale * draw, "gain": jnp.ones(filters), "bias": jnp.zeros(filters)}
        )
        inputs = filters
    last = jax.random.normal(jax.random.fold_in(key, 4), (4 * filters, ways))
    return {"blocks": blocks, "weight": last / (4 * filters) ** 0.5, "bias": jnp.zeros(ways)}


def conv(weights: dict[str, Any], pictures: Float[Array, "n 28 28"]) -> Float[Array, "n ways"]:
    """Blocks of convolution with stride 2, normalization by the batch's own statistics and ReLU."""
    x = pictures[..., None]
    for block in weights["blocks"]:
        x = _patches(x) @ block["filters"]
        # Not with running averages: the episode's own statistics, as in MAML (transductive).
        mean = jnp.mean(x, (0, 1, 2), keepdims=True)
        variance = jnp.mean((x - mean) ** 2, (0, 1, 2), keepdims=True)
        x = (x - mean) * jax.lax.rsqrt(variance + 1e-5)
        x = jax.nn.relu(x * block["gain"][None, None, None] + block["bias"][None, None, None])
    return x.reshape(len(x), -1) @ weights["weight"] + weights["bias"][None]


def _patches(x: Float[Array, "n h w c"]) -> Float[Array, "n _ _ 9*c"]:
    """The 3x3 neighbourhood of every other pixel, so that a convolution is a matrix product.

    Convolutions with weights of each task's own, which `vmap` makes grouped ones, took seven times
    as long on CPUs.
    """
    n, height, width, channels = x.shape
    h, w = -(-height // 2), -(-width // 2)
    pad = [
        (0, 0),
        *((((s := 2 * o + 1 - size) // 2), s - s // 2) for o, size in ((h, height), (w, width))),
        (0, 0),
    ]
    x = jnp.pad(x, pad)
    shifted = [
        jax.lax.slice(x, (0, i, j, 0), (n, i + 2 * h - 1, j + 2 * w - 1, channels), (1, 2, 2, 1))
        for i in range(3)
        for j in range(3)
    ]
    return jnp.concatenate(shifted, -1)
