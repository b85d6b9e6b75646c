"""How any optimizer is tuned and judged on any task: runs side by side in one program."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nestax.levels import Nest, State

from .. import lab
from ..lab import train
from .arms import ARMS, Arm
from .tasks import Curves, Task

CAP = 1e6  # stands for a loss that is larger, or not finite


def system(task: Task, arm: Arm) -> Nest:
    """The parameters as a level, which moves at the rate and along the batches of its run."""

    def schedule(run: dict[str, Any]) -> Callable[[Any], Any]:
        constant = lambda count: run["rate"]  # noqa: E731
        return train.warmed(run["rate"], run["steps"]) if task.large else constant

    def draw(run: dict[str, Any], data: Any, number: jax.Array) -> Any:
        drawn = jax.random.fold_in(jax.random.wrap_key_data(run["key"]), 1)
        key = jax.random.fold_in(drawn, number)
        return task.batch(run.get("world", data), number, run["steps"], key), number

    def loss(model: Any, batch: Any, run: dict[str, Any]) -> Any:
        examples, number = batch
        value = task.loss(model, examples, arm.linear(schedule(run)(number)))
        return value if task.large else (value, task.measure(model, run.get("world")))

    descent = lambda run: arm.make(schedule(run), task.slow)  # noqa: E731
    return train.learner_of_run(loss, draw, descent, task.data)


def begun(task: Task, nest: Nest, rates: Any, keys: jax.Array, steps: Any) -> State:
    """Runs side by side."""

    def fresh(make: Callable[[jax.Array], Any], number: int) -> Any:
        return jax.vmap(lambda key: make(jax.random.fold_in(key, number)))(keys)

    own = {"world": fresh(task.world, 2)} if task.world else {}
    return train.started(nest, fresh(task.init, 0), rates, keys, steps, **own)


def runner(task: Task, arm: Arm) -> Callable[[Sequence[float], Sequence[int], int], Curves]:
    """(rates, seeds, steps) -> curves of as many runs; the number of steps is not compiled in."""
    nest, together = system(task, arm), 1 if arm.alone else task.together
    begin = jax.jit(partial(begun, task, nest))

    def look(values: Any, data: Any) -> dict[str, jax.Array]:
        return task.measure(values["model"], values["run"].get("world", data))

    compiled = jax.jit(jax.vmap(look, (0, None)) if together > 1 else look)

    def program(steps: int, rates: Sequence[float], seeds: Sequence[int]) -> Curves:
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        state = begin(jnp.asarray(rates, float), keys, jnp.asarray(steps))
        state = state if together > 1 else state.run(0)
        seen = lambda: jax.tree.map(np.asarray, compiled(dict(state.values), task.data))  # noqa: E731
        chunk, rows = steps // task.points, [seen()]
        for _ in range(task.points if task.large else 1):
            state, info = nest.run(state, chunk if task.large else steps, check=False)
            rows.append(seen())
        raw = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        if not task.large:
            along = info["model"].user
            raw = {name: np.append(along[name][::chunk], raw[name][1:], 0) for name in raw}
        return {name: np.swapaxes(a, 0, 1) if together > 1 else a[None] for name, a in raw.items()}

    def run(rates: Sequence[float], seeds: Sequence[int], steps: int) -> Curves:
        raw = lab.side_by_side(partial(program, steps), together, rates, seeds)
        found = task.reduce(raw)
        return {k: np.where(np.isfinite(a), np.minimum(a, CAP), CAP) for k, a in found.items()}

    return run


def _last(values: np.ndarray) -> np.ndarray:
    return values[:, -1] if values.ndim > 1 else values  # of a curve; or the number that there is


def grid(task: Task, arm: Arm, trials: int) -> list[float]:
    """All trials but the last two, in half decades around the centre."""
    return lab.rates(task.centres[arm.steps] * arm.factor, 0.5, trials - 2)


def more(rates: Iterable[float], best: float) -> list[float]:
    """The last two trials: half decades beyond the edge where the best one lies there, else quarter
    decades on both sides of it."""
    least, most = min(rates), max(rates)
    exponents = {least: (-0.5, -1.0), most: (0.5, 1.0)}.get(best, (-0.25, 0.25))
    return [best * 10**exponent for exponent in exponents]


def compare(
    task: Task, name: str, trials: int, tuning_seeds: int, seeds: int, desk: lab.Desk
) -> lab.Record:
    """One optimizer on one task: its rate tuned, fresh seeds run for the same number of steps, and
    for the wall time that AdamW takes; everything that the report needs of it."""
    arm = ARMS[name]
    run = runner(task, arm)

    def attempt(rates: Sequence[float]) -> list[float]:
        desk.say(f"tries rates from {min(rates):.1g} to {max(rates):.1g}")
        keys = [lab.tuning(seed) for _ in rates for seed in range(tuning_seeds)]
        each = [rate for rate in rates for _ in range(tuning_seeds)]
        curves = run(each, keys, task.steps)
        return np.mean(_last(curves[task.outcome]).reshape(len(rates), -1), axis=1).tolist()

    tried, best = lab.tuned(
        grid(task, arm, trials),
        attempt,
        lambda tried: min(tried, key=lambda rate: tried[rate]),
        lambda tried, best: more(tried, best) if len(tried) < trials else [],
    )
    desk.say(f"runs {seeds} seeds at {best:.2g}")
    curves = run([best] * seeds, range(seeds), task.steps)
    record = {
        "rates": list(tried),
        "scores": list(tried.values()),
        "rate": best,
        "edge": best in (min(tried), max(tried)),
        "parameters": train.parameters(jax.eval_shape(task.init, jax.random.key(0))),
        "step": [i * task.steps // task.points for i in range(task.points + 1)],
        "curves": lab.listed({key: a.T for key, a in curves.items()}),
    }
    if task.large:
        desk.say("takes its time")
        seconds, usual = pace(task, arm)
        usual = seconds if name == "adamw" else usual
        steps = max(1, round(task.steps * usual / seconds / task.points)) * task.points
        desk.say(f"runs {seeds} seeds for {steps} steps, as long as AdamW takes")
        again = run([best] * seeds, range(seeds), steps)
        after = {"steps": steps} | lab.listed({key: _last(a) for key, a in again.items()})
        record |= {"seconds": seconds, "pace": seconds / usual, "equal_time": after}
    return record


def pace(task: Task, arm: Arm, repeats: int = 5, least: float = 0.1) -> tuple[float, float]:
    """Seconds for a step of the program that trains, of an optimizer and of AdamW: one run alone,
    its measurements left out. The two take turns, so that what else the machine does meets both.

    Args:
        task: of both.
        arm: the optimizer.
        repeats: measurements of each, of which the median is taken.
        least: seconds that a measurement takes.
    """

    def timed(arm: Arm) -> Callable[[int], float]:
        nest, key = system(task, arm), jax.random.split(jax.random.key(0), 1)
        rate = task.centres[arm.steps] * arm.factor * 1e-3
        state = begun(task, nest, [rate], key, task.steps).run(0)

        def seconds(steps: int) -> float:
            began = time.perf_counter()
            jax.block_until_ready(nest.run(state, steps, check=False))
            return time.perf_counter() - began

        seconds(1)  # compiles
        return seconds

    own, usual = timed(arm), timed(ARMS["adamw"])
    count = 2
    while usual(count) < least:
        count *= 2
    taken = [[(run(count) - run(1)) / (count - 1) for run in (own, usual)] for _ in range(repeats)]
    return tuple(np.median(np.maximum(taken, 1e-9), axis=0).tolist())
