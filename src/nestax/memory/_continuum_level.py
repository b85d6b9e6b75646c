"""How a level of a continuum memory reads and is written: its state, its clock and its steps."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from ._checks import described, holds, is_count, known_number
from ._grid import begin_anew, lay_out, spoiled, take_back
from ._loop import checkpointed_scan
from ._masks import Mask, blank, documents
from ._parts import linear, rms_norm, wide, widened


class ContinuumState(NamedTuple):
    """State of `ContinuumMemory` along a stream; one entry per level.

    Attributes:
        weights: the present weights of each level, float32 at least.
        gathered: the sum of the gradients of the present period, shaped like the weights.
        tick: tokens since the level's period began, int32; in the nested variant since the level
            was last set back.
    """

    weights: tuple[PyTree, ...]
    gathered: tuple[PyTree, ...]
    tick: Int[Array, " levels"]


class Masks(NamedTuple):
    """The masks of a piece, see `ContinuumMemory.__call__`."""

    valid: Mask | None
    reset: Mask | None
    max_documents: int | None

    @property
    def none(self) -> bool:
        """Whether all tokens are there, and of one document."""
        return self.valid is None and self.reset is None


def start_of(memory: Any, s: int) -> PyTree:
    """The weights of level s at the beginning of a stream."""
    weights = eqx.filter(memory.levels[s], eqx.is_inexact_array)
    return jax.tree.map(lambda w: w.astype(wide(w.dtype)), weights)


def cycle_of(memory: Any, s: int) -> int:
    """After how many tokens a level is as at the beginning, but for its weights."""
    slower = [p for p in memory.periods if p > memory.periods[s]]
    return min(slower) if memory.variant == "nested" and slower else memory.periods[s]


def read_level(
    memory: Any, s: int, x: Array, state: ContinuumState, offset: Array | None, masks: Masks
) -> tuple[Array, PyTree, PyTree, Array]:
    """What level s adds to tokens, its weights, what it gathered, and its tick."""
    static = eqx.filter(memory.levels[s], eqx.is_inexact_array, inverse=True)
    norm, time = memory.norms[s], x.shape[0]
    inputs = widened(x if norm is None else rms_norm(x, norm))

    def said_of(weights: PyTree, inputs: Array) -> Array:
        return jax.vmap(cast(Any, eqx.combine(weights, static)))(inputs)

    weights, gathered, tick = state.weights[s], state.gathered[s], state.tick[s]
    anew = None
    if masks.reset is not None:
        anew = start_of(memory, s), jax.tree.map(jnp.zeros_like, gathered)
    if memory.target is None or not time:
        said = said_of(weights, inputs)
        if masks.reset is not None and anew is not None and offset is not None:
            # Documents that begin here are read at the start, not at what was learnt before.
            document = documents(masks.reset)
            said = jnp.where(
                jnp.broadcast_to((document == 0)[:, None], said.shape),
                said,
                said_of(anew[0], inputs),
            )
            fresh = document[-1] > 0
            weights, gathered = begin_anew(fresh, anew, (weights, gathered))
            tick = jnp.where(fresh, 0, tick)
        return blank(said, masks.valid), weights, gathered, tick
    target = widened(memory.target[s])
    period, cycle = memory.periods[s], cycle_of(memory, s)
    within = None if offset is None else offset % period
    layout = lay_out(inputs, period, within if masks.none else offset, *masks)
    marks = layout.documents
    if marks is None:
        # The tick at the end of each row, if the row is full; to know where contexts end.
        row = jnp.arange(len(layout.ends)) + 1 + tick // period
        renew, begins, tick = row * period % cycle == 0, None, (tick + time) % cycle
    else:
        renew, tick = marks.after % cycle == 0, marks.position % cycle
        begins = None if masks.reset is None else marks.begins

    def visit(carry: tuple[PyTree, PyTree], row: Any) -> tuple[tuple[PyTree, PyTree], Array]:
        tokens, valid, due, renew, begins = row
        weights, gathered = begin_anew(begins, anew, carry)
        valid = jnp.broadcast_to(valid[:, None], tokens.shape)
        said, pull = jax.vjp(lambda w: said_of(w, tokens), weights)
        error = (said - linear(target, tokens)) / tokens.shape[1]
        (gradient,) = pull(jnp.where(valid, error, jnp.zeros_like(error)))
        gathered = jax.tree.map(add, gathered, gradient)
        due = None if layout.full else due
        return write_level(memory, s, weights, gathered, due, renew, period), said

    rows = (layout.tokens, layout.valid, layout.ends, renew, begins)
    (weights, gathered), said = checkpointed_scan(visit, (weights, gathered), rows)
    said = take_back(said, layout, time, period, within)
    weights, gathered = spoiled((weights, gathered), layout)
    return said, weights, gathered, tick


def write_level(
    memory: Any, s: int, weights: PyTree, gathered: PyTree, due: Any, renew: Any, count: Any
) -> tuple[PyTree, PyTree]:
    """Where due (None: always) one step; or, where a context ends, a new beginning.

    A branch rather than a choice between values: what is not due costs nothing then, and
    `nestax.level_table` finds the level's frequency.
    """
    anew = cycle_of(memory, s) != memory.periods[s]

    def move(weights: PyTree, gathered: PyTree) -> tuple[PyTree, PyTree]:
        gradient = gathered
        if memory.accumulate == "mean":
            gradient = jax.tree.map(lambda g: g / count, gathered)
        rate = memory.constant_rate[s] if memory.rate is None else memory.rate[s]  # type: ignore
        factor = rate
        if memory.clip is not None:
            leaves = jax.tree.leaves(gradient)
            square = sum((jnp.sum(jnp.square(g)) for g in leaves), start=jnp.zeros(()))
            factor = rate * jax.lax.rsqrt(1 + square / memory.clip**2)
        new = jax.tree.map(lambda w, g: (w - factor * g).astype(w.dtype), weights, gradient)
        if anew:
            new = jax.tree.map(lambda n, w: jnp.where(renew, w, n), new, start_of(memory, s))
        return new, jax.tree.map(jnp.zeros_like, gathered)

    if due is None:
        return move(weights, gathered)
    return jax.lax.cond(due, move, lambda *rest: rest, weights, gathered)


def add(total: Array, more: Array) -> Array:
    return total + more.astype(total.dtype)


def check_periods(name: str, periods: Any) -> tuple[int, ...]:
    """Refuses all but one or more whole numbers of tokens.

    Args:
        name: of the layer, for the error.
        periods: as given by the user.
    """
    several = tuple(periods) if np.iterable(periods) else ()
    if not several or not all(is_count(period) for period in several):
        raise ValueError(
            f"{name}: periods must be one or more numbers of tokens, such as (16, 64), whole and "
            f"each at least 1, got {periods!r}"
        )
    return tuple(int(period) for period in several)


def check_rates(name: str, rate: Any, count: int) -> tuple[float, ...]:
    """Refuses all but one step size, or one for each level; returns one for each."""
    several = [rate] * count if not np.iterable(rate) else list(rate)
    rates = [None if isinstance(r, str) else known_number(r) for r in several]
    if len(rates) != count or not all(r is not None and 0 <= r < math.inf for r in rates):
        raise ValueError(
            f"{name}: rate must be one finite number, at least 0, or one for each of the {count} "
            f"levels, got {rate!r}"
        )
    return tuple(r for r in rates if r is not None)


def check_levels(
    name: str, levels: Any, norms: Any, count: int, width: int | None
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Refuses levels that cannot be written, and norms that are not theirs.

    Args:
        name: of the layer, for the error.
        levels: a sequence of functions with weights, as given by the user.
        norms: a sequence of scales (width,), or of None for no norm; None: no norms.
        count: of periods.
        width: of the tokens, if it is known.

    Returns:
        Levels and norms, one of each for each period.
    """
    if not isinstance(levels, Sequence) or isinstance(levels, str):
        raise ValueError(
            f"{name}: levels (of from_mlps: mlps) must be a sequence of MLPs, one for each "
            f"period, got a {type(levels).__name__}"
        )
    norms = [None] * len(levels) if norms is None else norms
    some = isinstance(norms, Sequence) and not isinstance(norms, str)
    for norm in norms if some else ():
        shape = getattr(norm, "shape", ())
        fits = len(shape) == 1 and width in (None, shape[0]) and holds(norm, jnp.floating)
        some &= norm is None or fits
    if not some:
        raise ValueError(
            f"{name}: norms must be a sequence, for each level floating-point scales of shape "
            f"({width or 'width'},), or None for no norm; got {described(norms)}"
        )
    if not len(levels) == len(norms) == count:
        raise ValueError(
            f"{name}: one period, one level and one norm (or None) belong together, got "
            f"{count} periods, {len(levels)} levels and {len(norms)} norms"
        )
    for index, level in enumerate(levels):
        weights = jax.tree.leaves(eqx.filter(level, eqx.is_inexact_array))
        if not weights or not callable(level):
            raise ValueError(
                f"{name}: level {index} of levels must be a function with weights that can be "
                f"written, got {level!r:.80}; pass an equinox module, or "
                "jax.tree_util.Partial(function, weights)"
            )
    return tuple(levels), tuple(norms)


def check_gradients(name: str, gradients: Any, weights: tuple[PyTree, ...]) -> None:
    """Refuses gradients that are not like the weights of all levels."""
    count = len(gradients) if isinstance(gradients, Sequence) else type(gradients).__name__
    if count != len(weights):
        raise ValueError(
            f"{name}: gradients must be those of {len(weights)} levels, like state.weights, got "
            f"{count}"
        )
    for index, (gradient, weight) in enumerate(zip(gradients, weights, strict=True)):
        same = jax.tree.structure(gradient) == jax.tree.structure(weight)
        given, wanted = ([np.shape(a) for a in jax.tree.leaves(t)] for t in (gradient, weight))
        if not same or given != wanted:
            raise ValueError(
                f"{name}: gradients[{index}] must have the structure and shapes of "
                f"state.weights[{index}], {wanted}, got {given}"
            )
