"""Memories that are networks, over a sequence or a piece of a stream; see `_networks`."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ._arguments import Rate, check_option, per_token, real_array
from ._grid import Layout, begin_anew, lay_out, spoiled, take_back
from ._loop import checkpointed_scan
from ._masks import Mask, check_masks
from ._network_arguments import (
    Weights,
    check_alike,
    check_options,
    check_sequence,
    check_weights,
)
from ._networks import Activation, write_chunk
from ._objectives import Objective, error_of
from ._parts import is_count


class NetworkState(NamedTuple):
    """Where a stream stands.

    Attributes:
        now: the weights.
        surprise: the momentum of each, or None without momentum.
        anchor: the weights at the beginning of the present chunk; `now` where position is 0.
        position: tokens of the present chunk that have been seen, below the length of a chunk.
    """

    now: Weights
    surprise: Weights | None
    anchor: Weights
    position: Int[Array, ""]


def network_state(weights: Weights, momentum: bool = False) -> NetworkState:
    """The state of a stream that has not begun; float32 at least.

    Args:
        weights: matrices (out, in), first applied first.
        momentum: whether there is a surprise, zero at first.

    Raises:
        ValueError: weights that are no tuple of matrices which fit one another.
    """
    weights = check_weights("network_state", "weights", weights)
    now = tuple(w.astype(jnp.promote_types(w.dtype, jnp.float32)) for w in weights)
    surprise = tuple(jnp.zeros_like(w) for w in now) if momentum else None
    return NetworkState(now, surprise, now, jnp.zeros((), jnp.int32))


def network_scan(
    q: Float[Array, "time key"],
    k: Float[Array, "time key"],
    v: Float[Array, "time value"],
    weights: Weights | None,
    rate: Rate,
    retain: Rate | None = None,
    momentum: Rate | None = None,
    objective: str | Objective = "l2",
    rule: str = "gd",
    state: NetworkState | None = None,
    chunk: int = 16,
    read: str = "before",
    implementation: str | None = None,
    *,
    implicit: bool = True,
    clip: float | Array | None = None,
    skip: bool = False,
    activation: Activation = jax.nn.silu,
    towards: Weights | None = None,
    valid: Mask | None = None,
    reset: Mask | None = None,
    max_documents: int | None = None,
) -> tuple[Float[Array, "time value"], NetworkState]:
    """A memory written at every token of a sequence, gradients taken where each chunk begins.

    Chunks lie on a grid that begins with the stream: pieces of a sequence, with the state carried
    from one to the next, give what one pass gives wherever it is cut. Gradients reach the starting
    weights through every write; backward, chunks are computed again instead of kept.

    Args:
        q: queries.
        k: keys; of norm one unless the rule is implicit, see the module's docstring.
        v: values.
        weights: where a stream or document begins, matrices (out, in), first applied first; may be
            None where a state is given and nothing is reset.
        rate: eta, one number or one for each token, 0 or more.
        retain: a, 0 to 1; None: 1.
        momentum: mu, 0 to 1; None: no momentum.
        objective: `"dot"`, `"l2"` or (prediction, value) -> error.
        rule: `"gd"`, `"dgd"` or `"local"`.
        state: of the stream so far.
        chunk: tokens between two anchors; part of what is computed, the same for a whole stream.
        read: `"before"` the token's own write, or `"after"`.
        implementation: `"chunked"` or None; `"recurrent"` goes token by token.
        implicit: for `"dgd"` and `"local"`: rates eta / (1 + eta |x|^2), x each matrix's input.
        clip: errors are cut to this norm.
        skip: whether the memory adds its input.
        activation: elementwise, between matrices.
        towards: matrices like `weights` to which retention leads back, usually `weights`:
            W <- a W + (1 - a) W*. None: zero, as printed, from which an MLP does not come back.
        valid: (time,), whether a token is there. One that is not changes nothing and has no place
            in a chunk, whatever it holds, and its output is zero. None: all are there.
        reset: (time,), whether a document begins with a token: before that token the state is
            `network_state(weights)`. At a token that is not valid: with the next one that is.
        max_documents: how many documents begin in a piece at most, if `reset` is traced; if more
            do, all numbers are NaN. None: as many as tokens, which is slow. If `reset` is known
            they are counted.

    Returns:
        Outputs, in the dtype of q, k and v; and the state, in float32 at least.

    Raises:
        ValueError: matrices that do not fit one another or the sequence, known rates out of range,
            or an unknown option.
    """
    q, k, v = check_sequence("network_scan", q, k, v)
    check_option("network_scan", "implementation", implementation, "chunked", "recurrent", None)
    check_options("network_scan", rule, read, skip, activation, clip, q, v)
    objective = error_of(objective, "network_scan")
    if not is_count(chunk):
        raise ValueError(
            f"network_scan: chunk must be a number of tokens, 1 or more, got {chunk!r:.60}"
        )
    chunk, fresh = int(chunk), state is None
    weights, towards = check_alike("network_scan", q, v, weights=weights, towards=towards)
    if state is None:
        if weights is None:
            raise ValueError("network_scan: a stream begins with weights; pass them, or a state")
        state = network_state(weights, momentum is not None)
    if not isinstance(state, NetworkState):
        raise ValueError(
            f"network_scan: state must be a NetworkState, got {type(state).__name__}; pass the "
            "state after the piece before, or network_state(weights)"
        )
    if (state.surprise is None) != (momentum is None):
        raise ValueError(
            "network_scan: a state has surprise exactly where momentum is used; pass "
            "network_state(weights, momentum=True) with momentum, momentum=False without"
        )
    state = _checked(state, q, v, weights, towards)
    time = q.shape[0]
    valid, reset = check_masks("network_scan", time, valid, reset, max_documents)
    if reset is not None and weights is None:
        raise ValueError("network_scan: with reset a document begins with weights; pass them too")
    named = {"rate": (rate, math.inf), "retain": (retain, 1.0), "momentum": (momentum, 1.0)}
    rates = {n: a for n, a in named.items() if n == "rate" or a[0] is not None}
    given = jnp.result_type(q, k, v)
    columns = [
        per_token("network_scan", name, a, time, high, valid)[:, None]
        for name, (a, high) in rates.items()
    ]
    dtype = jnp.result_type(given, jnp.float32, *(a for a, _ in rates.values()), *state.now)
    columns = [a.astype(dtype) for a in columns]
    begin = jnp.asarray(state.position, jnp.int32)
    now, surprise, anchor = jax.tree.map(lambda a: a.astype(dtype), state[:3])
    state = NetworkState(now, surprise, anchor, begin)
    if time == 0:
        return jnp.zeros(v.shape, given), state
    towards = None if towards is None else tuple(w.astype(dtype) for w in towards)
    start = None
    if reset is not None and weights is not None:
        start = network_state(tuple(w.astype(dtype) for w in weights), momentum is not None)

    # Side by side, so that the grid is laid once.
    sizes = (q.shape[1], k.shape[1], v.shape[1])
    tokens = jnp.concatenate([*(a.astype(dtype) for a in (q, k, v)), *columns], axis=1)
    masks = (valid, reset, max_documents)
    if implementation == "recurrent" and valid is None and reset is None:
        position = (begin + jnp.arange(time)) % chunk
        layout = Layout(
            tokens[:, None], jnp.ones((time, 1), bool), position == chunk - 1, full=True
        )
    elif implementation == "recurrent":
        layout = lay_out(tokens, 1, begin, *masks)
        assert layout.documents is not None
        after = layout.documents.after
        layout = layout._replace(ends=layout.valid[:, 0] & (after % chunk == 0))
    else:
        layout = lay_out(tokens, chunk, None if fresh else begin, *masks)
    documents = layout.documents

    def body(state: NetworkState, row: Any) -> tuple[NetworkState, Array]:
        row_tokens, valid, ends, begins = row
        state = begin_anew(begins, start, state)
        *qkv, own = jnp.split(row_tokens, np.cumsum(sizes), axis=1)
        own = iter(own.T)
        outputs, now, surprise = write_chunk(
            state.now,
            state.surprise,
            state.anchor,
            *qkv,
            rate=next(own),
            retain=None if retain is None else next(own),
            momentum=None if momentum is None else next(own),
            objective=objective,
            rule=rule,
            read=read,
            implicit=implicit,
            clip=clip,
            skip=skip,
            activation=activation,
            valid=None if layout.full else valid,
            towards=towards,
        )
        anchor = jax.tree.map(lambda a, b: jnp.where(ends, a, b), now, state.anchor)
        return NetworkState(now, surprise, anchor, state.position), outputs

    # Without resets no row begins a document.
    begins = None if documents is None or reset is None else documents.begins
    rows = (layout.tokens, layout.valid, layout.ends, begins)
    last, made = checkpointed_scan(body, state, rows)
    if documents is not None:
        outputs = take_back(made, layout, time, chunk)
        last = spoiled(last, layout)._replace(position=documents.position % chunk)
        return outputs.astype(given), last
    if implementation == "recurrent":
        outputs = made[:, 0]
    else:
        outputs = take_back(made, layout, time, chunk, None if fresh else begin)
    return outputs.astype(given), last._replace(position=(begin + time) % chunk)


def _checked(
    state: NetworkState, q: Array, v: Array, weights: Weights | None, towards: Weights | None
) -> NetworkState:
    """The state with floating-point arrays; refuses one that does not fit the rest."""
    own = {f"state.{name}": a for name, a in state._asdict().items() if name != "position"}
    rest = {"weights": weights, "towards": towards}
    now, surprise, anchor, *_ = check_alike("network_scan", q, v, **own, **rest)
    position = real_array("network_scan", "state.position", state.position)
    if position.shape or not jnp.issubdtype(position.dtype, jnp.integer):
        raise ValueError(
            f"network_scan: state.position must be one whole number, got {position.dtype} of shape "
            f"{position.shape}"
        )
    return NetworkState(now, surprise, anchor, position)
