"""Binned (plug-in) information of a layer: how many cells its rows occupy, and how evenly.

b(T) is a function of the input, so I(b(T);X) = H(b(T)), and I(b(T);Y) = H(b(T)) - H(b(T)|Y).
What varies in training is the output of the quantiser b: clustering at the scale of a cell
(Saxe et al., ICLR 2018; Goldfeld et al., ICML 2019), not the information of the layer itself.

The estimator is that of Shwartz-Ziv & Tishby, "Opening the black box of deep neural networks
via information", 2017, with the ends mended: theirs puts values below the first edge into the
last cell and gives exactly +1, but not -1, a cell of its own. The bias correction is that of
Miller, "Note on the bias of information estimates", 1955.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from . import _check
from ._cells import MOST_BINS, keys_and_edges
from ._counting import (
    changes,
    digitize,
    ordered,
    pack,
    plug_in_entropy,
    quantile_cells,
    run_lengths,
    sort_words,
)
from ._result import BinnedInformation, assert_consistent
from .labels import encode, entropy

_RANGE = "Give the range of the activations, or let edges='adaptive' find it."


def binned(
    t: ArrayLike,
    y: ArrayLike | None = None,
    bins: int = 30,
    low: float | int = -1.0,
    high: float | int = 1.0,
    *,
    edges: str = "fixed",
    classes: int | tuple[int, ...] | None = None,
    miller_madow: bool = False,
    strict: bool = False,
) -> BinnedInformation:
    """Binned information of a layer in bits, I(b(T);X) and I(b(T);Y): units are put into cells.

    With c_k the number of rows in cell k, H(b(T)) = log2 N - (1/N) sum_k c_k log2 c_k. Cells
    are counted exactly for any number of units and bins. On concrete arrays the counts are
    those of numpy with the same edges in the dtype of `t`, sums are float64, and I(b(T);Y) <=
    min(I(b(T);X), H(Y)) is checked. Inside `jit` and `vmap` the enabled precision is used,
    values are not checked, adaptive edges may differ in their last digit, and denormal numbers
    may count as zero. Integers are compared as integers, whatever their size.

    Plug-in values are biased: with K occupied cells of N rows, I(b(T);Y) of pure noise is about
    (K - 1) (classes - 1) / (2 N ln 2) bits while K is far below N, and reaches H(Y) beyond.

    Args:
        t: activations, of shape (N, units); one row per distinct input.
        y: integer class labels, of shape (N,).
        bins: number of cells of each unit, from 2 to 2^24.
        low: lower end of the fixed cells.
        high: upper end of the fixed cells.
        edges: "fixed": cells of equal width on [low, high], with interior edges
            linspace(low, high, bins + 1)[1:-1]; values at or past an end are in the end cell.
            "adaptive": cells of equal width from the least to the largest value of the layer.
            "quantile": cells of equal mass for each unit, by the mid-rank, so that ties share
            a cell and strictly increasing maps of a unit change nothing. `low` and `high` are for
            fixed cells only.
        classes: the classes that must occur: a number C for 0 .. C-1, or a tuple of labels.
        miller_madow: whether to add (K - 1) / (2 N) nats to each entropy with K occupied cells.
            Then the values may leave [0, log2 N], and I(b(T);Y) may exceed I(b(T);X).
        strict: whether values outside [low, high] are an error, for fixed cells.

    Returns:
        `x`, `y`, `ceiling`, `label_ceiling` and `cells`, as numpy float64 and int64 scalars, or
        as JAX scalars inside `jit` and `vmap`. `y` and `label_ceiling` are None without labels.

    Raises:
        ValueError: if a shape, dtype, value or option is wrong; the message says which.
        RuntimeError: if I(b(T);Y) <= min(I(b(T);X), H(Y)) does not hold, which is a bug.

    Source: Shwartz-Ziv and Tishby, "Opening the black box of deep neural networks via information"
    (2017), with the cells at both ends corrected; bias correction: Miller (1955).

    Example:
        Four inputs, of which a layer of one unit distinguishes two classes:

        ```python
        activations, labels = jnp.array([[-0.9], [-0.9], [0.9], [0.9]]), jnp.array([0, 0, 1, 1])
        found = nx.information.binned(activations, labels)
        print(found.x, found.y)  # 1.0 1.0
        ```
    """
    _check.one_of("binned", edges, "edges", ("fixed", "adaptive", "quantile"))
    bins = _check.whole_number("binned", bins, "bins", 2, MOST_BINS, "30 is usual.")
    for name, value in (("low", low), ("high", high)) if edges == "fixed" else ():
        _refuse_traced(name, value)
        _check.real_number("binned", value, name, _RANGE, "finite low < high")
    if edges == "fixed" and not low < high:
        raise ValueError(
            f"binned: low is {low} and high is {high}; expected finite low < high. {_RANGE}"
        )
    traced = _check.is_traced(t, y)
    t = _check.rows("binned", t, traced=traced)
    n, units = t.shape
    labels = None if y is None else encode("binned", y, n, classes)
    if strict and edges == "fixed" and not traced:
        _check.within("binned", np.asarray(t), low, high)

    kernel = functools.partial(_check.evaluate, _entropies, ranked=edges == "quantile")
    h_t, h_ty, cells, joint_cells = kernel(
        *keys_and_edges(t, edges, bins, low, high),
        None if labels is None else labels.codes,
        bins=bins,
        # Rounded up so that batches with nearly the same classes share one compilation.
        classes=None if labels is None or labels.count is None else _power_of_two(labels.count),
    )
    largest = min(n, bins**units)
    ceiling = math.log2(largest) + miller_madow * _correction(largest, n)
    if miller_madow:
        h_t = h_t + _correction(cells, n)
    x, ceiling = h_t, _check.constant(ceiling, traced)
    minimum, clip = (jnp.minimum, jnp.clip) if traced else (np.minimum, np.clip)
    if not miller_madow:
        # Here and below, only rounding can be outside of the interval.
        x = minimum(x, ceiling)
    if labels is None:
        return BinnedInformation(x, None, ceiling, None, cells)
    h_y, present = entropy(labels)
    if miller_madow:
        shared = h_t + h_y + _correction(present, n) - h_ty - _correction(joint_cells, n)
    else:
        shared = h_t + h_y - h_ty
        if not traced:
            assert_consistent(x, shared, h_y, "binned")
        shared = clip(shared, 0.0, minimum(x, h_y))
    return BinnedInformation(x, shared, ceiling, _as_leaf(h_y, traced), cells)


def _correction(cells: Any, n: int) -> Any:
    """Miller's correction of the entropy of n samples in so many occupied cells, in bits."""
    return (cells - 1) / (2 * n * math.log(2))


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _as_leaf(value: Any, traced: bool) -> Any:
    return jnp.asarray(value, jnp.result_type(float)) if traced else value


def _refuse_traced(name: str, value: Any) -> None:
    if _check.is_traced(value):
        raise ValueError(
            f"binned: {name} is traced; expected a plain number. Keep it out of the arguments of "
            "jit and vmap, or let edges='adaptive' find it."
        )


@functools.partial(jax.jit, static_argnames=("bins", "classes", "ranked"))
def _entropies(
    keys: Float[Array, "n units"] | Int[Array, "n units"],
    edges: Float[Array, " inner"] | Int[Array, " inner"],
    labels: Int[Array, " n"] | None,
    *,
    bins: int,
    classes: int | None,
    ranked: bool,
) -> tuple[Array, Array | None, Array, Array | None]:
    """H(b(T)) and H(b(T), Y) in bits, and the numbers of occupied cells of both."""
    n = keys.shape[0]
    if jnp.issubdtype(keys.dtype, jnp.floating):
        keys, edges = ordered(keys), edges if ranked else ordered(edges)
    cells = quantile_cells(keys, edges) if ranked else digitize(keys, edges)
    words, label_digit = pack(cells, bins, labels, classes)
    words = sort_words(words)
    # The label is the least significant digit, so that one sort serves both entropies.
    if label_digit is None:
        layer = words[:-1]
    else:
        layer = [*words[:-1], words[-1] // np.asarray(label_digit, words[-1].dtype)]
    counts = run_lengths(changes(layer))
    h_t, occupied = plug_in_entropy(counts, n), jnp.sum(counts > 0)
    if labels is None:
        return h_t, None, occupied, None
    joint = run_lengths(changes(words))
    return h_t, plug_in_entropy(joint, n), occupied, jnp.sum(joint > 0)
