"""Host data: batches that a Python function makes, one per tick."""

import dataclasses
from collections.abc import Callable
from typing import Any

from ._signatures import check_arguments


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """A context whose batches come from the host.

    A function of the index, not an iterator: a run goes on anywhere without a record of where its
    data had come to. `Nest.run` calls it ahead of time in a thread of its own.

    Attributes:
        batch: `index -> batch`, a pytree of arrays, the same shapes and dtypes for every index. The
            index is the number of the tick, from 0; with copies `tick * copies + copy`.
    """

    batch: Callable[[int], Any]

    def __post_init__(self):
        if not callable(self.batch):
            raise TypeError(
                f"Stream: expected a function index -> batch, got {type(self.batch).__name__}; "
                "for an iterator, index into its data set instead"
            )
        check_arguments("Stream", "batch", self.batch, ("index",))

    def __call__(self, task: Any, key: Any) -> Any:
        raise TypeError("a Stream is read by its nest, not called")
