"""Pytrees as vectors of real numbers: what the linear solvers and the implicit rules compute with.

Inexact arrays (Python floats too) are the coordinates; a complex array counts as two real ones.
Everything else in a pytree (integers, functions, strings, PRNG keys) is a constant.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._hoist import is_inexact


def split(tree: PyTree) -> tuple[list[Array], Callable[[list], PyTree]]:
    """The coordinates of a pytree and how to put them back.

    Returns:
        (leaves, join): real arrays, a complex leaf stacked as (2, ...); `join(leaves)` is the tree
        with these coordinates, all other leaves as they were.
    """
    leaves, treedef = jax.tree.flatten(tree)
    places = [i for i, leaf in enumerate(leaves) if _is_coordinate(leaf)]
    values = [jnp.asarray(leaves[i]) for i in places]
    dtypes = [value.dtype for value in values]

    def join(coordinates: list) -> PyTree:
        whole = list(leaves)
        for i, dtype, value in zip(places, dtypes, coordinates, strict=True):
            whole[i] = _from_real(value, dtype)
        return treedef.unflatten(whole)

    return [_to_real(value) for value in values], join


def as_gradient(tree: PyTree, coordinates: list) -> PyTree:
    """Derivatives in the coordinates of `split(tree)` as a pytree like `tree`; constants get None.

    A complex leaf follows JAX's convention for gradients, d/dx - i d/dy.
    """
    leaves, treedef = jax.tree.flatten(tree)
    derivatives = iter(coordinates)
    found = [
        jnp.conj(_from_real(next(derivatives), jnp.asarray(leaf).dtype))
        if _is_coordinate(leaf)
        else None
        for leaf in leaves
    ]
    return treedef.unflatten(found)


def from_gradient(gradient: PyTree, like: list[Array], whose: str) -> list[Array]:
    """The inverse of `as_gradient`: real coordinates of the inexact leaves, in `like`'s dtypes.

    Raises:
        ValueError: leaves do not match `like` in number or shape; `whose` names the culprit.
    """
    leaves = [leaf for leaf in jax.tree.leaves(gradient) if _is_coordinate(leaf)]
    found = [_to_real(jnp.conj(jnp.asarray(leaf))) for leaf in leaves]
    if [a.shape for a in found] != [a.shape for a in like]:
        raise ValueError(
            f"{whose} must have one array for each inexact array of the fast value, of its shape; "
            f"expected shapes {[a.shape for a in like]}, got {[a.shape for a in found]}"
        )
    return [a.astype(b.dtype) for a, b in zip(found, like, strict=True)]


def dot(x: PyTree, y: PyTree) -> Array:
    """The inner product. No `vdot`: matmul units round to fewer bits, ravelling unshards."""
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), x, y)
    return functools.reduce(jnp.add, jax.tree.leaves(products))


def uphill(gradient: Any) -> Any:
    """A gradient as optimizers take it, a direction in which the loss grows.

    JAX's derivative of a real loss by z = x + iy is dL/dx - i dL/dy; its conjugate points uphill.
    """
    return jax.tree.map(lambda a: jnp.conj(a) if jnp.iscomplexobj(a) else a, gradient)


def norm(x: PyTree) -> Array:
    """The Euclidean norm, scaled so that squares neither overflow nor vanish; no derivative."""
    x = [jax.lax.stop_gradient(widen(a)) for a in jax.tree.leaves(x)]
    peak = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(a), initial=0) for a in x])
    scale = jnp.where((peak > 0) & jnp.isfinite(peak), peak, 1)
    return scale * jnp.sqrt(dot(*[[a / scale.astype(a.dtype) for a in x]] * 2))


def widen(a: Array) -> Array:
    """At least float32."""
    return a.astype(jnp.promote_types(a.dtype, jnp.float32))


def scaled(factor: Array, x: PyTree) -> PyTree:
    """factor x, dtypes of x kept."""
    return jax.tree.map(lambda a: factor.astype(a.dtype) * a, x)


def plus(x: PyTree, factor: Array, y: PyTree) -> PyTree:
    """x + factor y, dtypes of x kept."""
    return jax.tree.map(lambda a, b: a + factor.astype(a.dtype) * b, x, y)


def where(condition: Array, x: PyTree, y: PyTree) -> PyTree:
    """x if the scalar condition holds, else y."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), x, y)


def _is_coordinate(leaf: Any) -> bool:
    return isinstance(leaf, (float, complex)) or is_inexact(leaf)


def _to_real(a: Array) -> Array:
    return jnp.stack([a.real, a.imag]) if jnp.iscomplexobj(a) else a


def _from_real(a: Array, dtype: Any) -> Array:
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return a
    return jax.lax.complex(a[0], a[1])
