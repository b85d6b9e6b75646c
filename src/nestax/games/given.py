"""Numbers and arrays that define a game: what is known of them is checked at once."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


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


def number(
    function: str, argument: str, given: Any, high: float = math.inf, *, below: bool = False
) -> Any:
    """A real number from 0 to `high`, or below it; one that is traced is not checked.

    Raises:
        ValueError: not one real number, or a known number out of range.
    """
    found = array(function, argument, given, 0)
    if is_known(found) and not (found >= 0 and (found < high if below else found <= high)):
        closing = ")" if below or high == math.inf else "]"
        raise ValueError(f"{function}: {argument} must be in [0, {high:g}{closing}, got {given}")
    return found


def is_known(*arrays: Any) -> bool:
    """Whether the numbers of all these arrays can be looked at."""
    return not any(isinstance(found, Tracer) for found in arrays)
