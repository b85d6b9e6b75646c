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
    r"""A sequence layer of linear attention: Hebbian memories, one per head.

        M_t = alpha_t M_{t-1} + v_t k_t',    o_t = M_t q_t,    y_t = W_out [norm(o_t) silu(W_g x_t)]

    Queries, keys and values are projections of x, convolved over a few tokens, through silu.
    Queries and keys have unit length. alpha is 1, or a gate per head with `decay=True`.

    Args:
        width: channels of the input and of the output.
        heads: must divide the width; a head's values are of size width / heads.
        key_size: size of a head's queries and keys; None: the size of its values.
        decay: whether the memory forgets; alpha is first around 0.95 to 0.993.
        conv: window of the short convolution, in tokens; 0 or None for none.
        trained_start: whether the memory before the first token, zero at first, is a parameter
            that is trained through the writes; else it stays zero.
        key: a typed PRNG key.

    Attributes:
        into: (channels, width): for each head the rows of its queries, keys and values, so that a
            mesh of devices can split it by heads.
        conv: the short convolution.
        forget: the gate alpha; None without `decay`.
        output: norm, gate and projection of what the memory returns.
        initial: the memory before the first token; None without `trained_start`.
        heads: number of heads.
        key_size: size of a head's queries and keys.

    Raises:
        ValueError: heads that do not divide the width, sizes below 1.

    Source: Katharopoulos et al., "Transformers are RNNs" (2020), with a norm of the output in place
    of the normaliser; Nested Learning (2025), eq. (64). Decay: Yang et al., "Gated linear attention
    transformers" (2024).

    Example:
        ```python
        layer = nx.memory.LinearAttention(8, heads=2, key=jax.random.key(0))
        y, state = jax.jit(lambda x: layer(x))(jnp.ones((6, 8)))  # six tokens
        print(y.shape, state.memory.shape)  # (6, 8) (2, 4, 4)
        ```
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
        """Maps a sequence, or the next piece of a stream.

        Args:
            x: tokens, (time, width); time may be 0.
            state: the state after the piece before; None at the beginning of a stream.
            valid: (time,) bool, False for padding, which changes nothing; its output is zero. None:
                all tokens are valid.
            reset: (time,) bool, True at the first token of a document, before which the state is
                set to `init_state()`. If that token is padding: at the next valid token.
            max_documents: without effect here; other layers need a bound.

        Returns:
            (y, state): y of the shape and dtype of x, and the state after the piece.

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
