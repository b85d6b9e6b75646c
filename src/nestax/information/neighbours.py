"""Nearest-neighbour information of two continuous variables.

Kraskov, Stögbauer & Grassberger, "Estimating mutual information", Phys. Rev. E 69, 066138
(2004), first estimator, equation 8. It is for variables with a joint density: for an
activation that is a deterministic function of the input, the value grows with N without limit.

In a sample with a density no two distances are equal. In one that was rounded many are, and with
equation 8 as printed, which counts what is strictly nearer than the k-th neighbour, a correlation
of 0.8 rounded to tenths reads 2.1 bits instead of 0.74. Values rounded together were spread evenly
before, so half of what is as far away as the k-th neighbour is counted here: without ties that is
equation 8, and of the same data 0.82 bits.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import digamma
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from . import _check
from ._pairs import largest_differences, map_blocks
from ._result import KSGInformation
from .scale import of_unit_scale, of_unit_variance


def ksg(a: ArrayLike, b: ArrayLike, k: int = 3, *, standardize: bool = True) -> KSGInformation:
    """Mutual information of two continuous variables from nearest neighbours, in bits.

    I(A;B) = psi(k) + psi(N) - mean_i [psi(n_a(i) + 1) + psi(n_b(i) + 1)] nats, where n_a(i) is
    the number of other rows whose distance from row i in A is below the distance of its k-th
    neighbour in (A, B), all in the maximum norm. If distances are equal, as in rounded data, half
    of the rows as far away as the k-th neighbour count as nearer.

    Every unit is first divided by its standard deviation, as by `standardize`: that changes
    distances, but not the mutual information.

    It is for variables with a joint density: for an activation that is a deterministic function of
    the input, the value grows with N without limit.

    Time is O(N^2), memory O(N). On concrete arrays everything is computed in float64; inside
    `jit` and `vmap` the enabled precision is used and values are not checked.

    Args:
        a: samples of A, of shape (N,) or (N, units).
        b: samples of B, of shape (N,) or (N, units), row by row with `a`.
        k: which neighbour to use, in [1, N - 1]; 3 is usual. Larger values have more bias and
            less variance.
        standardize: whether units are scaled first; without it the units of A and B should have
            one scale already.

    Returns:
        `x` and `ceiling`, as numpy float64, or as JAX scalars inside `jit` and `vmap`.

    Raises:
        ValueError: if a shape, dtype or value is wrong, or a row of (A, B) is repeated, which
            makes the value meaningless (each row twice: 1.9 bits where 1.0 is true); the message
            says which.

    Source: Kraskov, Stögbauer and Grassberger, "Estimating mutual information" (2004), eq. (8).

    Example:
        For a correlation of 0.8 the true value is -log2(1 - 0.8^2) / 2 = 0.74 bits:

        ```python
        a, noise = jax.random.normal(jax.random.key(0), (2, 800))
        print(f"{nx.information.ksg(a, 0.8 * a + 0.6 * noise).x:.1f} bits")  # 0.7 bits
        ```
    """
    traced = _check.is_traced(a, b)
    a = _check.activations("ksg", a, "a", traced, vector=True)
    b = _check.activations("ksg", b, "b", traced, vector=True)
    n = a.shape[0]
    if b.shape[0] != n:
        raise ValueError(
            f"ksg: a has {n} row(s) and b has {b.shape[0]}; expected as many of both. Row i of "
            "each must come from the same sample."
        )
    why = f"Each of the {n} rows has {n - 1} neighbours."
    k = _check.whole_number("ksg", k, "k", 1, n - 1, why)
    if not traced:
        _refuse_repetitions(a, b)
    x = _check.evaluate(_information, *_scaled(a, b, standardize), np.int32(k))
    return KSGInformation(x, _check.constant(_ceiling(n, k), traced))


def _refuse_repetitions(a: Any, b: Any) -> None:
    joint = np.concatenate([a, b], axis=1, dtype=np.float64)
    _, first, copies = np.unique(joint, axis=0, return_index=True, return_counts=True)
    repeated = len(joint) - len(first)
    if repeated:
        raise ValueError(
            f"ksg: {repeated} row(s) of (a, b) repeat an earlier one, the first row "
            f"{first[copies > 1].min()}; expected samples of continuous variables, which never "
            "repeat, and whose neighbours would be their own copies. If rows were copied, drop the "
            "copies, as numpy.unique(numpy.column_stack([a, b]), axis=0) does; if values were "
            "rounded, take them as they were before, or use binned()."
        )


def _scaled(a: Any, b: Any, standardize: bool) -> tuple[Any, Any]:
    """In units in which no distance overflows."""
    if standardize:
        return of_unit_variance(a), of_unit_variance(b)
    units = a.shape[1]
    xp = np if isinstance(a, np.ndarray) else jnp
    joint = of_unit_scale(xp.concatenate([a, b], axis=1))
    return joint[:, :units], joint[:, units:]


def _ceiling(n: int, k: int) -> float:
    # psi(n) - psi(k) = 1/k + ... + 1/(n - 1). Without ties at least k - 1 other rows are nearer
    # in each variable alone.
    return math.fsum(1 / i for i in range(k, n)) / math.log(2)


@jax.jit
def _information(
    a: Float[Array, "n units_a"], b: Float[Array, "n units_b"], k: Int[Array, ""]
) -> Float[Array, ""]:
    """The estimate in bits."""
    dtype = jnp.result_type(float)
    a, b = a.astype(dtype), b.astype(dtype)
    n = a.shape[0]
    rounding = 64 * jnp.finfo(dtype).eps

    def terms(rows_a: Array, rows_b: Array) -> Array:
        in_a, in_b = largest_differences(rows_a, a), largest_differences(rows_b, b)
        in_both = jnp.maximum(in_a, in_b)
        radius = _smallest(in_both, k + 1)[:, None]
        itself = radius[:, 0] == 0  # and then a row is one of its own ties

        def counts(distances: Array) -> tuple[Array, Array]:
            """Rows nearer than the k-th neighbour, the row itself among them, and tied ones."""
            nearer = jnp.sum(distances < (1 - rounding) * radius, axis=1)
            tied = jnp.sum(distances <= (1 + rounding) * radius, axis=1) - nearer
            return jnp.maximum(nearer, 1), tied - itself

        nearer, tied = counts(in_both)
        total = digamma(nearer - 1 + (tied + 1).astype(dtype) / 2)
        for distances in (in_a, in_b):
            nearer, tied = counts(distances)
            # The k-th neighbour, which sets the radius in one of both, is no nearer than itself.
            total = total - digamma(nearer + jnp.maximum(tied - 1, 0).astype(dtype) / 2)
        return total

    nats = digamma(jnp.asarray(n, dtype)) + jnp.mean(map_blocks(terms, a, b))
    return nats / math.log(2)


def _smallest(values: Float[Array, "block n"], rank: Int[Array, ""]) -> Float[Array, " block"]:
    """The value of the given rank (1 for the least) in each row, repetitions counted."""

    def next_value(_: Array, current: Array) -> Array:
        above = jnp.min(jnp.where(values > current[:, None], values, jnp.inf), axis=1)
        enough = jnp.sum(values <= current[:, None], axis=1) >= rank
        return jnp.where(enough, current, above)

    # One pass per distinct value: for the few neighbours that are usual, much cheaper than
    # sorting, and ties do not disturb it.
    return jax.lax.fori_loop(0, rank, next_value, jnp.full(len(values), -jnp.inf, values.dtype))
