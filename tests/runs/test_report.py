"""The report: complete in one file, escaped, and never half written."""

import base64
import os
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from references.browser import BROWSER, measured

from nestax.runs import blocks
from nestax.runs.blocks import Badge, Details, Folded, Picture, Section, Table, Text
from nestax.runs.report import write_report

VOID = {"meta", "img", "input", "br"}


class Page(HTMLParser):
    """Checks that tags close in order and keeps what a browser would load or show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def png(path: Path, shade: int) -> Path:
    """A grey picture of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes([0, shade])))
        + chunk(b"IEND", b"")
    )
    return path


def full(folder: Path) -> list[Section]:
    first, second = png(folder / "a.png", 10), png(folder / "b.png", 200)
    verdicts = Table(
        ("claim", "value", "verdict"),
        [["one", 1.23456, "supported"], ["two", 2, "artefact"], ["three", None, "not measured"]],
        "What was found",
        {"supported": "good", "artefact": "warn", "not measured": "muted"},
    )
    return [
        Section("Verdicts", (Text("A paragraph.\n\nAnother:\n- first\n- second"), verdicts)),
        Section("Figures", (Picture(first, "How to read it", "A figure"),)),
        Section("Figures", (Details("More", (Picture(second, "Another"), verdicts)),)),
        Section("…"),
    ]


def written(folder: Path, sections: list[Section], title: str = "Title", lead: str = "") -> str:
    path = folder / "report.html"
    write_report(path, title, lead, sections)
    return path.read_text(encoding="utf-8")


def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    text = written(tmp_path, full(tmp_path), lead="What matters.")
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<link|<iframe", text, re.I)
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "src"):
            if value := attributes.get(name):
                assert value.startswith(("#", "data:image/png;base64,"))
    policy = page.all("meta")[1]["content"]
    assert policy is not None and policy.startswith("default-src 'none'")
    for words in ("What matters.", "A paragraph.", "first", "What was found", "How to read it"):
        assert words in page.text


def test_every_picture_is_embedded_and_named(tmp_path: Path) -> None:
    page = Page(written(tmp_path, full(tmp_path)))
    images = page.all("img")
    held = [base64.b64decode(str(image["src"]).split(",")[1]) for image in images]
    assert held == [(tmp_path / name).read_bytes() for name in ("a.png", "b.png")]
    assert [image["alt"] for image in images] == ["A figure", "Another"]
    boxes = [box["id"] for box in page.all("input")]
    assert boxes == [label["for"] for label in page.all("label")] and len(set(boxes)) == 2


def test_the_contents_lead_to_every_section(tmp_path: Path) -> None:
    page = Page(written(tmp_path, full(tmp_path)))
    anchors = [section["id"] for section in page.all("section")]
    assert [link["href"] for link in page.all("a")] == [f"#{anchor}" for anchor in anchors]
    assert len(set(anchors)) == 4
    assert not Page(written(tmp_path, [Section("Only")])).all("nav")


def test_badges_are_coloured_and_worded_and_numbers_aligned(tmp_path: Path) -> None:
    text = written(tmp_path, full(tmp_path)[:1])
    assert '<span class="badge good">supported</span>' in text
    assert '<span class="badge warn">artefact</span>' in text
    head = '<span class="head" aria-hidden="true">value</span>'
    for shown in ("1.235", "\u2013"):
        assert f'<td class="number">{head}{shown}</td>' in text
    assert text.count('<th scope="col" class="number">') == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.1 + 0.2, "0.3"),
        (-12345.678, "-12346"),
        (3.2e-7, "3.200e-07"),
        (float("nan"), "nan"),
        (True, "yes"),
        (None, "\u2013"),
        (60000, "60000"),
        ("a\nb", "a<br>b"),
    ],
)
def test_cells(tmp_path: Path, value: blocks.Cell, shown: str) -> None:
    assert f">{shown}</td>" in written(tmp_path, [Section("s", (Table(("c",), [[value]]),))])


def test_everything_is_escaped(tmp_path: Path) -> None:
    evil = "<b onload=\"x('y')\">&amp;"
    table = Table((evil,), [[evil], [evil + "!"]], evil, {evil: "good"})
    picture = Picture(png(tmp_path / "a.png", 0), evil, evil)
    sections = [Section(evil, (Text(f"{evil}\n- {evil}"), table, picture, Details(evil, ())))]
    text = written(tmp_path, [*sections, *sections], evil, evil)
    page = Page(text)
    assert not page.all("b") and evil not in text
    assert page.text.count(evil) >= 20
    assert all(image["alt"] == evil for image in page.all("img"))


def test_braces_are_text(tmp_path: Path) -> None:
    assert "{title} {0}" in written(tmp_path, [Section("{title} {0}")], "{style}")


def test_a_failure_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full_disk(_: int) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="no space"):
            write_report(path, "t", "", [])
    with pytest.raises(FileNotFoundError):
        write_report(path, "t", "", [Section("s", (Picture(tmp_path / "gone.png", ""),))])
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    write_report(path, "t", "", [])
    assert path.read_text() != "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_wrong_blocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 2 of the table has 1 cells, expected 2"):
        Table(("a", "b"), [[1, 2], [3]])
    with pytest.raises(ValueError, match="tone"):
        Table(("a",), [], badges={"fine": "green"})
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"a\.txt is not a picture"):
        written(tmp_path, [Section("s", (Picture(tmp_path / "a.txt", ""),))])


# Width


def columns(text: str) -> list[list[str]]:
    """The heads of each table."""
    return [
        re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', table)
        for table in re.findall(r"<table.*?</table>", text, re.DOTALL)
    ]


def wide(count: int) -> Table:
    heads = ["task", "arm", *(f"found in {48 * 2**i} tokens (%)" for i in range(count))]
    row: list[blocks.Cell] = ["one passkey", "linear attention", *(["54.1 (31.2 to 61.0)"] * count)]
    return Table(heads, [row, row], "Numbers", labels=2)


def test_a_table_with_too_many_columns_becomes_several_with_the_same_labels(tmp_path: Path) -> None:
    assert columns(written(tmp_path, [Section("s", [wide(2)])])) == [list(wide(2).columns)]
    text = written(tmp_path, [Section("s", [wide(20)])])
    parts = columns(text)
    assert len(parts) > 1 and all(part[:2] == ["task", "arm"] for part in parts)
    assert [head for part in parts for head in part[2:]] == list(wide(20).columns[2:])
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert text.count("<caption>") == 1
    assert 'class="range"' in text and "(31.2\u00a0to\u00a061.0)" in text


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        (Table(("a", "b"), [[1, 2]]), "<table>"),
        (wide(2), '<table class="stack">'),
        (wide(4), '<table class="stack early">'),
    ],
)
def test_rows_become_blocks_where_the_page_is_narrower_than_the_table(
    tmp_path: Path, table: Table, kind: str
) -> None:
    assert kind in written(tmp_path, [Section("s", [table])])


def test_cells_fold_out_and_signs_say_what_they_mean(tmp_path: Path) -> None:
    row: list[blocks.Cell] = [Folded("a <claim>", "why\n\n- one"), Badge("✓", "good", "held"), ""]
    text = written(tmp_path, [Section("s", [Table(("claim", "x", "y"), [row])])])
    assert "<details><summary>a &lt;claim&gt;</summary><div><p>why</p>\n<ul><li>one</li>" in text
    assert 'role="img" title="held" aria-label="held">✓</span>' in text
    assert '<td class="empty">' in text
    with pytest.raises(ValueError, match="the badge 'x' has the tone 'green'"):
        Badge("x", "green")


@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_tables_are_as_wide_as_the_page_at_most(tmp_path: Path) -> None:
    prose = "A sentence that goes on for a while, as criteria do, and ends at last."
    path = "/a/very/long/path/without/any/space/in/it/" * 4
    tables = [
        wide(1),
        wide(20),
        Table(("claim", "criterion", "measured", "verdict"), [[prose] * 3 + ["supported"]]),
        Table(("setting", "value"), [["out", path], ["names", ", ".join(["hope"] * 40)]]),
        Table([f"t{i}" for i in range(30)], [[i * 1000.5 for i in range(30)]]),
        Table([f"found in {i} tokens of text (%)" for i in range(30)], [[0.5] * 30]),
    ]
    text = written(tmp_path, [Section("s", tables)])
    for width, found in measured(text, tmp_path, (1200, 800, 390)).items():
        assert found["wide"] == [], width
        assert (found["blocks"] > 0) == (width < 1200)
