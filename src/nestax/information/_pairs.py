"""Pairwise distances in blocks of rows, so that memory stays at block x N numbers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

BLOCK = 256
"""Rows whose distances to all others are held at a time."""


def squared_distances(
    rows: Float[Array, "block units"], t: Float[Array, "n units"], scale: Float[Array, ""]
) -> Float[Array, "block n"]:
    """Squared Euclidean distances times scale^2, by direct differences: zero for equal rows.

    Differences are scaled before they are squared: what overflows then is far away in any case.
    """

    def add(unit: Array, total: Array) -> Array:
        return total + ((rows[:, unit, None] - t[None, :, unit]) * scale) ** 2

    return jax.lax.fori_loop(0, t.shape[1], add, jnp.zeros((len(rows), len(t)), t.dtype))


def largest_differences(
    rows: Float[Array, "block units"], t: Float[Array, "n units"]
) -> Float[Array, "block n"]:
    """Distances in the maximum norm."""

    def widen(unit: Array, total: Array) -> Array:
        return jnp.maximum(total, jnp.abs(rows[:, unit, None] - t[None, :, unit]))

    return jax.lax.fori_loop(0, t.shape[1], widen, jnp.zeros((len(rows), len(t)), t.dtype))


def map_blocks(function: Callable[..., Any], *arrays: Any) -> Any:
    """Apply a function to blocks of the rows of several arrays.

    Args:
        function: from blocks of rows, one per array, to arrays with that leading axis.
        *arrays: arrays of n rows; None is passed on.

    Returns:
        The results for all n rows.
    """
    n = len(arrays[0])
    size = min(BLOCK, n)
    count = -(-n // size)

    def split(array: Array) -> Array:
        widths = [(0, count * size - n)] + [(0, 0)] * (array.ndim - 1)
        # Repeated rows rather than zeros, so that the padding is as harmless as the data.
        return jnp.pad(array, widths, mode="edge").reshape(count, size, *array.shape[1:])

    results = jax.lax.map(lambda blocks: function(*blocks), jax.tree.map(split, arrays))
    return jax.tree.map(lambda r: r.reshape(count * size, *r.shape[2:])[:n], results)
