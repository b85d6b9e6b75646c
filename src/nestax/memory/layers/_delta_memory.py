"""The gated delta rule as a sequence layer."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_input, check_key, check_sizes, check_state, whole_or_none
from .._delta import delta_rule
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


class DeltaMemory(eqx.Module):
    r"""A sequence layer whose memories are written by the gated delta rule, one per head.

        M_t = alpha_t M_{t-1} (I - beta_t k_t k_t') + beta_t v_t k_t',    o_t = M_t q_t

        y_t = W_out [norm(o_t) silu(W_g x_t)]

    Queries, keys and values are projections of x, convolved over a few tokens, through silu.
    Queries and keys have unit length, so that the factor of M has the eigenvalues alpha and
    alpha (1 - beta). They never exceed one in size; with beta in (0, 2) they may be negative, which
    state tracking (parity) needs.

    Args:
        width: channels of the input and of the output.
        heads: must divide the width; a head's memory is square, of size width / heads.
        gated: whether the memory forgets: alpha in (0, 1), first around 0.95 to 0.993; else
            alpha = 1.
        negative: whether beta is in (0, 2) instead of (0, 1).
        conv: window of the short convolution, in tokens; 0 or None for none.
        chunk: tokens that are written in parallel, of speed only; None: the default of
            `memory_scan`.
        trained_start: whether the memory before the first token, zero at first, is a parameter
            that is trained through the writes; else it stays zero.
        key: a typed PRNG key.

    Attributes:
        into: (channels, width): for each head the rows of its queries, keys and values, so that a
            mesh of devices can split it by heads.
        conv: the short convolution.
        rate: the gate beta.
        forget: the gate alpha; None if not `gated`.
        output: norm, gate and projection of what the memory returns.
        initial: the memory before the first token; None without `trained_start`.
        heads: number of heads.
        negative: whether beta is in (0, 2).
        chunk: tokens that are written in parallel.

    Raises:
        ValueError: heads that do not divide the width, sizes below 1.

    Source: Yang et al., "Parallelizing linear transformers with the delta rule" (2024); Yang, Kautz
    and Hatamizadeh, "Gated delta networks" (2025); Grazzi et al. (2025) for negative eigenvalues;
    Nested Learning (2025), eq. (65).

    Example:
        ```python
        layer = nx.memory.DeltaMemory(8, heads=2, key=jax.random.key(0))
        y, state = jax.jit(lambda x: layer(x))(jnp.ones((6, 8)))  # six tokens
        print(y.shape, state.memory.shape)  # (6, 8) (2, 4, 4)
        ```
    """

    into: Float[Array, "channels width"]
    conv: ShortConvolution
    rate: Gate
    forget: Gate | None
    output: GatedOutput
    initial: Float[Array, "heads value key"] | None
    heads: int = eqx.field(static=True)
    negative: bool = eqx.field(static=True)
    chunk: int | None = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        heads: int = 4,
        *,
        gated: bool = True,
        negative: bool = True,
        conv: int | None = 4,
        chunk: int | None = None,
        trained_start: bool = False,
        key: PRNGKeyArray,
    ):
        name = "DeltaMemory"
        width, heads = check_sizes(name, width, heads)
        conv, chunk = whole_or_none(name, "conv", conv, 0), whole_or_none(name, "chunk", chunk)
        check_key(name, key)
        keys = jax.random.split(key, 5)
        self.heads, self.negative, self.chunk = heads, bool(negative), chunk
        self.into = matrix(keys[0], 3 * width, width)
        self.conv = ShortConvolution(3 * width, conv, key=keys[1])
        self.rate = Gate(width, jnp.zeros(heads), key=keys[2])
        self.forget = Gate(width, spread(3.0, 5.0, heads), key=keys[3]) if gated else None
        self.output = GatedOutput(width, heads, width // heads, key=keys[4])
        size = width // heads
        self.initial = jnp.zeros((heads, size, size)) if trained_start else None

    def init_state(self) -> LayerState:
        """The state at the beginning of a stream: M_0, (heads, value, key)."""
        dtype = wide(self.into.dtype)
        size = self.into.shape[1] // self.heads
        start = jnp.zeros((self.heads, size, size)) if self.initial is None else self.initial
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
        x = check_input("DeltaMemory", x, self.into.shape[1])
        valid, reset = check_masks("DeltaMemory", x.shape[0], valid, reset, max_documents)
        if state is None:
            state = self.init_state()
        else:
            state = check_state("DeltaMemory", state, self.init_state)
        x = blank(x, valid)
        mixed, tail = self.conv(linear(self.into.astype(x.dtype), x), state.tail, valid, reset)
        q, k, v = jnp.split(split_heads(jax.nn.silu(mixed), self.heads), 3, axis=-1)
        beta = (2.0 if self.negative else 1.0) * self.rate(x)
        alpha = None if self.forget is None else self.forget(x)

        # Without a trained start a document begins with zeros.
        start = None if reset is None else self.initial

        def head(
            q: Array,
            k: Array,
            v: Array,
            beta: Array,
            alpha: Array | None,
            memory: Array,
            start: Array | None,
        ) -> tuple:
            return delta_rule(
                q, k, v, beta, alpha, memory, self.chunk, valid=valid, reset=reset, initial=start
            )

        o, memory = jax.vmap(head)(unit(q), unit(k), widened(v), beta, alpha, state.memory, start)
        return blank(self.output(o, x), valid), LayerState(tail, memory.astype(state.memory.dtype))
