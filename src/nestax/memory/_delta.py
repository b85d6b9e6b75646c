r"""Linear memories under their own names: linear attention, the delta rule, Titans.

Each is one setting of the recurrence of `memory_scan`, chosen such that one write is one gradient
step on the memory's own objective: the Hebbian one, -<M k, v>, the delta rule's and Titans',
1/2 |M k - v|^2.
"""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._arguments import Rate, check_tokens, per_token
from ._masks import Mask, blank, check_masks
from ._scan import linear_scan


def linear_attention(
    q: Float[Array, "time key"],
    k: Float[Array, "time key"],
    v: Float[Array, "time value"],
    rate: Rate | None = None,
    alpha: Rate | None = None,
    state: Float[Array, "value key"] | None = None,
    chunk: int | None = None,
    implementation: str | None = None,
    read: str = "after",
    valid: Mask | None = None,
    *,
    reset: Mask | None = None,
    initial: Float[Array, "value key"] | None = None,
) -> tuple[Float[Array, "time value"], Float[Array, "value key"]]:
    r"""Linear attention: a matrix memory with Hebbian writes.

        M_t = alpha_t M_{t-1} + rate_t v_t k_t',    o_t = M_t q_t

    With alpha = 1 a write is one step of gradient descent on -<M k, v>.

    Args:
        q: queries, (time, key); they are not normalized.
        k: keys, (time, key); they are not normalized.
        v: values, (time, value).
        rate: step sizes, (time,) or a number for all tokens, 0 or more; None: 1.
        alpha: what is retained at each token, (time,) or a number, in [0, 1]; None: 1.
        state: M_0 (value, key); None: `initial`.
        chunk: tokens per chunk, of speed only; see `memory_scan`.
        implementation: `"chunked"`, `"recurrent"` or None; see `memory_scan`.
        read: `"after"` reads M_t, `"before"` M_{t-1}.
        valid: (time,) bool, False for padding, which changes nothing; see `memory_scan`.
        reset: (time,) bool, True at the first token of a document; see `memory_scan`.
        initial: M at the beginning of a document, (value, key); None: zeros.

    Returns:
        (o, M): outputs (time, value) in the dtype of q, k and v, and the memory after the
        last token, (value, key), float32 at least.

    Raises:
        ValueError: arguments that `memory_scan` refuses.

    Source: Katharopoulos et al., "Transformers are RNNs" (2020); with alpha: Sun et al., "Retentive
    network" (2023). As a memory: Nested Learning (2025), eq. (64).

    Example:
        ```python
        q, k, v = jnp.eye(2), jnp.eye(2), jnp.array([[1.0], [2.0]])  # two tokens
        outputs, memory = nx.memory.linear_attention(q, k, v)
        print(memory)  # [[1. 2.]]
        ```
    """
    name = "linear_attention"
    q, k, v = check_tokens(name, q, k, v)
    valid, reset = check_masks(name, k.shape[0], valid, reset)
    u = blank(v, valid)
    if rate is not None:
        u = _of_tokens(name, "rate", rate, v, valid)[:, None] * u
    if alpha is not None:
        alpha = _of_tokens(name, "alpha", alpha, v, valid, 1.0)
    rates = (None, alpha, None, None)
    made = linear_scan(
        name, q, k, u, rates, state, chunk, implementation, read, valid, reset, initial
    )
    return _as_given(made, q, k, v)


def delta_rule(
    q: Float[Array, "time key"],
    k: Float[Array, "time key"],
    v: Float[Array, "time value"],
    beta: Rate,
    alpha: Rate | None = None,
    state: Float[Array, "value key"] | None = None,
    chunk: int | None = None,
    implementation: str | None = None,
    read: str = "after",
    valid: Mask | None = None,
    *,
    reset: Mask | None = None,
    initial: Float[Array, "value key"] | None = None,
) -> tuple[Float[Array, "time value"], Float[Array, "value key"]]:
    r"""The delta rule: a write moves the memory's output for the key to the value.

        M_t = alpha_t M_{t-1} (I - beta_t k_t k_t') + beta_t v_t k_t',    o_t = M_t q_t

    With alpha below 1 it is the gated delta rule. With alpha = 1 a write is one step of gradient
    descent, of size beta, on `|M k - v|^2 / 2`. Along k the memory is multiplied by
    alpha (1 - beta |k|^2): with keys of unit length it is stable for beta in [0, 2]. For beta > 1
    that factor is negative, which a linear memory needs to count modulo two (Grazzi et al., 2025).

    Args:
        q: queries, (time, key); they are not normalized.
        k: keys, (time, key); normalize them to unit length first.
        v: values, (time, value).
        beta: step sizes, (time,) or a number for all tokens, 0 or more.
        alpha: what is retained at each token, (time,) or a number, in [0, 1]; None: 1.
        state: M_0 (value, key); None: `initial`.
        chunk: tokens per chunk, of speed only; see `memory_scan`.
        implementation: `"chunked"`, `"recurrent"` or None; see `memory_scan`.
        read: `"after"` reads M_t, `"before"` M_{t-1}.
        valid: (time,) bool, False for padding, which changes nothing; see `memory_scan`.
        reset: (time,) bool, True at the first token of a document; see `memory_scan`.
        initial: M at the beginning of a document, (value, key); None: zeros.

    Returns:
        (o, M): outputs (time, value) in the dtype of q, k and v, and the memory after the
        last token, (value, key), float32 at least.

    Raises:
        ValueError: arguments that `memory_scan` refuses.

    Source: Schlag et al., "Linear transformers are secretly fast weight programmers" (2021); Yang
    et al., "Gated delta networks" (2024). As a memory: Nested Learning (2025), eq. (65), where the
    factor I - beta k k' is printed on the left of M.

    Example:
        With beta = 1 and unit keys, the memory returns the last value that a key had:

        ```python
        k, v = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[1.0], [5.0]])
        outputs, memory = nx.memory.delta_rule(k, k, v, beta=1.0)
        print(outputs[:, 0])  # [1. 5.]
        ```
    """
    name = "delta_rule"
    q, k, v = check_tokens(name, q, k, v)
    valid, reset = check_masks(name, k.shape[0], valid, reset)
    beta = _of_tokens(name, "beta", beta, v, valid)
    if alpha is not None:
        alpha = _of_tokens(name, "alpha", alpha, v, valid, 1.0)
    erase = beta if alpha is None else alpha * beta
    u, rates = beta[:, None] * blank(v, valid), (erase, alpha, None, None)
    made = linear_scan(
        name, q, k, u, rates, state, chunk, implementation, read, valid, reset, initial
    )
    return _as_given(made, q, k, v)


def titans(
    q: Float[Array, "time key"],
    k: Float[Array, "time key"],
    v: Float[Array, "time value"],
    rate: Rate,
    momentum: Rate,
    retain: Rate | None = None,
    state: tuple[Float[Array, "value key"], Float[Array, "value key"]] | None = None,
    chunk: int | None = None,
    implementation: str | None = None,
    read: str = "before",
    valid: Mask | None = None,
    *,
    reset: Mask | None = None,
    initial: tuple[Float[Array, "value key"], Float[Array, "value key"]] | None = None,
) -> tuple[Float[Array, "time value"], Any]:
    r"""Titans' linear memory: gradient steps with momentum and decay, exact at every token.

        S_t = momentum_t S_{t-1} - rate_t (M_{t-1} k_t - v_t) k_t'
        M_t = retain_t M_{t-1} + S_t,    o_t = M_{t-1} q_t

    The paper takes the gradients of a chunk at its beginning; for linear memories that
    approximation is not needed.

    Args:
        q: queries, (time, key); they are not normalized.
        k: keys, (time, key); normalize them to unit length first.
        v: values, (time, value).
        rate: step sizes, (time,) or a number for all tokens, 0 or more; twice the paper's theta,
            whose loss has no factor 1/2.
        momentum: how much of S is kept at each token (eta in the paper), (time,) or a number, 0 to
            1.
        retain: how much of M is kept at each token (1 - alpha in the paper), (time,) or a number, 0
            to 1; None: 1.
        state: (M_0, S_0), (value, key) each; None: `initial`.
        chunk: tokens per chunk, of speed only; see `memory_scan`.
        implementation: `"chunked"`, `"recurrent"` or None; see `memory_scan`.
        read: `"before"` reads M_{t-1}, `"after"` M_t.
        valid: (time,) bool, False for padding, which changes nothing; see `memory_scan`.
        reset: (time,) bool, True at the first token of a document; see `memory_scan`.
        initial: (M, S) at the beginning of a document; None: zeros.

    Returns:
        (o, state): outputs (time, value) in the dtype of q, k and v, and the pair (M, S) after the
        last token, (value, key) each, float32 at least.

    Raises:
        ValueError: arguments that `memory_scan` refuses.

    Source: Behrouz, Zhong and Mirrokni, "Titans: learning to memorize at test time" (2025), eq.
    (9-14).
    """
    name = "titans"
    q, k, v = check_tokens(name, q, k, v)
    valid, reset = check_masks(name, k.shape[0], valid, reset)
    rate = _of_tokens(name, "rate", rate, v, valid)
    u, rates = rate[:, None] * blank(v, valid), (None, retain, momentum, rate)
    if momentum is None:
        raise ValueError("titans: momentum must be a number or an array; without it use delta_rule")
    made = linear_scan(
        name, q, k, u, rates, state, chunk, implementation, read, valid, reset, initial
    )
    return _as_given(made, q, k, v)


def _of_tokens(
    name: str, what: str, rate: Rate, v: Array, valid: Mask | None, high: float = math.inf
) -> Float[Array, " time"]:
    """What stands at tokens that are not valid reaches no gradient of values either."""
    return blank(per_token(name, what, rate, v.shape[0], high, valid), valid)


def _as_given(made: tuple[Array, Any], q: Array, k: Array, v: Array) -> tuple[Array, Any]:
    """Outputs in the dtype of the tokens, also where the rates that scale values are wider."""
    return made[0].astype(jnp.result_type(q, k, v)), made[1]
