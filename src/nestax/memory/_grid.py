"""Cuts a piece of a stream where periods end, and where documents begin.

Periods lie on a grid anchored at the beginning of the stream, and a piece may begin anywhere in
one, which is known only when the program runs. Shapes must be known before, so a piece is laid out
with room for every beginning, and a mask says what is there.

With masks the grid begins again at every document, and tokens that are not valid have no place on
it. Each row then holds tokens of one period of one document.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from ._masks import Mask


class Documents(NamedTuple):
    """Where documents begin in the rows of a layout with masks.

    Attributes:
        begins: (rows,): whether a document begins with the row, so that the state before the row is
            that of the beginning of a stream. A document that begins behind the last valid token
            has a row without valid tokens.
        after: (rows,): tokens of the row's document up to the end of the row, counted from
            `offset` where the document began before the piece. Rows that nothing is in come last
            and repeat `position`.
        position: the same at the end of the piece.
        place: (time,): of each token in the rows one after another; beyond them if not valid.
        too_many: whether there are more documents than there is room for.
    """

    begins: Bool[Array, " rows"]
    after: Int[Array, " rows"]
    position: Int[Array, ""]
    place: Int[Array, " time"]
    too_many: Bool[Array, ""]


class Layout(NamedTuple):
    """Tokens in rows such that each row's valid tokens lie in one period.

    Attributes:
        tokens: (rows, slots, features); what is not valid is a token all the same, since zeros are
            where derivatives of what is made of them may not be finite.
        valid: (rows, slots).
        ends: (rows,): whether the row's last valid token is the last of its period.
        full: whether all rows are full and end their period, as far as known beforehand.
        documents: None without masks.
    """

    tokens: Float[Array, "rows slots features"]
    valid: Bool[Array, "rows slots"]
    ends: Bool[Array, " rows"]
    full: bool
    documents: Documents | None = None


def lay_out(
    x: Float[Array, "time features"],
    period: int,
    offset: Int[Array, ""] | None = None,
    valid: Mask | None = None,
    reset: Mask | None = None,
    max_documents: int | None = None,
) -> Layout:
    """Lays out a piece of at least one token.

    Args:
        x: the piece. What tokens that are not valid hold is not looked at.
        period: of the grid, in tokens.
        offset: how many tokens of the present period came before the piece; None: none, and it is
            known beforehand, so that nothing is laid out in vain. With masks it may also be the
            number of tokens of the present document, modulo any multiple of the period.
        valid: tokens that are there; None: all.
        reset: tokens with which documents begin, also if they are not valid themselves; None: none.
        max_documents: how many documents begin in the piece at most, if `reset` is traced: rows are
            made for so many. None: one for each token.
    """
    time = x.shape[0]
    if valid is not None or reset is not None:
        return _with_masks(x, period, offset, valid, reset, max_documents)
    if time == 1 or period == 1:
        ends = jnp.asarray(0 if offset is None else offset) == period - 1
        everywhere = jnp.ones((time, 1), bool)
        return Layout(x[:, None], everywhere, jnp.broadcast_to(ends, (time,)), period == 1)
    if offset is None:
        slots = min(period, time)
        rows = -(-time // slots)
        filling = jnp.broadcast_to(x[0], (rows * slots - time, x.shape[1]))
        tokens = jnp.concatenate([x, filling]).reshape(rows, slots, -1)
        valid = (jnp.arange(rows * slots) < time).reshape(rows, slots)
        ends = (jnp.arange(rows) + 1) * period <= time
        return Layout(tokens, valid, ends, time % period == 0)
    if time < period:
        # At most one end: every token twice is cheaper than a whole period for each part.
        before = jnp.arange(time) < period - offset
        ends = jnp.stack([offset + time >= period, jnp.zeros((), bool)])
        return Layout(jnp.stack([x, x]), jnp.stack([before, ~before]), ends, False)
    rows = -(-(time + period - 1) // period)
    room = jnp.broadcast_to(x[0], (rows * period, x.shape[1]))
    tokens = jax.lax.dynamic_update_slice(room, x, (offset, jnp.zeros_like(offset)))
    place = jnp.arange(rows * period)
    valid = (place >= offset) & (place < offset + time)
    ends = (jnp.arange(rows) + 1) * period <= offset + time
    return Layout(tokens.reshape(rows, period, -1), valid.reshape(rows, period), ends, False)


def take_back(
    made: Float[Array, "rows slots features"],
    layout: Layout,
    time: int,
    period: int,
    offset: Int[Array, ""] | None = None,
) -> Float[Array, "time features"]:
    """What was made of the tokens, in their order: the inverse of `lay_out`.

    With masks: zeros for tokens that are not valid, and NaN for all of too many documents.
    """
    rows, slots, features = made.shape
    if layout.documents is not None:
        tokens = made.reshape(rows * slots, features)
        tokens = tokens.at[layout.documents.place].get(mode="fill", fill_value=0)
        return spoiled(tokens, layout)
    if time == 1 or period == 1:
        return made[:, 0]
    if offset is None:
        return made.reshape(rows * slots, features)[:time]
    if time < period:
        first = jnp.broadcast_to(layout.valid[0][:, None], (time, features))
        return jnp.where(first, made[0], made[1])
    return jax.lax.dynamic_slice(
        made.reshape(rows * slots, features), (offset, jnp.zeros_like(offset)), (time, features)
    )


def spoiled(tree: Any, layout: Layout) -> Any:
    """Numbers made from a layout: NaN instead if it had no room for all documents."""
    if layout.documents is None:
        return tree
    bad = layout.documents.too_many

    def spoil(a: Any) -> Any:
        floating = jnp.issubdtype(a.dtype, jnp.inexact)
        return jnp.where(bad, jnp.full_like(a, jnp.nan), a) if floating else a

    return jax.tree.map(spoil, tree)


def begin_anew(begins: Bool[Array, ""] | None, initial: Any, state: Any) -> Any:
    """The state before a row or token: the initial one, or if that is None zeros, where a document
    begins; with `begins=None` the state itself."""
    if begins is None:
        return state
    initial = jax.tree.map(jnp.zeros_like, state) if initial is None else initial
    return jax.tree.map(lambda a, b: jnp.where(begins, a, b), initial, state)


def fill(x: Float[Array, "time ..."], valid: Mask | None) -> Float[Array, "time ..."]:
    """The first valid token, or ones, where a token is not valid: for what has no derivative at
    zero. What stood there reaches nothing."""
    if valid is None or not x.shape[0]:
        return x
    valid = jnp.asarray(valid)
    first = jnp.where(valid.any(), x[jnp.argmax(valid)], jnp.ones_like(x[0]))
    there = valid.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(there, x, jnp.expand_dims(first, 0))


def document_starts(
    time: int, valid: Mask | None, reset: Mask | None
) -> tuple[Bool[Array, " time"], Bool[Array, ""]]:
    """The first valid token of each document that begins in a piece.

    Returns:
        (time,) of tokens; and whether a document begins behind the last valid token.
    """
    if reset is None:
        return jnp.zeros(time, bool), jnp.zeros((), bool)
    begun = jnp.cumsum(jnp.asarray(reset), dtype=jnp.int32)
    if valid is None:
        return jnp.asarray(reset), jnp.zeros((), bool)
    valid = jnp.asarray(valid)
    seen = jax.lax.cummax(jnp.where(valid, begun, 0))
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), seen])
    return valid & (begun > before[:-1]), begun[-1:].max(initial=0) > before[-1]


def _with_masks(
    x: Array,
    period: int,
    offset: Array | None,
    valid: Mask | None,
    reset: Mask | None,
    max_documents: int | None,
) -> Layout:
    time = x.shape[0]
    room = _room(time, reset, max_documents)
    # Each document that begins, and that which began before, may end with a row that is not full.
    unknown = 0 if offset is None else period - 1
    rows = min((time + unknown + (room + 1) * (period - 1)) // period, time)
    slots = min(period, time)
    starts, pending = document_starts(time, valid, reset)
    valid = jnp.ones(time, bool) if valid is None else jnp.asarray(valid)
    count = jnp.cumsum(valid, dtype=jnp.int32)
    before = count - valid  # valid tokens in the piece before each
    offset = jnp.zeros((), jnp.int32) if offset is None else jnp.asarray(offset, jnp.int32)
    position = before - jax.lax.cummax(jnp.where(starts, before, -offset))
    opens = valid & (starts | (position % period == 0) | (before == 0))
    row = jnp.cumsum(opens, dtype=jnp.int32) - 1
    slot = before - jax.lax.cummax(jnp.where(opens, before, 0))
    nowhere = rows * slots
    row = jnp.where(valid, row, rows)
    place = jnp.where(row < rows, row * slots + slot, nowhere)

    first = jnp.argmax(valid)
    source = jnp.full(nowhere, first).at[place].set(jnp.arange(time), mode="drop")
    there = jnp.zeros(nowhere, bool).at[place].set(True, mode="drop")
    # Where no token is valid any finite one will do.
    tokens = jnp.where(count[-1] > 0, x[source], jnp.ones_like(x[:1, :1]))

    final = valid & (count == count[-1])  # the last valid token, if any
    last = jnp.where(final.any(), jnp.max(jnp.where(final, position + 1, 0)), offset)
    last = jnp.where(pending, 0, last)
    after = jnp.full(rows, -1, jnp.int32).at[row].max(position + 1, mode="drop")
    used = after >= 0
    begins = jnp.zeros(rows, bool).at[jnp.where(starts, row, rows)].set(True, mode="drop")
    begins = begins | (pending & (jnp.arange(rows) == jnp.sum(opens)))
    too_many = jnp.sum(starts) + pending > room
    marks = Documents(begins, jnp.where(used, after, last), last, place, too_many)
    ends = used & (after % period == 0)
    rows_of = tokens.reshape(rows, slots, -1)
    return Layout(rows_of, there.reshape(rows, slots), ends, False, marks)


def _room(time: int, reset: Mask | None, max_documents: int | None) -> int:
    """How many documents may begin in the piece."""
    if reset is None:
        return 0
    if not isinstance(reset, Tracer):
        return int(np.sum(np.asarray(reset)))
    return time if max_documents is None else max_documents
