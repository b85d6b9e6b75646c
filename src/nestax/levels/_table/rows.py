"""The level table for the eye: components that belong together in one row, and plain text."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from .._text import html_table, text_table


@dataclasses.dataclass(frozen=True, slots=True)
class Component:
    """One component: its path whole and in keys, and what the table says of it."""

    path: str
    keys: tuple[Any, ...]
    level: int | None
    frequency: int | float
    kind: str
    depends: frozenset[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """Components of one part of the state that share level, frequency and kind.

    Attributes:
        label: the part of their paths that they have in common.
        paths: of the components.
        level: place in `LevelTable.levels`, 0 the fastest; None for clocks and constants.
        frequency: writes per call.
        relative: to the fastest component that learns; 0 if there is none.
        kind: "state", "hidden", "clock" or "constant".
        needs: labels of the rows whose new state this row's new state needs; no clocks.
    """

    label: str
    paths: tuple[str, ...]
    level: int | None
    frequency: int | float
    relative: float
    kind: str
    needs: tuple[str, ...]


def rows_of(components: Sequence[Component]) -> tuple[Row, ...]:
    """Rows in the order of levels, then of the state."""
    groups = _grouped(list(components), 0)
    labels = {c.path: label for label, group in groups for c in group}
    silent = {c.path for c in components if c.level is None}
    fastest = max((c.frequency for c in components if c.level is not None), default=0)
    rows = []
    for label, group in groups:
        first = group[0]
        needs = {p for c in group for p in c.depends} - silent
        rows.append(
            Row(
                label=label,
                paths=tuple(c.path for c in group),
                level=first.level,
                frequency=first.frequency,
                relative=first.frequency / fastest if fastest else 0.0,
                kind=first.kind,
                needs=tuple(dict.fromkeys(name for p, name in labels.items() if p in needs)),
            )
        )
    last = {"clock": 1, "constant": 2}
    none = len(components)
    return tuple(
        sorted(rows, key=lambda r: (none if r.level is None else r.level, last.get(r.kind, 0)))
    )


def _grouped(components: list[Component], depth: int) -> list[tuple[str, list[Component]]]:
    """The largest subtrees whose components all share level, frequency and kind."""
    alike = {(c.level, c.frequency, c.kind) for c in components}
    if len(components) == 1 or (depth and len(alike) == 1):
        return [(_label(components), components)]
    parts: dict[Any, list[Component]] = {}
    for component in components:
        key = component.keys[depth] if depth < len(component.keys) else None
        parts.setdefault(key, []).append(component)
    return [group for part in parts.values() for group in _grouped(part, depth + 1)]


def _label(components: list[Component]) -> str:
    if len(components) == 1:
        return components[0].path or "(state)"
    common = []
    for keys in zip(*(c.keys for c in components), strict=False):
        if any(key != keys[0] for key in keys):
            break
        common.append(keys[0])
    if common and isinstance(common[0], str):  # a loop's path, not keys of a pytree
        return common[0] + ".carry"
    return jax.tree_util.keystr(tuple(common))


def html_of(rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """`text_of` for a notebook."""
    return html_table(_lines(rows), (2, 3, 4), below=" ".join(f"({note})" for note in notes))


def text_of(rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """An aligned table with one line per row; levels are counted from 1, the fastest."""
    lines = text_table(_lines(rows), (2, 3, 4))
    widths = [max(map(len, column)) for column in zip(*_lines(rows), strict=True)]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, *(f"({note})" for note in notes)])


def _lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = [
        ("level", "component", "leaves", "writes per call", "relative", "needs")
    ]
    for row in rows:
        place = "-" if row.level is None else str(row.level + 1)
        kind = {"clock": "clock", "constant": "constant"}.get(row.kind)
        lines.append(
            (
                place if kind is None else kind,
                row.label,
                str(len(row.paths)),
                f"{row.frequency:g}",
                f"{row.relative:.3g}" if row.level is not None else "",
                _shortened(row.needs) if row.level is not None else "",
            )
        )
    return lines


def _shortened(labels: Sequence[str], width: int = 64) -> str:
    """As many as have room in a line, and how many more there are."""
    shown = ""
    for index, label in enumerate(labels):
        longer = f"{shown}, {label}" if shown else label
        if index and len(longer) > width:
            return f"{shown} and {len(labels) - index} more"
        shown = longer
    return shown
