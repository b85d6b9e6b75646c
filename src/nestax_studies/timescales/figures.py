"""The streams' figures: a family of arms in each, and all arms at a glance."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from nestax.plots import COLOURS, GREY, STYLE, save
from nestax.runs import Picture

from ..plots import Line, Panel, draw
from ..study import Records
from .arms import ARMS, FAMILIES
from .findings import at_tuned, less_forgotten, seen
from .streams import STREAMS

_ALSO = {"first": "descent", "last": "descent"}  # from another family, to compare with


def draw_all(settings: Any, records: Records, directory: Path) -> list[Picture]:
    pictures = []
    if any(f"{stream} {arm}" in records for stream in settings.streams for arm in settings.arms):
        pictures.append(_results(settings, records, directory / "results.png"))
    for family, words in FAMILIES.items():
        if picture := _family(settings, records, directory, family, words):
            pictures.append(picture)
    return pictures


def _family(
    settings: Any, records: Records, directory: Path, family: str, words: str
) -> Picture | None:
    arms = [arm for arm in ARMS if ARMS[arm].family == family or arm == _ALSO.get(family)]
    over, against = [], []
    for stream in settings.streams:
        done = {arm: records[f"{stream} {arm}"] for arm in arms if f"{stream} {arm}" in records}
        if not any(ARMS[arm].family == family for arm in done):
            continue
        lines, curves = [], []
        for arm, record in done.items():
            known = 100 * seen(np.asarray(record["matrix"]))
            lines.append(Line(np.arange(1, known.shape[1] + 1), known.T, ARMS[arm].label))
            learned, lost = (
                100 * np.median(record[name], axis=1) for name in ("learning", "forgetting")
            )
            last = int(np.argmax(learned)) + 1
            curves.append(Line(learned[:last], lost[:last], ARMS[arm].label))
        title = STREAMS[stream]
        over.append(Panel(title, "tasks so far", "accuracy on them (%)", lines))
        against.append(Panel(title, "learning accuracy (%)", "forgetting (points)", curves))
    if not over:
        return None
    caption = (
        "First the mean accuracy on the tasks so far, at the tuned rate: medians over seeds, bands "
        "their range. Then forgetting against learning accuracy, medians over seeds, along the "
        "rates from the smallest to the one that learns best: lower is better."
    )
    panels = [*over, *against]
    return draw(directory / f"{family}.png", panels, f"Clocks: {words}", caption)


def _results(settings: Any, records: Records, path: Path) -> Picture:
    """A row for each arm; for each stream a column of accuracies and one of differences."""
    arms = [a for a in ARMS if any(f"{stream} {a}" in records for stream in settings.streams)]
    count = len(settings.streams)
    with mpl.rc_context(STYLE):
        size = (1.9 * 2 * count + 2.3, 0.2 * len(arms) + 1.3)
        figure = Figure(figsize=size, layout="constrained")
        panels: Any = figure.subplots(1, 2 * count, sharey=True, squeeze=False)
        for column, stream in enumerate(settings.streams):
            ends, gains = panels[0, 2 * column], panels[0, 2 * column + 1]
            for place, arm in enumerate(arms):
                if (record := records.get(f"{stream} {arm}")) is None:
                    continue
                _row(ends, place, 100 * at_tuned(record, "final"), COLOURS[0])
                for key, colour, shift in (("single", COLOURS[1], 0), ("control", COLOURS[2], 0.3)):
                    other = getattr(ARMS[arm], key)
                    if other is None or (key == "control" and other == ARMS[arm].single):
                        continue
                    if (against := records.get(f"{stream} {other}")) is not None:
                        difference = 100 * less_forgotten(record, against)
                        if np.isfinite(difference).all():
                            _row(gains, place + shift, difference, colour)
            ends.set_title(STREAMS[stream], loc="left")
            ends.set_xlabel("final accuracy (%)")
            gains.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
            gains.set_xlabel("less forgotten (points)\nat equal learning")
        panels[0, 0].set_yticks(range(len(arms)), [ARMS[arm].label for arm in arms])
        panels[0, 0].invert_yaxis()
        save(figure, path)
    caption = (
        "Dots are medians over seeds, bars their range. Left of each pair: accuracy on all tasks "
        "at the end, at the tuned rate. Right: forgetting less than with one clock (orange), and "
        "less than with one clock that moves every part as far (green), where as much was learned."
    )
    return Picture(path, caption, "All arms")


def _row(axes: Any, place: int | float, values: np.ndarray, colour: str) -> None:
    low, middle, high = np.quantile(values, (0, 0.5, 1))
    axes.plot([low, high], [place, place], color=colour, linewidth=2.5, alpha=0.35)
    axes.plot([middle], [place], "o", color=colour, markersize=4)
