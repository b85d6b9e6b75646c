"""Memories that are meta-trained, coordinate by coordinate in NumPy, float64."""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def over_rms(x):
    """All entries over their root mean square."""
    rms = np.sqrt(np.mean(np.asarray(x) ** 2))
    return np.asarray(x) / (rms if rms > 0 else 1)


def quotient(a, b):
    return np.array([x / y if y != 0 else 0.0 for x, y in zip(a, b, strict=True)])


def compared(a, b):
    """(|a| - |b|) / (|a| + |b|), with the root mean square as norm."""
    a, b = np.sqrt(np.mean(np.square(a))), np.sqrt(np.mean(np.square(b)))
    return (a - b) / (a + b) if a + b > 0 else 0.0


class Memory:
    """The optimizer of one tensor; with "first" in the initial memory it is an MLP."""

    def __init__(self, theta, shape):
        kind = "matrices" if len(shape) >= 2 else "vectors"
        self.theta, self.shape = theta[kind], shape
        self.n = int(np.prod(shape))
        initial = self.theta["memory"]["initial"]
        self.deep = isinstance(initial, dict)
        self.initial = [initial["first"], initial["last"]] if self.deep else [initial]
        self.initial = [np.asarray(m, np.float64) for m in self.initial]
        self.layers = [m.copy() for m in self.initial]
        self.count = 0
        self.averages, self.squares = np.zeros((3, self.n)), np.zeros(self.n)

    def moments(self):
        root = np.sqrt(self.squares)
        rows = [over_rms(m) for m in self.averages]
        return rows + [over_rms(quotient(m, root)) for m in self.averages]

    def keys(self):
        found = np.zeros((self.n, self.theta["keys"].shape[1]))
        moments = self.moments()
        for i in range(self.n):
            for j in range(found.shape[1]):
                found[i, j] = np.tanh(
                    sum(self.theta["keys"][r][j] * row[i] for r, row in enumerate(moments))
                )
        return over_rms(found)

    def say(self, key):
        if self.deep:
            return np.tanh(key @ self.layers[0]) @ self.layers[1]
        return key @ self.layers[0]

    def write(self, keys, values):
        """A gradient step on mean_i |M(k_i) - v_i|^2 / 2, by hand."""
        slopes = [np.zeros_like(m) for m in self.layers]
        for k, v in zip(keys, values, strict=True):
            error = self.say(k) - v
            if not self.deep:
                slopes[0] += np.outer(k, error) / self.n
                continue
            unit = np.tanh(k @ self.layers[0])
            slopes[1] += np.outer(unit, error) / self.n
            back = (self.layers[1] @ error) * (1 - unit**2)
            slopes[0] += np.outer(k, back) / self.n
        weights = self.theta["memory"]
        retention = np.atleast_1d(sigmoid(weights["retention"]))
        rate = np.atleast_1d(sigmoid(weights["rate"]))
        errors = np.array([self.say(k) for k in keys]) - values
        for i, slope in enumerate(slopes):
            if self.deep:
                slope = slope / max(1, np.linalg.norm(slope))
            away = self.layers[i] - self.initial[i]
            step = rate[i] * slope / slope.shape[0]
            self.layers[i] = self.initial[i] + retention[i] * away - step
        return errors

    def step(self, gradient, param):
        """What is added to the parameter at a learning rate of one."""
        g = np.asarray(gradient, np.float64).reshape(-1)
        p = np.asarray(param, np.float64).reshape(-1)
        before = self.keys()
        for j, decay in enumerate(sigmoid(self.theta["decays"])):
            self.averages[j] = decay * self.averages[j] + (1 - decay) * g
        second = sigmoid(self.theta["second"])
        self.squares = second * self.squares + (1 - second) * g**2
        root = np.sqrt(self.squares)
        features = [over_rms(g), over_rms(quotient(g, root)), over_rms(p), *self.moments()]
        features = np.array(features).T
        values = np.tanh(features @ np.asarray(self.theta["values"], np.float64))
        errors = self.write(before, values)
        said = np.array([self.say(k) for k in self.keys()])
        seen = np.concatenate([features, said], axis=1)
        out = np.zeros(self.n)
        for i in range(self.n):
            units = np.tanh(seen[i] @ self.theta["hidden"])
            out[i] = seen[i] @ self.theta["direct"] + units @ self.theta["out"]
        self.count += 1
        fair = [
            m / (1 - decay**self.count)
            for m, decay in zip(self.averages, sigmoid(self.theta["decays"]), strict=True)
        ]
        slow = root / np.sqrt(1 - second**self.count)
        told = [1, compared(values, errors), *(compared(m, slow) for m in fair), compared(g, slow)]
        size = np.exp(np.dot(self.theta["size"], told))
        return -size * over_rms(out).reshape(self.shape)
