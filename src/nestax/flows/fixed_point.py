"""The fixed point of an update rule: its unknowns beside the weights are what the rule remembers.

Momenta follow the gradient, so where weights rest at a gradient that is not zero (decay inside the
optimizer, a projection) the response of the memory is part of the response of the weights.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._hoist import is_inexact

PROBES = 8  # updates of each kind that are tried
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


def widened(tree: Any) -> Any:
    """Real numbers in float64, complex ones in complex128; to be used under x64."""

    def one(leaf: Any) -> Any:
        inexact = is_inexact(leaf)
        return jnp.asarray(leaf, jnp.promote_types(leaf.dtype, jnp.float64)) if inexact else leaf

    return jax.tree.map(one, tree)


class Motion(NamedTuple):
    """What moves weights.

    Attributes:
        drifts: whether an update moves weights whose gradient is zero.
        moves: for each leaf whether some gradient moved it.
    """

    drifts: bool
    moves: list[bool]


def motion(begin: Callable, update: Callable, trained: Any) -> Motion:
    """Tries an optimizer out: on weights of either sign, small and large, so that projections show,
    and over several updates, so that a rate that warms up from zero does not hide a decay.

    Args:
        begin: weights -> optimizer state.
        update: (gradient, state, weights) -> (updates, state).
        trained: weights, for their shapes and dtypes; to be traced under x64, in float64, where a
            small decay is told from rounding.
    """
    leaves, structure = jax.tree.flatten(trained)
    count = PROBES if sum(leaf.size for leaf in leaves) <= 2**20 else 2

    def noise(number: int) -> Any:  # drawn beforehand: half of the program would be its drawing
        draw = np.random.default_rng(number).standard_normal
        parts = [(a, draw(a.shape), draw(a.shape)) for a in leaves]
        return structure.unflatten(
            [(x + 1j * y if jnp.iscomplexobj(a) else x).astype(a.dtype) for a, x, y in parts]
        )

    def updates(point: Any, gradient: Any) -> list[jax.Array]:
        """Of each leaf, the largest finite entry of several updates, weights held."""

        def step(state: Any, _: Any) -> tuple[Any, list]:
            moved, state = update(gradient, state, point)
            sizes = [jnp.where(jnp.isfinite(u), jnp.abs(u), 0) for u in jax.tree.leaves(moved)]
            return state, [jnp.max(u, initial=0) for u in sizes]

        return [jnp.max(u) for u in jax.lax.scan(step, begin(point), None, count)[1]]

    def drift(first: Any, scale: jax.Array) -> jax.Array:
        point = jax.tree.map(lambda a: scale.astype(a.dtype) * a, first)
        still = jax.tree.map(jnp.zeros_like, point)
        return jnp.max(jnp.stack(updates(point, still)), initial=0) / jnp.abs(scale)

    @jax.jit
    def tried(first: Any, second: Any) -> tuple[jax.Array, list[jax.Array]]:
        scales = jnp.array([1.0, -1.0, 1e3])
        drifts = jax.lax.map(lambda scale: drift(first, scale), scales)
        return drifts, updates(first, second)

    drifts, moves = tried(noise(0), noise(1))
    return Motion(float(jnp.max(drifts)) > ROUNDING, [float(u) > 0 for u in moves])


def moved_by(rule: Any, trained: Any) -> Motion:
    """`motion` of an optax transformation; weights may be traced."""
    extras = {"value": jnp.zeros(()), "value_fn": lambda *_, **__: jnp.zeros(())}

    def update(gradient: Any, state: Any, point: Any) -> Any:
        return rule.update(gradient, state, point, grad=gradient, **extras)

    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        like = jax.tree.map(lambda a: jnp.zeros(jnp.shape(a), a.dtype), trained)
        return motion(rule.init, update, widened(like))


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
