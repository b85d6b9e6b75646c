"""Functions of a matrix: orthogonalisation, spectral norms.

Matrices follow y = W x: W is (out, in). Newton-Schulz: Jordan et al., "Muon" (2024); as nested
learning: Behrouz et al., "Nested Learning" (2025), eq. (42-44).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from ._checks import array, number, whole
from ._descent import over_rms, root_mean_square, squared_modulus

QUINTIC = (3.4445, -4.7750, 2.0315)
CUBIC = (1.5, -0.5, 0.0)


def newton_schulz(
    matrix: Array,
    steps: int = 5,
    coefficients: str | tuple[float, float, float] = "quintic",
) -> Inexact[Array, "rows columns"]:
    r"""Drives all singular values of a matrix toward one: U S V' -> about U V'.

        X_0 = M / |M|_F,    X <- a X + b (X X') X + c (X X')^2 X

    `"cubic"` (3/2, -1/2, 0) converges to U V' exactly and is a gradient step on the memory's own
    objective, X - (1/8) grad |X'X - I|_F^2; it needs 10 to 15 steps. `"quintic"`, Muon's
    (3.4445, -4.7750, 2.0315), brings singular values to about [0.7, 1.2] in five steps and never
    closer; those that start below a thousandth of the norm need more. A zero matrix stays zero. The
    result does not depend on the scale of the matrix.

    Args:
        matrix: (rows, columns).
        steps: iterations, 0 or more; 0 only divides by the norm.
        coefficients: `"quintic"`, `"cubic"`, or (a, b, c).

    Returns:
        The matrix with singular values near one, (rows, columns).

    Raises:
        ValueError: not a matrix, negative steps, unknown coefficients.

    Source: Jordan et al., "Muon" (2024); Behrouz et al., "Nested Learning" (2025), eq.
    (42-44), whose (44) with zeta = 1/4 is the first of these cubic steps.
    """
    matrix = array("newton_schulz", "matrix", matrix, complex_numbers=True)
    if matrix.ndim != 2:
        raise ValueError(
            f"newton_schulz: matrix must have two axes, expected a matrix, got shape {matrix.shape}"
            "; for a batch of matrices use jax.vmap"
        )
    check_newton_schulz("newton_schulz", steps, coefficients)
    if matrix.size == 0:
        return matrix
    a, b, c = _coefficients(coefficients)
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.conj().T if tall else matrix
    # Frobenius norm 1, by way of the root mean square, which small numbers do not underflow.
    x = over_rms(x, root_mean_square(x)) / jnp.sqrt(jnp.asarray(x.size, x.real.dtype))

    def step(x: Array, _: None) -> tuple[Array, None]:
        gram = x @ x.conj().T
        polynomial = b * gram + c * (gram @ gram) if c else b * gram
        return a * x + polynomial @ x, None

    x, _ = jax.lax.scan(step, x, None, steps)
    return x.conj().T if tall else x


def check_newton_schulz(name: str, steps: Any, coefficients: Any) -> None:
    """Refuses what is no number of iterations, and no coefficients."""
    whole(name, "steps", steps, 0)
    _coefficients(coefficients, name)


def _coefficients(coefficients: Any, name: str = "newton_schulz") -> tuple[float, float, float]:
    known = {"quintic": QUINTIC, "cubic": CUBIC}
    if isinstance(coefficients, str) and coefficients in known:
        return known[coefficients]
    if isinstance(coefficients, tuple) and len(coefficients) == 3:
        a, b, c = (number(name, "coefficients", x, -math.inf) for x in coefficients)
        return a, b, c
    raise ValueError(
        f'{name}: coefficients must be "quintic", "cubic" or three numbers (a, b, c), '
        f"got {coefficients!r:.60}"
    )


_SQUARINGS = 4


def largest_eigenvalue(gram: Inexact[Array, "n n"]) -> Float[Array, ""]:
    """A bound from above on the largest eigenvalue of a positive semidefinite matrix.

    It is the Schatten norm |A|_{32} = |A^16|_F^(1/16), at most n^(1/32) too large (14 % for n = 64)
    and exact where one direction dominates; unlike a power iteration it needs no start, never falls
    short, and so guarantees stability. Zero for zero.
    """
    bound = jnp.ones((), gram.real.dtype)
    for squaring in range(_SQUARINGS + 1):
        gram = gram @ gram if squaring else gram
        square = jnp.sum(squared_modulus(gram))
        safe = jnp.sqrt(jnp.where(square > 0, square, 1))  # no root of zero, see root_mean_square
        top = jnp.where(square > 0, safe, 0)
        gram = gram / safe
        bound = bound * (safe ** (0.5**squaring) if squaring else top)
    return bound
