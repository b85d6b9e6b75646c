"""Exponents in exact arithmetic, and the published ones written out in NumPy."""

import itertools
import math
from fractions import Fraction

import numpy as np


def exact_exponents(jacobians):
    """(1/steps) log of the singular values of `jacobians[-1] ... jacobians[0]`, largest first.

    The product is exact, in fractions. The i x i minors of it are a matrix whose largest singular
    value is the product of the i largest of the product: a largest one never drowns in rounding.
    """
    n = len(jacobians[0])
    product = [[Fraction(int(i == j)) for j in range(n)] for i in range(n)]
    for jacobian in jacobians:
        rows = [[Fraction(float(a)) for a in row] for row in jacobian]
        product = [
            [sum(rows[i][m] * product[m][j] for m in range(n)) for j in range(n)] for i in range(n)
        ]
    volumes = [0.0, *(_log_norm(_minors(product, size)) for size in range(1, n + 1))]
    found = [
        -math.inf if math.isinf(b) else (b - a) / len(jacobians)
        for a, b in itertools.pairwise(volumes)
    ]
    return np.array(found)


def _minors(matrix, size):
    chosen = list(itertools.combinations(range(len(matrix)), size))
    return [[_determinant([[matrix[i][j] for j in c] for i in r]) for c in chosen] for r in chosen]


def _determinant(matrix):
    if len(matrix) == 1:
        return matrix[0][0]
    return sum(
        (-1) ** j * matrix[0][j] * _determinant([row[:j] + row[j + 1 :] for row in matrix[1:]])
        for j in range(len(matrix))
        if matrix[0][j]
    )


def _log_norm(matrix):
    largest = max(abs(a) for row in matrix for a in row)
    if largest == 0:
        return -math.inf
    scaled = [[float(a / largest) for a in row] for row in matrix]
    log = math.log(largest.numerator) - math.log(largest.denominator)
    return log + math.log(np.linalg.svd(scaled, compute_uv=False)[0])


def published(jacobians, start, direction, matrix, iterations):
    """Mean log d' M d, with d from power iteration at step 0 or at every step."""
    d, found = start / np.linalg.norm(start), []
    for t, jacobian in enumerate(jacobians):
        m = jacobian.T @ jacobian if matrix == "J^T J" else jacobian @ jacobian.T
        for _ in range(iterations if direction == "each" or t == 0 else 0):
            d = m @ d / np.linalg.norm(m @ d)
        found.append(np.log(d @ m @ d))
    return np.mean(found)


def differences(function, point, h=1e-5):
    """The Jacobian by central differences of fourth order, shape (outputs, n)."""
    values = np.stack([np.asarray(function(y)) for y in stencil(point, h)])
    return slope(values, h)


def stencil(point, h):
    """The point, and those around it that `slope` needs: shape (1 + 4 n, n)."""
    moves = [np.zeros_like(point)]
    moves += [a * h * e for e in np.eye(len(point)) for a in (1, -1, 2, -2)]
    return point + np.stack(moves)


def slope(values, h):
    """The Jacobian from the values at a stencil's points, shape (..., n)."""
    near, back, far, before = np.moveaxis(
        np.reshape(values[1:], (-1, 4, *np.shape(values)[1:])), 1, 0
    )
    return np.moveaxis(8 * (near - back) - (far - before), 0, -1) / (12 * h)


def coupled_quartic(d):
    """A rotated sum of y_i^4/4 - c_i y_i^2/2 + y_i y_(i+1)/20 with c from 0.5 to 1.5.

    Returns:
        Its rotation and c, and all of its 2^d minima, shape (2^d, d), in rotated coordinates: by
        Newton's method from the minima without the coupling.
    """
    turn = np.linalg.qr(np.random.default_rng(d).normal(size=(d, d)))[0]
    c, coupling = np.linspace(0.5, 1.5, d), 0.05 * (np.eye(d, k=1) + np.eye(d, k=-1))
    minima = []
    for signs in itertools.product((-1, 1), repeat=d):
        y = np.array(signs) * np.sqrt(c)
        for _ in range(20):
            hessian = np.diag(3 * y**2 - c) + coupling
            y = y - np.linalg.solve(hessian, y**3 - c * y + coupling @ y)
        assert np.linalg.eigvalsh(hessian)[0] > 0
        minima.append(turn @ y)
    return turn, c, np.array(minima)
