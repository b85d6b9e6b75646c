"""Two tasks that take seconds: the paper's toy, and a stream of orthogonal tasks.

Toy: Behrouz et al., "Nested Learning" (2025), eq. (53), of which the constants are not given.
Orthogonal tasks: section 4.3.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..models import Linear
from .training import Curves, Task

K, ALPHA, OMEGA = 10.0, 1.0, 2.0
START = (-3.5, 2.0)
SETTLED = 0.01  # of the toy, whose value at the start is about 350

INPUTS, OUTPUTS, TASKS = 32, 8, 4
_WIDTH = INPUTS // TASKS
_NOISE = 0.1
_BATCH = 16


def valley(point: jax.Array) -> jax.Array:
    """psi(r, theta) = r^2 + k (r - theta + alpha sin(omega r))^2; its minimum is 0, at 0."""
    r, theta = point[..., 0], point[..., 1]
    return r**2 + K * (r - theta + ALPHA * jnp.sin(OMEGA * r)) ** 2


def toy(steps: int, together: int) -> Task:
    """The valley, from a start that differs between seeds by 0.1; a point is one row (1, 2)."""

    def init(key: jax.Array) -> jax.Array:
        return jnp.asarray([START]) + 0.1 * jax.random.normal(key, (1, 2))

    def measure(point: jax.Array, data: Any) -> dict[str, jax.Array]:
        return {"loss": valley(point)[0], "point": point[0]}

    def reduce(raw: Curves) -> Curves:
        """Of the path only the first seed's."""
        first = {name: raw["point"][:1, :, i] for i, name in enumerate(("r", "theta"))}
        return {"loss": raw["loss"], "settled": settled(raw["loss"]), **first}

    return Task(
        steps=steps,
        points=steps,
        centres={"gradient": 3e-3, "unit": 3e-2, "inverse": 3.0},
        cosine=False,
        together=together,
        timed=False,
        slow="",
        data=None,
        init=init,
        batch=lambda data, step, steps, key: None,
        loss=lambda point, batch, linear: jnp.sum(valley(point)),
        measure=measure,
        score=lambda curves: curves["settled"],
        reduce=reduce,
    )


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

    def world(data: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The bases, (inputs, inputs) with one column for each direction, and the true map."""
        keys = jax.random.split(key)
        basis = jnp.linalg.qr(jax.random.normal(keys[0], (INPUTS, INPUTS)))[0]
        return basis, jax.random.normal(keys[1], (OUTPUTS, INPUTS))

    def batch(data: Any, step: Any, steps: Any, key: jax.Array) -> Any:
        basis, true = data
        task = step * TASKS // steps
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
        steps=steps,
        points=20 * TASKS,
        centres={"gradient": 0.3, "unit": 0.01, "inverse": 0.01},
        cosine=False,
        together=together,
        timed=False,
        slow="",
        data=None,
        draw=world,
        init=lambda key: jnp.zeros((OUTPUTS, INPUTS)),
        batch=batch,
        loss=loss,
        measure=measure,
        score=lambda curves: curves["loss"][:, -1],
        reduce=lambda raw: forgotten(raw["error"], np.asarray(scales)),
    )


def forgotten(error: np.ndarray, scales: np.ndarray) -> Curves:
    """What becomes of tasks once they are over.

    Args:
        error: (runs, points + 1, outputs, inputs), weighted by `scales`; points divide evenly.

    Returns:
        `loss`: mean over tasks of the expected loss without noise, relative to its start. `first`:
        that of the first task. `forgotten`: how much a task's has grown from its end to the end of
        the stream, mean over all but the last task, relative likewise; negative where it has
        fallen. `pushed`: how far the weights have moved meanwhile in the task's own directions,
        relative to how far they were from the true ones at first.
    """
    runs, count = error.shape[:2]
    # What is not finite would spread; so large, its squares still are.
    error = np.clip(np.nan_to_num(error.astype(float), nan=np.inf), -1e9, 1e9)
    split = error.reshape(runs, count, error.shape[2], TASKS, -1)
    losses = np.sum(split**2, axis=(2, 4)) / 2
    losses = losses / losses[:, :1]
    weights = split / scales.reshape(TASKS, -1)
    ends = [(task + 1) * (count - 1) // TASKS for task in range(TASKS - 1)]
    grown, moved = [], []
    for task, end in enumerate(ends):
        own = weights[:, :, :, task]
        size = np.linalg.norm(own[:, 0], axis=(1, 2))
        moved.append(np.linalg.norm(own[:, -1] - own[:, end], axis=(1, 2)) / size)
        grown.append(losses[:, -1, task] - losses[:, end, task])
    return {
        "loss": losses.mean(2),
        "first": losses[:, :, 0],
        "forgotten": np.mean(grown, axis=0),
        "pushed": np.mean(moved, axis=0),
    }
