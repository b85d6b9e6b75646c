"""Gradients that are cheap to differentiate in a loop: of each step only the point is kept.

As the Hessian of a loss in (value, rest) is symmetric, the pullback of u through the gradient with
respect to `value` is one jvp of the full gradient in the direction (u, 0). Source: Kemaev et al.,
"Scalable meta-learning via mixed-mode differentiation" (ICML 2025), equation (7).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ._hoist import has_reverse_only_rule, hoist, is_inexact, is_pushing_forward


def lean_gradient(loss: Callable) -> Callable:
    """`jax.value_and_grad(loss, has_aux=True)` that is cheap to differentiate in a loop.

    Differentiating a loop of plain gradients stores each step's activations and the second-order
    residuals; this stores of each step only the arguments. The backward pass recomputes the
    gradient and its derivative by forward over reverse; where `loss` itself contains a
    `custom_vjp` (an implicit level inside), by reverse over reverse, since such a rule has no
    forward mode.

    The result differentiates in reverse mode any number of times, in `value`, `rest`, `data` and
    everything that `loss` closes over; it has no forward mode of its own.

    Args:
        loss: (value, rest, data) -> (scalar, aux); aux is any pytree of arrays.

    Returns:
        (value, rest, data) -> ((loss, aux), gradient), the gradient being with respect to `value`,
        a pytree of inexact arrays. `rest` and `data` may hold arrays of any dtype, keys included.

    Source: Kemaev et al. (2025), equation (7).
    """

    def gradient(value: PyTree, rest: PyTree, data: PyTree) -> tuple[tuple[Array, Any], PyTree]:
        if is_pushing_forward():
            return jax.value_and_grad(loss, has_aux=True)(value, rest, data)
        pure, constants, jaxpr = hoist(loss, value, rest, data)
        leaves, treedef = jax.tree.flatten((rest, data, constants))
        inexact = [is_inexact(leaf) for leaf in leaves]
        # The Hessian of a loss of complex numbers is symmetric up to conjugations only.
        symmetric = not any(
            jnp.iscomplexobj(leaf) for leaf in (*jax.tree.leaves(value), *leaves)
        ) and not has_reverse_only_rule(jaxpr)

        def of(value: PyTree, moving: list, fixed: list) -> tuple[Array, Any]:
            moves, stays = iter(moving), iter(fixed)
            leaves = [next(moves) if moved else next(stays) for moved in inexact]
            rest, data, constants = treedef.unflatten(leaves)
            return pure(constants, value, rest, data)

        moving = [leaf for leaf, moved in zip(leaves, inexact, strict=True) if moved]
        fixed = [leaf for leaf, moved in zip(leaves, inexact, strict=True) if not moved]
        (output, aux), slope = _lean(of, symmetric)(value, moving, fixed)
        return (output, jax.tree.map(_without_tangent, aux)), slope

    return gradient


def _lean(loss: Callable, symmetric: bool) -> Callable:
    """The rule itself; `loss(value, moving, fixed)` closes over nothing, `fixed` is not inexact."""
    plain = jax.value_and_grad(loss, has_aux=True)
    lean = jax.custom_vjp(plain)

    def forward(value: Any, moving: Any, fixed: Any) -> tuple:
        point = jax.tree.map(lambda leaf: leaf.value, (value, moving, fixed))
        return plain(*point), point

    def backward(point: tuple, cotangents: tuple) -> tuple:
        value, moving, fixed = point
        seeds, of_gradient = cotangents
        silent = all(map(is_zero, jax.tree.leaves(seeds[1])))

        def outputs(value: Any, moving: Any) -> tuple[Array, Any]:
            """The loss, and aux if someone differentiates it."""
            output, aux = loss(value, moving, fixed)
            return output, None if silent else aux

        def first_order(value: Any, moving: Any) -> tuple[Any, tuple]:
            """The outputs, and the gradient of the loss in both arguments."""
            out, pullback = jax.vjp(outputs, value, moving)
            ones = (jnp.ones_like(out[0]), jax.tree.map(_no_cotangent, out[1]))
            return out, pullback(ones)

        def pulled(out: Any) -> Any:
            """The cotangents of the outputs, in full."""
            seed = (seeds[0], None if silent else seeds[1])
            return jax.tree.map(lambda x, u: _no_cotangent(x) if is_zero(u) else u, out, seed)

        direction = jax.tree.map(
            lambda x, u: jnp.zeros_like(x) if is_zero(u) else u, value, of_gradient
        )
        if not symmetric:
            (out, gradient), pullback = jax.vjp(first_order, value, moving)
            nothing = jax.tree.map(jnp.zeros_like, gradient[1])
            return (*pullback((pulled(out), (direction, nothing))), None)

        def full_gradient(value: Any) -> tuple[tuple, Any]:
            out, gradient = first_order(value, moving)
            return gradient, out

        gradient, curved, out = jax.jvp(full_gradient, (value,), (direction,), has_aux=True)
        if silent and is_zero(seeds[0]):
            return (*curved, None)
        if silent:
            sloped = jax.tree.map(lambda g: (seeds[0] * g).astype(g.dtype), gradient)
        else:
            sloped = jax.vjp(outputs, value, moving)[1](pulled(out))
        return (*jax.tree.map(jnp.add, curved, sloped), None)

    lean.defvjp(forward, backward, symbolic_zeros=True)
    return lean


def is_zero(leaf: Any) -> bool:
    return isinstance(leaf, jax.custom_derivatives.SymbolicZero)


def _without_tangent(x: Any) -> Any:
    """The same array; of integers and booleans in a form that JAX knows to be constant.

    Otherwise a `custom_vjp` gives them tangents, which `jnp.all` has no rule for.
    """
    whole = jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == jnp.bool_
    return jax.lax.bitwise_or(x, x) if whole else x


def _no_cotangent(x: Any) -> Any:
    """The zero cotangent of an array; derived from it, so it varies over the same mesh axes."""
    if is_inexact(x):
        return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)
