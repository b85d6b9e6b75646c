"""Everything that is looked at when training pauses: performance, information, controls.

All estimators see the same activations; I(T;Y) is taken on the channel of I(T;X). Controls tell
compression from its imitations: units that saturate make cells empty, weights that shrink a layer
move every estimator of fixed scale, and rows that coincide in float32 are a genuine loss, though of
arithmetic rather than of learning.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from nestax import information

from ..data import Dataset, Split
from ..models import mlp_layers
from .training import ACTIVATIONS, Images

GAUSSIAN_POINTS, GAUSSIAN_NOISE = 500, 0.1  # the published estimator's
KDE_VARIANCE = 0.1
SATURATED = 0.99
_CELLS = {  # bins and edges
    "binned10": (10, "fixed"),
    "binned30": (30, "fixed"),
    "binned100": (100, "fixed"),
    "adaptive30": (30, "adaptive"),
    "quantile4": (4, "quantile"),
    "quantile30": (30, "quantile"),
}

# Estimators that a change of a layer's scale cannot move, and those that it does move. Only those
# decide that can see a layer collapse onto clusters: 30 quantile bins per unit are at their ceiling
# with few images, and a determinant of correlations hardly notices clusters.
SCALE_FREE = ("quantile4", "kde_standardized_lower", "kde_standardized_upper")
SCALE_BOUND = ("binned10", "binned30", "binned100", "kde_lower", "kde_upper", "gaussian")
ESTIMATORS = (*SCALE_BOUND, *SCALE_FREE, "adaptive30", "quantile30", "gaussian_standardized")
# On test images, on which nothing is judged, one of each kind.
TEST_ESTIMATORS = ("binned30", "quantile4", "gaussian", "gaussian_standardized")


class Curves:
    """The measurements of one arm as arrays, with a first axis of epochs, (E,)."""

    def __init__(self, record: Mapping[str, Any]):
        self._record = record
        self.epochs = np.array(record["epoch"])
        self.estimators = tuple(record["information"]["train"])
        self.layers = self.information(self.estimators[0]).shape[-1]

    def information(self, estimator: str, axis: str = "x") -> np.ndarray:
        """(E, seeds, layers), bits, on the training images."""
        return np.array(self._record["information"]["train"][estimator][axis])

    def performance(self, part: str, what: str) -> np.ndarray:
        """(E, seeds); losses in nats, accuracies as fractions."""
        return np.array(self._record[part][what])

    def control(self, name: str) -> np.ndarray:
        """(E, seeds, layers); of weight_norm one layer more."""
        return np.array(self._record["controls"][name])

    def gap(self) -> np.ndarray:
        """(E, seeds), accuracy on training less on test images, in points."""
        return 100 * (self.performance("train", "accuracy") - self.performance("test", "accuracy"))


class Measurement:
    """Measures n networks on a data set; compiled once per part of the data."""

    def __init__(self, dataset: Dataset, activation: str, kde_points: int):
        self.classes = dataset.classes
        self.activation = ACTIVATIONS[activation]
        self.kde_points = kde_points
        self.train, self.test = as_images(dataset.train), as_images(dataset.test)
        self._shuffled = jnp.asarray(np.random.default_rng(0).permutation(dataset.train.labels))
        self._performance = jax.jit(self._perform)
        self._information = jax.jit(self._inform, static_argnums=2)
        self._controls = jax.jit(self._control)

    def __call__(self, parameters: Any) -> dict[str, Any]:
        """One measurement of n networks of L hidden layers, as nested lists.

        Returns:
            train, test: loss (nats) and accuracy, (n,); information: per part and estimator
            x and y in bits, (n, L); controls: (n, L), weight_norm (n, L + 1).
        """
        record = {
            "train": self._performance(parameters, self.train),
            "test": self._performance(parameters, self.test),
        }
        with jax.enable_x64(True):  # counts and their entropies are exact in float64
            record["information"] = {
                "train": self._information(parameters, self.train, ESTIMATORS),
                "test": self._information(parameters, self.test, TEST_ESTIMATORS),
            }
            record["controls"] = self._controls(parameters, self.train, self.test, self._shuffled)
            record = jax.tree.map(np.asarray, record)
        self._check(record)
        return jax.tree.map(lambda leaf: leaf.tolist(), record)

    def _check(self, record: dict[str, Any]) -> None:
        """On one channel labels say no more than inputs, and no more than there is to say."""
        for part, images in (("train", self.train), ("test", self.test)):
            labels = np.asarray(images.labels)
            for name, pair in record["information"][part].items():
                if name.startswith("gaussian"):
                    continue  # a difference of upper bounds obeys neither
                seen = labels[: self.kde_points] if name.startswith("kde") else labels
                limit = np.minimum(pair["x"], np.asarray(information.label_entropy(seen)))
                if np.any(pair["y"] > limit + 1e-6):
                    raise RuntimeError(f"{name} on {part} images gives I(T;Y) > min(I(T;X), H(Y))")

    def evaluate(self, parameters: Any, images: Images) -> dict[str, Array]:
        """Loss (nats) and accuracy of n networks on some images, (n,)."""
        return self._performance(parameters, images)

    def ceilings(self, widths: tuple[int, ...]) -> dict[str, Any]:
        """Limits on the training images, in bits: of the estimator for x, H(Y) for y.

        H(Y) limits the true I(T;Y); differences of Gaussian bounds may exceed it.
        """
        n = len(self.train.labels)
        x: dict[str, list[float | None]] = {
            name: [float(min(np.log2(n), d * np.log2(bins))) for d in widths]
            for name, (bins, _) in _CELLS.items()
        }
        for name in ("kde_lower", "kde_upper", "kde_standardized_lower", "kde_standardized_upper"):
            x[name] = [float(np.log2(min(n, self.kde_points)))] * len(widths)
        # Units in [-1, 1] have variance at most 1, standardized ones exactly 1.
        top = [d / 2 * float(np.log2(1 + 1 / GAUSSIAN_NOISE**2)) for d in widths]
        bounded = self.activation is ACTIVATIONS["tanh"]
        x["gaussian"] = [*top] if bounded else [None] * len(widths)
        x["gaussian_standardized"] = [*top]
        labels = float(np.asarray(information.label_entropy(np.asarray(self.train.labels))))
        return {name: {"x": limits, "y": labels} for name, limits in x.items()}

    def _layers(self, parameters: Any, images: Images) -> tuple[list[Array], Array]:
        x = images.pixels.astype(jnp.float32) / images.scale.astype(jnp.float32)
        return jax.vmap(lambda p: mlp_layers(p, x, self.activation))(parameters)

    def _perform(self, parameters: Any, images: Images) -> dict[str, Array]:
        _, logits = self._layers(parameters, images)
        losses = jax.vmap(optax.softmax_cross_entropy_with_integer_labels, (0, None))
        loss = losses(logits, images.labels).mean(1)
        return {"loss": loss, "accuracy": accuracy(logits, images)}

    def _inform(
        self, parameters: Any, images: Images, estimators: tuple[str, ...]
    ) -> dict[str, dict[str, Array]]:
        def one(t: Float[Array, "images units"]) -> dict[str, dict[str, Any]]:
            args = t, images.labels, self.classes, self.kde_points
            return {name: estimate(name, *args) for name in estimators}

        layers, _ = self._layers(parameters, images)
        found = [jax.vmap(one)(layer) for layer in layers]
        return jax.tree.map(lambda *values: jnp.stack(values, -1), *found)

    def _control(
        self, parameters: Any, images: Images, test: Images, shuffled: Array
    ) -> dict[str, Array]:
        layers, _ = self._layers(parameters, images)
        binned = partial(information.binned, y=shuffled, classes=self.classes)
        weights = [layer.weight.astype(jnp.float64) for layer in parameters]
        norms = [jnp.sqrt(jnp.sum(jnp.square(weight), (1, 2))) for weight in weights]

        def each(of: Any) -> Array:
            return jnp.stack([of(layer) for layer in layers], -1)

        return {
            "saturated": each(self._saturated),
            "std": each(lambda t: t.std(1).mean(1)),
            "least_std": each(lambda t: t.std(1).min(1)),
            "weight_norm": jnp.stack(norms, -1),
            "distinct": each(jax.vmap(distinct_rows)),
            "effective_rank": each(jax.vmap(effective_rank)),
            "noisy_accuracy": self._noisy_accuracy(parameters, test, GAUSSIAN_NOISE),
            "noisy_accuracy_kde": self._noisy_accuracy(parameters, test, KDE_VARIANCE**0.5),
            "shuffled_y": each(jax.vmap(lambda t: binned(t).y)),
            "shuffled_y_quantile4": each(jax.vmap(lambda t: binned(t, bins=4, edges="quantile").y)),
        }

    def _saturated(self, t: Float[Array, "n images units"]) -> Float[Array, " n"]:
        """Share of activations at an end: |t| > 0.99 for tanh, 0 for ReLU."""
        bounded = self.activation is ACTIVATIONS["tanh"]
        return jnp.mean(jnp.abs(t) > SATURATED if bounded else t <= 0, axis=(1, 2))

    def _noisy_accuracy(self, parameters: Any, images: Images, std: float) -> Float[Array, "n L"]:
        """Accuracy when an estimator's noise is really added to one hidden layer."""
        accuracies = []
        for index, layer in enumerate(self._layers(parameters, images)[0]):
            key = jax.random.fold_in(jax.random.key(0), index)
            noisy = layer + std * jax.random.normal(key, layer.shape[1:], layer.dtype)[None]
            rest = jax.vmap(lambda p, t: mlp_layers(p, t, self.activation)[1])
            accuracies.append(accuracy(rest(parameters[index + 1 :], noisy), images))
        return jnp.stack(accuracies, -1)


def accuracy(logits: Float[Array, "n images classes"], images: Images) -> Float[Array, " n"]:
    correct = jnp.argmax(logits, -1) == images.labels[None]
    return correct.mean(1, dtype=jnp.float32)


def estimate(name: str, t: Any, y: Any, classes: int, kde_points: int) -> dict[str, Any]:
    """I(T;X) as x, and I(T;Y) as y, of a layer (images, units) by one of `ESTIMATORS`, bits."""
    if name in _CELLS:
        bins, edges = _CELLS[name]
        found = information.binned(t, y, bins, edges=edges, classes=classes)
        return {"x": found.x, "y": found.y}
    count = GAUSSIAN_POINTS if name.startswith("gaussian") else kde_points
    t, y = t[:count], y[:count]
    if "standardized" in name:
        t = information.standardize(t)
    if name.startswith("gaussian"):
        found = information.gaussian_upper_bound(t, y, noise_std=GAUSSIAN_NOISE, classes=classes)
        return {"x": found.x, "y": found.y}
    # Both bounds come from one call, which XLA finds to be the same.
    found = information.kde_bounds(t, y, KDE_VARIANCE, classes=classes)
    side = name.split("_")[-1]
    return {axis: getattr(found, f"{axis}_{side}") for axis in "xy"}


def as_images(split: Split) -> Images:
    """A part of a data set on the device."""
    pixels = jnp.asarray(split.images.reshape(len(split), -1))
    return Images(pixels, jnp.asarray(split.labels), jnp.asarray(split.scale, jnp.float32))


def distinct_rows(t: Float[Array, "rows units"]) -> Array:
    """How many rows differ in at least one bit; -0 and 0 are the same."""
    columns = jax.lax.sort(tuple((t + 0.0).T), num_keys=t.shape[1], is_stable=False)
    changed = sum(jnp.not_equal(c[1:], c[:-1]).astype(jnp.int32) for c in columns)
    return 1 + jnp.sum(jnp.asarray(changed) > 0)


def effective_rank(t: Float[Array, "rows units"]) -> Float[Array, ""]:
    """exp of the entropy of the covariance's normalized spectrum (Roy and Vetterli, 2007).

    Between 1 and the number of units; 1 for constant rows.
    """
    spectrum = jnp.maximum(jnp.linalg.eigvalsh(jnp.cov(t.T).reshape(t.shape[1], -1)), 0)
    total = spectrum.sum()
    share = jnp.where(total > 0, spectrum / jnp.where(total > 0, total, 1), 0)
    return jnp.exp(-jnp.sum(share * jnp.log(jnp.where(share > 0, share, 1))))
