"""Memories that are networks, over a sequence or a piece of a stream; see `_networks`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ._grid import Layout, lay_out, take_back
from ._loop import checkpointed_scan
from ._networks import Activation, Weights, network_chunk
from ._objectives import Objective
from ._parts import check_floating, is_count
from ._scan import Rate, per_token


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
    """The state of a stream that has not begun; float32 at least."""
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
) -> tuple[Float[Array, "time value"], NetworkState]:
    """A memory written at every token of a sequence, gradients taken where each chunk begins.

    Chunks lie on a grid that begins with the stream: pieces of a sequence, with the state carried
    from one to the next, give what one pass gives wherever it is cut. Gradients reach the starting
    weights through every write; backward, chunks are computed again instead of kept.

    Args:
        q: queries.
        k: keys; of norm one unless the rule is implicit, see the module's docstring.
        v: values.
        weights: where a stream begins, matrices (out, in), first applied first; not looked at, and
            may be None, where a state is given.
        rate: eta, one number or one for each token.
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

    Returns:
        Outputs, in the dtype of q, k and v; and the state, in float32 at least.

    Raises:
        ValueError: matrices that do not fit one another or the sequence, or an unknown option.
    """
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
    if state is None:
        if weights is None:
            raise ValueError("network_scan: a stream begins with weights; pass them, or a state")
        state = network_state(weights, momentum is not None)
    if (state.surprise is None) != (momentum is None):
        raise ValueError(
            "network_scan: a state has surprise exactly where momentum is used; pass "
            "network_state(weights, momentum=True) with momentum, momentum=False without"
        )
    _check(state.now, q, k, v, skip, clip)
    time = q.shape[0]
    named = {"rate": rate, "retain": retain, "momentum": momentum}
    rates = {name: a for name, a in named.items() if a is not None}
    given = jnp.result_type(q, k, v)
    dtype = jnp.result_type(given, jnp.float32, *rates.values(), *state.now)
    columns = [
        per_token("network_scan", name, a, time).astype(dtype)[:, None] for name, a in rates.items()
    ]
    begin = jnp.asarray(state.position, jnp.int32)
    now, surprise, anchor = jax.tree.map(lambda a: a.astype(dtype), state[:3])
    state = NetworkState(now, surprise, anchor, begin)
    if time == 0:
        return jnp.zeros(v.shape, given), state

    # Side by side, so that the grid is laid once.
    sizes = (q.shape[1], k.shape[1], v.shape[1])
    tokens = jnp.concatenate([*(a.astype(dtype) for a in (q, k, v)), *columns], axis=1)
    if implementation == "recurrent":
        position = (begin + jnp.arange(time)) % chunk
        layout = Layout(
            tokens[:, None], jnp.ones((time, 1), bool), position == chunk - 1, full=True
        )
    else:
        layout = lay_out(tokens, chunk, None if fresh else begin)

    def body(state: NetworkState, row: Any) -> tuple[NetworkState, Array]:
        row_tokens, valid, ends = row
        *qkv, own = jnp.split(row_tokens, np.cumsum(sizes), axis=1)
        own = iter(own.T)
        outputs, now, surprise = network_chunk(
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
        )
        anchor = jax.tree.map(lambda a, b: jnp.where(ends, a, b), now, state.anchor)
        return NetworkState(now, surprise, anchor, state.position), outputs

    rows = (layout.tokens, layout.valid, layout.ends)
    last, made = checkpointed_scan(body, state, rows)
    if implementation == "recurrent":
        outputs = made[:, 0]
    else:
        outputs = take_back(made, layout, time, chunk, None if fresh else begin)
    return outputs.astype(given), last._replace(position=(begin + time) % chunk)


def _check(weights: Weights, q: Array, k: Array, v: Array, skip: bool, clip: Any) -> None:
    if q.ndim != 2 or k.shape != q.shape or v.ndim != 2 or len(v) != len(q):
        raise ValueError(
            "network_scan: q and k must be (time, key), both alike, and v (time, value), got "
            f"{q.shape}, {k.shape} and {v.shape}; batch with jax.vmap"
        )
    check_floating("network_scan", q, k, v)
    if isinstance(clip, (int, float)) and not clip > 0:
        raise ValueError(f"network_scan: clip must be above 0, or None for no bound, got {clip}")
    shapes = [w.shape for w in weights]
    inner = [q.shape[1], *(rows for rows, _ in shapes)]
    if not shapes or [columns for _, columns in shapes] != inner[:-1] or inner[-1] != v.shape[1]:
        raise ValueError(
            f"network_scan: matrices (out, in) must lead from {q.shape[1]} keys to {v.shape[1]} "
            f"values, first applied first, got shapes {shapes}"
        )
    if skip and q.shape[1] != v.shape[1]:
        raise ValueError(
            f"network_scan: skip adds queries to values, which needs as many; got {q.shape[1]} "
            f"and {v.shape[1]}; pass skip=False"
        )
