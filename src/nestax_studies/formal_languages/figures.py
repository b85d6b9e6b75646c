"""The figures: accuracy along strings longer than any that was learned, and along training."""

from pathlib import Path
from typing import Any

import numpy as np

from nestax.runs import Picture

from .. import sequences
from ..plots import Line, Panel, draw
from ..sequences import ARMS
from ..study import Records
from .languages import LANGUAGES


def draw_all(settings: Any, records: Records, directory: Path) -> list[Picture]:
    along, training = [], []
    for name in settings.languages:
        done = sequences.done(settings, records, name)
        if not done:
            continue
        title = LANGUAGES[name].label
        lines, curves = [], []
        for arm, record in done.items():
            right = 100 * np.asarray(record["tests"]["long"]["by_position"], float)
            ends = (1 + np.arange(len(right))) * (settings.longest / len(right))
            lines.append(Line(ends, right, ARMS[arm].label))
            learned = 100 * np.asarray(record["accuracy"], float)
            curves.append(Line(record["step"], learned, ARMS[arm].label))
        along.append(Panel(title, "symbol", "right (%)", lines))
        training.append(Panel(title, "step", "right (%)", curves))
    if not along:
        return []
    band = "medians over seeds, bands their range"
    return [
        draw(
            directory / "length.png",
            along,
            "Along strings longer than those learned from",
            f"Answers right along strings of 101 to {settings.longest} symbols; learned from were "
            f"at most 50. {band.capitalize()}.",
        ),
        draw(
            directory / "training.png",
            training,
            "Along training",
            f"Answers right on fresh strings of up to 50 symbols, means over a twentieth of the "
            f"run; {band}.",
        ),
    ]
