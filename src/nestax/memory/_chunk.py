r"""One chunk of a linear memory, all its tokens at once.

With Gamma_ti = alpha_{i+1} ... alpha_t (1 for i = t), Gamma^mu alike, c = Gamma Gamma^mu (c = Gamma
without momentum), g_t = alpha_1 ... alpha_t and b_t = mu_1 c_t1, the recurrence of `memory_scan`
that begins at (M_0, S_0) is

    M_t = g_t M_0 + b_t S_0 + sum_{i <= t} [c_ti (u_i - rho_i r_i) - Gamma_ti eps_i r_i] k_i'.

Asked for k_{t+1}, it makes what the tokens see, r, the solution of a unit lower-triangular system.
Most memories have only one of the rates, rho with momentum or eps without. For these one may solve
for what is written, w_i = u_i - rate_i r_i, which then stands where u stood:

    (I + diag(rate) (c^- . K K')) W = U - diag(rate) (diag(g^-) K M_0' + diag(b^-) K S_0')
    M_t = g_t M_0 + b_t S_0 + sum_{i <= t} c_ti w_i k_i',

where ^- is what holds just before a token, c^-_ti = c_{t-1,i}. With both rates W is R, and u counts
beside it. `prepare` computes whatever does not involve the state, `advance` the rest.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from ._triangular import inverse_unit_lower, products_between

Maybe = Any  # an Array or None; which of them are there goes together
State = tuple[Array, Maybe]  # M and, with momentum, S: (value, key)


class Tokens(NamedTuple):
    """(time, ...) each; absent where it would do nothing."""

    q: Array
    k: Array
    u: Array
    erase: Maybe
    retain: Maybe
    momentum: Maybe
    carried: Maybe
    valid: Maybe  # 0 or 1, with momentum only: M_t = ... + valid_t S_t


class Direct(NamedTuple):
    """What u does beside W."""

    u: Array
    outputs: Array
    to_memory: Array
    to_surprise: Array


class Chunk(NamedTuple):
    """A chunk without its state. Queries and keys are those of the tokens, scaled:

    W   = inverse (right - seen_memory M_0' - seen_surprise S_0')
    O   = ask_memory M_0' + ask_surprise S_0' + scores W
    M_C = keep_memory M_0 + keep_surprise S_0 + W' to_memory
    S_C = keep_momentum S_0 + W' to_surprise.
    """

    right: Array
    inverse: Maybe
    seen_memory: Maybe
    seen_surprise: Maybe
    ask_memory: Array
    ask_surprise: Maybe
    scores: Array
    to_memory: Array
    to_surprise: Maybe
    keep_memory: Maybe
    keep_surprise: Maybe
    keep_momentum: Maybe
    direct: Direct | None


class _Decay(NamedTuple):
    """What is left of things in the memory at each token: rows are the times at which it is asked.

    Attributes:
        kept: of what was put into the memory at token i; (time, time).
        written: of what was put into the surprise at i and came to the memory since.
        memory: of M_0; (time,).
        surprise: of S_0.
    """

    kept: Array
    written: Array
    memory: Array
    surprise: Maybe


def prepare(tokens: Tokens, read: str) -> Chunk:
    """All of a chunk that does not involve the state."""
    q, k, u, erase, retain, momentum, carried, _ = tokens
    before, after, moved = _decays(tokens)
    asked = before if read == "before" else after
    overlap = q @ k.T
    scores = asked.written * overlap
    to_memory = _rows(after.written[-1], k)
    to_surprise = _rows(_last(moved), k)
    right, inverse, seen_memory, seen_surprise, direct = u, None, None, None, None
    if momentum is not None and erase is not None:
        alike = k @ k.T
        direct = Direct(u, scores @ u, to_memory, to_surprise)
        right = (before.written * alike) @ u
        inverse = inverse_unit_lower(_erased(before, erase, carried) * alike)
        seen_memory, seen_surprise = _rows(-before.memory, k), _rows(-before.surprise, k)
        scores = -_erased(asked, erase, carried) * overlap
        to_memory = _rows(-_erased(after, erase, carried)[-1], k)
        to_surprise = None if carried is None else -_rows(carried, to_surprise)
    elif (rate := erase if momentum is None else carried) is not None:
        inverse = inverse_unit_lower(_rows(rate, before.written) * (k @ k.T))
        seen_memory = _rows(rate * before.memory, k)
        seen_surprise = None if before.surprise is None else _rows(rate * before.surprise, k)
    return Chunk(
        right,
        inverse,
        seen_memory,
        seen_surprise,
        _rows(asked.memory, q),
        _rows(asked.surprise, q),
        scores,
        to_memory,
        to_surprise,
        None if retain is None else after.memory[-1],
        _last(after.surprise),
        None if momentum is None else momentum[0] * moved[-1, 0],
        direct,
    )


def advance(state: State, chunk: Chunk) -> tuple[State, Array]:
    """(state after the chunk, outputs (time, value))."""
    memory, surprise = state
    w, direct = chunk.right, chunk.direct
    if chunk.inverse is not None:
        w = w - chunk.seen_memory @ memory.T
        if surprise is not None:
            w = w - chunk.seen_surprise @ surprise.T
        w = chunk.inverse @ w
    outputs = chunk.ask_memory @ memory.T + chunk.scores @ w
    new = memory if chunk.keep_memory is None else chunk.keep_memory * memory
    new = new + w.T @ chunk.to_memory
    if direct is not None:
        outputs = outputs + direct.outputs
        new = new + direct.u.T @ direct.to_memory
    if surprise is None:
        return (new, None), outputs
    outputs = outputs + chunk.ask_surprise @ surprise.T
    new = new + chunk.keep_surprise * surprise
    surprise = chunk.keep_momentum * surprise
    if chunk.to_surprise is not None:
        surprise = surprise + w.T @ chunk.to_surprise
    if direct is not None:
        surprise = surprise + direct.u.T @ direct.to_surprise
    return (new, surprise), outputs


def _decays(tokens: Tokens) -> tuple[_Decay, _Decay, Maybe]:
    """Just before every token and just after; and what is left in the surprise, just after."""
    size, dtype = tokens.k.shape[0], tokens.k.dtype
    identity = jnp.eye(size, dtype=dtype)
    alpha = jnp.ones(size, dtype) if tokens.retain is None else tokens.retain
    kept = products_between(alpha)
    kept_after = identity + _rows(alpha, kept)
    # M_0 is as if written one token before the first.
    memory = identity[0] + alpha[0] * kept[:, 0]
    if tokens.momentum is None:
        before = _Decay(kept, kept, memory, None)
        return before, _Decay(kept_after, kept_after, alpha * memory, None), None
    mu = tokens.momentum
    moved = identity + _rows(mu, products_between(mu))
    arriving = moved if tokens.valid is None else _rows(tokens.valid, moved)
    written = kept @ arriving
    written_after = _rows(alpha, written) + arriving
    before = _Decay(kept, written, memory, mu[0] * written[:, 0])
    after = _Decay(kept_after, written_after, alpha * memory, mu[0] * written_after[:, 0])
    return before, after, moved


def _erased(decay: _Decay, erase: Array, carried: Maybe) -> Array:
    """What r_i has taken away by each time, if both rates may."""
    taken = decay.kept * erase[None, :]
    return taken if carried is None else taken + decay.written * carried[None, :]


def _rows(factors: Maybe, matrix: Array) -> Any:
    return None if factors is None else factors[:, None] * matrix


def _last(a: Maybe) -> Any:
    return None if a is None else a[-1]
