"""What is known of a number while a program is traced."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer


def is_finite(array: Any) -> bool:
    """Whether an array has finite entries only; of a traced one it is assumed."""
    return holds(lambda: jnp.isfinite(jnp.asarray(array)).all(), array)


def holds(test: Any, *arrays: Any) -> bool:
    """Whether a test of arrays is true; of traced ones it is assumed."""
    if any(isinstance(array, Tracer) for array in arrays):
        return True
    with jax.ensure_compile_time_eval():
        return bool(test())
