"""A picture of a comparison of flows."""

from pathlib import Path
from typing import Any

import numpy as np

from ..levels import FlowComparison
from ..runs import Picture
from .style import COLOURS, literal, new_figure, png_file, save, styled


def draw_flows(path: str | Path, found: FlowComparison) -> Picture:
    """Draws a comparison of flows: cosine, bias, spread, time and memory of each.

    A quantity that is not finite for any flow is left out.

    Args:
        path: of the PNG file; its folder is made if there is none.
        found: the result of `nx.compare_flows`.

    Returns:
        The picture, with its path, caption and title, for `nx.runs.write_report`.

    Raises:
        ValueError: no number is finite, or the file's name does not end in .png.
        RunError: matplotlib or pillow is not installed.
    """
    path = png_file(path)
    told = [(*r.cosine, r.bias, r.spread, r.milliseconds, r.mebibytes) for r in found.rows]
    if not any(np.isfinite(row).any() for row in told):
        raise ValueError(
            f"draw_flows: found must have finite numbers, got {len(told)} rows without"
        )
    draws = len(found.rows[0].cosine)
    numbers = {
        name: np.array([getattr(row, name) for row in found.rows])
        for name in ("bias", "spread", "milliseconds", "mebibytes")
    }
    cosines = np.stack([row.cosine for row in found.rows])
    unsure = np.nan_to_num(numbers["spread"]) / np.sqrt(draws)
    panels = [
        ("cosine to the exact gradient", np.median(cosines, 1), cosines.min(1), cosines.max(1)),
        ("relative bias", numbers["bias"], numbers["bias"] - unsure, numbers["bias"] + unsure),
        ("relative spread", numbers["spread"], None, None),
        ("milliseconds", numbers["milliseconds"], None, None),
        ("temporary memory, MiB", numbers["mebibytes"], None, None),
    ]
    panels = [panel for panel in panels if np.isfinite(panel[1]).any()]
    with styled():
        figure = new_figure(figsize=(8.6, 0.36 * len(found.rows) + 1.5), layout="constrained")
        grid: Any = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        places = np.arange(len(found.rows))
        for axes, (label, middle, low, high) in zip(grid, panels, strict=True):
            for i in places:
                colour = COLOURS[i % len(COLOURS)]
                if low is not None and high is not None:
                    ends = [max(low[i], 0) if "bias" in label else low[i], high[i]]
                    axes.plot(ends, [i, i], color=colour, linewidth=3, alpha=0.35)
                axes.plot([middle[i]], [i], "o", color=colour, markersize=4.5)
            axes.set_xlabel(label)
        if np.isfinite(cosines).any():
            grid[0].set_xlim(min(-0.05, 1.1 * float(np.nanmin(cosines))), 1.1)
        grid[0].set_yticks(places, [literal(row.name) for row in found.rows])
        grid[0].invert_yaxis()
        title = f"Flows for the gradient of {found.level}"
        figure.suptitle(literal(title), x=0.01, ha="left", weight="bold", fontsize=10)
        save(figure, path)
    caption = (
        f"Over {draws} draws of the data. Cosine: medians, bars from least to most; bias: bars of "
        f"its standard error. Exact is {found.exact}."
    )
    return Picture(path, caption, title)
