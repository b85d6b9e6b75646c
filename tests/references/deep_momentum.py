"""Deep momentum written out in numpy, gradients of the memory by hand, one coordinate at a time."""

import numpy as np


def naive_deep_momentum(
    stream,
    memories,
    *,
    learning_rate,
    objective,
    memory_input,
    retention,
    inner_learning_rate,
    average_decay,
    normalize,
    shared,
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
            values = [g / (r + 1e-12) for g, r in zip(gradients, rms, strict=True)]
        slopes, sizes = [], []
        for memory, u, c, value in zip(memories, last, average, values, strict=True):
            slope = [np.zeros_like(layer) for layer in memory]
            for z, target in zip(keys(u, c, memory_input), value.ravel(), strict=True):
                y, activations = forward(memory, z)
                y -= z[0]
                delta = np.array([target if objective == "dot" else y + target])
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
            said = [forward(memory, z)[0] - z[0] for z in keys(u, c, memory_input)]
            scale = r if normalize == "memory" else 1
            step.append(learning_rate * scale * np.reshape(said, u.shape))
        out.append(step)
    return out


def keys(u, c, memory_input):
    columns = [u.ravel()]
    if memory_input == "average":
        columns.append(c.ravel() / (np.sqrt(np.mean(c**2)) + 1e-12))
    return np.stack(columns, 1)


def forward(memory, z):
    """The answer, and what enters each layer."""
    activations = [z]
    for layer in memory[:-1]:
        activations.append(np.tanh(layer @ activations[-1]))
    return float((memory[-1] @ activations[-1])[0]), activations
