"""The digits embedded in scikit-learn, and their split."""

import hashlib
import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from nestax_studies import data
from nestax_studies.data._digits import split

sklearn = pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_shapes_and_range(digits):
    assert (digits.name, digits.classes, digits.scale) == ("digits", 10, 16)
    for part, count in ((digits.train, 1437), (digits.test, 360)):
        assert part.images.shape == (count, 8, 8) and part.images.dtype == np.uint8
        assert part.labels.shape == (count,) and part.labels.dtype == np.int32
        assert (part.images.min(), part.images.max()) == (0, 16)
        assert part.inputs.shape == (count, 64) and part.inputs.dtype == np.float32
        assert (part.inputs.min(), part.inputs.max()) == (0.0, 1.0)


def test_classes_keep_their_share(digits):
    train, test = np.bincount(digits.train.labels), np.bincount(digits.test.labels)
    np.testing.assert_array_equal(train + test, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    assert np.abs(test - (train + test) * 360 / 1797).max() < 1


def test_the_split_is_always_the_same(digits):
    again = data.load("digits")
    np.testing.assert_array_equal(again.train.images, digits.train.images)
    np.testing.assert_array_equal(again.test.labels, digits.test.labels)
    sums = [
        hashlib.md5(part.images.tobytes() + part.labels.astype("<i4").tobytes()).hexdigest()
        for part in (digits.train, digits.test)
    ]
    assert sums == ["f909c8d1c427823932ffa1df5e76825b", "4f57ef31fdca3aa4aa3de11a485a380c"]


def test_the_parts_do_not_overlap_and_lose_nothing(digits):
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    train, test = split(labels, 360)
    assert sorted([*train, *test]) == list(range(1797))
    # All 1,797 images differ from one another, so parts without overlap share no image.
    rows = [{image.tobytes() for image in p.images} for p in (digits.train, digits.test)]
    assert [len(part) for part in rows] == [1437, 360]
    assert not rows[0] & rows[1]


def test_the_parts_are_shuffled(digits):
    # In the original the writers copied 0, 1, ..., 9 again and again.
    steps = np.diff(digits.train.labels) % 10
    assert np.mean(steps == 1) < 0.2


@pytest.mark.parametrize(("counts", "test"), [((5, 5), 4), ((1, 2, 3), 3), ((7, 1), 2), ((3,), 0)])
def test_split_is_stratified_for_any_counts(counts, test):
    labels = np.repeat(np.arange(len(counts)), counts)
    train, held = split(labels, test)
    assert sorted([*train, *held]) == list(range(len(labels)))
    assert len(held) == test
    share = np.array(counts) * test / sum(counts)
    assert np.abs(np.bincount(labels[held], minlength=len(counts)) - share).max() < 1


def test_located_in_scikit_learn():
    path = data.locate("digits")
    assert path.name == "digits.csv.gz" and path.is_file()
    assert data.describe("digits").where == path == data.fetch("digits")


def test_without_scikit_learn(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "sklearn" else real(name)
    )
    for name in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    for call in (data.load, data.locate, data.fetch):
        with pytest.raises(ImportError, match=r'scikit-learn.*pip install "nestax\[studies\]"'):
            call("digits")
    assert data.describe("digits").where is None


def test_another_copy_is_refused(monkeypatch):
    from sklearn import datasets

    whole = datasets.load_digits(return_X_y=False)
    bunch = SimpleNamespace(images=whole["images"][:-1], target=whole["target"])  # type: ignore
    monkeypatch.setattr(datasets, "load_digits", lambda: bunch)
    with pytest.raises(data.DataError, match=r"found shape \(1796, 8, 8\)"):
        data.load("digits")
