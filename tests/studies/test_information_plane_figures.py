"""The figures of the information plane: complete, small, and silent at the smallest cases."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nestax_studies.information_plane import figures
from nestax_studies.information_plane.arms import ARMS

LABELS = {name: (arm.label, arm.description) for name, arm in ARMS.items()}
PLAIN = ("binned10", "binned30", "binned100", "adaptive30", "quantile30")
KERNEL = ("kde_lower", "kde_upper", "kde_standardized_lower", "kde_standardized_upper")
GAUSSIAN = ("gaussian", "gaussian_standardized")
ESTIMATORS = (*PLAIN, *KERNEL, *GAUSSIAN)
POINTS = 60_000
WIDTHS = (12, 10, 8, 6, 4, 3)


def log_spaced(last: int, count: int) -> list[int]:
    return [0, *sorted({round(e) for e in np.geomspace(1, last, count)})]


def synthetic(
    arms: tuple[str, ...] = tuple(LABELS),
    seeds: int = 3,
    layers: int = 2,
    epochs: list[int] | None = None,
    estimators: tuple[str, ...] = ESTIMATORS,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Made-up records of the shape of a real run: scale shrinks in the last layer of some arms."""
    rng = np.random.default_rng(0)
    epochs = log_spaced(600, 12) if epochs is None else epochs
    widths = np.asarray(WIDTHS[:layers], dtype=float)
    depth = np.arange(layers) / max(layers - 1, 1)
    speeds = {arm: 0.3 + 0.25 * index for index, arm in enumerate(arms)}
    bits = math.log2(POINTS)
    offsets = {arm: rng.normal(size=(seeds, layers)) for arm in arms}
    metrics = []
    for arm in arms:
        shrinks = arm in ("published", "sign", "dmgd", "ema-sign")
        for epoch in epochs:
            t = 1 - np.exp(-speeds[arm] * np.log1p(epoch) / 2)
            late = max(0.0, math.log10(epoch + 1) - 1.6) if shrinks else 0.0
            noise = 0.04 * offsets[arm] + 0.03 * rng.normal(size=(seeds, layers))
            std = (0.35 + 0.55 * t) * np.exp(-late * (0.2 + 1.9 * depth)) * (1 + noise)
            std = np.clip(std, 1e-3, 1.0)
            saturated = np.clip(t * (0.15 + late * (1.2 - depth)) + 0.05 * noise, 0, 1)
            share = np.clip(0.3 + 0.65 * t + 0.5 * noise, 0.02, 1)
            loss = 2.3 * np.exp(-2.4 * t) * (1 + 0.05 * rng.normal(size=seeds))
            gap = 0.02 * t**2 * np.log1p(epoch) / 3
            accuracy = np.clip(0.99 - 0.38 * loss + 0.003 * rng.normal(size=seeds), 0.08, 0.995)
            readings = {}
            for name in estimators:
                if name.startswith("gaussian"):
                    scale = np.full_like(std, 0.9) if name.endswith("ized") else std
                    x = widths * 0.5 * np.log2(1 + (scale * (0.5 + 0.5 * share)) ** 2 / 0.01)
                elif name.startswith(("quantile", "kde_standardized")):
                    x = bits * (1 - 0.25 * depth * (1 - share)) * (0.9 + 0.05 * t)
                else:
                    x = bits * (1 - 0.5 * saturated) * (1 - 0.4 * depth * (1 - share))
                    x = x * np.clip(0.5 + 0.5 * std, 0, 1)
                if name.endswith("lower"):
                    x = 0.8 * x
                x = np.clip(x, 0, None)
                known = (0.3 + 0.6 * t) * (1 - 0.12 * depth * (1 - share)) + 0.02 * noise
                y = np.minimum(3.3219 * np.clip(known, 0, 1) * (1 - 0.3 * saturated * depth), x)
                readings[name] = {"x": x.tolist(), "y": y.tolist()}
            rank = 1 + (widths - 1) * share
            metrics.append(
                {
                    "arm": arm,
                    "epoch": epoch,
                    "rate": [1e-3] * seeds,
                    "train": {"loss": loss.tolist(), "accuracy": accuracy.tolist()},
                    "test": {
                        "loss": (loss * (1 + 4 * gap)).tolist(),
                        "accuracy": (accuracy - gap).tolist(),
                    },
                    "information": {"train": readings, "test": readings},
                    "controls": {
                        "saturated": saturated.tolist(),
                        "std": std.tolist(),
                        "weight_norm": [
                            [2 + 3 * t + 30 * late * (j + 1) / layers for j in range(layers + 1)]
                            for _ in range(seeds)
                        ],
                        "distinct": np.round(POINTS * (1 - 0.6 * saturated**3)).tolist(),
                        "effective_rank": rank.tolist(),
                        "noisy_accuracy": (accuracy[:, None] * np.minimum(1, 0.4 + std)).tolist(),
                        "shuffled_y": (0.05 + 0.4 * (1 - depth) * share).tolist(),
                    },
                }
            )
    losses = [2.0, 1.5, 1.0, 0.7, 0.5]
    gaps = {}
    for index, arm in enumerate(arms):
        middle = np.arange(5) * 0.4 + 0.1 * index
        low, high = middle - 0.3, middle + 0.4
        gaps[arm] = {"median": middle.tolist(), "low": low.tolist(), "high": high.tolist()}
    ceilings = {}
    for name in estimators:
        top = [bits] * layers
        if name.startswith("gaussian"):
            top = [w / 2 * math.log2(101) for w in widths]
        ceilings[name] = {"x": top, "y": math.log2(10)}
    summary = {
        "experiment": "information-plane",
        "settings": {
            "data": "mnist",
            "arms": list(arms),
            "widths": [int(w) for w in widths],
            "seeds": seeds,
        },
        "images": {"train": POINTS, "test": POINTS // 6},
        "ceilings": ceilings,
        "arms": {
            arm: dict(zip(("label", "description"), LABELS[arm], strict=True)) for arm in arms
        },
        "generalization": {"losses": losses, "arms": gaps},
        "verdicts": [],
    }
    return metrics, summary


def check(drawings: list[figures.Drawing], directory: Path) -> None:
    """Every file exists, is a PNG of moderate size, and has words to go with it."""
    assert len({drawing.path for drawing in drawings}) == len(drawings)
    assert {drawing.path for drawing in drawings} == set(directory.glob("*"))
    for drawing in drawings:
        assert 1_000 < drawing.path.stat().st_size < 350_000, drawing.path
        with Image.open(drawing.path) as image:
            assert image.format == "PNG"
            assert 150 <= round(image.info["dpi"][0]) <= 200
            colours = image.convert("RGB").getcolors(1 << 20)
            assert colours is not None and len(colours) > 10  # not a blank sheet
            assert max(colours)[1] == (255, 255, 255)  # on white, also in a dark report
        assert drawing.title and drawing.caption


FIGURES = [
    "overview",
    "information_plane",
    "information_plane_gaussian",
    "information_plane_quantile30",
    "information_plane_kde",
    "information",
    "label_information",
    "controls",
    "generalization",
]


def test_a_full_run(tmp_path: Path) -> None:
    # Without the kernel estimates, whose plane is like the others: the smallest run has all.
    metrics, summary = synthetic(estimators=(*PLAIN, *GAUSSIAN))
    drawings = figures.draw(metrics, summary, tmp_path / "figures")
    names = [name for name in FIGURES if not name.endswith("kde")]
    assert [drawing.path.stem for drawing in drawings] == names
    check(drawings, tmp_path / "figures")
    with Image.open(drawings[0].path) as image:
        assert 1200 <= image.width <= 1500  # 9 points are then 11 pixels at a width of 900


@pytest.mark.parametrize(
    ("seeds", "layers", "epochs", "estimators"),
    [
        (1, 1, [0, 1], ESTIMATORS),
        (1, 1, [0], ("binned30", "gaussian")),
        (2, 2, [0, 1, 2], ("kde_lower",)),
        (2, 6, [0, 1], ()),
    ],
)
def test_smallest_cases(
    tmp_path: Path, seeds: int, layers: int, epochs: list[int], estimators: tuple[str, ...]
) -> None:
    metrics, summary = synthetic(("dmgd",), seeds, layers, epochs, estimators)
    drawings = figures.draw(metrics, summary, tmp_path)
    check(drawings, tmp_path)
    names = [drawing.path.stem for drawing in drawings]
    if estimators == ESTIMATORS:
        assert names == FIGURES
    if estimators in ((), ("kde_lower",)):  # half a bracket has no midpoint
        assert names == ["controls", "generalization"]


def test_an_unfinished_run_of_relu_networks(tmp_path: Path) -> None:
    metrics, summary = synthetic(("sgd", "adamw"), 2, 1, [0, 1, 10], GAUSSIAN)
    del metrics[-2:]  # the second arm has only its initial weights so far
    summary["generalization"] = {"losses": [], "arms": {"sgd": {}, "adamw": {}}}
    summary["ceilings"]["gaussian"]["x"] = [None]
    for line in metrics:
        line["controls"]["std"][1] = [0.0]  # every unit of a seed is dead
    drawings = figures.draw(metrics, summary, tmp_path)
    names = ["overview", "information_plane_gaussian", *FIGURES[5:]]
    assert [drawing.path.stem for drawing in drawings] == names
    check(drawings, tmp_path)


def test_arms_keep_their_colours() -> None:
    assert set(figures.COLOURS) == set(ARMS)
    assert len(set(figures.COLOURS.values())) == len(figures.COLOURS)


def test_nothing_measured_is_refused(tmp_path: Path) -> None:
    _, summary = synthetic(("sgd",), 1, 1, [0])
    with pytest.raises(ValueError, match="metrics is empty"):
        figures.draw([], summary, tmp_path)
