"""Perceptrons per parameter in NumPy, written from the formulas: features, accumulators, updates.

Everything is float64 and by name, one parameter or one row at a time where that is plainer. Source:
Metz et al. (2022) and the formulas of the published implementation.
"""

import numpy as np

TIMESCALES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000)
SMALL_FC = {"momentum": (0.9, 0.99, 0.999), "second": (0.999,), "factored": (0.9, 0.99, 0.999)}
MLP = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)


def clock(count):
    return [np.tanh(count / tau - 1.0) for tau in TIMESCALES]


def decays(theta):
    """The seven decays of small_fc, by kind, after `log(1 - b) / 10` was moved by theta."""
    found = {}
    for kind, initial in SMALL_FC.items():
        moved = [np.log(1 - b) / 10 + t for b, t in zip(initial, theta[kind], strict=True)]
        found[kind] = [1 - np.exp(10 * x) for x in moved]
        if kind != "momentum":
            found[kind] = [min(max(b, 0.0), 1.0) for b in found[kind]]
    return found


def two_largest(shape):
    """(d1, d0): the second largest and the largest axis; later ones win ties."""
    order = np.argsort(shape, kind="stable")
    return int(order[-2]), int(order[-1])


class Accumulators:
    """Those of one tensor, named: m0, m1, ..., v0, row0, ..., column0, ..., full0, ..."""

    def __init__(self, shape, decays):
        self.shape, self.decays, self.values = shape, decays, {}
        for i in range(len(decays["momentum"])):
            self.values[f"m{i}"] = np.zeros(shape)
        for i in range(len(decays["second"])):
            self.values[f"v{i}"] = np.zeros(shape)
        for i in range(len(decays["factored"])):
            if len(shape) < 2:
                self.values[f"full{i}"] = np.zeros(shape)
            else:
                d1, d0 = two_largest(shape)
                self.values[f"row{i}"] = np.mean(np.zeros(shape), axis=d0)
                self.values[f"column{i}"] = np.mean(np.zeros(shape), axis=d1)

    def update(self, g):
        for i, b in enumerate(self.decays["momentum"]):
            self._move(f"m{i}", b, g)
        for i, b in enumerate(self.decays["second"]):
            self._move(f"v{i}", b, g * g)
        for i, b in enumerate(self.decays["factored"]):
            if len(self.shape) < 2:
                self._move(f"full{i}", b, g * g + 1e-30)
            else:
                d1, d0 = two_largest(self.shape)
                self._move(f"row{i}", b, np.mean(g * g + 1e-30, axis=d0))
                self._move(f"column{i}", b, np.mean(g * g + 1e-30, axis=d1))

    def _move(self, name, decay, new):
        self.values[name] = decay * self.values[name] + (1 - decay) * new


def factored(accumulators, g):
    """The features of factored second moments, each of the tensor's shape."""
    found, values, shape = {}, accumulators.values, accumulators.shape
    for i in range(len(accumulators.decays["factored"])):
        if len(shape) < 2:
            full = values[f"full{i}"]
            found[f"row{i}"] = found[f"column{i}"] = full
            by_gradient = 1 / np.sqrt(np.maximum(full + 1e-9, 1e-9))
            by_momentum = 1 / np.sqrt(full + 1e-6)
        else:
            d1, d0 = two_largest(shape)
            row, column = values[f"row{i}"], values[f"column{i}"]
            mean = np.mean(row, axis=d1 - 1 if d1 > d0 else d1, keepdims=True)
            row_factor = 1 / np.sqrt(np.maximum(row / (mean + 1e-9), 1e-9))
            column_factor = 1 / np.sqrt(np.maximum(column, 1e-9))
            found[f"row{i}"] = np.expand_dims(row, d0) + np.zeros(shape)
            found[f"column{i}"] = np.expand_dims(column, d1) + np.zeros(shape)
            by_gradient = np.expand_dims(row_factor, d0) * np.expand_dims(column_factor, d1)
            by_momentum = by_gradient
        found[f"g adafactor{i}"] = g * by_gradient
        found[f"m{i} adafactor"] = values[f"m{i}"] * by_momentum
        found[f"row{i} root"] = 1 / np.sqrt(found[f"row{i}"] + 1e-8)
        found[f"column{i} root"] = 1 / np.sqrt(found[f"column{i}"] + 1e-8)
    return found


def raw_features(accumulators, g, p, clipped=False):
    """Names and features before they are normalized, in the order in which the network reads them:
    28, or 30 with the two of the normalized rule."""
    values, of_factors = accumulators.values, factored(accumulators, g)
    root = 1 / np.sqrt(values["v0"] + 1e-6)
    found = {"g": g, "p": p}
    found |= {f"m{i}": values[f"m{i}"] for i in range(3)}
    found |= {"v0": values["v0"]}
    found |= {f"m{i} / root v": values[f"m{i}"] * root for i in range(3)}
    found |= {"1 / root v": root}
    for name in ("g adafactor{}", "row{}", "column{}", "row{} root", "column{} root",
                 "m{} adafactor"):  # fmt: skip
        found |= {name.format(i): of_factors[name.format(i)] for i in range(3)}
    if clipped:
        found |= {"g clipped": np.clip(g, -0.1, 0.1), "g / root v": g * root}
    return found


def over_rms(feature, eps):
    return feature / np.sqrt(eps + np.mean(np.square(feature)))


def network(layers, inputs):
    """Outputs at one parameter after another; inputs (features, ...)."""
    x = np.reshape(inputs, (len(inputs), -1)).T
    for number, layer in enumerate(layers):
        x = x @ np.asarray(layer["w"], np.float64) + np.asarray(layer["b"], np.float64)
        if number < len(layers) - 1:
            x = np.where(x > 0, x, 0)
    return x.T


class SmallFC:
    """small_fc on one tensor; `step` returns (update, features) and keeps accumulators."""

    features = 39

    def __init__(self, theta, shape):
        self.theta, self.count = theta, 0
        self.accumulators = Accumulators(shape, decays(theta))

    def step(self, g, p):
        self.accumulators.update(g)
        seen = raw_features(self.accumulators, g, p)
        seen = {name: over_rms(x, 1e-5) for name, x in seen.items()}
        seen |= {f"clock{i}": np.full(g.shape, x) for i, x in enumerate(clock(self.count))}
        self.count += 1
        direction, magnitude = network(self.theta["layers"], np.stack(list(seen.values())))
        update = -0.001 * direction * np.exp(0.001 * magnitude)
        return update.reshape(g.shape), seen


class Normalized:
    """The normalized rule on one tensor."""

    features = 30

    def __init__(self, theta, shape, eps=1e-20):
        self.theta, self.eps = theta, eps
        self.accumulators = Accumulators(shape, SMALL_FC)

    def step(self, g, p):
        self.accumulators.update(g)
        seen = raw_features(self.accumulators, g, p, clipped=True)
        seen = {name: over_rms(x, self.eps) for name, x in seen.items()}
        (answer,) = network(self.theta["layers"], np.stack(list(seen.values())))
        update = -answer / np.sqrt(np.mean(answer**2) + 1e-9)
        return update.reshape(g.shape), seen


class MLPRule:
    """The perceptron with 19 features on one tensor."""

    features = 19

    def __init__(self, theta, shape):
        self.theta, self.count = theta, 0
        kinds = {"momentum": MLP, "second": (), "factored": ()}
        self.accumulators = Accumulators(shape, kinds)

    def step(self, g, p):
        self.accumulators.update(g)
        seen = {"g": g, "p": p, **self.accumulators.values}
        seen = {name: over_rms(x, 1e-5) for name, x in seen.items()}
        seen |= {f"clock{i}": np.full(g.shape, x) for i, x in enumerate(clock(self.count))}
        self.count += 1
        direction, magnitude = network(self.theta["layers"], np.stack(list(seen.values())))
        update = -0.001 * direction * np.exp(0.001 * magnitude)
        return update.reshape(g.shape), seen


RULES = {"small_fc": SmallFC, "normalized": Normalized, "mlp": MLPRule}
