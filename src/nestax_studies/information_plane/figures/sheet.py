"""A figure as a sheet: equal panels at fixed distances in inches, a heading, a legend, a file."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from nestax.plots import GREY, save

from .style import EPOCHS, epoch_norm, epoch_ticks


@dataclass(frozen=True)
class Drawing:
    """A figure on disk.

    Attributes:
        path: the PNG file.
        title: what is drawn, in a few words.
        caption: how to read it: lines, bands, axes and units.
    """

    path: Path
    title: str
    caption: str


class Sheet:
    """A figure and its panels, `axes[row, column]`; distances are in inches.

    Args:
        shape: rows and columns.
        panel, gap: of a panel and between panels, across and upwards. Panels become wider where
            there are too few of them to leave room for the legend.
        margins: left, right, bottom, top.
        shared: sharex and sharey of the panels.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        panel: tuple[float, float],
        gap: tuple[float, float],
        margins: tuple[float, float, float, float],
        **shared: Any,
    ) -> None:
        (rows, columns), (left, right, bottom, top) = shape, margins
        inner = max(columns * panel[0] + (columns - 1) * gap[0], 6.4 - left - right)
        self.width = left + inner + right
        self.height = bottom + rows * panel[1] + (rows - 1) * gap[1] + top
        self.figure = Figure(figsize=(self.width, self.height))
        self.inches: Any = self.figure.dpi_scale_trans
        self.axes: Any = self.figure.subplots(
            rows, columns, squeeze=False, **shared,
            gridspec_kw={
                "left": left / self.width,
                "right": 1 - right / self.width,
                "bottom": bottom / self.height,
                "top": 1 - top / self.height,
                "wspace": gap[0] * columns / (inner - (columns - 1) * gap[0]),
                "hspace": gap[1] / panel[1],
            },
        )  # fmt: skip
        # Finding limits anew at every line of shared axes would take as long as drawing them: who
        # draws calls autoscale at the end.
        for axes in self.axes.flat:
            axes.set_autoscale_on(False)

    def heading(self, title: str, subtitle: str) -> None:
        """A title at the top left, and lines below it."""
        self.text(0.12, self.height - 0.12, title, fontsize=12.5, weight="bold", va="top")
        self.text(0.12, self.height - 0.42, subtitle, fontsize=9, color=GREY, va="top")

    def text(self, x: float, y: float, text: str, **looks: Any) -> None:
        """Text at (x, y) inches from the lower left corner."""
        self.figure.text(x, y, text, transform=self.inches, **looks)

    def row_title(self, row: int, title: str, points: float) -> None:
        """A line over the left end of a row."""
        self.axes[row, 0].annotate(
            title, (0, 1), (0, points), xycoords="axes fraction", textcoords="offset points",
            fontsize=9, style="italic",
        )  # fmt: skip

    def legend(self, handles: list[Any], labels: list[str], columns: int) -> None:
        """Along the bottom edge."""
        self.figure.legend(
            handles, labels, loc="lower center", ncols=columns, borderaxespad=0.0,
            bbox_to_anchor=(self.width / 2, 0.08), bbox_transform=self.inches, columnspacing=1.6,
        )  # fmt: skip

    def epoch_bar(self, last: int, above: float) -> None:
        """The colours of epochs, `above` inches over the bottom edge."""
        length = min(4.2, self.width - 3.0)
        left = (self.width - length) / 2
        box = (left / self.width, above / self.height, length / self.width, 0.11 / self.height)
        axes = self.figure.add_axes(box)
        bar = self.figure.colorbar(
            ScalarMappable(epoch_norm(last), EPOCHS), cax=axes, orientation="horizontal"
        )
        ticks = epoch_ticks(last)
        ticks += [last] if last >= 2 * ticks[-1] else []
        bar.set_ticks(ticks, labels=[str(tick) for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.text(-0.02, 0.5, "epoch", transform=axes.transAxes, ha="right", va="center")

    def save(self, path: Path, title: str, caption: str) -> Drawing:
        """Writes the figure."""
        save(self.figure, path)
        return Drawing(path, title, caption)


def legend_room(entries: int, columns: int) -> float:
    """The height of a legend along the bottom edge, in inches."""
    return 0.2 * math.ceil(entries / columns)
