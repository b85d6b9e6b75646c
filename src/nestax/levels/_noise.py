"""Random numbers like arrays, to try functions at."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def noise(key: jax.Array, leaves: Sequence[Any]) -> list[jax.Array]:
    """Standard normal numbers of each array's shape and dtype. One draw for all of them: a draw
    for each would be most of a small program.

    Args:
        key: to draw with.
        leaves: inexact arrays.
    """
    parts = [2 if jnp.iscomplexobj(leaf) else 1 for leaf in leaves]
    sizes = [part * leaf.size for part, leaf in zip(parts, leaves, strict=True)]
    drawn = jax.random.normal(key, (sum(sizes),))
    like, begin = [], 0
    for leaf, part, size in zip(leaves, parts, sizes, strict=True):
        rows = drawn[begin : begin + size].reshape(part, *leaf.shape)
        like.append((rows[0] if part == 1 else rows[0] + 1j * rows[1]).astype(leaf.dtype))
        begin += size
    return like
