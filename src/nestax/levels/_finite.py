"""Is everything finite? What stops a run, found at no cost to its steps (rule R12).

A call of the compiled chunk says once whether the state that it ends with is finite; losses and
norms of gradients are reported anyway. Only where one of them is not finite is the chunk run again,
up to the steps in question, to find the first that stops the run and the last state before it.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import _episodes, _processes
from ._declaration import flow_of
from ._level import Level
from ._machine import Machine
from ._side_by_side import each_of
from ._state import State

Piece = Callable[[State, int], tuple[State, Any, np.ndarray]]
"""`(state, steps) -> (state, infos, lost)`: some steps of the chunk done again."""
Looked = Callable[[State, Any], Any]
"""`(state, report) -> report`: that of the next step, norms included even if the nest has none."""
ALREADY = "it was not before that step either: begin from a finite state"


class Stop(NamedTuple):
    """Why a run stops.

    Attributes:
        step: how many steps of the piece are good.
        state: the state after them.
        level: the level to blame, by name.
        what: "loss", "gradient", "value" or "optimizer state".
        repair: what to do about it.
    """

    step: int
    state: Any
    level: str
    what: str
    repair: str


def lost(machine: Machine, before: State, after: State) -> jax.Array:
    """Whether each level's value and optimizer state, (levels, 2), have stopped being finite; of
    runs side by side (runs, levels, 2).

    Infinite entries that were so before are meant, such as those of a mask; optimizers begin with
    infinities of their own (the best loss so far) and are asked for NaN only. Episodes that are
    over, whose values the next step throws away, do not count.
    """
    if before.runs is not None:
        return each_of(lambda before, after: _lost_of(machine, before, after), before, after)
    return _lost_of(machine, before, after)


def _lost_of(machine: Machine, before: State, after: State) -> jax.Array:
    rows = []
    for level in machine.declaration.levels:
        alive = _alive(machine, level, after)
        old, new = (jax.tree.leaves(s.parts[level.name].trained) for s in (before, after))
        pairs = list(zip(old, new, strict=True))
        values = [jnp.isnan(b) | (jnp.isinf(b) & ~jnp.isinf(a)) for a, b in pairs]
        old, new = (jax.tree.leaves(s.optimizers[level.name]) for s in (before, after))
        pairs = [p for p in zip(old, new, strict=True) if jnp.issubdtype(p[0].dtype, jnp.inexact)]
        states = [jnp.isnan(b) & ~jnp.isnan(a) for a, b in pairs]
        rows.append(jnp.stack([_any(values, alive), _any(states, alive)]))
    return jnp.stack(rows)


def _any(flags: list[jax.Array], alive: Any) -> jax.Array:
    if alive is False:
        return jnp.zeros((), bool)
    if alive is not True:
        flags = [a & alive.reshape(alive.shape + (1,) * (a.ndim - alive.ndim)) for a in flags]
    return jnp.any(jnp.array([jnp.any(a) for a in flags])) if flags else jnp.zeros((), bool)


def _alive(machine: Machine, level: Level, state: State) -> Any:
    """Whether the level's episode (of each copy, if they differ) goes on after this state."""
    if level.start is None or not machine.declaration.ending(level):
        return True
    if level.name in state.episodes:
        return state.tick < state.episodes[level.name].ends
    horizon = machine.declaration.horizon(level)
    if _brief(machine, level):
        return False  # at the end of every step
    copies = jnp.arange(machine.copies) if machine.declaration.stagger else 0
    return (state.tick + _episodes.phase(machine.problem, copies)) % horizon != 0


def _brief(machine: Machine, level: Level) -> bool:
    """Whether an episode of the level ends with every step."""
    declaration = machine.declaration
    fixed = not (declaration.kept_episodes or machine.declaration.stagger)
    return fixed and machine.ticks_per_step % declaration.horizon(level) == 0


def examine(
    machine: Machine,
    piece: Piece,
    looked: Looked,
    state: State,
    count: int,
    infos: Any,
    ends: np.ndarray,
    who: str = "",
) -> Stop | None:
    """The first of `count` steps from `state` that stops the run, if any; warns of those that an
    optimizer has coped with.

    Args:
        machine: what the nest runs on.
        piece: the chunk, to be run again.
        looked: reports of single steps again, with norms.
        state: where it began.
        count: steps done.
        infos: reports of those steps.
        ends: `lost` for the state they end with.
        who: the run that this is about, for a warning, if there are several.
    """
    first = int(state.tick) // machine.ticks_per_step
    odd = np.zeros(count, bool)
    for level in machine.declaration.levels:
        for strange in _strange(infos[level.name]):
            odd |= strange.reshape(count, -1).any(axis=1)
    if not odd.any() and not ends.any():
        return None
    if not ends.any() and machine.norms and _lasting(machine) and not _unhandled(machine, infos):
        _cope(machine, infos, first, who)
        return None
    begun = piece(state, 0)[2]
    if begun.any():
        return _begun(machine, begun, state)
    done, here = 0, state
    for step in [*np.flatnonzero(odd).tolist(), count]:
        if step > done:
            reached, _, bad = piece(here, step - done) if step < count else (here, None, ends)
            if bad.any():
                return _between(machine, piece, looked, done, here, step)
            done, here = step, reached
        if step < count:
            after, report, bad = piece(here, 1)
            report = looked(here, report)
            if bad.any() or _unhandled(machine, report):
                return _blame(machine, done, here, report, bad)
            _cope(machine, report, first + done, who)
            done, here = done + 1, after
    return None


def _between(
    machine: Machine, piece: Piece, looked: Looked, done: int, here: Any, bad: int
) -> Stop:
    """The step that loses a state, after `done` good ones and before `bad`."""
    while bad - done > 1:
        middle = (done + bad) // 2
        reached, _, flags = piece(here, middle - done)
        if flags.any():
            bad = middle
        else:
            done, here = middle, reached
    _, report, flags = piece(here, 1)
    return _blame(machine, done, here, looked(here, report), flags)


def _strange(info: Any) -> list[np.ndarray]:
    """Which losses, and which norms if there are any, are not finite."""
    fields = (info.loss, info.gradient_norm)
    return [~np.isfinite(np.asarray(a)) for a in fields if a is not None]


def _unhandled(machine: Machine, infos: Any) -> bool:
    """Whether a loss is not finite although its gradient is: no optimizer can see that."""
    return any((loss & ~norm).any() for loss, norm in (_strange(infos[n]) for n in _names(machine)))


def _names(machine: Machine) -> list[str]:
    return [level.name for level in machine.declaration.levels]


def _lasting(machine: Machine) -> bool:
    """Whether a state that was lost at any step is still so at the end of a piece: no episode of
    several steps begins anew within it."""
    return all(
        level.start is None or not machine.declaration.ending(level) or _brief(machine, level)
        for level in machine.declaration.levels
    )


def with_norms(machine: Machine, fed: Any, state: Any, infos: Any) -> Any:
    """The report of the next step, norms included even if the nest reports none."""
    if machine.norms:
        return infos
    kept = machine.compiled
    if "looked" not in kept:
        program, last = copy.copy(machine.program), len(machine.declaration.periods) - 1
        program.norms = True
        kept["looked"] = jax.jit(lambda s, feed: machine.advance(s, feed, last, program)[1])
    return jax.tree.map(_processes.on_host, kept["looked"](state, fed))


def _cope(machine: Machine, infos: Any, first: int, who: str) -> None:
    """Warns, once for each level, of what its optimizer has coped with."""
    for level in machine.declaration.levels:
        kinds = zip(("loss", "gradient"), _strange(infos[level.name]), strict=False)
        for what, bad in kinds:
            if not bad.any() or ("finite", level.name) in machine.warned:
                continue
            machine.warned.add(("finite", level.name))
            update = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
            step = first + update * level.every // machine.ticks_per_step
            warnings.warn(
                f"level {level.name!r}: its {what} is not finite in step {step}{who}. The "
                "optimizers kept all values finite, so the run goes on; further ones are not "
                "announced",
                stacklevel=6 + bool(who),
            )


def _blame(machine: Machine, done: int, state: Any, infos: Any, flags: np.ndarray) -> Stop:
    """The first thing of a step that is not finite."""
    places = []
    for place, level in enumerate(machine.declaration.levels):
        bad = [np.any(a.reshape(len(a), -1), axis=1) for a in _strange(infos[level.name])]
        updates = np.flatnonzero(np.logical_or.reduce(bad))
        if len(updates):
            update = int(updates[0])
            what = "loss" if np.take(bad[0], update) else "gradient"
            places.append(((update + 1) * level.every, level.every, place, what))
    if places:
        _, _, place, what = min(places)
    else:
        place, what = _lost(flags)
    level = machine.declaration.levels[place]
    return Stop(done, state, level.name, what, _repair(level, what))


def _begun(machine: Machine, flags: np.ndarray, state: Any) -> Stop:
    """A run that was given a state that is not finite."""
    place, what = _lost(flags)
    name = machine.declaration.levels[place].name
    return Stop(0, state, name, what, ALREADY)


def _lost(flags: np.ndarray) -> tuple[int, str]:
    """The place of the first level that `lost` names, and what of it."""
    place, column = divmod(int(np.argmax(flags)), 2)
    return place, ("value", "optimizer state")[column]


def _repair(level: Level, what: str) -> str:
    if what == "loss":
        return "lower its learning rate or that of a level it depends on"
    if what == "gradient" and flow_of(level).follows:
        return (
            "its loss is finite, but the updates inside it are differentiated too, and Adam's "
            "square root has no derivative at a gradient of 0: give the inner optimizer "
            "eps_root=1e-8. Elsewhere look for a square root, a norm or a division at 0 in the "
            "objectives"
        )
    if what == "gradient":
        solve = "" if flow_of(level).partial else ", or choose another solver"
        return (
            "its loss is finite: look for a square root, a norm or a division at 0 in the "
            f"objectives, and add a small number there{solve}"
        )
    return (
        "its loss and gradient are finite: lower its learning rate, or see what its optimizer "
        "divides by"
    )
