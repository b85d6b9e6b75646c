"""Every figure of a run, in the order in which the report shows them."""

from pathlib import Path
from typing import Any

import matplotlib

from nestax.plots import STYLE

from .controls import controls
from .curves import information_curves
from .generalization import generalization
from .overview import ROWS, overview
from .planes import plane_grid
from .records import BINNED, GAUSSIAN, KDE, QUANTILE, Records
from .sheet import Drawing


def draw(metrics: list[dict[str, Any]], summary: dict[str, Any], directory: Path) -> list[Drawing]:
    """Draws what was measured; a figure of estimators that were not is left out.

    Args:
        metrics: the lines of metrics.jsonl, in order.
        summary: the content of summary.json.
        directory: where the PNG files go; made if absent. Files of the same name are replaced.

    Returns:
        The figures, the overview first.

    Raises:
        ValueError: `metrics` is empty.
    """
    if not metrics:
        raise ValueError("there is nothing to draw: metrics is empty, expected one line per epoch")
    directory.mkdir(parents=True, exist_ok=True)
    records = Records(metrics, summary)
    drawings = []
    # No figure is registered with pyplot, and the caller's settings return afterwards.
    with matplotlib.rc_context(STYLE):
        if records.measured(ROWS):
            drawings.append(overview(records, directory))
        for estimator in records.measured((BINNED, GAUSSIAN, QUANTILE, KDE)):
            drawings.append(plane_grid(records, estimator, directory))
        if records.measured():
            drawings.append(information_curves(records, "x", directory))
            drawings.append(information_curves(records, "y", directory))
        drawings.append(controls(records, directory))
        drawings.append(generalization(records, directory))
    return drawings
