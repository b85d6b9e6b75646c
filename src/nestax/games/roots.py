"""Roots of many small polynomials at once, as one elementwise program on every kind of device."""

import jax
import jax.numpy as jnp

_MOST = 32  # rounds; simple roots take about 8, at a multiple root each round halves the error


def quadratic_roots(b: jax.Array, c: jax.Array) -> jax.Array:
    """The roots of x^2 + b x + c, complex, on a last axis of two."""
    root = jnp.sqrt(b * b - 4 * c)
    root = jnp.where(jnp.real(jnp.conj(b) * root) < 0, -root, root)  # b + root does not cancel
    large = -(b + root) / 2
    safe = jnp.where(large == 0, 1, large)
    return jnp.stack([large, jnp.where(large == 0, 0, c / safe)], axis=-1)


def cubic_roots(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """The roots of x^3 + a x^2 + b x + c, complex, on a last axis of three.

    By the iteration of Aberth and Ehrlich from three points of a circle around the roots' mean. As
    with eigenvalues of companion matrices, the error at a double root is the square root of the
    rounding error.
    """
    a, b, c = (x[..., None] for x in jnp.broadcast_arrays(a, b, c))
    bound = 2 * jnp.maximum(jnp.maximum(jnp.abs(a), jnp.sqrt(jnp.abs(b))), jnp.cbrt(jnp.abs(c)))
    bound = jnp.where(bound > 0, bound, 1)
    a, b, c = a / bound, b / bound**2, c / bound**3  # the roots are in the unit disk
    angles = jnp.exp(1j * (2 * jnp.pi / 3 * jnp.arange(3) + 0.4)).astype(a.dtype)
    start = -a / 3 + angles[(None,) * (a.ndim - 1)]

    def square(x: jax.Array) -> jax.Array:
        return jnp.real(x) ** 2 + jnp.imag(x) ** 2

    def inverse(x: jax.Array) -> jax.Array:
        """1 / x, and 0 for 0; a fraction of the time of XLA's division, which need not scale."""
        size = square(x)
        return jnp.conj(x) * jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)

    def closer(carry: tuple) -> tuple:
        count, x, _ = carry
        newton = (((x + a) * x + b) * x + c) * inverse((3 * x + 2 * a) * x + b)
        others = inverse(x - jnp.roll(x, 1, -1)) + inverse(x - jnp.roll(x, 2, -1))
        change = newton * inverse(1 - newton * others)
        return count + 1, x - change, (square(change) > rounding**2 * square(x)).any()

    def running(carry: tuple) -> jax.Array:
        return carry[-1] & (carry[0] < _MOST)

    rounding = 4 * jnp.finfo(start.dtype).eps
    found = jax.lax.while_loop(running, closer, (jnp.array(0), start, jnp.array(True)))[1]
    return bound * found
