"""Checks of what is handed to the estimators, and the precision they are evaluated in.

Wrong input is refused at once. Values can only be looked at outside `jit` and `vmap`; inside
them shapes, dtypes and static arguments are still checked, values are not.
"""

import contextlib
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Float


def is_traced(*values: Any) -> bool:
    """Whether any of the values is being traced, so that its entries cannot be read."""
    return any(isinstance(value, Tracer) for value in values)


def evaluate(kernel: Callable[..., Any], *arrays: Any, **static: Any) -> Any:
    """Call a jitted kernel: in float64 on concrete arrays, as enabled under a trace.

    Args:
        kernel: a jitted function of arrays, with static keyword arguments.
        *arrays: its arguments; None is allowed.
        **static: its static arguments.

    Returns:
        What the kernel returns, as numpy scalars and arrays if no argument is traced.
    """
    if is_traced(*arrays):
        return kernel(*arrays, **static)
    # Within someone's jit even concrete arguments are staged out, unless that is suspended; doing
    # so always would evaluate the constants of the kernel one by one while it is compiled.
    staged = is_traced(jnp.zeros(()))
    suspended = jax.ensure_compile_time_eval() if staged else contextlib.nullcontext()
    with suspended, jax.enable_x64(True):
        out = kernel(*arrays, **static)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[()], out)


def constant(value: float, traced: bool) -> Any:
    """`value` as a leaf of a result: numpy float64, or the enabled precision under a trace."""
    return jnp.asarray(value, jnp.result_type(float)) if traced else np.float64(value)


def activations(
    t: ArrayLike, name: str = "t", traced: bool = False, vector: bool = False
) -> Float[Array, "n units"] | Float[np.ndarray, "n units"]:
    """Check activations and give them a dtype that JAX sorts and compares as numpy does.

    Args:
        t: activations, of shape (N, units).
        name: what to call them in an error.
        traced: whether the computation is traced, even if `t` itself is not.
        vector: whether a vector is accepted as one unit.

    Returns:
        Activations of shape (N, units) and dtype float32 or float64; a numpy array unless the
        computation is traced.

    Raises:
        ValueError: if the shape or dtype is wrong, there are fewer than two rows, or (on
            concrete arrays) a value is not finite.
    """
    t = t if isinstance(t, jax.Array) else np.asarray(t)
    if vector and t.ndim == 1:
        t = t[:, None]
    if t.ndim != 2 or t.shape[1] == 0:
        shapes = "(rows,) or (rows, units)" if vector else "(rows, units)"
        raise ValueError(
            f"{name} has shape {t.shape}; expected {shapes} with at least one unit. Flatten the "
            f"trailing axes with {name}.reshape(len({name}), -1), and give a single unit as "
            f"{name}[:, None]."
        )
    if t.shape[0] < 2:
        raise ValueError(
            f"{name} has {t.shape[0]} row(s); expected at least 2, since the information of a "
            "single input is zero by definition. Pass the activations of more inputs."
        )
    if not (jnp.issubdtype(t.dtype, jnp.floating) or jnp.issubdtype(t.dtype, jnp.integer)):
        raise ValueError(
            f"{name} has dtype {t.dtype}; expected real numbers. Convert it, for example with "
            f"{name}.astype(numpy.float32)."
        )
    if not traced:
        t = np.asarray(t)
        _refuse_nonfinite(t, name)
    if not jnp.issubdtype(t.dtype, jnp.floating):
        t = t.astype(jnp.result_type(float) if traced else np.float64)
    elif t.dtype.itemsize < 4:
        t = t.astype(np.float32)
    return jnp.asarray(t) if traced else t


def _refuse_nonfinite(t: np.ndarray, name: str) -> None:
    finite = np.isfinite(t)
    if finite.all():
        return
    row, unit = np.argwhere(~finite)[0]
    raise ValueError(
        f"{name} holds {int((~finite).sum())} value(s) that are NaN or infinite, the first "
        f"({t[row, unit]}) in row {row}, unit {unit}; expected finite values. Look for a "
        f"diverged network, or drop those rows with {name}[numpy.isfinite({name}).all(1)]."
    )


def within(t: np.ndarray, low: float | int, high: float | int) -> None:
    """Refuse values outside [low, high].

    Raises:
        ValueError: if there is one.
    """
    outside = (t < low) | (t > high)
    if outside.any():
        row, unit = np.argwhere(outside)[0]
        raise ValueError(
            f"t holds {int(outside.sum())} value(s) outside [{low}, {high}], the first "
            f"({t[row, unit]}) in row {row}, unit {unit}; strict=True expects none. Widen "
            "low and high, use edges='adaptive' or 'quantile', or drop strict=True to put "
            "them into the end cells."
        )


def whole_number(value: Any, name: str, least: int, most: int | None, why: str) -> int:
    """Check an integer argument.

    Raises:
        ValueError: if it is not an integer in [least, most]; `why` ends the message.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} is {value!r}; expected an integer. {why}")
    if number < least or (most is not None and number > most):
        wanted = f"at least {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"{name} is {number}; expected {wanted}. {why}")
    return number


def positive(value: Any, name: str, why: str) -> Any:
    """Check a scalar argument that must be positive and finite, unless it is traced.

    Raises:
        ValueError: if it is not; `why` ends the message.
    """
    if np.shape(value) != ():
        raise ValueError(f"{name} has shape {np.shape(value)}; expected a scalar. {why}")
    if is_traced(value):
        return value
    number = float(value)
    if not (np.isfinite(number) and number > 0):
        raise ValueError(f"{name} is {number}; expected a positive finite number. {why}")
    return np.float64(number)


def one_of(value: Any, name: str, allowed: Sequence[str]) -> str:
    """Check an argument that names an option.

    Raises:
        ValueError: if it is not one of `allowed`.
    """
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}.")
    return value
