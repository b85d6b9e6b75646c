"""A picture of a tree of branches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..games import Branch, Tree
from ..runs import Picture
from .style import COLOURS, GREY, literal, new_figure, png_file, save, styled


def draw_tree(
    path: str | Path,
    tree: Tree,
    title: str,
    *,
    height: Callable[[Branch], float] | None = None,
    label: str = "",
    distinct: float = 1e-2,
) -> Picture:
    """Draws a tree of branches, with the depth downwards or at a height of your own.

    Leaves that end in one place have one number and one colour. Lines carry the choices.

    Args:
        path: of the PNG file; its folder is made if there is none.
        tree: from `nx.games.ridge_rider` or `nx.games.generalized_ridge_rider`.
        title: as plain text.
        height: branch -> number on the vertical axis, such as `lambda b: float(b.losses)`; None:
            the depth, from the root downwards.
        label: of the vertical axis, where there is a height.
        distinct: distance up to which leaves end in one place, as in `Tree.distinct`.

    Returns:
        The picture, with its path, caption and title, for `nx.runs.write_report`.

    Raises:
        ValueError: a height that is not finite, or the file's name does not end in .png.
        RunError: matplotlib or pillow is not installed.
    """
    path, across = png_file(path), _places(tree)
    heights = [float(-b.depth if height is None else height(b)) for b in tree.branches]
    if not np.all(np.isfinite(heights)):
        raise ValueError("draw_tree: height must be a finite number for every branch")
    ends = tree.distinct(distinct)
    numbers = [_end(branch, ends) for branch in tree.branches]
    colours = [GREY if n is None else COLOURS[n % len(COLOURS)] for n in numbers]
    leaves = 1 + max(across)
    with styled():
        figure = new_figure(figsize=(min(12.0, max(3.6, 0.28 * leaves + 1.2)), 3.4))
        axes: Any = figure.subplots()
        for i, branch in enumerate(tree.branches):
            if branch.parent < 0:
                continue
            x, y = [across[branch.parent], across[i]], [heights[branch.parent], heights[i]]
            axes.plot(x, y, color="#BBBBBB", linewidth=0.9, zorder=1)
            if leaves <= 32:
                way = 0.45 if branch.path[-1].endswith("+") else 0.62  # neighbours side by side
                place = [a + way * (b - a) for a, b in (x, y)]
                axes.annotate(
                    literal(branch.path[-1]), place, ha="center", va="center",
                    fontsize=6.5, color=GREY, bbox={"fc": "white", "ec": "none", "pad": 0.4},
                )  # fmt: skip
        for status, marker in (("leaf", "o"), ("split", "s"), ("waiting", "^"), ("", "X")):
            shown = [
                i
                for i, b in enumerate(tree.branches)
                if b.status == status
                or (not status and b.status not in ("leaf", "split", "waiting"))
            ]
            name = status or "unfinished"
            axes.scatter(
                [across[i] for i in shown], [heights[i] for i in shown], marker=marker, zorder=2,
                s=22 if status == "split" else 34, c=[colours[i] for i in shown] or None,
                label=literal(name) if shown else None,
            )  # fmt: skip
        for x, y, number in zip(across, heights, numbers, strict=True):
            if number is not None:
                axes.annotate(
                    str(number + 1), (x, y), xytext=(0, -6), textcoords="offset points",
                    ha="center", va="top", fontsize=6, color=GREY,
                )  # fmt: skip
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.grid(visible=False, axis="x")
        if height is None:
            deepest = max(b.depth for b in tree.branches)
            axes.set_yticks(range(-deepest, 1), [str(-d) for d in range(-deepest, 1)])
        axes.set_ylabel(literal(label) if height is not None else "depth")
        axes.margins(x=0.03, y=0.1)
        legend = axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), labelcolor=GREY)
        for mark in legend.legend_handles:
            mark.set_color(GREY)  # colours are of ends
        axes.set_title(literal(title), loc="left", weight="bold")
        figure.tight_layout()
        save(figure, path)
    caption = (
        f"{len(tree.branches) - 1} branches, {len(tree.leaves)} leaves, {len(ends)} different "
        "ends. Leaves of one number end in one place; lines carry the direction and sign chosen."
    )
    return Picture(path, caption, title)


def _places(tree: Tree) -> list[float]:
    """Where each branch stands from left to right: ends side by side, parents above the middle."""
    below: dict[int, list[int]] = {}
    for i, branch in enumerate(tree.branches):
        below.setdefault(branch.parent, []).append(i)
    found = [0.0] * len(tree.branches)
    order, stack = [], [0]
    while stack:  # depth first, the first branch on the left
        order.append(stack.pop())
        stack += reversed(below.get(order[-1], []))
    ends = [i for i in order if i not in below]
    for place, i in enumerate(ends):
        found[i] = float(place)
    for i in reversed(range(len(tree.branches))):  # a parent comes before its branches
        if i in below:
            found[i] = float(np.mean([found[j] for j in below[i]]))
    return found


def _end(branch: Branch, ends: tuple[Branch, ...]) -> int | None:
    """The number of the place where a leaf ended: the nearest of the different ones."""
    if branch.status != "leaf":
        return None
    return int(np.argmin([np.linalg.norm(branch.vector - end.vector) for end in ends]))
