"""Where files are looked for, how they are checked, and how they are downloaded."""

import gzip
import sys
from dataclasses import replace

import numpy as np
import pytest

from nestax_studies import data
from nestax_studies.data import DataError, _catalogue, _files

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def given(tiny, tmp_path, monkeypatch):
    """Writes the files under `NESTAX_DATA`; returns their folder."""
    monkeypatch.setenv("NESTAX_DATA", str(tmp_path / "given"))
    return tiny.write(tmp_path / "given" / "tiny")


def check(loaded, tiny):
    assert (loaded.name, loaded.classes, loaded.scale) == ("tiny", 3, 255)
    for split, images, labels in (
        (loaded.train, *tiny.arrays[:2]),
        (loaded.test, *tiny.arrays[2:]),
    ):
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)


# Search


def test_given_folder_comes_before_the_cache(tiny, tmp_path, monkeypatch):
    tiny.write(tiny.cache)
    assert data.locate("tiny") == tiny.cache
    folder = given(tiny, tmp_path, monkeypatch)
    assert data.locate("tiny") == folder == data.describe("tiny").where
    check(data.load("tiny", download=False), tiny)


@pytest.mark.parametrize("state", ["no folder", "empty", "a file lacks"])
def test_given_folder_without_the_data_set_is_passed_over(tiny, tmp_path, monkeypatch, state):
    if state == "no folder":
        monkeypatch.setenv("NESTAX_DATA", str(tmp_path / "nowhere"))
    else:
        folder = given(tiny, tmp_path, monkeypatch)
        for name in tiny.archives if state == "empty" else [LABELS]:
            (folder / name).unlink()
    tiny.write(tiny.cache)
    assert data.locate("tiny") == tiny.cache
    check(data.load("tiny", download=False), tiny)


def test_home_is_expanded_and_empty_means_unset(tiny, tmp_path, monkeypatch):
    folder = given(tiny, tmp_path, monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("NESTAX_DATA", "~/given")
    assert data.locate("tiny") == folder
    monkeypatch.setenv("NESTAX_DATA", "")
    assert data.locate("tiny") == tiny.cache


def test_absent_says_where_and_how_to_mend(tiny, tmp_path, monkeypatch):
    folder = given(tiny, tmp_path, monkeypatch)
    (folder / LABELS).unlink()
    assert data.describe("tiny").where is None
    assert data.locate("tiny") == tiny.cache
    with pytest.raises(DataError) as caught:
        data.load("tiny", download=False)
    message = str(caught.value)
    assert f"{folder} (lacks {LABELS})" in message
    assert str(tiny.cache) in message
    assert "nestax data fetch tiny" in message
    assert all(f"tiny/{name}" in message for name in tiny.archives)


@pytest.mark.parametrize("folder", ["tiny", "Tiny/raw", "tiny/Tiny/raw"])
@pytest.mark.parametrize("dots", [False, True])
def test_unpacked_files_are_found_where_torchvision_leaves_them(
    tiny, tmp_path, monkeypatch, folder, dots
):
    entry = replace(tiny.entry, torchvision="Tiny/raw")
    monkeypatch.setitem(_catalogue.CATALOGUE, "tiny", entry)
    monkeypatch.setenv("NESTAX_DATA", str(tmp_path / "given"))
    with pytest.raises(DataError) as caught:
        data.load("tiny", download=False)
    message = str(caught.value)
    for looked in ("tiny", "Tiny/raw", "tiny/Tiny/raw"):
        assert f"\n  {tmp_path / 'given' / looked}" in message
    assert "train-images-idx3-ubyte or train-images.idx3-ubyte" in message
    there = tmp_path / "given" / folder
    there.mkdir(parents=True)
    for number, (name, archive) in enumerate(tiny.archives.items()):
        bare = name.removesuffix(".gz")
        if number == 0:  # one of them packed
            (there / name).write_bytes(archive)
        else:
            bare = bare.replace("-idx", ".idx") if dots else bare
            (there / bare).write_bytes(gzip.decompress(archive))
    assert data.locate("tiny") == there == data.describe("tiny").where
    check(data.load("tiny", download=False), tiny)
    # Unpacked files are held to the same checksum.
    content = bytearray((there / bare).read_bytes())
    for change, why in (
        (lambda: content[:-1] + b"\x03", "not the data of tiny"),
        (lambda: content[:-1], "found 3"),
        (lambda: content + b"0" * 9000, "or more"),
        (lambda: tiny.archives[LABELS], "expected an idx file"),
    ):
        (there / bare).write_bytes(change())
        with pytest.raises(DataError, match=why) as caught:
            data.load("tiny", download=False)
        assert str(caught.value).startswith(str(there / bare))


def test_fetch_takes_unpacked_files_and_mends_damaged_ones(tiny, mirror):
    tiny.write(tiny.cache)
    for name in (IMAGES, LABELS):
        path = tiny.cache / name
        bare = path.with_suffix("")
        bare.write_bytes(gzip.decompress(path.read_bytes()) if name == IMAGES else b"damaged")
        path.unlink()
    assert data.fetch("tiny", progress=False) == tiny.cache
    assert not (tiny.cache / IMAGES).exists() and (tiny.cache / LABELS).exists()
    check(data.load("tiny", download=False), tiny)


# Integrity


def test_same_content_packed_differently_is_accepted(tiny, tmp_path, monkeypatch):
    folder = given(tiny, tmp_path, monkeypatch)
    for name, archive in tiny.archives.items():
        other = gzip.compress(gzip.decompress(archive), compresslevel=1, mtime=99)
        assert other != archive
        (folder / name).write_bytes(other)
    check(data.load("tiny", download=False), tiny)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda archive, other: b"", "empty file"),
        (lambda archive, other: b"<html>not found</html>", "expected a gzip file"),
        (lambda archive, other: gzip.decompress(archive), "expected a gzip file"),
        (lambda archive, other: archive[:-5], "breaks off"),
        (lambda archive, other: archive + b"more", "more bytes after it"),
        (lambda archive, other: gzip.compress(gzip.decompress(archive)[:-1]), "found 35"),
        (lambda archive, other: gzip.compress(gzip.decompress(archive) + b"0"), "found 37"),
        (lambda archive, other: other, r"expected an array of shape \(6, 3, 2\), found .*\(6,\)"),
        (
            lambda archive, other: gzip.compress(gzip.decompress(archive)[:-1] + b"\x07"),
            "expected content with md5 [0-9a-f]{32}, found md5 [0-9a-f]{32}: .* not the data of",
        ),
    ],
)
def test_a_bad_file_is_refused(tiny, tmp_path, monkeypatch, damage, message):
    folder = given(tiny, tmp_path, monkeypatch)
    (folder / IMAGES).write_bytes(damage(tiny.archives[IMAGES], tiny.archives[LABELS]))
    with pytest.raises(DataError, match=message) as caught:
        data.load("tiny")
    text = str(caught.value)
    assert text.startswith(str(folder / IMAGES))
    assert "Delete it" in text and "nestax data fetch tiny" in text and "NESTAX_DATA" in text


def test_images_in_place_of_labels_are_refused(tiny, tmp_path, monkeypatch):
    folder = given(tiny, tmp_path, monkeypatch)
    (folder / LABELS).write_bytes(tiny.archives[IMAGES])
    with pytest.raises(DataError, match=r"expected an array of shape \(6,\)"):
        data.load("tiny")


def test_a_file_that_cannot_be_read_is_a_data_error(tiny, tmp_path, monkeypatch):
    given(tiny, tmp_path, monkeypatch)

    def denied(self):
        raise PermissionError("denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    with pytest.raises(DataError, match="denied"):
        data.load("tiny")


# Download


def test_load_downloads_into_the_cache_once(tiny, mirror):
    check(data.load("tiny", progress=False), tiny)
    assert sorted(path.name for path in tiny.cache.iterdir()) == sorted(tiny.archives)
    for path in mirror.iterdir():
        path.unlink()
    check(data.load("tiny"), tiny)
    assert data.fetch("tiny") == tiny.cache


def test_fetch_shows_progress(tiny, mirror, capsys):
    pytest.importorskip("tqdm")
    assert data.fetch("tiny") == tiny.cache
    assert "100%" in capsys.readouterr().err


def test_fetch_fills_the_cache_though_a_folder_is_given(tiny, mirror, tmp_path, monkeypatch):
    given(tiny, tmp_path, monkeypatch)
    assert data.fetch("tiny", progress=False) == tiny.cache
    assert (tiny.cache / LABELS).is_file()


def test_fetch_mends_a_damaged_cache(tiny, mirror):
    tiny.write(tiny.cache)
    (tiny.cache / IMAGES).write_bytes(b"damaged")
    (tiny.cache / LABELS).unlink()
    with pytest.raises(DataError):
        _files.read(tiny.entry, tiny.cache)
    data.fetch("tiny", progress=False)
    check(data.load("tiny", download=False), tiny)


def test_a_download_with_a_wrong_checksum_leaves_nothing(tiny, mirror):
    (mirror / IMAGES).write_bytes(tiny.archives[LABELS])
    with pytest.raises(DataError, match=r"download of train-images.* failed") as caught:
        data.load("tiny", progress=False)
    assert tiny.entry.mirrors[0] + IMAGES in str(caught.value)
    assert "hash" in str(caught.value)
    assert list(tiny.cache.iterdir()) == []


def test_the_next_mirror_is_tried(tiny, mirror, monkeypatch):
    url = tiny.entry.mirrors[0]
    entry = replace(tiny.entry, mirrors=(url + "gone/", url))
    monkeypatch.setitem(_catalogue.CATALOGUE, "tiny", entry)
    check(data.load("tiny", progress=False), tiny)


def test_no_network_gives_one_error_that_says_all(tiny, mirror, monkeypatch):
    url = "http://127.0.0.1:9/"  # the discard port: nobody answers
    entry = replace(tiny.entry, mirrors=(url, tiny.entry.mirrors[0] + "gone/"))
    monkeypatch.setitem(_catalogue.CATALOGUE, "tiny", entry)
    with pytest.raises(DataError) as caught:
        data.load("tiny", progress=False)
    message = str(caught.value)
    assert all(mirror + IMAGES in message for mirror in entry.mirrors)
    assert "404" in message
    assert str(tiny.cache) in message and "NESTAX_DATA is not set" in message
    assert all(f"tiny/{name}" in message for name in tiny.archives)


# Optional packages


def test_without_pooch_a_given_folder_works(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r'pooch.*pip install "nestax\[studies\]"'):
        data.load("tiny")
    with pytest.raises(ImportError, match="pooch"):
        data.fetch("tiny")
    assert data.describe("tiny").where is None
    given(tiny, tmp_path, monkeypatch)
    check(data.load("tiny"), tiny)


def test_without_tqdm_there_is_only_no_progress_bar(tiny, mirror, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r'tqdm.*pip install "nestax\[studies\]"'):
        data.load("tiny")
    check(data.load("tiny", progress=False), tiny)
