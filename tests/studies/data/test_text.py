"""Texts: read, refused and numbered, and the real ones if given."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nestax_studies import data
from nestax_studies.data import DataError, _catalogue
from nestax_studies.data._catalogue import Entry, TextFile

# Read at import: other tests change the variable.
_GIVEN = Path(os.environ.get("NESTAX_DATA") or os.devnull)
WORDS = b"to be,\nor not to be"


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    """A text of 19 characters in place of the real one; its file's path."""
    file = TextFile("input.txt", len(WORDS), hashlib.md5(WORDS).hexdigest())
    kinds = len(set(WORDS))
    entry = Entry("tinyshakespeare", 15, 4, (), kinds, 0, "none", "made up", (file,))
    monkeypatch.setitem(_catalogue.CATALOGUE, "tinyshakespeare", entry)
    monkeypatch.setenv("NESTAX_DATA", str(tmp_path))
    path = tmp_path / "tinyshakespeare" / "input.txt"
    path.parent.mkdir()
    path.write_bytes(WORDS)
    return path


def test_a_text_is_numbered_and_split_by_position(tiny):
    text = data.tiny_shakespeare(download=False)
    assert text.characters == "".join(sorted(set(WORDS.decode())))
    assert text.train.dtype == text.test.dtype == np.uint8
    assert text.decode(text.train) == "to be,\nor not t"
    assert text.decode(text.test) == "o be"
    for part in (text.train, text.test):
        with pytest.raises(ValueError, match="read-only"):
            part[0] = 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WORDS[:-1], "expected 19 bytes of text, found 18"),
        (WORDS.swapcase(), "expected a text with md5 [0-9a-f]{32}, found md5 [0-9a-f]{32}"),
        (b"", "found 0"),
    ],
)
def test_another_text_is_refused(tiny, content, message):
    tiny.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        data.tiny_shakespeare(download=False)
    assert str(tiny) in str(caught.value) and "nestax data fetch" in str(caught.value)


def test_a_text_that_is_not_what_the_catalogue_says_is_refused(tiny, monkeypatch):
    entry = replace(_catalogue.CATALOGUE["tinyshakespeare"], classes=5)
    monkeypatch.setitem(_catalogue.CATALOGUE, "tinyshakespeare", entry)
    with pytest.raises(DataError, match="expected 19 characters of 5 kinds, found 19 of 9"):
        data.tiny_shakespeare()


@pytest.fixture
def articles(tmp_path, monkeypatch) -> Path:
    """Two files with characters of two and three bytes in place of WikiText-2; their folder."""
    parts = {"valid.txt": "naïve — né".encode(), "test.txt": "é — e".encode()}
    files = tuple(
        TextFile(name, len(part), hashlib.md5(part).hexdigest()) for name, part in parts.items()
    )
    entry = Entry("wikitext2", 10, 5, (), 8, 0, "none", "made up", files)
    monkeypatch.setitem(_catalogue.CATALOGUE, "wikitext2", entry)
    monkeypatch.setenv("NESTAX_DATA", str(tmp_path))
    folder = tmp_path / "wikitext2"
    folder.mkdir()
    for name, part in parts.items():
        (folder / name).write_bytes(part)
    return folder


def test_two_files_share_their_characters(articles):
    text = data.wikitext2(download=False)
    assert text.characters == "".join(sorted(set("naïve — né — e")))
    assert text.train.dtype == text.test.dtype == np.uint8
    assert (text.decode(text.train), text.decode(text.test)) == ("naïve — né", "é — e")
    (articles / "test.txt").write_bytes("é — f".encode())
    with pytest.raises(DataError, match=r"test\.txt: expected a text with md5"):
        data.wikitext2(download=False)
    with pytest.raises(DataError, match=r"nestax_studies\.data\.wikitext2\(\)"):
        data.load("wikitext2")


def test_it_is_no_set_of_labelled_images(tiny):
    with pytest.raises(DataError, match=r"nestax_studies\.data\.tiny_shakespeare\(\)"):
        data.load("tinyshakespeare")


def test_the_real_text(monkeypatch):
    if not (_GIVEN / "tinyshakespeare" / "input.txt").is_file():
        pytest.skip("NESTAX_DATA does not hold tinyshakespeare")
    monkeypatch.setenv("NESTAX_DATA", str(_GIVEN))
    text = data.tiny_shakespeare(download=False)
    assert (len(text.characters), len(text.train), len(text.test)) == (65, 1_003_854, 111_540)
    assert text.decode(text.train[:14]) == "First Citizen:"
    assert data.describe("tinyshakespeare").where == _GIVEN / "tinyshakespeare"


def test_the_real_articles(monkeypatch):
    if not (_GIVEN / "wikitext2" / "test.txt").is_file():
        pytest.skip("NESTAX_DATA does not hold wikitext2")
    monkeypatch.setenv("NESTAX_DATA", str(_GIVEN))
    text = data.wikitext2(download=False)
    assert (len(text.characters), len(text.train), len(text.test)) == (137, 1_120_192, 1_255_018)
    assert text.decode(text.train[:24]) == " \n = Homarus gammarus = "
    assert text.decode(text.test[:19]) == " \n = Robert <unk> ="
