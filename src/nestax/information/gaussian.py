"""The log-determinant value: what a layer plus Gaussian noise could carry if it were Gaussian.

Among all M with one covariance the Gaussian has the largest entropy, so the value is an upper
bound on I(M;X), and a loose one: it knows neither that there are N inputs (no log2 N) nor
that units may be clustered. For two points at +-1 and noise of 0.1 it is 3.33 bits, not 1.
Goldfeld et al., ICML 2019, explain why a fixed noise scale makes it follow weight norms.
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
from ._result import GaussianInformation
from .labels import encode, entropy


def gaussian_upper_bound(
    t: ArrayLike,
    y: ArrayLike | None = None,
    noise_std: ArrayLike = 0.1,
    *,
    epsilon: float | int = 1e-6,
    ddof: int = 1,
    bound: float | int | None = 1.0,
    classes: int | tuple[int, ...] | None = None,
) -> GaussianInformation:
    """Upper bound on I(M;X) for M = T + N(0, (s^2 + epsilon) I) by maximum entropy, in bits.

        x = 0.5 (logdet(Cov(T) + (s^2 + epsilon) I) - units log(s^2 + epsilon)) / ln 2

    as published, with the covariance of numpy and torch (sum over N - 1); ddof=0 divides by N,
    which is the covariance of the N equally likely inputs and also gives an upper bound.
    I(M;Y) = H(M) - sum_y p(y) H(M|y) uses this formula within each class, on the same noisy M; a
    difference of bounds is not a bound, and it may exceed H(Y).

    The noise has a fixed scale, so rescaled activations have another value; see `standardize`. On
    concrete arrays everything is computed in float64; inside `jit` and `vmap` the enabled
    precision is used and values are not checked.

    Args:
        t: activations, of shape (N, units); one row per distinct input.
        y: integer class labels, of shape (N,). A class of one sample has no covariance: zero.
        noise_std: s, in units of `t`; may be traced.
        epsilon: added to the noise variance; at least zero.
        ddof: 1 to divide the covariance by N - 1, 0 to divide it by N.
        bound: largest possible |t|, for `ceiling`; 1 is right for tanh. None if there is none.
        classes: the classes that must occur: a number C for 0 .. C-1, or a tuple of labels.
            Needed inside `jit` and `vmap` if `y` is traced.

    Returns:
        `x`, `y`, `ceiling` and `label_ceiling`, as numpy float64, or as JAX scalars inside `jit`
        and `vmap`. The ceiling is units/2 log2(1 + v / (s^2 + epsilon)), with v = bound^2
        N / (N - ddof) the largest variance; infinite if values exceed the bound.

    Raises:
        ValueError: if a shape, dtype or value is wrong, or several units spread over more than
            1e12 times the noise; the message says which.

    Source: maximum entropy of a Gaussian with a given covariance; Goldfeld et al. (2019) on why a
    fixed noise scale follows the norms of weights.
    """
    name = "gaussian_upper_bound"
    std = _check.positive(name, noise_std, "noise_std", "Without noise the bound is infinite.")
    if bound is not None:
        bound = float(_check.positive(name, bound, "bound", "Give the largest |t|, or None."))
    epsilon = _check.real_number(name, epsilon, "epsilon", "The published value is 1e-6.")
    if not _check.is_traced(epsilon) and not epsilon >= 0:
        raise ValueError(
            f"{name}: epsilon is {epsilon}; expected a finite number of at least 0. The published "
            "value is 1e-6."
        )
    ddof = _check.whole_number(name, ddof, "ddof", 0, 1, "1 divides by N - 1, 0 by N.")
    traced = _check.is_traced(t, y, std, epsilon)
    given = _check.rows(name, t, traced=traced)
    reach = jnp.maximum(jnp.max(given), -(jnp.min(given) + 0.0)) if traced else _reach(given)
    t = _check.activations(name, given, traced=traced)
    n = t.shape[0]
    labels = None if y is None else encode(name, y, n, classes, dense=True)
    known = not _check.is_traced(std, epsilon)
    noise = np.hypot(std, np.sqrt(epsilon)) if known else jnp.hypot(std, jnp.sqrt(epsilon))
    by_values = not traced and _spread(t, noise)
    if traced and known:
        _check.within_range(name, noise, "noise_std and epsilon", "the noise")
    x, within, ceiling = _check.evaluate(
        _bounds,
        t,
        None if labels is None else labels.codes,
        noise,
        reach,
        np.float64(math.inf if bound is None else bound),
        classes=None if labels is None else labels.count,
        ddof=ddof,
        by_values=by_values,
    )
    if labels is None:
        return GaussianInformation(x, None, ceiling, None)
    h_y = entropy(labels)[0]
    label_ceiling = jnp.asarray(h_y, jnp.result_type(float)) if traced else h_y
    return GaussianInformation(x, x - within, ceiling, label_ceiling)


def _reach(t: Any) -> np.float64:
    """The largest magnitude, also of the least integer of a type, which has no opposite there."""
    return np.float64(max(float(t.max()), -float(t.min())))


def _spread(t: Any, noise: Any) -> bool:
    """Whether the spread of t is so far above the noise that squares lose the noise in rounding.

    Raises:
        ValueError: if singular values lose it as well.
    """
    half = t.astype(np.float64) / 2
    with np.errstate(over="ignore"):
        ratio = float(np.max(half.max(axis=0) - half.min(axis=0)) / noise * 2)
    if t.shape[1] > 1 and ratio > 1e12:
        raise ValueError(
            f"gaussian_upper_bound: t spreads over {ratio:.3g} times the standard deviation of the "
            "noise, beside which combinations of units without any spread cannot be told from "
            "noise; expected at most 1e12. Take standardize(t), or a larger noise_std."
        )
    return ratio > 1e5


@functools.partial(jax.jit, static_argnames=("classes", "ddof", "by_values"))
def _bounds(
    t: Float[Array, "n units"],
    labels: Int[Array, " n"] | None,
    noise: Float[Array, ""],
    reach: Float[Array, ""] | Int[Array, ""],
    bound: Float[Array, ""],
    *,
    classes: int | None,
    ddof: int,
    by_values: bool,
) -> tuple[Array, Array | None, Array]:
    """The bound, its mean within classes, and its ceiling, in bits."""
    dtype = jnp.result_type(float)
    t = t.astype(dtype)
    n, units = t.shape
    noise, bound, reach = (a.astype(dtype) for a in (noise, bound, reach))
    t = t - t[:1]  # so that rows of one large value have a mean without rounding

    def information(weights: Float[Array, " n"]) -> Float[Array, ""]:
        members = jnp.sum(weights)
        mean = weights @ t / jnp.maximum(members, 1)
        # Dividing by the noise first subtracts the second logarithm without cancellation, and
        # all eigenvalues are at least 1.
        centred = (t - mean[None, :]) * weights[:, None] / noise
        root = jnp.sqrt(jnp.maximum(members - ddof, 1).astype(dtype))
        if by_values:  # no squares, in which 1 would be lost
            if units == 1:
                largest = jnp.maximum(jnp.max(jnp.abs(centred)), 1)
                values = largest * jnp.linalg.norm(centred / largest, axis=0) / root
            else:
                values = jnp.linalg.svd(centred / root, compute_uv=False)
            return jnp.sum(jnp.log2(jnp.hypot(values, jnp.ones_like(values))))
        covariance = centred.T @ centred / root**2
        factor = jnp.linalg.cholesky(jnp.eye(units, dtype=dtype) + covariance)
        return jnp.sum(jnp.log2(jnp.diagonal(factor)))

    x = information(jnp.ones(n, dtype))
    largest = bound / noise * (n / (n - ddof)) ** 0.5
    ceiling = units * jnp.log2(jnp.hypot(largest, jnp.ones_like(largest)))
    ceiling = jnp.where(reach <= bound, ceiling, jnp.inf)
    if labels is None or classes is None:
        return x, None, ceiling

    def within(label: Array) -> Any:
        members = (labels == label).astype(dtype)
        return jnp.mean(members) * information(members)

    return x, jnp.sum(jax.lax.map(within, jnp.arange(classes))), ceiling
