"""Softmax attention over a sliding window, with a cache that a stream carries.

In the language of nested learning a level of infinite frequency: it solves its regression anew at
every token, in closed form (Nadaraya-Watson), and has no weights to be written. What it carries is
its data.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ._checks import check_input, check_key, check_sizes, check_state, whole
from ._masks import Mask, check_masks, documents, to_front
from ._parts import linear, matrix, merge_heads, rotary, split_heads, wide, widened

_BLOCK = 512  # queries at once: what is kept of the scores grows with it


class AttentionState(NamedTuple):
    """State of `CausalAttention`: the last `window` tokens, token t in slot t mod window.

    Attributes:
        keys: rotated by their positions, (heads, window, size), float32 at least.
        values: (heads, window, size), float32 at least.
        position: number of tokens read so far, int32.
    """

    keys: Float[Array, "heads window size"]
    values: Float[Array, "heads window size"]
    position: Int[Array, ""]


class CausalAttention(eqx.Module):
    r"""Softmax attention of each token to itself and the `window - 1` tokens before it.

        y_t = W_o sum_{t - window < i <= t} softmax_i(q_t . k_i / sqrt(size)) v_i    in every head

    Queries and keys are rotated by their positions. A window at least as long as the sequence gives
    full causal attention. The window bounds the state that a stream carries: pieces of any size,
    with the state carried from one to the next, give what one pass gives. Time x window memory is
    used within blocks of 512 queries only. Angles are float32, so that positions beyond about
    100,000 tokens lose resolution.

    Attributes:
        query: matrix (width, width).
        key: matrix (width, width).
        value: matrix (width, width).
        output: matrix (width, width), W_o.
        heads: number of heads.
        window: tokens that a token attends to, itself included.

    Source: Nested Learning (2025), eq. (62-63); rotary positions: Su et al. (2021).
    """

    query: Float[Array, "width width"]
    key: Float[Array, "width width"]
    value: Float[Array, "width width"]
    output: Float[Array, "width width"]
    heads: int = eqx.field(static=True)
    window: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int = 4, *, window: int = 2048, key: PRNGKeyArray):
        """Draws the matrices: normal with variance 1 / width.

        Args:
            width: channels of the input and of the output.
            heads: must divide the width into even parts.
            window: in tokens, at least 1; also the length of the cache.
            key: a typed PRNG key.

        Raises:
            ValueError: sizes that do not fit.
        """
        name = "CausalAttention"
        width, heads = check_sizes(name, width, heads)
        window = whole(name, "window", window)
        check_key(name, key)
        if width // heads % 2:
            raise ValueError(
                "CausalAttention: rotary positions turn coordinates in pairs, so a head must have "
                f"an even number; got width={width} and heads={heads}"
            )
        self.query, self.key, self.value, self.output = (
            matrix(k, width, width) for k in jax.random.split(key, 4)
        )
        self.heads, self.window = heads, window

    def init_state(self) -> AttentionState:
        """The state at the beginning of a stream: an empty cache."""
        width = self.query.shape[0]
        shape = self.heads, self.window, width // self.heads
        keys = jnp.zeros(shape, wide(self.query.dtype))
        return AttentionState(keys, keys, jnp.zeros((), jnp.int32))

    def __call__(
        self,
        x: Float[Array, "time width"],
        state: AttentionState | None = None,
        *,
        valid: Mask | None = None,
        reset: Mask | None = None,
        max_documents: int | None = None,
    ) -> tuple[Float[Array, "time width"], AttentionState]:
        """Maps a sequence, or the next piece of a stream.

        Args:
            x: tokens, (time, width).
            state: the state after the piece before; None at the beginning of a stream.
            valid: (time,) bool, False for padding. Padding attends to nothing, is not attended to,
                and takes no position and no place in the window. None: all tokens are valid.
            reset: (time,) bool, True at the first token of a document: it attends to nothing
                before it, and positions start from 0. None: nowhere.
            max_documents: without effect here; other layers need a bound.

        Returns:
            (y, state): y of shape (time, width), zero for padding; the state after the piece.

        Raises:
            ValueError: x is not one sequence of this width, or a state or mask does not fit.
        """
        name = "CausalAttention"
        x = check_input(name, x, self.query.shape[0])
        if state is not None:
            state = check_state(name, state, self.init_state)
        time, window = x.shape[0], self.window
        valid, reset = check_masks(name, time, valid, reset, max_documents)
        known = self.init_state() if state is None else state
        if not time:
            return x, known
        front = None if valid is None else to_front(valid)
        document = None if reset is None else documents(reset)
        if front is not None:
            x = front.take(x)
            document = None if document is None else front.label(document)
        query, key, value = (
            split_heads(linear(w.astype(x.dtype), x), self.heads)
            for w in (self.query, self.key, self.value)
        )
        at = known.position + jnp.arange(time, dtype=jnp.int32)
        # Places go on over documents; positions, by which queries and keys are turned, do not.
        begun = None if document is None else _beginnings(document, at)
        position = at if begun is None else at - begun
        query, key = rotary(query, position), rotary(key, position)
        if front is None and document is None:
            new = self._written(known, key, value, at)
        else:
            count = jnp.asarray(time, jnp.int32) if front is None else front.count
            new = self._rewritten(known, key, value, count, document)
        if state is not None and time == 1 and document is None:
            # The token that leaves the window gives its slot to the one that attends.
            slot = jnp.arange(window, dtype=jnp.int32)
            held = at - (at - slot) % window
            mixed = _attend(query, new.keys, new.values, at, held, None, window)
        else:
            held = at
            if state is not None:
                # Oldest first, so that a block of queries finds its keys side by side.
                order = (known.position + jnp.arange(window, dtype=jnp.int32)) % window
                key = jnp.concatenate([known.keys[:, order].astype(key.dtype), key], axis=1)
                value = jnp.concatenate([known.values[:, order].astype(value.dtype), value], axis=1)
                before = known.position - window + jnp.arange(window, dtype=jnp.int32)
                held = jnp.concatenate([before, at])
            mixed = _in_blocks(query, key, value, at, held, begun, window)
        mixed = merge_heads(mixed).astype(x.dtype)
        y = linear(self.output.astype(x.dtype), mixed)
        return y if front is None else front.back(y), new

    def _written(
        self, state: AttentionState, key: Array, value: Array, at: Array
    ) -> AttentionState:
        """The cache with the last tokens of a piece in it."""
        last = slice(max(0, at.shape[0] - self.window), None)
        slots = at[last] % self.window
        return AttentionState(
            state.keys.at[:, slots].set(key[:, last].astype(state.keys.dtype)),
            state.values.at[:, slots].set(value[:, last].astype(state.values.dtype)),
            state.position + at.shape[0],
        )

    def _rewritten(
        self,
        state: AttentionState,
        key: Array,
        value: Array,
        count: Array,
        document: Array | None,
    ) -> AttentionState:
        """`_written` of the first `count` tokens only, and of the last document only."""
        time, slot = key.shape[1], jnp.arange(self.window, dtype=jnp.int32)
        fresh, before = None, state.position
        position = before + count
        if document is not None:
            fresh = document[-1] > 0
            before = jnp.where(fresh, 0, before)
            own = (document == document[-1]) & (jnp.arange(time) < count)
            position = before + jnp.sum(own, dtype=jnp.int32)
        # The position that each slot holds now, and where in the piece that token lies.
        held = position - 1 - (position - 1 - slot) % self.window
        source = jnp.clip(count - position + held, 0, time - 1)
        new = jnp.broadcast_to((held >= before)[:, None], state.keys.shape[1:])

        def write(old: Array, more: Array) -> Array:
            if fresh is not None:
                old = jnp.where(fresh, jnp.zeros_like(old), old)
            return jnp.where(new, more[source].astype(old.dtype), old)

        write = jax.vmap(write)
        return AttentionState(write(state.keys, key), write(state.values, value), position)


def _beginnings(document: Int[Array, " time"], at: Int[Array, " time"]) -> Int[Array, " time"]:
    """Where in the stream each token's document begins: at 0 that of the state."""
    before = jnp.concatenate([jnp.zeros(1, document.dtype), document[:-1]])
    return jax.lax.cummax(jnp.where(document != before, at, 0))


def _attend(
    query: Float[Array, "heads time size"],
    key: Float[Array, "heads held size"],
    value: Float[Array, "heads held size"],
    at: Int[Array, " time"],
    held: Int[Array, " held"],
    begun: Int[Array, " time"] | None,
    window: int,
) -> Float[Array, "heads time size"]:
    """Softmax attention between tokens by their places; those held below `begun` (None: 0) are of
    other documents, or not there."""
    scores = jnp.einsum("hts,hks->htk", widened(query), widened(key)) * query.shape[-1] ** -0.5
    age = at[:, None] - held[None, :]
    own = (held >= 0)[None, :] if begun is None else held[None, :] >= begun[:, None]
    seen = (age >= 0) & (age < window) & own
    scores = jnp.where(jnp.broadcast_to(seen, scores.shape), scores, -jnp.inf)
    return jnp.einsum("htk,hks->hts", jax.nn.softmax(scores, axis=-1), widened(value))


def _in_blocks(
    query: Array,
    key: Array,
    value: Array,
    at: Array,
    held: Array,
    begun: Array | None,
    window: int,
) -> Array:
    """`_attend`, for so many queries at a time that the scores never fill the memory."""
    heads, time, size = query.shape
    if time <= _BLOCK:
        return _attend(query, key, value, at, held, begun, window)
    count = -(-time // _BLOCK)
    room = count * _BLOCK - time
    # Queries beyond the end repeat the last one's position: they see something, and are dropped.
    query = jnp.pad(query, ((0, 0), (0, room), (0, 0))).reshape(heads, count, _BLOCK, size)
    places, begun = (
        None if a is None else jnp.pad(a, (0, room), mode="edge").reshape(count, _BLOCK)
        for a in (at, begun)
    )
    extra = key.shape[1] - time
    reach = min(key.shape[1], window - 1 + _BLOCK)

    @jax.checkpoint
    def one(part: tuple[Array, Array, Array, Array | None]) -> Array:
        index, query, at, begun = part
        first = jnp.clip(extra + index * _BLOCK - (window - 1), 0, key.shape[1] - reach)
        near = [jax.lax.dynamic_slice_in_dim(a, first, reach, axis=1) for a in (key, value)]
        there = jax.lax.dynamic_slice_in_dim(held, first, reach)
        return _attend(query, near[0], near[1], at, there, begun, window)

    parts = jnp.arange(count), jnp.swapaxes(query, 0, 1), places, begun
    mixed = jnp.swapaxes(jax.lax.map(one, parts), 0, 1)
    return mixed.reshape(heads, count * _BLOCK, size)[:, :time]
