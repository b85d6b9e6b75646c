"""Lower-triangular matrices of a chunk: products of decays, and inverses."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

SMALL = 4  # up to this size a call of a matrix product costs more than the product


def products_between(factors: Float[Array, " n"]) -> Float[Array, "n n"]:
    """P_ti = product of the factors strictly between i and t for i < t, and 0 for i >= t.

    Formed by products alone: factors of zero are as good as any, and none of the accuracy is lost
    that a difference of sums of logarithms would lose. Nor does the derivative, P diag(df) P,
    divide.
    """
    size = factors.shape[0]
    if size <= 2:  # does not depend on them, and a custom rule must not tell `vmap` that it does
        return jnp.tri(size, k=-1, dtype=factors.dtype)
    return _products_between(factors)


@jax.custom_jvp
def _products_between(factors: Array) -> Array:
    size = factors.shape[0]
    padded = _power_of_two(size)
    total = jnp.concatenate([factors, jnp.ones(padded - size, factors.dtype)])
    # Of each block along the diagonal, with the products of what precedes and of what follows a
    # token in its block.
    between = jnp.zeros((padded, 1, 1), factors.dtype)
    preceding = following = jnp.ones((padded, 1), factors.dtype)
    while between.shape[0] > 1:
        corner = preceding[1::2, :, None] * following[0::2, None, :]
        between = _join(between, corner)
        preceding = jnp.concatenate([preceding[0::2], total[0::2, None] * preceding[1::2]], 1)
        following = jnp.concatenate([following[0::2] * total[1::2, None], following[1::2]], 1)
        total = total[0::2] * total[1::2]
    return between[0, :size, :size]


@_products_between.defjvp
def _products_between_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (factors,), (change,) = primals, tangents
    between = _products_between(factors)
    return between, _times(between * change[None, :], between)


def inverse_unit_lower(lower: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """(I + L)^-1 for L strictly lower triangular, from the inverses of blocks of half the size.

    [[A, 0], [L, D]]^-1 = [[A^-1, 0], [-D^-1 L A^-1, D^-1]]. It is as accurate as substitution, and
    log2(n) pairs of matrix products instead of n steps.
    """
    if lower.shape[0] == 1:
        return jnp.ones_like(lower)
    return _inverse_unit_lower(lower)


@jax.custom_jvp
def _inverse_unit_lower(lower: Array) -> Array:
    size = lower.shape[0]
    padded = _power_of_two(size)
    lower = jnp.pad(lower, ((0, padded - size), (0, padded - size)))
    inverse = jnp.ones((padded, 1, 1), lower.dtype)
    while inverse.shape[0] > 1:
        count, half, _ = inverse.shape
        blocks = lower.reshape(count // 2, 2, half, count // 2, 2, half)[:, 1, :, :, 0, :]
        corner = jnp.moveaxis(jnp.diagonal(blocks, axis1=0, axis2=2), -1, 0)
        inverse = _join(inverse, -_times(_times(inverse[1::2], corner), inverse[0::2]))
    return inverse[0, :size, :size]


@_inverse_unit_lower.defjvp
def _inverse_unit_lower_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (lower,), (change,) = primals, tangents
    inverse = _inverse_unit_lower(lower)
    return inverse, -_times(_times(inverse, change), inverse)


def _join(blocks: Array, corners: Array) -> Array:
    """Lower-triangular blocks (n, s, s), in pairs with what is below the first: (n/2, 2s, 2s)."""
    upper = jnp.concatenate([blocks[0::2], jnp.zeros_like(corners)], 2)
    return jnp.concatenate([upper, jnp.concatenate([corners, blocks[1::2]], 2)], 1)


def _times(a: Array, b: Array) -> Array:
    if a.shape[-1] <= SMALL:
        return jnp.sum(a[..., :, :, None] * b[..., None, :, :], -2)
    # Errors made here are carried through the whole chunk.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
