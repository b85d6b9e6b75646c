"""What the studies on images share: a pool to draw from, losses, a run that is looked at."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from nestax.levels import Level, Nest, State

from . import data, models

Batch = tuple[Float[Array, "n pixels"], Int[Array, " n"]]
Data = Literal["digits", "mnist", "fashion-mnist"]
MOST = {"digits": 1437, "mnist": 60000, "fashion-mnist": 60000}  # training images


def require(settings: Any, count: int) -> None:
    """Refuses settings that ask for more training images than their data set has.

    Raises:
        SettingsError: with both numbers.
    """
    most = MOST[settings.data]
    words = f"training and validation images together may be {most} at most, got {count}"
    settings.require(count <= most, words)


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


def parts(pool: Pool, key: jax.Array, **counts: int) -> dict[str, Batch]:
    """Images drawn from a pool, so many for each name; no image is in two parts."""
    index = jax.random.permutation(key, len(pool.labels))
    cuts = np.cumsum(list(counts.values()))
    begins = zip(counts, (0, *cuts[:-1]), cuts, strict=True)
    return {name: pool.take(index[begin:end]) for name, begin, end in begins}


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


def decayed(weights: Any, decay: Any) -> Any:
    """Half the sum of squares of all weights, times the decay."""
    return decay / 2 * sum(jnp.sum(w**2) for w in jax.tree.leaves(weights))


def network_level(
    loss: Callable[..., Any], optimizer: Any, sizes: Sequence[int], horizon: int, **more: Any
) -> Level:
    """A level "weights": a network with layers of these sizes, that begins anew after `horizon`
    ticks."""

    def start(values: Any, task: Any, key: jax.Array) -> Any:
        return models.mlp_init(key, sizes)

    return Level("weights", loss, optimizer, start=start, horizon=horizon, **more)


def followed(
    nest: Nest, ticks: int, points: int, look: Callable[[State], Any], say: Callable[[str], None]
) -> tuple[State, Any, Any]:
    """A run of so many ticks that is looked at first, and after each of `points` equal stretches.

    Returns:
        Where it ends, the last stretch's info, and what was seen, with a leading axis of
        1 + points.
    """
    state, info = nest.init({}, jax.random.key(0)), None
    seen = [look(state)]
    for point in range(points):
        say(f"{point}/{points}")
        state, info = nest.run(state, ticks // points // nest.ticks_per_step)
        seen.append(look(state))
    return state, info, jax.tree.map(lambda *each: np.stack(each), *seen)
