"""The quadratic bilevel problem of benchmark_bilevel, from its description, and its solution.

    g(x, z) = mean_i  z'A_i z / 2 + x'C_i z + a_i'z
    f(x, z) = mean_j  z'F_j z / 2 + x'K_j x / 2 + x'D_j z + f_j'z + h_j'x

A_i, F_j and K_j are squares of vectors drawn from a normal distribution whose covariance has
eigenvalues from 1/condition to 1, so that their means only approach them.
"""

from typing import NamedTuple

import numpy as np


class Inner(NamedTuple):
    """Samples of g along the leading axis; the mean over any of them is a batch of it."""

    A: np.ndarray
    C: np.ndarray
    a: np.ndarray

    def __call__(self, x, z):
        A, C, a = (part.mean(0) for part in self)
        return z @ A @ z / 2 + x @ C @ z + a @ z


class Outer(NamedTuple):
    F: np.ndarray
    K: np.ndarray
    D: np.ndarray
    f: np.ndarray
    h: np.ndarray

    def __call__(self, x, z):
        F, K, D, f, h = (part.mean(0) for part in self)
        return z @ F @ z / 2 + x @ K @ x / 2 + x @ D @ z + f @ z + h @ x


def draw(seed=0, samples=512, slow=20, fast=20, condition=10.0, coupling=0.1):
    """An inner and an outer function of this many samples each."""
    rng = np.random.default_rng(seed)

    def squares(size):
        basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
        scales = np.sqrt(np.geomspace(1 / condition, 1, size))
        rows = rng.normal(size=(samples, size)) @ (basis * scales) @ basis.T
        return rows[:, :, None] * rows[:, None, :]

    def rectangles():
        left = np.linalg.qr(rng.normal(size=(slow, slow)))[0]
        right = np.linalg.qr(rng.normal(size=(fast, fast)))[0]
        scales = np.zeros((slow, fast))
        np.fill_diagonal(scales, np.geomspace(coupling / condition, coupling, min(slow, fast)))
        noise = 0.1 * coupling * rng.normal(size=(samples, slow, fast))
        return left @ scales @ right + noise

    def vectors(size):
        return rng.normal(size=(samples, size))

    inner = Inner(squares(fast), rectangles(), vectors(fast))
    outer = Outer(squares(fast), squares(slow), rectangles(), vectors(fast), vectors(slow))
    return inner, outer


def hypergradient(inner, outer, x):
    """Of f(x, z*(x)), in closed form."""
    A, C, a = (part.mean(0) for part in inner)
    F, K, D, f, h = (part.mean(0) for part in outer)
    z = -np.linalg.solve(A, C.T @ x + a)
    return K @ x + D @ z + h - C @ np.linalg.solve(A, F @ z + D.T @ x + f)


def batched(function, count):
    """Its samples cut into this many batches, along the leading axis."""
    return type(function)(*(x.reshape(count, -1, *x.shape[1:]) for x in function))
