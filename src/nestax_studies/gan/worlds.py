"""What is to be generated, the networks that do it, and how well they do.

A `World` is a `Game` with its measures. All of them judge samples by a classifier that was trained
here on the data's own classes: distances are taken between its features, and are no FID.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from nestax.levels import Level, Nest

from .. import generative, images, models
from . import conditional, convolutional
from .players import Game

MODES, RADIUS, SIGMA = 8, 2.0, 0.1  # of the ring; modes as wide as 0.2 are too easy
_ANGLES = 2 * np.pi * np.arange(MODES) / MODES
CENTRES = RADIUS * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], -1)
NOISE, HIDDEN = 4, 48
FEATURES = 16  # of the classifier's last hidden layer
NEIGHBOUR = 3  # of precision and recall


@dataclass(frozen=True, eq=False)
class World:
    """A game and its measures.

    Attributes:
        game: see `Game`.
        classes: of the data: modes, or labels.
        real: (key, count) -> samples that were not trained on.
        shares: samples -> the share of each class and of what belongs to none, (classes + 1,).
        wanted: the same of the data.
        features: samples -> features, (n, FEATURES).
        together: whether runs are side by side in one program. On CPUs networks of convolutions are
            faster one after another.
        picture: whether samples are pictures.
    """

    game: Game
    classes: int
    real: Callable[[Array, int], Array]
    shares: Callable[[Array], Array]
    wanted: Float[Array, " classes_and_none"]
    features: Callable[[Array], Array]
    together: bool = True
    picture: bool = False

    def fit(self, samples: Array) -> dict[str, Array]:
        """How well the shares of classes fit, which takes no time."""
        shares = self.shares(samples)
        matched = generative.matched(shares, self.wanted)
        return {"matched": matched, "modes": generative.modes_covered(shares)}

    def measures(self, generator: Any, key: Array, count: int) -> dict[str, Array]:
        """All measures of so many samples. Precision and recall are those of the samples
        themselves in a plane, and of features of pictures."""
        one, two = jax.random.split(key)
        made, real = self.game.sample(generator, one, count), self.real(two, count)
        of_made, of_real = self.features(made), self.features(real)
        near = (of_real, of_made) if self.picture else (real, made)
        precision, recall = generative.precision_recall(*near, NEIGHBOUR)
        distance = generative.frechet(of_real, of_made)
        more = {"precision": precision, "recall": recall, "distance": distance}
        return self.fit(made) | more


def ring(batch: int) -> World:
    """Eight normal distributions in a circle."""
    centres = jnp.asarray(CENTRES, jnp.float32)

    def labelled(key: Array, count: int) -> tuple[Array, Array]:
        one, two = jax.random.split(key)
        label = jax.random.randint(one, (count,), 0, MODES)
        return centres[label] + SIGMA * jax.random.normal(two, (count, 2)), label

    def init(key: Array) -> tuple[Any, Any]:
        one, two = jax.random.split(key)
        made = models.mlp_init(one, (NOISE, HIDDEN, HIDDEN, 2))
        judged = models.mlp_init(two, (2, HIDDEN, HIDDEN, 1))
        return {"weights": made, "state": None}, {"weights": judged, "state": None}

    def make(generator: Any, noise: Array, wanted: None) -> tuple[Array, None]:
        return models.mlp(generator["weights"], noise, jax.nn.relu), None

    def judge(discriminator: Any, samples: Array, labels: None) -> tuple[Array, None]:
        return models.mlp(discriminator["weights"], samples, jax.nn.relu)[:, 0], None

    def draw(task: None, key: Array) -> dict[str, Array]:
        one, two = jax.random.split(key)
        noise = jax.random.normal(one, (batch, NOISE))
        return {"noise": noise, "real": labelled(two, batch)[0]}

    def sample(generator: Any, key: Array, count: int) -> Array:
        return make(generator, jax.random.normal(key, (count, NOISE)), None)[0]

    within = float(np.exp(-4.5))  # of a normal distribution in the plane, beyond three deviations
    wanted = jnp.asarray([(1 - within) / MODES] * MODES + [within])
    shares = functools.partial(generative.mode_shares, centres=centres, radius=3 * SIGMA)
    features = classifier(lambda task, key: labelled(key, batch), None, (2, 32, FEATURES, MODES))
    real = lambda key, count: labelled(key, count)[0]  # noqa: E731
    return World(Game(init, make, judge, draw, sample), MODES, real, shares, wanted, features)


def pictures(name: images.Data, batch: int, width: int, by_class: bool) -> World:
    """Pictures of clothes or digits, by convolutions; or by class, by residual blocks."""
    train, test = images.pools(name, images.MOST[name])
    classes = int(np.max(train.labels)) + 1
    side = round(train.images.shape[1] ** 0.5)
    if by_class:
        game = conditional.game(side, width, classes, batch, train.scale)
    else:
        game = convolutional.game(side, width, batch, train.scale)
    task = {"images": train.images.reshape(-1, side, side), "labels": train.labels}
    game = Game(**{**vars(game), "task": task})
    held = {"images": jnp.asarray(test.images), "labels": jnp.asarray(test.labels)}

    def real(key: Array, count: int) -> Array:
        index = jax.random.choice(key, len(test.labels), (count,), replace=False)
        return held["images"][index].reshape(-1, side, side) / test.scale

    def rows(task: Any, key: Array) -> tuple[Array, Array]:
        index = jax.random.randint(key, (batch,), 0, len(task["labels"]))
        return task["images"][index].reshape(batch, -1) / train.scale, task["labels"][index]

    sizes = (side * side, 128, FEATURES, classes)
    network = trained_classifier(rows, task, sizes)
    flat = lambda samples: samples.reshape(len(samples), -1)  # noqa: E731

    def shares(samples: Array) -> Array:
        guess = jnp.argmax(models.mlp(network, flat(samples)), axis=1)
        return jnp.mean(guess[:, None] == jnp.arange(classes + 1)[None], axis=0)

    return World(
        game, classes, real, shares, shares(held["images"] / test.scale),
        lambda samples: models.mlp_layers(network, flat(samples))[0][-1],
        together=False, picture=True,
    )  # fmt: skip


def classifier(draw: Callable[..., Any], task: Any, sizes: tuple[int, ...]) -> Callable[..., Array]:
    """Samples -> the last hidden layer of a small classifier that is trained now."""
    network = trained_classifier(draw, task, sizes)
    return lambda samples: models.mlp_layers(network, samples)[0][-1]


def trained_classifier(
    draw: Callable[[Any, Array], tuple[Array, Int[Array, " n"]]],
    task: Any,
    sizes: tuple[int, ...],
    steps: int = 1000,
) -> Any:
    """The weights of a small classifier, trained by Adam on labelled batches. All runs of a study
    are judged by the same one."""

    def loss(values: dict[str, Any], batch: Any) -> Array:
        return images.cross_entropy(values["classifier"], batch)

    nest = Nest([Level("classifier", loss, optax.adam(3e-3), draw)], task, norms=False)
    start = models.mlp_init(jax.random.key(1), sizes)
    state, _ = nest.run(nest.init({"classifier": start}, jax.random.key(2)), steps)
    return state.values["classifier"]
