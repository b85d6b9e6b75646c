"""Host data: the batches of streams for the next ticks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._calls import arrays_only, call
from ._problem import Problem
from ._stream import StreamEnded, check, levels_named, read


def feed(problem: Problem, tick: int, ticks: int) -> dict[int, Any]:
    """Batches of every stream for ticks `tick` to `tick + ticks - 1`, those that somebody looks
    at."""
    copies = problem.nest.copies
    fed = {}
    for number, stream in problem.streams.items():
        stride = problem.stride(stream)
        due = [t for t in range(tick, tick + ticks) if (t + 1) % stride == 0]
        where = problem.whose(stream)
        try:
            rows = call(where, read, stream, due, stride, problem.nest.draws)
            if problem.nest.paired:
                rows = [[batch for batch in row for _ in range(2)] for row in rows]
            rows = [row[0] if copies is None else _stack(row, where) for row in rows]
            stacked = _stack(rows, where)
        except (StreamEnded, ValueError) as error:
            label = levels_named(problem.readers(stream))
            if isinstance(error, StreamEnded):
                raise StreamEnded(error.batches, error.ticks, f"{label}: {error}") from None
            raise ValueError(f"{label}: {error}") from error
        fed[number] = (np.int32(tick), stacked)
    return fed


def check_streams(problem: Problem, fed: dict[int, Any]) -> None:
    """Refuses, at `init`, streams that are no functions of the index."""
    told = []
    for number, stream in problem.streams.items():
        tick = problem.stride(stream) - 1  # the first at which somebody looks
        at = 0 if problem.nest.copies is None else (0, 0)
        first = jax.tree.map(lambda a, at=at: a[at], fed[number][1])
        index = stream.indices(tick, tick + 1, problem.nest.draws)[0]
        told.append((problem.readers(stream), stream, index, first))
    check(told)


def _stack(batches: list[Any], where: str) -> Any:
    arrays_only(f"a batch of {where}", batches[0])
    try:
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(a) for a in leaves]), *batches)
    except ValueError as error:
        raise ValueError(
            f"{where}: a Stream's batches must all have one structure, shape and dtype: {error}"
        ) from error


def shapes(tree: Any) -> Any:
    """The shapes and dtypes of arrays."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), jnp.result_type(a)), tree)
