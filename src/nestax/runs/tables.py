"""Tables of a report as HTML, never wider than the page."""

import html
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from .blocks import Badge, Cell, Folded, Table

_PAGE = 1060  # pixels of the widest page
_TABLET, _PHONE = 620, 350  # narrower pages, which the style sheet knows
_LETTER, _BOLD, _GAP = 8.0, 10.0, 20  # pixels, about
_PROSE = 26  # letters that a line of prose has at least
_LONGEST = 34  # letters of a word that is never broken


def tables(table: Table) -> str:
    """A table, or several with the same labels where it is too wide for a page."""
    parts = list(_parts(table))
    return "\n".join(_table(part) for part in parts)


def _parts(table: Table) -> Iterator[Table]:
    widths = _widths(table)
    labels = min(table.labels, len(widths) - 1)
    free = _PAGE - sum(widths[:labels])
    groups: list[list[int]] = [[]]
    for column in range(labels, len(widths)):
        taken = sum(widths[i] for i in groups[-1])
        if groups[-1] and taken + widths[column] > free:
            groups.append([])
        groups[-1].append(column)
    if len(groups) == 1:
        yield table
        return
    # About as many in each.
    count, many = len(widths) - labels, len(groups)
    edges = [labels + count * i // many for i in range(many + 1)]
    even = [list(range(a, b)) for a, b in itertools.pairwise(edges)]
    if all(sum(widths[i] for i in group) <= free for group in even):
        groups = even
    for number, group in enumerate(groups):
        kept = [*range(labels), *group]
        yield replace(
            table,
            columns=[table.columns[i] for i in kept],
            rows=[[row[i] for i in kept] for row in table.rows],
            caption=table.caption if number == 0 else "",
        )


def _widths(table: Table) -> list[float]:
    """Pixels that each column takes at least, about."""
    heads = [_BOLD * _letters(name, _PROSE) for name in table.columns]
    cells = [
        [_LETTER * _letters(row[at], _PROSE) for row in table.rows] for at in range(len(heads))
    ]
    return [
        _GAP + max(head, *some) if some else _GAP + head
        for head, some in zip(heads, cells, strict=True)
    ]


def _letters(cell: Cell, prose: int) -> int:
    """Letters in a line of a cell: of a long text so many, of a short one its longest word."""
    text = _bound(_plain(cell))
    longest = min(_LONGEST, max(map(len, text.split(" ")), default=0))
    if isinstance(cell, Badge):
        return len(text) + 2
    return max(longest, prose) if len(text) > 1.5 * prose else longest


def _plain(cell: Cell) -> str:
    if isinstance(cell, Badge | Folded):
        return cell.text
    return "\u2013" if cell is None else _number(cell) if isinstance(cell, float) else str(cell)


_RANGE = re.compile(r"\((\S+) to (\S+)\)")


def _bound(text: str) -> str:
    """With ranges that do not break over lines."""
    return _RANGE.sub("(\\1\u00a0to\u00a0\\2)", text)


def paragraphs(text: str) -> str:
    """Escaped paragraphs and lists."""
    parts = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = [line.strip() for line in block.splitlines() if line.strip()]
        items: list[str] = []
        prose: list[str] = []
        for line in lines:
            if line.startswith("- "):
                items.append(line[2:])
            elif items:  # a list item that goes on
                items[-1] += f" {line}"
            else:
                prose.append(line)
        if prose:
            parts.append(f"<p>{html.escape(' '.join(prose))}</p>")
        if items:
            entries = "".join(f"<li>{html.escape(item)}</li>" for item in items)
            parts.append(f"<ul>{entries}</ul>")
    return "\n".join(parts)


def _table(table: Table) -> str:
    kinds = [_kind(table, column) for column in range(len(table.columns))]
    head = "".join(
        f'<th scope="col"{_classes(kind)}>{html.escape(name)}</th>'
        for kind, name in zip(kinds, table.columns, strict=True)
    )
    rows = "\n".join(
        "<tr>" + "".join(_td(table, at, kind, row[at]) for at, kind in enumerate(kinds)) + "</tr>"
        for row in table.rows
    )
    caption = f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    width = sum(_widths(table))
    stacked = "" if width <= _PHONE else "stack" if width <= _TABLET else "stack early"
    # A box that scrolls must be reachable from the keyboard.
    return (
        f'<div class="scroll" role="region" tabindex="0" '
        f'aria-label="{html.escape(table.caption or "Table")}"><table{_classes(stacked)}>{caption}'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>"
    )


def _kind(table: Table, column: int) -> str:
    """The class of a column's cells."""
    cells = [row[column] for row in table.rows if row[column] not in (None, "")]
    if cells and all(_is_number(cell) for cell in cells):
        return "number"
    if cells and all(_is_number(cell) or _is_range(cell) for cell in cells):
        return "range"
    # Without a least width, long text becomes a column of single words on a narrow screen.
    return "wordy" if any(len(_plain(cell)) > 1.5 * _PROSE for cell in cells) else ""


def _classes(kinds: str) -> str:
    return f' class="{kinds}"' if kinds else ""


def _td(table: Table, at: int, kind: str, cell: Cell) -> str:
    kinds = [kind] if kind else []
    if at < min(table.labels, len(table.columns) - 1):
        kinds.append("label")
    if cell == "":
        kinds.append("empty")
    if any(len(word) > _LONGEST for word in _plain(cell).split()):
        kinds.append("long")
    # The head stands beside its cell where rows are blocks.
    named = f'<span class="head" aria-hidden="true">{html.escape(table.columns[at])}</span>'
    return f"<td{_classes(' '.join(kinds))}>{named}{_cell(cell, table.badges)}</td>"


def _cell(cell: Cell, badges: Mapping[str, str]) -> str:
    if isinstance(cell, Badge):
        sign = html.escape(cell.text)
        if not cell.means:
            return f'<span class="badge {cell.tone}">{sign}</span>'
        means = html.escape(cell.means)
        return (
            f'<span class="badge sign {cell.tone}" role="img" title="{means}" '
            f'aria-label="{means}">{sign}</span>'
        )
    if isinstance(cell, Folded):
        return (
            f"<details><summary>{html.escape(cell.text)}</summary>"
            f"<div>{paragraphs(cell.more)}</div></details>"
        )
    if cell is None:
        return "\u2013"
    if isinstance(cell, bool):
        text = "yes" if cell else "no"
    else:
        text = _number(cell) if isinstance(cell, float) else str(cell)
    if text in badges:
        return f'<span class="badge {badges[text]}">{html.escape(text)}</span>'
    return "<br>".join(html.escape(_bound(line)) for line in text.splitlines())


def _number(value: float) -> str:
    """Four significant digits; small and large numbers with an exponent."""
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return f"{value:.3e}"


_NUMBER = re.compile(r"[-+\u2212]?\d[\d.,]*(e[-+]?\d+)?\s?%?", re.IGNORECASE)


def _is_number(cell: Cell) -> bool:
    if isinstance(cell, str):
        return _NUMBER.fullmatch(cell.strip()) is not None
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _is_range(cell: Cell) -> bool:
    return isinstance(cell, str) and _is_number(_RANGE.sub("", cell))
