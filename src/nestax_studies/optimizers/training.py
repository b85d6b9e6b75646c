"""How any optimizer is tuned and judged on any task: whole runs compiled, side by side.

Everybody gets the same number of trials: a grid of half decades around a centre, then two more
rates, beyond the best one where that lies at the edge of the grid, else on both sides of it.
Tuning and judging use different seeds.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..models import Linear
from ..study import parameters, tuning
from .arms import ARMS, Arm

Curves = dict[str, np.ndarray]
CAP = 1e6  # stands for a loss that is larger, or not finite
_WARMUP = 0.05  # of a run, where the rate falls along a cosine
_MORE = 2  # trials after the grid


@dataclasses.dataclass(frozen=True)
class Task:
    """What is optimized, and how it is looked at.

    Attributes:
        steps: of a run.
        points: of a curve; divides `steps`.
        centres: of the grid of rates, by the units of an arm's steps.
        cosine: whether rates warm up and then fall to zero; else they are constant.
        together: runs side by side in one program.
        timed: whether it is large enough for its pace to mean anything.
        slow: regular expression of the slow parameters.
        data: arrays that all runs share.
        draw: (data, key) -> data of one run.
        init: key -> parameters.
        batch: (data, step, steps in all, key) -> batch.
        loss: (parameters, batch, linear) -> loss to descend.
        measure: (parameters, data) -> what is recorded at every point.
        reduce: what was measured, (runs, points + 1, ...) each -> curves (runs, points + 1) and
            numbers (runs,).
        score: curves -> (runs,) to choose a rate by; less is better.
    """

    steps: int
    points: int
    centres: Mapping[str, float]
    cosine: bool
    together: int
    timed: bool
    slow: str
    data: Any
    init: Callable[[jax.Array], Any]
    batch: Callable[[Any, Any, Any, jax.Array], Any]
    loss: Callable[[Any, Any, Linear], jax.Array]
    measure: Callable[[Any, Any], dict[str, jax.Array]]
    score: Callable[[Curves], np.ndarray]
    reduce: Callable[[Curves], Curves] = lambda raw: raw
    draw: Callable[[Any, jax.Array], Any] = lambda data, key: data


def _schedule(task: Task, rate: Any, steps: Any) -> Callable[[Any], Any]:
    def at(count: Any) -> Any:
        if not task.cosine:
            return rate
        done = jnp.minimum((count + 0.5) / steps, 1.0)
        fall = 0.5 * (1 + jnp.cos(jnp.pi * (done - _WARMUP) / (1 - _WARMUP)))
        return rate * jnp.where(done < _WARMUP, done / _WARMUP, fall)

    return at


def _program(task: Task, arm: Arm, data: Any, rate: Any, key: jax.Array, steps: Any) -> Any:
    """The start of a run, and its single step: (number, (parameters, state)) -> the next."""
    schedule = _schedule(task, rate, steps)
    optimizer = arm.make(schedule, task.slow)
    params, drawn = task.init(jax.random.fold_in(key, 0)), jax.random.fold_in(key, 1)

    def step(number: Any, carry: Any) -> Any:
        params, state = carry
        batch = task.batch(data, number, steps, jax.random.fold_in(drawn, number))
        linear = arm.linear(schedule(number))
        gradient = jax.grad(task.loss)(params, batch, linear)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return (params, optimizer.init(params)), step


def runner(task: Task, arm: Arm) -> Callable[[Sequence[float], Sequence[int], int], Curves]:
    """(rates, seeds, steps) -> curves of as many runs; the number of steps is not compiled in."""

    def one(data: Any, rate: Any, key: jax.Array, chunk: Any) -> Any:
        data = task.draw(data, jax.random.fold_in(key, 2))
        start, step = _program(task, arm, data, rate, key, chunk * task.points)

        def point(carry: Any, number: Any) -> Any:
            carry = jax.lax.fori_loop(number * chunk, (number + 1) * chunk, step, carry)
            return carry, task.measure(carry[0], data)

        _, curves = jax.lax.scan(point, start, jnp.arange(task.points))
        first = task.measure(start[0], data)
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, curves)

    together = 1 if arm.alone else task.together

    @jax.jit
    def compiled(data: Any, rates: Any, keys: Any, chunk: Any) -> Any:
        if together > 1:
            return jax.vmap(one, (None, 0, 0, None))(data, rates, keys, chunk)
        return jax.tree.map(lambda a: a[None], one(data, rates[0], keys[0], chunk))

    def run(rates: Sequence[float], seeds: Sequence[int], steps: int) -> Curves:
        found = []
        for begin in range(0, len(rates), together):
            # Always as many, so that there is one program.
            index = [min(begin + i, len(rates) - 1) for i in range(together)]
            keys = jnp.stack([jax.random.key(seeds[i]) for i in index])
            chosen = jnp.asarray([rates[i] for i in index], float)
            raw = compiled(task.data, chosen, keys, jnp.asarray(steps // task.points))
            fresh = min(together, len(rates) - begin)
            found.append({name: np.asarray(a)[:fresh] for name, a in raw.items()})
        raw = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
        return {name: capped(a) for name, a in task.reduce(raw).items()}

    return run


def capped(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), np.minimum(values, CAP), CAP)


def grid(task: Task, arm: Arm, trials: int) -> list[float]:
    """All trials but the last two, in half decades around the centre."""
    count = trials - _MORE
    centre = task.centres[arm.steps] * arm.factor
    return [centre * 10 ** ((i - (count - 1) / 2) / 2) for i in range(count)]


def more(rates: Sequence[float], scores: Sequence[float]) -> list[float]:
    """The last two trials: half decades beyond the edge where the best one lies there, else quarter
    decades on both sides of it."""
    order = np.argsort(rates)
    place = int(np.argmin(np.asarray(scores)[order]))
    best = float(np.asarray(rates)[order[place]])
    exponents = {0: (-0.5, -1.0), len(rates) - 1: (0.5, 1.0)}.get(place, (-0.25, 0.25))
    return [best * 10**exponent for exponent in exponents]


def compare(
    task: Task, name: str, trials: int, tuning_seeds: int, seeds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """One optimizer on one task: its rate tuned, fresh seeds run for the same number of steps, and
    for the wall time that AdamW takes; everything that the report needs of it."""
    arm = ARMS[name]
    run = runner(task, arm)
    rates, scores = grid(task, arm, trials), []
    for _ in range(2):
        fresh = rates[len(scores) :]
        say(f"tries rates from {min(fresh):.1g} to {max(fresh):.1g}")
        pairs = [(rate, tuning(seed)) for rate in fresh for seed in range(tuning_seeds)]
        curves = run(*zip(*pairs, strict=True), steps=task.steps)
        scores += np.mean(task.score(curves).reshape(len(fresh), -1), axis=1).tolist()
        if len(rates) < trials:
            rates = rates + more(rates, scores)
    best = int(np.argmin(scores))
    say(f"runs {seeds} seeds at {rates[best]:.2g}")
    curves = run([rates[best]] * seeds, range(seeds), task.steps)
    record = {
        "rates": rates,
        "scores": scores,
        "rate": rates[best],
        "edge": rates[best] in (min(rates), max(rates)),
        "parameters": parameters(jax.eval_shape(task.init, jax.random.key(0))),
        "step": [i * task.steps // task.points for i in range(task.points + 1)],
        "curves": _listed(curves),
    }
    if task.timed:
        say("takes its time")
        seconds, usual = pace(task, arm)
        usual = seconds if name == "adamw" else usual
        steps = max(1, round(task.steps * usual / seconds / task.points)) * task.points
        say(f"runs {seeds} seeds for {steps} steps, as long as AdamW takes")
        again = run([rates[best]] * seeds, range(seeds), steps)
        last = {key: a[:, -1] if a.ndim > 1 else a for key, a in again.items()}
        record |= {"seconds": seconds, "pace": seconds / usual}
        record["equal_time"] = {"steps": steps} | _listed(last)
    return record


def _listed(curves: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Six digits are enough; seeds are the last axis."""
    return {
        key: [[float(f"{x:.6g}") for x in row] for row in a.T]
        if a.ndim > 1
        else [float(f"{x:.6g}") for x in a]
        for key, a in curves.items()
    }


def pace(task: Task, arm: Arm, repeats: int = 5, least: float = 0.1) -> tuple[float, float]:
    """Seconds for a step, of an optimizer and of AdamW: one run alone, compiled, its measurements
    left out.

    The two take turns, so that what else the machine does meets both.

    Args:
        repeats: measurements of each, of which the median is taken.
        least: seconds that a measurement takes.
    """
    alone = [_alone(task, one) for one in (arm, ARMS["adamw"])]
    count = 1
    while _seconds(alone[1], count) < least:
        count *= 2
    taken = [
        [(_seconds(run, count) - _seconds(run, 0)) / count for run in alone] for _ in range(repeats)
    ]
    own, usual = np.median(np.maximum(taken, 1e-9), axis=0)
    return float(own), float(usual)


def _alone(task: Task, arm: Arm) -> Callable[[int], Any]:
    @jax.jit
    def run(data: Any, count: Any) -> Any:
        rate = task.centres[arm.steps] * arm.factor * 1e-3
        key = jax.random.key(0)
        data = task.draw(data, key)
        start, step = _program(task, arm, data, rate, key, count)
        return jax.lax.fori_loop(0, count, step, start)[0]

    jax.block_until_ready(run(task.data, jnp.asarray(0)))
    return lambda count: jax.block_until_ready(run(task.data, jnp.asarray(count)))


def _seconds(run: Callable[[int], Any], count: int) -> float:
    began = time.perf_counter()
    run(count)
    return time.perf_counter() - began
