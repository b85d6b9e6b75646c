"""The four tasks: the paper's toy, a stream of orthogonal tasks, images, and characters.

Networks are judged by the loss on a fixed part of the training data: that is what optimizers
descend. Their test loss on few data says more about how long they are kept from fitting.

Toy: Behrouz et al., "Nested Learning" (2025), eq. (53), of which the constants are not given.
Orthogonal tasks: section 4.3.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import data, models
from ..images import MOST, pools
from ..models import Linear

Curves = dict[str, np.ndarray]
K, ALPHA, OMEGA = 10.0, 1.0, 2.0
START = (-3.5, 2.0)
SETTLED = 0.01  # of the toy, whose value at the start is about 350
INPUTS, OUTPUTS, TASKS = 32, 8, 4
_WIDTH, _BATCH, _NOISE = INPUTS // TASKS, 16, 0.1
_SEEN = 2000  # images of either part that are looked at along a run, at most
_WINDOWS = 64  # pieces of text of either part


@dataclass(frozen=True)
class Task:
    """What is optimized, and how it is looked at."""

    steps: int
    points: int  # of a curve; divides `steps`
    together: int  # runs side by side in one program
    centres: Mapping[str, float]  # of the grid of rates, by what an arm's steps are proportional to
    outcome: str  # the curve whose end, or the number, that a rate is chosen by; less is better
    init: Callable[[jax.Array], Any]  # key -> parameters
    batch: Callable[[Any, Any, Any, jax.Array], Any]  # (data, step, steps in all, key) -> batch
    loss: Callable[[Any, Any, Linear], jax.Array]  # (parameters, batch, linear) -> what descends
    measure: Callable[[Any, Any], dict[str, jax.Array]]  # (parameters, data) -> recorded at points
    # What was measured, (runs, points + 1, ...) -> curves (runs, points + 1), numbers (runs,).
    reduce: Callable[[Curves], Curves] = lambda raw: raw
    data: Any = None  # arrays that all runs share
    world: Callable[[jax.Array], Any] | None = None  # key -> data of one run, in place of `data`
    # Whether a step takes long enough for its pace to mean anything. Then rates warm up and fall
    # along a cosine; else they are constant, and everything is measured at every step, which costs
    # less than to interrupt the program.
    large: bool = False
    slow: str = ""  # regular expression of the slow parameters


def valley(point: jax.Array) -> jax.Array:
    """psi(r, theta) = r^2 + k (r - theta + alpha sin(omega r))^2; its minimum is 0, at 0."""
    r, theta = point[..., 0], point[..., 1]
    return r**2 + K * (r - theta + ALPHA * jnp.sin(OMEGA * r)) ** 2


def toy(steps: int, together: int) -> Task:
    """The valley, from a start that differs between seeds by 0.1; a point is one row (1, 2)."""

    def measure(point: jax.Array, data: Any) -> dict[str, jax.Array]:
        return {"psi": valley(point)[0], "r": point[0, 0], "theta": point[0, 1]}

    def reduce(raw: Curves) -> Curves:
        """Of the path only the first seed's."""
        path = {name: raw[name][:1] for name in ("r", "theta")}
        return {"psi": raw["psi"], "settled": settled(raw["psi"]), **path}

    return Task(
        steps, steps, together, {"gradient": 3e-3, "unit": 3e-2, "inverse": 3.0}, "settled",
        init=lambda key: jnp.asarray([START]) + 0.1 * jax.random.normal(key, (1, 2)),
        batch=lambda data, step, steps, key: None,
        loss=lambda point, batch, linear: jnp.sum(valley(point)),
        measure=measure, reduce=reduce,
    )  # fmt: skip


def settled(losses: np.ndarray) -> np.ndarray:
    """The point from which on the loss is `SETTLED`; where there is none the number of points, and
    more the larger the last loss, so that rates can be told apart. To jump across the minimum
    does not count."""
    there = np.flip(np.logical_and.accumulate(np.flip(losses <= SETTLED, 1), 1), 1)
    last = np.nan_to_num(losses[:, -1], nan=np.inf)
    never = losses.shape[1] * (2 - 1 / (1 + last))
    return np.where(there.any(1), np.argmax(there, 1), never)


def forgetting(steps: int, together: int) -> Task:
    """A linear layer learns one linear map from inputs that lie in one subspace for a while, then
    in another one, orthogonal to all before: the gradients of any two tasks are orthogonal, and a
    step that follows the present gradient changes nothing about the earlier tasks.

    Subspaces do not lie along the axes. Within one, directions differ in variance by a factor of
    100, so that no task is finished when it ends.
    """
    scale = jnp.geomspace(1.0, 0.1, _WIDTH)
    scales = jnp.tile(scale, TASKS)

    def world(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The bases, (inputs, inputs) with one column for each direction, and the true map."""
        keys = jax.random.split(key)
        basis = jnp.linalg.qr(jax.random.normal(keys[0], (INPUTS, INPUTS)))[0]
        return basis, jax.random.normal(keys[1], (OUTPUTS, INPUTS))

    def batch(data: Any, step: Any, steps: Any, key: jax.Array) -> Any:
        basis, true = data
        task = jnp.asarray(step * TASKS // steps, int)
        keys = jax.random.split(key)
        own = jax.lax.dynamic_slice_in_dim(basis, task * _WIDTH, _WIDTH, axis=1)
        z = jnp.broadcast_to(scale[None], (_BATCH, _WIDTH))
        x = (z * jax.random.normal(keys[0], z.shape)) @ own.T
        return x, x @ true.T + _NOISE * jax.random.normal(keys[1], (_BATCH, OUTPUTS))

    def loss(weight: jax.Array, batch: Any, linear: Linear) -> jax.Array:
        x, y = batch
        return jnp.mean(jnp.sum((linear(weight, x) - y) ** 2, axis=1)) / 2

    def measure(weight: jax.Array, data: Any) -> dict[str, jax.Array]:
        """The error in every direction of the bases, in units of its standard deviation."""
        basis, true = data
        return {"error": (weight - true) @ basis * scales[None]}

    return Task(
        steps, 20 * TASKS, together, {"gradient": 0.3, "unit": 0.01, "inverse": 0.01}, "loss",
        lambda key: jnp.zeros((OUTPUTS, INPUTS)), batch, loss, measure,
        lambda raw: forgotten(raw["error"], np.asarray(scales)), world=world,
    )  # fmt: skip


def forgotten(error: np.ndarray, scales: np.ndarray) -> Curves:
    """What becomes of tasks once they are over.

    Args:
        error: (runs, points + 1, outputs, inputs), weighted by `scales`; points divide evenly.
        scales: (inputs,), standard deviations.

    Returns:
        `loss`: mean over tasks of the expected loss without noise, relative to its start. `first`:
        that of the first task. `forgotten`: how much a task's has grown from its end to the end of
        the stream, mean over all but the last task, relative to its start; negative where it has
        fallen. `pushed`: how far the weights have moved meanwhile in the task's own directions,
        relative to how far they were from the true ones at first.
    """
    runs, count, outputs, _ = error.shape
    # What is not finite would spread; so large, its squares still are.
    error = np.clip(np.nan_to_num(error.astype(float), nan=np.inf), -1e9, 1e9)
    split = error.reshape(runs, count, outputs, TASKS, -1)
    losses = np.sum(split**2, axis=(2, 4)) / 2
    losses = losses / losses[:, :1]
    weights = split / scales.reshape(TASKS, -1)
    grown, moved = [], []
    for task in range(TASKS - 1):
        end, own = (task + 1) * (count - 1) // TASKS, weights[:, :, :, task]
        size = np.linalg.norm(own[:, 0], axis=(1, 2))
        moved.append(np.linalg.norm(own[:, -1] - own[:, end], axis=(1, 2)) / size)
        grown.append(losses[:, -1, task] - losses[:, end, task])
    means = {"forgotten": np.mean(grown, axis=0), "pushed": np.mean(moved, axis=0)}
    return {"loss": losses.mean(2), "first": losses[:, :, 0], **means}


def network(
    name: str, hidden: Sequence[int], batch_size: int, steps: int, points: int, together: int
) -> Task:
    """A tanh MLP that classifies images."""
    train, test = pools(name, MOST[name])
    some = np.random.default_rng(1).permutation(len(test.labels))[:_SEEN]
    found = {"all": train[:2], "train": [a[:_SEEN] for a in train[:2]]}
    arrays = jax.tree.map(jnp.asarray, found | {"test": [a[some] for a in test[:2]]})
    sizes = (train.images.shape[1], *hidden, 10)

    def batch(arrays: Any, step: Any, steps: Any, key: jax.Array) -> Any:
        images, labels = arrays["all"]
        index = jax.random.randint(key, (batch_size,), 0, len(labels))
        return images[index], labels[index]

    def scores(weights: Any, images: jax.Array, linear: Linear) -> jax.Array:
        x = images.astype(float) / train.scale
        for number, layer in enumerate(weights):
            x = linear(layer.weight, jnp.tanh(x) if number else x)
            x = x + jnp.broadcast_to(layer.bias[None], x.shape)
        return x

    def loss(weights: Any, batch: Any, linear: Linear) -> jax.Array:
        return _cross_entropy(scores(weights, batch[0], linear), batch[1])

    def measure(weights: Any, arrays: Any) -> dict[str, jax.Array]:
        parts, linear = ("train", "test"), models.apply_linear
        images, labels = arrays["test"]
        wrong = jnp.argmax(scores(weights, images, linear), axis=1) != labels
        seen = {part: loss(weights, arrays[part], linear) for part in parts}
        return seen | {"wrong": jnp.mean(wrong.astype(float))}

    return Task(
        steps, points, together, {"gradient": 0.3, "unit": 3e-3, "inverse": 1e-3}, "train",
        lambda key: models.mlp_init(key, sizes), batch, loss, measure,
        data=arrays, large=True, slow="^0/",  # the first layer
    )  # fmt: skip


def language(
    sizes: Sequence[int], length: int, batch_size: int, steps: int, points: int, together: int
) -> Task:
    """A transformer, of width, depth and heads, that predicts the next character."""
    text, (width, depth, heads) = data.tiny_shakespeare(), sizes

    def windows(part: np.ndarray) -> jax.Array:
        starts = np.linspace(0, len(part) - length - 1, _WINDOWS).astype(int)
        return jnp.asarray(part[starts[:, None] + np.arange(length + 1)])

    parts = {"train": windows(text.train), "test": windows(text.test)}

    def batch(arrays: Any, step: Any, steps: Any, key: jax.Array) -> jax.Array:
        starts = jax.random.randint(key, (batch_size, 1), 0, len(arrays["all"]) - length)
        place = jnp.broadcast_to(jnp.arange(length + 1)[None], (batch_size, length + 1))
        return arrays["all"][starts + place]

    def loss(weights: Any, windows: jax.Array, linear: Linear) -> jax.Array:
        tokens = windows.astype(jnp.int32)
        scores = models.transformer(weights, tokens[:, :-1], heads, linear)
        return _cross_entropy(scores, tokens[:, 1:])

    def measure(weights: Any, arrays: Any) -> dict[str, jax.Array]:
        return {part: loss(weights, arrays[part], models.apply_linear) for part in parts}

    return Task(
        steps, points, together, {"gradient": 1.0, "unit": 3e-3, "inverse": 1e-3}, "train",
        lambda key: models.transformer_init(key, len(text.characters), width, depth),
        batch, loss, measure, data=parts | {"all": jnp.asarray(text.train)}, large=True,
        slow=f"^blocks/({'|'.join(map(str, range((depth + 1) // 2)))})/",
    )  # fmt: skip


def _cross_entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(scores, labels))
