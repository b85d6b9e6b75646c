"""Labelled images that the caller brings: checked once, drawn from and standardised in batches."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ...optim.internal import whole


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """One or more data sets whose images have the same shape.

    Attributes:
        images: those of all sets one after another, as they were given.
        labels: int32, as many as images.
        begins: number of the first image of each set.
        counts: images of each set.
        means: mean of all numbers of each set.
        deviations: standard deviation of all numbers of each set.
        classes: number of classes of a set, the same for all.
    """

    images: np.ndarray
    labels: np.ndarray
    begins: np.ndarray
    counts: np.ndarray
    means: np.ndarray
    deviations: np.ndarray
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return self.images.shape[1:]

    def choose(self, key: Array) -> Array:
        """The number of a data set, drawn."""
        return jax.random.randint(key, (), 0, len(self.counts))

    def draw(self, which: Array, key: Array, count: int) -> tuple[Array, Array]:
        """Images of one set, drawn with replacement.

        Args:
            which: number of the set.
            key: of `jax.random.key`.
            count: images to draw.

        Returns:
            (images, labels): standardised images, shape (count, *shape), and int32 labels.
        """
        begin, total = jnp.asarray(self.begins)[which], jnp.asarray(self.counts)[which]
        index = begin + jax.random.randint(key, (count,), 0, total)
        images = jnp.asarray(self.images)[index].astype(float)
        mean, deviation = jnp.asarray(self.means)[which], jnp.asarray(self.deviations)[which]
        images = (images - mean.astype(images.dtype)) / deviation.astype(images.dtype)
        return images, jnp.asarray(self.labels)[index]


def labelled(who: str, data: Any, classes: Any = None) -> Labelled:
    """The data sets that the caller brings, checked.

    Args:
        who: the family, for errors.
        data: `(images, labels)`, or a list of such pairs.
        classes: number of classes; None: the largest label plus one.

    Raises:
        ValueError: no pairs; images or labels of another kind; shapes that do not agree; labels out
            of range.
    """
    pairs = [data] if _is_pair(data) else data
    if not isinstance(pairs, Sequence) or not pairs or not all(map(_is_pair, pairs)):
        raise ValueError(
            f"{who}: data is a pair of arrays (images, labels), or a list of such pairs, got "
            f"{data!r:.60}"
        )
    sets = [_checked(who, *pair) for pair in pairs]
    shapes = [images.shape[1:] for images, _ in sets]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"{who}: the images of all data sets must have one shape, got "
            f"{', '.join(map(str, shapes))}"
        )
    largest = 1 + max(int(labels.max()) for _, labels in sets)
    classes = largest if classes is None else whole(who, "classes", classes)
    if classes < max(largest, 2):
        raise ValueError(
            f"{who}: labels are numbers from 0 on, below the number of classes, and there are two "
            f"classes at least; the largest label is {largest - 1} and classes={classes}"
        )
    counts = np.array([len(labels) for _, labels in sets])
    deviations = np.array([np.std(images, dtype=np.float64) for images, _ in sets])
    return Labelled(
        images=np.concatenate([images for images, _ in sets]),
        labels=np.concatenate([labels for _, labels in sets]),
        begins=np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int32),
        counts=counts.astype(np.int32),
        means=np.array([np.mean(images, dtype=np.float64) for images, _ in sets]),
        deviations=np.where(deviations > 0, deviations, 1.0),
        classes=classes,
    )


def _is_pair(data: Any) -> bool:
    is_pair = isinstance(data, (tuple, list)) and len(data) == 2
    return is_pair and all(isinstance(one, (np.ndarray, jax.Array)) for one in data)


def _checked(who: str, images: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype.kind not in "uif" or images.ndim < 2 or not images.size:
        raise ValueError(
            f"{who}: images must be an array of real numbers of shape (images, ...), got "
            f"{images.dtype} of shape {images.shape}"
        )
    if not np.all(np.isfinite(images)):
        raise ValueError(f"{who}: images must be finite numbers")
    if labels.dtype.kind not in "ui" or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{who}: labels must be an array of integers, one for each of the {len(images)} "
            f"images, got {labels.dtype} of shape {labels.shape}"
        )
    if labels.min() < 0:
        raise ValueError(f"{who}: labels must not be negative, got {labels.min()}")
    if images.dtype.itemsize > 4:
        images = images.astype(np.float32)
    return images, labels.astype(np.int32)
