"""The coordinatewise LSTM in numpy, one coordinate and one gate at a time."""

import numpy as np


def seen(g, p):
    if p is None:
        return np.array([g])
    if abs(g) >= np.exp(-p):
        return np.array([np.log(abs(g)) / p, np.sign(g)])
    return np.array([-1.0, np.exp(p) * g])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cell(weights, x, h, c):
    """One step of one layer; the gates lie side by side as input, forget, candidate, output."""
    n = len(h)
    gates = []
    for start in range(0, 4 * n, n):
        part = slice(start, start + n)
        gates.append(
            weights["input"][:, part].T @ x
            + weights["hidden"][:, part].T @ h
            + weights["bias"][part]
        )
    i, f, g, o = gates
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def lstm_updates(theta, stream, scale, preprocess):
    """Updates of one tensor along a list of gradients, in float64."""
    layers = theta["layers"]
    size = len(layers[0]["hidden"])
    memories = [
        [(np.zeros(size), np.zeros(size)) for _ in layers] for _ in range(np.size(stream[0]))
    ]
    out = []
    for gradient in stream:
        update = []
        for g, memory in zip(np.ravel(gradient), memories, strict=True):
            x = seen(float(g), preprocess)
            for index, weights in enumerate(layers):
                memory[index] = cell(weights, x, *memory[index])
                x = memory[index][0]
            update.append(
                scale * (theta["output"]["weights"][:, 0] @ x + theta["output"]["bias"][0])
            )
        out.append(np.reshape(update, np.shape(gradient)))
    return out
