"""The style of the pictures, and how a figure becomes a file."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from ..runs import write_atomically
from ..runs.errors import needed

GREY = "#555555"
"""The colour of arrows and notes."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C3B00")
"""Okabe and Ito's palette, for lines in the order of a legend."""
STYLE: dict[Any, Any] = {
    "figure.dpi": 150,
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#666666",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}
"""Settings of matplotlib that every picture is drawn with."""


def label_logarithmic(axis: Any) -> None:
    """Labels a short logarithmic axis by plain numbers, not by powers of ten alone.

    Args:
        axis: matplotlib's `axes.xaxis` or `axes.yaxis`, after its limits are set.

    Raises:
        RunError: matplotlib is not installed.
    """
    ticker = needed("matplotlib.ticker", "matplotlib", "pictures")
    low, high = axis.get_view_interval()
    if high < 300 * low:
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def save(figure: Any, path: str | Path) -> None:
    """Writes a matplotlib figure as a PNG file of 256 colours, completely or not at all.

    Args:
        figure: a `matplotlib.figure.Figure`.
        path: of the PNG file; its folder is made if there is none.

    Raises:
        ValueError: the file's name does not end in .png.
        RunError: matplotlib or pillow is not installed.
    """
    path = png_file(path)
    canvas = needed("matplotlib.backends.backend_agg", "matplotlib", "pictures").FigureCanvasAgg(
        figure
    )
    pillow = needed("PIL.Image", "pillow", "pictures")
    canvas.draw()
    # A palette of 256 colours makes the file a third as large as matplotlib writes it, which counts
    # in a report that embeds its figures.
    image = pillow.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    image = image.quantize(256, dither=pillow.Dither.NONE)
    content = io.BytesIO()
    image.save(content, "PNG", dpi=(figure.dpi, figure.dpi))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())


def png_file(path: str | Path) -> Path:
    if (path := Path(path)).suffix.lower() != ".png":
        raise ValueError(f"a picture is written as PNG: path must end in .png, got {str(path)!r}")
    return path


def literal(text: str) -> str:
    """A text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


def styled() -> Any:
    return needed("matplotlib", "matplotlib", "pictures").rc_context(STYLE)


def new_figure(**options: Any) -> Any:
    return needed("matplotlib.figure", "matplotlib", "pictures").Figure(**options)
