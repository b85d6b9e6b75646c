"""Checks of what is passed to scans and rules: rates, and arrays of tokens.

Numbers are refused where they are known. Those that are traced are not looked at, so that nothing
waits for a device; of them only the dtype is known.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ._parts import check_floating

# Parameters of rules, and the largest they may be.
RATES = {"rate": math.inf, "retain": 1.0, "momentum": 1.0}

Rate = float | Float[Array, ""] | Float[Array, " time"]


def check_number(name: str, what: str, value: Any) -> None:
    """Refuses what is neither a real number nor an array of them."""
    if not isinstance(value, (int, float, complex, np.number, np.ndarray, jax.Array)):
        given = type(value).__name__ if value is None else f"{type(value).__name__} {value!r:.40}"
        raise ValueError(
            f"{name}: {what} must be a number or an array, got {given}; make lists arrays"
        )
    dtype = jnp.result_type(value)
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise ValueError(f"{name}: {what} must be real, got {dtype}")


def check_rate(name: str, what: str, rate: Any, high: float = math.inf) -> None:
    """Refuses what is no rate: no real number, or out of range.

    Args:
        name: of the function, for the error.
        what: the argument's name.
        rate: must be in [0, high], and finite.
        high: 1 for what is retained, no bound for step sizes.
    """
    check_number(name, what, rate)
    if isinstance(rate, Tracer) or not getattr(rate, "is_fully_addressable", True):
        return
    numbers = np.asarray(jax.device_get(rate), float)
    sound = (numbers >= 0) & (numbers <= high) & np.isfinite(numbers)
    if not sound.all():
        wanted = "finite and 0 or more" if math.isinf(high) else f"in [0, {high:g}]"
        index = np.unravel_index(np.argmin(sound), numbers.shape)
        where = f" at index {', '.join(map(str, index))}" if index else ""
        raise ValueError(f"{name}: {what} must be {wanted}, got {numbers[index]:g}{where}")


def per_token(
    name: str, what: str, rate: Rate, time: int, high: float = math.inf
) -> Float[Array, " time"]:
    """A rate of every token: those that are given, or the number that is given.

    Raises:
        ValueError: another shape, or no rate; see `check_rate`.
    """
    if getattr(rate, "shape", ()) not in ((), (time,)):
        raise ValueError(
            f"{name}: {what} must be a number or hold one per token, shape {(time,)}, got "
            f"{jnp.shape(rate)}"
        )
    check_rate(name, what, rate, high)
    return jnp.broadcast_to(jnp.asarray(rate), (time,))


def check_arrays(name: str, **arrays: Any) -> None:
    """Refuses lists and other things without shape and dtype, by the argument's name."""
    for what, a in arrays.items():
        if not hasattr(a, "shape") or not hasattr(a, "dtype"):
            raise ValueError(
                f"{name}: {what} must be an array, got {type(a).__name__}; make lists and numbers "
                "arrays with jax.numpy.asarray"
            )


def check_tokens(name: str, q: Any, k: Any, values: Any) -> None:
    """Refuses queries, keys and values that do not belong together."""
    check_arrays(name, q=q, k=k, values=values)
    if q.ndim != 2 or q.shape != k.shape:
        raise ValueError(
            f"{name}: q and k must be (time, key), both alike, got {q.shape} and {k.shape}; batch "
            "with jax.vmap"
        )
    check_floating(name, q, k, values)
    if values.ndim != 2 or values.shape[0] != k.shape[0]:
        raise ValueError(
            f"{name}: values must be (time, value) with the {k.shape[0]} tokens of k, got "
            f"{values.shape}"
        )


def check_write(name: str, memory: Any, key: Any, value: Any, **numbers: Any) -> None:
    """Refuses rates out of range where they are known, and what does not fit the memory."""
    for what, number in numbers.items():
        check_rate(name, what, number, RATES.get(what, math.inf))
    check_arrays(name, memory=memory, key=key, value=value)
    if memory.shape != (*value.shape, *key.shape) or len(memory.shape) != 2:
        raise ValueError(
            f"{name}: a memory (value, key) is written by one key and one value, got shapes "
            f"{memory.shape}, {key.shape} and {value.shape}; for sequences use scan_rule, for "
            "batches jax.vmap"
        )


def check_pair(name: str, wanted: str, state: Any) -> None:
    """Refuses a state that is not two matrices alike."""
    if (
        not isinstance(state, tuple)
        or len(state) != 2
        or jnp.shape(state[0]) != jnp.shape(state[1])
    ):
        got = [jnp.shape(a) for a in state] if isinstance(state, tuple) else type(state).__name__
        raise ValueError(f"{name}: state must be the pair {wanted} of one shape, got {got}")
