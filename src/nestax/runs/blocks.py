"""What a report is made of: text, tables, pictures, and what is folded away."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TONES = ("good", "bad", "warn", "muted")


@dataclass(frozen=True)
class Badge:
    """A word or a sign on a coloured ground; a cell of a table.

    Attributes:
        text: What is shown.
        tone: One of ``good``, ``bad``, ``warn`` and ``muted``.
        means: What a sign stands for, for those who cannot tell by its shape; empty for a word.

    Raises:
        ValueError: The tone is unknown.
    """

    text: str
    tone: str
    means: str = ""

    def __post_init__(self) -> None:
        _toned(self.text, self.tone)


@dataclass(frozen=True)
class Folded:
    """A line under which more folds out; a cell of a table.

    Attributes:
        text: The line.
        more: What folds out, as in ``Text``.
    """

    text: str
    more: str


Cell = str | int | float | bool | Badge | Folded | None
"""What a table holds; floats are shown with four significant digits, None as a dash."""


def _toned(text: str, tone: str) -> None:
    if tone not in _TONES:
        raise ValueError(
            f"the badge {text!r} has the tone {tone!r}, expected one of {', '.join(_TONES)}"
        )


@dataclass(frozen=True)
class Text:
    """Paragraphs, separated by blank lines; lines that begin with ``- `` make a list."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; columns that hold nothing but numbers are aligned to the right. It is never wider
    than the page: one with too many columns becomes several, and where the page is narrow a row
    becomes a block with its heads beside the cells.

    Attributes:
        columns: The heads of the columns.
        rows: Rows of as many cells as there are columns.
        caption: What the table shows; empty for none.
        badges: Cells whose text is a key are drawn as a badge in the tone that is its value, one
            of ``good``, ``bad``, ``warn`` and ``muted``. The word stays: colour alone says nothing
            to many readers.
        labels: Columns, from the first, that say what a row is.

    Raises:
        ValueError: A row has the wrong length, or a tone is unknown.
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
