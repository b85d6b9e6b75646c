"""Memories that are networks, over a sequence or a piece of a stream; see `_networks`."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from ._arguments import Rate, check_arrays, check_number, per_token
from ._grid import Layout, begin_anew, lay_out, spoiled, take_back
from ._loop import checkpointed_scan
from ._masks import Mask, check_masks
from ._networks import Activation, Weights, write_chunk
from ._objectives import Objective
from ._parts import check_floating, is_count


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
        ValueError: weights that are no tuple of arrays.
    """
    if not isinstance(weights, tuple):
        raise ValueError(
            "network_state: weights must be a tuple of matrices (out, in), got "
            f"{type(weights).__name__}"
        )
    for w in weights:
        check_arrays("network_state", weights=w)
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
    check_arrays("network_scan", q=q, k=k, v=v)
    if implementation not in (None, "chunked", "recurrent"):
        raise ValueError(
            'network_scan: implementation must be "chunked", "recurrent" or None, got '
            f"{implementation!r}"
        )
    if read not in ("before", "after"):
        raise ValueError(f'network_scan: read must be "before" or "after", got {read!r}')
    if not is_count(chunk):
        raise ValueError(f"network_scan: chunk must be a number of tokens, 1 or more, got {chunk}")
    fresh = state is None
    _check_weights(q, k, v, weights=weights, towards=towards)
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
    _check(state, q, k, v, skip, clip)
    time = q.shape[0]
    valid, reset = check_masks("network_scan", time, valid, reset, max_documents)
    if reset is not None and weights is None:
        raise ValueError("network_scan: with reset a document begins with weights; pass them too")
    named = {"rate": (rate, math.inf), "retain": (retain, 1.0), "momentum": (momentum, 1.0)}
    rates = {n: a for n, a in named.items() if n == "rate" or a[0] is not None}
    given = jnp.result_type(q, k, v)
    columns = [
        per_token("network_scan", name, a, time, high)[:, None] for name, (a, high) in rates.items()
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


def _check(state: NetworkState, q: Array, k: Array, v: Array, skip: bool, clip: Any) -> None:
    surprise = state.now if state.surprise is None else state.surprise
    own = {"state.now": state.now, "state.surprise": surprise, "state.anchor": state.anchor}
    _check_weights(q, k, v, **own)
    if clip is not None and not isinstance(clip, Tracer):
        check_number("network_scan", "clip", clip)
        if not np.all(np.asarray(clip, float) > 0):
            raise ValueError(
                f"network_scan: clip must be above 0, or None for no bound, got {clip}"
            )
    if skip and q.shape[1] != v.shape[1]:
        raise ValueError(
            f"network_scan: skip adds queries to values, which needs as many; got {q.shape[1]} "
            f"and {v.shape[1]}; pass skip=False"
        )


def _check_weights(q: Array, k: Array, v: Array, **named: Any) -> None:
    if q.ndim != 2 or k.shape != q.shape or v.ndim != 2 or len(v) != len(q):
        raise ValueError(
            "network_scan: q and k must be (time, key), both alike, and v (time, value), got "
            f"{q.shape}, {k.shape} and {v.shape}; batch with jax.vmap"
        )
    check_floating("network_scan", q, k, v)
    for what, weights in named.items():
        if weights is None:
            continue
        shapes = [jnp.shape(w) for w in weights] if isinstance(weights, tuple) else []
        matrices = bool(shapes) and all(len(shape) == 2 for shape in shapes)
        inner = [q.shape[1], *(shape[0] for shape in shapes)] if matrices else []
        if not matrices or [s[1] for s in shapes] != inner[:-1] or inner[-1] != v.shape[1]:
            got = f"shapes {shapes}" if isinstance(weights, tuple) else type(weights).__name__
            raise ValueError(
                f"network_scan: {what} must be a tuple of matrices (out, in) that lead from "
                f"{q.shape[1]} keys to {v.shape[1]} values, first applied first, got {got}"
            )
