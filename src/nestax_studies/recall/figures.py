"""The figures: right answers of every model in every task, against pairs, and along training."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from nestax.plots import COLOURS, STYLE, save
from nestax.runs import Picture

from .. import sequences
from ..plots import Line, Panel, draw
from ..sequences import ARMS
from ..study import Records
from .findings import answered
from .tasks import GROUPS, TASKS


def draw_all(settings: Any, records: Records, directory: Path) -> list[Picture]:
    done = {task: sequences.done(settings, records, task) for task in settings.tasks}
    done = {task: arms for task, arms in done.items() if arms}
    if not done:
        return []
    pictures = [_results(done, directory / "results.png")]
    if "mqar" in done:
        from . import PRESETS

        pairs = PRESETS[settings.preset]["mqar"]["pairs"]
        lines = [
            Line(
                (np.arange(GROUPS) + 1) * pairs / GROUPS,
                100 * np.asarray(record["tests"]["test"]["by_place"], float),
                ARMS[arm].label,
            )
            for arm, record in done["mqar"].items()
        ]
        panel = Panel(TASKS["mqar"][0], "pairs, at most", "right (%)", lines)
        caption = "Answers right against the number of pairs; medians over seeds, bands the range."
        pictures.append(draw(directory / "pairs.png", [panel], "More to keep", caption))
    panels = []
    for task, arms in done.items():
        lines = [
            Line(record["step"], 100 * np.asarray(record["accuracy"], float), ARMS[arm].label)
            for arm, record in arms.items()
        ]
        panels.append(Panel(TASKS[task][0], "step", "right (%)", lines))
    caption = (
        "Answers right on fresh sequences, means over a twentieth of the run; medians over seeds, "
        "bands their range."
    )
    pictures.append(draw(directory / "training.png", panels, "Along training", caption))
    return pictures


def _results(done: dict[str, dict[str, Any]], path: Path) -> Picture:
    """A panel for each task, a row for each model."""
    arms = [arm for arm in ARMS if any(arm in some for some in done.values())]
    with mpl.rc_context(STYLE):
        size = (1.35 * len(done) + 2.2, 0.24 * len(arms) + 1.0)
        figure = Figure(figsize=size, layout="constrained")
        panels: Any = figure.subplots(1, len(done), sharey=True, squeeze=False)
        for axes, (task, some) in zip(panels.flat, done.items(), strict=True):
            for place, arm in enumerate(arms):
                if arm in some:
                    low, middle, high = 100 * np.quantile(answered(some[arm]), (0, 0.5, 1))
                    colour = COLOURS[place % len(COLOURS)]
                    axes.plot([low, high], [place, place], color=colour, linewidth=2.5, alpha=0.35)
                    axes.plot([middle], [place], "o", color=colour, markersize=4)
            axes.set_title(TASKS[task][0], loc="left", fontsize=7.5)
            axes.set_xlabel("right (%)")
            axes.set_xlim(-3, 103)
        panels[0, 0].set_yticks(range(len(arms)), [ARMS[arm].label for arm in arms])
        panels[0, 0].invert_yaxis()
        save(figure, path)
    caption = "Right answers at the tuned rate: dots are medians over seeds, bars their range."
    return Picture(path, caption, "All models in all tasks")
