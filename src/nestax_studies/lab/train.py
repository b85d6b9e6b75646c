"""One model that learns, many runs side by side: the nest of studies that compare learners."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nestax.levels import Level, Nest, Process, State


def learner(
    loss: Callable[[Any, Any], Any],
    draw: Callable[[jax.Array, jax.Array], Any],
    optimizer: Callable[[Any, Any], optax.GradientTransformation],
) -> Nest:
    """A level "model" that learns, and a level "run" that stands still and holds what tells runs
    apart: their learning rate, length and seed. So other rates and seeds need no other program.

    Args:
        loss: (model, batch) -> loss, or (loss, what is recorded at every step).
        draw: (key of the run, number of the step) -> batch.
        optimizer: (rate, steps of the run) -> the model's optimizer; both are traced.
    """

    def batch(values: Any, number: jax.Array, task: Any, key: jax.Array) -> Any:
        own = jax.random.wrap_key_data(values["run"]["key"])
        return draw(own, number), number + 1

    def first(values: Any, task: Any, key: jax.Array) -> jax.Array:
        return jnp.zeros((), jnp.int32)

    def make(values: dict[str, Any]) -> optax.GradientTransformation:
        return optimizer(values["run"]["rate"], values["run"]["steps"])

    model = Level("model", lambda v, b: loss(v["model"], b), make, Process(batch, init=first))
    run = Level("run", lambda v, b: jnp.zeros(()), optax.set_to_zero())
    return Nest([model, run], norms=False)


def started(nest: Nest, models: Any, rates: Sequence[Any], keys: jax.Array, steps: int) -> State:
    """The state of runs side by side.

    Args:
        nest: of `learner`.
        models: where they begin, with a leading axis of runs.
        rates: of each run.
        keys: of each run, (runs,).
        steps: of a whole run.
    """
    count = len(rates)
    runs = {
        "rate": jnp.asarray(rates, jnp.float32),
        "steps": jnp.full(count, steps, jnp.float32),
        "key": jax.random.key_data(keys),
    }
    return nest.init({}, keys, each={"model": models, "run": runs})


def parameters(model: Any) -> int:
    """How many numbers of a model, or of its shapes, can be trained."""
    return sum(
        leaf.size
        for leaf in jax.tree.leaves(model)
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)
    )


def stretches(values: Any, points: int) -> np.ndarray:
    """Means over stretches of a run, (points, runs), of what was recorded at every step,
    (steps, runs)."""
    values = np.asarray(values)
    return values.reshape(points, -1, *values.shape[1:]).mean(1)
