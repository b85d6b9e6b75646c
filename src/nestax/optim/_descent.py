"""Optimizers with no memory, or a linear one: the controls of deep momentum.

Momentum as a memory: Behrouz et al., "Nested Learning" (2025), eq. (33-34). Sign descent:
Bernstein et al., "signSGD" (2018). Everything here is composed of optax's parts.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from ._checks import Rate, Scalar, number, rate
from ._precision import guarded


def gradient_descent(learning_rate: Rate) -> optax.GradientTransformationExtraArgs:
    """Gradient descent, `W <- W - learning_rate g`: no memory (`optax.sgd`).

    Args:
        learning_rate: a finite number of at least 0, or a schedule.

    Returns:
        An optax transformation.

    Raises:
        ValueError: a negative or infinite learning rate; parameters or gradients that are not
            floating-point or complex arrays.
    """
    name = "gradient_descent"
    return guarded(name, optax.sgd(rate(name, learning_rate)), complex_numbers=True)


def momentum(learning_rate: Rate, decay: Scalar = 0.9) -> optax.GradientTransformationExtraArgs:
    """Heavy-ball momentum, `m <- decay m - g`, `W <- W + learning_rate m` (`optax.sgd`).

    As a memory, m makes a gradient step of size 1 on `<m, g> + (1 - decay)/2 |m|^2`. The state
    holds -m, as optax's does. A constant gradient is amplified by 1 / (1 - decay).

    Args:
        learning_rate: a finite number of at least 0, or a schedule.
        decay: in [0, 1).

    Returns:
        An optax transformation.

    Raises:
        ValueError: an argument outside the ranges above; parameters or gradients that are not
            floating-point or complex arrays.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (33-34).

    Example:
        ```python
        optimizer = nx.optim.momentum(0.5, decay=0.5)
        weight, gradient = jnp.array(2.0), jnp.array(1.0)
        state = optimizer.init(weight)
        first, state = optimizer.update(gradient, state, weight)
        second, state = optimizer.update(gradient, state, weight)
        print(first, second)  # -0.5 -0.75
        ```
    """
    name = "momentum"
    decay = number(name, "decay", decay, 0, 1, below=True)
    tx = optax.sgd(rate(name, learning_rate), momentum=decay)
    return guarded(name, tx, complex_numbers=True)


def sign_descent(learning_rate: Rate) -> optax.GradientTransformationExtraArgs:
    """Sign descent, `W <- W - learning_rate sign(g)`: no memory (`optax.sign_sgd`).

    The sign of a complex number is the number divided by its modulus.

    Args:
        learning_rate: float or schedule; the size of every coordinate's step.

    Returns:
        An optax transformation.

    Raises:
        ValueError: as `gradient_descent`.

    Source: Bernstein et al., "signSGD" (2018).
    """
    name = "sign_descent"
    return guarded(name, optax.sign_sgd(rate(name, learning_rate)), complex_numbers=True)


def ema_sign(learning_rate: Rate, decay: Scalar = 0.9) -> optax.GradientTransformationExtraArgs:
    """Descent along the sign of the gradient's exponential moving average (Signum).

    This is `optax.lion` with equal rates and no weight decay.

    Args:
        learning_rate: float or schedule; the size of every coordinate's step.
        decay: of the average, in [0, 1).

    Returns:
        An optax transformation.

    Raises:
        ValueError: an argument outside the ranges above; parameters as in `gradient_descent`.

    Source: Bernstein et al., "signSGD" (2018), Signum.
    """
    name = "ema_sign"
    decay = number(name, "decay", decay, 0, 1, below=True)
    tx = optax.chain(
        optax.scale_by_lion(b1=decay, b2=decay),
        optax.scale_by_learning_rate(rate(name, learning_rate)),
    )
    return guarded(name, tx, complex_numbers=True)


def normalized_descent(learning_rate: Rate) -> optax.GradientTransformationExtraArgs:
    """Normalized descent, `W <- W - learning_rate g / rms(g)`: no memory.

    Each tensor's gradient is divided by its own root mean square, so that learning rates compare
    with those of `sign_descent`. A zero gradient gives a zero step. A NaN or an infinity in the
    gradient makes the whole tensor's step NaN.

    Args:
        learning_rate: float or schedule; the root mean square of every tensor's step.

    Returns:
        An optax transformation.

    Raises:
        ValueError: as `gradient_descent`.
    """

    def normalize(updates: PyTree, params: PyTree | None = None) -> Any:
        del params
        return jax.tree.map(lambda g: over_rms(g, root_mean_square(g)), updates)

    name = "normalized_descent"
    step = optax.scale_by_learning_rate(rate(name, learning_rate))
    tx = optax.chain(optax.stateless(normalize), step)
    return guarded(name, tx, complex_numbers=True)


def root_mean_square(u: jax.Array) -> jax.Array:
    """Of all coordinates of a tensor, scaled so that squares of small ones do not underflow, nor
    those of large ones overflow; of complex numbers, of their moduli. Not finite if any is not."""
    if u.size == 0:
        return jnp.zeros((), u.real.dtype)
    top = largest_part(u)
    # No root of zero: its derivative is not finite, and optimizers are differentiated.
    zero = top == 0
    mean = jnp.mean(squared_modulus(u / jnp.where(zero, 1, top)))
    return top * jnp.sqrt(jnp.where(zero, 1, mean))


def largest_part(u: jax.Array) -> jax.Array:
    """The largest |u|; of complex numbers, the largest modulus of a real or imaginary part."""
    top = jnp.max(jnp.abs(u.real))
    return jnp.maximum(top, jnp.max(jnp.abs(u.imag))) if jnp.iscomplexobj(u) else top


def squared_modulus(u: jax.Array) -> jax.Array:
    """|u|^2, a real number."""
    square = jnp.square(u.real)
    return square + jnp.square(u.imag) if jnp.iscomplexobj(u) else square


def square_root(x: jax.Array) -> jax.Array:
    """The root of a sum of squares: its derivative at 0 is 0, which optimizers are differentiated
    at where a gradient is zero."""
    zero = x == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def over_rms(u: jax.Array, rms: jax.Array) -> jax.Array:
    """u / rms, zero where that is zero. A NaN in u makes all of it NaN: the other coordinates would
    otherwise step by another rule."""
    return u / jnp.where(rms == 0, 1, rms)
