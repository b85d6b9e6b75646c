"""Cuts a piece of a stream where periods end.

Periods lie on a grid anchored at the beginning of the stream, and a piece may begin anywhere in
one, which is known only when the program runs. Shapes must be known before, so a piece is laid out
with room for every beginning, and a mask says what is there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Layout(NamedTuple):
    """Tokens in rows such that each row's valid tokens lie in one period.

    Attributes:
        tokens: (rows, slots, features); what is not valid is a token all the same, since zeros are
            where derivatives of what is made of them may not be finite.
        valid: (rows, slots).
        ends: (rows,): whether the row's last valid token is the last of its period.
        full: whether all rows are full and end their period, as far as known beforehand.
    """

    tokens: Float[Array, "rows slots features"]
    valid: Bool[Array, "rows slots"]
    ends: Bool[Array, " rows"]
    full: bool


def lay_out(
    x: Float[Array, "time features"], period: int, offset: Int[Array, ""] | None = None
) -> Layout:
    """Lays out a piece of at least one token.

    Args:
        x: the piece.
        period: of the grid, in tokens.
        offset: how many tokens of the present period came before the piece; None: none, and it is
            known beforehand, so that nothing is laid out in vain.
    """
    time = x.shape[0]
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
    """What was made of the tokens, in their order: the inverse of `lay_out`."""
    rows, slots, features = made.shape
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
