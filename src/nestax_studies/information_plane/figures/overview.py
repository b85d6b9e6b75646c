"""The figure to look at first: the last layer under three readings of the same checkpoints."""

import textwrap
from pathlib import Path

import numpy as np

from .planes import READING, plane, plane_legend
from .records import GAUSSIAN, QUANTILE, STANDARDIZED, Records
from .sheet import Drawing, Sheet
from .style import GREY

ROWS = (GAUSSIAN, STANDARDIZED, QUANTILE)
_ARMS = ("sgd", "gdm", "adamw", "dmgd", "published")


def overview(records: Records, directory: Path) -> Drawing:
    """A row per estimator, a column per arm: five at most, to be legible at 900 pixels."""
    rows = records.measured(ROWS)
    arms = sorted(records.arms, key=lambda arm: arm.name not in _ARMS)[: len(_ARMS)]
    below = [textwrap.wrap(arm.description, 25) for arm in arms]
    layer = len(records.widths) - 1
    sheet = Sheet(
        (len(rows), len(arms)), (1.52, 1.28), (0.16, 0.72),
        (0.62, 0.25, 1.4, 1.7 + 0.12 * max(map(len, below))), sharex="row", sharey="row",
    )  # fmt: skip
    title = "Information plane of the last hidden layer"
    sheet.heading(
        title,
        f"{records.layer_name(layer)}; training images; {records.describe()}\n"
        "above each panel: the largest and the last median of I(T;X)",
    )
    for row, estimator in enumerate(rows):
        sheet.row_title(row, estimator.title.capitalize(), 18.0)
        sheet.axes[row, 0].set_ylabel("I(T;Y) (bits)", fontsize=9)
        for axes, arm in zip(sheet.axes[row], arms, strict=True):
            plane(axes, records, estimator, arm, layer, size=16.0)
            middle = np.median(arm.information(estimator, "x")[:, :, layer], 1)
            axes.set_title(f"peak {middle.max():.1f}, end {middle[-1]:.1f} bits", size=8.5, pad=4)
        sheet.axes[row, 0].autoscale()
    for axes, arm, lines in zip(sheet.axes[0], arms, below, strict=True):
        box = axes.get_position()
        x, y = (box.x0 + box.x1) / 2 * sheet.width, sheet.height - 1.04
        sheet.text(x, y, arm.label, fontsize=9.5, weight="bold", ha="center", va="bottom")
        sheet.text(x, y - 0.03, "\n".join(lines), fontsize=7.5, color=GREY, ha="center", va="top")
    for axes in sheet.axes[-1]:
        axes.set_xlabel("I(T;X) (bits)", fontsize=9)
    plane_legend(sheet, records)
    return sheet.save(
        directory / "overview.png",
        f"{title}, {records.layer_name(layer)}",
        "The last hidden layer of the arms at the same checkpoints under different estimators, one "
        f"per row. {READING} Above each panel: the largest and the last median of I(T;X). Axes are "
        "shared within a row. The Gaussian estimate depends on the scale of the activations, "
        "standardizing removes the scale of each unit, and quantile bins depend on ranks alone.",
    )
