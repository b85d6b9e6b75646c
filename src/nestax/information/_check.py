"""Checks of what is handed to the estimators, and the precision they are evaluated in.

Wrong input is refused at once, by function and argument. Values can only be looked at outside
`jit` and `vmap`; inside them shapes, dtypes and static arguments are still checked, values are not.
"""

import contextlib
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Float, Shaped


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


def as_array(function: str, name: str, value: Any, expected: str) -> Any:
    """A JAX array as it is, anything else as a numpy array.

    Raises:
        ValueError: if the value is masked, or no array can be made of it.
    """
    if isinstance(value, jax.Array):
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(
            f"{function}: {name} is a masked array, whose mask would be ignored; expected "
            f"{expected}. Drop the masked rows, or fill them with {name}.filled(value)."
        )
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{function}: {name} is no array ({error}); expected {expected}."
        ) from error


def rows(
    function: str, t: Any, name: str = "t", traced: bool = False, vector: bool = False
) -> Shaped[Array, "n units"] | Shaped[np.ndarray, "n units"]:
    """Check activations, and keep their numbers as they are.

    Args:
        function: who is called, for an error.
        t: activations, of shape (N, units).
        name: what to call them in an error.
        traced: whether the computation is traced, even if `t` itself is not.
        vector: whether a vector is accepted as one unit.

    Returns:
        Activations of shape (N, units), floating-point of 32 bits at least, or integers; a numpy
        array unless the computation is traced.

    Raises:
        ValueError: if the shape or dtype is wrong, there are fewer than two rows, or (on
            concrete arrays) a value is not finite.
    """
    t = as_array(function, name, t, "an array (rows, units) of real numbers")
    if not (jnp.issubdtype(t.dtype, jnp.floating) or jnp.issubdtype(t.dtype, jnp.integer)):
        raise ValueError(
            f"{function}: {name} has dtype {t.dtype}; expected real numbers. Convert it, for "
            f"example with {name}.astype(numpy.float32)."
        )
    if vector and t.ndim == 1:
        t = t[:, None]
    if t.ndim != 2 or t.shape[1] == 0:
        shapes = "(rows,) or (rows, units)" if vector else "(rows, units)"
        raise ValueError(
            f"{function}: {name} has shape {t.shape}; expected {shapes} with at least one unit. "
            f"Flatten the trailing axes with {name}.reshape(len({name}), -1), and give a single "
            f"unit as {name}[:, None]."
        )
    if t.shape[0] < 2:
        raise ValueError(
            f"{function}: {name} has {t.shape[0]} row(s); expected at least 2, since the "
            "information of a single input is zero by definition. Pass the activations of more "
            "inputs."
        )
    if not traced:
        t = np.asarray(t)
    if jnp.issubdtype(t.dtype, jnp.floating):
        if not traced:
            _refuse_nonfinite(function, t, name)
        size = t.dtype.itemsize
        t = t.astype(np.float32) if size < 4 else t.astype(np.float64) if size > 8 else t
    return jnp.asarray(t) if traced else t


def activations(
    function: str, t: Any, name: str = "t", traced: bool = False, vector: bool = False
) -> Float[Array, "n units"] | Float[np.ndarray, "n units"]:
    """Check activations for an estimator that does not change if a unit is shifted.

    Integers are counted from the least one of their unit before they become floating-point
    numbers, so that large ones keep their last digits.

    Args:
        function: as for `rows`, as are the other arguments.
        t: activations, of shape (N, units).
        name: what to call them in an error.
        traced: whether the computation is traced, even if `t` itself is not.
        vector: whether a vector is accepted as one unit.

    Returns:
        Activations of shape (N, units) and dtype float32 or float64; a numpy array unless the
        computation is traced.

    Raises:
        ValueError: see `rows`.
    """
    t = rows(function, t, name, traced, vector)
    if jnp.issubdtype(t.dtype, jnp.floating):
        return t
    least = jnp.min if traced else np.min
    return above_least(t, least(t, axis=0, keepdims=True))


def above_least(t: Any, least: Any) -> Any:
    """t - least of integers none of which is smaller, exact before it is rounded to a float."""
    unsigned = np.dtype(f"uint{8 * t.dtype.itemsize}")
    # Modulo 2^bits, which the difference of two integers of that many bits never reaches.
    difference = t.astype(unsigned) - least.astype(unsigned)
    wide = np.float64 if isinstance(t, np.ndarray) else jnp.result_type(float)
    return difference.astype(wide)


def _refuse_nonfinite(function: str, t: np.ndarray, name: str) -> None:
    finite = np.isfinite(t)
    if finite.all():
        return
    row, unit = np.argwhere(~finite)[0]
    raise ValueError(
        f"{function}: {name} holds {int((~finite).sum())} value(s) that are NaN or infinite, the "
        f"first ({t[row, unit]}) in row {row}, unit {unit}; expected finite values. Look for a "
        f"diverged network, or drop those rows with {name}[numpy.isfinite({name}).all(1)]."
    )


def within(function: str, t: np.ndarray, low: float | int, high: float | int) -> None:
    """Refuse values outside [low, high].

    Raises:
        ValueError: if there is one.
    """
    ends = low, high
    if t.dtype.kind in "iu":  # numpy would compare large ones with a float as floats
        ends = math.ceil(low), math.floor(high)
    outside = (t < ends[0]) | (t > ends[1])
    if outside.any():
        row, unit = np.argwhere(outside)[0]
        raise ValueError(
            f"{function}: t holds {int(outside.sum())} value(s) outside [{low}, {high}], the first "
            f"({t[row, unit]}) in row {row}, unit {unit}; strict=True expects none. Widen "
            "low and high, use edges='adaptive' or 'quantile', or drop strict=True to put "
            "them into the end cells."
        )


def whole_number(
    function: str, value: Any, name: str, least: int, most: int | None, why: str
) -> int:
    """Check an integer argument.

    Raises:
        ValueError: if it is not an integer in [least, most]; `why` ends the message.
    """
    try:
        number = operator.index(value)
    except (TypeError, jax.errors.JAXIndexError, jax.errors.ConcretizationTypeError):
        number = None
    if number is None or isinstance(value, bool | np.bool_):
        raise ValueError(f"{function}: {name} is {value!r:.80}; expected an integer. {why}")
    if number < least or (most is not None and number > most):
        wanted = f"at least {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"{function}: {name} is {number}; expected {wanted}. {why}")
    return number


def real_number(
    function: str, value: Any, name: str, why: str, wanted: str = "a finite number"
) -> Any:
    """Check a scalar argument that must be a finite number, unless it is traced.

    Returns:
        The number: numpy float64, or as it is if it is an integer of Python or traced.

    Raises:
        ValueError: if it is not; `why` ends the message.
    """
    shape = getattr(value, "shape", ())
    if shape != ():
        raise ValueError(f"{function}: {name} has shape {shape}; expected a scalar. {why}")
    if is_traced(value):
        return value
    number: Any = value if isinstance(value, int) and abs(value) < 2**1000 else None
    if isinstance(value, float | np.generic | np.ndarray | jax.Array):
        host = np.asarray(value)
        # Those of JAX have a kind of their own.
        if jnp.issubdtype(host.dtype, jnp.floating) or host.dtype.kind in "biu":
            number = np.float64(host)
    if number is None or isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{function}: {name} is {value!r:.80}; expected {wanted}. {why}")
    if not math.isfinite(number):
        raise ValueError(f"{function}: {name} is {number}; expected {wanted}. {why}")
    return number


def positive(function: str, value: Any, name: str, why: str) -> Any:
    """Check a scalar argument that must be positive and finite, unless it is traced.

    Returns:
        The number: numpy float64, or as it is if it is traced.

    Raises:
        ValueError: if it is not; `why` ends the message.
    """
    wanted = "a positive finite number"
    number = real_number(function, value, name, why, wanted)
    if is_traced(number):
        return number
    number = np.float64(number)
    if not number > 0:
        raise ValueError(f"{function}: {name} is {number}; expected {wanted}. {why}")
    return number


def within_range(function: str, number: Any, name: str, what: str) -> None:
    """Refuse a known number that the precision enabled under a trace cannot hold.

    Raises:
        ValueError: if it would be zero or infinite there.
    """
    info = jnp.finfo(jnp.result_type(float))
    if not float(info.tiny) <= number <= float(info.max):
        raise ValueError(
            f"{function}: with this {name} {what} has a standard deviation of {number}, which is "
            f"out of the range of {info.dtype}; rescale the activations, call it outside jit and "
            "vmap, or enable float64 with jax.enable_x64(True)."
        )


def one_of(function: str, value: Any, name: str, allowed: Sequence[str]) -> str:
    """Check an argument that names an option.

    Raises:
        ValueError: if it is not one of `allowed`.
    """
    if not isinstance(value, str) or value not in allowed:
        options = ", ".join(map(repr, allowed))
        raise ValueError(f"{function}: {name} is {value!r:.80}; expected one of {options}.")
    return value
