"""Momentum with a complex decay: for games, in which gradients go round instead of down.

Source: Lorraine, Acuna, Vicol and Duvenaud, "Complex Momentum for Optimization in Games" (2022),

    mu+ = beta mu - g,    w+ = w + Re(alpha mu+),    beta complex,

of which only the real part is ever seen. Written out, the gradient of k steps ago has the weight
`|beta|^k cos(k arg beta)`: neither only positive (`arg beta = 0`, heavy ball) nor of alternating
sign (`arg beta = pi`, negative momentum). On a bilinear game whose players move simultaneously
neither of those converges at any learning rate; something between them does.

Buffers hold `m = -mu`, so that the real one is what `optax.trace` would hold, and are a pair of
real trees: complex numbers are not sharded, stored and differentiated everywhere as real ones are.
"""

import cmath
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ._descent import square_root

Scalar = float | int | Array
Complex = complex | float | int | np.number | Array | tuple[Scalar, Scalar]


class ComplexMomentumState(NamedTuple):
    """The momentum `m = -mu`, like the parameters, in float32 at least."""

    real: PyTree
    imaginary: PyTree  # made of the real part only: no gradient is added to it


class ComplexAdamState(NamedTuple):
    """As in `ComplexMomentumState`, with the second moment and the number of updates so far."""

    count: Array
    real: PyTree
    imaginary: PyTree
    second: PyTree


def complex_momentum(
    learning_rate: optax.ScalarOrSchedule, beta: Complex, *, phase: Scalar = 0.0
) -> optax.GradientTransformationExtraArgs:
    r"""Complex momentum (SimCM, or AltCM where players move one after another).

        m+ = beta m + g,    w+ = w - learning_rate Re(e^{i phase} m+)
           = w - learning_rate sum_k |beta|^k cos(k arg beta + phase) g_{t-k}

    `complex_momentum(0.1, 0.9 * cmath.exp(1j * cmath.pi / 8))`: a steady gradient is amplified by
    Re 1 / (1 - beta), which is less than 1 / (1 - |beta|); compare optimizers at equal products.
    A real beta is `optax.sgd(learning_rate, momentum=beta)`.

    Args:
        learning_rate: modulus of the complex learning rate alpha; a float or an optax schedule.
        beta: a number, |beta| <= 1; or the pair (modulus, argument in radians), for which no
            complex array is needed where the two are traced (`optax.inject_hyperparams`, `vmap`).
        phase: argument of alpha, in radians. Not 0, the newest gradient counts cos(phase) only.

    Returns:
        A transformation; state: `ComplexMomentumState`. Extra arguments are ignored. Each tensor is
        remembered alone, so what a game's players share is nothing but the order of their updates.

    Raises:
        ValueError: |beta| above 1, or a negative modulus.

    Source: Complex Momentum for Optimization in Games (2022), SimCM and its closed form.
    """
    re, im = _parts("complex_momentum", "beta", beta)

    def init(params: PyTree) -> ComplexMomentumState:
        return ComplexMomentumState(_zeros(params), _zeros(params))

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, ComplexMomentumState]:
        del params, extra
        real, imaginary = _remember(updates, state.real, state.imaginary, re, im)
        seen = _seen(real, imaginary, phase)
        said = jax.tree.map(lambda m, g: m.astype(g.dtype), seen, updates)
        return said, ComplexMomentumState(real, imaginary)

    memory = optax.GradientTransformationExtraArgs(init, update)
    return optax.chain(memory, optax.scale_by_learning_rate(learning_rate))


def complex_adam(
    learning_rate: optax.ScalarOrSchedule,
    beta1: Complex,
    beta2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    eps_root: Scalar = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam whose first moment decays by a complex number.

        m+ = beta1 m + g                           (no factor 1 - beta1, no bias correction)
        v+ = beta2 v + (1 - beta2) g^2,    v^ = v+ / (1 - beta2^t)
        w+ = w - learning_rate Re(m+) / (sqrt(v^ + eps_root) + eps)

    A steady gradient makes steps of learning_rate Re 1 / (1 - beta1): 1.61 for 0.8 e^{i pi / 8}
    where 0.8 gives 5, and `optax.adam` 1. Compare at equal products.

    Args:
        learning_rate: a float or an optax schedule.
        beta1: a number, |beta1| <= 1, or the pair (modulus, argument in radians).
        beta2: decay of the second moment, in [0, 1).
        eps: added to the root, at least 0.
        eps_root: added under the root. Where the update is differentiated it bounds derivatives,
            which may be as large as 1 / eps without it where a gradient is 0.

    Returns:
        A transformation; state: `ComplexAdamState`. Extra arguments are ignored.

    Raises:
        ValueError: an argument outside the ranges above.

    Source: Complex Momentum for Optimization in Games (2022), complex Adam.
    """
    re, im = _parts("complex_adam", "beta1", beta1)
    for name, value, high in (
        ("beta2", beta2, 1),
        ("eps", eps, math.inf),
        ("eps_root", eps_root, math.inf),
    ):
        if isinstance(value, (int, float)) and not 0 <= value < high:
            raise ValueError(f"complex_adam: {name} must be in [0, {high}), got {value}")

    def init(params: PyTree) -> ComplexAdamState:
        zeros = [_zeros(params) for _ in range(3)]
        return ComplexAdamState(jnp.zeros((), jnp.int32), *zeros)

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, ComplexAdamState]:
        del params, extra
        count = jnp.asarray(optax.safe_increment(state.count))
        real, imaginary = _remember(updates, state.real, state.imaginary, re, im)

        def average(v: Array, g: Array) -> Array:
            return (beta2 * v + (1 - beta2) * jnp.square(g.astype(v.dtype))).astype(v.dtype)

        def step(m: Array, v: Array, g: Array) -> Array:
            corrected = v / (1 - beta2 ** count.astype(v.dtype))
            return (m / (square_root(corrected + eps_root) + eps)).astype(g.dtype)

        second = jax.tree.map(average, state.second, updates)
        said = jax.tree.map(step, real, second, updates)
        return said, ComplexAdamState(count, real, imaginary, second)

    memory = optax.GradientTransformationExtraArgs(init, update)
    return optax.chain(memory, optax.scale_by_learning_rate(learning_rate))


def _zeros(params: PyTree) -> PyTree:
    return jax.tree.map(
        lambda p: jnp.zeros_like(p, dtype=jnp.promote_types(p.dtype, jnp.float32)), params
    )


def _remember(
    gradients: PyTree, real: PyTree, imaginary: PyTree, re: Scalar, im: Scalar
) -> tuple[PyTree, PyTree]:
    """beta m + g, in its two parts."""

    # A traced beta may be of more precision than a buffer, whose dtype must not change.
    def real_part(a: Array, b: Array, g: Array) -> Array:
        return (re * a - im * b).astype(a.dtype) + g.astype(a.dtype)

    def imaginary_part(a: Array, b: Array) -> Array:
        return (im * a + re * b).astype(b.dtype)

    return (
        jax.tree.map(real_part, real, imaginary, gradients),
        jax.tree.map(imaginary_part, real, imaginary),
    )


def _seen(real: PyTree, imaginary: PyTree, phase: Scalar) -> PyTree:
    """Re(e^{i phase} m)."""
    if isinstance(phase, (int, float)):
        if phase == 0:
            return real
        cosine, sine = math.cos(phase), math.sin(phase)
    else:
        cosine, sine = jnp.cos(phase), jnp.sin(phase)
    return jax.tree.map(lambda a, b: cosine * a - sine * b, real, imaginary)


def _parts(function: str, argument: str, beta: Complex) -> tuple[Scalar, Scalar]:
    """The real and the imaginary part; of what is traced there is no value to check."""
    known: Any = (int, float, np.number, np.ndarray)
    given: Any = beta
    if isinstance(given, tuple):
        modulus, angle = given
        if not (isinstance(modulus, known) and isinstance(angle, known)):
            return modulus * jnp.cos(angle), modulus * jnp.sin(angle)
        if modulus < 0:
            raise ValueError(
                f"{function}: {argument} is (modulus, argument) with a modulus of at least 0, got "
                f"{given}; for a negative factor add pi to the argument"
            )
        given = cmath.rect(modulus, angle)
    elif isinstance(given, jax.Array):
        return jnp.real(given), jnp.imag(given)
    value = complex(given)
    # e^{ix} may be longer than 1 by a rounding.
    if not abs(value) <= 1 + 1e-12:
        raise ValueError(
            f"{function}: {argument} must have a modulus of at most 1, or the momentum grows "
            f"without a gradient; got {beta} of modulus {abs(value):.4g}"
        )
    return value.real, value.imag
