"""Host data: batches that a Python function makes, or an iterator gives, one per tick."""

import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ._signatures import check_arguments


class StreamEnded(ValueError):
    """The iterator behind a `Stream.of` has no more batches.

    Attributes:
        batches: number of batches that it gave.
        ticks: number of ticks that they last for, counted from 0.
        state: raised by `Nest.run`: the state after the last whole step; None elsewhere.
        info: raised by `Nest.run`: everything reported up to that state; None elsewhere.
    """

    def __init__(self, batches: int, ticks: int = 0, message: str = ""):
        self.batches, self.ticks = batches, ticks
        self.state: Any = None
        self.info: Any = None
        super().__init__(message or f"the iterator of a Stream ended after {batches} batches")


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """A context whose batches are made on the host by a function of an index.

    A run can go on anywhere, because the index alone determines the batch. `Nest.run` calls the
    function ahead of time, in a thread of its own. For an iterator, such as a data loader, use
    `Stream.of`.

    Example:
        ```python
        data = nx.Stream(lambda index: jnp.float32(index))
        loss = lambda values, batch: (values["w"] - batch) ** 2
        nest = nx.Nest([nx.Level("w", loss, optax.sgd(0.5), data)])
        state, info = nest.run(nest.init({"w": 0.0}, jax.random.key(0)), steps=3)
        print(state.values["w"])  # 2.0
        ```

    Attributes:
        batch: `index -> batch`, a pytree of arrays with the same shapes and dtypes for every index.
            The index is the number of the tick, from 0; with copies it is `tick * copies + copy`.
            The function must give the same batch for the same index: `Nest.init` calls it twice
            with the first one.

    Raises:
        TypeError: `batch` is not a function.
        ValueError: `batch` takes other arguments than an index.
    """

    batch: Callable[[int], Any]

    def __post_init__(self):
        if not callable(self.batch):
            raise TypeError(
                f"Stream: expected a function index -> batch, got {type(self.batch).__name__}; "
                "for an iterator, or anything that is iterated, use Stream.of(...)"
            )
        check_arguments("Stream", "batch", self.batch, ("index",))

    @classmethod
    def of(cls, batches: Any, keep: int = 16) -> "Stream":
        """A stream of the batches that an iterator gives, in their order; each of them is used.

        The n-th batch that the nest reads is the n-th of the iterator, counted from 0 at tick 0. A
        level with `every=10` gets a new one at each of its updates, and with copies each copy gets
        its own. A run that goes on from a saved state skips the batches read before it. An iterator
        that is new in each process must therefore give the same batches in the same order.

        Example:
            ```python
            loss = lambda values, batch: (values["w"] - batch) ** 2
            data = nx.Stream.of([jnp.float32(4.0), jnp.float32(6.0)])
            nest = nx.Nest([nx.Level("w", loss, optax.sgd(0.25), data)])
            state, info = nest.run(nest.init({"w": 0.0}, jax.random.key(0)), steps=2)
            print(state.values["w"])  # 4.0
            ```

        Args:
            batches: an iterator; or an object that can be iterated more than once, such as a list
                or a data loader; or a function without arguments that returns an iterator. The last
                two begin anew when a state needs batches that are no longer kept.
            keep: number of batches, of those read last, that are kept on the host. The nest raises
                it to the number that two of its calls read.

        Returns:
            The stream, to be given as a level's `context`.

        Raises:
            TypeError: `batches` cannot be iterated.
            ValueError: `keep` is not a whole number of at least 1. While reading: a batch that is
                no longer kept, from an iterator that cannot begin anew, or from one that then gives
                other batches.
            StreamEnded: while reading: there are no more batches.
        """
        return cls(Iterated(batches, keep))

    @property
    def counted(self) -> bool:
        """Whether the index counts the batches that are read (`Stream.of`), instead of ticks."""
        return isinstance(self.batch, Iterated)

    def indices(self, tick: int, stride: int, copies: int | None) -> Sequence[int]:
        """The indices of the batches that are read at a tick.

        Args:
            tick: the tick, from 0.
            stride: number of ticks between two reads.
            copies: number of copies, or None.

        Returns:
            A range with one index for each copy; with a single index without copies.
        """
        row = (tick + 1) // stride - 1 if self.counted else tick
        return range(row, row + 1) if copies is None else range(row * copies, (row + 1) * copies)

    def __call__(self, task: Any, key: Any) -> Any:
        raise TypeError("a Stream is read by its nest, not called")


class Iterated:
    """The batches of an iterator by index. The latest are kept, copied, since loaders may write the
    next batch where the last one was."""

    def __init__(self, source: Any, keep: int):
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise ValueError(f"Stream.of: keep is a number of batches, at least 1, got {keep!r}")
        if not isinstance(source, Iterable) and not hasattr(source, "__getitem__"):
            if not callable(source):
                raise TypeError(
                    "Stream.of: expected an iterator, something to iterate over, or a function "
                    f"that returns an iterator, got {type(source).__name__}"
                )
            self._begin: Callable[[], Iterator[Any]] = lambda: iter(source())  # type: ignore
        else:
            self._begin = lambda: iter(source)  # type: ignore
        self.once = isinstance(source, Iterator)
        self.source, self._keep = source, keep
        self._lock = threading.Lock()  # a run reads ahead in a thread
        self._iterator: Iterator[Any] | None = None
        self._kept: dict[int, Any] = {}
        self._first: Any = None  # batch 0, to recognise it after beginning anew
        self._next = 0

    def reserve(self, count: int) -> None:
        """Keeps at least two calls' worth, each of so many batches: the one that runs, which may
        have to be run again, and the one read ahead."""
        self._keep = max(self._keep, 2 * count)

    def __call__(self, index: int) -> Any:
        with self._lock:
            if index < self._next and index not in self._kept:
                self._anew(index)
            while self._next <= index:
                self._read()
            return self._kept[index]

    def _read(self) -> None:
        if self._iterator is None:
            self._iterator = self._begin()
        try:
            batch = next(self._iterator)
        except StopIteration:
            if self._next == 0 and self._first is not None:
                raise ValueError(
                    "a Stream.of began anew and found no batch: the function it was given returns "
                    "the same iterator each time; return a new one"
                ) from None
            raise StreamEnded(self._next) from None
        batch = jax.tree.map(np.array, batch)
        if self._next == 0 and not self.once:
            if self._first is not None and not _equal(self._first, batch):
                raise ValueError(
                    "a Stream.of began anew, and its first batch is another one: an order or an "
                    "augmentation drawn anew each time would change what a state was trained on. "
                    "Seed it, or give a function of the index, Stream(index -> batch)"
                )
            self._first = batch
        self._kept[self._next] = batch
        self._next += 1
        self._kept.pop(self._next - 1 - self._keep, None)

    def _anew(self, index: int) -> None:
        if self.once:
            first = min(self._kept)
            raise ValueError(
                f"a Stream.of cannot go back to batch {index}: its iterator gives each batch once, "
                f"and only those from {first} on are kept. Give Stream.of something that can be "
                "iterated again, such as a list, a data loader or a function that returns an "
                "iterator; or keep more batches with Stream.of(..., keep=n); or make a new stream "
                "and nest for a new run"
            )
        self._iterator, self._next, self._kept = None, 0, {}


def read(stream: Stream, due: Sequence[int], stride: int, copies: int | None) -> list[list[Any]]:
    """The batches of a stream at the ticks `due`: a list for each tick, of one for each copy.

    Raises:
        StreamEnded: an iterator ended; it knows for how many ticks its batches lasted.
        ValueError: an iterator behind a plain Stream ended.
    """
    if isinstance(stream.batch, Iterated):
        stream.batch.reserve(len(due) * (copies or 1))
    try:
        return [[stream.batch(index) for index in stream.indices(t, stride, copies)] for t in due]
    except StreamEnded as end:
        whole = end.batches // (copies or 1)
        raise StreamEnded(end.batches, whole * stride) from None
    except StopIteration:
        raise ValueError(
            "its Stream's function raised StopIteration; it is a function of the index, and for an "
            "iterator there is Stream.of(iterator)"
        ) from None


def check(read: Sequence[tuple[tuple[str, ...], Stream, int, Any]]) -> None:
    """Refuses streams whose batches depend on who reads them when.

    Args:
        read: for each stream, the names of the levels that read it, an index, and the batch there.
    """
    for (names, a, *_), (others, b, *_) in itertools.combinations(read, 2):
        if a.counted and b.counted and a.batch.once and a.batch.source is b.batch.source:  # type: ignore
            raise ValueError(
                f"{levels_named(names + others)}: two streams take the batches of one iterator "
                "from each other; make one Stream.of and give it to all of them"
            )
    for names, stream, index, batch in read:
        if not stream.counted and not _equal(batch, stream.batch(index)):
            raise ValueError(
                f"{levels_named(names)}: its Stream gives another batch when index {index} is read "
                "again; draw it from the index, such as np.random.default_rng(index), or use "
                "Stream.of(iterator) for an iterator"
            )


def levels_named(names: Sequence[str]) -> str:
    return f"level{'s' if len(names) > 1 else ''} {' and '.join(map(repr, names))}"


def _equal(a: Any, b: Any) -> bool:
    (a, structure), (b, other) = jax.tree.flatten(a), jax.tree.flatten(b)
    pairs = [(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=False)]
    return structure == other and all(_same(x, y) for x, y in pairs)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
