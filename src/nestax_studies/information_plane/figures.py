"""The figures: the information plane, curves of every estimator, controls, generalization.

In all of them a line is the median over seeds, a band or a cloud their whole range (never a
standard error), information is in bits, and an arm keeps its colour. Titles say what is drawn, not
what to conclude from it. `Sheet.drawn` is row -> column -> what a panel shows.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter

from nestax.plots import GREY, label_logarithmic

from .. import lab
from ..lab.figures import Sheet, free
from .arms import ARMS
from .claims import generalization
from .measure import Curves


class Estimator(NamedTuple):
    title: str
    parts: tuple[str, ...]  # what is drawn is their mean


BINNED = Estimator("30 fixed bins on [-1, 1]", ("binned30",))
QUANTILE = Estimator("30 quantile bins per unit (ranks only)", ("quantile30",))
KDE = Estimator("kernel density, midpoint of the bounds", ("kde_lower", "kde_upper"))
GAUSSIAN = Estimator("Gaussian log-determinant (as published)", ("gaussian",))
STANDARDIZED = Estimator("Gaussian log-determinant, units standardized", ("gaussian_standardized",))
# The colour of each arm (Okabe and Ito's palette, then Tol's muted one). Twelve hues cannot all be
# told apart by every eye: the arms that are controls carry a mark too.
LOOKS = {
    "sgd": ("#0072B2", ""),
    "gdm": ("#56B4E9", ""),
    "adamw": ("#009E73", ""),
    "dmgd": ("#D55E00", ""),
    "published": ("#000000", ""),
    "dmgd-l2": ("#E69F00", "o"),
    "dmgd-normalized": ("#8C3B00", "X"),
    "frozen": ("#CC79A7", "s"),
    "sign": ("#882255", "^"),
    "normalized": ("#999933", "D"),
    "ema-sign": ("#5B3FA8", "v"),
    "rmsprop": ("#808080", "P"),
}
_FIRST = ("sgd", "gdm", "adamw", "dmgd", "published")
_LIMIT: dict[str, Any] = {"color": "#A03030", "linewidth": 0.9, "linestyle": ":"}
_SHUFFLED: dict[str, Any] = {"linewidth": 1.0, "linestyle": (0, (4, 2))}
# Viridis without its lightest end, which white swallows; dark at the end, so that it shows.
_EPOCHS = ListedColormap(colormaps["viridis_r"](np.linspace(0.06, 1.0, 256)))
_READING = (
    "Every small dot is one seed at one checkpoint; the line joins the medians over seeds and "
    "colour is the epoch, on a logarithmic scale. The ring is the initialisation, the square the "
    "last checkpoint. Dotted lines are limits: vertical, the largest I(T;X) that the estimator can "
    "return; horizontal, the entropy H(Y) of the labels, which no true I(T;Y) exceeds, though an "
    "estimate may. Measured on the training images."
)
_CURVES = "Lines are medians over seeds and bands their whole range"


class Run:
    """The finished arms, and what labels them."""

    def __init__(self, settings: Any, records: lab.Records):
        finished = {arm: records[arm] for arm in settings.arms if arm in records}
        first = next(iter(finished.values()))
        self.images, self._ceilings = first["images"], first["ceilings"]
        self.arms = {arm: Curves(record) for arm, record in finished.items()}
        self.layers = [f"layer {i + 1} ({units} units)" for i, units in enumerate(settings.widths)]
        self.last = max(int(c.epochs[-1]) for c in self.arms.values())
        self.ticks = [0, *(10**power for power in range(len(str(self.last))))]
        # The scale of `_epoch_axes` for colours.
        norm = SymLogNorm(linthresh=1.0, linscale=0.4, vmin=0.0, vmax=max(self.last, 1), base=10)
        self.colours: dict[str, Any] = {"norm": norm, "cmap": _EPOCHS}

    def information(self, arm: str, estimator: Estimator, axis: str, layer: int) -> np.ndarray:
        """I(T;X) or I(T;Y), (epochs, seeds), bits."""
        parts = [self.arms[arm].information(part, axis) for part in estimator.parts]
        return np.mean(parts, axis=0)[:, :, layer]

    def ceiling(self, estimator: Estimator, axis: str, layer: int) -> float | None:
        """The most that I(T;X) is estimated at, or the entropy of the labels; None if unbounded."""
        stated = self._ceilings[estimator.parts[-1]][axis]
        return stated[layer] if axis == "x" else stated


def draw(settings: Any, records: lab.Records) -> list[Sheet]:
    """The figures, that of the last layer first."""
    run = Run(settings, records)
    planes = [_plane_grid(run, estimator) for estimator in (BINNED, GAUSSIAN, QUANTILE, KDE)]
    curves = [_information(run, axis) for axis in "xy"]
    return [_overview(run), *planes, *curves, _controls(run), _generalization(run)]


def _panels(
    words: tuple[str, str, str],
    size: tuple[float, float],
    rows: Mapping[str, str],
    columns: Sequence[str],
    fill: Callable[[Any, int, int], Any],
    finish: Callable[[Figure, Any], None],
    **shared: Any,
) -> Sheet:
    """Panels of named rows and columns: what `fill` draws in each, then `finish` around them.
    `words` are the figure's name, title and caption; `rows` have their quantity."""

    def draw(figure: Figure) -> dict[str, Any]:
        grid: Any = figure.subplots(len(rows), len(columns), squeeze=False, **shared)
        # Finding limits anew at every line of shared axes would take as long as drawing them.
        for axes in grid.flat:
            axes.set_autoscale_on(False)
        drawn: dict[str, Any] = {}
        for i, (row, quantity) in enumerate(rows.items()):
            label = textwrap.fill(row[0].upper() + row[1:], 24, break_on_hyphens=False)
            grid[i, 0].set_ylabel(f"{label}\n{quantity}".strip())
            for j, column in enumerate(columns):
                if i == 0:
                    grid[i, j].set_title(column, weight="bold")
                drawn.setdefault(row, {})[column] = fill(grid[i, j], i, j)
        for axes in grid.flat:
            axes.autoscale()
        finish(figure, grid)
        return drawn

    return free(*words, draw, size)


# The information plane


def _overview(run: Run) -> Sheet:
    """The last hidden layer: a row per estimator, a column per arm, five at most."""
    rows, layer = (GAUSSIAN, STANDARDIZED, QUANTILE), len(run.layers) - 1
    arms = sorted(run.arms, key=lambda arm: arm not in _FIRST)[: len(_FIRST)]
    told = [f"{ARMS[arm].label}\n{textwrap.fill(ARMS[arm].description, 23)}" for arm in arms]
    most = max(text.count("\n") for text in told) + 1

    def fill(axes: Any, i: int, j: int) -> Any:
        x = np.median(run.information(arms[j], rows[i], "x", layer), 1)
        head = told[j] + "\n" * (most - told[j].count("\n")) if i == 0 else ""
        axes.set_title(f"{head}peak {x.max():.1f}, end {x[-1]:.1f} bits", fontsize=8)
        return _plane(axes, run, rows[i], arms[j], layer, 16.0)

    caption = (
        "The last hidden layer of the arms at the same checkpoints under different estimators, one "
        f"per row. {_READING} Above each panel: the largest and the last median of I(T;X). Axes "
        "are shared within a row. The Gaussian estimate depends on the scale of the activations, "
        "standardizing removes the scale of each unit, and quantile bins depend on ranks alone."
    )
    words = "overview", f"Information plane of the last hidden layer, {run.layers[-1]}", caption
    size, shared = (max(1.62 * len(arms) + 1.0, 6.4), 7.0), {"sharex": "row", "sharey": "row"}
    heads = {e.title: "I(T;Y) (bits)" for e in rows}
    names = [ARMS[arm].label for arm in arms]
    return _panels(words, size, heads, names, fill, partial(_plane_legend, run), **shared)


def _plane_grid(run: Run, estimator: Estimator) -> Sheet:
    """One estimator: a row per arm, a column per layer."""
    arms = list(run.arms)

    def fill(axes: Any, i: int, j: int) -> Any:
        return _plane(axes, run, estimator, arms[i], j, 13.0)

    part = estimator.parts[0].removesuffix("_lower")
    name = "information_plane" + f"_{part}" * (part != "binned30")
    caption = (
        f"Estimator: {estimator.title}. A row per arm, a column per hidden layer; I(T;Y) has one "
        f"scale, I(T;X) one per column. {_READING}"
    )
    words = name, f"Information plane: {estimator.title}", caption
    size = (max(1.95 * len(run.layers) + 0.7, 6.4), 1.3 * len(arms) + 1.5)
    heads = {ARMS[arm].label: "I(T;Y) (bits)" for arm in arms}
    shared = {"sharex": "col", "sharey": True}
    return _panels(words, size, heads, run.layers, fill, partial(_plane_legend, run), **shared)


def _plane(
    axes: Any, run: Run, estimator: Estimator, arm: str, layer: int, size: float
) -> dict[str, Any]:
    """Seeds as a cloud, medians as a line, limits dotted; `size` is that of a median's dot."""
    limits = [run.ceiling(estimator, axis, layer) for axis in "xy"]
    for limit, line in zip(limits, (axes.axvline, axes.axhline), strict=True):
        if limit is not None:
            line(limit, zorder=1, **_LIMIT)
    x, y = (run.information(arm, estimator, axis, layer) for axis in "xy")
    epochs = run.arms[arm].epochs
    if x.shape[1] > 1:
        every, look = np.repeat(epochs, x.shape[1]), {"alpha": 0.4, "linewidths": 0, "zorder": 2}
        axes.scatter(x.ravel(), y.ravel(), 0.35 * size, every, **look, **run.colours)
    mx, my = np.median(x, 1), np.median(y, 1)
    # I(T;X) from 0, so that falling to nothing and falling a little look different.
    axes.update_datalim([(0.0, my[0])])
    axes.plot(mx, my, color="#8C8C8C", linewidth=0.9, zorder=3)
    axes.scatter(mx, my, size, epochs, linewidths=0, zorder=4, **run.colours)
    # Start and end are marked apart: with colour alone a return to the start cannot be seen.
    axes.scatter(mx[0], my[0], 2.6 * size, "none", edgecolors="#333333", linewidths=0.9, zorder=5)
    look = {"marker": "s", "edgecolors": "white", "linewidths": 0.7, "zorder": 6}
    axes.scatter(mx[-1:], my[-1:], 2.2 * size, epochs[-1:], **look, **run.colours)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    return {"seeds": (x, y), "median": (mx, my), "limits": limits}


def _plane_legend(run: Run, figure: Figure, grid: Any) -> None:
    """What is across, the colours of epochs, and what the marks stand for."""
    for axes in grid[-1]:
        axes.set_xlabel("I(T;X) (bits)")
    look: dict[str, Any] = {"location": "bottom", "shrink": 0.5, "aspect": 45, "pad": 0.02}
    colours = ScalarMappable(**run.colours)
    bar = figure.colorbar(colours, ax=list(grid.flat), label="epoch", **look)
    ticks = run.ticks + ([run.last] if run.last >= 2 * run.ticks[-1] else [])
    bar.set_ticks(ticks, labels=[str(tick) for tick in ticks])
    bar.ax.xaxis.set_minor_locator(NullLocator())
    dot: dict[str, Any] = {"ls": "", "mew": 0, "color": "#2A788E"}
    entries = {
        "median over seeds": Line2D([], [], marker="o", ms=4, mew=0, color="#8C8C8C"),
        "one seed": Line2D([], [], marker="o", ms=2.6, alpha=0.5, **dot),
        "initialisation": Line2D([], [], ls="", marker="o", ms=7, mfc="none", mec="#333333"),
        "last checkpoint": Line2D([], [], marker="s", ms=6, **dot),
        "limits: of the estimator (x), H(Y) (y)": Line2D([], [], **_LIMIT),
    }
    figure.legend([*entries.values()], [*entries], loc="outside lower center", ncols=3)


# Curves


def _information(run: Run, axis: str) -> Sheet:
    """I(T;X), or I(T;Y) with its shuffled-label control: a row per estimator, column per layer."""
    about, symbol, name, limit, note = {
        "x": ("input", "I(T;X)", "information", "largest possible estimate",
              "the largest values that an estimator can return."),
        "y": ("label", "I(T;Y)", "label_information", "entropy of the labels",
              "the entropy of the labels, which no true I(T;Y) exceeds, though an estimate may. "
              "Dashed lines repeat the binned estimate with shuffled labels, where the true value "
              "is 0: what they show is bias."),
    }[axis]  # fmt: skip
    rows = (BINNED, QUANTILE, KDE, GAUSSIAN, STANDARDIZED)
    extra = {limit: Line2D([], [], **_LIMIT)}
    if axis == "y":
        extra["same arm, labels shuffled"] = Line2D([], [], color=GREY, **_SHUFFLED)

    def fill(axes: Any, i: int, j: int) -> Any:
        values = {arm: run.information(arm, rows[i], axis, j) for arm in run.arms}
        drawn: dict[str, Any] = _curves(axes, run, values)
        if axis == "y" and rows[i] is BINNED:
            for arm, c in run.arms.items():
                bias = np.median(c.control("shuffled_y")[:, :, j], 1)
                axes.plot(c.epochs, bias, color=LOOKS[arm][0], alpha=0.8, **_SHUFFLED)
                drawn[f"{ARMS[arm].label}, labels shuffled"] = (c.epochs, bias, None, None)
        if (ceiling := run.ceiling(rows[i], axis, j)) is not None:
            axes.axhline(ceiling, **_LIMIT)
            drawn[limit] = ceiling
        return drawn

    def finish(figure: Figure, grid: Any) -> None:
        for first, *_ in grid:
            first.yaxis.set_major_locator(MaxNLocator(4))
            first.set_ylim(bottom=-0.03 * first.get_ylim()[1])
        _epoch_axes(grid[-1], run)
        _legend(figure, run, extra)

    caption = (
        f"{symbol} on the training images, in bits, against the epoch (linear up to epoch 1, "
        "logarithmic from there). A row per estimator, a column per hidden layer, a colour per "
        f"arm. {_CURVES}. Dotted lines: {note}"
    )
    words = name, f"Information about the {about}, {symbol}", caption
    size = (max(2.05 * len(run.layers) + 0.9, 6.4), 1.6 * len(rows) + 1.2)
    heads = {e.title: f"{symbol} (bits)" for e in rows}
    return _panels(words, size, heads, run.layers, fill, finish, sharex=True, sharey="row")


def _controls(run: Run) -> Sheet:
    """A row per control, a column per layer; the readout has weights alone."""
    percent = (-5.0, 105.0)
    rows = (  # the control, its label, what it is multiplied by, and log or limits of the axis
        ("weight_norm", "weight norm", 1.0, "log"),
        ("std", "standard deviation of a unit", 1.0, "log"),
        ("saturated", "saturated activations (%)", 100.0, percent),
        ("effective_rank", "effective rank", 1.0, None),
        ("distinct", "distinct rows (% of inputs)", 100.0 / run.images, percent),
        ("noisy_accuracy", "test accuracy with noise added here (%)", 100.0, None),
    )

    def fill(axes: Any, i: int, j: int) -> Any:
        name, _, factor, scale = rows[i]
        values = {arm: factor * c.control(name) for arm, c in run.arms.items()}
        if scale == "log" and any(np.any(of_arm > 0) for of_arm in values.values()):
            axes.set_yscale("log")
        there = j < len(run.layers) or name == "weight_norm"
        axes.set_visible(there)
        return _curves(axes, run, {a: v[:, :, j] for a, v in values.items()} if there else {})

    def finish(figure: Figure, grid: Any) -> None:
        for (first, *_), (_, _, _, scale) in zip(grid, rows, strict=True):
            if first.get_yscale() == "log":
                label_logarithmic(first.yaxis)
            elif scale == percent:
                first.set_ylim(percent)
        _epoch_axes(grid[-1], run)
        grid[0, -1].tick_params(labelbottom=True)
        _legend(figure, run)

    caption = (
        "Per hidden layer against the epoch (linear up to epoch 1, logarithmic from there): norm "
        "of the weights into the layer, standard deviation of a unit over inputs, share of "
        "saturated activations (beyond 0.99 in size; zero for ReLU), effective rank of the "
        "activations, distinct rows as a share of the training images, and test accuracy when the "
        f"noise that the Gaussian estimator assumes is really added at that layer. {_CURVES}; "
        "panels share their scale within a row."
    )
    words = "controls", "Controls of scale, saturation and collapse", caption
    size = (2.0 * len(run.layers) + 3.0, 1.45 * len(rows) + 1.1)
    heads, columns = {label: "" for _, label, _, _ in rows}, [*run.layers, "readout"]
    return _panels(words, size, heads, columns, fill, finish, sharex=True, sharey="row")


def _generalization(run: Run) -> Sheet:
    """Loss and accuracy against the epoch, and the accuracy gap at equal training loss."""
    losses, gaps = generalization(run.arms)
    gap = "accuracy gap at equal training loss"
    names: Any = [["training loss", "test loss", gap], ["training accuracy", "test accuracy", gap]]

    def draw(figure: Figure) -> dict[str, Any]:
        cells: Any = figure.subplot_mosaic(names, width_ratios=(2, 2, 3))
        drawn: dict[str, Any] = {}
        rows = (("loss", 1.0, "nats", "log"), ("accuracy", 100.0, "%", "linear"))
        for pair, (kind, factor, unit, scale) in zip(names, rows, strict=True):
            for name, part in zip(pair, ("train", "test"), strict=False):
                axes = cells[name]
                values = {a: factor * c.performance(part, kind) for a, c in run.arms.items()}
                drawn[name] = _curves(axes, run, values)
                axes.set(title=name, ylabel=f"{kind} ({unit})", yscale=scale)
            cells[pair[1]].sharey(cells[pair[0]])
            _epoch_axes([cells[name] for name in pair[:2]], run)
        label_logarithmic(cells["training loss"].yaxis)
        axes = cells[gap]
        axes.set_title(gap)
        drawn[gap] = _curves(axes, run, gaps if len(losses) else {}, losses)
        if len(losses):
            axes.axhline(0.0, color="#666666", linewidth=0.8)
            axes.set(xscale="log", xlabel="training loss (nats), falling →")
            axes.set_ylabel("training minus test accuracy (points)")
            label_logarithmic(axes.xaxis)
            axes.invert_xaxis()
        else:
            axes.set(xticks=[], yticks=[])
            words = "the arms have no training loss in common"
            axes.text(0.5, 0.5, words, ha="center", transform=axes.transAxes, color=GREY)
        _legend(figure, run)
        return drawn

    caption = (
        "Left: loss (cross-entropy) and accuracy on all training and all test examples against the "
        "epoch (linear up to epoch 1, logarithmic from there). Right: training minus test "
        "accuracy, in percentage points, when a network first reaches a training loss, over the "
        "losses that every seed reached, without arms that never halved their loss; training "
        f"proceeds from left to right. {_CURVES}."
    )
    title = "Loss, accuracy and generalization"
    return free("generalization", title, caption, draw, (11.5, 6.0))


def _curves(
    axes: Any, run: Run, values: Mapping[str, np.ndarray], x: Any = None
) -> dict[str, tuple[Any, ...]]:
    """Arms' medians of (C, S) values against epochs or `x`, with their ranges as bands. Returns
    label -> (x, median, least, most)."""
    drawn = {}
    for arm, of_arm in values.items():
        at, look = run.arms[arm].epochs if x is None else x, _look(arm)
        low, middle, high = np.quantile(of_arm, (0, 0.5, 1), axis=1)
        axes.fill_between(at, low, high, color=look["color"], alpha=0.13, linewidth=0)
        # Marks of different arms sit at different points, so that they do not hide one another.
        every = max(1, len(at) // 4)
        axes.plot(at, middle, markevery=([*run.arms].index(arm) % every, every), **look)
        drawn[ARMS[arm].label] = (at, middle, low, high)
    return drawn


def _look(arm: str) -> dict[str, Any]:
    colour, mark = LOOKS[arm]
    look = {"color": colour, "linewidth": 1.0 if mark else 1.5, "marker": mark}
    return {**look, "markersize": 3.6, "markeredgewidth": 0}


def _legend(figure: Figure, run: Run, extra: Mapping[str, Any] | None = None) -> None:
    handles = {ARMS[arm].label: Line2D([], [], **_look(arm)) for arm in run.arms}
    handles |= {"median, range of seeds": Line2D([], [], color=GREY), **(extra or {})}
    columns = 4 if len(run.layers) > 3 else 3
    figure.legend([*handles.values()], [*handles], loc="outside lower center", ncols=columns)


def _epoch_axes(row: Any, run: Run) -> None:
    """Linear up to epoch 1, logarithmic from there."""
    for axes in row:
        axes.set_xscale("symlog", linthresh=1.0, linscale=0.4)
        axes.set_xlim(-0.12, max(run.last, 1) * 1.08)
        axes.set_xticks(run.ticks)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("epoch")
