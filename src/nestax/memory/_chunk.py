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

Where documents begin within a chunk, i and t belong together only in the same document, M_0 and S_0
reach the tokens of the first one only, and to those of the others the initial state stands as M_0
and S_0 do: what it adds is known beforehand.
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
    starts: Maybe = None  # whether a document begins with the token
    bias: Maybe = None  # (time, value): r_t = M k_t + bias_t


class Direct(NamedTuple):
    """What u does beside W."""

    u: Array
    outputs: Array
    to_memory: Array
    to_surprise: Array


class Begun(NamedTuple):
    """What initial states add, of documents that begin within the chunk."""

    outputs: Array
    memory: Array
    surprise: Maybe


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
    begun: Begun | None = None


class _Decay(NamedTuple):
    """What is left of things in the memory at each token: rows are the times at which it is asked.

    Attributes:
        kept: of what was put into the memory at token i; (time, time).
        written: of what was put into the surprise at i and came to the memory since.
        memory: of M_0, or of the initial state of the token's document; (time,).
        surprise: of S_0 alike.
    """

    kept: Array
    written: Array
    memory: Array
    surprise: Maybe


def prepare(tokens: Tokens, read: str, initial: State | None = None) -> Chunk:
    """All of a chunk that does not involve the state.

    Args:
        tokens: of the chunk.
        read: "before" or "after".
        initial: the state where documents begin; None: zeros.
    """
    q, k, u, erase, retain, momentum, carried, _, starts, bias = tokens
    before, after, moved, left = _decays(tokens)
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
        right = right if bias is None else right + bias
        inverse = inverse_unit_lower(_erased(before, erase, carried) * alike)
        seen_memory, seen_surprise = _rows(-before.memory, k), _rows(-before.surprise, k)
        scores = -_erased(asked, erase, carried) * overlap
        to_memory = _rows(-_erased(after, erase, carried)[-1], k)
        to_surprise = None if carried is None else -_rows(carried, to_surprise)
    elif (rate := erase if momentum is None else carried) is not None:
        inverse = inverse_unit_lower(_rows(rate, before.written) * (k @ k.T))
        seen_memory = _rows(rate * before.memory, k)
        seen_surprise = None if before.surprise is None else _rows(rate * before.surprise, k)
        right = right if bias is None else right - _rows(rate, bias)
    chunk = Chunk(
        right,
        inverse,
        seen_memory,
        seen_surprise,
        _rows(asked.memory, q),
        _rows(asked.surprise, q),
        scores,
        to_memory,
        to_surprise,
        None if retain is None and starts is None else after.memory[-1],
        _last(after.surprise),
        left,
        direct,
    )
    return chunk if starts is None else _apart(chunk, jnp.cumsum(starts) == 0, initial)


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
    if chunk.begun is not None:
        outputs = outputs + chunk.begun.outputs
        new = new + chunk.begun.memory
    if surprise is None:
        return (new, None), outputs
    outputs = outputs + chunk.ask_surprise @ surprise.T
    new = new + chunk.keep_surprise * surprise
    surprise = chunk.keep_momentum * surprise
    if chunk.to_surprise is not None:
        surprise = surprise + w.T @ chunk.to_surprise
    if direct is not None:
        surprise = surprise + direct.u.T @ direct.to_surprise
    if chunk.begun is not None:
        surprise = surprise + chunk.begun.surprise
    return (new, surprise), outputs


def _apart(chunk: Chunk, old: Array, initial: State | None) -> Chunk:
    """The state before the chunk for `old` tokens only, the initial one for the others."""
    names = ("seen_memory", "seen_surprise", "ask_memory", "ask_surprise")
    of_tokens = {name: getattr(chunk, name) for name in names}
    of_tokens = {name: a for name, a in of_tokens.items() if a is not None}
    kept = {"keep_memory": chunk.keep_memory}
    if chunk.keep_momentum is not None:
        kept |= {"keep_surprise": chunk.keep_surprise, "keep_momentum": chunk.keep_momentum}
    mine = {name: _rows(old.astype(a.dtype), a) for name, a in of_tokens.items()}
    mine |= {name: jnp.where(old[-1], a, 0) for name, a in kept.items()}
    apart = chunk._replace(**mine)
    if initial is None:
        return apart
    memory, surprise = initial
    theirs = {name: _rows((~old).astype(a.dtype), a) for name, a in of_tokens.items()}
    ends = {name: jnp.where(old[-1], 0, a) for name, a in kept.items()}
    right, outputs = chunk.right, theirs["ask_memory"] @ memory.T
    if "seen_memory" in theirs:
        right = right - theirs["seen_memory"] @ memory.T
    if surprise is None:
        return apart._replace(right=right, begun=Begun(outputs, ends["keep_memory"] * memory, None))
    if "seen_surprise" in theirs:
        right = right - theirs["seen_surprise"] @ surprise.T
    begun = Begun(
        outputs + theirs["ask_surprise"] @ surprise.T,
        ends["keep_memory"] * memory + ends["keep_surprise"] * surprise,
        ends["keep_momentum"] * surprise,
    )
    return apart._replace(right=right, begun=begun)


def _decays(tokens: Tokens) -> tuple[_Decay, _Decay, Maybe, Maybe]:
    """Just before every token and just after; what is left in the surprise, just after; and at the
    end, of S_0."""
    size, dtype = tokens.k.shape[0], tokens.k.dtype
    identity = jnp.eye(size, dtype=dtype)
    alpha = jnp.ones(size, dtype) if tokens.retain is None else tokens.retain
    kept = products_between(alpha)
    kept_after = identity + _rows(alpha, kept)
    if tokens.starts is None:
        # M_0 is as if written one token before the first.
        memory = identity[0] + alpha[0] * kept[:, 0]
    else:
        document = jnp.cumsum(tokens.starts)
        same = document[:, None] == document[None, :]
        kept, kept_after = _where(same, kept), _where(same, kept_after)
        first = same & (tokens.starts | (jnp.arange(size) == 0))[None, :]
        memory = jnp.sum(_where(first, identity + kept * alpha[None, :]), 1)
    if tokens.momentum is None:
        before = _Decay(kept, kept, memory, None)
        return before, _Decay(kept_after, kept_after, alpha * memory, None), None, None
    mu = tokens.momentum
    moved = identity + _rows(mu, products_between(mu))
    if tokens.starts is not None:
        moved = _where(same, moved)
    arriving = moved if tokens.valid is None else _rows(tokens.valid, moved)
    written = kept @ arriving
    written_after = _rows(alpha, written) + arriving
    if tokens.starts is None:
        surprise, surprise_after = mu[0] * written[:, 0], mu[0] * written_after[:, 0]
        left = mu[0] * moved[-1, 0]
    else:
        carry = lambda a: jnp.sum(_where(first, a * mu[None, :]), 1)  # noqa: E731
        surprise, surprise_after, left = carry(written), carry(written_after), carry(moved)[-1]
    before = _Decay(kept, written, memory, surprise)
    after = _Decay(kept_after, written_after, alpha * memory, surprise_after)
    return before, after, moved, left


def _where(there: Array, matrix: Array) -> Array:
    return jnp.where(there, matrix, 0)


def _erased(decay: _Decay, erase: Array, carried: Maybe) -> Array:
    """What r_i has taken away by each time, if both rates may."""
    taken = decay.kept * erase[None, :]
    return taken if carried is None else taken + decay.written * carried[None, :]


def _rows(factors: Maybe, matrix: Array) -> Any:
    return None if factors is None else factors[:, None] * matrix


def _last(a: Maybe) -> Any:
    return None if a is None else a[-1]
