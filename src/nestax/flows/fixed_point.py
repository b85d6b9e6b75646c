"""The fixed point of an update rule: its unknowns beside the weights are what the rule remembers.

Momenta follow the gradient, so where weights rest at a gradient that is not zero (decay inside the
optimizer, a projection) the response of the memory is part of the response of the weights.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ._hoist import is_inexact

ROUNDING = 1e-12  # of an update in float64 of weights of about 1


def memory_of(state: Any) -> list[jax.Array]:
    """What an optimizer remembers: the inexact arrays of its state."""
    return [leaf for leaf in jax.tree.leaves(state) if is_inexact(leaf)]


def remembering(state: Any, memory: list[jax.Array]) -> Any:
    """The optimizer state with another memory."""
    leaves, structure = jax.tree.flatten(state)
    own = iter(memory)
    return structure.unflatten([next(own) if is_inexact(leaf) else leaf for leaf in leaves])


def merge(free: Any, present: Any) -> Any:
    """A tree whose leaves are those of `free`, and those of `present` where it has None."""
    return jax.tree.map(
        lambda here, own: here if own is None else own,
        present,
        free,
        is_leaf=lambda leaf: leaf is None,
    )


def scattered(trained: Any) -> Any:
    """Weights of either sign, so that projections show."""
    leaves, structure = jax.tree.flatten(trained)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return structure.unflatten(
        [
            (1 + jnp.abs(a)) * jax.random.normal(key, a.shape, a.dtype)
            for a, key in zip(leaves, keys, strict=True)
        ]
    )


def widened(tree: Any) -> Any:
    """Real numbers in float64, complex ones in complex128; to be used under x64."""

    def one(leaf: Any) -> Any:
        inexact = is_inexact(leaf)
        return jnp.asarray(leaf, jnp.promote_types(leaf.dtype, jnp.float64)) if inexact else leaf

    return jax.tree.map(one, tree)


def length(updates: Any) -> jax.Array:
    """The largest finite entry."""
    found = [
        jnp.max(jnp.where(jnp.isfinite(u), jnp.abs(u), 0), initial=0).astype(float)
        for u in jax.tree.leaves(updates)
    ]
    return jnp.max(jnp.stack(found), initial=0)


def drifts(rule: Any, trained: Any) -> bool:
    """Whether an update of a fresh optimizer moves weights whose gradient is zero.

    In float64, so that a small decay is told from rounding.
    """
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), a.dtype), trained)

    def moved() -> jax.Array:
        zero = widened(jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like))
        point = scattered(zero)
        value_fn = lambda *_, **__: jnp.zeros(())  # noqa: E731
        arguments = {"value": jnp.zeros(()), "grad": zero, "value_fn": value_fn}
        return length(rule.update(zero, rule.init(point), point, **arguments)[0])

    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        return float(jax.jit(moved)()) > ROUNDING


def difference(before: list[jax.Array], after: list[jax.Array]) -> list[jax.Array]:
    """By how much an update changes a memory.

    An accumulator that only grows (the squares of Adagrad) has no fixed point that depends on
    anything: its row of the linear system would be zero. A slope of a hundred units of rounding
    holds it in place and is too small to be seen in the rows of averages.
    """

    def one(a: jax.Array, b: jax.Array) -> jax.Array:
        hold = 100 * float(jnp.finfo(a.dtype).eps)
        return a - b + hold * (a - jax.lax.stop_gradient(a))

    return [one(a, b) for a, b in zip(before, after, strict=True)]
