"""The continuum memory token by token, with gradients worked out by hand; numpy, for reading."""

import numpy as np


def silu(x):
    return x / (1 + np.exp(-x))


def silu_slope(x):
    gate = 1 / (1 + np.exp(-x))
    return gate * (1 + x * (1 - gate))


def swiglu(weights, h):
    gate, up, down = weights
    return down @ (silu(gate @ h) * (up @ h))


def normed(x, scale):
    return x / np.sqrt(np.mean(x**2) + 1e-6) * scale


def local_gradient(weights, h, target):
    """Of 1/(2 width) |f(h) - W h|^2 by the three matrices of f."""
    gate, up, down = weights
    error = (swiglu(weights, h) - target @ h) / len(h)
    inner = down.T @ error
    return [
        np.outer(inner * (up @ h) * silu_slope(gate @ h), h),
        np.outer(inner * silu(gate @ h), h),
        np.outer(error, silu(gate @ h) * (up @ h)),
    ]


def step(weights, gathered, rate, tokens, accumulate, clip):
    if accumulate == "mean":
        gathered = [g / tokens for g in gathered]
    size = 1.0
    if clip is not None:
        size = 1 / np.sqrt(1 + sum(np.sum(g**2) for g in gathered) / clip**2)
    return [w - rate * size * g for w, g in zip(weights, gathered, strict=True)]


def continuum(memory, x):
    """(outputs, weights of every level after the last token, what each gathered)."""
    starts = [[np.asarray(w) for w in (m.gate, m.up, m.down)] for m in memory.levels]
    norms = [np.asarray(n) for n in memory.norms]
    weights = list(starts)
    gathered = [[np.zeros_like(w) for w in level] for level in starts]
    outputs = []
    for t, token in enumerate(np.asarray(x)):
        stream, total = token, token
        for s in range(len(starts)):
            h = normed(token if memory.variant == "independent" else stream, norms[s])
            said = swiglu(weights[s], h)
            stream = stream + said
            if memory.variant == "independent":
                total = total + np.asarray(memory.mix)[s] * said
            found = local_gradient(weights[s], h, np.asarray(memory.target)[s])
            gathered[s] = [a + g for a, g in zip(gathered[s], found, strict=True)]
        outputs.append(total if memory.variant == "independent" else stream)
        for s, period in enumerate(memory.periods):
            if (t + 1) % period == 0:
                weights[s] = step(
                    weights[s], gathered[s], float(memory.rate[s]), period,
                    memory.accumulate, memory.clip,
                )  # fmt: skip
                gathered[s] = [np.zeros_like(g) for g in gathered[s]]
            slower = [p for p in memory.periods if p > period]
            if memory.variant == "nested" and slower and (t + 1) % min(slower) == 0:
                weights[s] = starts[s]
    return np.stack(outputs), weights, gathered


def attention(layer, x, window):
    """Softmax attention with rotary positions, one token and one head at a time."""
    query, key, value, output = (
        np.asarray(w) for w in (layer.query, layer.key, layer.value, layer.output)
    )
    size = len(query) // layer.heads

    def turned(v, position):
        half, out = size // 2, np.empty_like(v)
        for i in range(half):
            angle = position * 10_000.0 ** (-2 * i / size)
            c, s = np.cos(angle), np.sin(angle)
            out[i], out[i + half] = c * v[i] - s * v[i + half], s * v[i] + c * v[i + half]
        return out

    rows = []
    for t in range(len(x)):
        mixed = []
        for head in range(layer.heads):
            own = slice(head * size, (head + 1) * size)
            q = turned((query @ x[t])[own], t)
            seen = range(max(0, t - window + 1), t + 1)
            scores = np.array([q @ turned((key @ x[i])[own], i) / size**0.5 for i in seen])
            shares = np.exp(scores - scores.max())
            shares = shares / shares.sum()
            mixed.append(sum(p * (value @ x[i])[own] for p, i in zip(shares, seen, strict=True)))
        rows.append(output @ np.concatenate(mixed))
    return np.stack(rows)
