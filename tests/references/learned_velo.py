"""The rule after VeLO in numpy and float64: features as a table of the paper lists them."""

import numpy as np
from references.learned_lstm import cell

DECAYS = (0.9, 0.99, 0.999)
FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)


def safe(x):
    return 1 / np.sqrt(np.maximum(x, 1e-9))


class Tensor:
    """Statistics of one tensor; scalars are vectors of one number."""

    def __init__(self, shape):
        self.shape = shape or (1,)
        self.m = [np.zeros(self.shape) for _ in DECAYS]
        self.v = np.zeros(self.shape)
        if len(shape) < 2:
            self.full = [np.zeros(self.shape) for _ in DECAYS]
            return
        order = sorted(range(len(shape)), key=lambda axis: shape[axis])  # keeps equal ones in order
        self.d1, self.d0 = order[-2], order[-1]
        # Of full rank, so that rows and columns need no axes put back.
        self.row = [np.zeros(self.shape) for _ in DECAYS]
        self.column = [np.zeros(self.shape) for _ in DECAYS]

    def add(self, g):
        g = g.reshape(self.shape)
        square = g**2 + 1e-30
        for i, b in enumerate(DECAYS):
            self.m[i] = b * self.m[i] + (1 - b) * g
            if len(self.shape) < 2:
                self.full[i] = b * self.full[i] + (1 - b) * square
            else:
                for old, axis in ((self.row, self.d0), (self.column, self.d1)):
                    mean = np.broadcast_to(square.mean(axis=axis, keepdims=True), self.shape)
                    old[i] = b * old[i] + (1 - b) * mean
        self.v = 0.999 * self.v + 0.001 * g**2

    def features(self, g, p):
        g, p = g.reshape(self.shape), p.reshape(self.shape)
        root = 1 / np.sqrt(self.v + 1e-6)
        found = [g, p, *self.m, self.v, *(m * root for m in self.m), root]
        if len(self.shape) < 2:
            rows = columns = self.full
            of_g = [safe(f + 1e-9) for f in self.full]
            of_m = [1 / np.sqrt(f + 1e-6) for f in self.full]
        else:
            rows, columns = self.row, self.column
            means = [r.mean(axis=self.d1, keepdims=True) for r in rows]
            of_g = [
                safe(r / (mean + 1e-9)) * safe(c)
                for r, c, mean in zip(rows, columns, means, strict=True)
            ]
            of_m = of_g
        found += [g * f for f in of_g]
        found += [*rows, *columns]
        found += [1 / np.sqrt(r + 1e-8) for r in rows] + [1 / np.sqrt(c + 1e-8) for c in columns]
        found += [m * f for m, f in zip(self.m, of_m, strict=True)]
        found += [np.clip(g, -0.1, 0.1), g * root]
        return [x / np.sqrt(1e-5 + np.mean(x**2)) for x in found]

    def summary(self, p, rank):
        unit = 1 / np.sqrt(max(np.mean(p**2), 1e-9))
        numbers = [np.var(m * unit) for m in self.m]
        numbers += [np.mean(self.v * unit), np.var(self.v * unit)]
        sizes = [0.5 * np.clip(np.log(1e-8 + abs(10 * x)), -5, 5) for x in numbers]
        return np.array([*sizes, *(float(rank == k) for k in range(5))])


class Losses:
    def __init__(self, steps):
        self.decays = [np.exp(-1 / (10 * (steps / 10) ** (k / 9))) for k in range(10)]
        self.means, self.least, self.count = [0.0] * 10, [np.inf] * 10, 0

    def features(self, loss):
        if self.count:
            corrected = [
                m / (1 - b**self.count) for m, b in zip(self.means, self.decays, strict=True)
            ]
            loss = min(loss, 2 * abs(max(corrected)))
        self.count += 1
        self.means = [b * m + (1 - b) * loss for m, b in zip(self.means, self.decays, strict=True)]
        now = [m / (1 - b**self.count) for m, b in zip(self.means, self.decays, strict=True)]
        self.least = [min(a, b) for a, b in zip(self.least, now, strict=True)]
        if self.count <= 2:
            return np.zeros(9)
        return np.array([
            np.clip((now[k] - self.least[k]) / max(now[k + 1] - self.least[k], 1e-8) - 1, -1, 1)
            for k in range(9)
        ])  # fmt: skip


def linear(weights, x):
    return x @ weights["w"] + weights["b"]


def velo_updates(theta, params, stream, losses, steps, step):
    """Updates of a list of tensors along a list of lists of gradients; the parameters stay."""
    tensors = [Tensor(np.shape(p)) for p in params]
    h = [theta["start"]["h"] for _ in params]
    c = [theta["start"]["c"] for _ in params]
    watched, out = Losses(steps), []
    for count, (gradients, loss) in enumerate(zip(stream, losses, strict=True)):
        common = [np.tanh(10 * (count / steps - tau)) for tau in FRACTIONS]
        common = np.concatenate([common, watched.features(loss)])
        inputs = [
            np.concatenate([common, t.summary(p, sum(n > 1 for n in np.shape(p)))])
            for t, p in zip(tensors, params, strict=True)
        ]
        largest = np.max([np.maximum(linear(theta["others"], x), 0) for x in inputs], axis=0)
        updates = []
        for i, (tensor, p) in enumerate(zip(tensors, params, strict=True)):
            h[i], c[i] = cell(theta["lstm"], linear(theta["own"], inputs[i]) + largest, h[i], c[i])
            control, rate = linear(theta["controls"], h[i]), linear(theta["rate"], h[i])[0]
            g = np.clip(gradients[i], -1000, 1000)
            tensor.add(g)
            x = np.stack([f.ravel() for f in tensor.features(g, p)], axis=-1)
            for index, layer in enumerate(theta["bank"]):
                w, b = (
                    100 * np.mean([ck * wk for ck, wk in zip(control, layer[name], strict=True)], 0)
                    for name in ("w", "b")
                )
                x = np.maximum(x, 0) if index else x
                x = x @ w + b
            size = np.sqrt(np.mean(p**2) + 1e-9)
            update = -rate * step * size * x[:, 0] * np.exp(0.001 * x[:, 1])
            updates.append(update.reshape(np.shape(p)))
        out.append(updates)
    return out
