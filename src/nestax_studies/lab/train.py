"""One model that learns, many runs side by side: the nest of studies that compare learners."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nestax.levels import Level, Nest, Process, State
from nestax.runs import RunFolder, Watch

from .study import Desk


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
    return learner_of_run(
        lambda model, batch, run: loss(model, batch),
        lambda run, task, number: draw(jax.random.wrap_key_data(run["key"]), number),
        lambda run: optimizer(run["rate"], run["steps"]),
    )


def learner_of_run(
    loss: Callable[[Any, Any, dict[str, Any]], Any],
    draw: Callable[[dict[str, Any], Any, jax.Array], Any],
    optimizer: Callable[[dict[str, Any]], optax.GradientTransformation],
    task: Any = None,
) -> Nest:
    """A `learner` whose functions see all that the level "run" holds, see `started`.

    Args:
        loss: (model, batch, run) -> loss, or (loss, what is recorded at every step).
        draw: (run, task, number of the step) -> batch.
        optimizer: run -> the model's optimizer.
        task: data that all runs share.
    """

    def batch(values: Any, number: jax.Array, task: Any, key: jax.Array) -> Any:
        return draw(values["run"], task, number), number + 1

    def first(values: Any, task: Any, key: jax.Array) -> jax.Array:
        return jnp.zeros((), jnp.int32)

    model = Level(
        "model",
        lambda v, b: loss(v["model"], b, v["run"]),
        lambda v: optimizer(v["run"]),
        Process(batch, init=first),
    )
    run = Level("run", lambda v, b: jnp.zeros(()), optax.set_to_zero())
    return Nest([model, run], task, norms=False)


def started(
    nest: Nest,
    models: Any,
    rates: Sequence[Any] | jax.Array,
    keys: jax.Array,
    steps: Any,
    **more: Any,
) -> State:
    """The state of runs side by side.

    Args:
        nest: of `learner`.
        models: where they begin, with a leading axis of runs.
        rates: of each run.
        keys: of each run, (runs,).
        steps: of a whole run.
        more: what else the level "run" holds, by name, with a leading axis of runs.
    """
    count = len(keys)
    runs = {
        "rate": jnp.asarray(rates, jnp.float32),
        "steps": jnp.full(count, steps, jnp.float32),
        "key": jax.random.key_data(keys),
        **more,
    }
    return nest.init({}, keys, each={"model": models, "run": runs})


def warmed(rate: Any, steps: Any, warmup: float = 0.05) -> Callable[[Any], Any]:
    """Number of the step -> learning rate, which rises for a share of the run and then falls to
    zero along a cosine.

    Args:
        rate: at its highest; it and `steps` may be traced.
        steps: of the whole run.
        warmup: the share of the run in which it rises.
    """

    def at(count: Any) -> Any:
        done = jnp.minimum((count + 0.5) / steps, 1.0)
        fall = 0.5 * (1 + jnp.cos(jnp.pi * (done - warmup) / (1 - warmup)))
        return rate * jnp.where(done < warmup, done / warmup, fall)

    return at


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


def watched(
    nest: Nest, state: State, steps: int, desk: Desk, name: str, words: Callable[[int, Any], str]
) -> Any:
    """A run of a stage, which goes on from its folder after an interruption.

    Args:
        nest: what is run.
        state: where it begins.
        steps: of the whole run.
        desk: of the stage; it is told how far the run is.
        name: of the run's folder on the desk.
        words: (steps done, infos of the last of them) -> what is told.

    Returns:
        The last state; the infos of the steps done now, without those before an interruption; and
        the lines of the folder's metrics.jsonl, about 500 for the whole run.

    Raises:
        DivergenceError: see `Nest.run`.
    """

    class Told(Watch):
        def record(self, nest: Any, state: Any, infos: Any, done: int, steps: int) -> None:
            super().record(nest, state, infos, done, steps)
            desk.say(words(done, infos))

    watch = [Told(desk.path / name, progress=False), *desk.loggers]
    state, infos = nest.run(state, steps, watch=watch)
    with RunFolder(desk.path / name) as folder:
        return state, infos, folder.metrics("step", "loss")
