"""Which of several runs side by side are lost: the rest go on."""

import warnings
from typing import Any

import jax
import numpy as np

from . import _finite
from ._finite import ALREADY, Looked, Piece, Stop
from ._machine import Machine
from ._state import State

_NAMED = 4  # runs that a warning says everything about


def examine(
    machine: Machine,
    piece: Piece,
    looked: Looked,
    state: State,
    count: int,
    infos: Any,
    ends: np.ndarray,
    gone: set[int],
) -> Stop | None:
    """`_finite.examine` for each of the runs that are not lost yet: warns of those that are lost
    now, and returns a stop where no run is left.

    Args:
        machine, piece, looked, state, count: as there, of all runs together.
        infos: reports, whose second axis is that of runs.
        ends: `lost`, (runs, levels, 2).
        gone: numbers of the runs that are lost; new ones are added.
    """
    found: dict[int, Stop] = {}
    for run in sorted(set(range(len(ends))) - gone):

        def again(state: State, count: int, run: int = run) -> tuple[State, Any, np.ndarray]:
            after, infos, lost = piece(state, count)
            return after, of_run(infos, run), lost[run]

        def closer(state: State, report: Any, run: int = run) -> Any:
            return report if machine.norms else of_run(looked(state, report), run)

        rest = (state, count, of_run(infos, run), ends[run], f" of run {run}")
        stop = _finite.examine(machine, again, closer, *rest)
        if stop is not None:
            found[run] = stop
    if not found:
        return None
    gone.update(found)
    if len(gone) < len(ends):
        _warn(machine, found, len(ends))
        return None
    last = max(found, key=lambda run: found[run].step)
    repair = f"{found[last].repair}. It is run {last}, the last of {len(ends)} that was not lost"
    return found[last]._replace(repair=repair)


def of_run(infos: Any, run: int) -> Any:
    """The reports of one run."""
    return jax.tree.map(lambda a: a[:, run], infos)


def _warn(machine: Machine, found: dict[int, Stop], runs: int) -> None:
    """Of each run once; of those that were lost when the call began, once in the nest's life."""
    new = []
    for run, stop in found.items():
        if stop.repair != ALREADY or ("lost", run) not in machine.warned:
            new.append(run)
        machine.warned.add(("lost", run))
    if not new:
        return
    told = []
    for run in new[:_NAMED]:
        stop = found[run]
        step = int(stop.state.tick) // machine.ticks_per_step
        told.append(
            f"run {run} (level {stop.level!r}: its {stop.what} is not finite in step {step})"
        )
    more = f" and {len(new) - _NAMED} more, {new[_NAMED:]}" if len(new) > _NAMED else ""
    warnings.warn(
        f"of {runs} runs side by side, these are lost: {', '.join(told)}{more}. The others go on; "
        f"{found[new[0]].repair}",
        stacklevel=6,
    )
