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
import optax
from jax.core import Tracer
from jaxtyping import Array, PyTree

from ._checks import Rate, Scalar, is_number, number, rate
from ._descent import square_root
from ._moments import rooted
from ._precision import guarded

Complex = complex | Scalar | tuple[Scalar, Scalar]


class ComplexMomentumState(NamedTuple):
    """The momentum `m = -mu`, like the parameters, in float32 at least."""

    real: PyTree
    imaginary: PyTree  # made of the real part only: no gradient is added to it


class ComplexAdamState(NamedTuple):
    """As in `ComplexMomentumState`, with the number of updates so far and the second moment's root,
    which neither underflows nor overflows where a square would."""

    count: Array
    real: PyTree
    imaginary: PyTree
    second: PyTree  # sqrt(v), real


def complex_momentum(
    learning_rate: Rate, beta: Complex, *, phase: Scalar = 0.0
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
        ValueError: |beta| above 1, a negative modulus, a number that is not finite; parameters or
            gradients that are no floating-point or complex arrays.

    Source: Complex Momentum for Optimization in Games (2022), SimCM and its closed form.
    """
    name = "complex_momentum"
    re, im = _parts(name, "beta", beta)
    phase = number(name, "phase", phase, -math.inf)

    def init(params: PyTree) -> ComplexMomentumState:
        return ComplexMomentumState(_zeros(params), _zeros(params))

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, ComplexMomentumState]:
        del params, extra
        real, imaginary = _remember(updates, state.real, state.imaginary, re, im)
        return _seen(real, imaginary, phase), ComplexMomentumState(real, imaginary)

    memory = optax.GradientTransformationExtraArgs(init, update)
    step = optax.scale_by_learning_rate(rate(name, learning_rate))
    return guarded(name, optax.chain(memory, step), complex_numbers=True)


def complex_adam(
    learning_rate: Rate,
    beta1: Complex,
    beta2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    eps_root: Scalar = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam whose first moment decays by a complex number.

        m+ = beta1 m + g                           (no factor 1 - beta1, no bias correction)
        v+ = beta2 v + (1 - beta2) |g|^2,  v^ = v+ / (1 - beta2^t)
        w+ = w - learning_rate Re(m+) / (sqrt(v^ + eps_root) + eps)

    Re is the real one of the momentum's own two parts. Where parameters are complex, their real and
    imaginary parts have a momentum each and share |g|^2.

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
        ValueError: an argument outside the ranges above; parameters as in `complex_momentum`.

    Source: Complex Momentum for Optimization in Games (2022), complex Adam.
    """
    name = "complex_adam"
    re, im = _parts(name, "beta1", beta1)
    beta2 = number(name, "beta2", beta2, 0, 1, below=True)
    eps, eps_root = number(name, "eps", eps), number(name, "eps_root", eps_root)

    def init(params: PyTree) -> ComplexAdamState:
        second = jax.tree.map(lambda p: jnp.zeros_like(p.real), params)
        count = jnp.zeros((), jnp.int32)
        return ComplexAdamState(count, _zeros(params), _zeros(params), second)

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, ComplexAdamState]:
        del params, extra
        count = jnp.asarray(optax.safe_increment(state.count))
        real, imaginary = _remember(updates, state.real, state.imaginary, re, im)
        second = jax.tree.map(lambda v, g: rooted(beta2, v, 1 - beta2, g), state.second, updates)

        def step(m: Array, v: Array) -> Array:
            corrected = v / jnp.sqrt(1 - beta2 ** count.astype(v.dtype))
            return m / (_lifted(corrected, eps_root) + eps)

        return jax.tree.map(step, real, second), ComplexAdamState(count, real, imaginary, second)

    memory = optax.GradientTransformationExtraArgs(init, update)
    step = optax.scale_by_learning_rate(rate(name, learning_rate))
    return guarded(name, optax.chain(memory, step), complex_numbers=True)


def _lifted(root: Array, under: Scalar) -> Array:
    """sqrt(root^2 + under), whose square does not overflow."""
    if isinstance(under, float) and under == 0:
        return root
    top = jax.lax.stop_gradient(jnp.maximum(root, 1))
    return top * square_root(jnp.square(root / top) + under / top / top)


def _zeros(params: PyTree) -> PyTree:
    return jax.tree.map(jnp.zeros_like, params)


def _remember(
    gradients: PyTree, real: PyTree, imaginary: PyTree, re: Scalar, im: Scalar
) -> tuple[PyTree, PyTree]:
    """beta m + g, in its two parts, each of which is complex where the gradient is."""
    return (
        jax.tree.map(lambda a, b, g: re * a - im * b + g, real, imaginary, gradients),
        jax.tree.map(lambda a, b: im * a + re * b, real, imaginary),
    )


def _seen(real: PyTree, imaginary: PyTree, phase: Scalar) -> PyTree:
    """Re(e^{i phase} m)."""
    if isinstance(phase, float):
        if phase == 0:
            return real
        cosine, sine = math.cos(phase), math.sin(phase)
    else:
        cosine, sine = jnp.cos(phase), jnp.sin(phase)
    return jax.tree.map(lambda a, b: cosine * a - sine * b, real, imaginary)


def _parts(name: str, argument: str, beta: Any) -> tuple[Scalar, Scalar]:
    """The real and the imaginary part; of what is traced there is no value to check."""
    given: Any = beta
    if isinstance(given, tuple):
        if len(given) != 2:
            raise ValueError(
                f"{name}: {argument} must be one number, or (modulus, argument), got {given}"
            )
        modulus = number(name, f"the modulus of {argument}", given[0], -math.inf)
        angle = number(name, f"the argument of {argument}", given[1], -math.inf)
        if isinstance(modulus, float) and modulus < 0:
            raise ValueError(
                f"{name}: {argument} is (modulus, argument) with a modulus of at least 0, got "
                f"{beta}; for a negative factor add pi to the argument"
            )
        if not (isinstance(modulus, float) and isinstance(angle, float)):
            if isinstance(modulus, float):
                _check_modulus(name, argument, beta, modulus)
            return modulus * jnp.cos(angle), modulus * jnp.sin(angle)
        given = cmath.rect(modulus, angle)
    elif isinstance(given, Tracer):
        if not jnp.iscomplexobj(given):
            given = number(name, argument, given)
        return jnp.real(given), jnp.imag(given)
    elif not is_number(given):
        raise ValueError(
            f"{name}: {argument} must be one number, or (modulus, argument), got {given!r:.60}"
        )
    value = complex(given)
    _check_modulus(name, argument, beta, abs(value))
    return value.real, value.imag


def _check_modulus(name: str, argument: str, beta: Any, modulus: float) -> None:
    # e^{ix} may be longer than 1 by a rounding.
    if not modulus <= 1 + 1e-12:
        raise ValueError(
            f"{name}: {argument} must have a modulus of at most 1, or the momentum grows "
            f"without a gradient; got {beta} of modulus {modulus:.4g}"
        )
