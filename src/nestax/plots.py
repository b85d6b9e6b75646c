"""Pictures of what the library finds: levels, frequencies, comparisons of flows.

Importing this loads no plotting package; drawing needs matplotlib and pillow.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .levels import FlowComparison, LevelTable
from .runs import Picture, write_atomically
from .runs.errors import needed

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


def draw_levels(path: str | Path, table: LevelTable, title: str) -> Picture:
    """Draws a level table: a lane for each level, the fastest on top.

    Arrows point from a part of the state to the parts that need its new value.

    Args:
        path: of the PNG file; its folder is made if there is none.
        table: from `nx.level_table`.
        title: as plain text.

    Returns:
        The picture, with its path, caption and title, for `nx.runs.write_report`.

    Raises:
        ValueError: the table has no level, or the file's name does not end in .png.
        RunError: matplotlib or pillow is not installed.

    Example:
        ```python
        import tempfile

        def step(weights):  # the fast weight moves twice a step
            fast = jax.lax.fori_loop(0, 2, lambda _, x: 0.5 * x + weights["slow"], weights["fast"])
            return {"fast": fast, "slow": weights["slow"] - 0.1 * fast}

        table = nx.level_table(step, {"fast": jnp.array(1.0), "slow": jnp.array(1.0)})
        with tempfile.TemporaryDirectory() as folder:
            picture = nx.plots.draw_levels(folder + "/levels.png", table, "Two levels")
        print(picture.title)  # Two levels
        ```
    """
    path, rows = _file(path), [row for row in table.rows if row.level is not None]
    if not rows:
        raise ValueError("draw_levels: table must have a level, got one without")
    lanes: dict[int, list[Any]] = {}
    for row in rows:
        lanes.setdefault(row.level or 0, []).append(row)
    widest = max(len(lane) for lane in lanes.values())
    with _style():
        figure = _figure(figsize=(max(5.0, 2.3 * widest + 1.6), 0.95 * len(lanes) + 0.9))
        axes: Any = figure.subplots()
        places: dict[str, tuple[float, float]] = {}
        for level, lane in lanes.items():
            axes.axhspan(-level - 0.42, -level + 0.42, color=COLOURS[level % 6], alpha=0.08, lw=0)
            often = f"{lane[0].frequency:g} x per step"
            axes.annotate(
                f"level {level + 1}\n{often}", (-0.02, -level), xycoords=("axes fraction", "data"),
                ha="right", va="center", fontsize=8, color=GREY,
            )  # fmt: skip
            for i, row in enumerate(lane):
                places[row.label] = x, y = ((i + 0.5) * widest / len(lane), -float(level))
                text = _literal(row.label) + (
                    f"\n({len(row.paths)} leaves)" if len(row.paths) > 1 else ""
                )
                box = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": COLOURS[level % 6]}
                axes.text(x, y, text, ha="center", va="center", fontsize=7.5, bbox=box, zorder=3)
        arrow = {"arrowstyle": "-|>", "color": GREY, "lw": 0.8, "shrinkA": 16, "shrinkB": 17}
        for row in rows:
            for need in row.needs:
                if need in places and need != row.label:
                    axes.annotate("", places[row.label], places[need], arrowprops=arrow, zorder=2)
        axes.set_xlim(0, widest)
        axes.set_ylim(-max(lanes) - 0.5, 0.5)
        axes.set_axis_off()
        axes.set_title(_literal(title), loc="left", weight="bold")
        figure.subplots_adjust(left=1.25 / figure.get_figwidth(), right=0.98, bottom=0.03, top=0.88)
        save(figure, path)
    caption = "Arrows point from what is computed first to what needs its new value."
    return Picture(path, caption, title)


def draw_frequencies(
    path: str | Path, tables: Mapping[str, LevelTable], tokens: int = 1
) -> Picture:
    """Draws how often each level of several models is written: one line per level.

    Args:
        path: of the PNG file; its folder is made if there is none.
        tables: a model's name -> the level table of one step of its outer optimizer.
        tokens: number of tokens that such a step reads; frequencies are drawn in writes per token
            and per step.

    Returns:
        The picture, with its path, caption and title, for `nx.runs.write_report`.

    Raises:
        ValueError: tokens below 1, no table, or a table without a level; or the file's name does
            not end in .png.
        RunError: matplotlib or pillow is not installed.
    """
    path = _file(path)
    if tokens < 1 or not tables or not all(table.levels for table in tables.values()):
        levels = {name: len(table.levels) for name, table in tables.items()}
        raise ValueError(
            f"draw_frequencies: tokens must be at least 1, got {tokens}; pass tables that have "
            f"levels, got {levels}"
        )
    often, names, places, centres = [], [], [], []
    top = 0.0
    for table in tables.values():
        lanes: dict[int, list[Any]] = {}
        for row in table.rows:
            if row.level is not None:
                lanes.setdefault(row.level, []).append(row)
        often += [lane[0].frequency / tokens for lane in lanes.values()]
        names += [f"{_name(lane)}   {lane[0].frequency / tokens:g}" for lane in lanes.values()]
        places += [top + i for i in range(len(lanes))]
        centres.append(top + (len(lanes) - 1) / 2)
        top += len(lanes) + 0.8  # models stand apart
    ranks = sorted(set(often), reverse=True)
    with _style():
        figure = _figure(figsize=(7.4, 0.185 * top + 1.1), layout="constrained")
        axes: Any = figure.subplots()
        axes.set(xscale="log", xlim=(ranks[-1] / 1.3, ranks[0] * 1.3), ylim=(top - 1, -0.8))
        axes.hlines(places, *axes.get_xlim(), color="#E6E6E6", linewidth=0.6, zorder=1)
        for x, y in zip(often, places, strict=True):
            colour = COLOURS[ranks.index(x) % len(COLOURS)]
            axes.plot([ranks[-1], x], [y, y], color=colour, linewidth=3, alpha=0.35)
            axes.plot([x], [y], "o", color=colour, markersize=4.5)
        axes.grid(visible=False, axis="y")
        axes.set_yticks(centres, [_literal(name) for name in tables], weight="bold")
        right = axes.secondary_yaxis("right")
        right.set_yticks(places, [_literal(name) for name in names], fontsize=7.5)
        right.spines["right"].set_visible(False)
        for one in (axes, right):
            one.tick_params(axis="y", length=0)
        axes.set_xlabel("writes per token")
        label_logarithmic(axes.xaxis)
        if tokens > 1:
            above = axes.twiny()
            above.set(xscale="log", xlim=[tokens * x for x in axes.get_xlim()])
            above.set_xlabel(f"writes per step of the outer optimizer ({tokens} tokens)")
            above.grid(visible=False)
            label_logarithmic(above.xaxis)
        save(figure, path)
    caption = (
        "A line for each level of a model, what is faster above; equal colours are equal "
        "frequencies. Of two lines at one frequency the lower needs new values of the upper."
    )
    return Picture(path, caption, "Who is written how often")


def _name(lane: Sequence[Any]) -> str:
    """What stands in a level; three and more of one part of the state only by their number."""
    parts: dict[str, list[str]] = {}
    for row in lane:
        name = re.sub(r"\['(.*?)'\]", r".\1", row.label).lstrip(".")
        parts.setdefault(name.rpartition(".")[0], []).append(name)
    return ", ".join(
        f"{part} ({len(names)} parts)" if part and len(names) > 2 else ", ".join(names)
        for part, names in parts.items()
    )


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
    path = _file(path)
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
    with _style():
        figure = _figure(figsize=(8.6, 0.36 * len(found.rows) + 1.5), layout="constrained")
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
        grid[0].set_yticks(places, [_literal(row.name) for row in found.rows])
        grid[0].invert_yaxis()
        title = f"Flows for the gradient of {found.level}"
        figure.suptitle(_literal(title), x=0.01, ha="left", weight="bold", fontsize=10)
        save(figure, path)
    caption = (
        f"Over {draws} draws of the data. Cosine: medians, bars from least to most; bias: bars of "
        f"its standard error. Exact is {found.exact}."
    )
    return Picture(path, caption, title)


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
    path = _file(path)
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


def _file(path: str | Path) -> Path:
    if (path := Path(path)).suffix.lower() != ".png":
        raise ValueError(f"a picture is written as PNG: path must end in .png, got {str(path)!r}")
    return path


def _literal(text: str) -> str:
    """A text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


def _style() -> Any:
    return needed("matplotlib", "matplotlib", "pictures").rc_context(STYLE)


def _figure(**options: Any) -> Any:
    return needed("matplotlib.figure", "matplotlib", "pictures").Figure(**options)
