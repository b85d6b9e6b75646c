"""The scripts that lay out and check the site, on pages of a few lines."""

import importlib.util
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def script(name):
    """A script of the folder docs, as a module; its neighbours can be imported meanwhile."""
    sys.path.insert(0, str(DOCS))
    try:
        spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look there
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(DOCS))


def test_the_readme_is_one_screen():
    assert len((DOCS.parent / "README.md").read_text().split()) <= 500


def test_dead_links_anchors_and_other_hosts_are_found(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text(
        '<h2 id="here">x</h2><a href="a/#there">x</a><a href="https://example.org/">x</a>'
        '<a href="a/#gone">x</a><a href="b/">x</a><a href="#here">x</a><img src="no.png">'
        '<script src="https://example.org/x.js"></script>'
    )
    (tmp_path / "a" / "index.html").write_text('<h2 id="there">x</h2><a href="../#here">x</a>')
    assert script("check").faults(tmp_path) == [
        "index.html links to a/#gone, where there is no such heading",
        "index.html links to b/, which does not exist",
        "index.html links to no.png, which does not exist",
        "index.html loads https://example.org/x.js",
    ]


def test_links_lead_to_the_same_page_on_the_site():
    gather = script("gather")
    guide, place = DOCS / "guides" / "flows.md", Path("guides/flows.md")
    assert gather.target("../cookbook.md", guide, place) == "../cookbook.md"
    assert gather.target("../../benchmarks/RESULTS.md", guide, place) == "../results.md"
    assert gather.target("../../README.md", guide, place) == "../index.md"
    assert gather.target("docs/cookbook.md", DOCS.parent / "README.md", Path("index.md")) == (
        "cookbook.md"
    )
    assert gather.target("../../LICENSE", guide, place) == gather.REPOSITORY + "LICENSE"
    with pytest.raises(FileNotFoundError, match=r"flows\.md links to gone\.md, which does not"):
        gather.target("gone.md", guide, place)


def test_cards_read_the_recorded_tables():
    gallery = script("gallery")
    card = gallery.Card("One", ("arm",), ("loss",), "loss", "", {"data": "b"})
    text = (
        "\n## One of two\n\n| arm | data | loss |\n| --- | --- | --- |\n| x | a | 1 |\n"
        "| y | b | 0.5 (0.25 to 1e1) |\n| z | b |  |\n\n| arm | data | loss |\n| w | b | 7 |\n"
        "\n## Two\n\n| arm | data | loss |\n| --- | --- | --- |\n| v | b | 9 |\n"
    )
    rows = gallery.rows_of(text, card)
    assert [row["arm"] for row in rows] == ["y"]
    assert gallery.number(rows[0]["loss"]) == (0.5, 0.25, 10.0)
    assert gallery.number("2 ± 0.5") == (2.0, 1.5, 2.5)
    with pytest.raises(LookupError, match="no table under '## Three'"):
        gallery.rows_of(text, gallery.Card("Three", ("arm",), ("loss",), "", ""))


def test_every_card_has_its_table():
    gallery = script("gallery")
    text = gallery.RESULTS.read_text()
    for card in gallery.CARDS.values():
        assert gallery.rows_of(text, card)
    assert set(gallery.CARDS) == set(gallery.STUDIES)


def test_what_a_page_says_and_nobody_runs_or_compares_is_found(tmp_path):
    """Fences that are not read, and comments that are not those of a print on one line."""
    where = Path(__file__).with_name("readme.py")
    readme = importlib.util.module_from_spec(
        spec := importlib.util.spec_from_file_location("readme", where)
    )
    spec.loader.exec_module(readme)
    page = tmp_path / "page.md"
    for fence in ("    ```python", "~~~python", '```python title="x"'):
        page.write_text(f"```python\n1\n```\n\n{fence}\nprint(1)  # 2\n")
        with pytest.raises(SystemExit, match="would not be run"):
            readme.snippets_of(page)
    code = "x = 1; print(x)  # 2\nprint(\n    x)  # 3\nprint(x)  # 1\nf(x)  # nothing\n"
    assert readme.unread(code) == ["x = 1; print(x)  # 2", "    x)  # 3"]
    assert not readme.passed("page", code, None)
