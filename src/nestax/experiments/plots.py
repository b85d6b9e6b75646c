"""How the experiments' figures look, and the one most of them need: lines with bands over seeds."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from PIL import Image

from ..levels import FlowComparison, LevelTable
from ..runs import Picture, write_atomically

GREY = "#555555"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C3B00")
"""Okabe and Ito's palette, for lines in the order of a legend."""
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), "-", "--")
RC: dict[Any, Any] = {
    "figure.dpi": 150,
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#666666",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


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
    with mpl.rc_context(RC):
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


def label_logarithmic(axis: Any) -> None:
    """Plain numbers where powers of ten alone would leave an axis almost without labels."""
    low, high = axis.get_view_interval()
    if high < 300 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


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


def draw_levels(path: Path, table: LevelTable, title: str) -> Picture:
    """A level table as a picture: a lane for each level, fastest on top, arrows to what waits."""
    rows = [row for row in table.rows if row.level is not None]
    lanes: dict[int, list[Any]] = {}
    for row in rows:
        lanes.setdefault(row.level or 0, []).append(row)
    widest = max(len(lane) for lane in lanes.values())
    with mpl.rc_context(RC):
        figure = Figure(figsize=(max(5.0, 2.3 * widest + 1.6), 0.95 * len(lanes) + 0.9))
        axes: Any = figure.subplots()
        places: dict[str, tuple[float, float]] = {}
        for level, lane in lanes.items():
            axes.axhspan(-level - 0.42, -level + 0.42, color=COLOURS[level % 6], alpha=0.08, lw=0)
            often = f"{lane[0].frequency:g} x per step"
            axes.annotate(
                f"level {level + 1}\n{often}", (-0.02, -level), xycoords=("axes fraction", "data"),
                ha="right", va="center", fontsize=8, color=GREY,
            )  # fmt: skip
            for i, row in enumerate(lane):
                places[row.label] = x, y = ((i + 0.5) * widest / len(lane), -float(level))
                text = row.label + (f"\n({len(row.paths)} leaves)" if len(row.paths) > 1 else "")
                box = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": COLOURS[level % 6]}
                axes.text(x, y, text, ha="center", va="center", fontsize=7.5, bbox=box, zorder=3)
        arrow = {"arrowstyle": "-|>", "color": GREY, "lw": 0.8, "shrinkA": 16, "shrinkB": 17}
        for row in rows:
            for need in row.needs:
                if need in places and need != row.label:
                    axes.annotate("", places[row.label], places[need], arrowprops=arrow, zorder=2)
        axes.set_xlim(0, widest)
        axes.set_ylim(-max(lanes) - 0.5, 0.5)
        axes.set_axis_off()
        axes.set_title(title, loc="left", weight="bold")
        figure.subplots_adjust(left=1.25 / figure.get_figwidth(), right=0.98, bottom=0.03, top=0.88)
        save(figure, path)
    caption = "Arrows point from what is computed first to what needs its new value."
    return Picture(path, caption, title)


def draw_frequencies(path: Path, tables: Mapping[str, LevelTable], tokens: int = 1) -> Picture:
    """Who is written how often: a block for each model, a line for each of its levels.

    Args:
        path: of the PNG file.
        tables: a model's name -> the level table of one step of its outer optimizer.
        tokens: that such a step reads; frequencies are drawn in writes per token and per step.

    Raises:
        ValueError: tokens below 1, no table, or one without a level.
    """
    if tokens < 1 or not tables or not all(table.levels for table in tables.values()):
        levels = {name: len(table.levels) for name, table in tables.items()}
        raise ValueError(
            f"draw_frequencies: tokens must be at least 1, got {tokens}; pass tables that have "
            f"levels, got {levels}"
        )
    often, names, places, centres = [], [], [], []
    top = 0.0
    for table in tables.values():
        lanes: dict[int, list[Any]] = {}
        for row in table.rows:
            if row.level is not None:
                lanes.setdefault(row.level, []).append(row)
        often += [lane[0].frequency / tokens for lane in lanes.values()]
        names += [f"{_name(lane)}   {lane[0].frequency / tokens:g}" for lane in lanes.values()]
        places += [top + i for i in range(len(lanes))]
        centres.append(top + (len(lanes) - 1) / 2)
        top += len(lanes) + 0.8  # models stand apart
    ranks = sorted(set(often), reverse=True)
    with mpl.rc_context(RC):
        figure = Figure(figsize=(7.4, 0.185 * top + 1.1), layout="constrained")
        axes: Any = figure.subplots()
        axes.set(xscale="log", xlim=(ranks[-1] / 1.3, ranks[0] * 1.3), ylim=(top - 1, -0.8))
        axes.hlines(places, *axes.get_xlim(), color="#E6E6E6", linewidth=0.6, zorder=1)
        for x, y in zip(often, places, strict=True):
            colour = COLOURS[ranks.index(x) % len(COLOURS)]
            axes.plot([ranks[-1], x], [y, y], color=colour, linewidth=3, alpha=0.35)
            axes.plot([x], [y], "o", color=colour, markersize=4.5)
        axes.grid(visible=False, axis="y")
        axes.set_yticks(centres, list(tables), weight="bold")
        right = axes.secondary_yaxis("right")
        right.set_yticks(places, names, fontsize=7.5)
        right.spines["right"].set_visible(False)
        for one in (axes, right):
            one.tick_params(axis="y", length=0)
        axes.set_xlabel("writes per token")
        label_logarithmic(axes.xaxis)
        if tokens > 1:
            above = axes.twiny()
            above.set(xscale="log", xlim=[tokens * x for x in axes.get_xlim()])
            above.set_xlabel(f"writes per step of the outer optimizer ({tokens} tokens)")
            above.grid(visible=False)
            label_logarithmic(above.xaxis)
        save(figure, path)
    caption = (
        "A line for each level of a model, what is faster above; equal colours are equal "
        "frequencies. Of two lines at one frequency the lower needs new values of the upper."
    )
    return Picture(path, caption, "Who is written how often")


def _name(lane: Sequence[Any]) -> str:
    """What stands in a level; three and more of one part of the state only by their number."""
    parts: dict[str, list[str]] = {}
    for row in lane:
        name = re.sub(r"\['(.*?)'\]", r".\1", row.label).lstrip(".")
        parts.setdefault(name.rpartition(".")[0], []).append(name)
    return ", ".join(
        f"{part} ({len(names)} parts)" if part and len(names) > 2 else ", ".join(names)
        for part, names in parts.items()
    )


def draw_flows(path: Path, found: FlowComparison) -> Picture:
    """A comparison of flows: error and cosine with their range over draws, against time."""
    with mpl.rc_context(RC):
        figure = Figure(figsize=(8.6, 0.36 * len(found.rows) + 1.5), layout="constrained")
        panels: Any = figure.subplots(1, 4, sharey=True)
        names = [row.name for row in found.rows]
        quantities = (
            ("cosine to the exact gradient", [row.cosine for row in found.rows]),
            ("relative error", [row.error for row in found.rows]),
            ("milliseconds", [np.array([row.milliseconds]) for row in found.rows]),
            ("temporary memory, MiB", [np.array([row.mebibytes]) for row in found.rows]),
        )
        for axes, (label, values) in zip(panels, quantities, strict=True):
            for i, one in enumerate(values):
                colour = COLOURS[i % len(COLOURS)]
                axes.plot([one.min(), one.max()], [i, i], color=colour, linewidth=3, alpha=0.35)
                axes.plot([np.median(one)], [i], "o", color=colour, markersize=4.5)
            axes.set_xlabel(label)
        lowest = min(row.cosine.min() for row in found.rows if np.isfinite(row.cosine).all())
        panels[0].set_xlim(min(-0.05, 1.1 * lowest), 1.1)
        panels[1].set_xscale("log")
        panels[1].xaxis.set_major_locator(LogLocator(numticks=4))
        panels[0].set_yticks(range(len(names)), names)
        panels[0].invert_yaxis()
        title = f"Flows for the gradient of {found.level}"
        figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=10)
        save(figure, path)
    caption = "Dots are medians over draws of the data, bars their range; exact is " + found.exact
    return Picture(path, caption + ".", title)


def save(figure: Figure, path: Path) -> None:
    """Writes the figure as a PNG file, whole or not at all."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # A palette of 256 colours makes the file a third as large as matplotlib writes it, which counts
    # in a report that embeds its figures.
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    image = image.quantize(256, dither=Image.Dither.NONE)
    content = io.BytesIO()
    image.save(content, "PNG", dpi=(figure.dpi, figure.dpi))
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, content.getvalue())
