"""The language models' figures: curves by family, all results at a glance."""

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nestax.plots import COLOURS, GREY, STYLE, save
from nestax.runs import Picture

from ..plots import Line, Panel, draw
from ..study import Records
from .arms import ARMS, FAMILIES
from .findings import bits, gains, seeds_of

_ALSO = {"ablations": "hope"}  # from the other family, to compare with


def draw_all(settings: Any, records: Records, directory: Path) -> list[Picture]:
    done = {arm: seeds for arm in settings.arms if (seeds := seeds_of(records, arm))}
    if not done:
        return []
    pictures = [_results(settings, done, directory / "results.png")]
    for family, words in FAMILIES.items():
        some = {
            arm: [record for record in seeds if not record.get("diverged")]
            for arm, seeds in done.items()
            if ARMS[arm].family == family or arm == _ALSO.get(family)
        }
        some = {arm: seeds for arm, seeds in some.items() if seeds}
        if any(ARMS[arm].family == family for arm in some):
            pictures.append(_family(settings, some, directory / f"{family}.png", words))
    return pictures


def _family(settings: Any, done: dict[str, Any], path: Path, words: str) -> Picture:
    unit = "byte" if settings.data == "wikitext2" else "character"
    curves, along, learned = [], [], []
    for arm, seeds in done.items():
        label = ARMS[arm].label
        kept = np.array([record["curves"]["trial"] for record in seeds]).T / math.log(2)
        curves.append(Line(seeds[0]["step"], kept, label))
        rows = np.array([record["along"] for record in seeds]).T / math.log(2)
        along.append(Line((np.arange(len(rows)) + 0.5) * settings.length, rows, label))
        if all("learned" in record for record in seeds):
            rows = np.array([record["learned"] for record in seeds]).T / math.log(2)
            tokens = seeds[0]["tokens_in_context"] / 1000
            learned.append(Line((np.arange(len(rows)) + 0.5) / len(rows) * tokens, rows, label))
    y = f"bits per {unit}"
    panels = [
        Panel("While learning", "step", f"{y}, kept text", curves),
        Panel("What a state is worth", "tokens read", "bits fewer than from an empty one", along),
    ]
    caption = (
        "Lines are medians over seeds, bands their range. Left: text that is kept out of training, "
        "windows from an empty state. Then stretches of text to judge by, read in windows like "
        "those of training; how much better each is predicted where the state is carried along."
    )
    if learned:
        panels.append(
            Panel(
                "What learning in context is worth",
                "thousand tokens read",
                "bits fewer than from reading only",
                learned,
            )
        )
        caption += (
            " Right: the first windows of that text, in a row; how much better they are predicted "
            "where every MLP is written after each window by the gradient of the loss on it, of "
            "blocks that have one."
        )
    return draw(path, panels, f"Language models: {words}", caption)


def _results(settings: Any, done: dict[str, Any], path: Path) -> Picture:
    """A row for each arm, the best first."""
    unit = "byte" if settings.data == "wikitext2" else "character"
    order = sorted(done, key=lambda arm: float(np.median(bits(done[arm]))))
    with mpl.rc_context(STYLE):
        size = (7.4, 0.24 * len(order) + 1.0)
        figure = Figure(figsize=size, layout="constrained")
        panels: Any = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
        for axes, of, colour in zip(panels, (bits, gains), COLOURS, strict=False):
            for place, arm in enumerate(order):
                low, middle, high = np.quantile(of(done[arm]), (0, 0.5, 1))
                axes.plot([low, high], [place, place], color=colour, linewidth=3, alpha=0.35)
                axes.plot([middle], [place], "o", color=colour, markersize=4.5)
        panels[0].xaxis.set_major_locator(MaxNLocator(6))
        panels[1].xaxis.set_major_locator(MaxNLocator(3))
        panels[0].set_yticks(range(len(order)), [ARMS[arm].label for arm in order])
        panels[0].invert_yaxis()
        panels[0].set_xlabel(f"bits per {unit} of text to judge by")
        panels[1].axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        panels[1].set_xlabel("bits gained by state")
        save(figure, path)
    caption = (
        "Dots are medians over seeds, bars their range. Left: windows read from an empty state; "
        "fewer bits are better. Right: how many fewer there are where the state is carried from "
        "window to window, on the same text."
    )
    return Picture(path, caption, "All models")
