"""The omega rule: one write for several tokens.

Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (68), which lacks the
gradient of the objective in print.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._arguments import check_rate, check_write, floating_array
from ._objectives import Objective, error_of
from ._parts import is_count
from ._rules import Key, Memory, Scalar, Value


class OmegaState(NamedTuple):
    """State of `omega`: a memory and the last tokens, oldest first; empty places are zero.

    Attributes:
        memory: M, (value, key).
        keys: the keys of the last tokens, (window, key).
        values: the values of the last tokens, (window, value).
    """

    memory: Float[Array, "value key"]
    keys: Float[Array, "window key"]
    values: Float[Array, "window value"]


def omega_state(memory: Memory, window: int) -> OmegaState:
    """The state of `omega` before the first token.

    Args:
        memory: the initial M, (value, key).
        window: tokens that each step uses, at least 1.

    Returns:
        The state, with empty places for the last tokens.

    Raises:
        ValueError: a window below 1, a memory that is not a matrix.
    """
    memory = floating_array("omega_state", "memory", memory)
    if memory.ndim != 2:
        raise ValueError(
            f"omega_state: memory must be a matrix (value, key), got shape {memory.shape}; for "
            "batches use jax.vmap"
        )
    if not is_count(window):
        raise ValueError(
            f"omega_state: window must be at least 1 token, a whole number, got {window!r:.60}"
        )
    window, (rows, columns) = int(window), memory.shape
    return OmegaState(
        memory, jnp.zeros((window, columns), memory.dtype), jnp.zeros((window, rows), memory.dtype)
    )


def omega(
    state: OmegaState,
    key: Key,
    value: Value,
    rate: Scalar | Float[Array, " window"],
    retain: Scalar = 1.0,
    objective: str | Objective = "l2",
) -> OmegaState:
    """The omega rule, `M <- a M - sum_i g_i e_i k_i'`: one step on the last tokens together.

    It is stable while the largest eigenvalue of sum_i g_i k_i k_i' is below 1 + a: divide rates by
    the window if keys repeat, by less if they differ.

    Args:
        state: from `omega_state`.
        key: k, of shape (key,).
        value: v, of shape (value,).
        rate: g, one number for each place of the window, oldest first, or one for all; 0 or more.
        retain: a, 0 to 1.
        objective: as in `write`; every error is taken at the memory before the step.

    Returns:
        The new state.

    Raises:
        ValueError: a state that is not an `OmegaState` or whose parts do not fit; a rate of another
            length; an unknown objective; a known rate or retention out of range.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (68), which lacks
    the gradient in print.
    """
    if not isinstance(state, OmegaState):
        raise ValueError(
            f"omega: state must be an OmegaState, got {type(state).__name__}; begin with "
            "omega_state(memory, window)"
        )
    memory, keys, values = _checked_state(state)
    memory, key, value = check_write("omega", memory, key, value, retain=retain)
    check_rate("omega", "rate", rate)
    window = keys.shape[:1]
    if jnp.shape(rate) not in ((), window):
        raise ValueError(
            f"omega: rate must be a number or hold one for each place of the window, shape "
            f"{window}, got {jnp.shape(rate)}"
        )
    keys = jnp.concatenate([keys[1:], key[None].astype(keys.dtype)])
    values = jnp.concatenate([values[1:], value[None].astype(values.dtype)])
    errors = error_of(objective, "omega")(keys @ memory.T, values)
    steps = jnp.broadcast_to(rate, keys.shape[:1])[:, None] * errors
    return OmegaState(retain * memory - steps.T @ keys, keys, values)


def _checked_state(state: OmegaState) -> OmegaState:
    """The state as floating-point arrays, which must belong together."""
    memory, keys, values = (
        floating_array("omega", f"state.{what}", a)
        for what, a in zip(state._fields, state, strict=True)
    )
    two = memory.ndim == keys.ndim == values.ndim == 2
    if not two or (len(keys), *memory.shape) != (len(values), values.shape[1], keys.shape[1]):
        raise ValueError(
            "omega: state must hold a memory (value, key), keys (window, key) and values (window, "
            f"value), got shapes {memory.shape}, {keys.shape} and {values.shape}; begin with "
            "omega_state(memory, window)"
        )
    return OmegaState(memory, keys, values)
