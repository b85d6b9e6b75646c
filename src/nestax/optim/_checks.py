"""What optimizers refuse: numbers out of range, and parameters or gradients that are no numbers.

Numbers whose value is known are checked when an optimizer is made. Traced ones have no value yet;
of these only the kind is checked.
"""

import math
import operator
from collections.abc import Callable, Sequence
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
            raise ValueError(
                f"{name}: {argument} must be a real number, got {value.dtype}{_injected(value)}"
            )
        return _unrounded(_single(value), value.dtype, below and high == 1)
    known = _known(value)
    if known is None:
        raise ValueError(
            f"{name}: {argument} must be one real number, got {described(value)}{_injected(value)}"
        )
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
        ValueError: neither a schedule nor a number that is finite and not negative; when it is
            called, a schedule that returns something else than one real number, or a known number
            that is negative or not finite.
    """
    if callable(value):
        schedule = value

        def scheduled(count: Any) -> Array:
            found = schedule(count)
            if not is_number(found) or _kind(found) == "complex":
                raise ValueError(
                    f"{name}: {argument}, a schedule, must return one real number, got "
                    f"{described(found)}"
                )
            if not isinstance(found, jax.Array):
                number(name, f"{argument}, as its schedule gives it,", found)
            return _single(found)

        return scheduled
    if not isinstance(value, Tracer) and _known(value) is None:
        raise ValueError(
            f"{name}: {argument} must be a number or a schedule (a function of the number of "
            f"updates), got {described(value)}"
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
        raise ValueError(
            f"{name}: {argument} must be an int of at least {low}, got {described(value)}"
        )
    return operator.index(value)


def option(name: str, argument: str, value: Any, known: Sequence[str], expected: str = "") -> str:
    """One of the known names; `expected` says what else was possible, or what the names mean.

    Raises:
        ValueError: anything else, such as an array, which cannot be compared with names.
    """
    if isinstance(value, str) and value in known:
        return str(value)
    if not expected:
        *first, last = (f'"{each}"' for each in known)
        expected = f"{', '.join(first)} or {last}"
    raise ValueError(f"{name}: {argument} must be {expected}, got {described(value)}")


def is_number(value: Any) -> bool:
    """Whether it is one number, real or complex, and no truth value."""
    kind = _kind(value)
    return bool(kind) and np.shape(value) == () and _dtype(value) != np.bool_


def is_array(value: Any, *kinds: str) -> bool:
    """Whether it is a NumPy or JAX array of "float", "int" or "complex" numbers, none masked."""
    return isinstance(value, (jax.Array, np.ndarray)) and _kind(value) in kinds


def array(
    name: str,
    argument: str,
    value: Any,
    *,
    integers: bool = False,
    complex_numbers: bool = False,
) -> Array:
    """A JAX array of floating-point numbers; with `integers` or `complex_numbers` of these too, as
    they are.

    Raises:
        ValueError: a list, a number, a masked array, or an array of another kind.
    """
    kinds = ["float"] + ["int"] * integers + ["complex"] * complex_numbers
    if is_array(value, *kinds):
        return jnp.asarray(value)
    _refuse_masked(f"{name}: {argument}", value)
    numbers = "real" if integers else "floating-point"
    numbers += " or complex" if complex_numbers else ""
    raise ValueError(
        f"{name}: {argument} must be an array of {numbers} numbers, got {described(value)}"
    )


def check_parameters(name: str, params: PyTree, *, complex_numbers: bool) -> None:
    """Refuses parameters that cannot be trained, by their path.

    Raises:
        ValueError: leaves that are no numbers, integers, or complex without `complex_numbers`.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        _check_leaf(name, "params", path, leaf, complex_numbers)


def check_gradients(
    name: str, gradients: PyTree, params: PyTree | None, *, complex_numbers: bool, at: str = ""
) -> None:
    """Refuses gradients that are no numbers, or that do not fit the parameters, by their path.

    Args:
        name: the optimizer, for errors.
        gradients: arrays, numbers, or only their shapes and dtypes.
        params: None: not compared.
        complex_numbers: whether complex numbers are accepted.
        at: stands behind a gradient's path in errors.

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
        if np.shape(g) != np.shape(p):
            raise ValueError(
                f"{name}: gradients{where}{at} must have the shape of the parameter, "
                f"{np.shape(p)}, got {np.shape(g)}"
            )
        if _kind(g) != _kind(p):
            raise ValueError(
                f"{name}: gradients{where}{at} is {_dtype(g)} and params{where} {_dtype(p)}; both "
                "must be real, or both complex"
            )


def check_prefix(name: str, argument: str, tree: PyTree, params: PyTree) -> None:
    """Refuses a tree without a leaf for each parameter, or for the subtree that it is in.

    Raises:
        ValueError: with the paths that have no counterpart.
    """
    try:
        jax.tree.structure(tree).flatten_up_to(params)
    except ValueError as error:
        given, wanted = (
            [path for path, _ in jax.tree_util.tree_leaves_with_path(t)] for t in (tree, params)
        )
        lacking = [p for p in wanted if not any(p[: len(g)] == g for g in given)]
        beyond = [g for g in given if not any(p[: len(g)] == g for p in wanted)]
        parts = [
            f"{what} {', '.join(map(jax.tree_util.keystr, paths[:3]))}"
            for what, paths in (("it lacks", lacking), ("it also has", beyond))
            if paths
        ]
        raise ValueError(
            f"{name}: {argument} must have the structure of the parameters, or a leaf for a whole "
            f"subtree of them; {' and '.join(parts) or error}"
        ) from error


def _refuse_masked(where: str, value: Any) -> None:
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(
            f"{where} is a masked array, and JAX would ignore its mask; pass what "
            "`.filled(value)` returns"
        )


def _check_leaf(name: str, argument: str, path: Any, leaf: Any, complex_numbers: bool) -> None:
    kind = _kind(leaf)
    if kind == "float" or (kind == "complex" and complex_numbers):
        return
    where = f"{name}: {argument}{jax.tree_util.keystr(path)}"
    _refuse_masked(where, leaf)
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
        f"{where} must be an array of floating-point numbers, got {described(leaf)}; leave out "
        "what is no parameter by equinox.filter(model, equinox.is_inexact_array) or optax.masked"
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
    """ "float", "complex", "int" (which bool is), or "" for what is no number, or masked."""
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
    if isinstance(leaf, np.ma.MaskedArray):
        return None
    return getattr(leaf, "dtype", None)


def _known(value: Any) -> float | None:
    """The value as a float; None if it is no single real number."""
    if not is_number(value) or _kind(value) == "complex":
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _injected(value: Any) -> str:
    """What repairs a complex number that optax made of a real one, as it does of every number where
    the parameters are complex."""
    if not (isinstance(value, jax.Array) and jnp.iscomplexobj(value)):
        return ""
    return (
        "; optax.inject_hyperparams gives numbers the parameters' dtype, which is complex: tell it "
        "hyperparam_dtype=jnp.float32"
    )


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


def described(value: Any) -> str:
    """A short description of what was given."""
    if isinstance(value, (jax.Array, np.ndarray)):
        article = "a masked" if isinstance(value, np.ma.MaskedArray) else "an"
        return f"{article} array {value.shape} of {value.dtype}"
    if callable(value):
        return f"the function {getattr(value, '__name__', type(value).__name__)}"
    return f"{value!r:.60}"
