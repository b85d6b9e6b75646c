"""Colours, marks and axes that the figures have in common."""

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, SymLogNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from nestax.plots import GREY

from .records import Arm, Records

COLOURS = {
    "sgd": "#0072B2",
    "gdm": "#56B4E9",
    "adamw": "#009E73",
    "dmgd": "#D55E00",
    "published": "#000000",
    "dmgd-l2": "#E69F00",
    "dmgd-normalized": "#8C3B00",
    "frozen": "#CC79A7",
    "sign": "#882255",
    "normalized": "#999933",
    "ema-sign": "#5B3FA8",
    "rmsprop": "#808080",
}
"""The colour of each arm (Okabe and Ito's palette, then Tol's muted one)."""

# Twelve hues cannot all be told apart by every eye: the arms that are controls carry a mark too.
_MARKS = {
    "dmgd-l2": "o",
    "dmgd-normalized": "X",
    "frozen": "s",
    "sign": "^",
    "normalized": "D",
    "ema-sign": "v",
    "rmsprop": "P",
}
LIMIT: dict[str, Any] = {"color": "#A03030", "linewidth": 0.9, "linestyle": ":"}
SHUFFLED: dict[str, Any] = {"linewidth": 1.0, "linestyle": (0, (4, 2))}
# Viridis without its lightest end, which white swallows; dark at the end, so that it shows.
EPOCHS = ListedColormap(colormaps["viridis_r"](np.linspace(0.06, 1.0, 256)))


def arm_line(arm: Arm) -> dict[str, Any]:
    """How the line of an arm looks."""
    mark = _MARKS.get(arm.name, "")
    return {
        "color": COLOURS[arm.name],
        "linewidth": 1.0 if mark else 1.5,
        "marker": mark,
        "markersize": 3.6,
        "markeredgewidth": 0,
    }


def curve(axes: Axes, arm: Arm, values: np.ndarray) -> None:
    """The median of (C, S) values against the epoch, with their range as a band."""
    line = arm_line(arm)
    low, middle, high = np.quantile(values, (0, 0.5, 1), axis=1)
    axes.fill_between(arm.epochs, low, high, color=line["color"], alpha=0.13, linewidth=0)
    # Marks of different arms sit at different checkpoints, so that they do not hide one another.
    every = max(1, len(values) // 4)
    if len(values) == 1:
        line["marker"] = line["marker"] or "."
    axes.plot(arm.epochs, middle, markevery=(arm.index % every, every), **line)


def arm_handles(records: Records) -> tuple[list[Any], list[str]]:
    """The legend of curves: a line for each arm, then what lines and bands are."""
    handles: list[Artist | tuple[Artist, ...]] = [
        Line2D([], [], **arm_line(arm)) for arm in records.arms
    ]
    labels = [arm.label for arm in records.arms]
    line = Line2D([], [], color=GREY)
    if records.seeds == 1:
        return [*handles, line], [*labels, "the one seed"]
    band = Patch(color=GREY, alpha=0.25, linewidth=0)
    return [*handles, (band, line)], [*labels, "median, range of seeds"]


def epoch_ticks(last: int) -> list[int]:
    """0 and the powers of ten up to the last epoch."""
    return [0, *(10**power for power in range(len(str(last))))]


def epoch_axis(axes: Axes, last: int) -> None:
    """Linear up to epoch 1, logarithmic from there."""
    axes.set_xscale("symlog", linthresh=1.0, linscale=0.4)
    axes.set_xlim(-0.12, max(last, 1) * 1.08)
    axes.set_xticks(epoch_ticks(last))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def epoch_norm(last: int) -> SymLogNorm:
    """The scale of `epoch_axis` for colours."""
    return SymLogNorm(linthresh=1.0, linscale=0.4, vmin=0.0, vmax=max(last, 1), base=10)


def log_ticks(axis: Any) -> None:
    """Few ticks of a logarithmic axis that has its limits, with plain numbers: 0.01, 0.3, 100."""
    low, high = axis.get_view_interval()
    if high < 10 * low:
        axis.set_major_locator(MaxNLocator(4))
    else:
        subs = (1.0, 3.0) if high < 1000 * low else (1.0,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=7))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())
