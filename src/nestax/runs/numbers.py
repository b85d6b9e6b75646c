"""The numbers that a nest's run reports, step by step, and the lines of metrics.jsonl."""

from typing import Any

import numpy as np

ROWS = 500  # measurements kept of a run, about

Numbers = dict[str, dict[str, float]]
"""Level -> name -> number: "loss", "gradient_norm" and the scalars among its info."""


def columns(nest: Any, infos: Any) -> dict[str, dict[str, np.ndarray]]:
    """Of every level and step the scalars that were reported at the step's last update, as means
    over copies, and over those runs side by side whose mean is finite: level -> name -> array
    (steps,)."""
    found = {}
    for level in nest.declaration.levels:
        per, info = nest.ticks_per_step // level.every, infos[level.name]
        runs = info.loss.ndim - 1 - nest.declaration.copied(level)
        axes = runs + (nest.copies is not None)
        found[level.name] = {
            name: _mean(array[per - 1 :: per], runs) for name, array in info.scalars(axes).items()
        }
    return found


def row(numbers: dict[str, dict[str, np.ndarray]], step: int) -> Numbers:
    """The numbers of one step."""
    return {
        level: {name: float(array[step]) for name, array in one.items()}
        for level, one in numbers.items()
    }


def _mean(array: np.ndarray, runs: int) -> np.ndarray:
    with np.errstate(all="ignore"):  # a mean that overflows is shown as what it is
        array = array.astype(np.float64)
        means = array.reshape(*array.shape[: 1 + runs], -1).mean(axis=-1)
        if not runs:
            return means
        finite = np.isfinite(means)
        total = np.where(finite, means, 0.0).sum(axis=1)
        return np.where(finite.any(axis=1), total / np.maximum(finite.sum(axis=1), 1), np.nan)


def steps_in(nest: Any, infos: Any) -> int:
    level = nest.declaration.levels[0]
    return len(infos[level.name].loss) * level.every // nest.ticks_per_step


def measured(step: int, steps: int) -> bool:
    return step % max(1, steps // ROWS) == 0 or step == steps


def line(step: int, numbers: dict[str, dict[str, np.ndarray]], at: int) -> dict[str, Any]:
    """A line of metrics.jsonl: {"step": 3, "loss": {"w": 0.5}, "gradient_norm": ..., "info":
    {"w": {"accuracy": 0.9}}}."""
    line: dict[str, Any] = {"step": step, "loss": {}}
    for level, one in row(numbers, at).items():
        for name, number in one.items():
            number = number if np.isfinite(number) else None
            if name in ("loss", "gradient_norm"):
                line.setdefault(name, {})[level] = number
            else:
                line.setdefault("info", {}).setdefault(level, {})[name] = number
    return line
