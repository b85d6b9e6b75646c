"""The streams' figures: what is known over time, all arms at a glance, accuracy matrices."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from nestax.plots import COLOURS, STYLE, save
from nestax.runs import Picture

from ..plots import Line, Panel, draw
from ..study import Records
from ..timescales.findings import seen
from .arms import ARMS
from .worlds import STREAMS

_GROUPS = {
    "clocks": ("clocks against one clock", ("chain", "continuum-steps", "continuum-rates",
               "continuum-label", "continuum-local", "continuum-both")),
    "rivals": ("a continuum memory's rivals", ("mlp", "continuum-steps", "continuum-label", "ewc",
               "replay", "joint")),
}  # fmt: skip


def draw_all(settings: Any, records: Records, directory: Path) -> list[Picture]:
    streams = [
        stream
        for stream in settings.streams
        if any(f"{stream} {arm}" in records for arm in settings.arms)
    ]
    if not streams:
        return []
    pictures = [_results(streams, settings.arms, records, directory / "results.png")]
    for name, (words, arms) in _GROUPS.items():
        panels = []
        for stream in streams:
            lines = [
                _line(records[f"{stream} {arm}"], arm) for arm in arms
                if f"{stream} {arm}" in records
            ]  # fmt: skip
            best = [100 * record["ceiling"] for name, record in records.items()
                    if name.startswith(f"{stream} ") and record["ceiling"] is not None]  # fmt: skip
            levels = {"who knows the languages": best[0]} if best else None
            panels.append(
                Panel(STREAMS[stream], "tasks so far", "accuracy on them (%)", lines, levels)
            )
        if sum(len(panel.lines) for panel in panels) > 1:
            caption = (
                "Mean accuracy on the tasks so far, at what was tuned: medians over seeds, bands "
                "their range."
            )
            pictures.append(draw(directory / f"{name}.png", panels, words.capitalize(), caption))
    pictures += [_matrices(s, settings.arms, records, directory / f"{s}.png") for s in streams]
    return pictures


def _line(record: dict[str, Any], arm: str) -> Line:
    known = 100 * seen(np.asarray(record["matrix"])[:, 1:])
    return Line(np.arange(1, known.shape[1] + 1), known.T, ARMS[arm].label)


def _results(streams: list[str], arms: Any, records: Records, path: Path) -> Picture:
    """A row for each arm; for each stream a column of final accuracies and one of forgetting."""
    arms = [arm for arm in arms if any(f"{stream} {arm}" in records for stream in streams)]
    with mpl.rc_context(STYLE):
        size = (1.8 * 2 * len(streams) + 2.0, 0.24 * len(arms) + 1.2)
        figure = Figure(figsize=size, layout="constrained")
        panels: Any = figure.subplots(1, 2 * len(streams), sharey=True, squeeze=False)
        for column, stream in enumerate(streams):
            for offset, (name, words) in enumerate(
                (("final", "final accuracy (%)"), ("forgetting", "forgetting (points)"))
            ):
                axes = panels[0, 2 * column + offset]
                for place, arm in enumerate(arms):
                    if (record := records.get(f"{stream} {arm}")) is None:
                        continue
                    low, middle, high = np.quantile(100 * np.asarray(record[name]), (0, 0.5, 1))
                    colour = COLOURS[offset]
                    axes.plot([low, high], [place] * 2, color=colour, linewidth=2.5, alpha=0.35)
                    axes.plot([middle], [place], "o", color=colour, markersize=4)
                axes.set_xlabel(words)
            panels[0, 2 * column].set_title(STREAMS[stream], loc="left")
        panels[0, 0].set_yticks(range(len(arms)), [ARMS[arm].label for arm in arms])
        panels[0, 0].invert_yaxis()
        save(figure, path)
    caption = (
        "Dots are medians over seeds, bars their range. Final accuracy is the mean over all tasks "
        "at the end; forgetting the most ever known of a task less what is known at the end."
    )
    return Picture(path, caption, "All arms")


def _matrices(stream: str, arms: Any, records: Records, path: Path) -> Picture:
    """Each arm's accuracies, tasks learned downwards, tasks looked at to the right."""
    some = [arm for arm in arms if f"{stream} {arm}" in records]
    columns = min(5, len(some))
    rows = -(-len(some) // columns)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(1.75 * columns + 0.8, 2.0 * rows + 0.3), layout="constrained")
        grid: Any = figure.subplots(rows, columns, squeeze=False)
        image: Any = None
        for axes, arm in zip(grid.flat, some, strict=False):
            known = np.median(np.asarray(records[f"{stream} {arm}"]["matrix"]), axis=0)
            image = axes.imshow(100 * known, vmin=0, vmax=100, cmap="viridis", aspect="auto")
            axes.set_title(ARMS[arm].label, loc="left", fontsize=7.5)
            axes.set_xticks(range(known.shape[1]), range(1, known.shape[1] + 1))
            axes.set_yticks(range(len(known)))
        for axes in list(grid.flat)[len(some) :]:
            axes.set_axis_off()
        for axes in grid[-1]:
            axes.set_xlabel("task looked at")
        for axes in grid[:, 0]:
            axes.set_ylabel("tasks learned")
        figure.colorbar(image, ax=grid, label="accuracy (%)", shrink=0.8)
        save(figure, path)
    caption = "Medians over seeds. The first row is before anything is learned."
    return Picture(path, caption, f"Accuracies: {STREAMS[stream]}")
