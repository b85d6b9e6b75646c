"""Removing the scale of each unit before an estimator whose resolution is fixed.

Cells on [-1, 1] and noise of a fixed variance see a layer that is merely multiplied by a
constant as a different one (Goldfeld et al., ICML 2019). What is claimed of a layer should
survive standardising it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from . import _check


def standardize(t: ArrayLike) -> Float[Array | np.ndarray, "n units"]:
    """Give each unit zero mean and unit standard deviation; constant units become zero.

    Cells on [-1, 1] and noise of a fixed variance depend on the scale of a layer; standardized
    units do not. Units of any scale and location are handled without overflow, and integers are
    shifted before they are rounded. Inside `jit` and `vmap` denormal numbers may count as zero.

    Args:
        t: activations, of shape (N, units).

    Returns:
        (t - mean) / std for each unit, (N, units), with the standard deviation over N, in the
        dtype of `t` but at least float32; a numpy array, or a JAX array inside `jit` and `vmap`.

    Raises:
        ValueError: if a shape, dtype or value is wrong; the message says which.
    """
    traced = _check.is_traced(t)
    t = _check.activations("standardize", t, traced=traced)
    return of_unit_variance(t).astype(t.dtype)


def of_unit_variance(t: Any) -> Any:
    """`standardize` without checks: numpy arrays in float64, JAX arrays as enabled."""
    xp = _numpy_of(t)
    wide = of_unit_scale(t, axis=0)
    wide = wide - xp.min(wide, axis=0, keepdims=True)  # exact where the spread is small
    wide = _over_power_of_two(wide, axis=0)
    # The mean of equal numbers may differ from them by rounding, which would be blown up.
    constant = xp.max(wide, axis=0, keepdims=True) == 0
    centred = wide - xp.mean(wide, axis=0, keepdims=True)
    std = xp.sqrt(xp.mean(centred**2, axis=0, keepdims=True))
    return xp.where(constant, 0.0, centred / xp.where(constant, 1.0, std))


def of_unit_scale(t: Any, axis: int | None = None) -> Any:
    """Divided by a power of two such that the largest magnitude is in [1/4, 1/2), exactly."""
    xp = _numpy_of(t)
    wide = t.astype(np.float64 if xp is np else jnp.result_type(float))
    return _over_power_of_two(wide, axis)


def _over_power_of_two(t: Any, axis: int | None) -> Any:
    xp = _numpy_of(t)
    top = xp.max(xp.abs(t), axis=axis, keepdims=True)
    _, exponent = xp.frexp(top if xp is np else jax.lax.stop_gradient(top))
    # In two steps, as 2^-exponent itself may overflow.
    half = exponent // 2
    return xp.ldexp(xp.ldexp(t, -half), half - exponent - 1)


def _numpy_of(t: Any) -> Any:
    return np if isinstance(t, np.ndarray) else jnp
