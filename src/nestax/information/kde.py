"""Bounds on the information of a layer seen through Gaussian noise, from pairwise distances.

Kolchinsky & Tracey, "Estimating mixture entropy with pairwise distances", Entropy 2017: the
noisy layer M = T + N(0, s^2 I) is a mixture of N Gaussians of equal weight, whose entropy is
bracketed by using the Kullback-Leibler divergence (above) and the Bhattacharyya distance
(below) between components. Used for networks by Saxe et al., ICLR 2018.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from . import _check
from ._pairs import map_blocks, squared_distances
from ._result import KDEInformation, assert_consistent
from .labels import encode, entropy


def kde_bounds(
    t: ArrayLike,
    y: ArrayLike | None = None,
    noise_variance: ArrayLike = 0.1,
    *,
    classes: int | tuple[int, ...] | None = None,
) -> KDEInformation:
    """Bounds on I(M;X) for M = T + N(0, s^2 I), and the values for I(M;Y) they give, in bits.

    In nats, with d the squared Euclidean distance of two rows:

        x_upper = -(1/N) sum_i ln (1/N) sum_j exp(-d_ij / (2 s^2))
        x_lower = -(1/N) sum_i ln (1/N) sum_j exp(-d_ij / (8 s^2))

    I(M;Y) = H(M) - sum_y p(y) H(M|y) with the same kind of bound in both terms. A difference
    of bounds is not a bound: the true I(M;Y) may be outside [y_lower, y_upper], and y_lower may
    exceed y_upper. Each does keep to I(M;Y) <= min(I(M;X), H(Y)), which is checked.

    Time is O(N^2 units), memory O(N): use two to four thousand rows. The noise has a fixed
    scale, so rescaled activations have other bounds; see `standardize`. On concrete arrays
    everything is computed in float64; inside `jit` and `vmap` the enabled precision is used and
    values are not checked.

    Args:
        t: activations, of shape (N, units); one row per distinct input.
        y: integer class labels, of shape (N,).
        noise_variance: s^2, in squared units of `t`; may be traced.
        classes: the classes that must occur: a number C for 0 .. C-1, or a tuple of labels.

    Returns:
        `x_lower`, `x_upper`, `y_lower`, `y_upper`, `ceiling` (log2 N) and `label_ceiling` (H(Y)),
        as numpy float64, or as JAX scalars inside `jit` and `vmap`. `y_lower`, `y_upper` and
        `label_ceiling` are None without labels.

    Raises:
        ValueError: if a shape, dtype or value is wrong; the message says which.
        RuntimeError: if I(M;Y) <= min(I(M;X), H(Y)) does not hold, which is a bug.

    Source: Kolchinsky and Tracey, "Estimating mixture entropy with pairwise distances" (2017); for
    networks Saxe et al. (2018).
    """
    why = "Without noise I(T;X) is log2 N whatever T is."
    variance = _check.positive("kde_bounds", noise_variance, "noise_variance", why)
    traced = _check.is_traced(t, y, variance)
    t = _check.activations("kde_bounds", t, traced=traced)
    n = t.shape[0]
    labels = None if y is None else encode("kde_bounds", y, n, classes)
    std = variance**0.5
    if traced and not _check.is_traced(std):
        _check.within_range("kde_bounds", std, "noise_variance", "the noise")
    x, within = _check.evaluate(_entropies, t, None if labels is None else labels.codes, std)
    ceiling = _check.constant(math.log2(n), traced)
    if labels is None:
        return KDEInformation(x[0], x[1], None, None, ceiling, None)
    h_y = entropy(labels)[0]
    label_ceiling = jnp.asarray(h_y, jnp.result_type(float)) if traced else h_y
    y_lower, y_upper = x[0] - within[0], x[1] - within[1]
    if not traced:
        assert_consistent(x[0], y_lower, h_y, "kde_bounds")
        assert_consistent(x[1], y_upper, h_y, "kde_bounds")
    return KDEInformation(x[0], x[1], y_lower, y_upper, ceiling, label_ceiling)


@jax.jit
def _entropies(
    t: Float[Array, "n units"], labels: Int[Array, " n"] | None, std: Float[Array, ""]
) -> tuple[tuple[Array, Array], tuple[Array, Array] | None]:
    """Lower and upper bound on H(M) - H(noise), and on its mean within classes, in bits."""
    dtype = jnp.result_type(float)
    t = t.astype(dtype)
    precision = 1 / std.astype(dtype)

    def sums(rows: Array, own: Array | None) -> Any:
        # Each sum holds the row itself, whose term is exactly 1, so that the logarithms need no
        # shift. The kernel of the upper bound is the fourth power of that of the lower one.
        lower = jnp.exp(squared_distances(rows, t, precision) / -8)
        upper = jnp.square(jnp.square(lower))
        total = (jnp.sum(lower, axis=1), jnp.sum(upper, axis=1))
        if own is None or labels is None:
            return total, None
        same = own[:, None] == labels[None, :]
        inside = (
            jnp.sum(jnp.where(same, lower, 0), axis=1),
            jnp.sum(jnp.where(same, upper, 0), axis=1),
        )
        return total, (*inside, jnp.sum(same, axis=1))

    def mean_bits(total: Array, members: Any) -> Array:
        return jnp.mean(jnp.log2(members / total))

    total, inside = map_blocks(sums, t, labels)
    n = jnp.asarray(t.shape[0], dtype)
    everywhere = (mean_bits(total[0], n), mean_bits(total[1], n))
    if inside is None:
        return everywhere, None
    # Averaging over rows weights each class by its share.
    members = inside[2].astype(dtype)
    return everywhere, (mean_bits(inside[0], members), mean_bits(inside[1], members))
