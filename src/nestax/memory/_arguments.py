"""Checks of what is passed to scans and rules: rates, arrays of tokens, and options.

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

from ._masks import Mask
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
    _check_no_mask(name, what, value)
    dtype = getattr(value, "dtype", None) or jnp.result_type(value)
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise ValueError(f"{name}: {what} must be real, got {dtype}")


def check_one(name: str, what: str, number: Any) -> None:
    """Refuses all but one number."""
    check_number(name, what, number)
    if jnp.shape(number):
        raise ValueError(
            f"{name}: {what} must be one number, got shape {jnp.shape(number)}; for batches use "
            "jax.vmap"
        )


def check_positive(name: str, what: str, number: Any, wanted: str) -> None:
    """Refuses all but one number above 0, where it is known; infinity means no bound.

    Args:
        name: of the function, for the error.
        what: the argument's name.
        number: which may be traced.
        wanted: what it must be, in words that begin with "above 0".
    """
    check_one(name, what, number)
    held = _known(number)
    if held is not None and not held > 0:
        raise ValueError(f"{name}: {what} must be {wanted}, got {held:g}")


def check_option(name: str, what: str, value: Any, *options: str | None) -> None:
    """Refuses all but one of the options, of which the last may be None."""
    if not any(value is option for option in options) and not (
        isinstance(value, str) and value in options
    ):
        said = [str(o) if o is None else f'"{o}"' for o in options]
        raise ValueError(
            f"{name}: {what} must be {', '.join(said[:-1])} or {said[-1]}, got {value!r:.60}"
        )


def check_function(name: str, what: str, function: Any) -> None:
    """Refuses what cannot be called."""
    if not callable(function):
        raise ValueError(
            f"{name}: {what} must be a function, got {type(function).__name__} {function!r:.60}"
        )


def _known(number: Any) -> np.ndarray | None:
    """The numbers, if they are known and here."""
    if isinstance(number, Tracer) or not getattr(number, "is_fully_addressable", True):
        return None
    return np.asarray(jax.device_get(number), float)


def _check_no_mask(name: str, what: str, a: Any) -> None:
    if isinstance(a, np.ma.MaskedArray):
        raise ValueError(
            f"{name}: {what} must be an array without a mask; pass numbers for what is hidden, as "
            "a.filled(0) gives"
        )


def check_rate(name: str, what: str, rate: Any, high: float = math.inf) -> None:
    """Refuses what is no rate: no real number, or out of range.

    Args:
        name: of the function, for the error.
        what: the argument's name.
        rate: must be in [0, high], and finite.
        high: 1 for what is retained, no bound for step sizes.
    """
    check_number(name, what, rate)
    numbers = _known(rate)
    if numbers is None:
        return
    sound = (numbers >= 0) & (numbers <= high) & np.isfinite(numbers)
    if not sound.all():
        wanted = "finite and 0 or more" if math.isinf(high) else f"in [0, {high:g}]"
        index = np.unravel_index(np.argmin(sound), numbers.shape)
        where = f" at index {', '.join(map(str, index))}" if index else ""
        raise ValueError(f"{name}: {what} must be {wanted}, got {numbers[index]:g}{where}")


def per_token(
    name: str, what: str, rate: Rate, time: int, high: float = math.inf, valid: Mask | None = None
) -> Float[Array, " time"]:
    """A rate of every token: those that are given, or the number that is given.

    Raises:
        ValueError: another shape, or no rate; see `check_rate`. What padding holds is not looked
            at, so nothing is where `valid` is traced.
    """
    if getattr(rate, "shape", ()) not in ((), (time,)):
        raise ValueError(
            f"{name}: {what} must be a number or hold one per token, shape {(time,)}, got "
            f"{jnp.shape(rate)}"
        )
    check_number(name, what, rate)
    numbers = _known(rate)
    if valid is None or not jnp.ndim(rate):
        check_rate(name, what, rate, high)
    elif numbers is not None and not isinstance(valid, Tracer):
        check_rate(name, what, np.where(np.asarray(valid), numbers, 0.0), high)
    return jnp.broadcast_to(jnp.asarray(rate), (time,))


def real_array(name: str, what: str, a: Any) -> Array:
    """An array of real numbers, as one of jax.

    Raises:
        ValueError: lists, numbers and other things that are no array; complex numbers, strings,
            objects, keys; a masked array.
    """
    if not isinstance(a, (np.ndarray, np.generic, jax.Array)):
        raise ValueError(
            f"{name}: {what} must be an array, got {type(a).__name__}; make lists and numbers "
            "arrays with jax.numpy.asarray"
        )
    _check_no_mask(name, what, a)
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    if not any(jnp.issubdtype(a.dtype, kind) for kind in kinds):
        raise ValueError(f"{name}: {what} must be an array of real numbers, got {a.dtype}")
    return jnp.asarray(a)


def floating_array(name: str, what: str, a: Any) -> Array:
    """`real_array`, with whole numbers and truth values as floating-point numbers."""
    a = real_array(name, what, a)
    return a if jnp.issubdtype(a.dtype, jnp.floating) else a.astype(float)


def check_tokens(name: str, q: Any, k: Any, values: Any) -> tuple[Array, Array, Array]:
    """Refuses queries, keys and values that do not belong together; returns them as arrays."""
    q, k = real_array(name, "q", q), real_array(name, "k", k)
    values = real_array(name, "values", values)
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
    return q, k, values


def check_write(
    name: str, memory: Any, key: Any, value: Any, **numbers: Any
) -> tuple[Array, Array, Array]:
    """Refuses rates out of range where they are known, and what does not fit the memory.

    Returns:
        Memory, key and value as floating-point arrays.
    """
    for what, number in numbers.items():
        check_rate(name, what, number, RATES.get(what, math.inf))
        check_one(name, what, number)
    memory = floating_array(name, "memory", memory)
    key, value = floating_array(name, "key", key), floating_array(name, "value", value)
    if memory.shape != (*value.shape, *key.shape) or memory.ndim != 2:
        raise ValueError(
            f"{name}: a memory (value, key) is written by one key and one value, got shapes "
            f"{memory.shape}, {key.shape} and {value.shape}; for sequences use scan_rule, for "
            "batches jax.vmap"
        )
    return memory, key, value


def check_pair(name: str, wanted: str, state: Any) -> tuple[Array, Array]:
    """Refuses a state that is not two matrices alike; returns them as floating-point arrays."""
    if isinstance(state, tuple) and len(state) == 2:
        first, second = (floating_array(name, f"state[{i}]", a) for i, a in enumerate(state))
        if first.shape == second.shape:
            return first, second
    got = [jnp.shape(a) for a in state] if isinstance(state, tuple) else type(state).__name__
    raise ValueError(f"{name}: state must be the pair {wanted} of one shape, got {got}")
