"""Titans' neural memory as a sequence layer."""

import math
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_input, check_key, check_sizes, check_state, choice, whole_or_none
from .._masks import Mask, blank, check_masks
from .._network_scan import NetworkState, network_scan
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
from .._scan import memory_scan
from ._self_writing import hidden as activation
from ._self_writing import limited

_FROZEN = 16  # tokens for which an MLP's gradients are those of the first one's memory


class TitansMemory(eqx.Module):
    r"""Titans' neural memory: memories written by gradient descent with momentum, one per head.

        S_t = mu_t S_{t-1} - theta_t grad loss(M_{t-1}; k_t, v_t)
        M_t = alpha_t M_{t-1} + S_t,        o_t = M_{t-1}(q_t)
        y_t = W_out [norm(o_t) silu(W_g x_t)]

    with theta, mu and alpha gates in (0, 1). Queries, keys and values are projections of x,
    convolved over a few tokens, through silu. Queries and keys have unit length. The memory before
    the first token, M_0, is a parameter.

    The matrices of an MLP decay towards their initial values,

        W_t = alpha_t W_{t-1} + (1 - alpha_t) W_0 + S_t.

    In the paper they decay to zero; but each matrix is a factor of the gradient of the other, so
    that an MLP that has decayed learns nothing any more.

    A linear memory takes its gradients exactly, token by token, but computes them in parallel. An
    MLP, W_1 hidden(W_2 k) with hidden = tanh / sqrt(units), takes the gradients of a chunk at the
    weights of the chunk's beginning; retention and momentum are exact. A key that occurs several
    times in a chunk is then written several times from the same error, which may overshoot with
    "l2": errors e are therefore shortened to e / sqrt(1 + |e|^2), and values divided by sqrt(d).

    Args:
        width: channels of the input and of the output.
        heads: must divide the width; a head's keys and values are of size d = width / heads.
        memory: `"linear"` or `"mlp"`.
        hidden: hidden units of the MLP; None: 2 d.
        momentum: whether there is S; else mu = 0.
        decay: whether the memory forgets; else alpha = 1.
        objective: `"l2"`, `|M(k) - v|^2 / 2`, or `"dot"`, `-<M(k), v>`.
        rule: `"gd"` as above. `"dgd"`: theta_t W z z' is subtracted too, for each matrix W and its
            own input z; theta is then at most (1 + alpha) / 2. `"local"`: each matrix of an MLP
            moves by the delta rule towards its output at the chunk's beginning less the error there
            (`network_scan`), which is stable at every rate; the same as `"gd"` for linear memories.
        chunk: tokens written in parallel. For linear memories of speed only; None: the default of
            `memory_scan`. For MLPs it changes the result; None: 16.
        conv: window of the short convolution, in tokens; 0 or None for none.
        read: `"before"` a token's own write, or `"after"`.
        key: a typed PRNG key.

    Attributes:
        into: (channels, width): for each head the rows of its queries, keys and values, so that a
            mesh of devices can split it by heads.
        conv: the short convolution.
        rate: the gate theta.
        mu: the gate of the momentum; None without `momentum`.
        forget: the gate alpha; None without `decay`.
        initial: the matrices of the memory before the first token, with a leading axis heads.
        output: norm, gate and projection of what the memory returns.
        heads: number of heads.
        objective: `"l2"` or `"dot"`.
        rule: `"gd"`, `"dgd"` or `"local"`.
        chunk: tokens written in parallel.
        read: `"before"` or `"after"`.

    Raises:
        ValueError: heads that do not divide the width, sizes below 1, unknown options.

    Source: Behrouz, Zhong and Mirrokni, "Titans: learning to memorize at test time" (2025), eq.
    (9-14), whose theta is half of this one and whose alpha is 1 minus this one. "dgd": Nested
    Learning (2025), eq. (88).

    Example:
        ```python
        layer = nx.memory.TitansMemory(8, heads=2, key=jax.random.key(0))
        y, state = jax.jit(lambda x: layer(x))(jnp.ones((6, 8)))  # six tokens
        memory, momentum = state.memory
        print(y.shape, memory.shape)  # (6, 8) (2, 4, 4)
        ```
    """

    into: Float[Array, "channels width"]
    conv: ShortConvolution
    rate: Gate
    mu: Gate | None
    forget: Gate | None
    initial: tuple[Float[Array, "heads out inputs"], ...]
    output: GatedOutput
    heads: int = eqx.field(static=True)
    objective: str = eqx.field(static=True)
    rule: str = eqx.field(static=True)
    chunk: int | None = eqx.field(static=True)
    read: str = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        heads: int = 4,
        *,
        memory: str = "linear",
        hidden: int | None = None,
        momentum: bool = True,
        decay: bool = True,
        objective: str = "l2",
        rule: str = "gd",
        chunk: int | None = None,
        conv: int | None = 4,
        read: str = "before",
        key: PRNGKeyArray,
    ):
        name = "TitansMemory"
        width, heads = check_sizes(name, width, heads)
        hidden, chunk = whole_or_none(name, "hidden", hidden), whole_or_none(name, "chunk", chunk)
        conv = whole_or_none(name, "conv", conv, 0)
        check_key(name, key)
        memory = choice(name, "memory", memory, ("linear", "mlp"))
        objective = choice(name, "objective", objective, ("l2", "dot"))
        rule = choice(name, "rule", rule, ("gd", "dgd", "local"))
        read = choice(name, "read", read, ("before", "after"))
        if hidden is not None and memory == "linear":
            raise ValueError(
                f'TitansMemory: a linear memory has no hidden units; pass memory="mlp" or leave '
                f"hidden out, got hidden={hidden}"
            )
        self.heads, self.objective, self.rule = heads, objective, rule
        self.chunk, self.read = chunk, read
        size = width // heads
        keys = jax.random.split(key, 8)
        self.into = matrix(keys[0], 3 * width, width)
        self.conv = ShortConvolution(3 * width, conv, key=keys[1])
        self.rate = Gate(width, jnp.full(heads, -2.0), key=keys[2])
        self.mu = Gate(width, jnp.zeros(heads), key=keys[3]) if momentum else None
        self.forget = Gate(width, spread(3.0, 5.0, heads), key=keys[4]) if decay else None
        self.output = GatedOutput(width, heads, size, key=keys[5])
        if memory == "linear":
            self.initial = (jnp.zeros((heads, size, size)),)
        else:
            units = 2 * size if hidden is None else hidden
            # Of unit inputs, every hidden unit sees a number of about one; answers are small.
            up = matrix(keys[6], heads * units, size, math.sqrt(size))
            down = matrix(keys[7], heads * size, units, 0.1 * math.sqrt(units / size))
            self.initial = (up.reshape(heads, units, size), down.reshape(heads, size, units))

    def init_state(self) -> LayerState:
        """The state at the beginning of a stream: the memories are the initial ones.

        `memory` is M, or (M, S) with momentum, of a linear memory; of an MLP a `NetworkState`.
        """
        dtype = wide(self.into.dtype)
        now: tuple[Array, ...] = tuple(m.astype(dtype) for m in self.initial)
        surprise = None if self.mu is None else tuple(jnp.zeros_like(m) for m in now)
        tail = self.conv.init_state(dtype)
        linear = len(now) == 1
        if not linear:
            memory = NetworkState(now, surprise, now, jnp.zeros(self.heads, jnp.int32))
        else:
            memory = now[0] if surprise is None else (now[0], surprise[0])
        return LayerState(tail, memory)

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
            max_documents: how many documents begin in a piece at most, if `reset` is traced; if
                more do, all numbers of an MLP are NaN. None: as many as tokens, which is slow for
                MLPs. If `reset` is known, documents are counted. Linear memories need no bound.

        Returns:
            (y, state): y of the shape and dtype of x, and the state after the piece.

        Raises:
            ValueError: x is not of shape (time, width), a state of another layer, masks that do
                not fit.
        """
        x = check_input("TitansMemory", x, self.into.shape[1])
        fresh = state is None
        valid, reset = check_masks("TitansMemory", x.shape[0], valid, reset, max_documents)
        if state is None:
            state = self.init_state()
        else:
            state = check_state("TitansMemory", state, self.init_state)
        x = blank(x, valid)
        mixed, tail = self.conv(linear(self.into.astype(x.dtype), x), state.tail, valid, reset)
        q, k, v = jnp.split(split_heads(jax.nn.silu(mixed), self.heads), 3, axis=-1)
        theta = self.rate(x)
        mu = None if self.mu is None else self.mu(x)
        alpha = None if self.forget is None else self.forget(x)
        if self.rule == "dgd" and alpha is not None:
            # Erased twice, by the rule and by the loss, a memory may change its sign but not grow.
            theta = theta * (1 + alpha) / 2
        tokens = unit(q), unit(k), widened(v), theta, mu, alpha
        if len(self.initial) == 1:
            start: Any = None if reset is None else self.init_state().memory
            head = partial(self._linear, valid, reset)
        else:
            start = tuple(w.astype(wide(w.dtype)) for w in self.initial)
            head = partial(self._network, fresh, (valid, reset, max_documents))
        o, memory = jax.vmap(head)(*tokens, state.memory, start)
        memory = jax.tree.map(lambda new, old: new.astype(old.dtype), memory, state.memory)
        return blank(self.output(o, x), valid), LayerState(tail, memory)

    def _linear(
        self,
        valid: Mask | None,
        reset: Mask | None,
        q: Array,
        k: Array,
        v: Array,
        theta: Array,
        mu: Array | None,
        alpha: Array | None,
        memory: Any,
        start: Any,
    ) -> tuple[Array, Any]:
        return memory_scan(
            q,
            k,
            theta[:, None] * v,
            theta if self.rule == "dgd" else None,
            alpha,
            mu,
            theta if self.objective == "l2" else None,
            state=memory,
            chunk=self.chunk,
            read=self.read,
            valid=valid,
            reset=reset,
            initial=start,
        )

    def _network(
        self,
        fresh: bool,
        masks: tuple[Mask | None, Mask | None, int | None],
        q: Array,
        k: Array,
        v: Array,
        theta: Array,
        mu: Array | None,
        alpha: Array | None,
        memory: NetworkState,
        start: tuple[Array, ...],
    ) -> tuple[Array, NetworkState]:
        def error(prediction: Array, value: Array) -> Array:
            found = -value if self.objective == "dot" else prediction - value
            return limited(found, 1.0)

        valid, reset, max_documents = masks
        return network_scan(
            q,
            k,
            v * v.shape[-1] ** -0.5,
            start,
            theta,
            alpha,
            mu,
            objective=error,
            rule=self.rule,
            # A stream that begins needs no room for what lies in its chunk already.
            state=None if fresh else memory,
            chunk=self.chunk or _FROZEN,
            read=self.read,
            implicit=False,
            activation=activation,
            towards=start,
            valid=valid,
            reset=reset,
            max_documents=max_documents,
        )
