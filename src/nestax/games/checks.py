"""Refusals of numbers, by function and argument; of traced ones nothing is known."""

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def number(
    function: str,
    argument: str,
    value: Any,
    low: Any = -math.inf,
    high: Any = math.inf,
    *,
    below: bool = False,
) -> Any:
    """A finite real number from `low` to `high`; a traced one has no value to check.

    Args:
        function: public function that it was given to, for messages.
        argument: the name of its argument.
        value: a number, or an array without axes.
        low: the least that is allowed.
        high: the most that is allowed; a rounding above it is.
        below: whether `high` itself is refused.

    Returns:
        A float; a traced number as it is.

    Raises:
        ValueError: not one real number, or a known number out of range.
    """
    if isinstance(value, Tracer):
        if value.ndim or jnp.iscomplexobj(value):
            raise ValueError(
                f"{function}: {argument} is one real number, got {value.dtype}{list(value.shape)}"
            )
        return value
    plain = hasattr(value, "dtype") or isinstance(value, int | float)
    array = np.asarray(value) if plain and not isinstance(value, bool) else None
    # "V": JAX's small floats.
    if array is None or array.ndim or array.dtype.kind not in "fiuV":
        raise ValueError(f"{function}: {argument} is one finite number, got {value!r:.60}")
    known = float(value)
    if not math.isfinite(known):
        raise ValueError(f"{function}: {argument} is one finite number, got {known}")
    if not (low <= known and (known < high if below else known <= high * (1 + 1e-12))):
        if high == math.inf:
            allowed = f"at least {low:g}"
        elif low == -math.inf:
            allowed = f"{'below' if below else 'at most'} {high:g}"
        else:
            allowed = f"in [{low:g}, {high:g}{')' if below else ']'}"
        raise ValueError(f"{function}: {argument} is {allowed}, got {known:g}")
    return known


def positive(function: str, argument: str, value: Any) -> float:
    """A finite number above 0 that is known, as a float.

    Raises:
        ValueError: something else, or a traced number.
    """
    if isinstance(value, Tracer):
        raise ValueError(f"{function}: {argument} is a known number, got a traced one")
    found = number(function, argument, value)
    if found <= 0:
        raise ValueError(f"{function}: {argument} is a finite number above 0, got {found}")
    return found


def whole(function: str, argument: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """A whole number from `least` to `most`, as a Python int.

    Raises:
        ValueError: something else.
    """
    try:
        found = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found < least or (most is not None and found > most):
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{function}: {argument} is a whole number {allowed}, got {value!r:.60}")
    return found


def array(function: str, argument: str, given: Any, *ranks: int) -> Any:
    """An array of real floating-point numbers.

    Args:
        function: public function that it was given to, for messages.
        argument: the name of its argument.
        given: anything that numpy reads as an array; may be traced.
        *ranks: the allowed numbers of axes; none: any number.

    Returns:
        An array of JAX's dtype, float32 at least: of numpy where it is known, so that it stays
        known under `jit`.

    Raises:
        ValueError: not real numbers, another number of axes, or an entry that is known and not
            finite.
    """
    what = f"{function}: {argument}"
    try:
        found = given if isinstance(given, Tracer) else np.asarray(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be an array of real numbers, got {given!r:.60}") from error
    if not (jnp.issubdtype(found.dtype, jnp.floating) or jnp.issubdtype(found.dtype, jnp.integer)):
        raise ValueError(f"{what} must have real numbers, got {found.dtype}{list(found.shape)}")
    if ranks and found.ndim not in ranks:
        expected = " or ".join(map(str, ranks))
        raise ValueError(
            f"{what} must have {expected} {'axis' if ranks == (1,) else 'axes'}, got an array of "
            f"shape {found.shape}"
        )
    dtype = jnp.promote_types(jnp.result_type(found, float), jnp.float32)
    with np.errstate(over="ignore"):
        found = found.astype(jax.dtypes.canonicalize_dtype(dtype))
    if isinstance(found, np.ndarray) and not np.all(np.isfinite(found)):
        raise ValueError(
            f"{what} must have finite numbers only, in {found.dtype}; got {given!r:.60}"
        )
    return found


def is_known(*arrays: Any) -> bool:
    """Whether the numbers of all these arrays can be looked at."""
    return not any(isinstance(found, Tracer) for found in arrays)


def is_finite(array: Any) -> bool:
    """Whether an array has finite entries only; of a traced one it is assumed."""
    return holds(lambda: jnp.isfinite(jnp.asarray(array)).all(), array)


def holds(test: Any, *arrays: Any) -> bool:
    """Whether a test of arrays is true; of traced ones it is assumed."""
    if any(isinstance(array, Tracer) for array in arrays):
        return True
    with jax.ensure_compile_time_eval():
        return bool(test())
