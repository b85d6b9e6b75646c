"""Roots of second moments, kept as such: the squares of gradients need not be representable.

In float32 the square of 1e-23 is zero and that of 1e20 is infinite, though gradients of both sizes
occur (sums over large batches, scaled losses). Averages of squares are therefore stored as their
roots.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._descent import square_root, squared_modulus


def rooted(kept: Any, root: Array, added: Any, value: Array) -> Array:
    """sqrt(kept root^2 + added |value|^2), elementwise, without overflow or underflow.

    Its derivative is zero where both are zero; optimizers are differentiated there.
    """
    parts = jnp.abs(value.real)
    if jnp.iscomplexobj(value):
        parts = jnp.maximum(parts, jnp.abs(value.imag))
    # The result does not depend on this scale, so that it needs no derivative.
    top = jax.lax.stop_gradient(jnp.maximum(root, parts))
    safe = jnp.where(top > 0, top, 1)
    return top * square_root(kept * jnp.square(root / safe) + added * squared_modulus(value / safe))


def fairly(root: Array, decay: Any, count: Array) -> Array:
    """The root with the bias of an average that began at zero `count` updates ago corrected."""
    return root / jnp.sqrt(1 - jnp.asarray(decay, root.dtype) ** count.astype(root.dtype))
