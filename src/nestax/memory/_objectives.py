"""Attentional biases: what a memory is asked to do with one pair of key and value.

An objective is here the error it makes, e = d loss / d prediction: by the chain rule that is all a
write needs to know. Losses are halved, or divided by p, so that the errors carry no factors:

    "dot"       -<p, v>                  e = -v
    "l2"        |p - v|^2 / 2            e = p - v
    lp(p)       sum |p - v|^p / p        e = sign(p - v) |p - v|^(p - 1)
    huber(d)    H_d(|p - v|)             e = (p - v) min(1, d / |p - v|)

A paper that writes |p - v|^2 without the half takes steps twice as long at the same rate.

The error is a function of the value that is written: where values come from another memory, as in
Hope, the inner gradient treats them as given, and an outer gradient passes through them.

Source: Behrouz et al., "It's all connected" (Miras, 2025), attentional biases; "Nested Learning"
(2025), section 5.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._arguments import check_positive, floating_array

Objective = Callable[[Array, Array], Array]
"""An inner objective, given by the error that it makes: `(prediction, value) -> error`.

The error is the derivative of the loss by the prediction, which is all that a write needs.
"""


def dot(prediction: Float[Array, "*batch value"], value: Float[Array, "*batch value"]) -> Array:
    """The objective `-<prediction, value>`: its error is minus the value.

    Args:
        prediction: (..., value).
        value: (..., value).

    Returns:
        The error, (..., value).
    """
    return -_alike("dot", prediction, value)[1]


def l2(prediction: Float[Array, "*batch value"], value: Float[Array, "*batch value"]) -> Array:
    """The objective `|prediction - value|^2 / 2`: its error is the difference.

    Args:
        prediction: (..., value).
        value: (..., value).

    Returns:
        The error, (..., value).
    """
    prediction, value = _alike("l2", prediction, value)
    return prediction - value


def _alike(name: str, prediction: Any, value: Any) -> tuple[Array, Array]:
    """Both as floating-point arrays, which must be of one shape."""
    prediction = floating_array(name, "prediction", prediction)
    value = floating_array(name, "value", value)
    if prediction.shape != value.shape or not value.ndim:
        raise ValueError(
            f"{name}: prediction and value must be of one shape, (value,) or with leading axes, "
            f"got {prediction.shape} and {value.shape}"
        )
    return prediction, value


def lp(p: float) -> Objective:
    """The objective `sum |prediction - value|^p / p` of Moneta.

    p = 2 is `l2`; p = 1 writes signs only. For p below 2 the derivative of the error is unbounded
    at zero, and is taken to be zero there.

    Args:
        p: 1 or more, static.

    Returns:
        A function `(prediction, value) -> error`.

    Raises:
        ValueError: p below 1, where the loss is not convex.

    Source: Behrouz et al., "It's all connected" (Miras, 2025), the l_p bias, there times p.
    """
    check_power("lp", p)

    def error(prediction: Array, value: Array) -> Array:
        prediction, value = _alike("lp", prediction, value)
        difference = prediction - value
        size = jnp.abs(difference)
        there = size != 0  # also NaN
        power = jnp.where(there, size, 1) ** (p - 1)
        return jnp.where(there, jnp.sign(difference) * power, 0)

    return error


def check_power(name: str, p: Any) -> None:
    """Refuses a power for which `lp` is no objective."""
    real = isinstance(p, (int, float, np.floating, np.integer))
    if not (real and 1 <= p < math.inf):
        raise ValueError(
            f"{name}: p must be at least 1, where the loss is convex, and finite, got {p!r:.60}"
        )


def huber(threshold: float | Float[Array, ""]) -> Objective:
    """The Huber objective of Yaad: half the squared distance up to a threshold, linear beyond.

    The error is that of `l2`, shortened to the threshold. The paper's third variant takes the sign
    of every coordinate beyond the threshold, and so jumps there; this is its second variant.

    Args:
        threshold: above 0; may be traced, so that it can depend on the token.

    Returns:
        A function `(prediction, value) -> error`.

    Raises:
        ValueError: a threshold that is known and not above 0.

    Source: Behrouz et al., "It's all connected" (Miras, 2025), the Huber biases.
    """
    check_threshold("huber", threshold)

    def error(prediction: Array, value: Array) -> Array:
        prediction, value = _alike("huber", prediction, value)
        return shortened(prediction - value, threshold)

    return error


def check_threshold(name: str, threshold: Any) -> None:
    """Refuses a threshold for which `huber` is no objective, where it is known."""
    check_positive(name, "threshold", threshold, "above 0, as with 0 nothing is ever written")


def shortened(error: Float[Array, "*batch out"], limit: float | Array) -> Array:
    """The error, with its norm cut to the limit; along the last axis."""
    square = jnp.sum(jnp.square(error), axis=-1, keepdims=True)
    long = square > jnp.square(limit)
    # No root of zero: its derivative is not finite.
    return jnp.where(long, error * (limit / jnp.sqrt(jnp.where(long, square, 1))), error)


def error_of(objective: str | Objective, function: str) -> Objective:
    """The error of an objective by name, or the callable itself.

    Raises:
        ValueError: an unknown name.
    """
    if callable(objective):
        if objective in (lp, huber):
            raise ValueError(
                f"{function}: objective must be what {objective.__name__} returns for a number, "
                f"such as {objective.__name__}(2.0), got the function itself"
            )
        return objective
    if isinstance(objective, str) and objective in ("dot", "l2"):
        return dot if objective == "dot" else l2
    raise ValueError(
        f'{function}: objective must be "dot", "l2", or a function (prediction, value) -> error '
        f"such as lp(3.0) or huber(1.0), got {objective!r:.60}"
    )
