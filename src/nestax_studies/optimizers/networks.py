"""Two tasks with networks: images, and characters of tiny Shakespeare.

Rates are chosen, and optimizers compared, by the loss on a fixed part of the training data: that is
what they descend. The test loss is recorded as well; on small data it says more about how long an
optimizer is kept from fitting.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import data, models
from ..models import Linear
from .training import Curves, Task

_SEEN = 2000  # images of either part that are looked at along a run, at most
_WINDOWS = 64  # pieces of text, likewise


def network(
    name: str, hidden: tuple[int, ...], batch_size: int, steps: int, points: int, together: int
) -> Task:
    """A tanh MLP that classifies images."""
    split = data.load(name)
    order = np.random.default_rng(0).permutation(len(split.train))
    test = np.random.default_rng(1).permutation(len(split.test))[:_SEEN]

    def part(of: Any, index: np.ndarray) -> tuple[jax.Array, jax.Array]:
        images = of.images[index].reshape(len(index), -1)
        return jnp.asarray(images), jnp.asarray(of.labels[index])

    arrays = {
        "all": part(split.train, order),
        "train": part(split.train, order[:_SEEN]),
        "test": part(split.test, test),
    }
    sizes = (arrays["train"][0].shape[1], *hidden, split.classes)

    def batch(arrays: Any, step: Any, steps: Any, key: jax.Array) -> Any:
        images, labels = arrays["all"]
        index = jax.random.randint(key, (batch_size,), 0, len(labels))
        return images[index], labels[index]

    def scores(weights: Any, images: jax.Array, linear: Linear) -> jax.Array:
        x = images.astype(float) / split.scale
        for number, layer in enumerate(weights):
            x = jnp.tanh(x) if number else x
            x = linear(layer.weight, x)
            x = x + jnp.broadcast_to(layer.bias[None], x.shape)
        return x

    def loss(weights: Any, batch: Any, linear: Linear) -> jax.Array:
        found = scores(weights, batch[0], linear)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(found, batch[1]))

    def measure(weights: Any, arrays: Any) -> dict[str, jax.Array]:
        seen = {
            name: loss(weights, arrays[name], models.apply_linear) for name in ("train", "test")
        }
        images, labels = arrays["test"]
        told = jnp.argmax(scores(weights, images, models.apply_linear), axis=1)
        return seen | {"wrong": jnp.mean((told != labels).astype(float))}

    return Task(
        steps=steps,
        points=points,
        centres={"gradient": 0.3, "unit": 3e-3, "inverse": 1e-3},
        cosine=True,
        together=together,
        timed=True,
        slow="^0/",  # the first layer
        data=arrays,
        init=lambda key: models.mlp_init(key, sizes),
        batch=batch,
        loss=loss,
        measure=measure,
        score=_last,
    )


def language(
    width: int,
    depth: int,
    heads: int,
    length: int,
    batch_size: int,
    steps: int,
    points: int,
    together: int,
) -> Task:
    """A transformer that predicts the next character."""
    text = data.tiny_shakespeare()

    def windows(part: np.ndarray) -> jax.Array:
        starts = np.linspace(0, len(part) - length - 1, _WINDOWS).astype(int)
        return jnp.asarray(part[starts[:, None] + np.arange(length + 1)])

    arrays = {
        "all": jnp.asarray(text.train),
        "train": windows(text.train),
        "test": windows(text.test),
    }

    def batch(arrays: Any, step: Any, steps: Any, key: jax.Array) -> jax.Array:
        starts = jax.random.randint(key, (batch_size, 1), 0, len(arrays["all"]) - length)
        place = jnp.broadcast_to(jnp.arange(length + 1)[None], (batch_size, length + 1))
        return arrays["all"][starts + place]

    def loss(weights: Any, windows: jax.Array, linear: Linear) -> jax.Array:
        tokens = windows.astype(jnp.int32)
        scores = models.transformer(weights, tokens[:, :-1], heads, linear)
        each = optax.softmax_cross_entropy_with_integer_labels(scores, tokens[:, 1:])
        return jnp.mean(each)

    def measure(weights: Any, arrays: Any) -> dict[str, jax.Array]:
        return {
            name: loss(weights, arrays[name], models.apply_linear) for name in ("train", "test")
        }

    return Task(
        steps=steps,
        points=points,
        centres={"gradient": 1.0, "unit": 3e-3, "inverse": 1e-3},
        cosine=True,
        together=together,
        timed=True,
        slow=f"^blocks/({'|'.join(str(i) for i in range((depth + 1) // 2))})/",
        data=arrays,
        init=lambda key: models.transformer_init(key, len(text.characters), width, depth),
        batch=batch,
        loss=loss,
        measure=measure,
        score=_last,
    )


def _last(curves: Curves) -> np.ndarray:
    return curves["train"][:, -1]
