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
    """State of `complex_momentum`: the momentum `m = -mu`, float32 at least.

    Attributes:
        real: its real part, shaped like the parameters.
        imaginary: its imaginary part, shaped like the parameters. No gradient is added to it.
    """

    real: PyTree
    imaginary: PyTree


class ComplexAdamState(NamedTuple):
    """State of `complex_adam`.

    Attributes:
        count: updates so far, int32.
        real: the real part of the momentum, shaped like the parameters.
        imaginary: its imaginary part.
        second: sqrt(v), the root of the second moment: it neither underflows nor overflows where
            v would.
    """

    count: Array
    real: PyTree
    imaginary: PyTree
    second: PyTree


def complex_momentum(
    learning_rate: Rate, beta: Complex, *, phase: Scalar = 0.0
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum whose decay is a complex number: for games, in which gradients rotate.

        m+ = beta m + g,    w+ = w - learning_rate Re(e^{i phase} m+)
           = w - learning_rate sum_k |beta|^k cos(k arg beta + phase) g_{t-k}

    The weights of past gradients oscillate instead of decaying. On a bilinear game whose players
    move at the same time, no real decay converges at any learning rate; some complex ones do. A
    constant gradient is amplified by Re 1 / (1 - beta), which is less than 1 / (1 - |beta|):
    compare optimizers at equal products of learning rate and amplification. A real beta is
    `optax.sgd(learning_rate, momentum=beta)`.

    Args:
        learning_rate: modulus of the complex learning rate alpha; a float or an optax schedule.
        beta: the decay, a number with |beta| <= 1; or the pair (modulus, argument in radians),
            which needs no complex array if the two are traced (`optax.inject_hyperparams`, `vmap`).
        phase: argument of alpha, in radians. The newest gradient has the weight cos(phase).

    Returns:
        An optax transformation; its state contains a `ComplexMomentumState`. Extra arguments are
        ignored.

    Raises:
        ValueError: |beta| above 1, a negative modulus, a number that is not finite; parameters or
            gradients that are not floating-point or complex arrays.

    Source: Lorraine, Acuna, Vicol and Duvenaud, "Complex Momentum for Optimization in Games"
    (2022), SimCM and its closed form. AltCM is the same with players that move in turn.

    Example:
        Two players of the game x y, who move at the same time, reach its equilibrium (0, 0):

        ```python
        optimizer = nx.optim.complex_momentum(0.1, (0.8, 0.4))  # 0.8 exp(0.4 i)
        players = jnp.array([1.0, 1.0])
        state = optimizer.init(players)

        @jax.jit
        def move(_, carry):
            players, state = carry
            gradient = jnp.array([players[1], -players[0]])
            updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(players, updates), state

        players, state = jax.lax.fori_loop(0, 500, move, (players, state))
        print(jnp.abs(players).max() < 1e-3)  # True
        ```
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

    Re is the real part of the momentum. If parameters are complex, their real and imaginary parts
    have a momentum each and share |g|^2.

    A constant gradient makes steps of `learning_rate * Re 1 / (1 - beta1)`: 1.61 learning rates for
    0.8 e^{i pi / 8}, 5 for 0.8, and 1 for `optax.adam`. Compare optimizers at equal products.

    Args:
        learning_rate: a float or an optax schedule.
        beta1: a number, |beta1| <= 1, or the pair (modulus, argument in radians).
        beta2: decay of the second moment, in [0, 1).
        eps: added to the root, at least 0.
        eps_root: added under the root. It bounds the derivatives of the update, which may be as
            large as 1 / eps without it if a gradient is 0.

    Returns:
        An optax transformation; its state contains a `ComplexAdamState`. Extra arguments are
        ignored.

    Raises:
        ValueError: an argument outside the ranges above; parameters or gradients that are not
            floating-point or complex arrays.

    Source: Lorraine, Acuna, Vicol and Duvenaud, "Complex Momentum for Optimization in Games"
    (2022), complex Adam.
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
