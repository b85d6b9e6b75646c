"""Linear attention as a sequence layer: the Hebbian memory, written at every token."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_input, check_key, check_sizes, check_state, whole_or_none
from .._delta import linear_attention
from .._masks import Mask, blank, check_masks
from .._parts import (
    Gate,
    GatedOutput,
    LayerState,
    ShortConvolution,
    linear,
    matrix,
    split_heads,
    spread,
    unit,
    wide,
    widened,
)


class LinearAttention(eqx.Module):
    r"""Hebbian memories, one per head:

        M_t = alpha_t M_{t-1} + v_t k_t',    o_t = M_t q_t,    y_t = W_out [norm(o_t) silu(W_g x_t)]

    Queries, keys and values are projections of x, convolved over a few tokens, through silu;
    queries and keys are of unit length. alpha is 1, or a gate per head with `decay=True`.

    Args:
        width: channels of the input and of the output.
        heads: must divide the width; a head's values are of size width / heads.
        key_size: of a head's queries and keys; by default that of its values.
        decay: whether the memory forgets; gates begin around 0.95 to 0.993, where x = 0 puts them.
        conv: window of the short convolution, in tokens; 0 or None for none.
        trained_start: whether what the memory is before the first token, zero at first, is a
            parameter, trained through the writes; else it stays zero.
        key: a typed PRNG key.

    Attributes:
        into: rows of all heads one after another, of each those of queries, keys and values; so
            that devices can be given heads, see "Meshes" in docs/guides/memories.md.

    Raises:
        ValueError: heads that do not divide the width, sizes below 1.

    Source: Katharopoulos et al. (2020), without the normaliser, which the norm of the output
    replaces; Nested Learning (2025), eq. (64). Decay: Yang et al. (2024, gated linear attention).
    """

    into: Float[Array, "channels width"]
    conv: ShortConvolution
    forget: Gate | None
    output: GatedOutput
    initial: Float[Array, "heads value key"] | None
    heads: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        heads: int = 4,
        *,
        key_size: int | None = None,
        decay: bool = False,
        conv: int | None = 4,
        trained_start: bool = False,
        key: PRNGKeyArray,
    ):
        name = "LinearAttention"
        width, heads = check_sizes(name, width, heads)
        key_size = whole_or_none(name, "key_size", key_size)
        conv = whole_or_none(name, "conv", conv, 0)
        check_key(name, key)
        keys = jax.random.split(key, 4)
        self.heads = heads
        self.key_size = width // heads if key_size is None else key_size
        channels = 2 * heads * self.key_size + width
        self.into = matrix(keys[0], channels, width)
        self.conv = ShortConvolution(channels, conv, key=keys[1])
        self.forget = Gate(width, spread(3.0, 5.0, heads), key=keys[2]) if decay else None
        self.output = GatedOutput(width, heads, width // heads, key=keys[3])
        shape = (heads, width // heads, self.key_size)
        self.initial = jnp.zeros(shape) if trained_start else None

    def init_state(self) -> LayerState:
        """The state at the beginning of a stream: M_0, (heads, value, key)."""
        dtype = wide(self.into.dtype)
        shape = self.heads, self.into.shape[1] // self.heads, self.key_size
        start = jnp.zeros(shape) if self.initial is None else self.initial
        return LayerState(self.conv.init_state(dtype), start.astype(dtype))

    def __call__(
        self,
        x: Float[Array, "time width"],
        state: LayerState | None = None,
        *,
        valid: Mask | None = None,
        reset: Mask | None = None,
        max_documents: int | None = None,
    ) -> tuple[Float[Array, "time width"], LayerState]:
        """Maps a sequence, or the next piece of one.

        Args:
            x: (time, width), any time, also 0.
            state: what the piece before left; None at the beginning of a stream.
            valid: (time,), whether a token is there. One that is not changes nothing, whatever it
                holds, and its y is zero. None: all are there.
            reset: (time,), whether a document begins with a token, where the state is
                `init_state()`. At a token that is not valid: with the next one that is.
            max_documents: of no effect: this layer goes by tokens, so that there is always room.

        Returns:
            (y, state): y of the shape and dtype of x.

        Raises:
            ValueError: x is not of shape (time, width), a state of another layer, masks that do
                not fit.
        """
        x = check_input("LinearAttention", x, self.into.shape[1])
        valid, reset = check_masks("LinearAttention", x.shape[0], valid, reset, max_documents)
        if state is None:
            state = self.init_state()
        else:
            state = check_state("LinearAttention", state, self.init_state)
        x = blank(x, valid)
        mixed, tail = self.conv(linear(self.into.astype(x.dtype), x), state.tail, valid, reset)
        mine = split_heads(jax.nn.silu(mixed), self.heads)
        q, k, v = jnp.split(mine, [self.key_size, 2 * self.key_size], axis=-1)
        alpha = None if self.forget is None else self.forget(x)

        # Without a trained start a document begins with zeros.
        start = None if reset is None else self.initial

        def head(
            q: Array, k: Array, v: Array, alpha: Array | None, memory: Array, start: Array | None
        ) -> tuple:
            return linear_attention(
                q, k, v, alpha=alpha, state=memory, valid=valid, reset=reset, initial=start
            )

        o, memory = jax.vmap(head)(unit(q), unit(k), widened(v), alpha, state.memory, start)
        return blank(self.output(o, x), valid), LayerState(tail, memory.astype(state.memory.dtype))
