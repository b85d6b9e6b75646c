r"""The one recurrence of linear memories, token by token or in chunks.

Source: Yang et al., "Parallelizing linear transformers with the delta rule over sequence length"
(2024) and "Gated delta networks" (2024) for the chunks without momentum; Behrouz, Zhong and
Mirrokni, "Titans" (2025), eq. (9-14) for momentum, whose chunks freeze the gradients; these do not.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._arguments import Rate, check_option, check_tokens, floating_array, per_token
from ._chunk import State, Tokens, advance, prepare
from ._grid import begin_anew, document_starts
from ._masks import Mask, blank, check_masks
from ._parts import is_count

# Tokens that are prepared together; of these only the first state is stored for the backward pass.
# On a CPU they should stay in its caches, elsewhere they should fill the device.
_TOGETHER = {"cpu": 128}
_TOGETHER_ELSEWHERE = 4096
_CHUNK = {"cpu": 32}
_CHUNK_ELSEWHERE = 64
_UNROLLED = 4
# A token that does nothing: q, k, u, erase, retain, momentum, carried, valid, starts, bias.
_INERT = (0, 0, 0, 0, 1, 1, 0, 0, False, 0)


def memory_scan(
    q: Float[Array, "time key"],
    k: Float[Array, "time key"],
    u: Float[Array, "time value"],
    erase: Rate | None = None,
    retain: Rate | None = None,
    momentum: Rate | None = None,
    carried: Rate | None = None,
    state: Any = None,
    chunk: int | None = None,
    implementation: str | None = None,
    read: str = "before",
    valid: Mask | None = None,
    *,
    reset: Mask | None = None,
    initial: Any = None,
) -> tuple[Float[Array, "time value"], Any]:
    r"""Runs a linear memory M, and its momentum S, over a sequence.

        r_t = M_{t-1} k_t
        S_t = mu_t S_{t-1} + (u_t - rho_t r_t) k_t'
        M_t = alpha_t M_{t-1} - eps_t r_t k_t' + S_t
        o_t = M_{t-1} q_t   (read="before")   or   M_t q_t   (read="after")

    Without momentum, S_t is the token's own write. These memories are exact:

        memory                   u             eps           alpha      mu         rho
        linear attention         v                           alpha
        delta rule               beta v        alpha beta    alpha
        Titans, linear           theta v                     1 - a      eta        theta
        delta gradient descent   eta v         eta           alpha

    The chunked form solves one triangular system for each chunk and computes the same function:
    outputs, states and derivatives up to the rounding of the backend's matrix products (on a GPU or
    TPU, float32 precision needs `jax.default_matmul_precision("highest")`). Its backward pass
    stores one state for many tokens and recomputes the rest; the recurrent form stores a state for
    every token. Both may be differentiated in forward and reverse mode to any order. Use `jax.vmap`
    for batches and heads.

    Args:
        q: queries, (time, key).
        k: keys, (time, key).
        u: the values written, (time, value), times their rate; see the table.
        erase: eps, how much of the memory's output for k is erased, 0 or more, (time,) or a number
            for all tokens; None: 0.
        retain: alpha, how much of M is kept, 0 to 1, (time,) or a number; None: 1.
        momentum: mu, how much of S is kept, 0 to 1, (time,) or a number; None: no momentum.
        carried: rho, how much of the memory's output for k is erased as a part of S, and kept with
            it, 0 or more, (time,) or a number; None: 0. Without momentum it is added to `erase`.
        state: M_0 (value, key), with momentum the pair (M_0, S_0); None: `initial`.
        chunk: tokens per chunk, of speed only; it need not divide the time. None: 32 on a CPU, 64
            elsewhere.
        implementation: `"chunked"`, `"recurrent"` or None: recurrent for a single token.
        read: `"before"` or `"after"` the token's own write.
        valid: (time,) bool, False for padding, which changes neither M nor S; its output is zero.
            None: all tokens are valid.
        reset: (time,) bool, True at the first token of a document, before which the state is set to
            `initial`. If that token is padding: at the next valid token. None: nowhere.
        initial: the state at the beginning of a document, like `state`; None: zeros.

    Returns:
        (o, state): outputs (time, value) in the dtype of q, k and u together, and the state after
        the last token, like `state`, float32 at least.

    Raises:
        ValueError: shapes that do not fit, tokens that are not floating-point, known rates out of
            range, a state that is not a pair with momentum or is a pair without, a chunk below 1,
            an unknown `implementation` or `read`.

    Source: Yang et al., "Parallelizing linear transformers with the delta rule over sequence
    length" (2024) and "Gated delta networks" (2024); Behrouz, Zhong and Mirrokni, "Titans" (2025),
    eq. (9-14).
    """
    rates = (erase, retain, momentum, carried)
    return linear_scan(
        "memory_scan", q, k, u, rates, state, chunk, implementation, read, valid, reset, initial
    )


def linear_scan(
    name: str,
    q: Array,
    k: Array,
    u: Array,
    rates: tuple,
    state: Any,
    chunk: int | None,
    implementation: str | None,
    read: str,
    valid: Mask | None,
    reset: Mask | None,
    initial: Any,
) -> tuple[Array, Any]:
    """`memory_scan` for functions whose name errors are to have."""
    check_option(name, "implementation", implementation, "chunked", "recurrent", None)
    if chunk is not None and not is_count(chunk):
        raise ValueError(f"{name}: chunk must be a number of tokens, 1 or more, got {chunk!r:.60}")
    tokens, begin, start, pending, valid = _canonical(
        name, q, k, u, rates, state, read, valid, reset, initial
    )
    dtype = jnp.result_type(q, k, u)
    time = tokens.q.shape[0]
    if time == 0:
        outputs, end = tokens.u, begin
    elif implementation == "recurrent" or (implementation is None and time == 1):
        outputs, end = _recurrent(tokens, begin, read, start)
    else:
        backend = jax.default_backend()
        chunk = int(chunk) if chunk else _CHUNK.get(backend, _CHUNK_ELSEWHERE)
        together = _TOGETHER.get(backend, _TOGETHER_ELSEWHERE)
        outputs, end = _chunked(tokens, begin, min(chunk, time), together, read, start)
    end = begin_anew(pending, start, end)
    return blank(outputs.astype(dtype), valid), _public(end)


def memory_chunk(
    state: Any,
    q: Float[Array, "time key"],
    k: Float[Array, "time key"],
    u: Float[Array, "time value"],
    erase: Rate | None = None,
    retain: Rate | None = None,
    momentum: Rate | None = None,
    carried: Rate | None = None,
    read: str = "before",
    valid: Mask | None = None,
    *,
    reset: Mask | None = None,
    initial: Any = None,
) -> tuple[Float[Array, "time value"], Any]:
    """Runs a linear memory over one chunk: `memory_scan` without a loop and without recomputation.

    For loops over chunks of your own.

    Args:
        state: M_0 (value, key), with momentum the pair (M_0, S_0); None: `initial`.
        q: queries, (time, key).
        k: keys, (time, key).
        u: the values written, (time, value), times their rate.
        erase: as in `memory_scan`.
        retain: as in `memory_scan`.
        momentum: as in `memory_scan`.
        carried: as in `memory_scan`.
        read: `"before"` or `"after"` the token's own write.
        valid: as in `memory_scan`.
        reset: as in `memory_scan`.
        initial: as in `memory_scan`.

    Returns:
        (o, state): outputs (time, value) and the state after the last token.

    Raises:
        ValueError: arguments that `memory_scan` refuses.
    """
    rates = (erase, retain, momentum, carried)
    tokens, begin, start, pending, valid = _canonical(
        "memory_chunk", q, k, u, rates, state, read, valid, reset, initial
    )
    dtype = jnp.result_type(q, k, u)
    if tokens.q.shape[0] == 0:
        return tokens.u.astype(dtype), _public(begin)
    end, outputs = advance(begin, prepare(tokens, read, start))
    end = begin_anew(pending, start, end)
    return blank(outputs.astype(dtype), valid), _public(end)


def chunk_of_network(
    state: Any,
    q: Array,
    k: Array,
    u: Array,
    erase: Array | None,
    retain: Array | None,
    momentum: Array | None,
    carried: Array | None,
    read: str,
    valid: Array | None,
    bias: Array | None,
) -> tuple[Array, Any]:
    """`memory_chunk` of one matrix of a network: all is checked and finite, outputs that are not
    valid mean nothing, and what is seen has a bias: r_t = M_{t-1} k_t + bias_t."""
    tokens = _tokens(q, k, u, (erase, retain, momentum, carried), valid, _wide(q, k, u, state))
    end, outputs = advance(_pair(state, tokens), prepare(tokens._replace(bias=bias), read))
    return outputs.astype(jnp.result_type(q, k, u)), _public(end)


def _recurrent(
    tokens: Tokens, state: State, read: str, initial: State | None
) -> tuple[Array, State]:
    def step(state: State, token: Tokens) -> tuple[State, Array]:
        memory, surprise = begin_anew(token.starts, initial, state)
        seen = memory @ token.k
        write, erased = token.u, None if token.erase is None else token.erase * seen
        if surprise is None:
            added = jnp.outer(write if erased is None else write - erased, token.k)
        else:
            if token.carried is not None:
                write = write - token.carried * seen
            surprise = token.momentum * surprise + jnp.outer(write, token.k)
            added = surprise if token.valid is None else token.valid * surprise
            if erased is not None:
                added = added - jnp.outer(erased, token.k)
        new = (memory if token.retain is None else token.retain * memory) + added
        return (new, surprise), (memory if read == "before" else new) @ token.q

    end, outputs = jax.lax.scan(step, state, tokens)
    return outputs, end


def _chunked(
    tokens: Tokens, state: State, chunk: int, together: int, read: str, initial: State | None
) -> tuple[Array, State]:
    time = tokens.q.shape[0]
    chunks = -(-time // chunk)
    groups = -(-chunks // max(together // chunk, 1))
    each = -(-chunks // groups)
    missing = groups * each * chunk - time
    if missing and tokens.momentum is not None and tokens.valid is None:
        tokens = tokens._replace(valid=jnp.ones(time, tokens.u.dtype))

    def cut(a: Any, fill: int | bool) -> Any:
        if a is None:
            return None
        a = jnp.pad(a, ((0, missing), *((0, 0),) * (a.ndim - 1)), constant_values=fill)
        return a.reshape(groups, each, chunk, *a.shape[1:])

    def group(state: State, tokens: Tokens) -> tuple[State, Array]:
        prepared = jax.vmap(lambda chunk: prepare(chunk, read, initial))(tokens)
        return jax.lax.scan(advance, state, prepared, unroll=min(each, _UNROLLED))

    pieces = Tokens(*map(cut, tokens, _INERT))
    if groups == 1:
        state, outputs = group(state, jax.tree.map(lambda a: a[0], pieces))
    else:
        # A loop separates the passes by itself.
        body = jax.checkpoint(group, prevent_cse=False)
        state, outputs = jax.lax.scan(body, state, pieces)
    return outputs.reshape(groups * each * chunk, -1)[:time], state


def _canonical(
    name: str,
    q: Array,
    k: Array,
    u: Array,
    rates: tuple,
    state: Any,
    read: str,
    valid: Mask | None,
    reset: Mask | None,
    initial: Any,
) -> tuple[Tokens, State, State | None, Any, Mask | None]:
    """Everything checked, in one dtype, and with what is not valid made to do nothing.

    Returns:
        (tokens, state, initial state or None for zeros, whether a document begins behind the last
        valid token or None, `valid`).
    """
    check_option(name, "read", read, "before", "after")
    q, k, u = check_tokens(name, q, k, u)
    state = _checked(name, "state", state, k, u, rates[2] is not None)
    initial = _checked(name, "initial", initial, k, u, rates[2] is not None)
    valid, reset = check_masks(name, k.shape[0], valid, reset)
    bounds = {"erase": math.inf, "retain": 1.0, "momentum": 1.0, "carried": math.inf}
    rates = tuple(
        None if rate is None else per_token(name, what, rate, k.shape[0], high, valid)
        for (what, high), rate in zip(bounds.items(), rates, strict=True)
    )
    wide = _wide(q, k, u, state, initial, *rates)
    tokens = _tokens(blank(q, valid), blank(k, valid), u, rates, valid, wide)
    start = None if initial is None else _pair(initial, tokens)
    begin = _pair(initial if state is None else state, tokens)
    if reset is None:
        return tokens, begin, start, None, valid
    starts, pending = document_starts(k.shape[0], valid, reset)
    return tokens._replace(starts=starts), begin, start, pending, valid


def _wide(*trees: Any) -> Any:
    return jnp.result_type(jnp.float32, *jax.tree.leaves(trees))


def _tokens(q: Array, k: Array, u: Array, rates: tuple, valid: Mask | None, wide: Any) -> Tokens:
    """In one dtype; where they are not valid they write and forget nothing."""

    def cast(a: Any) -> Any:
        return None if a is None else jnp.asarray(a, wide)

    q, k, u, erase, retain, momentum, carried = map(cast, (q, k, u, *rates))
    if momentum is None and carried is not None:
        erase, carried = carried if erase is None else erase + carried, None
    if valid is None:
        return Tokens(q, k, u, erase, retain, momentum, carried, None)
    valid = jnp.asarray(valid)
    u = jnp.where(valid[:, None], u, 0)
    erase, carried = (None if a is None else jnp.where(valid, a, 0) for a in (erase, carried))
    retain, momentum = (None if a is None else jnp.where(valid, a, 1) for a in (retain, momentum))
    kept = None if momentum is None else valid.astype(wide)
    return Tokens(q, k, u, erase, retain, momentum, carried, kept)


def _pair(state: Any, tokens: Tokens) -> State:
    """A state as it is carried within, in the dtype of the tokens; None: zeros."""
    dtype, momentum = tokens.u.dtype, tokens.momentum is not None
    if state is None:
        memory = jnp.zeros((tokens.u.shape[1], tokens.k.shape[1]), dtype)
        return memory, memory if momentum else None
    memory, surprise = state if momentum else (state, None)
    return jnp.asarray(memory, dtype), None if surprise is None else jnp.asarray(surprise, dtype)


def _public(state: State) -> Any:
    return state[0] if state[1] is None else state


def _checked(name: str, what: str, state: Any, k: Array, u: Array, momentum: bool) -> Any:
    """A state of floating-point arrays, or None; refuses those that do not fit the tokens."""
    if state is None:
        return None
    pair = isinstance(state, tuple)
    if pair != momentum or (pair and len(state) != 2):
        wanted = "with momentum the pair (M, S)" if momentum else "without momentum the array M"
        raise ValueError(f"{name}: {what} must be {wanted}, got {type(state).__name__}")
    arrays = tuple(floating_array(name, what, a) for a in (state if pair else (state,)))
    for a in arrays:
        if a.shape != (u.shape[1], k.shape[1]):
            raise ValueError(
                f"{name}: {what} must be (value, key), {(u.shape[1], k.shape[1])}, got {a.shape}"
            )
    return arrays if pair else arrays[0]
