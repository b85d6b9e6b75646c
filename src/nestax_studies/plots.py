"""How the experiments' figures look, and the one most of them need: lines with bands over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from nestax.plots import COLOURS, GREY, STYLE, label_logarithmic, save
from nestax.runs import Picture

STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), "-", "--")


@dataclass(frozen=True)
class Line:
    """A line and its band.

    Attributes:
        x: (C,).
        y: (C,) or (C, S) with one column for each seed; drawn are the median and the range.
        label: for the legend.
    """

    x: Any
    y: Any
    label: str


@dataclass(frozen=True)
class Panel:
    """Axes with lines.

    Attributes:
        title, x, y: texts; `x` and `y` name the quantity and its unit.
        lines: what is drawn.
        levels: label -> a value that is drawn as a dotted horizontal line.
        log: which axes are logarithmic: "", "x", "y" or "xy".
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    levels: Mapping[str, float] | None = None
    log: str = ""


def draw(path: Path, panels: Sequence[Panel], title: str, caption: str) -> Picture:
    """Draws panels side by side, with one legend for all of them."""
    with mpl.rc_context(STYLE):
        columns = 2 if len(panels) == 4 else min(len(panels), 3)
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(max(3.3 * columns, 5.0), 2.7 * rows + 0.7), layout="constrained")
        grid: Any = figure.subplots(rows, columns, squeeze=False)
        labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
        handles: dict[str, Any] = {}
        for axes, panel in zip(grid.flat, panels, strict=False):
            for line in panel.lines:
                place = labels.index(line.label)
                handles[line.label] = _draw_line(axes, line, place)
            for name, level in (panel.levels or {}).items():
                axes.axhline(level, color=GREY, linewidth=0.9, linestyle=":")
                axes.annotate(
                    name, (1, level), xycoords=("axes fraction", "data"), fontsize=7.5,
                    color=GREY, ha="right", va="bottom",
                )  # fmt: skip
            axes.set_title(panel.title, loc="left")
            axes.set_xlabel(panel.x)
            axes.set_ylabel(panel.y)
            for letter in panel.log:
                axes.set(**{f"{letter}scale": "log"})
                label_logarithmic(getattr(axes, f"{letter}axis"))
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_axis_off()
        if labels:
            wide = 0.6 + 0.055 * max(map(len, labels))  # inches, about
            figure.legend(
                [handles[label] for label in labels], labels, loc="outside lower center",
                ncols=max(1, min(len(labels), int(figure.get_figwidth() / wide))),
            )  # fmt: skip
        save(figure, path)
    return Picture(path, caption, title)


def _draw_line(axes: Any, line: Line, place: int) -> Any:
    x, y = np.asarray(line.x), np.asarray(line.y, float)
    look: dict[str, Any] = {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": STYLES[place % len(STYLES)],
        "linewidth": 1.5,
    }
    if len(x) < 12:
        look |= {"marker": "o", "markersize": 3.5}
    if y.ndim == 2:
        low, middle, high = np.quantile(y, (0, 0.5, 1), axis=1)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
        y = middle
    return axes.plot(x, y, **look)[0]
