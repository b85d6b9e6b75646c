"""Writes the report of a run: one HTML file that opens without a network.

The file holds everything it shows. Pictures are embedded, the style is inline, there is no
script, and a content security policy forbids the browser to load anything else. It knows nothing
of what is reported: an experiment hands over sections made of a few kinds of blocks.
"""

import base64
import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .files import write_atomically

Cell = str | int | float | bool | None
"""What a table holds; floats are shown with four significant digits, None as a dash."""

_TONES = ("good", "bad", "warn", "muted")
_MEDIA = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Text:
    """Paragraphs, separated by blank lines; lines that begin with ``- `` make a list."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; columns that hold nothing but numbers are aligned to the right.

    Attributes:
        columns: The heads of the columns.
        rows: Rows of as many cells as there are columns.
        caption: What the table shows; empty for none.
        badges: Cells whose text is a key are drawn as a badge in the tone that is its value, one
            of ``good``, ``bad``, ``warn`` and ``muted``. The word stays: colour alone says nothing
            to many readers.

    Raises:
        ValueError: A row has the wrong length, or a tone is unknown.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    badges: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {number} of the table has {len(row)} cells, expected "
                    f"{len(self.columns)}: one for each of {', '.join(self.columns)}"
                )
        for word, tone in self.badges.items():
            if tone not in _TONES:
                raise ValueError(
                    f"the badge {word!r} has the tone {tone!r}, expected one of {', '.join(_TONES)}"
                )


@dataclass(frozen=True)
class Picture:
    """An image file, embedded; a click shows it at its full size.

    Attributes:
        path: A PNG, JPEG, GIF, WebP or SVG file.
        caption: How to read it; also its alternative text where there is no title.
        title: What is drawn, in a few words.
    """

    path: Path
    caption: str
    title: str = ""


@dataclass(frozen=True)
class Details:
    """Blocks folded away under one line, for what only some readers want."""

    summary: str
    blocks: Sequence["Block"]


Block = Text | Table | Picture | Details


@dataclass(frozen=True)
class Section:
    """A headed part of the report, with an entry in its table of contents."""

    title: str
    body: Sequence[Block] = ()


def write_report(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Writes a self-contained HTML file; whatever fails, an older report at ``path`` stays whole.

    Args:
        path: The file to write or replace; its folder must exist.
        title: The heading of the page.
        lead: What the reader should know first, as in ``Text``.
        sections: The parts of the page, in order.

    Raises:
        FileNotFoundError: A picture, or the folder of ``path``, does not exist.
        ValueError: A picture is of an unknown kind.
        OSError: The file cannot be written.
    """
    write_atomically(path, _page(title, lead, sections))


def _page(title: str, lead: str, sections: Sequence[Section]) -> str:
    anchors = _anchors([section.title for section in sections])
    entries = "".join(
        f'<li><a href="#{anchor}">{html.escape(section.title)}</a></li>'
        for anchor, section in zip(anchors, sections, strict=True)
    )
    contents = f'<nav aria-label="Contents"><ol>{entries}</ol></nav>' if len(sections) > 1 else ""
    writer = _Writer()
    bodies = "\n".join(
        f'<section id="{anchor}"><h2>{html.escape(section.title)}</h2>\n'
        f"{writer.blocks(section.body)}\n</section>"
        for anchor, section in zip(anchors, sections, strict=True)
    )
    return _TEMPLATE.format(
        title=html.escape(title),
        style=_STYLE,
        lead=f'<div class="lead">{_paragraphs(lead)}</div>' if lead.strip() else "",
        contents=contents,
        bodies=bodies,
    )


class _Writer:
    """Turns blocks into HTML and counts the pictures, each of which needs a name of its own."""

    def __init__(self) -> None:
        self.pictures = 0

    def blocks(self, blocks: Sequence[Block]) -> str:
        return "\n".join(self.block(block) for block in blocks)

    def block(self, block: Block) -> str:
        match block:
            case Text():
                return _paragraphs(block.text)
            case Table():
                return _table(block)
            case Picture():
                return self.picture(block)
            case Details():
                return (
                    f"<details><summary>{html.escape(block.summary)}</summary>\n"
                    f"{self.blocks(block.blocks)}\n</details>"
                )
        raise TypeError(f"{type(block).__name__} is not a block of a report")

    def picture(self, picture: Picture) -> str:
        media = _MEDIA.get(picture.path.suffix.lower())
        if media is None:
            raise ValueError(
                f"{picture.path.name} is not a picture that a report can hold, expected one of "
                f"{', '.join(sorted(_MEDIA))}"
            )
        data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
        self.pictures += 1
        title = f"<strong>{html.escape(picture.title)}.</strong> " if picture.title else ""
        alternative = html.escape(picture.title or picture.caption)
        # The box that a click on the picture ticks: zooming without a script.
        return (
            f'<figure><input type="checkbox" class="zoom" id="zoom-{self.pictures}" '
            f'aria-label="Show the figure at full size">'
            f'<div class="scroll sheet"><label for="zoom-{self.pictures}">'
            f'<img src="data:{media};base64,{data}" alt="{alternative}"></label></div>'
            f"<figcaption>{title}{html.escape(picture.caption)}</figcaption></figure>"
        )


def _paragraphs(text: str) -> str:
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
    numeric = [
        any(_is_number(row[column]) for row in table.rows)
        and all(_is_number(row[column]) or row[column] in (None, "") for row in table.rows)
        for column in range(len(table.columns))
    ]
    # Without a least width, long text becomes a column of single words on a narrow screen.
    wordy = [
        any(isinstance(row[column], str) and len(str(row[column])) > 30 for row in table.rows)
        for column in range(len(table.columns))
    ]
    kinds = [
        ' class="number"' if right else ' class="wordy"' if long else ""
        for right, long in zip(numeric, wordy, strict=True)
    ]
    head = "".join(
        f'<th scope="col"{kind}>{html.escape(name)}</th>'
        for kind, name in zip(kinds, table.columns, strict=True)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(
            f"<td{kind}>{_cell(cell, table.badges)}</td>"
            for kind, cell in zip(kinds, row, strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    caption = f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    # A box that scrolls must be reachable from the keyboard.
    return (
        f'<div class="scroll" role="region" tabindex="0" '
        f'aria-label="{html.escape(table.caption or "Table")}"><table>{caption}'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>"
    )


def _cell(cell: Cell, badges: Mapping[str, str]) -> str:
    if cell is None:
        return "\u2013"
    if isinstance(cell, bool):
        text = "yes" if cell else "no"
    elif isinstance(cell, float):
        text = _number(cell)
    else:
        text = str(cell)
    if text in badges:
        return f'<span class="badge {badges[text]}">{html.escape(text)}</span>'
    return "<br>".join(html.escape(line) for line in text.splitlines())


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


def _anchors(titles: Sequence[str]) -> list[str]:
    """Distinct names for links, readable where the title allows it."""
    anchors: list[str] = []
    for title in titles:
        base = "part-" + (re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "untitled")
        anchor, number = base, 2
        while anchor in anchors:
            anchor, number = f"{base}-{number}", number + 1
        anchors.append(anchor)
    return anchors


_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>{title}</h1>
{lead}</header>
{contents}
{bodies}
</main>
</body>
</html>
"""

_STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --ink: #1d2126; --soft: #5a636e; --line: #dde1e6; --panel: #f5f7f9;
  --link: #0b5cad;
  --good: #0a5c36; --good-bg: #d9f2e3; --bad: #8c1d18; --bad-bg: #fbe0de;
  --warn: #6b4700; --warn-bg: #fdeabf; --muted: #4a535d; --muted-bg: #e6eaee;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15181c; --ink: #e4e7ea; --soft: #a0a9b3; --line: #333a42; --panel: #1d2227;
    --link: #7db8f5;
    --good: #a5e5bf; --good-bg: #123d27; --bad: #ffb9b3; --bad-bg: #551b18;
    --warn: #ffd98a; --warn-bg: #4a3506; --muted: #c3cad2; --muted-bg: #343c45;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans",
    sans-serif;
}
main { max-width: 70rem; margin: 0 auto; padding: 2.5rem 1.5rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 1rem; text-wrap: balance; }
h2 {
  font-size: 1.4rem; line-height: 1.3; margin: 3rem 0 0.8rem; padding-top: 1rem;
  border-top: 1px solid var(--line);
}
p, ul { max-width: 46rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
ul { padding-left: 1.3rem; }
.lead { font-size: 1.12rem; }
.lead p, .lead ul { max-width: 48rem; }
a { color: var(--link); }
nav {
  background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 0.9rem 1.2rem; margin: 1.8rem 0 0;
}
nav ol { margin: 0; padding-left: 1.4rem; columns: 18rem auto; column-gap: 2.5rem; }
nav li { break-inside: avoid; padding-left: 0.2rem; }
.scroll { overflow-x: auto; max-width: 100%; margin: 0 0 1.5rem; }
.scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 3px; }
table { border-collapse: collapse; font-size: 0.92rem; line-height: 1.45; }
caption {
  caption-side: top; text-align: left; color: var(--soft); padding: 0 0 0.5rem;
  font-size: 0.92rem;
}
th, td {
  text-align: left; vertical-align: top; padding: 0.45rem 1.2rem 0.45rem 0;
  border-bottom: 1px solid var(--line); min-width: 4rem; max-width: 26rem;
}
th { font-weight: 600; border-bottom: 2px solid var(--line); vertical-align: bottom; }
th.number, td.number {
  text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap;
}
th.wordy, td.wordy { min-width: 14rem; }
.badge {
  display: inline-block; white-space: nowrap; font-size: 0.85rem; font-weight: 600;
  line-height: 1.5; padding: 0 0.55rem; border-radius: 1rem;
}
.badge.good { color: var(--good); background: var(--good-bg); }
.badge.bad { color: var(--bad); background: var(--bad-bg); }
.badge.warn { color: var(--warn); background: var(--warn-bg); }
.badge.muted { color: var(--muted); background: var(--muted-bg); }
figure { margin: 1.5rem 0 2.2rem; position: relative; }
.sheet {
  background: #ffffff; border: 1px solid var(--line); border-radius: 6px; padding: 0.6rem;
  margin: 0;
}
.sheet label { display: block; cursor: zoom-in; }
.sheet img { display: block; width: auto; max-width: 100%; height: auto; margin: 0 auto; }
.zoom { position: absolute; opacity: 0; }
.zoom:focus-visible + .sheet { outline: 2px solid var(--link); outline-offset: 3px; }
.zoom:checked + .sheet label { cursor: zoom-out; width: max-content; }
.zoom:checked + .sheet img { max-width: none; }
figcaption { color: var(--soft); font-size: 0.92rem; margin-top: 0.6rem; max-width: 52rem; }
figcaption strong { color: var(--ink); }
details {
  border: 1px solid var(--line); border-radius: 6px; padding: 0.6rem 1rem; margin: 0 0 1rem;
}
details > summary { cursor: pointer; font-weight: 600; }
details[open] > summary { margin-bottom: 0.8rem; }
details > :last-child { margin-bottom: 0.4rem; }
@media (max-width: 42rem) {
  main { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.55rem; }
  h2 { font-size: 1.25rem; margin-top: 2.2rem; }
  .sheet img { min-width: 40rem; }
}
@media print {
  main { max-width: none; padding: 0; }
  figure, tr { break-inside: avoid; }
  .scroll { overflow: visible; }
}
"""
