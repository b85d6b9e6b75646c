"""Worlds: where a run's tasks come from, and how their examples look to a network.

Images have their classes split between tasks, or all of them with their pixels permuted. A language
is a Markov chain over a small alphabet; an example is what a chain said last, its language named,
with what it says next.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .. import streams

STREAMS = {
    "class": "split by classes, one head",
    "permuted": "permuted pixels",
    "languages": "Markov languages, named",
}
_SHARPNESS = 2.0  # of a language: standard deviation of its log-probabilities, before normalizing
_HEARD = 512  # characters of a language that are looked at


@dataclasses.dataclass(frozen=True)
class World:
    """Tasks of one kind.

    Attributes:
        inputs: of the network.
        classes: its outputs.
        arrays: what all runs share.
        draw: (arrays, key) -> the tasks of one run, a pytree with a leading axis.
        text: (arrays, task, number, key, count) -> `count` examples as they are kept, and labels.
        shown: (arrays, task, number, key, judged) -> examples to tune by (0) or to judge by (1),
            and labels.
        features: examples as they are kept (n, ...) -> (n, inputs).
        ceiling: the tasks of one run -> the accuracy that nobody exceeds; None if not known.
    """

    inputs: int
    classes: int
    arrays: Any
    draw: Callable[[Any, Array], Any]
    text: Callable[[Any, Any, Any, Array, int], tuple[Array, Array]]
    shown: Callable[[Any, Any, Any, Array, Any], tuple[Array, Array]]
    features: Callable[[Array], Float[Array, "n inputs"]]
    ceiling: Callable[[Any], float] | None = None


def images(kind: str, tasks: int, given: streams.Images) -> World:
    """Tasks made of labelled images, of kind "class" or "permuted"."""
    pixels = given.train.shape[-1]

    def text(arrays: Any, task: Any, number: Any, key: Array, many: int) -> tuple[Array, Array]:
        return streams.draw_images(arrays[0], task, jax.random.split(key), many)

    def shown(arrays: Any, task: Any, number: Any, key: Array, judged: Any) -> tuple[Array, Array]:
        return streams.held_out_images(arrays[1], task, judged)

    return World(
        pixels,
        len(given.train),
        (jnp.asarray(given.train), jnp.asarray(given.held_out)),
        lambda arrays, key: streams.draw_tasks(kind == "permuted", tasks, pixels, key),
        text,
        shown,
        lambda rows: rows.astype(float) / given.scale,
    )


def languages(tasks: int, letters: int, order: int) -> World:
    """Markov chains of this order; the next character is told from as many before it and the
    number of the language.

    An example is kept as the numbers of these characters, then that of the language.
    """

    def draw(arrays: Any, key: Array) -> Float[Array, "tasks contexts letters"]:
        """Log-probabilities, up to constants, of what follows each context."""
        return _SHARPNESS * jax.random.normal(key, (tasks, letters**order, letters))

    def text(arrays: Any, table: Any, number: Any, key: Array, many: int) -> tuple[Array, Array]:
        said = _said(table, letters, order, key, many + order)
        windows = jnp.stack([said[i : i + many] for i in range(order)], axis=1)
        name = jnp.full((many, 1), number, jnp.int32)
        return jnp.concatenate([windows, name], axis=1), said[order:]

    def shown(arrays: Any, table: Any, number: Any, key: Array, judged: Any) -> Any:
        # A text of its own for tuning and for judging.
        return text(arrays, table, number, jax.random.fold_in(key, judged), _HEARD)

    def features(rows: Int[Array, "n places"]) -> Float[Array, "n inputs"]:
        heard = jax.nn.one_hot(rows[:, :order], letters).reshape(len(rows), -1)
        return jnp.concatenate([heard, jax.nn.one_hot(rows[:, order], tasks)], axis=1)

    def ceiling(tables: Any) -> float:
        return float(np.mean([best_possible(table, order) for table in np.asarray(tables)]))

    inputs = order * letters + tasks
    return World(inputs, letters, (), draw, text, shown, features, ceiling)


def _said(table: Array, letters: int, order: int, key: Array, many: int) -> Int[Array, " many"]:
    """A chain's characters, from one long run of it; context c is a number in base `letters`."""
    start, rest = jax.random.split(key)

    def speak(context: Array, noise: Array) -> tuple[Array, Array]:
        letter = jnp.argmax(table[context] + noise).astype(jnp.int32)
        return (context * letters + letter) % letters**order, letter

    context = jax.random.randint(start, (), 0, letters**order, jnp.int32)
    noise = jax.random.gumbel(rest, (many, letters))
    return jax.lax.scan(speak, context, noise)[1]


def best_possible(table: np.ndarray, order: int) -> float:
    """The accuracy of somebody who knows the language: (contexts, letters) log-probabilities."""
    shares = np.exp(table - table.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    contexts, letters = shares.shape
    steps = np.zeros((contexts, contexts))
    for context in range(contexts):
        for letter in range(letters):
            steps[context, (context * letters + letter) % contexts] += shares[context, letter]
    occupied = np.full(contexts, 1 / contexts)
    for _ in range(200):
        occupied = occupied @ steps
    return float(occupied @ shares.max(1))
