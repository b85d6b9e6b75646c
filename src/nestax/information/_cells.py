"""Where the cells of `binned` begin, in numbers that are compared exactly.

A value is in the cell whose lower edge is the last one not above it. Floating-point values are
compared in their own dtype, as numpy does it. Integers are compared as integers, so that neither
large ones nor the edges between them lose digits.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ._check import above_least

MOST_BINS = 2**24
"""Cells of a unit: of more, float32 could not tell the edges apart."""


def keys_and_edges(t: Any, kind: str, bins: int, low: Any, high: Any) -> tuple[Any, Any]:
    """What is to be sorted into cells, and the edges between them in the same numbers.

    Args:
        t: activations, floating-point or integers; a JAX array where the computation is traced.
        kind: "fixed", "adaptive" or "quantile".
        bins: number of cells.
        low: lower end of fixed cells.
        high: upper end of fixed cells.

    Returns:
        Keys like `t`, and the interior edges; for "quantile", doubled mid-ranks instead of edges.

    Raises:
        ValueError: if two fixed edges are equal in the dtype of `t`.
    """
    if jnp.issubdtype(t.dtype, jnp.integer):
        return _of_integers(t, kind, bins, low, high)
    if kind == "quantile":
        return t, _mid_ranks(t.shape[0], bins)
    if kind == "fixed":
        edges = _interior(float(low), float(high), bins)
        with np.errstate(over="ignore", under="ignore"):
            edges = edges.astype(t.dtype)
        if not (np.isfinite(edges).all() and (edges[1:] > edges[:-1]).all()):
            raise ValueError(
                f"binned: between low = {low} and high = {high} there are no {bins - 1} different "
                f"edges of {t.dtype}, the dtype of t; expected cells of some width. Take fewer "
                "bins, another range, or t.astype(numpy.float64)."
            )
        return t, edges
    if not isinstance(t, np.ndarray):
        return t, jnp.linspace(jnp.min(t), jnp.max(t), bins + 1, dtype=t.dtype)[1:-1]
    top = float(np.max(np.abs(t)))
    if top < 1:
        # Edges between denormal numbers would be rounded to them; a power of two is exact.
        t = np.ldexp(t, min(-int(np.frexp(top)[1]), 1 - int(np.finfo(t.dtype).minexp)))
    return t, _interior(float(t.min()), float(t.max()), bins).astype(t.dtype)


def _of_integers(t: Any, kind: str, bins: int, low: Any, high: Any) -> tuple[Any, Any]:
    if kind == "adaptive":
        # Cells keep their places if all values are counted from the least.
        t = above_least(t, t.min())
        linspace = np.linspace if isinstance(t, np.ndarray) else jnp.linspace
        return t, linspace(t.min() * 0, t.max(), bins + 1)[1:-1].astype(t.dtype)
    if not isinstance(t, np.ndarray):
        t = t if t.dtype.itemsize >= 4 else t.astype(jnp.int32)
        keys, least = _signed(t), 0 if t.dtype.kind == "i" else int(jnp.iinfo(t.dtype).max) // 2 + 1
        if kind == "quantile":
            return keys, _mid_ranks(t.shape[0], bins)
        info = jnp.iinfo(keys.dtype)
        edges = [edge - least for edge in _whole_edges(low, high, bins)]
        # What no value can reach begins no cell.
        edges = [max(edge, info.min) for edge in edges if edge <= info.max]
        return keys, np.array(edges, keys.dtype)
    # Ranks are in the order of the integers, whatever their size and sign.
    values, ranks = np.unique(t, return_inverse=True)
    keys = ranks.reshape(t.shape).astype(np.int64)
    if kind == "quantile":
        return keys, _mid_ranks(t.shape[0], bins)
    edges = np.array(_whole_edges(low, high, bins), object)
    info = np.iinfo(values.dtype)
    inside = np.clip(edges, info.min, info.max).astype(values.dtype)
    found = np.searchsorted(values, inside)
    return keys, np.where(edges > info.max, values.size, found).astype(np.int64)


def _signed(t: Any) -> Any:
    """Signed integers in the order of unsigned ones."""
    if t.dtype.kind == "i":
        return t
    signed = np.dtype(f"int{8 * t.dtype.itemsize}")
    return t.astype(signed) ^ jnp.asarray(np.iinfo(signed).min, signed)


def _whole_edges(low: Any, high: Any, bins: int) -> list[int]:
    """The least integer in each cell, counted from near `low` so that no digit is lost."""
    origin = int(low)  # towards zero, exact
    edges = _interior(float(low - origin), float(high - origin), bins)
    return [origin + int(edge) for edge in np.ceil(edges)]


def _interior(low: float, high: float, bins: int) -> Any:
    """Edges between equal cells, as numpy spaces them, whose width does not overflow."""
    if np.isfinite(high - low):
        return np.linspace(low, high, bins + 1)[1:-1]
    return 2 * np.linspace(low / 2, high / 2, bins + 1)[1:-1]


def _mid_ranks(n: int, bins: int) -> np.ndarray:
    # floor(bins * rank / 2n) >= k exactly if rank >= ceil(2nk / bins): no overflow, and the
    # same comparison with edges as for values.
    return np.array([-(-2 * n * k // bins) for k in range(1, bins)], np.int32)
