"""The figures that studies need: curves, maps, dots, images. Each returns what it drew."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from nestax.plots import COLOURS, GREY, STYLE, label_logarithmic

from .claims import quantiles

STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
"""Of lines in the order of a legend; fewer than colours, so that later lines look different."""
_BREAKS = "A line breaks where the number of a seed is not finite."


@dataclass(frozen=True)
class Sheet:
    """A figure of a report.

    Attributes:
        name: of its file, without the ending.
        title: what is drawn, in a few words.
        caption: how to read it.
        figure: as matplotlib has it.
        drawn: the numbers in it, as they were drawn, by panel and label.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    drawn: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """A line and its band.

    Attributes:
        x: (C,).
        y: (C,) or (C, S) with one column for each seed; drawn are the median and, as a band, the
            range from the least to the most, where all seeds are finite.
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
    levels: Mapping[str, Any] | None = None
    log: str = ""


def curves(name: str, panels: Sequence[Panel], title: str, caption: str) -> Sheet:
    """Panels side by side, with one legend for all of them; those without lines are left out.
    `drawn`: panel -> label -> (x, median, least, most), the last two None for a line without a
    band. The caption says where lines break, if any does."""
    panels = [panel for panel in panels if panel.lines]
    columns = 2 if len(panels) == 4 else max(1, min(len(panels), 3))
    size = (max(3.3 * columns, 5.0), 2.7 * -(-len(panels) // columns) + 0.7)
    drawn: dict[str, Any] = {}
    with mpl.rc_context(STYLE):
        figure, cells = _grid(len(panels), columns, size)
        labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
        handles: dict[str, Any] = {}
        for axes, panel in zip(cells, panels, strict=True):
            for line in panel.lines:
                handles[line.label], told = _line(axes, line, labels.index(line.label))
                if np.isnan(told[1]).any() and not caption.endswith(_BREAKS):
                    caption = f"{caption} {_BREAKS}".lstrip()
                drawn.setdefault(panel.title, {})[line.label] = told
            for text, level in (panel.levels or {}).items():
                axes.axhline(level, color=GREY, linewidth=0.9, linestyle=":")
                axes.annotate(
                    text, (1, level), xycoords=("axes fraction", "data"), fontsize=7.5,
                    color=GREY, ha="right", va="bottom",
                )  # fmt: skip
            axes.set_title(panel.title, loc="left")
            axes.set(xlabel=panel.x, ylabel=panel.y)
            for letter in panel.log:
                _logarithmic(axes, letter)
        if labels:
            wide = 0.6 + 0.055 * max(map(len, labels))  # inches, about
            figure.legend(
                [handles[label] for label in labels], labels, loc="outside lower center",
                ncols=max(1, min(len(labels), int(figure.get_figwidth() / wide))),
            )  # fmt: skip
    return Sheet(name, title, caption, figure, drawn)


def _line(axes: Any, line: Line, place: int) -> tuple[Any, Any]:
    x, y = np.asarray(line.x), np.asarray(line.y, float)
    y = np.where(np.isfinite(y), y, np.nan)
    colour, style = COLOURS[place % len(COLOURS)], STYLES[place % len(STYLES)]
    look: Any = {"marker": "o", "markersize": 3.5} if len(x) < 12 else {}
    low = high = None
    if y.ndim == 2:
        low, y, high = quantiles(y, axis=1)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    (handle,) = axes.plot(x, y, color=colour, linestyle=style, linewidth=1.5, **look)
    return handle, (x, y, low, high)


@dataclass(frozen=True)
class Dot:
    """The median over seeds as a dot and their range as a bar.

    Attributes:
        values: (seeds,); None and an empty one draw nothing.
        colour: number of the colour; its row's if not given.
        filled: whether the dot is; an open one is drawn a little below.
    """

    values: Any
    colour: int | None = None
    filled: bool = True


@dataclass(frozen=True)
class Column:
    """Axes of `dots`.

    Attributes:
        title, x: texts.
        rows: label of the row -> its dots.
        limits: of the axis; chosen by matplotlib if not given.
        log: whether the axis is logarithmic.
    """

    title: str
    x: str
    rows: Mapping[str, Sequence[Dot]]
    limits: Any = None
    log: bool = False


def dots(name: str, columns: Sequence[Column], title: str, caption: str) -> Sheet:
    """A row for each arm, axes for each task. `drawn`: column -> row -> [(least, median, most)];
    empty without rows."""
    if not (labels := list(dict.fromkeys(label for column in columns for label in column.rows))):
        return _empty(name, title, caption)
    wide = 2.2 if len(columns) < 5 else 1.35
    size = (wide * len(columns) + 2.0, 0.24 * len(labels) + 1.1)
    drawn: dict[str, Any] = {}
    with mpl.rc_context(STYLE):
        figure, cells = _grid(len(columns), len(columns), size, sharey=True)
        for axes, column in zip(cells, columns, strict=True):
            for place, label in enumerate(labels):
                for dot in column.rows.get(label, ()):
                    told = _dot(axes, dot, place)
                    drawn.setdefault(column.title, {}).setdefault(label, []).append(told)
            axes.set_title(column.title, loc="left", fontsize=9 if wide > 2 else 7.5)
            axes.set_xlabel(column.x)
            if column.log:
                _logarithmic(axes, "x")
            if column.limits:
                axes.set_xlim(*column.limits)
        cells[0].set_yticks(range(len(labels)), labels)
        cells[0].set_ylim(len(labels) - 0.5, -0.5)
    return Sheet(name, title, caption, figure, drawn)


def _dot(axes: Any, dot: Dot, place: int) -> Any:
    if dot.values is None or not np.size(dot.values):
        return None
    low, middle, high = quantiles(dot.values)
    colour = COLOURS[(place if dot.colour is None else dot.colour) % len(COLOURS)]
    y = place if dot.filled else place + 0.3
    axes.plot([low, high], [y, y], color=colour, linewidth=2.5, alpha=0.35)
    face = colour if dot.filled else "white"
    axes.plot([middle], [y], "o", color=colour, markerfacecolor=face, markersize=4)
    return low, middle, high


@dataclass(frozen=True)
class Map:
    """A matrix as colours.

    Attributes:
        title: text.
        values: (rows, columns).
    """

    title: str
    values: Any


def maps(
    name: str,
    panels: Sequence[Map],
    title: str,
    caption: str,
    *,
    x: Sequence[str] = (),
    y: Sequence[str] = (),
    label: str = "",
    limits: Any = None,
    log: bool = False,
    columns: int = 4,
    square: bool = False,
    colours: str = "viridis",
) -> Sheet:
    """Matrices side by side on one scale of colours. `drawn`: panel -> values.

    Args:
        name, panels, title, caption: see `Sheet`.
        x: names of the columns; none are shown if empty.
        y: names of the first and of the last row, or of every row; none are shown if empty.
        label: of the scale of colours; "" draws no scale.
        limits: of the colours; the least and the most of all finite values if not given.
        log: whether the scale is logarithmic; values that are not above 0 are left blank.
        columns: panels in a row, at most.
        square: whether entries are squares, as pixels are.
        colours: matplotlib's name of the colours.

    Raises:
        ValueError: names that are not as many as the rows or columns, or limits of a logarithmic
            scale that are not above 0.
    """
    for panel in (panels := [panel for panel in panels if np.size(panel.values)]):
        height, width = np.shape(panel.values)
        if len(x) not in (0, width) or len(y) not in (0, 2, height):
            raise ValueError(
                f"maps: {panel.title!r} has {height} rows and {width} columns, got {len(y)} names "
                f"of rows and {len(x)} of columns; name all, none, or the first and the last row"
            )
    if not panels:
        return _empty(name, title, caption)
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    every = np.concatenate([np.ravel(np.asarray(panel.values, float)) for panel in panels])
    every = every[np.isfinite(every) & ((every > 0) | (not log))]
    low, high = limits or ((every.min(), every.max()) if every.size else (1, 1))
    if log and low <= 0:
        raise ValueError(
            f"maps: limits of a logarithmic scale must be above 0, got {low} to {high}"
        )
    scale = LogNorm(low, high) if log else Normalize(low, high)
    each = (0.8, 0.8) if square else (1.9, 1.7)
    size = (each[0] * columns + 1.2 * bool(label) + 0.3, each[1] * rows + 0.5)
    drawn = {}
    with mpl.rc_context(STYLE):
        figure, cells = _grid(len(panels), columns, size, sharex=True, sharey=True)
        image: Any = None
        for axes, panel in zip(cells, panels, strict=True):
            drawn[panel.title] = values = np.asarray(panel.values, float)
            aspect = "equal" if square else "auto"
            image = axes.imshow(values, cmap=colours, norm=scale, aspect=aspect)
            axes.set_title(panel.title, loc="center" if square else "left", fontsize=8)
            axes.grid(False)
            axes.set_xticks(range(len(x)), x, rotation=45, fontsize=6.5)
            ends = range(len(values)) if len(y) == len(values) else (0, len(values) - 1)
            axes.set_yticks(list(ends) if y else [], y)
        if label:
            figure.colorbar(image, ax=list(cells), label=label, shrink=0.8)
    return Sheet(name, title, caption, figure, drawn)


def images(
    name: str, rows: Mapping[str, Any], title: str, caption: str, colours: str = "RdGy"
) -> Sheet:
    """A row of square images for each label, on a scale of its own, white at 0. `drawn`: label ->
    images, (n, side, side).

    Args:
        name, title, caption: see `Sheet`.
        rows: label -> images, (n, pixels).
        colours: matplotlib's name of the colours.
    """
    drawn = {}
    if not (count := max(map(len, rows.values()), default=0)):
        return _empty(name, title, caption)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 0.95 * len(rows) + 0.2), layout="constrained")
        grid: Any = figure.subplots(len(rows), count, squeeze=False)
        for line, (label, some) in zip(grid, rows.items(), strict=True):
            side = round(np.shape(some)[-1] ** 0.5)
            drawn[label] = square = np.asarray(some, float).reshape(-1, side, side)
            size = np.quantile(np.abs(square), 0.99)
            for axes, image in zip(line, square, strict=False):
                axes.imshow(image, cmap=colours, vmin=-size, vmax=size)
            for axes in line:
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
                axes.spines[:].set_visible(False)
            words = label.replace(", ", ",\n")
            line[0].set_ylabel(words, rotation=0, ha="right", va="center", fontsize=8)
    return Sheet(name, title, caption, figure, drawn)


def free(
    name: str,
    title: str,
    caption: str,
    draw: Callable[[Figure], dict[str, Any]],
    size: tuple[Any, Any],
) -> Sheet:
    """A figure of a study's own.

    Args:
        name, title, caption: see `Sheet`.
        draw: draws on the figure; returns the numbers drawn.
        size: inches.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        return Sheet(name, title, caption, figure, draw(figure))


def _logarithmic(axes: Any, letter: str) -> None:
    """A logarithmic axis, where anything drawn is above 0."""
    if np.isfinite(getattr(axes.dataLim, f"minpos{letter}")):
        axes.set(**{f"{letter}scale": "log"})
        label_logarithmic(getattr(axes, f"{letter}axis"))


def _empty(name: str, title: str, caption: str) -> Sheet:
    """A figure with nothing drawn, which reports leave out."""
    return Sheet(name, title, caption, Figure())


def _grid(count: int, columns: int, size: tuple[Any, Any], **shared: Any) -> Any:
    """A figure, and the axes of so many cells of its grid."""
    figure = Figure(figsize=size, layout="constrained")
    rows = max(1, -(-count // columns))
    grid: Any = figure.subplots(rows, columns, squeeze=False, **shared)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    return figure, list(grid.flat[:count])
