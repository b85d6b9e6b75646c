"""Omniglot: archives read and refused, pictures reduced, and the real files if given."""

import hashlib
import io
import os
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nestax_studies import data
from nestax_studies.data import DataError, _catalogue, _load, _omniglot
from nestax_studies.data._catalogue import Drawings, Entry

image = pytest.importorskip("PIL.Image")
_GIVEN = Path(os.environ.get("NESTAX_DATA") or os.devnull)
BACKGROUND, EVALUATION = "images_background.zip", "images_evaluation.zip"


def png(ink: np.ndarray, mode: str = "1") -> bytes:
    """Black ink on white paper."""
    content = io.BytesIO()
    image.fromarray(~ink).convert(mode).save(content, "PNG")
    return content.getvalue()


def archive(pictures: dict[str, bytes], folders: bool = True) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        if folders:
            for folder in sorted({name.rsplit("/", 1)[0] + "/" for name in pictures}):
                file.writestr(folder, b"")
        for name, bytes_ in pictures.items():
            file.writestr(name, bytes_)
    return content.getvalue()


def content_md5(pictures: dict[str, np.ndarray]) -> str:
    """The content's sum, written out from its definition."""
    rows = b"".join(f"{n}\n".encode() + np.packbits(a).tobytes() for n, a in pictures.items())
    return hashlib.md5(rows).hexdigest()


class Tiny:
    """Three characters of two alphabets and one of another, drawn twice each, 56x56 pixels."""

    def __init__(self):
        draw = np.random.RandomState(3)
        self.ink: dict[str, dict[str, np.ndarray]] = {}
        files = []
        for name, characters in (
            (BACKGROUND, ("Greek/character01", "Greek/character02", "Latin/character01")),
            (EVALUATION, ("Runic/character01",)),
        ):
            root = name.removesuffix(".zip")
            self.ink[name] = {
                f"{root}/{character}/{number:04}_{person:02}.png": draw.rand(56, 56) < 0.3
                for number, character in enumerate(characters)
                for person in (1, 2)
            }
            packed = hashlib.md5(self.archive(name)).hexdigest()
            shape = (len(characters), 2, 56, 56)
            files.append(Drawings(name, shape, packed, content_md5(self.ink[name])))
        self.entry = Entry("omniglot", 6, 2, (28, 28), 4, 255, "none", "made up", tuple(files))

    def archive(self, name: str, mode: str = "1") -> bytes:
        return archive({member: png(ink, mode) for member, ink in self.ink[name].items()})

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for name in self.ink:
            (folder / name).write_bytes(self.archive(name))
        return folder


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Tiny:
    """Tiny archives in place of Omniglot's, given under `NESTAX_DATA`."""
    made = Tiny()
    monkeypatch.setitem(_catalogue.CATALOGUE, "omniglot", made.entry)
    monkeypatch.setenv("NESTAX_DATA", str(tmp_path))
    made.write(tmp_path / "omniglot")
    _load._omniglot_in.cache_clear()
    yield made
    _load._omniglot_in.cache_clear()


def test_characters_drawings_and_alphabets(tiny):
    loaded = data.omniglot(download=False)
    assert loaded.background.shape == (3, 2, 28, 28) and loaded.background.dtype == np.uint8
    assert loaded.evaluation.shape == (1, 2, 28, 28)
    assert loaded.background_alphabets.tolist() == [0, 0, 1]
    assert loaded.evaluation_alphabets.tolist() == [0]
    rows = np.stack(list(tiny.ink[BACKGROUND].values())).reshape(3, 2, 28, 2, 28, 2)
    shares = rows.mean((3, 5)) * 255
    np.testing.assert_allclose(loaded.background, shares, atol=0.5)
    with pytest.raises(ValueError, match="read-only"):
        loaded.background[0] = 1


def test_a_second_call_gives_the_same_arrays_without_reading(tiny, monkeypatch):
    loaded = data.omniglot()
    monkeypatch.setattr("pathlib.Path.read_bytes", None)
    assert data.omniglot() is loaded


def test_the_listing_knows_it_and_load_names_the_right_function(tiny, tmp_path):
    assert "omniglot" in data.names()
    assert data.describe("omniglot").where == data.locate("omniglot") == tmp_path / "omniglot"
    with pytest.raises(DataError, match=r"load it with nestax_studies\.data\.omniglot\(\)"):
        data.load("omniglot")


def test_the_same_drawings_packed_in_another_way_are_accepted(tiny, tmp_path):
    loaded = data.omniglot()
    _load._omniglot_in.cache_clear()
    path = tmp_path / "omniglot" / BACKGROUND
    reversed_ = dict(reversed(tiny.ink[BACKGROUND].items()))
    junk = {"__MACOSX/images_background/._Greek": b"resource fork"}
    other = archive({n: png(i) for n, i in reversed_.items()} | junk, folders=False)
    assert other != path.read_bytes()
    path.write_bytes(other)
    np.testing.assert_array_equal(data.omniglot().background, loaded.background)


def test_unpacked_drawings_are_found_where_torchvision_leaves_them(tiny, tmp_path, monkeypatch):
    loaded = data.omniglot()
    there = tmp_path / "given" / "omniglot-py"
    for name in tiny.ink:
        (tmp_path / "omniglot" / name).unlink()
        for member, ink in tiny.ink[name].items():
            (there / member).parent.mkdir(parents=True, exist_ok=True)
            (there / member).write_bytes(png(ink))
    (there / "images_background" / ".DS_Store").write_bytes(b"of macOS")
    entry = replace(tiny.entry, torchvision="omniglot-py")
    monkeypatch.setitem(_catalogue.CATALOGUE, "omniglot", entry)
    monkeypatch.setenv("NESTAX_DATA", str(tmp_path / "given"))
    again = data.omniglot(download=False)
    for one, other in zip(vars(loaded).values(), vars(again).values(), strict=True):
        np.testing.assert_array_equal(one, other)
    (there / member).write_bytes(png(~ink))
    _load._omniglot_in.cache_clear()
    with pytest.raises(DataError, match=r"not those of images_evaluation\.zip") as caught:
        data.omniglot(download=False)
    assert str(caught.value).startswith(str(there / "images_evaluation"))


def without_one(pictures):
    return dict(list(pictures.items())[:-1])


def moved(pictures):
    """One drawing of a character counted among those of another."""
    names = list(pictures)
    rename = {names[2]: names[2].replace("character02", "character01").replace("_01", "_03")}
    return {rename.get(name, name): ink for name, ink in pictures.items()}


def stray(pictures):
    return pictures | {"images_background/notes.txt": next(iter(pictures.values()))}


def elsewhere(pictures):
    return {name.replace("background", "evaluation"): ink for name, ink in pictures.items()}


def another_picture(pictures):
    return {name: ~ink if n == 3 else ink for n, (name, ink) in enumerate(pictures.items())}


def another_size(pictures):
    return {name: ink[:-1] if n == 3 else ink for n, (name, ink) in enumerate(pictures.items())}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_one, "expected 6 drawings, found 5"),
        (moved, "expected 2 drawings of each character"),
        (stray, r"expected drawings images_background/ALPHABET/.*found .*notes\.txt"),
        (elsewhere, r"expected drawings images_background/ALPHABET/.*found 'images_evaluation"),
        (another_picture, "expected drawings with md5 [0-9a-f]{32}, found md5 .*well formed"),
        (another_size, "expected pictures of 56x56 pixels of one bit, found .*character02/0001_02"),
    ],
)
def test_other_drawings_are_refused(tiny, tmp_path, change, message):
    changed = archive({name: png(ink) for name, ink in change(tiny.ink[BACKGROUND]).items()})
    (tmp_path / "omniglot" / BACKGROUND).write_bytes(changed)
    with pytest.raises(DataError, match=message) as caught:
        data.omniglot()
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "omniglot" / BACKGROUND))
    assert "Delete it" in text and "nestax data fetch omniglot" in text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda packed: b"", "found an empty file"),
        (lambda packed: b"<html>not found</html>", "expected a zip archive"),
        (lambda packed: packed[:-1], "expected a zip archive"),
        (lambda packed: packed[: len(packed) // 2], "expected a zip archive"),
        # Within the data of the first picture, which begins after 30 bytes and its name.
        (lambda packed: packed[:600] + bytes(40) + packed[640:], "cannot be read"),
    ],
    ids=["empty", "text", "last byte missing", "half", "zeros inside"],
)
def test_damage_is_refused(tiny, tmp_path, damage, message):
    pictures = {name: png(ink) for name, ink in tiny.ink[BACKGROUND].items()}
    packed = archive(pictures, folders=False)
    (tmp_path / "omniglot" / BACKGROUND).write_bytes(damage(packed))
    with pytest.raises(DataError, match=message):
        data.omniglot()


@pytest.mark.parametrize(
    ("bytes_", "message"),
    [
        (b"no picture", "0001_02.png' cannot be read"),
        (png(np.zeros((56, 56), bool))[:40], "0001_02.png' cannot be read"),
        (png(np.zeros((56, 56), bool), "L"), "of one bit, found .* mode 'L'"),
        (bytes(1 << 17), "131072 bytes, too many"),
    ],
    ids=["text", "cut", "grey", "large"],
)
def test_pictures_that_are_none_are_refused(tiny, tmp_path, bytes_, message):
    pictures = {name: png(ink) for name, ink in tiny.ink[BACKGROUND].items()}
    pictures[next(name for name in pictures if name.endswith("0001_02.png"))] = bytes_
    (tmp_path / "omniglot" / BACKGROUND).write_bytes(archive(pictures))
    with pytest.raises(DataError, match=message):
        data.omniglot()


def test_a_drawing_given_twice_is_refused(tiny, tmp_path):
    path = tmp_path / "omniglot" / EVALUATION
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as file:
        file.writestr(next(iter(tiny.ink[EVALUATION])), b"")
    with pytest.raises(DataError, match=r"found .* twice"):
        data.omniglot()


def test_without_pillow(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r'pillow.*pip install "nestax\[studies\]"'):
        data.omniglot()


def test_absent_names_the_archives(tiny, tmp_path, monkeypatch):
    pooch = pytest.importorskip("pooch")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    (tmp_path / "omniglot" / EVALUATION).unlink()
    with pytest.raises(DataError, match=rf"lacks {EVALUATION}") as caught:
        data.omniglot(download=False)
    assert "nestax data fetch omniglot" in str(caught.value)


def test_reduction_is_the_mean_over_areas_in_whole_numbers():
    ink = np.random.RandomState(0).rand(15, 15) < 0.5
    # Every pixel of 15 as 4x4 ones, every area 15x15 of those.
    fine = np.kron(ink, np.ones((4, 4)))
    shares = fine.reshape(4, 15, 4, 15).mean((1, 3))
    np.testing.assert_array_equal(_omniglot.reduce(ink, 4), np.floor(255 * shares + 0.5))
    assert _omniglot.reduce(np.ones((105, 105), bool)).min() == 255
    assert _omniglot.reduce(np.zeros((105, 105), bool)).max() == 0
    np.testing.assert_array_equal(_omniglot.reduce(ink, 15), 255 * ink)


def test_real_files(monkeypatch):
    if not (_GIVEN / "omniglot" / EVALUATION).is_file():
        pytest.skip("NESTAX_DATA does not hold omniglot")
    monkeypatch.setenv("NESTAX_DATA", str(_GIVEN))
    loaded = data.omniglot(download=False)
    assert loaded.background.shape == (964, 20, 28, 28)
    assert loaded.evaluation.shape == (659, 20, 28, 28)
    assert len(np.unique(loaded.background_alphabets)) == 30
    assert len(np.unique(loaded.evaluation_alphabets)) == 20
    sums = [hashlib.md5(a.tobytes()).hexdigest() for a in (loaded.background, loaded.evaluation)]
    assert sums == ["9b0e0433cec7ee694db7df4deaab7b50", "24c97e5041a9eec608dde3778c5a98e6"]


def test_a_download_is_checked_by_the_published_sum(tiny, tmp_path, monkeypatch):
    """An archive whose content is right but that is not the published one does not come in."""
    pooch = pytest.importorskip("pooch")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.delenv("NESTAX_DATA")
    served = tmp_path / "omniglot"
    entry = replace(tiny.entry, mirrors=("https://example.invalid/",))
    monkeypatch.setitem(_catalogue.CATALOGUE, "omniglot", entry)
    monkeypatch.setattr(
        pooch.HTTPDownloader,
        "__call__",
        lambda self, url, output, pooch: Path(output).write_bytes(
            (served / url.rsplit("/", 1)[1]).read_bytes()
        ),
    )
    assert data.fetch("omniglot", progress=False) == tmp_path / "cache" / "nestax" / "omniglot"
    assert data.omniglot(download=False).background.shape == (3, 2, 28, 28)
    _load._omniglot_in.cache_clear()
    for path in data.locate("omniglot").iterdir():
        path.unlink()
    pictures = {name: png(ink) for name, ink in tiny.ink[BACKGROUND].items()}
    (served / BACKGROUND).write_bytes(archive(pictures, folders=False))
    with pytest.raises(DataError, match=r"the download of images_background.zip failed"):
        data.omniglot(progress=False)
    assert not any(data.locate("omniglot").iterdir())
