"""What the experiments on images share: a pool to draw from, the loss, the accuracy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from . import data, models

Batch = tuple[Float[Array, "n pixels"], Int[Array, " n"]]


class Pool(NamedTuple):
    """Images as they lie on disk, four times smaller than as numbers; drawn from by a nest's task.

    Attributes:
        images: uint8 of shape (n, pixels).
        labels: int32 of shape (n,).
        scale: the largest grey level.
    """

    images: np.ndarray
    labels: np.ndarray
    scale: int

    def take(self, index: Int[Array, " n"]) -> Batch:
        """The images of these numbers as rows in [0, 1], and their labels; works while traced."""
        images = jnp.asarray(self.images)[index].astype(float) / self.scale
        return images, jnp.asarray(self.labels)[index]


def pools(name: str, count: int) -> tuple[Pool, Pool]:
    """`count` training images in an order that is drawn once, and all test images."""
    split = data.load(name)
    order = np.random.default_rng(0).permutation(len(split.train))[:count]
    parts = ((split.train, order), (split.test, np.arange(len(split.test))))
    one, two = (
        Pool(part.images.reshape(len(part), -1)[index], part.labels[index], part.scale)
        for part, index in parts
    )
    return one, two


def whole(pool: Pool) -> Batch:
    """All of a pool as numbers."""
    return pool.take(jnp.arange(len(pool.labels)))


def halves(pool: Pool, key: jax.Array, count: int) -> dict[str, Batch]:
    """`count` images drawn from a pool to train on, and as many others to validate on."""
    index = jax.random.permutation(key, len(pool.labels))[: 2 * count]
    return {"train": pool.take(index[:count]), "valid": pool.take(index[count:])}


def losses(weights: Any, batch: Batch) -> Float[Array, " n"]:
    """The network's cross entropy on each image, in nats."""
    images, labels = batch
    scores = models.mlp(weights, images)
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels)


def cross_entropy(weights: Any, batch: Batch) -> Float[Array, ""]:
    """The network's mean cross entropy, in nats."""
    return jnp.mean(losses(weights, batch))


def accuracy(weights: Any, batch: Batch) -> Float[Array, ""]:
    """The fraction of images that the network gives their label."""
    images, labels = batch
    return jnp.mean(jnp.argmax(models.mlp(weights, images), axis=-1) == labels)
