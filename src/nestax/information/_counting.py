"""Counting equal rows exactly, by sorting, and the plug-in entropy of the counts.

Rows of small integers are written as numbers in mixed radix, in as few machine words as hold
them; nothing is hashed, so no two different rows are ever counted as one.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, UInt

# Sorting by one word is several times cheaper than by two, and beyond this many the time and
# the compilation grow faster than replacing some of the words by a single one.
_MOST_SORT_KEYS = 8


def changes(words: list[Array]) -> Bool[Array, " n"]:
    """Where a sorted list of rows, each given by several words, starts a new value."""
    n = words[0].shape[0]
    changed = jnp.zeros(n, bool).at[0].set(True)
    for word in words:
        changed = changed.at[1:].max(word[1:] != word[:-1])
    return changed


def run_lengths(starts: Bool[Array, " n"]) -> Int[Array, " n"]:
    """Lengths of the runs of equal rows that begin at `starts`, padded with zeros to n."""
    n = starts.shape[0]
    run = jnp.cumsum(starts, dtype=jnp.int32) - 1
    ones = jnp.ones(n, jnp.int32)
    return jax.ops.segment_sum(ones, run, num_segments=n, indices_are_sorted=True)


def plug_in_entropy(counts: Int[Array, " k"], n: int) -> Float[Array, ""]:
    """Entropy in bits of the distribution counts / n; empty cells contribute nothing."""
    counts = counts.astype(jnp.result_type(float))
    occupied = jnp.maximum(counts, 1.0)
    return jnp.sum(counts * jnp.log2(n / occupied)) / n


def digitize(keys: Int[Array, "n units"], edges: Int[Array, " inner"]) -> Int[Array, "n units"]:
    """Cell of each value: the number of interior edges that are not above it."""
    if edges.shape[0] > 256:
        return jnp.searchsorted(edges, keys, side="right").astype(jnp.int32)
    # For few edges, comparing with all of them vectorises and beats a binary search.
    return jnp.sum(keys[:, :, None] >= edges[None, None, :], axis=-1, dtype=jnp.int32)


def quantile_cells(
    keys: Int[Array, "n units"], thresholds: Int[Array, " inner"]
) -> Int[Array, "n units"]:
    """Cell of each value when each unit has edges of its own at these mid-ranks."""

    def of_unit(column: Int[Array, " n"]) -> Int[Array, " n"]:
        edges = quantile_edges(column, thresholds)
        return digitize(column[:, None], edges)[:, 0]

    return jax.vmap(of_unit, in_axes=1, out_axes=1)(keys)


def pack(
    cells: Int[Array, "n units"],
    bins: int,
    labels: Int[Array, " n"] | None,
    classes: int | None,
) -> tuple[list[UInt[Array, " n"]], int | None]:
    """Write each row of cells, followed by its label, exactly into unsigned words.

    Args:
        cells: cell of each unit, in [0, bins).
        bins: number of cells of a unit.
        labels: label of each row, in [0, classes) if classes is given.
        classes: number of classes; None if it is unknown, and then labels are any integers.

    Returns:
        The words, most significant first, and how the label is to be removed from them: divide
        the last word by this number, or drop the last word if it is None.
    """
    wide = jnp.result_type(float) == np.float64
    word, capacity = (jnp.uint64, 2**64) if wide else (jnp.uint32, 2**32)
    units = cells.shape[1]
    per_word = 1
    while per_word < units and bins ** (per_word + 1) <= capacity:
        per_word += 1
    words, used = [], 1
    for first in range(0, units, per_word):
        group = cells[:, first : first + per_word].astype(word)
        used = bins ** group.shape[1]
        weights = np.array([bins**i for i in range(group.shape[1])], np.uint64).astype(word)
        words.append(jnp.sum(group * weights[None, :], axis=1, dtype=word))
    if labels is None:
        return words, 1
    if classes is not None and used * classes <= capacity:
        words[-1] = words[-1] * np.asarray(classes, word) + labels.astype(word)
        return words, classes
    return [*words, labels.astype(word)], None


def sort_words(words: list[Array]) -> list[Array]:
    """Sort rows given by several words so that equal rows are neighbours."""
    while len(words) > _MOST_SORT_KEYS:
        head, rest = words[: _MOST_SORT_KEYS - 1], words[_MOST_SORT_KEYS - 1 :]
        words = [_dense_rank(head), *rest]
    if len(words) == 1:
        return [jax.lax.sort(words[0], is_stable=False)]
    return list(jax.lax.sort(tuple(words), num_keys=len(words), is_stable=False))


def _dense_rank(words: list[Array]) -> Array:
    """One word that is equal for two rows exactly if all of `words` are."""
    index = jax.lax.iota(jnp.int32, words[0].shape[0])
    *ordered, index = jax.lax.sort((*words, index), num_keys=len(words), is_stable=False)
    rank = jnp.cumsum(changes(ordered), dtype=jnp.int32) - 1
    return jnp.zeros_like(words[0]).at[index].set(rank.astype(words[0].dtype))


def ordered(t: Float[Array, " *shape"]) -> Int[Array, " *shape"]:
    """Signed integers in the same order as the floating-point numbers, -0 equal to 0.

    Integers sort several times faster, and compilers that treat denormal numbers as zero cannot
    touch them.
    """
    integer = jnp.int32 if t.dtype == np.float32 else jnp.int64
    bits = jax.lax.bitcast_convert_type(t, integer)
    flipped = jnp.bitwise_xor(bits, jnp.iinfo(integer).max)
    return jnp.where(bits >= 0, bits, jnp.where(bits == jnp.iinfo(integer).min, 0, flipped))


def quantile_edges(
    keys: Int[Array, " n"], thresholds: Int[Array, " inner"]
) -> Int[Array, " inner"]:
    """Least value of a unit whose doubled mid-rank reaches each threshold.

    The doubled mid-rank is the number of rows below plus the number of rows not above.
    """
    n = keys.shape[0]
    keys = jax.lax.sort(keys, is_stable=False)
    starts = changes([keys])
    counts = run_lengths(starts)
    below = jnp.cumsum(counts, dtype=jnp.int32) - counts
    run = jnp.cumsum(starts, dtype=jnp.int32) - 1
    first = jnp.searchsorted((2 * below + counts)[run], thresholds)
    none = jnp.iinfo(keys.dtype).max
    return jnp.where(first < n, keys[jnp.minimum(first, n - 1)], none)
