"""Perceptrons per parameter in few passes over a tensor, without its features in memory.

The plain form stacks all features of a tensor, 39 times its memory. Here one pass over the tensor
sums the squares of all features, and one evaluates the perceptron. Factors that are one number per
tensor go into the first layer's weights, and features that are one number per row or column are
multiplied by their weights before they are broadcast. Derivatives use the plain form, where those
of all weights are a few products of matrices.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .features import UNIT, Statistics, multiplied, over_tensor, variances

CHUNK = 512  # at most so many squares are added one after the other
FEW = 1024  # weights up to which all multiplications are written out


def either(plain: Callable[..., Any], fast: Callable[..., Any], layers: Any, *more: Any) -> Any:
    """What `plain` returns, computed by `fast`. Derivatives are those of `plain`.

    Args:
        plain: a function of the layers and the other arguments.
        fast: the same function, computed differently; not used for perceptrons of more than 1,024
            weights, which it would take long to compile.
        layers: of the perceptron.
        *more: pytrees; nothing that is differentiated may enter otherwise.
    """
    if sum(layer["w"].size for layer in layers) > FEW:
        return plain(layers, *more)
    chosen = jax.custom_jvp(fast)
    chosen.defjvp(lambda values, tangents: jax.jvp(plain, values, tangents))
    return chosen(layers, *more)


class Term(NamedTuple):
    """A feature as a product.

    Attributes:
        base: an array that several features may have in common.
        factor: what it is multiplied by; None: 1.
    """

    base: Array
    factor: Array | None = None


def features(
    state: Statistics, gradient: Array, param: Array, *, clipped: bool = False
) -> tuple[list[Term], Callable[[Any], Array]]:
    """The features of `tensor_features`, one by one, and what they are multiplied by.

    Args:
        state: accumulators after this gradient.
        gradient: of the tensor.
        param: the tensor.
        clipped: as there.

    Returns:
        (features, factors): arrays with axes of size 1 where they do not change, and a function of
        eps to one over the root of eps plus each mean square.
    """
    seen, second = variances(state, gradient.shape), state.second.reshape(param.shape)
    # This is 1e-6. If it were a constant, XLA would take the root in the accumulator's shape, once,
    # and keep it in memory.
    eps = jnp.maximum(-seen.row[0], 1e-6)
    moments, root, inverse = [*state.momentum], jax.lax.rsqrt(second + eps), 1 / (second + 1e-6)
    # Products of rows and columns are made for each decay by itself: XLA would keep a stack of them
    # in memory, which has the size of several tensors.
    by_gradient, by_momentum = (
        [multiplied([jax.lax.rsqrt(x)[k] for x in factors]) for k in range(len(factors[0]))]
        for factors in (seen.gradient, seen.momentum)
    )
    stacks = [seen.row, seen.column]
    small = [x for stack in [*stacks, *(jax.lax.rsqrt(s + 1e-8) for s in stacks)] for x in stack]
    found = [
        *(Term(x) for x in (gradient, param, *moments, second)),
        *(Term(m, root) for m in moments),
        Term(root),
        *(Term(gradient, scale) for scale in by_gradient),
        *map(Term, small),
        *(Term(m, scale) for m, scale in zip(moments, by_momentum, strict=True)),
    ]
    # Products of squares instead of squares of products: no root is needed, and each square of a
    # momentum is used three times.
    over_gradient, over_momentum = (
        [multiplied([(1 / x)[k] for x in factors]) for k in range(len(factors[0]))]
        for factors in (seen.gradient, seen.momentum)
    )
    g, squares = jnp.square(gradient), [jnp.square(m) for m in moments]
    summed = [
        *(g, jnp.square(param), *squares, second * (UNIT**2 * second)),
        *(m * inverse for m in squares),
        inverse,
        *(g * scale for scale in over_gradient),
        *(m * scale for m, scale in zip(squares, over_momentum, strict=True)),
    ]
    if clipped:
        bound = jnp.clip(gradient, -0.1, 0.1)
        found += [Term(bound), Term(gradient, root)]
        summed += [jnp.square(bound), g * inverse]

    def factors(eps: Any) -> Array:
        means = sums(summed) / param.size
        # The second moment's square is summed in another unit, for it may leave float32's range.
        units = jnp.ones_like(means).at[5].set(UNIT)
        full = units / jnp.sqrt(units**2 * eps + means)
        rest = [jnp.ravel(over_tensor(x[None], eps)) for x in small]
        return jnp.concatenate([full[:13], *rest, full[13:]])

    return found, factors


def sums(arrays: Sequence[Array]) -> Array:
    """The sum of each array, all of one shape, in one pass."""
    shape = arrays[0].shape
    if not shape:
        return jnp.stack(arrays)
    last = shape[-1]
    chunk = max(size for size in range(1, CHUNK + 1) if last % size == 0)
    if chunk >= 16:
        arrays = [x.reshape(*shape[:-1], last // chunk, chunk) for x in arrays]
    axes, size = [], 1
    for axis in reversed(range(arrays[0].ndim)):
        if size >= 16:
            break
        axes, size = [axis, *axes], size * arrays[0].shape[axis]

    def added(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(x + y for x, y in zip(a, b, strict=True))

    zero = jnp.zeros((), arrays[0].dtype)
    partial = jax.lax.reduce(tuple(arrays), (zero,) * len(arrays), added, tuple(axes))
    return jnp.stack([jnp.sum(x) for x in partial])


def answers(layers: Sequence[dict[str, Array]], features: Sequence[Term]) -> list[Array]:
    """The perceptron's outputs, each of the tensor's shape.

    Args:
        layers: as for `perceptron.applied`.
        features: the inputs, with axes of size 1 where they do not change.
    """
    shape = jnp.broadcast_shapes(*(term.base.shape for term in features))
    first, *rest = layers
    small: dict[tuple[int, ...], list[int]] = {}
    full: dict[int, list[int]] = {}
    for index, term in enumerate(features):
        if term.base.shape == shape:
            full.setdefault(id(term.base), []).append(index)
        else:
            small.setdefault(term.base.shape, []).append(index)
    shared = [
        jnp.tensordot(
            first["w"][jnp.asarray(some)].T, jnp.stack([features[i].base for i in some]), 1
        )
        for some in small.values()
    ]
    hidden = []
    for unit, bias in enumerate(first["b"]):
        value = jnp.broadcast_to(bias, shape)
        for x in shared:
            value = value + x[unit]
        for some in full.values():
            coefficient = jnp.zeros((), value.dtype)
            for index in some:
                weight, factor = first["w"][index, unit], features[index].factor
                coefficient += weight if factor is None else weight * factor
            value += features[some[0]].base * coefficient
        hidden.append(value)
    for layer in rest:
        seen, hidden = [jax.nn.relu(x) for x in hidden], []
        for column, bias in zip(layer["w"].T, layer["b"], strict=True):
            value = jnp.broadcast_to(bias, shape)
            for x, weight in zip(seen, column, strict=True):
                value += x * weight
            hidden.append(value)
    return hidden
