"""Writes the report of a run: one HTML file that opens without a network.

The file holds everything it shows. Pictures are embedded, the style is inline, there is no
script, and a content security policy forbids the browser to load anything else. It knows nothing
of what is reported: an experiment hands over sections made of a few kinds of blocks.
"""

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

from .blocks import Block, Details, Picture, Section, Table, Text
from .files import write_atomically
from .style import STYLE, TEMPLATE
from .tables import paragraphs, tables

_MEDIA = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
}


def write_report(
    path: Path, title: str, lead: str, sections: Sequence[Section], question: str = ""
) -> None:
    """Writes a report as one HTML file that needs no other file and no network.

    If anything fails, an older report at `path` stays complete.

    Args:
        path: the file to write or replace; its folder must exist.
        title: the heading of the page.
        lead: the summary at the top, written as for `Text`.
        sections: the parts of the page, in order.
        question: the question that the report answers, shown above the lead; empty for none.

    Raises:
        FileNotFoundError: a picture, or the folder of `path`, does not exist.
        ValueError: a picture is of an unknown kind.
        OSError: the file cannot be written.
    """
    write_atomically(path, _page(title, lead, sections, question))


def _page(title: str, lead: str, sections: Sequence[Section], question: str) -> str:
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
    return TEMPLATE.format(
        title=html.escape(title),
        style=STYLE,
        question=f'<p class="question">{html.escape(question)}</p>' if question else "",
        lead=f'<div class="lead">{paragraphs(lead)}</div>' if lead.strip() else "",
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
                return paragraphs(block.text)
            case Table():
                return tables(block)
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
