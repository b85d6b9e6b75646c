"""Spectra of optimizers in games, in plain numpy: matrices written out and polynomials' roots."""

import numpy as np


def momentum_roots(eigenvalue: complex, rate: float, beta: complex) -> np.ndarray:
    """The roots of (x - 1)(x^2 - 2 Re beta x + |beta|^2) + rate lambda x (x - Re beta)."""
    memory = np.poly([beta, np.conj(beta)])
    both = np.polymul([1, -1], memory)
    return np.roots(np.polyadd(both, rate * eigenvalue * np.array([1, -beta.real, 0])))


def momentum_matrix(jacobian: np.ndarray, rate: complex, beta: complex) -> np.ndarray:
    """The augmented matrix on (Re mu, Im mu, omega) as the paper prints it."""
    eye, zero = np.eye(len(jacobian)), np.zeros_like(jacobian)
    both = rate * beta
    return np.block(
        [
            [beta.real * eye, -beta.imag * eye, -jacobian],
            [beta.imag * eye, beta.real * eye, zero],
            [both.real * eye, -both.imag * eye, eye - rate.real * jacobian],
        ]
    )


def one_sided_matrix(rate: float, beta: complex, other: complex) -> np.ndarray:
    """x has the decay beta and y has `other`, on min_x max_y x y, moving at once.

    State: Re mu_x, Re mu_y, Im mu_x, Im mu_y, x, y; the gradients are y and -x.
    """
    return np.array(
        [
            [beta.real, 0, -beta.imag, 0, 0, -1],
            [0, other.real, 0, -other.imag, 1, 0],
            [beta.imag, 0, beta.real, 0, 0, 0],
            [0, other.imag, 0, other.real, 0, 0],
            [rate * beta.real, 0, -rate * beta.imag, 0, 1, -rate],
            [0, rate * other.real, 0, -rate * other.imag, rate, 1],
        ]
    )


def heavy_ball_optimum(smallest: float, largest: float) -> tuple[float, float, float]:
    """Polyak's rate, momentum and spectral radius for real eigenvalues in an interval."""
    a, b = np.sqrt(smallest), np.sqrt(largest)
    return 4 / (a + b) ** 2, ((b - a) / (b + a)) ** 2, (b - a) / (b + a)


def steps(
    jacobian: np.ndarray,
    start: np.ndarray,
    rate: float,
    beta: complex,
    tolerance: float,
    limit: int,
    first: int = 0,
) -> float:
    """Steps until |J x| has shrunk to tolerance, one run in a Python loop; inf where it does not.

    With `first` > 0 so many components move first, and the others see where they arrived.
    """
    x, momentum = start.copy(), np.zeros(len(start), complex)
    begin = np.linalg.norm(jacobian @ x)
    for step in range(limit + 1):
        norm = np.linalg.norm(jacobian @ x)
        if norm <= tolerance * begin:
            return step
        if not norm <= 1e6 * begin:
            return np.inf
        for part in (slice(0, first), slice(first, None)) if first else (slice(None),):
            momentum[part] = beta * momentum[part] - (jacobian @ x)[part]
            x[part] = x[part] + rate * np.real(momentum[part])
    return np.inf


def matched(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest distance when each number found is paired with the nearest one left."""
    left, worst = list(np.asarray(expected)), 0.0
    for value in np.asarray(found):
        distances = np.abs(np.array(left) - value)
        worst = max(worst, float(distances.min()))
        left.pop(int(distances.argmin()))
    return worst if not left else np.inf
