"""Pictures of level tables: lanes of levels, and how often each level is written."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..levels import LevelTable
from ..runs import Picture
from .style import COLOURS, GREY, label_logarithmic, literal, new_figure, png_file, save, styled


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
    path, rows = png_file(path), [row for row in table.rows if row.level is not None]
    if not rows:
        raise ValueError("draw_levels: table must have a level, got one without")
    lanes: dict[int, list[Any]] = {}
    for row in rows:
        lanes.setdefault(row.level or 0, []).append(row)
    widest = max(len(lane) for lane in lanes.values())
    with styled():
        figure = new_figure(figsize=(max(5.0, 2.3 * widest + 1.6), 0.95 * len(lanes) + 0.9))
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
                text = literal(row.label) + (
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
        axes.set_title(literal(title), loc="left", weight="bold")
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
    path = png_file(path)
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
    with styled():
        figure = new_figure(figsize=(7.4, 0.185 * top + 1.1), layout="constrained")
        axes: Any = figure.subplots()
        axes.set(xscale="log", xlim=(ranks[-1] / 1.3, ranks[0] * 1.3), ylim=(top - 1, -0.8))
        axes.hlines(places, *axes.get_xlim(), color="#E6E6E6", linewidth=0.6, zorder=1)
        for x, y in zip(often, places, strict=True):
            colour = COLOURS[ranks.index(x) % len(COLOURS)]
            axes.plot([ranks[-1], x], [y, y], color=colour, linewidth=3, alpha=0.35)
            axes.plot([x], [y], "o", color=colour, markersize=4.5)
        axes.grid(visible=False, axis="y")
        axes.set_yticks(centres, [literal(name) for name in tables], weight="bold")
        right = axes.secondary_yaxis("right")
        right.set_yticks(places, [literal(name) for name in names], fontsize=7.5)
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
