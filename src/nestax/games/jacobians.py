"""Maps of points as functions of one vector, and the Jacobians along a run of them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..flows.internal import has_reverse_only_rule, hoist
from .checks import is_finite
from .field import differentiating
from .flat import flat

Map = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class VectorMap:
    """A map as a function of one real vector.

    Attributes:
        function: shape (n,) -> (n,).
        point: shape (n,).
        unravel: vector -> point as a pytree.
    """

    function: Callable[[jax.Array], jax.Array]
    point: jax.Array
    unravel: Callable[[Any], Any]


def vector_map(f: Map, x: Any, name: str) -> VectorMap:
    """A map as a function of one real vector, and the vector of x.

    Raises:
        ValueError: f changes structure, shape or dtype; x is not finite, has nothing that moves, or
            has too low a precision.
    """
    if not callable(f):
        raise ValueError(f"{name}: f is a function from a pytree to one like it, got {f!r:.60}")
    parts, join = _real_parts(x)
    with differentiating():
        found = flat(lambda real: _real_parts(f(join(real)))[0], parts, f"{name}: f")
    point = found.point
    if point.size == 0:
        raise ValueError(f"{name}: x has no floating-point array that moves, got {x!r:.60}")
    if point.dtype.itemsize < 4:
        raise ValueError(f"{name}: x is {point.dtype}; give float32 or float64")
    if not is_finite(point):
        raise ValueError(f"{name}: x has an infinite or NaN number; give a finite point")
    return VectorMap(found.function, point, lambda v: join(found.unravel(v)))


@dataclasses.dataclass(frozen=True)
class Jacobians:
    """A step and its Jacobian, applied to blocks of columns.

    Attributes:
        pure: `(constants, x) -> x`, the step without closures.
        constants: what the step closes over.
        reverse_only: whether derivatives pass in reverse mode only.
    """

    pure: Callable
    constants: Any
    reverse_only: bool

    @classmethod
    def of(cls, given: VectorMap) -> "Jacobians":
        """Those of a map."""
        with differentiating():
            pure, constants, jaxpr = hoist(given.function, given.point)
        return cls(pure, constants, has_reverse_only_rule(jaxpr))

    def at(self, constants: Any) -> "Jacobians":
        """Those of the step that closes over other values."""
        return dataclasses.replace(self, constants=constants)

    def step(self, x: jax.Array) -> jax.Array:
        """The point after x."""
        return self.pure(self.constants, x)

    def push(self, x: jax.Array, block: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The point after x, and J at x times a block of shape (n, p)."""
        if not self.reverse_only:  # at once: what is compiled is half as large
            return jax.vmap(lambda v: jax.jvp(self.step, (x,), (v,)), 1, (None, 1))(block)
        # u -> J' u is linear: pulling back once more gives J.
        _, pull = jax.vjp(lambda u: jax.vjp(self.step, x)[1](u)[0], jnp.zeros_like(x))
        return self.step(x), jax.vmap(lambda v: pull(v)[0], 1, 1)(block)

    def pull(self, x: jax.Array, block: jax.Array) -> jax.Array:
        """The transpose of J at x times a block of shape (n, p)."""
        _, pull = jax.vjp(self.step, x)
        return jax.vmap(lambda u: pull(u)[0], 1, 1)(block)

    def dense(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The point after x, and J at x."""
        eye = jnp.eye(x.size, dtype=x.dtype)
        return (self.step(x), self.pull(x, eye).T) if self.reverse_only else self.push(x, eye)

    def along(self, x: jax.Array, steps: int) -> jax.Array:
        """The points from which steps are made, stacked."""
        return lax.scan(lambda x, _: (self.step(x), x), x, length=steps)[1]

    def dense_along(self, x: jax.Array, steps: int) -> jax.Array:
        """J at each of the points from which a step is made, stacked."""
        return lax.scan(lambda x, _: self.dense(x), x, length=steps)[1]


def _real_parts(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """A pytree with each complex leaf as a list of two real ones, and the way back."""
    if isinstance(tree, Mapping):  # `State.values` is a dict of its own
        tree = dict(tree)
    leaves, structure = jax.tree.flatten(tree)
    pairs = [isinstance(leaf, complex) or jnp.iscomplexobj(leaf) for leaf in leaves]
    split = [
        [jnp.real(leaf), jnp.imag(leaf)] if pair else leaf
        for leaf, pair in zip(leaves, pairs, strict=True)
    ]

    def join(real: Any) -> Any:
        parts = structure.flatten_up_to(real)
        return structure.unflatten(
            [lax.complex(*part) if pair else part for part, pair in zip(parts, pairs, strict=True)]
        )

    return structure.unflatten(split), join
