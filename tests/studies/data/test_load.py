"""The public face: data sets by name, splits, listings, and the real MNIST files if given."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nestax_studies import data
from nestax_studies.data import DataError, Split

# Read at import: other tests change the variable.
_GIVEN = Path(os.environ.get("NESTAX_DATA") or os.devnull)


def real(name):
    """Skips unless `NESTAX_DATA` holds the data set."""
    folder = _GIVEN / name
    if not (folder / "t10k-labels-idx1-ubyte.gz").is_file():
        pytest.skip(f"NESTAX_DATA does not hold {name}")
    return folder


def test_names_and_unknown_names():
    images = ("digits", "mnist", "fashion-mnist", "omniglot")
    assert data.names() == (*images, "tinyshakespeare", "wikitext2")
    for call in (data.load, data.fetch, data.locate, data.describe):
        with pytest.raises(DataError, match="no data set 'mnits'; there are: digits, mnist"):
            call("mnits")
    assert issubclass(DataError, ValueError)


def test_status_lists_every_data_set_without_reading_any(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a file was read")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    rows = data.status()
    assert tuple(row.name for row in rows) == data.names()
    sizes = [(1437, 360), *2 * [(60_000, 10_000)], (19_280, 13_180), (1_003_854, 111_540)]
    sizes += [(1_120_192, 1_255_018)]
    assert [(row.train, row.test) for row in rows] == sizes
    assert [row.image for row in rows] == [(8, 8), *3 * [(28, 28)], (), ()]
    assert [row.classes for row in rows] == [10, 10, 10, 1623, 65, 137]
    assert all(row.licence and row.source for row in rows)


def test_importing_loads_no_optional_package():
    code = (
        "import sys, nestax_studies.data\nprint({'pooch', 'sklearn'} & set(sys.modules) or 'none')"
    )
    path = os.pathsep.join(filter(None, sys.path))
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert result.stdout.strip() == "none"


def test_inputs_are_rows_in_the_unit_interval():
    images = np.array([[[0, 51], [102, 255]]], np.uint8)
    split = Split(images, np.zeros(1, np.int32))
    assert split.inputs.dtype == np.float32
    np.testing.assert_array_equal(
        split.inputs, np.array([[0, 51, 102, 255]], np.float32) / np.float32(255)
    )
    assert split.inputs is split.inputs
    assert len(split) == 1 and "1 images of 2x2" in repr(split)


def test_a_split_is_read_only_and_leaves_its_arguments_alone():
    images, labels = np.zeros((2, 3, 3), np.uint8), np.zeros(2, np.int32)
    split = Split(images, labels)
    for array in (split.images, split.labels, split.inputs):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    images[0], labels[0] = 1, 1


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 9), np.uint8), np.zeros(2, np.int32), "images must be uint8 with 3 axes"),
        (np.zeros((2, 3, 3)), np.zeros(2, np.int32), "images must be uint8"),
        (np.zeros((2, 3, 3), np.uint8), np.zeros(2, np.int64), "labels must be int32"),
        (np.zeros((2, 3, 3), np.uint8), np.zeros(3, np.int32), "2 images but 3 labels"),
    ],
)
def test_a_split_refuses_other_arrays(images, labels, message):
    with pytest.raises(DataError, match=message):
        Split(images, labels)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_files(name, monkeypatch):
    folder = real(name)
    monkeypatch.setenv("NESTAX_DATA", str(_GIVEN))
    assert data.locate(name) == data.describe(name).where == folder
    loaded = data.load(name, download=False)
    assert (loaded.name, loaded.classes, loaded.scale) == (name, 10, 255)
    assert loaded.train.images.shape == (60_000, 28, 28) and len(loaded.train) == 60_000
    assert loaded.test.images.shape == (10_000, 28, 28) and len(loaded.test) == 10_000
    for part in (loaded.train, loaded.test):
        assert (part.images.min(), part.images.max()) == (0, 255)
    assert loaded.test.inputs.shape == (10_000, 784)
    assert (loaded.test.inputs.min(), loaded.test.inputs.max()) == (0.0, 1.0)
    counts = [np.bincount(part.labels).tolist() for part in (loaded.train, loaded.test)]
    if name == "fashion-mnist":
        assert counts == [[6000] * 10, [1000] * 10]
    else:
        assert counts == [
            [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
            [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
        ]


def test_one_data_set_in_the_folder_of_another_is_refused(monkeypatch, tmp_path):
    source = real("fashion-mnist")
    shutil.copytree(source, tmp_path / "mnist")
    monkeypatch.setenv("NESTAX_DATA", str(tmp_path))
    with pytest.raises(DataError, match="not the data of mnist") as caught:
        data.load("mnist")
    assert str(tmp_path / "mnist") in str(caught.value)
