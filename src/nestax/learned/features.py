"""What learned rules see of one tensor: accumulators of its gradients, and features made of them.

Accumulators have a leading axis over their decays. The factored ones are those of Adafactor: means
of squared gradients over one of the two largest axes. Tensors with less than two axes have a full
second moment in their place.

Source: Metz et al., "Practical tradeoffs between memory, compute, and performance in learned
optimizers" (2022), and the formulas of its published implementation; Shazeer and Stern, "Adafactor"
(2018).
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

TIMESCALES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
LARGEST = 1e10  # of a gradient: beyond it the square of its square leaves float32
UNIT = 2.0**-20  # a scale on which that square and that of 1e-10 are both in float32's range


class Statistics(NamedTuple):
    """Accumulators of one tensor, each with a leading axis over its decays.

    Attributes:
        momentum: averages of the gradient.
        second: averages of the squared gradient.
        row: averages of its mean over the largest axis; None for vectors.
        column: averages of its mean over the second largest axis; None for vectors.
        full: averages of the squared gradient of scalars and vectors, else None.
    """

    momentum: Array
    second: Array
    row: Any
    column: Any
    full: Any


class Decays(NamedTuple):
    """One decay for each accumulator of a kind, in [0, 1]; `momentum` may lie outside.

    Attributes:
        momentum: of averages of the gradient.
        second: of averages of its square.
        factored: of the factored second moments.
    """

    momentum: Array
    second: Array
    factored: Array


def bounded(gradient: Array) -> Array:
    """The gradient within ±1e10, so that no feature of it overflows in float32."""
    return jnp.clip(gradient, -LARGEST, LARGEST)


def factored_axes(shape: Sequence[int]) -> tuple[int, int] | None:
    """(second largest axis, largest axis); of axes of one size the later counts as larger.

    Args:
        shape: of the tensor.

    Returns:
        The two axes, or None for scalars and vectors.
    """
    if len(shape) < 2:
        return None
    *_, second, first = sorted(range(len(shape)), key=lambda axis: (shape[axis], axis))
    return second, first


def decayed(initial: Sequence[float], offset: Any) -> Array:
    """Decays as they are meta-learned: `1 - exp(10 (log(1 - initial) / 10 + offset))`."""
    return 1 - (1 - jnp.asarray(initial, offset.dtype)) * jnp.exp(10 * offset)


def begin(param: Array, momenta: int, seconds: int, factored: int) -> Statistics:
    """Accumulators of zeros.

    Args:
        param: the tensor.
        momenta: number of averages of the gradient.
        seconds: number of averages of its square.
        factored: number of factored second moments.
    """

    def zeros(count: int, shape: Sequence[int]) -> Array:
        return jnp.zeros((count, *shape), param.dtype)

    axes, shape = factored_axes(param.shape), param.shape
    row = column = full = None
    if axes is None:
        full = zeros(factored, shape)
    else:
        d1, d0 = axes
        row, column = (zeros(factored, _without(shape, axis)) for axis in (d0, d1))
    return Statistics(zeros(momenta, shape), zeros(seconds, shape), row, column, full)


def accumulated(state: Statistics, gradient: Array, decays: Decays) -> Statistics:
    """Accumulators after one more gradient.

    Args:
        state: accumulators so far.
        gradient: of the tensor; it is bounded here.
        decays: of the accumulators; those of second moments are clipped to [0, 1].
    """

    raw, gradient = gradient, bounded(gradient)
    square = jnp.square(gradient)
    second, factored = (jnp.clip(d, 0, 1) for d in (decays.second, decays.factored))
    axes, row, column, full = factored_axes(gradient.shape), state.row, state.column, state.full
    if axes is None:
        full = averaged(full, square + 1e-30, factored)
    else:
        # The gradient is bounded once more, in two other units: XLA would keep clipped numbers, or
        # what has two uses, in memory before a reduction. Without the barrier it would take the
        # means once for each decay.
        means = [
            jnp.mean(jnp.square(jnp.minimum(jnp.abs(unit * raw), unit * LARGEST)), axis) / unit**2
            for unit, axis in zip((0.5, 2.0), axes[::-1], strict=True)
        ]
        rows, columns = jax.lax.optimization_barrier(means)
        row, column = (
            averaged(row, rows + 1e-30, factored),
            averaged(column, columns + 1e-30, factored),
        )
    return Statistics(
        averaged(state.momentum, gradient, decays.momentum),
        averaged(state.second, square, second),
        row,
        column,
        full,
    )


def averaged(old: Array, new: Array, decays: Array) -> Array:
    """`decay old + (1 - decay) new` for each decay, which `old` has a leading axis over."""
    decays = decays.reshape(-1, *[1] * new.ndim)
    return decays * old + (1 - decays) * new[None]


class Variances(NamedTuple):
    """What the factored accumulators say of each parameter; axes of size 1 where it is the same.

    Attributes:
        row: the second moment over rows, with a leading axis over decays.
        column: the second moment over columns, with a leading axis over decays.
        gradient: positive factors; the Adafactor feature of the gradient is divided by their roots.
        momentum: positive factors; those of momenta are divided by their roots.
    """

    row: Array
    column: Array
    gradient: tuple[Array, ...]
    momentum: tuple[Array, ...]


def variances(state: Statistics, shape: Sequence[int]) -> Variances:
    """The factored second moments in axes of the tensor.

    Args:
        state: accumulators.
        shape: of the tensor.
    """
    axes = factored_axes(shape)
    if axes is None:
        full = state.full
        return Variances(full, full, (full + 1e-9,), (full + 1e-6,))
    d1, d0 = axes
    row, column = jnp.expand_dims(state.row, 1 + d0), jnp.expand_dims(state.column, 1 + d1)
    mean = jnp.mean(row, axis=1 + d1, keepdims=True)
    factors = (jnp.maximum(row / (mean + 1e-9), 1e-9), jnp.maximum(column, 1e-9))
    return Variances(row, column, factors, factors)


def multiplied(factors: Sequence[Array]) -> Array:
    """The product."""
    return functools.reduce(operator.mul, factors)


def tensor_features(
    state: Statistics, gradient: Array, param: Array, *, clipped: bool = False
) -> list[Array]:
    """Features of each parameter, before they are normalized, each with a leading axis.

    Args:
        state: accumulators after this gradient.
        gradient: of the tensor.
        param: the tensor.
        clipped: whether `clip(g, -0.1, 0.1)` and `g / sqrt(v + 1e-6)` follow.

    Returns:
        g; p; momenta m; second moments v; m / sqrt(v + 1e-6); 1 / sqrt(v + 1e-6); g by Adafactor;
        row; column; 1 / sqrt(row + 1e-8); 1 / sqrt(column + 1e-8); m by Adafactor: with three
        momenta, one second moment and three factored ones 28 in all. Those of rows and columns
        have axes of size 1.
    """
    root = jax.lax.rsqrt(state.second + 1e-6)
    seen = variances(state, gradient.shape)
    g, m = gradient[None], state.momentum
    found = [
        g,
        param[None],
        m,
        state.second,
        m * root,
        root,
        g * multiplied([jax.lax.rsqrt(x) for x in seen.gradient]),
        seen.row,
        seen.column,
        jax.lax.rsqrt(seen.row + 1e-8),
        jax.lax.rsqrt(seen.column + 1e-8),
        m * multiplied([jax.lax.rsqrt(x) for x in seen.momentum]),
    ]
    return [*found, jnp.clip(g, -0.1, 0.1), g * root] if clipped else found


def over_tensor(feature: Array, eps: Any = 1e-5) -> Array:
    """`1 / sqrt(eps + mean(x^2))` of each feature, with the mean over the tensor.

    Args:
        feature: with a leading axis that the mean does not include.
        eps: added to the mean square; at least 1e-24.
    """
    axes = tuple(range(1, feature.ndim))
    mean = jnp.mean(jnp.square(UNIT * feature), axis=axes, keepdims=True)
    # A quotient, not rsqrt, whose derivative overflows where the mean is 0 and eps is small.
    return UNIT / jnp.sqrt(UNIT**2 * eps + mean)


def clock(count: Array, dtype: Any = jnp.float32) -> Array:
    """The 11 features of the number of updates so far, `tanh(count / tau - 1)`."""
    scaled = count.astype(dtype)[None] / jnp.asarray(TIMESCALES, dtype)
    return jnp.tanh(scaled - 1)


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])
