"""Checks of what layers and models are made with and called with.

Options and sizes are returned as plain Python values: NumPy scalars overflow, and are no static
fields. Of arrays only shape and dtype are looked at, so that nothing waits for a device.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

State = TypeVar("State")

_KINDS = (jnp.floating, jnp.integer, jnp.complexfloating, jnp.bool_)


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of things, at least one."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 1


def whole(name: str, what: str, value: Any, least: int = 1) -> int:
    """A size as a Python int.

    Args:
        name: of the function or layer, for the error.
        what: the argument's name.
        value: as given by the user.
        least: the smallest size allowed.

    Raises:
        ValueError: not a whole number, or one below `least`.
    """
    number = _integer(name, what, value)
    if number < least:
        raise ValueError(f"{name}: {what} must be at least {least}, got {number}")
    return number


def whole_or_none(name: str, what: str, value: Any, least: int = 1) -> int | None:
    """A size as a Python int, or None for the default; see `whole`."""
    return None if value is None else whole(name, what, value, least)


def check_sizes(name: str, width: Any, heads: Any) -> tuple[int, int]:
    """Width and heads as Python ints.

    Raises:
        ValueError: not whole, below 1, or heads that do not divide the width.
    """
    width, heads = _integer(name, "width", width), _integer(name, "heads", heads)
    if width < 1 or heads < 1 or width % heads:
        raise ValueError(
            f"{name}: heads must divide the width into equal parts of at least one channel, got "
            f"width={width} and heads={heads}"
        )
    return width, heads


def _integer(name: str, what: str, value: Any) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise ValueError(f"{name}: {what} must be a whole number, got {described(value)}")
    return int(value)


def choice(name: str, what: str, value: Any, known: Sequence[str | None]) -> Any:
    """An option as a Python string, or None where that is one.

    Raises:
        ValueError: not one of those known.
    """
    if not isinstance(value, str | None) or value not in known:
        raise ValueError(f"{name}: {what} must be one of {known}, got {described(value)}")
    return None if value is None else str(value)


def known_number(value: Any) -> float | None:
    """The real number that a scalar is, of Python, NumPy or JAX; None if it is none, or traced."""
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        known = not isinstance(value, (Tracer, np.ma.MaskedArray)) and not np.shape(value)
        return float(np.asarray(value)) if known and _is_real(value) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _is_real(value: Any) -> bool:
    return holds(value, jnp.floating) or holds(value, jnp.integer)


def real(name: str, what: str, value: Any) -> Any:
    """A finite number as a Python float, which changes no dtype; a traced one as it is.

    Raises:
        ValueError: no number, several, complex, or not finite where it is known.
    """
    if isinstance(value, Tracer) and not value.shape and _is_real(value):
        return value
    number = known_number(value)
    if number is None or not math.isfinite(number):
        raise ValueError(f"{name}: {what} must be one finite number, got {described(value)}")
    return number


def positive(name: str, what: str, value: Any, most: float = math.inf, why: str = "") -> float:
    """A known number above 0 as a Python float; infinity is one.

    Args:
        name: of the function or layer, for the error.
        what: the argument's name.
        value: as given by the user.
        most: the largest number allowed.
        why: what is said of it in the error.

    Raises:
        ValueError: no number, several, complex, NaN, or out of range.
    """
    number = known_number(value)
    if number is None:
        got = f"{type(value).__name__} {described(value)}"
        raise ValueError(f"{name}: {what} must be a number, got {got}")
    if not 0 < number <= most:
        bound = "" if math.isinf(most) else f" and at most {most:g}"
        raise ValueError(f"{name}: {what} must be above 0{bound}{why}, got {number:g}")
    return number


def share(name: str, what: str, value: Any) -> float:
    """A probability below 1 as a Python float.

    Raises:
        ValueError: no known number, or one that is not in [0, 1).
    """
    number = known_number(value)
    if number is None or not 0 <= number < 1:
        raise ValueError(
            f"{name}: {what} must be at least 0 and less than 1, got {described(value)}"
        )
    return number


def check_floating(name: str, *arrays: Array) -> None:
    """Refuses queries, keys and values that cannot hold what is read from a memory."""
    if any(not jnp.issubdtype(a.dtype, jnp.floating) for a in arrays):
        raise ValueError(
            f"{name}: queries, keys and values must be of floating point, got "
            f"{', '.join(str(a.dtype) for a in arrays)}; cast them with astype"
        )


def check_input(name: str, x: Any, width: int | None) -> Array:
    """Refuses all but one sequence of this width (None: of any), of floating point.

    Returns:
        x as an array of jax.
    """
    shape = getattr(x, "shape", None)
    if shape is None or len(shape) != 2 or width not in (None, shape[1]):
        got = f"a {type(x).__name__}" if shape is None else str(shape)
        raise ValueError(
            f"{name}: one sequence of shape (time, {width or 'width'}) is expected, got {got}; "
            "make lists arrays, and for a batch use jax.vmap"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"{name}: the sequence must be of floating point, got {x.dtype}; embed tokens, or cast "
            "numbers with astype"
        )
    check_unmasked(name, "the sequence", x)
    return jnp.asarray(x)


def check_unmasked(name: str, what: str, value: Any) -> None:
    """Refuses NumPy's masked arrays, whose hidden numbers would be read."""
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(
            f"{name}: {what} must be an array, got a masked one; pass value.filled(0), and "
            "valid=~mask where the function has valid"
        )


def check_key(name: str, key: Any) -> None:
    """Refuses all but one typed PRNG key."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key) or key.shape:
        if dtype is None:
            got = repr(key)
        elif jnp.issubdtype(dtype, jax.dtypes.prng_key):
            got = f"{key.shape} of them; for a batch use jax.vmap"
        else:
            got = f"{dtype} of shape {key.shape}, as the older jax.random.PRNGKey gives"
        raise ValueError(
            f"{name}: key must be one typed PRNG key; pass jax.random.key(seed). Got {got}"
        )


def check_state(name: str, state: State, init_state: Callable[[], Any]) -> State:
    """Refuses a state of another kind of layer, of other sizes, or of another kind of numbers.

    Args:
        name: of the layer, for the error.
        state: as given by the user.
        init_state: the layer's own, which gives the kind and the shapes; nothing is computed.

    Returns:
        The state, of arrays of jax.
    """
    like = jax.eval_shape(init_state)
    repair = "pass a state that this layer returned, or its init_state()"
    if type(state) is not type(like):
        raise ValueError(
            f"{name}: state must be a {type(like).__name__}, got a {type(state).__name__}; {repair}"
        )
    given, own = (jax.tree_util.tree_leaves_with_path(s) for s in (state, like))
    if len(given) != len(own):
        raise ValueError(
            f"{name}: state must hold {len(own)} arrays, got {len(given)}, as a layer with other "
            f"options has; {repair}"
        )
    for (path, leaf), (_, expected) in zip(given, own, strict=True):
        where = f"{name}: state{jax.tree_util.keystr(path)}"
        if np.shape(leaf) != expected.shape:
            raise ValueError(
                f"{where} must be of shape {expected.shape}, got {np.shape(leaf)}; {repair}, and "
                "for a batch use jax.vmap"
            )
        check_unmasked(name, f"state{jax.tree_util.keystr(path)}", leaf)
        kind = next((k for k in _KINDS if holds(expected, k)), None)
        if kind is not None and not holds(leaf, kind):
            got = getattr(leaf, "dtype", type(leaf).__name__)
            raise ValueError(f"{where} must be an array of {expected.dtype}, got {got}; {repair}")
    return jax.tree.map(jnp.asarray, state)


def holds(value: Any, kind: Any) -> bool:
    """Whether it is an array of numbers of this kind, such as `jnp.integer`."""
    dtype = getattr(value, "dtype", None)
    return dtype is not None and bool(jnp.issubdtype(dtype, kind))


def described(value: Any) -> str:
    """What was given, short: of arrays dtype and shape."""
    if isinstance(value, (np.ndarray, jax.Array)):
        return f"{value.dtype} of shape {value.shape}"
    return f"{value!r:.80}"
