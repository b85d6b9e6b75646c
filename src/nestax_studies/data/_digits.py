"""The 1,797 hand-written digits of 8x8 pixels that scikit-learn carries with it.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998. Each pixel counts the ink in a 4x4 block of a 32x32 bitmap, hence 0..16.

scikit-learn carries the test part of the original only, so the split made here is our own. It is
by image, not by writer: the same 13 people wrote both parts, and test errors are those for known
hands.
"""

import importlib.util
from pathlib import Path

import numpy as np

from ._catalogue import Entry
from ._dataset import Dataset, Split
from ._errors import DataError, optional

_PURPOSE = "The data set digits"
_SEED = 0


def find() -> Path | None:
    """The file inside the installed scikit-learn, or None; imports nothing."""
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return path
    return None


def locate() -> Path:
    """The file inside the installed scikit-learn.

    Raises:
        ImportError: If scikit-learn is missing.
        DataError: If it does not carry the file.
    """
    path = find()
    if path is None:
        module = optional("sklearn", _PURPOSE)
        raise DataError(
            f"digits: scikit-learn {module.__version__} does not hold datasets/data/digits.csv.gz. "
            "Install it again."
        )
    return path


def load(entry: Entry) -> Dataset:
    """Reads the digits and splits them.

    Raises:
        ImportError: If scikit-learn is missing.
        DataError: If scikit-learn's copy has another shape or range than it should.
    """
    bunch = optional("sklearn.datasets", _PURPOSE).load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.int32)
    shape = (entry.train + entry.test, *entry.image)
    if images.shape != shape or labels.shape != shape[:1] or images.max() != entry.scale:
        raise DataError(
            f"digits: expected images of shape {shape} with grey levels up to {entry.scale}, found "
            f"shape {images.shape} up to {images.max()}. Install another release of scikit-learn."
        )
    train, test = (
        Split(images[rows], labels[rows], entry.scale) for rows in split(labels, entry.test)
    )
    return Dataset(entry.name, train, test, entry.classes)


def split(labels: np.ndarray, test: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits at random, keeping the share of each class; the same on every machine.

    Each class gives the test part its share of `test`, rounded down; the places left go to the
    classes with the largest fractions lost.

    Args:
        labels: Class numbers, shape (n,).
        test: Number of test examples.

    Returns:
        (training rows, test rows): indices in shuffled order, without overlap.
    """
    # RandomState and not Generator: numpy guarantees that its stream never changes.
    order = np.random.RandomState(_SEED).permutation(len(labels))
    share = np.bincount(labels) * test / len(labels)
    quota = np.floor(share).astype(int)
    rest = test - quota.sum()
    quota[np.argsort(quota - share, kind="stable")[:rest]] += 1
    held = np.zeros(len(labels), bool)
    for number, count in enumerate(quota):
        held[order[labels[order] == number][:count]] = True
    return order[~held[order]], order[held[order]]
