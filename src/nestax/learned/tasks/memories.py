"""Associative memories that recall within a sequence."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ...optim.internal import option, whole
from ..family import Family
from .layers import cross_entropy


def associative(
    pairs: Any = 4,
    *,
    keys: Any = 8,
    values: Any = 8,
    size: Any = 16,
    memory: str = "delta",
    batch: Any = 64,
) -> Family:
    """In-context associative memories: recall the value that was paired with a key.

    A sequence consists of pairs of symbols, all keys different, and of one of its keys, whose value
    is asked for. A matrix memory M learns the pairs while it reads them, which is an inner
    learning problem. The parameters decide how: the projections of keys, queries and values, the
    read-out, and the memory's learning rate eta. With projected keys k and queries q of norm 1, and
    projected values v,

        M <- M + eta v k'             (`memory="hebbian"`, linear attention)
        M <- M + eta (v - M k) k'     (`memory="delta"`, the delta rule)
        scores = readout M q

    A task draws the vectors that symbols are embedded by. The loss is the mean cross entropy in
    nats of the value that is asked for.

    Example:
        ```python
        family = nx.learned.associative(pairs=4, keys=8, values=8)
        task = family.sample(jax.random.key(0))
        batch = family.batch(task, jax.random.key(1))
        print(batch["keys"].shape, f"{family.scale(task):.3f}")  # (64, 4) 2.079
        ```

    Args:
        pairs: pairs of a sequence, at most `keys`.
        keys: number of different keys.
        values: number of different values, at least 2.
        size: numbers of an embedding, and of projected keys and values.
        memory: how the memory learns, "hebbian" or "delta".
        batch: sequences of a batch.

    Returns:
        The family, named by its memory, such as "associative delta". Its scale is the loss of a
        uniform guess, log(values).

    Raises:
        ValueError: a number out of these ranges, an unknown memory, more pairs than keys.

    Source: Schlag, Irie and Schmidhuber, "Linear transformers are secretly fast weight programmers"
    (2021), for both memories.
    """
    who = "associative"
    pairs, keys = whole(who, "pairs", pairs), whole(who, "keys", keys)
    values, size = whole(who, "values", values, 2), whole(who, "size", size)
    batch = whole(who, "batch", batch)
    option(who, "memory", memory, ("hebbian", "delta"))
    if pairs > keys:
        raise ValueError(
            f"{who}: the keys of a sequence are different, so pairs must be at most keys, got "
            f"pairs={pairs} and keys={keys}"
        )

    def sample(key: Array) -> PyTree:
        one, two = jax.random.split(key)
        return {
            "keys": jax.random.normal(one, (keys, size)),
            "values": jax.random.normal(two, (values, size)),
        }

    def init(task: PyTree, key: Array) -> PyTree:
        del task
        one, two, three, four = jax.random.split(key, 4)
        root = jnp.sqrt(size)
        return {
            "key": jax.random.normal(one, (size, size)) / root,
            "query": jax.random.normal(two, (size, size)) / root,
            "value": jax.random.normal(three, (size, size)) / root,
            "readout": jax.random.normal(four, (size, values)) / root,
            "rate": jnp.zeros(()),  # its sigmoid is the learning rate
        }

    def draw(task: PyTree, key: Array) -> PyTree:
        one, two, three = jax.random.split(key, 3)
        shuffled = jax.vmap(lambda k: jax.random.permutation(k, keys))(jax.random.split(one, batch))
        written = jax.random.randint(two, (batch, pairs), 0, values)
        asked = jax.random.randint(three, (batch, 1), 0, pairs)
        shuffled = shuffled[:, :pairs]
        return {
            "keys": shuffled,
            "values": written,
            "query": jnp.take_along_axis(shuffled, asked, axis=1)[:, 0],
            "answer": jnp.take_along_axis(written, asked, axis=1)[:, 0],
            "embedded": task,
        }

    def loss(params: PyTree, batch: PyTree) -> Array:
        embedded = batch["embedded"]
        keys = _normed(embedded["keys"] @ params["key"])
        queries = _normed(embedded["keys"] @ params["query"])
        values = embedded["values"] @ params["value"]
        rate = jax.nn.sigmoid(params["rate"])

        def recall(written: Array, paired: Array, asked: Array) -> Array:
            def write(state: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
                k, v = pair
                error = v - state @ k if memory == "delta" else v
                return state + rate * jnp.outer(error, k), None

            empty = jnp.zeros((size, size), keys.dtype)
            state, _ = jax.lax.scan(write, empty, (keys[written], values[paired]))
            return (state @ queries[asked]) @ params["readout"]

        scores = jax.vmap(recall)(batch["keys"], batch["values"], batch["query"])
        return cross_entropy(scores, batch["answer"])

    def scale(task: PyTree) -> Array:
        del task
        return jnp.log(float(values))

    return Family(f"associative {memory}", sample, init, draw, loss, scale)


def _normed(x: Array) -> Array:
    """Rows of norm 1; a row of zeros stays, and has a finite derivative."""
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-12)
