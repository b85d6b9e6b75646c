"""Refusals of numbers, by function and argument."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def number(function: str, argument: str, value: Any) -> Any:
    """A finite real number; a traced one has no value to check.

    Raises:
        ValueError: something else.
    """
    if isinstance(value, Tracer):
        if value.shape == () and not jnp.issubdtype(value.dtype, jnp.complexfloating):
            return value
    elif isinstance(value, (int, float, np.number, np.ndarray, jax.Array)) and not isinstance(
        value, bool
    ):
        array = np.asarray(value)
        if array.shape == () and array.dtype.kind in "iuf" and np.isfinite(array):
            return value
    raise ValueError(f"{function}: {argument} is one finite number, got {value!r:.60}")


def whole(function: str, argument: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`, as a Python int.

    Raises:
        ValueError: something else.
    """
    try:
        found = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found < least:
        raise ValueError(
            f"{function}: {argument} is a whole number of at least {least}, got {value!r:.60}"
        )
    return found
