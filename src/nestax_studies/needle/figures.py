"""The figures: what is found against the haystack's length, and at every depth."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from nestax.plots import STYLE, save
from nestax.runs import Picture

from .. import sequences
from ..plots import Line, Panel, draw
from ..sequences import ARMS
from ..study import Records
from .haystack import LABELS


def draw_all(settings: Any, records: Records, directory: Path) -> list[Picture]:
    panels, pictures = [], []
    lengths = np.asarray(settings.times) * settings.learned
    for kind in settings.kinds:
        done = sequences.done(settings, records, kind)
        if not done:
            continue
        lines = []
        for arm, record in done.items():
            right = [record["tests"][str(times)]["whole"] for times in settings.times]
            lines.append(Line(lengths, 100 * np.asarray(right, float), ARMS[arm].label))
        panels.append(Panel(LABELS[kind], "tokens", "found (%)", lines, log="x"))
        pictures.append(_depths(settings, kind, done, directory / f"{kind}.png"))
    if not panels:
        return []
    caption = (
        f"Haystacks with every digit right; learned from were {settings.learned} tokens. Medians "
        "over seeds, bands their range."
    )
    first = draw(directory / "length.png", panels, "Longer haystacks than those learned", caption)
    return [first, *pictures]


def _depths(settings: Any, kind: str, done: dict[str, Any], path: Path) -> Picture:
    """A map for each model: lengths across, depths down."""
    columns = min(4, len(done))
    rows = -(-len(done) // columns)
    with mpl.rc_context(STYLE):
        size = (1.9 * columns + 1.2, 1.7 * rows + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        grid: Any = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        image: Any = None
        for axes, (arm, record) in zip(grid.flat, done.items(), strict=False):
            maps = [
                np.median(np.asarray(record["tests"][str(t)]["whole_by_place"], float), axis=1)
                for t in settings.times
            ]
            image = axes.imshow(
                100 * np.stack(maps, axis=1), cmap="viridis", vmin=0, vmax=100, aspect="auto"
            )
            axes.set_title(ARMS[arm].label, loc="left", fontsize=8)
            axes.grid(False)
            axes.set_xticks(
                range(len(maps)), [str(t * settings.learned) for t in settings.times],
                rotation=45, fontsize=6.5,
            )  # fmt: skip
            axes.set_yticks([0, len(maps[0]) - 1], ["begin", "end"])
        for axes in list(grid.flat)[len(done) :]:
            axes.set_axis_off()
        figure.colorbar(image, ax=list(grid.flat), label="found (%)", shrink=0.8)
        save(figure, path)
    caption = (
        "Haystacks with every digit right, median over seeds: tokens across, down the depth at "
        "which the passkey lies."
    )
    return Picture(path, caption, f"Where the needle lies: {LABELS[kind]}")
