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
    """State of a memory that is a network, along a stream.

    Attributes:
        now: the weights, a tuple of matrices.
        surprise: the momentum of each matrix, or None without momentum.
        anchor: the weights at the beginning of the present chunk; equal to `now` at position 0.
        position: tokens of the present chunk that have been read, less than a chunk's length.
    """

    now: Weights
    surprise: Weights | None
    anchor: Weights
    position: Int[Array, ""]


def network_state(weights: Weights, momentum: bool = False) -> NetworkState:
    """The state of `network_scan` at the beginning of a stream.

    Args:
        weights: matrices (out, in), in the order in which they are applied.
        momentum: whether the state has a momentum, zero at first.

    Returns:
        The state, float32 at least.

    Raises:
        ValueError: weights that are not a tuple of matrices of fitting shapes.
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
    """Runs a memory that is a linear map or an MLP over a sequence.

    The memory is written at every token, with gradients taken at the weights of the chunk's
    beginning. Each matrix W of the memory, with its own input x and error e, follows one of

        gd      W <- a W - eta e x'
        dgd     W <- a W (I - eta' x x') - eta' e x'      (explicit: W (a I - eta x x') - eta e x')
        local   W <- a W - eta' (W x - t) x',             t = W_chunk x - e

    with eta' = eta / (1 + eta |x|^2). Retention, momentum and erasure are exact at every token.
    `"gd"` with `"l2"` converges only for C eta |x|^2 < 2 if one key fills a chunk of C tokens:
    divide rates by C, set `clip`, or take `"local"`, which is stable at every rate for one matrix.

    Chunks are counted from the beginning of the stream: pieces of a sequence, with the state
    carried from one to the next, give what one pass gives, wherever it is cut. Gradients reach the
    initial weights through every write; the backward pass computes chunks again.

    Args:
        q: queries, (time, key).
        k: keys, (time, key); normalize them to unit length unless the rule is implicit.
        v: values, (time, value).
        weights: the memory at the beginning of a stream or document, matrices (out, in), in the
            order in which they are applied; may be None if a state is given and nothing is reset.
        rate: eta, one number or one for each token, 0 or more.
        retain: a, 0 to 1, one number or one for each token; None: 1.
        momentum: mu, 0 to 1, one number or one for each token; None: no momentum.
        objective: `"dot"`, `"l2"` or a function `(prediction, value) -> error`.
        rule: `"gd"`, `"dgd"` or `"local"`.
        state: the state after the piece before; None at the beginning of a stream.
        chunk: tokens per chunk. It changes the result, and must be the same for a whole stream.
        read: `"before"` the token's own write, or `"after"`.
        implementation: `"chunked"` or None; `"recurrent"` goes token by token.
        implicit: for `"dgd"` and `"local"`: whether rates are eta', or eta.
        clip: errors are cut to this norm.
        skip: whether the memory adds its input to its output.
        activation: elementwise, between matrices.
        towards: matrices like `weights` to which retention leads back, usually `weights`:
            W <- a W + (1 - a) W*. None: zero, as printed; an MLP whose matrices are all near zero
            learns nothing any more.
        valid: (time,) bool, False for padding, which changes nothing and is not counted in chunks;
            its output is zero. None: all tokens are valid.
        reset: (time,) bool, True at the first token of a document, before which the state is set to
            `network_state(weights)`. If that token is padding: at the next valid token.
        max_documents: how many documents begin in a piece at most, if `reset` is traced; if more
            do, all numbers are NaN. None: as many as tokens, which is slow. If `reset` is known,
            documents are counted.

    Returns:
        (o, state): outputs, (time, value), in the dtype of q, k and v; the state, float32 at least.

    Raises:
        ValueError: matrices that do not fit each other or the sequence, known rates out of range,
            or an unknown option.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (86-93), with
    gradients at the chunk's beginning where (90) prints its end; Behrouz, Zhong and Mirrokni,
    "Titans" (2025), section 3.2.
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
