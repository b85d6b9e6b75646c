"""The numbers of the migration page by numpy alone, in float64: loops written out, linear systems
solved directly, derivatives by central differences. Nothing here differentiates by a library.
"""

import math
from collections.abc import Callable

import numpy as np

X = np.cos(np.arange(40.0) ** 2).reshape(20, 2)
Y = X[:, 0] + np.sin(np.arange(20.0) ** 2)
TRAIN, VALID = slice(0, 10), slice(10, 20)
SCALES = (1.0, -2.0, 3.0)


def error(w, rows, scale=1.0):
    return np.mean((X[rows] @ w - scale * Y[rows]) ** 2) / 2


def error_gradient(w, rows, scale=1.0):
    return X[rows].T @ (X[rows] @ w - scale * Y[rows]) / 10


def slope(function: Callable, at: float, step: float = 1e-3) -> float:
    """A derivative by central differences of fourth order."""
    near, far = (function(at + k * step) - function(at - k * step) for k in (1, 2))
    return float(8 * near - far) / (12 * step)


def slopes(function: Callable, point: np.ndarray) -> np.ndarray:
    axes = np.eye(len(point))
    return np.array([slope(lambda t, e=e: function(point + t * e), 0.0) for e in axes])


def adam(gradient: Callable, w: np.ndarray, rate: float, steps: int) -> np.ndarray:
    first, second = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, steps + 1):
        g = gradient(w)
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        step = (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        w = w - rate * step
    return w


def inner_gradient(w, decay):
    return error_gradient(w, TRAIN) + np.exp(decay) * w


def descent(w, decay, steps, clip=False):
    for _ in range(steps):
        w = w - 0.5 * inner_gradient(w, decay)
        w = np.maximum(w, 0) if clip else w
    return w


def hessian(decay):
    return X[TRAIN].T @ X[TRAIN] / 10 + np.exp(decay) * np.eye(2)


def minimum(decay):
    return np.linalg.solve(hessian(decay), X[TRAIN].T @ Y[TRAIN] / 10)


def neumann(matrix, vector):
    return 0.5 * sum(
        np.linalg.matrix_power(np.eye(2) - 0.5 * matrix, j) @ vector for j in range(10)
    )


def at_point(w, decay, solve):
    """The implicit derivative of the validation error with respect to the log decay."""
    return -np.exp(decay) * w @ solve(hessian(decay), error_gradient(w, VALID))


def trained_decay(solve):
    w, decay = np.zeros(2), -2.0
    for _ in range(10):
        w = descent(w, decay, 20)
        decay = decay - 5.0 * at_point(w, decay, solve)
    return decay


def adapted(w, scale, rate, momentum):
    trace = np.zeros(2)
    for _ in range(5):
        trace = momentum * trace + error_gradient(w, TRAIN, scale)
        w = w - rate * trace
    return w


def query_error(w, rate, momentum):
    return np.mean([error(adapted(w, s, rate, momentum), VALID, s) for s in SCALES])


def first_order(w):
    return np.mean([error_gradient(adapted(w, s, 0.5, 0.0), VALID, s) for s in SCALES], axis=0)


def begin_and_rate():
    def gradient(point):
        return slopes(lambda p: query_error(p[:2], p[2], 0.9), point)

    end = adam(gradient, np.array([0.0, 0.0, 0.3]), 0.02, 20)
    return [end[:2].sum(), end[2]]


def smoothed_mistakes(first):
    """The mean share of wrong signs under noise of standard deviation 0.5 on the weights."""
    margin = np.where(Y > 0, 1, -1) * (X @ [first, 0.2]) / (0.5 * np.linalg.norm(X, axis=1))
    return np.mean([math.erfc(m / math.sqrt(2)) / 2 for m in margin])


def unrolled_adam(decay):
    return error(adam(lambda w: inner_gradient(w, decay), np.zeros(2), 0.1, 20), VALID)


def references() -> dict[str, list[float]]:
    """By the name of a program, what it should print."""
    exact, same = np.linalg.solve, lambda matrix, vector: vector
    implicit = slope(lambda decay: error(minimum(decay), VALID), -2.0)
    wrong_signs = slope(smoothed_mistakes, 0.3)
    meta = adam(lambda w: slopes(lambda p: query_error(p, 0.5, 0.0), w), np.zeros(2), 0.1, 20)
    ten = descent(np.zeros(2), -2.0, 10)
    through = slope(lambda decay: error(descent(np.zeros(2), decay, 10), VALID), -2.0)
    bound = slope(lambda decay: error(descent(np.ones(2), decay, 300, clip=True), VALID), -2.0)
    return {
        "TorchOpt: Unrolled": [slope(unrolled_adam, -2.0)],
        "TorchOpt: Implicit": [implicit],
        "TorchOpt: Implicit, Neumann series": [at_point(minimum(-2.0), -2.0, neumann)],
        "TorchOpt: Zero-order": [wrong_signs],
        'TorchOpt: Zero-order, method="forward"': [wrong_signs],
        "higher": begin_and_rate(),
        "learn2learn": [meta.sum()],
        "learn2learn, first order": [adam(first_order, np.zeros(2), 0.1, 20).sum()],
        "Betty": [trained_decay(neumann)],
        'Betty, type="cg"': [trained_decay(exact)],
        'Betty, type="darts"': [trained_decay(same)],
        "JAXopt: A training loop, differentiated": [through, at_point(ten, -2.0, exact)],
        "JAXopt: A solver of your own": [implicit],
        "JAXopt: A solver of your own, fixed point": [implicit],
        "JAXopt: A constraint": [bound],
    }


if __name__ == "__main__":
    for name, numbers in references().items():
        print(f"{name:45}", *(f"{number:.8f}" for number in numbers))
