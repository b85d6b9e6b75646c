r"""The one recurrence of linear memories, token by token or in chunks.

Source: Yang et al., "Parallelizing linear transformers with the delta rule over sequence length"
(2024) and "Gated delta networks" (2024) for the chunks without momentum; Behrouz, Zhong and
Mirrokni, "Titans" (2025), eq. (9-14) for momentum, whose chunks freeze the gradients; these do not.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._chunk import State, Tokens, advance, prepare
from ._parts import check_floating, is_count

Rate = float | Float[Array, ""] | Float[Array, " time"]
Valid = Bool[Array, " time"] | None

# Tokens that are prepared together; of these only the first state is stored for the backward pass.
# On a CPU they should stay in its caches, elsewhere they should fill the device.
_TOGETHER = {"cpu": 128}
_TOGETHER_ELSEWHERE = 4096
_CHUNK = {"cpu": 32}
_CHUNK_ELSEWHERE = 64
_UNROLLED = 4
# A token that does nothing: q, k, u, erase, retain, momentum, carried, valid.
_INERT = (0, 0, 0, 0, 1, 1, 0, 0)


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
    valid: Valid = None,
) -> tuple[Float[Array, "time value"], Any]:
    r"""Runs a linear memory M, and its surprise S, over a sequence.

        r_t = M_{t-1} k_t
        S_t = mu_t S_{t-1} + (u_t - rho_t r_t) k_t'
        M_t = alpha_t M_{t-1} - eps_t r_t k_t' + S_t
        o_t = M_{t-1} q_t   (read="before")   or   M_t q_t   (read="after")

    Without momentum there is no S, only the token's own write. All of these are exact:

        memory                   u             eps           alpha      mu         rho
        linear attention         v                           alpha
        delta rule               beta v        alpha beta    alpha
        Titans, linear           theta v                     1 - a      eta        theta
        delta gradient descent   eta v         eta           alpha

    The chunked form solves one triangular system for each chunk and is the same function: outputs,
    states and derivatives to rounding, whatever the rates (that of the backend's matrix products;
    on a GPU or TPU float32's takes `jax.default_matmul_precision("highest")`). It needs about two
    matrix products per chunk in sequence, and its backward pass stores one state for many tokens
    and recomputes the rest; the recurrent form stores a state for every token. Both may be
    differentiated in forward and reverse mode to any order. Batches and heads: `jax.vmap`.

    Args:
        q, k: (time, key), queries and keys.
        u: (time, value), what is written.
        erase: eps, rate at which the memory forgets what it says about k; None: 0. This and the
            other rates: (time,), or a number for all tokens.
        retain: alpha, what is retained of all of it; None: 1. May be 0.
        momentum: mu, what is retained of the surprise; None: there is no surprise.
        carried: rho, rate of what is forgotten as part of the surprise, and carried on with it;
            None: 0. Without momentum it is the same as `erase`, and added to it.
        state: M_0 (value, key), with momentum the pair (M_0, S_0); None: zeros.
        chunk: tokens per chunk, of speed only: not a divisor of the time, nor below it. None: 32 on
            a CPU, 64 elsewhere.
        implementation: `"chunked"`, `"recurrent"` or None: recurrent for a single token.
        read: `"before"` or `"after"` the token's own write.
        valid: (time,), tokens that are not change neither M nor S, and their outputs mean nothing;
            all they hold must be finite. None: all are.

    Returns:
        (outputs (time, value), state). Outputs have the type of q, k and u together; states and all
        that is computed at least float32.

    Raises:
        ValueError: shapes that do not belong together, tokens that are not floating-point, a state
            that is or is not a pair against `momentum`, a chunk below 1, an unknown
            `implementation` or `read`.
    """
    name = "memory_scan"
    if implementation not in (None, "chunked", "recurrent"):
        raise ValueError(
            f'{name}: implementation must be "chunked", "recurrent" or None, got {implementation!r}'
        )
    if chunk is not None and not is_count(chunk):
        raise ValueError(f"{name}: chunk must be a number of tokens, 1 or more, got {chunk}")
    dtype = jnp.result_type(q, k, u)
    rates = (erase, retain, momentum, carried)
    tokens, begin = _canonical(name, q, k, u, rates, state, read, valid)
    time = q.shape[0]
    if time == 0:
        outputs, end = tokens.u, begin
    elif implementation == "recurrent" or (implementation is None and time == 1):
        outputs, end = _recurrent(tokens, begin, read)
    else:
        backend = jax.default_backend()
        chunk = chunk or _CHUNK.get(backend, _CHUNK_ELSEWHERE)
        together = _TOGETHER.get(backend, _TOGETHER_ELSEWHERE)
        outputs, end = _chunked(tokens, begin, min(chunk, time), together, read)
    return outputs.astype(dtype), _public(end)


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
    valid: Valid = None,
) -> tuple[Float[Array, "time value"], Any]:
    """`memory_scan` with all tokens in one chunk: without a loop, and nothing is recomputed.

    For use within a loop over chunks of one's own. Arguments, results and errors are those of
    `memory_scan`.
    """
    dtype = jnp.result_type(q, k, u)
    rates = (erase, retain, momentum, carried)
    tokens, begin = _canonical("memory_chunk", q, k, u, rates, state, read, valid)
    if q.shape[0] == 0:
        return tokens.u.astype(dtype), _public(begin)
    end, outputs = advance(begin, prepare(tokens, read))
    return outputs.astype(dtype), _public(end)


def _recurrent(tokens: Tokens, state: State, read: str) -> tuple[Array, State]:
    def step(state: State, token: Tokens) -> tuple[State, Array]:
        memory, surprise = state
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
    tokens: Tokens, state: State, chunk: int, together: int, read: str
) -> tuple[Array, State]:
    time = tokens.q.shape[0]
    chunks = -(-time // chunk)
    groups = -(-chunks // max(together // chunk, 1))
    each = -(-chunks // groups)
    missing = groups * each * chunk - time
    if missing and tokens.momentum is not None and tokens.valid is None:
        tokens = tokens._replace(valid=jnp.ones(time, tokens.u.dtype))

    def cut(a: Any, fill: int) -> Any:
        if a is None:
            return None
        a = jnp.pad(a, ((0, missing), *((0, 0),) * (a.ndim - 1)), constant_values=fill)
        return a.reshape(groups, each, chunk, *a.shape[1:])

    def group(state: State, tokens: Tokens) -> tuple[State, Array]:
        prepared = jax.vmap(lambda chunk: prepare(chunk, read))(tokens)
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
    name: str, q: Array, k: Array, u: Array, rates: tuple, state: Any, read: str, valid: Valid
) -> tuple[Tokens, State]:
    """Everything in one dtype, with what is not valid made to do nothing."""
    _check(name, q, k, u, state, rates[2] is not None, read, valid)
    names = ("erase", "retain", "momentum", "carried")
    rates = tuple(
        None if rate is None else per_token(name, what, rate, k.shape[0])
        for what, rate in zip(names, rates, strict=True)
    )
    leaves = (q, k, u, *(rate for rate in rates if rate is not None), *jax.tree.leaves(state))
    wide = jnp.result_type(jnp.float32, *leaves)

    def cast(a: Any) -> Any:
        return None if a is None else jnp.asarray(a, wide)

    q, k, u, erase, retain, momentum, carried = map(cast, (q, k, u, *rates))
    if momentum is None and carried is not None:
        erase, carried = carried if erase is None else erase + carried, None
    if valid is not None:
        valid = jnp.asarray(valid)
        u = jnp.where(valid[:, None], u, 0)
        erase, carried = (None if a is None else jnp.where(valid, a, 0) for a in (erase, carried))
        retain, momentum = (
            None if a is None else jnp.where(valid, a, 1) for a in (retain, momentum)
        )
        valid = None if momentum is None else valid.astype(wide)
    tokens = Tokens(q, k, u, erase, retain, momentum, carried, valid)
    if state is None:
        memory = jnp.zeros((u.shape[1], k.shape[1]), wide)
        return tokens, (memory, None if momentum is None else memory)
    if momentum is None:
        return tokens, (cast(state), None)
    return tokens, (cast(state[0]), cast(state[1]))


def _public(state: State) -> Any:
    return state[0] if state[1] is None else state


def per_token(name: str, what: str, rate: Rate, time: int) -> Float[Array, " time"]:
    """A rate of every token: those that are given, or the number that is given.

    Raises:
        ValueError: another shape.
    """
    rate = jnp.asarray(rate)
    if rate.shape not in ((), (time,)):
        raise ValueError(
            f"{name}: {what} must be a number or hold one per token, shape {(time,)}, got "
            f"{rate.shape}"
        )
    return jnp.broadcast_to(rate, (time,))


def _check(
    name: str, q: Array, k: Array, u: Array, state: Any, momentum: bool, read: str, valid: Valid
) -> None:
    if read not in ("before", "after"):
        raise ValueError(f'{name}: read must be "before" or "after", got {read!r}')
    if q.ndim != 2 or q.shape != k.shape:
        raise ValueError(
            f"{name}: q and k must be (time, key), both alike, got {q.shape} and {k.shape}; batch "
            "with jax.vmap"
        )
    check_floating(name, q, k, u)
    if u.ndim != 2 or u.shape[0] != k.shape[0]:
        raise ValueError(
            f"{name}: values must be (time, value) with the {k.shape[0]} tokens of k, got {u.shape}"
        )
    if valid is not None and jnp.shape(valid) != k.shape[:1]:
        raise ValueError(
            f"{name}: valid must hold one truth value per token, shape {k.shape[:1]}, got "
            f"{jnp.shape(valid)}"
        )
    if state is None:
        return
    pair = isinstance(state, tuple)
    if pair != momentum or (pair and len(state) != 2):
        wanted = "with momentum the pair (M, S)" if momentum else "without momentum the array M"
        raise ValueError(f"{name}: state must be {wanted}, got {type(state).__name__}")
    for a in state if pair else (state,):
        if jnp.shape(a) != (u.shape[1], k.shape[1]):
            raise ValueError(
                f"{name}: state must be (value, key), {(u.shape[1], k.shape[1])}, got "
                f"{jnp.shape(a)}"
            )
