"""The few-shot tasks of the MAML study: sine waves to regress, Omniglot characters to tell apart.

Sources: Finn, Abbeel and Levine, "Model-agnostic meta-learning" (2017), sections 5.1 and 5.2;
Vinyals et al., "Matching networks" (2016), for the episodes. MAML splits Omniglot's 1,623
characters at random into 1,200 and 423; here the split is Lake's, whose test characters come from
alphabets never seen, which is harder.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import data
from ..models import conv, conv_init, mlp, mlp_init

_HELD = 0.85  # alphabets from there on are for validation


class Episode(NamedTuple):
    """A task: examples (inputs, targets) to adapt to, and others to judge by."""

    support: tuple[Array, Array]
    query: tuple[Array, Array]


@dataclasses.dataclass(frozen=True)
class Family:
    """A distribution of tasks and the network that learns them.

    Attributes:
        train, valid, test: key -> Episode.
        init: key -> weights of a network.
        judge: (weights, (inputs, targets)) -> (loss, score).
    """

    train: Callable[[PRNGKeyArray], Episode]
    valid: Callable[[PRNGKeyArray], Episode]
    test: Callable[[PRNGKeyArray], Episode]
    init: Callable[[PRNGKeyArray], Any]
    judge: Callable[[Any, tuple[Array, Array]], tuple[Array, Array]]


def sinusoids(shots: int, width: int = 40) -> Family:
    """y = a sin(x + p): a uniform on [0.1, 5], p on [0, pi], x on [-5, 5]; loss and score are the
    mean squared error."""

    def draw(key: PRNGKeyArray, queries: int) -> Episode:
        amplitude, phase, where = jax.random.split(key, 3)
        a = jax.random.uniform(amplitude, minval=0.1, maxval=5.0)
        p = jax.random.uniform(phase, maxval=jnp.pi)
        x = jax.random.uniform(where, (shots + queries, 1), minval=-5.0, maxval=5.0)
        y = a * jnp.sin(x + p)
        return Episode((x[:shots], y[:shots]), (x[shots:], y[shots:]))

    def judge(weights: Any, examples: tuple[Array, Array]) -> tuple[Array, Array]:
        x, y = examples
        error = jnp.mean((mlp(weights, x, jax.nn.relu) - y) ** 2)
        return error, error

    train, fresh = functools.partial(draw, queries=shots), functools.partial(draw, queries=100)
    return Family(train, fresh, fresh, lambda key: mlp_init(key, (1, width, width, 1)), judge)


def omniglot(ways: int, shots: int, filters: int) -> Family:
    """Characters of `ways` classes, `shots` drawings of each to adapt to; loss in nats, score the
    accuracy.

    Learning is on the background's alphabets but for the last few, which are for validation, and
    the test is on the evaluation set. A character turned by quarters is a class of its own.
    """
    characters = data.omniglot()
    alphabets = characters.background_alphabets
    held = alphabets >= int(_HELD * (alphabets.max() + 1))
    # As many drawings to learn from as to adapt to, as published; more give a steadier test.
    learn, judge = episodes(ways, shots, shots), episodes(ways, shots, 3)
    return Family(
        train=lambda key: learn(characters.background[~held], key),
        valid=lambda key: judge(characters.background[held], key),
        test=lambda key: judge(characters.evaluation, key),
        init=lambda key: conv_init(key, filters, ways),
        judge=classify,
    )


def episodes(ways: int, shots: int, queries: int) -> Callable[[np.ndarray, PRNGKeyArray], Episode]:
    """(pictures (classes, drawings, side, side) of uint8, key) -> Episode."""

    def draw(pictures: np.ndarray, key: PRNGKeyArray) -> Episode:
        classes, drawings = pictures.shape[:2]
        which, turns, instances = jax.random.split(key, 3)
        chosen = jax.random.choice(which, classes, (ways,), replace=False)
        turned = jax.random.randint(turns, (ways,), 0, 4)
        each = jax.vmap(
            lambda key: jax.random.choice(key, drawings, (shots + queries,), replace=False)
        )(jax.random.split(instances, ways))
        # Numbers of rows: gathering pictures one by one, not whole classes.
        rows = jnp.asarray(pictures.reshape(-1, *pictures.shape[2:]))
        found = rows[chosen[:, None] * drawings + each].astype(jnp.float32) / 255
        found = jax.vmap(turn)(found, turned)
        labels = jnp.broadcast_to(jnp.arange(ways)[:, None], found.shape[:2])

        def part(of: slice) -> tuple[Array, Array]:
            return found[:, of].reshape(-1, *found.shape[2:]), labels[:, of].reshape(-1)

        return Episode(part(slice(shots)), part(slice(shots, None)))

    return draw


def turn(pictures: Float[Array, "n side side"], quarters: Int[Array, ""]) -> Float[Array, "n s s"]:
    """Turns pictures by a number of quarters."""
    flipped = pictures[:, :, ::-1]
    all_four = [pictures, flipped.mT, pictures[:, ::-1, ::-1], flipped.mT[:, ::-1, ::-1]]
    return jnp.select([quarters == n for n in range(4)], all_four)


def classify(weights: Any, examples: tuple[Array, Array]) -> tuple[Array, Array]:
    """Cross entropy in nats, and accuracy."""
    pictures, labels = examples
    logits = conv(weights, pictures)
    likely = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
    return -jnp.mean(likely), jnp.mean((jnp.argmax(logits, 1) == labels).astype(jnp.float32))
