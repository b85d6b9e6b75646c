"""A step as a jaxpr between arrays, whatever pytrees and other things it is called with."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .count import count
from .graph import Key


def _is_array(leaf: Any) -> bool:
    numbers = (bool, int, float, complex, np.generic)
    return isinstance(leaf, numbers) or (hasattr(leaf, "shape") and hasattr(leaf, "dtype"))


class Traced:
    """A step as a jaxpr from the arrays of its arguments to the arrays of the new state."""

    def __init__(self, step: Callable[..., Any], state: Any, args: tuple[Any, ...]) -> None:
        flat, structure = jax.tree_util.tree_flatten_with_path(state)
        others, others_structure = jax.tree.flatten(args)
        places = [i for i, (_, leaf) in enumerate(flat) if _is_array(leaf)]
        if not places:
            raise ValueError("level_table: the state holds no array, so nothing can be written")
        # A number among the arguments may be a length or a choice that the step needs to know.
        given = [
            i
            for i, leaf in enumerate(others)
            if _is_array(leaf) and not isinstance(leaf, bool | int | float | complex)
        ]
        self.keys = [flat[i][0] for i in places]
        self.paths = [jax.tree_util.keystr(key) for key in self.keys]
        self.leaves = [flat[i][1] for i in places] + [others[i] for i in given]

        def call(*leaves: Any) -> list[Any]:
            old = [leaf for _, leaf in flat]
            for i, leaf in zip(places, leaves, strict=False):
                old[i] = leaf
            rest = list(others)
            for i, leaf in zip(given, leaves[len(places) :], strict=True):
                rest[i] = leaf
            out = step(structure.unflatten(old), *others_structure.unflatten(rest))
            new = _state_of(out, structure)
            for i in places:
                if jnp.shape(new[i]) != jnp.shape(old[i]):
                    raise ValueError(
                        f"level_table: the step changes the shape of the state's leaf "
                        f"{jax.tree_util.keystr(flat[i][0])!r} from {jnp.shape(old[i])} to "
                        f"{jnp.shape(new[i])}; a state keeps its shapes"
                    )
            return [new[i] for i in places]

        self.jaxpr = jax.make_jaxpr(call)(*self.leaves)
        avals: list[Any] = self.jaxpr.in_avals[: len(places)]
        self.inexact = [jnp.issubdtype(aval.dtype, jnp.inexact) for aval in avals]

    def count(self, keys: Sequence[Key], calls: int) -> dict[Key, int]:
        """How often the bodies of these keys run in so many calls."""
        for leaf in self.leaves:
            if isinstance(leaf, jax.ShapeDtypeStruct | Tracer):
                raise ValueError(
                    "level_table: the step writes inside a while_loop or a cond, so it must be "
                    f"run to be counted, but an argument has no values: {leaf}; pass arrays, and "
                    "call level_table outside of jit"
                )
        return count(self.jaxpr, self.leaves, len(self.paths), keys, calls)


def _state_of(out: Any, structure: Any) -> list[Any]:
    leaves, found = jax.tree.flatten(out)
    if found == structure:
        return leaves
    if isinstance(out, tuple) and out:
        leaves, found = jax.tree.flatten(out[0])
        if found == structure:
            return leaves
    raise ValueError(
        "level_table: the step must return the state, or a tuple that begins with it; expected "
        f"the structure {structure}, got {jax.tree.structure(out)}"
    )
