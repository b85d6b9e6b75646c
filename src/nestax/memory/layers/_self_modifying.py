"""Self-modifying Titans: a layer whose keys, values, rates and memory are made by memories."""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import (
    check_input,
    check_key,
    check_sizes,
    check_state,
    choice,
    described,
    positive,
    whole,
    whole_or_none,
)
from .._masks import Mask, blank, check_masks
from .._parts import (
    Gate,
    GatedOutput,
    ShortConvolution,
    linear,
    matrix,
    split_heads,
    spread,
    unit,
    wide,
)
from ._self_writing import GATES, Carried, Fixed, Rule, modify

_KINDS = ("k", "v", "q", "rate", "retain")
_START = 0.1  # of what memories add to their skips


class SelfModifyingState(NamedTuple):
    """State of `SelfModifyingMemory` along a stream; arrays in dicts have a leading axis heads.

    Attributes:
        tail: the last inputs of the short convolution, (window - 1, channels).
        now: the matrices of each memory, in the order in which they are applied, float32 at least.
        surprise: their momentum; an empty dict without momentum.
        anchor: the matrices at the beginning of each memory's present chunk.
        position: tokens read, modulo the longer of the two chunks.
    """

    tail: Float[Array, "tail channels"]
    now: Any
    surprise: Any
    anchor: Any
    position: Int[Array, ""]


class SelfModifyingMemory(eqx.Module):
    r"""Self-modifying Titans: memories that generate their own keys, values, rates and targets.

    Let x be the layer's input after a projection, a short convolution and silu, split into heads of
    size d and normalized to unit length, and M_b,t the memories of one head:

        k_t = unit(M_k(x_t)),   v_t = M_v(x_t),   q_t = unit(W_q of the layer's input)
        alpha_t = sigmoid(M_retain(x_t) + bias)
        eta_t = max_rate (1 + alpha_t) / 2 sigmoid(M_rate(x_t) + bias)    (see Bounds)
        vhat_b = M_b(v_t)
        o_t = M_memory,t-1(q_t),        y = W_out [norm(o) silu(W_g input)]

        "dgd"   W_t = W_{t-1} (alpha_t I - eta_t k_t k_t') - eta_t c(e_b) k_t'
        "gd"    W_t = alpha_t W_{t-1}                      - eta_t c(e_b) k_t'
        "dot"   e_b = -vhat_b           "l2"   e_b = M_b(k_t) - vhat_b

    for every memory b. A memory is M(x) = P x + W x, or P x + W_1 hidden(W_2 x) with
    `memory="mlp"`, where hidden = tanh / sqrt(hidden units), and each matrix is written by its own
    input in place of k and its own error in place of e.

    **Chunks.** k, v, alpha, eta, vhat and the errors are computed from the state at the chunk's
    first token, which makes chunks parallel. Erasure, retention and the read are exact at every
    token. M_memory has chunks of `chunk` tokens, all other memories chunks of `chunk_others`. Both
    change the result: with 1 and 1 it is the recurrence above, token by token.

    **The skip.** In (89) P is the identity; here it is a slow matrix per memory, which is the
    identity at first for the memory that is read. Without it a linear memory writes only into the
    span of its columns. With it, W = 0 gives a gated delta net.

    **Forgetting.** Linear memories with skips decay to zero, as printed. MLPs, and memories without
    skips, decay towards their initial matrices: (1 - alpha_t) W_0 is added at every token. From
    zero they would learn nothing any more.

    **Bounds.** Values come from the memories themselves, so that writes could amplify writes.
    c(e) = e / sqrt(1 + |e|^2 / limit^2) keeps an error's direction and is shorter than `limit`;
    inputs have at most unit length, and |alpha_t - eta_t| <= 1. For linear memories without
    momentum this implies, for all parameters and tokens,

        |W_t| <= rho_t |W_{t-1}| + eta_t limit,    rho_t = max(alpha_t, |alpha_t - eta_t|) <= 1

    in the spectral norm ("gd": rho_t = alpha_t): growth is at most linear, and with
    rho_t <= rho < 1 the norm stays below max(|W_0|, max_rate limit / (1 - rho)). The same holds for
    the last matrix of an MLP; the first grows at most quadratically. Momentum replaces eta_t limit
    by its discounted sum; memories that decay towards W_0 add (1 - alpha_t) |W_0|. With "l2" and
    "dgd" both the loss and the rule erase, so eta_t is half of the above there.
    `limit=float("inf")` is the paper's rule and has none of these bounds. None of this bounds
    gradients: over 8,192 tokens with all weights tripled, gradients stayed below 100 for a limit of
    1 and exceeded 1e17 for 4.

    Parity needs an eigenvalue -1: take `max_rate=2`, with which eta reaches 1 + alpha. A token is
    read before it is written; pass `read="after"` if the present token must count.

    Args:
        width: channels of the input and of the output.
        heads: must divide the width.
        memory: `"linear"` or `"mlp"` (hidden units: 2 d).
        objective: `"dot"` or `"l2"`; gradients are taken at the chunk's beginning.
        rule: `"dgd"` or `"gd"`.
        momentum: whether writes have momentum, S_t = mu_t S_{t-1} - eta_t e_t k_t', with mu a gate.
        decay: whether alpha is a gate; else it is 1.
        adaptive: which of "k", "v", "q", "rate" and "retain" are generated by memories; the others
            are their skips alone, and queries are projected from the layer's input.
        chunk: tokens per chunk of M_memory.
        chunk_others: tokens per chunk of all other memories; None: `chunk`. The larger of the two
            must be a multiple of the smaller.
        conv: window of the short convolution, in tokens; 0 or None for none.
        max_rate: largest eta, above 0, at most 2.
        limit: bound of an error's length, above 0.
        skip: whether memories have skips. Without skips, memories start at what the skips would
            start at.
        read: `"before"` or `"after"` the token's own write.
        key: a typed PRNG key.

    Attributes:
        into: (channels, width): for each head the rows of its inputs and static queries.
        conv: the short convolution.
        skips: the slow matrix P of each memory, with a leading axis heads.
        initial: the matrices of each memory before the first token, with a leading axis heads.
        rate_bias: bias of the rate, one for each head.
        retain_bias: bias of the retention, one for each head; None without `decay`.
        mu: the gate of the momentum; None without `momentum`.
        output: norm, gate and projection of what the memory returns.
        heads: number of heads.
        written: the static options of the rule.

    Raises:
        ValueError: sizes that do not fit, chunks that do not divide, unknown options.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (83-93), with the
    index of (90) at the chunk's beginning, as its text says, and the sign of (92) corrected.
    """

    into: Float[Array, "channels width"]
    conv: ShortConvolution
    skips: dict[str, Float[Array, "heads out size"]]
    initial: dict[str, tuple[Float[Array, "heads out inputs"], ...]]
    rate_bias: Float[Array, " heads"]
    retain_bias: Float[Array, " heads"] | None
    mu: Gate | None
    output: GatedOutput
    heads: int = eqx.field(static=True)
    written: Rule = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        heads: int = 4,
        *,
        memory: str = "linear",
        objective: str = "dot",
        rule: str = "dgd",
        momentum: bool = False,
        decay: bool = True,
        adaptive: Sequence[str] = ("k", "v", "rate", "retain"),
        chunk: int = 16,
        chunk_others: int | None = None,
        conv: int | None = 4,
        max_rate: float = 2.0,
        limit: float = 1.0,
        skip: bool = True,
        read: str = "before",
        key: PRNGKeyArray,
    ):
        name = "SelfModifyingMemory"
        width, heads = check_sizes(name, width, heads)
        chunk = whole(name, "chunk", chunk)
        others = chunk if chunk_others is None else whole(name, "chunk_others", chunk_others)
        if max(chunk, others) % min(chunk, others):
            raise ValueError(
                f"{name}: one of chunk and chunk_others must divide the other, got {chunk} and "
                f"{others}"
            )
        conv = whole_or_none(name, "conv", conv, 0)
        check_key(name, key)
        memory = choice(name, "memory", memory, ("linear", "mlp"))
        objective = choice(name, "objective", objective, ("dot", "l2"))
        rule = choice(name, "rule", rule, ("dgd", "gd"))
        read = choice(name, "read", read, ("before", "after"))
        adaptive = _adaptive(name, adaptive)
        unstable = ", beyond which erasing is unstable"
        max_rate = positive(name, "max_rate", max_rate, 2.0, unstable)
        limit = positive(name, "limit", limit)
        returns = memory == "mlp" or not bool(skip)
        self.written = Rule(objective, rule, max_rate, limit, chunk, others, read, returns)
        self.heads = heads
        own_queries = "q" in adaptive
        keys = jax.random.split(key, 5)
        channels = width if own_queries else 2 * width
        self.into = matrix(keys[0], channels, width)
        self.conv = ShortConvolution(channels, conv, key=keys[1])
        self.mu = Gate(width, jnp.zeros(heads), key=keys[2]) if momentum else None
        self.output = GatedOutput(width, heads, width // heads, key=keys[3])
        self.rate_bias = jnp.full(heads, -2.0)
        self.retain_bias = spread(3.0, 5.0, heads) if decay else None
        self.skips, self.initial = {}, {}
        for i, box in enumerate((*_KINDS, "memory")):
            if (box == "q" and not own_queries) or (box == "retain" and not decay):
                continue
            draws = jax.random.split(jax.random.fold_in(keys[4], i), heads)
            own = box == "memory" or box in adaptive
            if skip or not own:
                self.skips[box] = jax.vmap(lambda k, b=box: _usual(b, width // heads, k))(draws)
            if own:
                made = functools.partial(_memory, memory, box, width // heads, skip)
                self.initial[box] = jax.vmap(made)(draws)

    def init_state(self) -> SelfModifyingState:
        """The state at the beginning of a stream: the memories are the initial ones."""
        dtype = wide(self.into.dtype)
        now = jax.tree.map(lambda m: m.astype(dtype), self.initial)
        surprise = {} if self.mu is None else jax.tree.map(jnp.zeros_like, now)
        tail = self.conv.init_state(dtype)
        return SelfModifyingState(tail, now, surprise, now, jnp.zeros((), jnp.int32))

    def __call__(
        self,
        x: Float[Array, "time width"],
        state: SelfModifyingState | None = None,
        *,
        valid: Mask | None = None,
        reset: Mask | None = None,
        max_documents: int | None = None,
    ) -> tuple[Float[Array, "time width"], SelfModifyingState]:
        """Maps a sequence, or the next piece of a stream.

        Args:
            x: tokens, (time, width); time may be 0.
            state: the state after the piece before; None at the beginning of a stream.
            valid: (time,) bool, False for padding, which changes nothing; its output is zero. None:
                all tokens are valid.
            reset: (time,) bool, True at the first token of a document, before which the state is
                set to `init_state()`. If that token is padding: at the next valid token.
            max_documents: how many documents begin in a piece at most, if `reset` is traced; if
                more do, all numbers are NaN. None: as many as tokens, which is slow. If `reset` is
                known, documents are counted.

        Returns:
            (y, state): y of the shape and dtype of x, and the state after the piece.

        Raises:
            ValueError: x is not of shape (time, width), a state of another layer, masks that do
                not fit.
        """
        width = self.into.shape[1]
        x = check_input("SelfModifyingMemory", x, width)
        fresh = state is None
        valid, reset = check_masks("SelfModifyingMemory", x.shape[0], valid, reset, max_documents)
        if state is None:
            state = self.init_state()
        else:
            state = check_state("SelfModifyingMemory", state, self.init_state)
        x = blank(x, valid)
        mixed, tail = self.conv(linear(self.into.astype(x.dtype), x), state.tail, valid, reset)
        mine = split_heads(jax.nn.silu(mixed), self.heads)
        inputs, q = (unit(a) for a in jnp.split(mine, [width // self.heads], axis=-1))
        q = None if "q" in self.skips or "q" in self.initial else q
        mu = None if self.mu is None else self.mu(x)
        # Memories keep their dtype whatever that of x is.
        kept = wide(self.into.dtype)
        inputs, q, mu = jax.tree.map(lambda a: a.astype(kept), (inputs, q, mu))
        fixed = Fixed(self.skips, self.rate_bias, self.retain_bias)
        fixed = jax.tree.map(lambda a: a.astype(kept), fixed)
        start = jax.tree.map(lambda a: a.astype(kept), self.initial)
        before = Carried(*state[1:])
        # All heads stand at the same place.
        axes: Any = Carried(0, 0, 0, cast(Any, None))

        masks = valid, reset, max_documents

        def head(
            x: Array, q: Array | None, mu: Array | None, fixed: Fixed, start: Any, carried: Carried
        ) -> tuple[Array, Carried]:
            return modify(x, q, mu, fixed, start, carried, self.written, fresh, masks)

        run = jax.vmap(head, in_axes=(0, 0, 0, 0, 0, axes), out_axes=(0, axes))
        o, carried = run(inputs, q, mu, fixed, start, before)
        return blank(self.output(o, x), valid), SelfModifyingState(tail, *carried)


def _usual(box: str, size: int, key: PRNGKeyArray) -> Array:
    """The static projection that a box is at first; of unit vectors, logits have variance one."""
    if box == "memory":
        return jnp.eye(size)
    return matrix(key, 1, size, size**0.5) if box in GATES else matrix(key, size, size)


def _memory(
    kind: str, box: str, size: int, skip: bool, key: PRNGKeyArray
) -> tuple[Float[Array, "out inputs"], ...]:
    """What a memory is at the beginning of a stream."""
    own, up_key, down_key = jax.random.split(key, 3)
    rows = 1 if box in GATES else size
    if kind == "linear":
        return (matrix(own, rows, size, _START) if skip else _usual(box, size, own),)
    # Unit inputs: each hidden unit sees a number of about one; a unit answer needs entries of
    # about 1 / sqrt(rows) in front of a hidden vector that is about half as long.
    up = matrix(up_key, 2 * size, size, math.sqrt(size))
    start = _START if skip else 1.0
    return (up, matrix(down_key, rows, 2 * size, 2 * start * math.sqrt(2 * size / rows)))


def _adaptive(name: str, adaptive: Any) -> tuple[str, ...]:
    """The boxes that are memories, as strings of Python."""
    several = isinstance(adaptive, Iterable) and not isinstance(adaptive, str)
    boxes = list(adaptive) if several else [None]
    if not all(isinstance(box, str) and box in _KINDS for box in boxes):
        raise ValueError(
            f"{name}: adaptive must be a sequence of some of {_KINDS}, got {described(adaptive)}; "
            "the memory that is read always modifies itself"
        )
    return tuple(map(str, boxes))
