"""What a report is made of: text, tables, pictures, and what is folded away."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TONES = ("good", "bad", "warn", "muted")


@dataclass(frozen=True)
class Badge:
    """A word or a sign on a coloured ground; a cell of a table.

    Attributes:
        text: the word or sign.
        tone: one of `good`, `bad`, `warn` and `muted`.
        means: what a sign stands for, as text for screen readers; empty for a word.

    Raises:
        ValueError: the tone is unknown.
    """

    text: str
    tone: str
    means: str = ""

    def __post_init__(self) -> None:
        _toned(self.text, self.tone)


@dataclass(frozen=True)
class Folded:
    """A line that unfolds on a click; a cell of a table.

    Attributes:
        text: the line that is always shown.
        more: the text that unfolds, written as for `Text`.
    """

    text: str
    more: str


Cell = str | int | float | bool | Badge | Folded | None
"""A cell of a `Table`. Floats are shown with four significant digits, None as a dash."""


def _toned(text: str, tone: str) -> None:
    if tone not in _TONES:
        raise ValueError(
            f"the badge {text!r} has the tone {tone!r}, expected one of {', '.join(_TONES)}"
        )


@dataclass(frozen=True)
class Text:
    """Paragraphs of text.

    Attributes:
        text: paragraphs separated by blank lines; lines that begin with `- ` make a list.
    """

    text: str


@dataclass(frozen=True)
class Table:
    """A table; columns of numbers are aligned to the right.

    A table is never wider than the page: one with too many columns is split into several, and on a
    narrow page each row becomes a block with its heads beside the cells.

    Attributes:
        columns: the heads of the columns.
        rows: rows of as many cells as there are columns.
        caption: what the table shows; empty for none.
        badges: word -> tone, one of `good`, `bad`, `warn` and `muted`. Cells with that word are
            drawn as a badge.
        labels: how many of the first columns label a row.

    Raises:
        ValueError: a row has the wrong length, or a tone is unknown.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    badges: Mapping[str, str] = field(default_factory=dict)
    labels: int = 1

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {number} of the table has {len(row)} cells, expected "
                    f"{len(self.columns)}: one for each of {', '.join(self.columns)}"
                )
        for word, tone in self.badges.items():
            _toned(word, tone)


@dataclass(frozen=True)
class Picture:
    """An image file, embedded in the report; a click shows it at its full size.

    Attributes:
        path: a PNG, JPEG, GIF, WebP or SVG file.
        caption: how to read it; also its alternative text if there is no title.
        title: what it shows, in a few words.
    """

    path: Path
    caption: str
    title: str = ""


@dataclass(frozen=True)
class Details:
    """Blocks folded away under one line, for details that few readers need.

    Attributes:
        summary: the line that is always shown.
        blocks: the blocks that unfold: `Text`, `Table`, `Picture` or `Details`.
    """

    summary: str
    blocks: Sequence["Block"]


Block = Text | Table | Picture | Details


@dataclass(frozen=True)
class Section:
    """A part of the report with a heading and an entry in the table of contents.

    Attributes:
        title: the heading.
        body: its blocks: `Text`, `Table`, `Picture` or `Details`.
    """

    title: str
    body: Sequence[Block] = ()
