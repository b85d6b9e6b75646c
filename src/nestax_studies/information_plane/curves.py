"""The measurements as arrays, and what is read off them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Curves:
    """The measurements of one arm: epochs (E,), and arrays with a last axis of seeds or layers."""

    epochs: np.ndarray
    records: list[dict[str, Any]]

    @property
    def layers(self) -> int:
        return self.information(self.estimators[0]).shape[-1]

    @property
    def estimators(self) -> tuple[str, ...]:
        return tuple(self.records[0]["information"]["train"])

    def information(self, estimator: str, axis: str = "x") -> np.ndarray:
        """(E, seeds, layers), bits, on the training images."""
        return np.array([r["information"]["train"][estimator][axis] for r in self.records])

    def performance(self, part: str, what: str) -> np.ndarray:
        """(E, seeds); losses in nats, accuracies as fractions."""
        return np.array([r[part][what] for r in self.records])

    def gap(self) -> np.ndarray:
        """(E, seeds), accuracy on training less on test images, in points."""
        return 100 * (self.performance("train", "accuracy") - self.performance("test", "accuracy"))


def curves(metrics: Sequence[dict[str, Any]]) -> dict[str, Curves]:
    """The measurements by arm."""
    arms: dict[str, list[dict[str, Any]]] = {}
    for record in metrics:
        arms.setdefault(record["arm"], []).append(record)
    return {
        arm: Curves(np.array([r["epoch"] for r in records]), records)
        for arm, records in arms.items()
    }


def drop(curve: np.ndarray) -> float:
    """Relative drop of a curve from its maximum to its end, in per cent."""
    top = curve.max()
    return float(100 * (top - curve[-1]) / top) if top > 0 else 0.0


def gap_at_equal_loss(
    by_arm: dict[str, Curves], points: int = 25
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Accuracy on training less on test images where training loss is equal.

    Losses are those that every seed of every arm passed on its way down; each seed's gap is read,
    linearly in log loss, where it first got there.

    Args:
        by_arm: the arms to compare.
        points: number of losses, log-spaced.

    Returns:
        Losses (points,), nats, descending, and gaps by arm, (points, seeds), in points. Empty if
        the arms have no loss in common.
    """
    # Losses fall here, so that they can be inverted; in float32 they end at exactly zero.
    best = {
        arm: np.maximum(np.minimum.accumulate(c.performance("train", "loss"), axis=0), 1e-9)
        for arm, c in by_arm.items()
    }
    top = min((losses[0].min() for losses in best.values()), default=0.0)
    bottom = max((losses[-1].max() for losses in best.values()), default=0.0)
    if not bottom < top:
        return np.empty(0), {arm: np.empty((0, losses.shape[1])) for arm, losses in best.items()}
    common = np.geomspace(top, bottom, points)
    gaps = {}
    for arm, losses in best.items():
        gap, seeds = by_arm[arm].gap(), range(losses.shape[1])
        gaps[arm] = np.stack([_first_at(common, losses[:, s], gap[:, s]) for s in seeds], 1)
    return common, gaps


def _first_at(at: np.ndarray, losses: np.ndarray, values: np.ndarray) -> np.ndarray:
    first = np.concatenate([[True], losses[1:] < losses[:-1]])
    return np.interp(-np.log(at), -np.log(losses[first]), values[first])
