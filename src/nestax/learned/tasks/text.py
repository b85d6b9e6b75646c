"""Character models on texts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ...optim.internal import option, whole
from ..family import Family
from .layers import (
    activate,
    check_activations,
    check_sizes,
    cross_entropy,
    dense,
    dense_init,
    mlp,
    mlp_init,
)


def characters(
    texts: Any,
    *,
    vocabulary: Any = None,
    context: Any = 8,
    embedding: Any = 16,
    hidden: Any = (64,),
    model: str = "mlp",
    batch: Any = 64,
    activations: Any = ("relu", "tanh", "gelu"),
) -> Family:
    """Models that predict the next character of a text.

    A task is one of the texts and one of the activations. A batch consists of windows at drawn
    places. Characters are embedded, the embedding is trained, and the loss is the mean cross
    entropy in nats.

    Example:
        ```python
        text = jnp.asarray([ord(c) - 97 for c in "abracadabra" * 3])
        family = nx.learned.characters(text, context=4, batch=2)
        task = family.sample(jax.random.key(0))
        batch = family.batch(task, jax.random.key(1))
        print(batch["tokens"].shape, f"{family.scale(task):.3f}")  # (2, 5) 2.890
        ```

    Args:
        texts: an array of integers from 0 on, one for each character, or a list of such arrays.
        vocabulary: number of different characters; None: the largest integer plus one.
        context: number of characters that are read.
        embedding: numbers that stand for a character.
        hidden: sizes of the hidden layers; of the GRU one size, that of its state.
        model: "mlp": a multilayer perceptron reads `context` embedded characters and predicts the
            next one. "gru": a gated recurrent unit reads them one by one and predicts each next
            one; it has no other activations than its own.
        batch: windows of a batch.
        activations: names to draw from, as for `mlps`.

    Returns:
        The family, named by the model and its sizes, such as "characters mlp 64". Its scale is the
        loss of a uniform guess, log(vocabulary).

    Raises:
        ValueError: texts of another kind or too short, characters out of range, a size below 1, an
            unknown model or activation, a GRU with another number of sizes than one.
    """
    who = "characters"
    context = whole(who, "context", context)
    parts = _checked(who, texts, context)
    largest = 1 + max(int(part.max()) for part in parts)
    vocabulary = largest if vocabulary is None else whole(who, "vocabulary", vocabulary)
    if vocabulary < max(largest, 2):
        raise ValueError(
            f"{who}: characters are numbers from 0 on, below the vocabulary, which is 2 at least; "
            f"the largest character is {largest - 1} and vocabulary={vocabulary}"
        )
    embedding, count = whole(who, "embedding", embedding), whole(who, "batch", batch)
    hidden = check_sizes(who, "hidden", hidden)
    option(who, "model", model, ("mlp", "gru"))
    names = check_activations(who, activations)
    if model == "gru" and len(hidden) != 1:
        raise ValueError(f"{who}: a GRU has one size, such as hidden=(64,), got {hidden}")
    tokens = np.concatenate(parts)
    counts = np.array([len(part) for part in parts])
    begins = np.concatenate([[0], np.cumsum(counts)[:-1]])

    def sample(key: Array) -> PyTree:
        one, two = jax.random.split(key)
        return {
            "text": jax.random.randint(one, (), 0, len(parts)),
            "activation": jax.random.randint(two, (), 0, len(names)),
        }

    def init(task: PyTree, key: Array) -> PyTree:
        del task
        one, two = jax.random.split(key)
        embedded = jax.random.normal(one, (vocabulary, embedding))
        if model == "gru":
            return {"embedding": embedded, **_gru_init(two, embedding, hidden[0], vocabulary)}
        return {
            "embedding": embedded,
            "layers": mlp_init(two, (context * embedding, *hidden, vocabulary)),
        }

    def draw(task: PyTree, key: Array) -> PyTree:
        begin = jnp.asarray(begins, jnp.int32)[task["text"]]
        places = jnp.asarray(counts - context, jnp.int32)[task["text"]]
        first = begin + jax.random.randint(key, (count,), 0, places)
        window = first[:, None] + jnp.arange(context + 1)[None]
        return {"tokens": jnp.asarray(tokens)[window], "activation": task["activation"]}

    def loss(params: PyTree, batch: PyTree) -> Array:
        read = params["embedding"][batch["tokens"][:, :-1]]
        if model == "gru":
            return cross_entropy(_gru(params, read), batch["tokens"][:, 1:])

        def activation(x: Array) -> Array:
            return activate(names, batch["activation"], x)

        scores = mlp(params["layers"], activation, read.reshape(count, -1))
        return cross_entropy(scores, batch["tokens"][:, -1])

    def scale(task: PyTree) -> Array:
        del task
        return jnp.log(float(vocabulary))

    name = f"characters {model} {'-'.join(map(str, hidden)) or 'linear'}"
    return Family(name, sample, init, draw, loss, scale)


def _gru_init(key: Array, inputs: int, hidden: int, outputs: int) -> dict[str, Any]:
    one, two, three = jax.random.split(key, 3)
    return {
        "input": dense_init(one, inputs, 3 * hidden),
        "recurrent": jax.random.normal(two, (hidden, 3 * hidden)) / jnp.sqrt(hidden),
        "readout": dense_init(three, hidden, outputs),
    }


def _gru(params: PyTree, x: Array) -> Array:
    """Scores after each character, (windows, context, embedding) -> (windows, context, scores).

    With gates r and z in (0, 1) the state becomes z h + (1 - z) tanh(a + r b), where a is linear in
    the input and b in the state h.
    """

    def step(state: Array, read: Array) -> tuple[Array, Array]:
        reset, keep, new = jnp.split(read, 3, axis=-1)
        own = jnp.split(state @ params["recurrent"], 3, axis=-1)
        reset, keep = jax.nn.sigmoid(reset + own[0]), jax.nn.sigmoid(keep + own[1])
        state = keep * state + (1 - keep) * jnp.tanh(new + reset * own[2])
        return state, state

    read: Any = jnp.moveaxis(dense(params["input"], x), 1, 0)
    start = jnp.zeros((x.shape[0], params["recurrent"].shape[0]), read.dtype)
    states = jax.lax.scan(step, start, read)[1]
    return dense(params["readout"], jnp.moveaxis(states, 0, 1))


def _checked(who: str, texts: Any, context: int) -> list[np.ndarray]:
    known: Callable[[Any], bool] = lambda one: isinstance(one, (np.ndarray, jax.Array))  # noqa: E731
    parts = [texts] if known(texts) else texts
    if not isinstance(parts, (list, tuple)) or not parts or not all(map(known, parts)):
        raise ValueError(
            f"{who}: texts are an array of integers or a list of such arrays, got {texts!r:.60}"
        )
    found = [np.asarray(part) for part in parts]
    for part in found:
        if part.dtype.kind not in "ui" or part.ndim != 1:
            raise ValueError(
                f"{who}: a text is an array of integers with one axis, got {part.dtype} of shape "
                f"{part.shape}"
            )
        if len(part) <= context:
            raise ValueError(
                f"{who}: a text needs more than context={context} characters, got {len(part)}"
            )
        if part.min() < 0:
            raise ValueError(f"{who}: characters must not be negative, got {part.min()}")
    return [part.astype(np.int32) for part in found]
