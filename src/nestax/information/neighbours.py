"""Nearest-neighbour information of two continuous variables.

Kraskov, Stögbauer & Grassberger, "Estimating mutual information", Phys. Rev. E 69, 066138
(2004), first estimator, equation 8. It is for variables with a joint density: for an
activation that is a deterministic function of the input, the value grows with N without limit.
"""

import math

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


def ksg(a: ArrayLike, b: ArrayLike, k: int = 3) -> KSGInformation:
    """Mutual information of two continuous variables from nearest neighbours, in bits.

    I(A;B) = psi(k) + psi(N) - mean_i [psi(n_a(i) + 1) + psi(n_b(i) + 1)] nats, where n_a(i) is
    the number of other rows whose distance from row i in A is below the distance of its k-th
    neighbour in (A, B), all in the maximum norm (Kraskov et al. 2004, equation 8).

    Time is O(N^2), memory O(N). On concrete arrays everything is computed in float64; inside
    `jit` and `vmap` the enabled precision is used and values are not checked.

    Args:
        a: samples of A, of shape (N,) or (N, units).
        b: samples of B, of shape (N,) or (N, units), row by row with `a`.
        k: which neighbour to use, in [1, N - 1]; 3 is usual. Larger values have more bias and
            less variance.

    Returns:
        `x` and `ceiling`: numpy float64, or JAX scalars inside `jit` and `vmap`.

    Raises:
        ValueError: if a shape, dtype or value is wrong, or k + 1 rows of (A, B) are identical;
            the message says which.
    """
    traced = _check.is_traced(a, b)
    a = _check.activations(a, "a", traced, vector=True)
    b = _check.activations(b, "b", traced, vector=True)
    n = a.shape[0]
    if b.shape[0] != n:
        raise ValueError(
            f"a has {n} row(s) and b has {b.shape[0]}; expected as many of both. Row i of each "
            "must come from the same sample."
        )
    k = _check.whole_number(k, "k", 1, n - 1, f"Each of the {n} rows has {n - 1} neighbours.")
    x, degenerate = _check.evaluate(_information, a, b, np.int32(k))
    if not traced and degenerate:
        raise ValueError(
            f"{int(degenerate)} row(s) of (a, b) have k = {k} neighbours at distance zero; "
            "expected continuous samples without repetitions. Drop duplicates, add noise of "
            "about 1e-10 times the spread, or use binned() for values from a small set."
        )
    return KSGInformation(x, _check.constant(_ceiling(n, k), traced))


def _ceiling(n: int, k: int) -> float:
    # psi(n) - psi(k) = 1/k + ... + 1/(n - 1). Without ties at least k - 1 other rows are nearer
    # in each variable alone.
    return math.fsum(1 / i for i in range(k, n)) / math.log(2)


@jax.jit
def _information(
    a: Float[Array, "n units_a"], b: Float[Array, "n units_b"], k: Int[Array, ""]
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """The estimate in bits, and the number of rows whose k-th neighbour is at distance zero."""
    dtype = jnp.result_type(float)
    a, b = a.astype(dtype), b.astype(dtype)
    n = a.shape[0]

    def terms(rows_a: Array, rows_b: Array) -> tuple[Array, Array]:
        in_a, in_b = largest_differences(rows_a, a), largest_differences(rows_b, b)
        radius = _smallest(jnp.maximum(in_a, in_b), k + 1)
        # The counts hold the row itself: they are n_a + 1 and n_b + 1 already.
        near_a = jnp.sum(in_a < radius[:, None], axis=1)
        near_b = jnp.sum(in_b < radius[:, None], axis=1)
        return digamma(near_a.astype(dtype)) + digamma(near_b.astype(dtype)), radius == 0

    sums, degenerate = map_blocks(terms, a, b)
    nats = digamma(k.astype(dtype)) + digamma(jnp.asarray(n, dtype)) - jnp.mean(sums)
    return nats / math.log(2), jnp.sum(degenerate)


def _smallest(values: Float[Array, "block n"], rank: Int[Array, ""]) -> Float[Array, " block"]:
    """The value of the given rank (1 for the least) in each row, repetitions counted."""

    def next_value(_: Array, current: Array) -> Array:
        above = jnp.min(jnp.where(values > current[:, None], values, jnp.inf), axis=1)
        enough = jnp.sum(values <= current[:, None], axis=1) >= rank
        return jnp.where(enough, current, above)

    # One pass per distinct value: for the few neighbours that are usual, much cheaper than
    # sorting, and ties do not disturb it.
    return jax.lax.fori_loop(0, rank, next_value, jnp.full(len(values), -jnp.inf, values.dtype))
