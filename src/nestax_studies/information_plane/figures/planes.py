"""I(T;X) across, I(T;Y) up: one arm's layer in a panel, and the grid of all arms and layers."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .records import BINNED, Arm, Estimator, Records
from .sheet import Drawing, Sheet
from .style import EPOCHS, GREY, LIMIT, epoch_norm

READING = (
    "Every small dot is one seed at one checkpoint; the line joins the medians over seeds and "
    "colour is the epoch, on a logarithmic scale. The ring is the initialisation, the square the "
    "last checkpoint. Dotted lines are limits: vertical, the largest I(T;X) that the estimator can "
    "return; horizontal, the entropy H(Y) of the labels, which no true I(T;Y) exceeds, though an "
    "estimate may. Measured on the training images."
)


def plane(
    axes: Axes, records: Records, estimator: Estimator, arm: Arm, layer: int, size: float
) -> None:
    """Seeds as a cloud, medians as a line, limits dotted; `size` is that of a median's dot."""
    for axis, line in (("x", axes.axvline), ("y", axes.axhline)):
        if (limit := records.ceiling(estimator, axis, layer)) is not None:
            line(limit, zorder=1, **LIMIT)
    x, y = (arm.information(estimator, axis)[:, :, layer] for axis in "xy")
    colours: dict[str, Any] = {"norm": epoch_norm(records.last_epoch), "cmap": EPOCHS}
    if records.seeds > 1:
        epochs = np.repeat(arm.epochs, records.seeds)
        axes.scatter(
            x.ravel(), y.ravel(), 0.35 * size, epochs, alpha=0.4, linewidths=0, zorder=2, **colours
        )
    x, y = np.median(x, 1), np.median(y, 1)
    # I(T;X) from 0, so that falling to nothing and falling a little look different.
    axes.update_datalim([(0.0, y[0])])
    axes.plot(x, y, color="#8C8C8C", linewidth=0.9, zorder=3)
    axes.scatter(x, y, size, arm.epochs, linewidths=0, zorder=4, **colours)
    # Start and end are marked apart: with colour alone a return to the start cannot be seen.
    axes.scatter(x[0], y[0], 2.6 * size, "none", edgecolors="#333333", linewidths=0.9, zorder=5)
    axes.scatter(
        x[-1:], y[-1:], 2.2 * size, arm.epochs[-1:], marker="s",
        edgecolors="white", linewidths=0.7, zorder=6, **colours,
    )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def plane_legend(sheet: Sheet, records: Records) -> None:
    """What the marks of a plane stand for, and the colours of epochs."""
    teal = "#2A788E"
    seed: dict[str, Line2D] = {}
    if records.seeds > 1:
        seed["one seed"] = Line2D([], [], ls="", marker="o", ms=2.6, mew=0, color=teal, alpha=0.5)
    entries = {
        "median over seeds" if seed else "the one seed": Line2D(
            [], [], color="#8C8C8C", marker="o", ms=4, mew=0, mfc=teal
        ),
        **seed,
        "initialisation": Line2D([], [], ls="", marker="o", ms=7, mfc="none", mec="#333333"),
        "last checkpoint": Line2D([], [], ls="", marker="s", ms=6, mew=0, color=teal),
        "limits: of the estimator (x), H(Y) (y)": Line2D([], [], **LIMIT),
    }
    sheet.legend([*entries.values()], [*entries], 5 if sheet.width > 10 else 3)
    sheet.epoch_bar(records.last_epoch, above=0.74)


def plane_grid(records: Records, estimator: Estimator, directory: Path) -> Drawing:
    """One estimator: a row per arm, a column per layer."""
    arms, layers = records.arms, range(len(records.widths))
    sheet = Sheet(
        (len(arms), len(layers)), (1.85, 1.12), (0.16, 0.16), (2.3, 0.25, 1.35, 1.0),
        sharex="col", sharey=True,
    )  # fmt: skip
    title = f"Information plane: {estimator.title}"
    sheet.heading(title, records.describe())
    for row, arm in enumerate(arms):
        for layer in layers:
            axes = sheet.axes[row, layer]
            plane(axes, records, estimator, arm, layer, size=13.0)
            axes.tick_params(length=0)
        first = sheet.axes[row, 0]
        first.set_ylabel("I(T;Y) (bits)")
        left: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
        first.annotate(arm.label, (0, 1), (-157, 0), va="top", weight="bold", fontsize=9, **left)
        rest = textwrap.fill(arm.description, 25)
        first.annotate(rest, (0, 1), (-157, -15), va="top", fontsize=7.5, color=GREY, **left)
    for layer in layers:
        sheet.axes[0, layer].autoscale()
        sheet.axes[0, layer].set_title(records.layer_name(layer))
        sheet.axes[-1, layer].set_xlabel("I(T;X) (bits)")
    plane_legend(sheet, records)
    name = "information_plane" + (f"_{estimator.name}" if estimator is not BINNED else "")
    return sheet.save(
        directory / f"{name}.png",
        title,
        f"Estimator: {estimator.title}. A row per arm, a column per hidden layer; I(T;Y) has one "
        f"scale, I(T;X) one per column. {READING}",
    )
