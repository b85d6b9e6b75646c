"""Sweeps: hyperparameters chosen on seeds of their own, runs side by side in one program."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

_TUNING = 10_000  # seeds from here on are for tuning
BEYOND = 2  # batches of settings tried after the first, at most


def tuning(seed: int) -> int:
    """The number of a seed that is tuned by, not judged by."""
    return _TUNING + seed


def is_tuning(seed: int) -> bool:
    """Whether a seed is one to tune by."""
    return seed >= _TUNING


def rates(centre: int | float, decades: int | float, count: int) -> list[float]:
    """Learning rates around a centre, so many decades apart, smallest first."""
    return [centre * 10 ** (decades * (i - (count - 1) / 2)) for i in range(count)]


def beyond(tried: Iterable[Any], best: Any, decades: int | float) -> list[float]:
    """The learning rate to try next, so many decades away, if the best of those tried is the
    smallest or the largest of them; none where only one was tried."""
    tried = set(tried)
    step = (best == max(tried)) - (best == min(tried))
    return [best * 10 ** (decades * step)] if step else []


def tuned(
    first: Sequence[Any],
    attempt: Callable[[Sequence[Any]], Sequence[Any]],
    best_of: Callable[[Mapping[Any, Any]], Any],
    further: Callable[[Mapping[Any, Any], Any], Sequence[Any]],
) -> tuple[dict[Any, Any], Any]:
    """Evaluates `first`, then up to two more batches proposed by `further` from the best so far.

    Args:
        first: settings to try, hashable.
        attempt: settings -> a score for each.
        best_of: (setting -> score) -> the best setting.
        further: (setting -> score, the best setting) -> settings to try next, as `beyond` proposes.

    Returns:
        setting -> score, in the order in which they were tried; and the best setting.
    """
    tried, best, fresh = {}, None, first
    for _ in range(1 + BEYOND):
        if fresh:
            tried |= dict(zip(fresh, attempt(fresh), strict=True))
            best = best_of(tried)
            fresh = further(tried, best)
    return tried, best


def side_by_side(
    program: Callable[..., Any], together: int, *columns: Sequence[Any]
) -> dict[str, Any]:
    """What a compiled program of `together` runs finds for any number of them.

    Args:
        program: (one list for each column, of length `together`) -> pytree of arrays with a leading
            axis of runs. It is always given as many, so that it compiles once.
        together: runs in one call.
        columns: the runs' rates, seeds and so on, of one length.

    Returns:
        numpy arrays with a leading axis of runs.
    """
    count, found = len(columns[0]), []
    for begin in range(0, count, together):
        index = [min(begin + i, count - 1) for i in range(together)]
        made = program(*([column[i] for i in index] for column in columns))
        fresh = min(together, count - begin)
        found.append(jax.tree.map(lambda a, n=fresh: np.asarray(a)[:n], made))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)
