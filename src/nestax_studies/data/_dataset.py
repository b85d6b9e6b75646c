"""A labelled set of grey images in two parts: `Dataset` and its two `Split`s."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ._errors import DataError


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set. Its arrays are read-only; take a copy to change them.

    Attributes:
        images: uint8 of shape (n, height, width), grey levels in 0..scale.
        labels: int32 of shape (n,), class numbers from 0.
        scale: The largest grey level of the data set, 255 or 16.

    Raises:
        DataError: If shapes, dtypes or lengths are not these.
    """

    images: np.ndarray
    labels: np.ndarray
    scale: int = 255

    def __post_init__(self):
        for name, dims, dtype in (("images", 3, np.uint8), ("labels", 1, np.int32)):
            array = np.asarray(getattr(self, name))
            if array.ndim != dims or array.dtype != dtype:
                raise DataError(
                    f"{name} must be {np.dtype(dtype)} with {dims} axes, "
                    f"not {array.dtype} of shape {array.shape}"
                )
            view = array.view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)
        if len(self.images) != len(self.labels):
            raise DataError(f"{len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        count, height, width = self.images.shape
        return f"Split({count} images of {height}x{width}, scale={self.scale})"

    @cached_property
    def inputs(self) -> np.ndarray:
        """The images as rows: float32 of shape (n, height * width), grey levels / scale in [0, 1].

        This is the usual convention of image pipelines ("to tensor"); no mean is subtracted.
        Computed at first use and kept: 188 MB for 60,000 images of 28x28.
        """
        rows = self.images.reshape(len(self.images), -1).astype(np.float32)
        rows /= np.float32(self.scale)
        rows.flags.writeable = False
        return rows


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set for classification.

    Attributes:
        name: As given to `load`.
        train: The part to learn from.
        test: The part to judge by.
        classes: Number of classes; labels lie in 0..classes-1.
    """

    name: str
    train: Split
    test: Split
    classes: int

    @property
    def scale(self) -> int:
        """The largest grey level, the same in both parts: 255, or 16 for the digits."""
        return self.train.scale
