"""What the figures draw: the measurements as arrays, and the facts that label them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from ..curves import Curves, curves


class Estimator(NamedTuple):
    """An estimate as it is drawn: the mean of the recorded `parts`."""

    name: str
    title: str
    parts: tuple[str, ...]


BINNED = Estimator("binned30", "30 fixed bins on [-1, 1]", ("binned30",))
QUANTILE = Estimator("quantile30", "30 quantile bins per unit (ranks only)", ("quantile30",))
KDE = Estimator("kde", "kernel density, midpoint of the bounds", ("kde_lower", "kde_upper"))
GAUSSIAN = Estimator("gaussian", "Gaussian log-determinant (as published)", ("gaussian",))
STANDARDIZED = Estimator(
    "gaussian_standardized",
    "Gaussian log-determinant, units standardized",
    ("gaussian_standardized",),
)


class Arm(NamedTuple):
    """One arm: C checkpoints of S seeds and L hidden layers."""

    name: str
    label: str
    description: str
    index: int
    measured: Curves

    @property
    def epochs(self) -> np.ndarray:
        """(C,)"""
        return self.measured.epochs

    def information(self, estimator: Estimator, axis: str) -> np.ndarray:
        """I(T;X) or I(T;Y), (C, S, L), bits."""
        parts = [self.measured.information(part, axis) for part in estimator.parts]
        return np.mean(parts, axis=0)

    def control(self, name: str) -> np.ndarray:
        """(C, S, L); of weight_norm (C, S, L + 1)."""
        return np.array([record["controls"][name] for record in self.measured.records])


class Records:
    """The arms of a run, and what its summary says about them."""

    def __init__(self, metrics: list[dict[str, Any]], summary: dict[str, Any]) -> None:
        measured = curves(metrics)
        self.arms = [
            Arm(name, said["label"], said["description"], index, measured[name])
            for index, (name, said) in enumerate(summary["arms"].items())
        ]
        self.widths: list[int] = summary["settings"]["widths"]
        self.seeds: int = summary["settings"]["seeds"]
        self.images: int = summary["images"]["train"]
        self.gaps: dict[str, Any] = summary["generalization"]
        self.last_epoch = max(int(arm.epochs[-1]) for arm in self.arms)
        self._data: str = summary["settings"]["data"]
        self._ceilings: dict[str, Any] = summary["ceilings"]

    def measured(
        self, estimators: Iterable[Estimator] = (BINNED, QUANTILE, KDE, GAUSSIAN, STANDARDIZED)
    ) -> list[Estimator]:
        """Those of the estimators whose parts were all recorded."""
        recorded = self.arms[0].measured.records[0]["information"]["train"]
        return [e for e in estimators if all(part in recorded for part in e.parts)]

    def ceiling(self, estimator: Estimator, axis: str, layer: int) -> float | None:
        """The most that I(T;X) is estimated at, or the entropy of the labels; None if unbounded."""
        stated = self._ceilings[estimator.parts[-1]][axis]
        return stated[layer] if axis == "x" else stated

    def layer_name(self, layer: int) -> str:
        """As in `layer 1 (12 units)`."""
        return f"layer {layer + 1} ({self.widths[layer]} units)"

    def describe(self) -> str:
        """What was trained on, how often and for how long."""
        counts = ((self.seeds, "seed"), (self.last_epoch, "epoch"))
        return ", ".join([self._data, *(f"{n} {unit}{'s' * (n != 1)}" for n, unit in counts)])
