"""What flows and processes remember: arrays that keep their structure, shapes and dtypes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._flow import Reached

DATA = (jax.Array, np.ndarray, np.generic, float, int, complex)


def first_memory(who: str, memory: PyTree) -> PyTree:
    """What an `init` returned, as arrays that are not weakly typed.

    Raises:
        ValueError: a leaf that is no array or number, or a typed key.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(memory):
        typed = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        if typed or not isinstance(leaf, DATA):
            repair = ""
            if typed:
                repair = (
                    ", a typed key, which not everything that saves arrays knows; use the key that "
                    "every call gets, or keep jax.random.key_data(key)"
                )
            raise ValueError(
                f"{who}: init returns a memory of arrays and numbers; its leaf "
                f"{jax.tree_util.keystr(path)} is {described(leaf)}{repair}"
            )
    return jax.tree.map(strong, memory)


def same_memory(who: str, before: PyTree, after: PyTree) -> PyTree:
    """What is remembered next, which must be like the memory before.

    Raises:
        ValueError: another structure, shape or dtype.
    """
    if not jax.tree.leaves(before) and not jax.tree.leaves(after):
        return before
    data = all(isinstance(leaf, DATA) for leaf in jax.tree.leaves(after))
    after = jax.tree.map(strong, after) if data else after
    if not data or shapes(before) != shapes(after):
        told = [jax.tree.map(described, memory) for memory in (before, after)]
        raise ValueError(
            f"{who} changes its memory from {told[0]} to {told[1]}; it must keep the structure, "
            "shapes and dtypes that init returns"
        )
    return after


def shapes(tree: PyTree) -> tuple[Any, list]:
    """The structure of a pytree, and the shapes and dtypes of its leaves."""
    return jax.tree.structure(tree), [
        (jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)
    ]


def described(thing: Any) -> str:
    """Such as "float32[2]", or the structure of a pytree."""
    if isinstance(thing, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)):
        return f"{thing.dtype}{list(thing.shape)}"
    if thing is None or jax.tree.structure(thing) == jax.tree.structure(0):
        return f"the class {thing.__name__}" if isinstance(thing, type) else repr(thing)
    return "a Reached" if isinstance(thing, Reached) else str(jax.tree.structure(thing))


def strong(leaf: Any) -> jax.Array:
    """An array that is not weakly typed."""
    leaf = jnp.asarray(leaf)
    return jax.lax.convert_element_type(leaf, leaf.dtype)
