"""Optimizers of games as linear recurrences: what each does to one coordinate and its memory.

An optimizer that calls for one gradient a step is, at a constant learning rate, a recurrence of its
memory z and the coordinate x: `(z, x)+ = M (z, x) + b g`. `recurrence()` returns M and b; all of
`augmented`, `spectral_radius` and the maps is made of these.
"""

import cmath
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .checks import number


@dataclasses.dataclass(frozen=True)
class GradientDescent:
    """x+ = x - rate g: `optax.sgd(rate)`.

    Args:
        rate: learning rate, at least 0; may be traced.

    Raises:
        ValueError: a rate that is not one number, negative, or not finite.
    """

    rate: Any

    def __post_init__(self) -> None:
        number("GradientDescent", "rate", self.rate, 0)

    def recurrence(self) -> tuple[jax.Array, jax.Array]:
        """M, of shape (1, 1), and b, of shape (1,), of `x`."""
        return _matrix([[1.0]]), _matrix([-self.rate])


@dataclasses.dataclass(frozen=True)
class Momentum:
    """m+ = beta m + g, x+ = x - rate Re(e^{i phase} m+): heavy ball, or complex momentum.

    `optax.sgd(rate, momentum=beta)` where beta is a real number and the phase is 0, else
    `nx.optim.complex_momentum(rate, beta, phase=phase)`. Negative momentum is a negative beta.

    Args:
        rate: learning rate, at least 0; may be traced.
        beta: the decay, |beta| <= 1: a real number, a complex one, or the pair (modulus, argument
            in radians), each of which may be traced.
        phase: argument of the complex learning rate, in radians.

    Raises:
        ValueError: |beta| above 1, a negative modulus or rate, a number that is not finite.

    Source: Lorraine, Acuna, Vicol and Duvenaud, "Complex Momentum for Optimization in Games"
    (2022), SimCM.
    """

    rate: Any
    beta: Any
    phase: Any = 0.0

    def __post_init__(self) -> None:
        number("Momentum", "rate", self.rate, 0)
        number("Momentum", "phase", self.phase)
        self.decay()

    def decay(self) -> tuple[Any, Any]:
        """Real and imaginary part of beta.

        Raises:
            ValueError: a tuple that is not (modulus, argument), or |beta| above 1.
        """
        given: Any = self.beta
        if isinstance(given, tuple):
            if len(given) != 2:
                raise ValueError(f"Momentum: beta is a number or (modulus, argument), got {given}")
            modulus = number("Momentum", "the modulus of beta", given[0], 0, 1)
            angle = number("Momentum", "the argument of beta", given[1])
            if isinstance(modulus, float) and isinstance(angle, float):
                value = cmath.rect(modulus, angle)
                return value.real, value.imag
            return modulus * jnp.cos(angle), modulus * jnp.sin(angle)
        if isinstance(given, Tracer):
            return jnp.real(given), jnp.imag(given)
        if not isinstance(given, complex | np.complexfloating) and not jnp.iscomplexobj(given):
            return number("Momentum", "beta", given, -1, 1), 0.0
        value = complex(given)
        number("Momentum", "the modulus of beta", abs(value), 0, 1)
        return value.real, value.imag

    def is_real(self) -> bool:
        """Whether it is heavy ball, with one memory instead of two."""
        given: Any = self.beta
        plain = not isinstance(given, tuple) and not jnp.iscomplexobj(given)
        return plain and isinstance(self.phase, float | int) and self.phase == 0

    def recurrence(self) -> tuple[jax.Array, jax.Array]:
        """M and b of `(m, x)` where `is_real()`, else of `(Re m, Im m, x)`."""
        re, im = self.decay()
        if self.is_real():
            return _matrix([[re, 0], [-self.rate * re, 1]]), _matrix([1, -self.rate])
        cosine, sine = self.rate * jnp.cos(self.phase), self.rate * jnp.sin(self.phase)
        last = [-(cosine * re - sine * im), cosine * im + sine * re, 1]
        return _matrix([[re, -im, 0], [im, re, 0], last]), _matrix([1, 0, -cosine])


@dataclasses.dataclass(frozen=True)
class Nesterov:
    """m+ = beta m + g, x+ = x - rate (g + beta m+): `optax.sgd(rate, beta, nesterov=True)`.

    Args:
        rate: learning rate, at least 0; may be traced.
        beta: the decay, a real number with |beta| <= 1; may be traced.

    Raises:
        ValueError: |beta| above 1, a negative rate, a number that is not finite.

    Source: Sutskever et al., "On the Importance of Initialization and Momentum in Deep Learning"
    (2013), equations (3) and (4), in the variables of optax.
    """

    rate: Any
    beta: Any

    def __post_init__(self) -> None:
        number("Nesterov", "rate", self.rate, 0)
        number("Nesterov", "beta", self.beta, -1, 1)

    def recurrence(self) -> tuple[jax.Array, jax.Array]:
        """M and b of `(m, x)`."""
        rate, beta = self.rate, self.beta
        return _matrix([[beta, 0], [-rate * beta**2, 1]]), _matrix([1, -rate * (1 + beta)])


@dataclasses.dataclass(frozen=True)
class Optimistic:
    """x+ = x - rate ((1 + correction) g - correction g_before): OGDA.

    `optax.optimistic_gradient_descent(rate, beta=correction)`, whose first step is plain descent
    with its own size; these are the dynamics from the second step on.

    Args:
        rate: learning rate, at least 0; may be traced.
        correction: how far the change of the gradient is continued; 1 is OGDA.

    Raises:
        ValueError: a negative rate, a number that is not finite.

    Source: Mokhtari, Ozdaglar and Pattathil, "A Unified Analysis of Extra-Gradient and Optimistic
    Gradient Methods for Saddle Point Problems" (2020), equation (8).
    """

    rate: Any
    correction: Any = 1.0

    def __post_init__(self) -> None:
        number("Optimistic", "rate", self.rate, 0)
        number("Optimistic", "correction", self.correction)

    def recurrence(self) -> tuple[jax.Array, jax.Array]:
        """M and b of `(the previous gradient, x)`."""
        rate, extra = self.rate, self.correction
        return _matrix([[0, 0], [rate * extra, 1]]), _matrix([1, -rate * (1 + extra)])


@dataclasses.dataclass(frozen=True)
class Extragradient:
    """x' = x - extrapolation g(x), x+ = x - rate g(x'): two gradients a step, all players at once.

    Args:
        rate: learning rate, at least 0; may be traced.
        extrapolation: learning rate of the first half. None: `rate`.

    Raises:
        ValueError: a negative rate, a number that is not finite.

    Source: Korpelevich, "The Extragradient Method for Finding Saddle Points" (1976).
    """

    rate: Any
    extrapolation: Any = None

    def __post_init__(self) -> None:
        number("Extragradient", "rate", self.rate, 0)
        if self.extrapolation is not None:
            number("Extragradient", "extrapolation", self.extrapolation, 0)

    def rates(self) -> tuple[Any, Any]:
        """The learning rates of the first and of the second half."""
        first = self.rate if self.extrapolation is None else self.extrapolation
        return first, self.rate


Method = GradientDescent | Momentum | Nesterov | Optimistic | Extragradient


def _matrix(entries: list) -> jax.Array:
    rows = [_matrix(row) if isinstance(row, list) else jnp.asarray(row) for row in entries]
    dtype = jnp.result_type(float, *rows)
    return jnp.stack([row.astype(dtype) for row in rows])
