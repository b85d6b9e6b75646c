"""Deep momentum written out in numpy, gradients of the memory by hand, one key at a time."""

import numpy as np


def naive_deep_momentum(
    stream,
    memories,
    *,
    learning_rate,
    retention,
    inner_learning_rate,
    average_decay,
    objective="dot",
    memory_input="average",
    normalize="memory",
    shared=False,
    rows=False,
    features=None,
    output=None,
):
    """Updates of a list of tensors along a stream of lists of gradients."""
    initial = [[layer.copy() for layer in memory] for memory in memories]
    memories = [[layer.copy() for layer in memory] for memory in memories]
    last = [np.zeros_like(g) for g in stream[0]]
    average = [np.zeros_like(g) for g in stream[0]]
    out = []
    for gradients in stream:
        rms = [np.sqrt(np.mean(g**2)) for g in gradients]
        values = gradients
        if normalize != "none":
            values = [g / (r or 1) for g, r in zip(gradients, rms, strict=True)]
        slopes, sizes = [], []
        for memory, u, c, value in zip(memories, last, average, values, strict=True):
            slope = [np.zeros_like(layer) for layer in memory]
            asked = zip(pieces(u, rows), keys(u, c, memory_input, rows, features), strict=True)
            for (own, key), target in zip(asked, pieces(value, rows), strict=True):
                root = np.sqrt(len(own))
                y, activations = forward(memory, key)
                y = root * y - own
                delta = root * (target if objective == "dot" else y + target)
                for index in reversed(range(len(memory))):
                    slope[index] += np.outer(delta, activations[index])
                    delta = memory[index].T @ delta * (1 - activations[index] ** 2)
            slopes.append(slope)
            sizes.append(value.size)
        if shared:
            total = [sum(s[i] for s in slopes) / sum(sizes) for i in range(len(slopes[0]))]
            slopes = [total] * len(slopes)
        else:
            slopes = [[s / n for s in slope] for slope, n in zip(slopes, sizes, strict=True)]
        memories = [
            [
                m0 + retention * (m - m0) - inner_learning_rate * s
                for m, m0, s in zip(memory, start, slope, strict=True)
            ]
            for memory, start, slope in zip(memories, initial, slopes, strict=True)
        ]
        average = [
            average_decay * c + (1 - average_decay) * u
            for c, u in zip(average, values, strict=True)
        ]
        last = values
        step = []
        for memory, u, c, r in zip(memories, last, average, rms, strict=True):
            said = np.array(
                [
                    np.sqrt(len(own)) * forward(memory, key)[0] - own
                    for own, key in zip(
                        pieces(u, rows), keys(u, c, memory_input, rows, features), strict=True
                    )
                ]
            )
            if output is not None:
                said = output(said.reshape(len(pieces(u, True)), -1))
            scale = r if normalize == "memory" else 1
            step.append(learning_rate * scale * np.reshape(said, u.shape))
        out.append(step)
    return out


def pieces(tensor, rows):
    """What is a key each: the rows of the matrix, or the coordinates; of vectors both are one."""
    if rows and tensor.ndim > 1:
        return tensor.reshape(len(tensor), -1)
    return tensor.reshape(-1, 1)


def keys(u, c, memory_input, rows=False, features=None):
    made = []
    slow = c / (np.sqrt(np.mean(c**2)) or 1)
    for own, past in zip(pieces(u, rows), pieces(slow, rows), strict=True):
        key = np.concatenate([own, past]) if memory_input == "average" else own
        key = key / np.sqrt(len(own))
        made.append(key if features is None else features(key) * np.any(key))
    return made


def forward(memory, z):
    """The answer, and what enters each layer."""
    activations = [z]
    for layer in memory[:-1]:
        activations.append(np.tanh(layer @ activations[-1]))
    return memory[-1] @ activations[-1], activations
