"""Implicit derivatives in numpy: closed forms and loops, one formula after the other."""

import numpy as np


def ridge(x, y, decay, gradient_of_outer):
    """Weights of 1/2n |x w - y|^2 + 1/2 sum exp(decay) w^2, and d outer(w) / d decay."""
    n = len(y)
    hessian = x.T @ x / n + np.diag(np.exp(decay))
    w = np.linalg.solve(hessian, x.T @ y / n)
    return w, -np.exp(decay) * w * np.linalg.solve(hessian, gradient_of_outer(w))


class Quadratics:
    """inner = z'Az/2 + x'Cz + a'z and outer = z'Fz/2 + x'Kx/2 + x'Dz + f'z + h'x."""

    def __init__(self, slow, fast, seed=0, condition=None):
        rng = np.random.default_rng(seed)
        root = rng.normal(size=(fast, fast))
        self.A = root @ root.T / fast + 0.5 * np.eye(fast)
        if condition is not None:
            axes = np.linalg.qr(root)[0]
            self.A = axes @ np.diag(np.logspace(0, -np.log10(condition), fast)) @ axes.T
        self.C, self.D = rng.normal(size=(2, slow, fast))
        self.F, self.K = np.eye(fast) * 1.5, np.eye(slow) * 0.5
        self.a, self.f = rng.normal(size=(2, fast))
        self.h, self.x = rng.normal(size=(2, slow))

    def inner(self, x, z):
        return 0.5 * z @ self.A @ z + x @ self.C @ z + self.a @ z

    def outer(self, x, z):
        bilinear = 0.5 * z @ self.F @ z + 0.5 * x @ self.K @ x + x @ self.D @ z
        return bilinear + self.f @ z + self.h @ x

    def response(self, x):
        return -np.linalg.solve(self.A, self.C.T @ x + self.a)

    def direct(self, x):
        return self.K @ x + self.D @ self.response(x) + self.h

    def pull(self, x):
        """d outer / dz at the response."""
        return self.F @ self.response(x) + self.D.T @ x + self.f

    def gradient(self, x):
        return self.direct(x) - self.C @ np.linalg.solve(self.A, self.pull(x))

    def hessian(self):
        dz = -np.linalg.solve(self.A, self.C.T)
        return self.K + self.D @ dz + dz.T @ self.D.T + dz.T @ self.F @ dz


def softmax_regression(x, labels, classes, decay):
    """Weights (features, classes) at convergence, by Newton's method, and the Hessian there."""
    n, features = x.shape
    w = np.zeros((features, classes))
    targets = np.eye(classes)[labels]
    for _ in range(50):
        logits = x @ w
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        gradient = x.T @ (p - targets) / n + np.exp(decay) * w
        hessian = np.exp(decay) * np.eye(w.size)
        for row, q in zip(x, p, strict=True):
            hessian += np.kron(np.outer(row, row), np.diag(q) - np.outer(q, q)) / n
        w = w - np.linalg.solve(hessian, gradient.ravel()).reshape(w.shape)
    return w, hessian


def neumann(matrix, b, terms, rate):
    """rate sum_{j < terms} (I - rate A)^j b, with powers of the matrix written out."""
    step = np.eye(len(b)) - rate * matrix
    return rate * sum(np.linalg.matrix_power(step, j) @ b for j in range(terms))


def nystrom(matrix, b, sketch, damping, tail):
    """(A_W + tail (I - U U') + damping I)^(-1) b, with A_W formed as a matrix."""
    image = matrix @ sketch
    low = image @ np.linalg.pinv(sketch.T @ image) @ image.T
    values, axes = np.linalg.eigh((low + low.T) / 2)
    top = axes[:, values > 1e-9 * values.max()]
    rest = np.eye(len(b)) - top @ top.T
    if tail == "captured":
        low = low + values[values > 1e-9 * values.max()].min() * rest
    return np.linalg.solve(low + damping * np.eye(len(b)), b)
