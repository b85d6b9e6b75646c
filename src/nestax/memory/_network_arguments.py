"""Checks of what is passed to memories that are networks: matrices, tokens, and options."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._arguments import check_function, check_option, check_positive, floating_array, real_array
from ._parts import check_floating

Weights = tuple[Float[Array, "_ _"], ...]

_OPTIONAL = ("weights", "towards", "surprise", "state.surprise")


def check_sequence(name: str, q: Any, k: Any, v: Any) -> tuple[Array, Array, Array]:
    """Refuses queries, keys and values that do not belong together; returns them as arrays."""
    q, k, v = (real_array(name, what, a) for what, a in (("q", q), ("k", k), ("v", v)))
    if q.ndim != 2 or k.shape != q.shape or v.ndim != 2 or len(v) != len(q):
        raise ValueError(
            f"{name}: q and k must be (time, key), both alike, and v (time, value), got "
            f"{q.shape}, {k.shape} and {v.shape}; batch with jax.vmap"
        )
    check_floating(name, q, k, v)
    return q, k, v


def check_weights(
    name: str,
    what: str,
    weights: Any,
    keys: int | None = None,
    values: int | None = None,
    takes: str = "keys",
    gives: str = "values",
) -> Weights:
    """Refuses what is no tuple of matrices that fit one another.

    Args:
        name: of the function, for the error.
        what: the argument's name.
        weights: as given by the user.
        keys: what the first matrix takes; None: as it is.
        values: what the last one gives; None: as it is.
        takes: what `keys` counts, for the error.
        gives: what `values` counts.

    Returns:
        The matrices as floating-point arrays.
    """
    matrices = isinstance(weights, tuple) and weights
    if matrices:
        weights = tuple(floating_array(name, f"{what}[{i}]", w) for i, w in enumerate(weights))
        matrices = all(w.ndim == 2 for w in weights)
    if matrices:
        first, last = weights[0].shape[1], weights[-1].shape[0]
        sizes = [first if keys is None else keys, *(w.shape[0] for w in weights)]
        fit = [w.shape[1] for w in weights] == sizes[:-1] and values in (None, last)
        if fit:
            return weights
    got = type(weights).__name__
    if isinstance(weights, tuple):
        got = f"shapes {[jnp.shape(w) for w in weights]}"
    ends = "" if keys is None else f" from {keys} {takes}"
    ends += "" if values is None else f" to {values} {gives}"
    raise ValueError(
        f"{name}: {what} must be a tuple of matrices (out, in) that lead{ends or ' on'}, first "
        f"applied first, got {got}"
    )


def check_alike(name: str, q: Array, v: Array, **named: Any) -> list[Any]:
    """`check_weights` of several, which must be of the shapes of the first; or None."""
    checked, shapes, model = [], None, ""
    for what, weights in named.items():
        if weights is not None or what not in _OPTIONAL:
            weights = check_weights(name, what, weights, q.shape[1], v.shape[1])
            own = [w.shape for w in weights]
            if shapes is None:
                shapes, model = own, what
            if own != shapes:
                raise ValueError(
                    f"{name}: {what} must be matrices like {model}, shapes {shapes}, got {own}"
                )
        checked.append(weights)
    return checked


def check_options(
    name: str,
    rule: Any,
    read: Any,
    skip: bool,
    activation: Any,
    clip: Any,
    q: Array,
    v: Array,
) -> None:
    """Refuses options that are unknown or do not fit the tokens."""
    check_option(name, "rule", rule, "gd", "dgd", "local")
    check_option(name, "read", read, "before", "after")
    check_function(name, "activation", activation)
    check_skip(name, skip, q.shape[1], v.shape[1])
    check_clip(name, clip)


def check_skip(name: str, skip: bool, keys: int, values: int) -> None:
    """Refuses to add what is not of one size."""
    if skip and keys != values:
        raise ValueError(
            f"{name}: skip adds queries to values, which needs as many; got {keys} and {values}; "
            "pass skip=False"
        )


def check_clip(name: str, clip: Any) -> None:
    """Refuses a bound that is no positive number, where it is known."""
    if clip is not None:
        check_positive(name, "clip", clip, "above 0, or None for no bound")


def check_features(name: str, what: str, a: Any) -> Array:
    """Refuses all but an array of real numbers with one axis or more; returns it as floating."""
    a = floating_array(name, what, a)
    if not a.ndim:
        raise ValueError(f"{name}: {what} must be ({what},) or with leading axes, got a number")
    return a
