"""A field, or a map, as a function of one vector."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from .field import check_structure, floating


@dataclasses.dataclass(frozen=True)
class Flat:
    """A function between pytrees of one structure, as a function of vectors.

    Attributes:
        function: vector -> vector, shape (n,).
        point: where it was flattened, shape (n,).
        unravel: vector -> pytree; leaves that do not move are those of the point.
        players: player -> the slice of its components; for a pytree that is neither a dict nor a
            tuple nor a list there is one player, 0.
    """

    function: Callable[[jax.Array], jax.Array]
    point: jax.Array
    unravel: Callable[[jax.Array], Any]
    players: dict[Any, slice]


def flat(function: Callable[[Any], Any], values: Any, what: str) -> Flat:
    """Flattens a function from pytrees to pytrees of the same structure, at a point.

    Args:
        function: `values -> pytree like values`; None in place of leaves that do not move.
        values: a pytree; its real floating-point leaves move.
        what: name of the public function and argument, for messages.

    Raises:
        ValueError: the function returns another structure, shape or dtype; it is traced, not run.
    """
    if isinstance(values, Mapping):  # `State.values` is a dict of its own
        values = dict(values)
    moving, combine = floating(values)
    found = jax.eval_shape(lambda m: floating_shapes(function(combine(m))), moving)
    check_structure(what, found, moving)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(moving), jax.tree.leaves(found), strict=True
    ):
        if jnp.shape(a) != b.shape or jnp.result_type(a) != b.dtype:
            raise ValueError(
                f"{what} returns another shape or dtype at {jax.tree_util.keystr(path)}: "
                f"{b.dtype}{list(b.shape)} for {jnp.result_type(a)}{list(jnp.shape(a))}"
            )
    point, back = ravel_pytree(moving)

    def of_vector(vector: jax.Array) -> jax.Array:
        return ravel_pytree(floating_shapes(function(combine(back(vector)))))[0]

    return Flat(of_vector, point, lambda v: combine(back(v)), _slices(moving))


def floating_shapes(tree: Any) -> Any:
    """The floating-point arrays of what a field or a map returned, None for other leaves."""
    return floating(tree)[0]


def _slices(moving: Any) -> dict[Any, slice]:
    if isinstance(moving, Mapping):
        parts = {name: moving[name] for name in sorted(moving)}  # in the order of JAX
    elif isinstance(moving, (tuple, list)):
        parts = dict(enumerate(moving))
    else:
        parts = {0: moving}
    found, start = {}, 0
    for name, part in parts.items():
        size = sum(jnp.size(leaf) for leaf in jax.tree.leaves(part))
        found[name] = slice(start, start + size)
        start += size
    return found
