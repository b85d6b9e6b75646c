"""The comparison's figures: curves by family, all results at a glance, paths through the valley."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from nestax.plots import COLOURS, STYLE, label_logarithmic, save
from nestax.runs import Picture

from ..plots import Line, Panel, draw
from ..study import Records
from .arms import ARMS, FAMILIES
from .findings import OUTCOMES, TITLES, lasting
from .remembered import STAGE, draw_remembered
from .small import valley
from .training import CAP

_REFERENCES = ("momentum", "adamw")  # in every figure, always in the same colours
_SHOWN = {
    "toy": ("loss", "psi"),
    "forgetting": ("first", "loss of the first task, relative"),
    "network": ("train", "training loss, nats"),
    "language": ("train", "training loss, nats per character"),
}
_LEAST = 1e-9  # what is less is drawn there
_WALKERS = ("momentum", "delta_momentum", "deep_momentum_rows", "adamw", "muon", "m3")


def draw_all(settings: Any, records: Records, directory: Path) -> list[Picture]:
    pictures = [_results(settings, records, directory / "results.png")]
    for family, words in FAMILIES.items():
        if picture := _family(settings, records, directory, family, words):
            pictures.append(picture)
    if STAGE in records and (seen := draw_remembered(records[STAGE], directory / "memory.png")):
        pictures.append(seen)
    if paths := _paths(records, directory / "paths.png"):
        pictures.append(paths)
    return pictures


def _family(
    settings: Any, records: Records, directory: Path, family: str, words: str
) -> Picture | None:
    arms = [*_REFERENCES, *(a for a in ARMS if ARMS[a].family == family and a not in _REFERENCES)]
    panels = []
    for task in settings.tasks:
        name, label = _SHOWN[task]
        lines = []
        for arm in arms:
            if (record := records.get(f"{task} {arm}")) is not None:
                y = np.asarray(record["curves"][name])
                y = np.where(y >= CAP, np.nan, np.maximum(y, _LEAST))
                lines.append(Line(record["step"], y, ARMS[arm].label))
        if lines:
            panels.append(Panel(TITLES[task], "step", label, lines, log="y"))
    drawn = {line.label for panel in panels for line in panel.lines}
    if not drawn - {ARMS[arm].label for arm in _REFERENCES} and family != "plain":
        return None
    caption = (
        "Each at its tuned rate. Lines are medians over seeds, bands their range. Orthogonal "
        "tasks: the first one is over after a quarter of the steps."
    )
    return draw(directory / f"{family}.png", panels, f"Optimizers: {words}", caption)


def _results(settings: Any, records: Records, path: Path) -> Picture:
    """A row for each optimizer, a column for each task."""
    arms = [a for a in ARMS if any(f"{task} {a}" in records for task in settings.tasks)]
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(2.2 * len(settings.tasks) + 1.7, 0.24 * len(arms) + 1.1), layout="constrained"
        )
        panels: Any = figure.subplots(1, len(settings.tasks), sharey=True, squeeze=False)
        for axes, task in zip(panels[0], settings.tasks, strict=True):
            for place, arm in enumerate(arms):
                if (record := records.get(f"{task} {arm}")) is None:
                    continue
                colour = COLOURS[list(FAMILIES).index(ARMS[arm].family)]
                most = float(record["step"][-1]) if task == "toy" else np.inf
                _row(axes, float(place), lasting(task, record), colour, True, most)
                if "equal_time" in record:
                    _row(axes, place + 0.3, record["equal_time"]["train"], colour, False)
            axes.set_title(TITLES[task], loc="left")
            axes.set_xlabel(_broken(OUTCOMES[task]))
            axes.set_xscale("log")
            label_logarithmic(axes.xaxis)
        panels[0, 0].set_yticks(range(len(arms)), [ARMS[arm].label for arm in arms])
        panels[0, 0].invert_yaxis()
        save(figure, path)
    caption = (
        "Dots are medians over seeds after equal steps, bars their range; open dots below: after "
        "the time that AdamW takes. Less is better. Without a dot: not finite, or the valley not "
        "reached. Colours are families."
    )
    return Picture(path, caption, "All optimizers, each at its tuned rate")


def _row(
    axes: Any, place: float, values: Any, colour: str, filled: bool, most: float = np.inf
) -> None:
    """`most`: where the bar of a seed that never got there ends."""
    values = np.maximum(values, _LEAST)
    if (middle := np.median(values)) >= CAP:
        return
    low, high = min(values), min(max(values), most, 10 * middle)
    axes.plot([low, high], [place, place], color=colour, linewidth=2.5, alpha=0.35)
    face = colour if filled else "white"
    axes.plot([middle], [place], "o", color=colour, markerfacecolor=face, markersize=4)


def _broken(text: str) -> str:
    """In two lines, where it is long."""
    words, first = text.split(), ""
    while words and len(first) < 22:
        first += words.pop(0) + " "
    return first.strip() + ("\n" + " ".join(words) if words else "")


def _paths(records: Records, path: Path) -> Picture | None:
    """From above, with the first seed's steps."""
    walkers = [arm for arm in _WALKERS if f"toy {arm}" in records]
    if not walkers:
        return None
    r, theta = np.meshgrid(np.linspace(-4.5, 4.5, 200), np.linspace(-5, 5, 200))
    height = np.asarray(valley(jnp.stack([jnp.asarray(r), jnp.asarray(theta)], axis=-1)))
    with mpl.rc_context(STYLE):
        columns = min(len(walkers), 3)
        rows = -(-len(walkers) // columns)
        figure = Figure(figsize=(2.7 * columns, 2.3 * rows + 0.2), layout="constrained")
        panels: Any = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in panels.flat[len(walkers) :]:
            axes.set_axis_off()
        for axes, arm in zip(panels.flat, walkers, strict=False):
            record = records[f"toy {arm}"]
            steps = [np.asarray(record["curves"][name])[:, 0] for name in ("r", "theta")]
            axes.contourf(r, theta, np.log10(height + 1e-2), 12, cmap="Greys", alpha=0.55)
            axes.plot(*steps, "-o", color=COLOURS[1], markersize=1.6, linewidth=0.7)
            axes.plot(0, 0, "*", color=COLOURS[0], markersize=8)
            axes.set_title(ARMS[arm].label, loc="left")
            axes.grid(False)
            axes.set_xlim(-4.5, 4.5)
            axes.set_ylim(-5, 5)
        for axes in panels[-1]:
            axes.set_xlabel("r")
        for axes in panels[:, 0]:
            axes.set_ylabel("theta")
        save(figure, path)
    caption = "Logarithm of psi in grey, its minimum a star; every step of the first seed's run."
    return Picture(path, caption, "Through the toy valley")
