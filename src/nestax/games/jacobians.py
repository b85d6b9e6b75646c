"""Maps of points as functions of one vector, and the Jacobians along a run of them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..flows.internal import dependence, has_reverse_only_rule, hoist
from .checks import is_finite
from .field import differentiating
from .flat import flat
from .products import plain

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
        ValueError: f changes structure, shape or dtype, or a leaf that is held and that the step
            depends on; x is not finite, has nothing that moves, or has too low a precision.
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
    _check_held(f, plain(x), name)
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


def _check_held(f: Map, x: Any, name: str) -> None:
    """Refuses a map that changes a leaf that is held fixed, if what moves depends on that leaf.

    Every step would read the first value of such a leaf, a counter or a random key.
    """
    leaves, structure = jax.tree.flatten(x)
    moving = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(_dtype(leaf), jnp.inexact)]
    changed = []

    def step(given: Mapping[int, Any]) -> list[Any]:
        point = structure.unflatten([given.get(i, leaf) for i, leaf in enumerate(leaves)])
        return structure.flatten_up_to(f(point))

    def look(moved: list[Any]) -> None:
        for i, found in enumerate(step(dict(zip(moving, moved, strict=True)))):
            if i not in moving and not _is_same(found, leaves[i]):
                changed.append(i)

    def from_held(held: list[Any]) -> tuple[list[Any], list[Any]]:
        found = step(dict(zip(changed, held, strict=True)))
        return [found[i] for i in changed], [found[i] for i in moving if found[i] is not None]

    if len(moving) == len(leaves):
        return
    with differentiating():
        jax.eval_shape(look, [leaves[i] for i in moving])
        if not changed:
            return
        held = [leaves[i] for i in changed]
        jaxpr = jax.make_jaxpr(from_held)(held)
        read = set().union(*dependence(lambda held: from_held(held)[1], held))
    ends = jaxpr.jaxpr.outvars[: len(changed)]
    for number in sorted(n for n in read if _given(jaxpr, ends[n]) != n):
        path, _ = jax.tree_util.tree_leaves_with_path(x)[changed[number]]
        raise ValueError(
            f"{name}: f changes x{jax.tree_util.keystr(path)}, which is no floating-point number "
            "and so is held fixed, and the next point depends on it; make it a floating-point "
            "number, which counts as one that moves, or let f return it as it is"
        )


def _given(jaxpr: Any, var: Any) -> int | None:
    """Which argument a variable of a jaxpr is, untouched, handed through functions under `jit`."""
    inner = jaxpr.jaxpr
    if isinstance(var, jex.Literal) or var in inner.invars:
        return None if isinstance(var, jex.Literal) else inner.invars.index(var)
    for eqn in inner.eqns:
        if var in eqn.outvars and eqn.primitive.name in ("jit", "pjit"):
            called = eqn.params["jaxpr"]
            place = _given(called, called.jaxpr.outvars[eqn.outvars.index(var)])
            return None if place is None else _given(jaxpr, eqn.invars[place])
    return None


def _dtype(leaf: Any) -> Any:
    return jnp.result_type(leaf) if hasattr(leaf, "dtype") else type(leaf)


def _is_same(found: Any, leaf: Any) -> bool:
    """Whether a leaf that a map has returned is known to be the one that it was given."""
    if found is None or found is leaf:
        return True
    kinds = (bool, int, np.ndarray, np.generic)
    return isinstance(found, kinds) and isinstance(leaf, kinds) and np.array_equal(found, leaf)


def _real_parts(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """A pytree with each complex leaf as a list of two real ones, and the way back."""
    leaves, structure = jax.tree.flatten(plain(tree))
    pairs = [jnp.issubdtype(_dtype(leaf), jnp.complexfloating) for leaf in leaves]
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
