"""What optimizers refuse: numbers out of range, and parameters or gradients that are no numbers.

Numbers whose value is known are checked when an optimizer is made. Traced ones have no value yet;
of these only the kind is checked.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

Scalar = float | int | np.number | np.ndarray | Array
Rate = Scalar | Callable[[Any], Any]  # a number, or a schedule: number of updates -> number


def number(
    name: str,
    argument: str,
    value: Any,
    low: float | int = 0,
    high: float | int = math.inf,
    *,
    below: bool = False,
) -> Any:
    """The hyperparameter as it is computed with: a known one as a Python float, which changes no
    dtype, a traced one in float32 at least.

    Args:
        name: the optimizer, for the error.
        argument: the name of its argument.
        value: what was given: a number, a NumPy or JAX scalar, or a traced value.
        low: the least value allowed.
        high: the largest value allowed; infinity allows every finite number.
        below: whether `high` itself is refused. Then a half-precision 1, which is all that is
            left of 0.999 in bfloat16, is read as the middle of the numbers that round to it.

    Raises:
        ValueError: not a real number, more than one number, or a known number out of range.
    """
    if isinstance(value, Tracer):
        if _kind(value) not in ("float", "int") or value.dtype == np.bool_:
            raise ValueError(f"{name}: {argument} must be a real number, got {value.dtype}")
        return _unrounded(_single(value), value.dtype, below and high == 1)
    known = _known(value)
    if known is None:
        raise ValueError(f"{name}: {argument} must be one real number, got {_said(value)}")
    known = float(_unrounded(known, getattr(value, "dtype", None), below and high == 1))
    inside = low <= known and (known < high if below else known <= high)
    if inside and math.isfinite(known):
        return known
    opening = "(" if low == -math.inf else "["
    closing = ")" if below or high == math.inf else "]"
    raise ValueError(
        f"{name}: {argument} must be in {opening}{low:g}, {high:g}{closing}, got {value!s:.60}"
    )


def rate(name: str, value: Any, argument: str = "learning_rate") -> Any:
    """A learning rate as `number`, or the schedule with its values in float32 at least.

    Raises:
        ValueError: neither a schedule nor a number that is finite and not negative.
    """
    if callable(value):
        schedule = value
        return lambda count: _single(schedule(count))
    if not isinstance(value, Tracer) and _known(value) is None:
        raise ValueError(
            f"{name}: {argument} must be a number or a schedule (a function of the number of "
            f"updates), got {_said(value)}"
        )
    return number(name, argument, value)


def static(name: str, **arguments: Any) -> None:
    """Refuses arrays where a program's structure depends on the number, all of them at once.

    Raises:
        TypeError: with the line that repairs it under `optax.inject_hyperparams`.
    """
    given = [argument for argument, value in arguments.items() if isinstance(value, jax.Array)]
    if given:
        names = ", ".join(f'"{argument}"' for argument in given) + "," * (len(given) == 1)
        raise TypeError(
            f"{name}: {' and '.join(given)} must be known when the program is compiled, not "
            "arrays or traced values; with optax.inject_hyperparams write "
            f"inject_hyperparams({name}, static_args=({names}))"
        )


def whole(name: str, argument: str, value: Any, low: int = 1) -> int:
    """A number of updates, steps or rows as a Python int.

    Raises:
        TypeError: an array, see `static`.
        ValueError: not a whole number, or one below `low`.
    """
    static(name, **{argument: value})
    counts = isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))
    if not counts or value < low:
        raise ValueError(f"{name}: {argument} must be an int of at least {low}, got {_said(value)}")
    return operator.index(value)


def is_number(value: Any) -> bool:
    """Whether it is one number, real or complex, and no truth value."""
    kind = _kind(value)
    return bool(kind) and np.shape(value) == () and _dtype(value) != np.bool_


def array(name: str, argument: str, value: Any, *, integers: bool = False) -> Array:
    """A JAX array of floating-point numbers, or with `integers` of these too, as they are.

    Raises:
        ValueError: a list, a number, or an array of another kind.
    """
    arrays = isinstance(value, (jax.Array, np.ndarray))
    if arrays and _kind(value) in ("float", "int") and (integers or _kind(value) == "float"):
        return jnp.asarray(value)
    raise ValueError(
        f"{name}: {argument} must be an array of {'real' if integers else 'floating-point'} "
        f"numbers, got {_said(value)}"
    )


def check_parameters(name: str, params: PyTree, *, complex_numbers: bool) -> None:
    """Refuses parameters that cannot be trained, by their path.

    Raises:
        ValueError: leaves that are no numbers, integers, or complex without `complex_numbers`.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        _check_leaf(name, "params", path, leaf, complex_numbers)


def check_gradients(
    name: str, gradients: PyTree, params: PyTree | None, *, complex_numbers: bool
) -> None:
    """Refuses gradients that are no numbers, or that do not fit the parameters, by their path.

    Raises:
        ValueError: as `check_parameters`; another structure, shape, or kind than the parameters'.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(gradients)
    for path, leaf in leaves:
        _check_leaf(name, "gradients", path, leaf, complex_numbers)
    if params is None:
        return
    check_parameters(name, params, complex_numbers=complex_numbers)
    others, expected = jax.tree_util.tree_flatten_with_path(params)
    if structure != expected:
        raise ValueError(_difference(name, structure, expected, leaves, others))
    for (path, g), (_, p) in zip(leaves, others, strict=True):
        where = jax.tree_util.keystr(path)
        if jnp.shape(g) != jnp.shape(p):
            raise ValueError(
                f"{name}: gradients{where} must have the shape of the parameter, {jnp.shape(p)}, "
                f"got {jnp.shape(g)}"
            )
        if _kind(g) != _kind(p):
            raise ValueError(
                f"{name}: gradients{where} is {_dtype(g)} and params{where} {_dtype(p)}; both "
                "must be real, or both complex"
            )


def _check_leaf(name: str, argument: str, path: Any, leaf: Any, complex_numbers: bool) -> None:
    kind = _kind(leaf)
    if kind == "float" or (kind == "complex" and complex_numbers):
        return
    where = f"{name}: {argument}{jax.tree_util.keystr(path)}"
    if kind == "complex":
        raise ValueError(
            f"{where} is {_dtype(leaf)}, and {name} is for real numbers; to treat real and "
            f"imaginary parts as two parameters use "
            f"optax.contrib.split_real_and_imaginary({name}(...))"
        )
    if kind == "int":
        raise ValueError(
            f"{where} is {_dtype(leaf)}, which cannot be trained; convert it to floating-point "
            "numbers, or leave it out by optax.masked or equinox.filter(model, "
            "equinox.is_inexact_array)"
        )
    raise ValueError(
        f"{where} must be an array of floating-point numbers, got {_said(leaf)}; leave out what "
        "is no parameter by equinox.filter(model, equinox.is_inexact_array) or optax.masked"
    )


def _difference(name: str, structure: Any, expected: Any, leaves: Any, others: Any) -> str:
    got, wanted = ({jax.tree_util.keystr(p) for p, _ in tree} for tree in (leaves, others))
    text = f"{name}: gradients must have the structure of the parameters"
    parts = [
        f"{what} {', '.join(sorted(paths)[:3])}{', ...' if len(paths) > 3 else ''}"
        for what, paths in (("they lack", wanted - got), ("they also hold", got - wanted))
        if paths
    ]
    return f"{text}; {' and '.join(parts)}" if parts else f"{text}, {expected}, got {structure}"


def _kind(leaf: Any) -> str:
    """ "float", "complex", "int" (which bool is), or "" for what is no number."""
    dtype = _dtype(leaf)
    if dtype is None:
        return ""
    if jnp.issubdtype(dtype, jnp.floating):
        return "float"
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return "complex"
    integers = jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)
    return "int" if integers else ""


def _dtype(leaf: Any) -> Any:
    if isinstance(leaf, (bool, int, float, complex)):
        return np.dtype(type(leaf))
    return getattr(leaf, "dtype", None)


def _known(value: Any) -> float | None:
    """The value as a float; None if it is no single real number."""
    if not is_number(value) or _kind(value) == "complex":
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _single(value: Any) -> Array:
    """A JAX scalar in float32 at least."""
    value = jnp.asarray(value)
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def _unrounded(value: Any, dtype: Any, below_one: bool) -> Any:
    if not below_one or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return value
    if jnp.finfo(dtype).bits > 16:
        return value
    # The numbers from 1 - eps / 4 on round to 1.
    middle = 1 - float(jnp.finfo(dtype).eps) / 8
    if isinstance(value, float):
        return middle if value == 1 else value
    return jnp.where(value == 1, middle, value)


def _said(value: Any) -> str:
    """A short description of what was given."""
    if isinstance(value, (jax.Array, np.ndarray)):
        return f"an array {value.shape} of {value.dtype}"
    if callable(value):
        return f"the function {getattr(value, '__name__', type(value).__name__)}"
    return f"{value!r:.60}"
