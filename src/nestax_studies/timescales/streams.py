"""Streams of tasks, learned one after another by whole runs that are compiled.

Every run learns each task for as many steps, on images drawn anew at each; after each task it is
looked at on all of them. Tuning looks at images that were taken out of the training images, judging
at test images.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from .. import data, models
from ..study import is_tuning
from .arms import Arm

STREAMS = {
    "class": "split by classes, one head",
    "task": "split by classes, task known",
    "permuted": "permuted pixels",
}
_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Images:
    """As many of each class, uint8.

    Attributes:
        train: (classes, images, pixels).
        held_out: (2, classes, images, pixels): those to tune by, those to judge by.
        scale: the largest grey level.
    """

    train: np.ndarray
    held_out: np.ndarray
    scale: int


@dataclasses.dataclass(frozen=True)
class Stream:
    """What is learned.

    Attributes:
        kind: of `STREAMS`.
        tasks: how many; classes are shared out evenly where they are split.
        steps: of each task.
        batch_size: images in a step.
        hidden: units of a hidden layer; half as many in each of three blocks.
        together: runs side by side in one program, which saves time where a step is too small to
            fill the machine.
    """

    kind: str
    tasks: int
    steps: int
    batch_size: int
    hidden: int
    together: int = 1


def images(name: str, held_out: int) -> Images:
    """The training images of a data set without the `held_out` last of each class, and as many of
    each class to tune by and to judge by."""
    found = data.load(name)

    def by_class(split: data.Split) -> list[np.ndarray]:
        rows = split.images.reshape(len(split), -1)
        # Drawn once: files may be sorted by writer.
        order = np.random.default_rng(0).permutation(len(split))
        return [rows[order][split.labels[order] == label] for label in range(_CLASSES)]

    train, test = by_class(found.train), by_class(found.test)
    count = min(map(len, train))
    tune = np.stack([rows[count - held_out : count] for rows in train])
    judge = np.stack([rows[:held_out] for rows in test])
    rest = np.stack([rows[: count - held_out] for rows in train])
    return Images(rest, np.stack([tune, judge]), found.scale)


def draw_tasks(stream: Stream, pixels: int, key: jax.Array) -> tuple[Array, Array]:
    """One run's tasks: the classes of each, (tasks, own classes), and the place that each of its
    pixels is taken from, (tasks, pixels). The first task's pixels stay where they are."""
    if stream.kind == "permuted":
        classes = jnp.tile(jnp.arange(_CLASSES), (stream.tasks, 1))
        keys = jax.random.split(key, stream.tasks - 1)
        moved = jax.vmap(lambda k: jax.random.permutation(k, pixels))(keys)
        return classes, jnp.concatenate([jnp.arange(pixels)[None], moved])
    classes = jax.random.permutation(key, _CLASSES)[: _CLASSES // stream.tasks * stream.tasks]
    return classes.reshape(stream.tasks, -1), jnp.tile(jnp.arange(pixels), (stream.tasks, 1))


def scores(stream: Stream, arm: Arm, params: Any, x: Array, own: Array) -> Float[Array, "n 10"]:
    """The network's outputs; where the task is known, those of other tasks' classes are out of the
    question."""
    if arm.blocks:
        found = sum(models.mlp(block, x, jax.nn.relu) for block in params)
    else:
        found = models.mlp(params, x, jax.nn.relu)
    assert not isinstance(found, int)
    if stream.kind == "task":
        known = jnp.any(jnp.arange(_CLASSES)[:, None] == own[None], axis=1)
        found = jnp.where(known[None], found, -1e9)
    return found


def init(stream: Stream, arm: Arm, pixels: int, key: jax.Array) -> Any:
    """Three layers of one network, or three networks of two layers whose outputs add."""
    if arm.blocks:
        sizes = (pixels, stream.hidden // 2, _CLASSES)
        return [models.mlp_init(k, sizes) for k in jax.random.split(key, 3)]
    return models.mlp_init(key, (pixels, stream.hidden, stream.hidden, _CLASSES))


def runner(
    stream: Stream, arm: Arm, given: Images
) -> Callable[[Sequence[float], Sequence[int]], np.ndarray]:
    """(rates, seeds) -> (rates, seeds, tasks, tasks), the accuracy after task i on task j.

    Seeds from `tuning(0)` on are looked at on the images to tune by. A run whose weights are no
    longer finite has accuracy 0.
    """
    count, pixels = given.train.shape[1:]

    def moved(rows: Array, places: Array) -> Array:
        return rows[:, places] if stream.kind == "permuted" else rows

    def one(train: Array, held_out: Array, rate: Any, key: jax.Array, judged: Any) -> Array:
        optimizer = arm.make(rate)
        keys = [jax.random.fold_in(key, i) for i in range(3)]
        classes, places = draw_tasks(stream, pixels, keys[0])
        params = init(stream, arm, pixels, keys[1])

        def loss(params: Any, x: Array, y: Array, own: Array) -> Array:
            found = scores(stream, arm, params, x, own)
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(found, y))

        def own_images(own: Array, place: Array) -> Array:
            return moved(held_out[judged, own].reshape(-1, pixels), place)

        looked_at = jax.vmap(own_images)(classes, places)

        def learn(carry: Any, task: Any) -> tuple[Any, Array]:
            own, place, key = task
            shape = (stream.steps, stream.batch_size)
            draws = [jax.random.fold_in(key, i) for i in range(2)]
            labels = own[jax.random.randint(draws[0], shape, 0, len(own))]
            index = jax.random.randint(draws[1], shape, 0, count)

            def step(carry: Any, drawn: Any) -> tuple[Any, None]:
                params, state = carry
                y, i = drawn
                x = moved(train[y, i], place).astype(float) / given.scale
                gradient = jax.grad(loss)(params, x, y, own)
                updates, state = optimizer.update(gradient, state, params)
                return (optax.apply_updates(params, updates), state), None

            carry, _ = jax.lax.scan(step, carry, (labels, index))
            return carry, look(carry[0])

        def look(params: Any) -> Array:
            def right(task: Any) -> Array:
                own, rows = task
                x = rows.astype(float) / given.scale
                said = jnp.argmax(scores(stream, arm, params, x, own), axis=1)
                return jnp.mean(said.reshape(len(own), -1) == own[:, None])

            finite = jnp.stack([jnp.all(jnp.isfinite(p)) for p in jax.tree.leaves(params)])
            return jnp.where(jnp.all(finite), jax.lax.map(right, (classes, looked_at)), 0.0)

        start = params, optimizer.init(params)
        order = classes, places, jax.random.split(keys[2], stream.tasks)
        return jax.lax.scan(learn, start, order)[1]

    compiled = jax.jit(jax.vmap(one, (None, None, 0, 0, 0)))
    train, held_out = jnp.asarray(given.train), jnp.asarray(given.held_out)

    def run(rates: Sequence[float], seeds: Sequence[int]) -> np.ndarray:
        pairs = [(rate, seed) for rate in rates for seed in seeds]
        found = []
        for begin in range(0, len(pairs), stream.together):
            # Always as many, so that there is one program.
            some = [pairs[min(begin + i, len(pairs) - 1)] for i in range(stream.together)]
            keys = jnp.stack([jax.random.key(seed) for _, seed in some])
            judged = jnp.asarray([int(not is_tuning(seed)) for _, seed in some])
            chosen = jnp.asarray([rate for rate, _ in some], float)
            got = np.asarray(compiled(train, held_out, chosen, keys, judged))
            found.append(got[: len(pairs) - begin])
        return np.concatenate(found).reshape(len(rates), len(seeds), stream.tasks, stream.tasks)

    return run
