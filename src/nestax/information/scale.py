"""Removing the scale of each unit before an estimator whose resolution is fixed.

Cells on [-1, 1] and noise of a fixed variance see a layer that is merely multiplied by a
constant as a different one (Goldfeld et al., ICML 2019). What is claimed of a layer should
survive standardising it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from . import _check


def standardize(t: ArrayLike) -> Float[Array | np.ndarray, "n units"]:
    """Give each unit zero mean and unit standard deviation; constant units become zero.

    Args:
        t: activations, of shape (N, units).

    Returns:
        (t - mean) / std for each unit, with the standard deviation over N, in the dtype of `t`
        but at least float32; a numpy array, or a JAX array inside `jit` and `vmap`.

    Raises:
        ValueError: if a shape, dtype or value is wrong; the message says which.
    """
    traced = _check.is_traced(t)
    t = _check.activations(t, traced=traced)
    return _check.evaluate(_standardize, t)


@jax.jit
def _standardize(t: Float[Array, "n units"]) -> Float[Array, "n units"]:
    wide = t.astype(jnp.result_type(float))
    # The mean of equal numbers may differ from them by rounding, which would be blown up.
    constant = jnp.max(wide, axis=0) == jnp.min(wide, axis=0)
    centred = wide - jnp.mean(wide, axis=0, keepdims=True)
    std = jnp.sqrt(jnp.mean(centred**2, axis=0))
    scaled = centred / jnp.where(constant, 1.0, std)[None, :]
    return jnp.where(constant[None, :], 0.0, scaled).astype(t.dtype)
