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
    r"""Memories that learn by gradient descent with momentum and decay, one per head:

        S_t = mu_t S_{t-1} - theta_t grad loss(M_{t-1}; k_t, v_t)
        M_t = alpha_t M_{t-1} + S_t,        o_t = M_{t-1}(q_t)
        y_t = W_out [norm(o_t) silu(W_g x_t)]

    with theta, mu and alpha gates in (0, 1). Queries, keys and values are projections of x,
    convolved over a few tokens, through silu; queries and keys are of unit length. What the memory
    is before the first token is learnt outside.

    An MLP forgets what it has learnt instead of all that it is: each of its matrices decays towards
    where it began,

        W_t = alpha_t W_{t-1} + (1 - alpha_t) W_0 + S_t,

    in departure from the paper, whose W_0 here is zero. There the gradient of each matrix has the
    other one as a factor, so that once both have decayed nothing is ever learnt again.

    A linear memory takes its gradients exactly, token by token, though in parallel. An MLP,
    W_1 hidden(W_2 k) with hidden = tanh / sqrt(units), takes those of a chunk at the chunk's
    beginning; retention and momentum are exact. There a key that comes back within a chunk is
    written as often as it comes, from one and the same error, which with "l2" may overshoot: its
    errors e are therefore shortened to e / sqrt(1 + |e|^2), and its values divided by sqrt(d).

    Args:
        width: channels of the input and of the output.
        heads: must divide the width; a head's keys and values are of size d = width / heads.
        memory: `"linear"` or `"mlp"`.
        hidden: units of the MLP, 2 d unless given.
        momentum: whether there is S; else mu = 0.
        decay: whether the memory forgets; else alpha = 1.
        objective: `"l2"`, |M(k) - v|^2 / 2, or `"dot"`, -<M(k), v>.
        rule: `"gd"` as above; `"dgd"`: M_t also loses theta_t W z z' for each matrix W and its own
            input z, where theta is at most (1 + alpha) / 2; `"local"`: matrices of an MLP learn by
            the delta rule what their error at the chunk's beginning asks of them (`network_scan`),
            which converges at every rate; of linear memories the same as `"gd"`.
        chunk: tokens written in parallel. For linear memories of speed only; None: what
            `memory_scan` finds best. For MLPs part of what is computed; None: 16.
        conv: window of the short convolution, in tokens; 0 or None for none.
        read: `"before"` a token's own write, or `"after"`.
        key: a typed PRNG key.

    Attributes:
        into: rows of all heads one after another, of each those of queries, keys and values; so
            that devices can be given heads, see "Meshes" in docs/guides/memories.md.

    Raises:
        ValueError: heads that do not divide the width, sizes below 1, unknown options.

    Source: Behrouz, Zhong and Mirrokni, "Titans: learning to memorize at test time" (2025), eq.
    (9-14), whose theta is half of this one and whose alpha is 1 minus this one. "dgd": Nested
    Learning (2025), eq. (88).
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
        """Maps a sequence, or the next piece of one.

        Args:
            x: (time, width), any time, also 0.
            state: what the piece before left; None at the beginning of a stream.
            valid: (time,), whether a token is there. One that is not changes nothing, whatever it
                holds, and its y is zero. None: all are there.
            reset: (time,), whether a document begins with a token, where the state is
                `init_state()`. At a token that is not valid: with the next one that is.
            max_documents: how many documents begin in a piece at most, if `reset` is traced; if
                more do, all numbers of an MLP are NaN. None: as many as tokens, which is slow for
                MLPs. If `reset` is known they are counted. Linear memories need none.

        Returns:
            (y, state): y of the shape and dtype of x.

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
