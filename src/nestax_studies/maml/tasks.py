"""The few-shot tasks of the MAML study: sine waves to regress, Omniglot characters to tell apart.

Sources: Finn, Abbeel and Levine, "Model-agnostic meta-learning" (2017), sections 5.1 and 5.2;
Vinyals et al., "Matching networks" (2016), for the episodes. MAML splits Omniglot's 1,623
characters at random into 1,200 and 423; here the split is Lake's, whose test characters come from
alphabets never seen, which is harder.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import data
from ..models import mlp, mlp_init

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

    def train(key: PRNGKeyArray) -> Episode:
        return draw(key, shots)

    def fresh(key: PRNGKeyArray) -> Episode:
        return draw(key, 100)

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


def conv_init(key: PRNGKeyArray, filters: int, ways: int) -> dict[str, Any]:
    """Four blocks of 3x3 filters and a linear layer."""
    blocks, inputs = [], 1
    for number in range(4):
        scale = (2 / (9 * inputs)) ** 0.5
        draw = jax.random.normal(jax.random.fold_in(key, number), (9 * inputs, filters))
        blocks.append(
            {"filters": scale * draw, "gain": jnp.ones(filters), "bias": jnp.zeros(filters)}
        )
        inputs = filters
    last = jax.random.normal(jax.random.fold_in(key, 4), (4 * filters, ways))
    return {"blocks": blocks, "weight": last / (4 * filters) ** 0.5, "bias": jnp.zeros(ways)}


def conv(weights: dict[str, Any], pictures: Float[Array, "n 28 28"]) -> Float[Array, "n ways"]:
    """Blocks of convolution with stride 2, normalization by the batch's own statistics and ReLU."""
    x = pictures[..., None]
    for block in weights["blocks"]:
        x = _patches(x) @ block["filters"]
        # Not with running averages: the episode's own statistics, as in MAML (transductive).
        mean = jnp.mean(x, (0, 1, 2), keepdims=True)
        variance = jnp.mean((x - mean) ** 2, (0, 1, 2), keepdims=True)
        x = (x - mean) * jax.lax.rsqrt(variance + 1e-5)
        x = jax.nn.relu(x * block["gain"][None, None, None] + block["bias"][None, None, None])
    return x.reshape(len(x), -1) @ weights["weight"] + weights["bias"][None]


def _patches(x: Float[Array, "n h w c"]) -> Float[Array, "n _ _ 9*c"]:
    """The 3x3 neighbourhood of every other pixel, so that a convolution is a matrix product.

    Convolutions with weights of each task's own, which `vmap` makes grouped ones, took seven times
    as long on CPUs.
    """
    n, height, width, channels = x.shape
    h, w = -(-height // 2), -(-width // 2)
    pad = [
        (0, 0),
        *((((s := 2 * o + 1 - size) // 2), s - s // 2) for o, size in ((h, height), (w, width))),
        (0, 0),
    ]
    x = jnp.pad(x, pad)
    shifted = [
        jax.lax.slice(x, (0, i, j, 0), (n, i + 2 * h - 1, j + 2 * w - 1, channels), (1, 2, 2, 1))
        for i in range(3)
        for j in range(3)
    ]
    return jnp.concatenate(shifted, -1)
