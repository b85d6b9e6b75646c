"""What a level's value consists of: the part that is trained, other arrays, and everything static.

Values are any pytrees: equinox modules and flax parameters hold functions, integers and keys beside
weights. Only inexact arrays are differentiated and updated, and only arrays may enter compiled
code.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_TRAINED, _FIXED, _STATIC = range(3)


@jax.tree_util.register_pytree_with_keys_class
class Parts:
    """A value taken apart; a pytree whose leaves are its arrays.

    Attributes:
        trained: the value with None in place of every leaf that is not an inexact array.
        fixed: the other arrays (integers, keys), in order.
    """

    def __init__(self, trained: Any, fixed: list[Any], static: tuple[Any, ...], dtypes: Any = None):
        self.trained, self.fixed, self._static = trained, fixed, static
        self._dtypes = dtypes  # of the owner's trained arrays, where `trained` is wider

    @classmethod
    def of(cls, value: Any, copy: bool = True) -> "Parts":
        """Takes a value apart. Python floats become arrays; other Python numbers stay what they
        are, so that a layer's count of heads is not traced."""
        leaves, structure = jax.tree.flatten(value)
        kinds, trained, fixed, rest = [], [], [], []
        for leaf in leaves:
            if isinstance(leaf, (float, complex)) and not isinstance(leaf, np.generic):
                leaf = np.asarray(leaf, jnp.result_type(type(leaf)))
            if not isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
                kinds.append(_STATIC)
                trained.append(None)
                rest.append(_Static(leaf))
                continue
            # Never weakly typed, or the second step would compile anew.
            leaf = leaf if _is_key(leaf) else jnp.array(leaf) if copy else jnp.asarray(leaf)
            inexact = not _is_key(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)
            kinds.append(_TRAINED if inexact else _FIXED)
            trained.append(_strong(leaf) if inexact else None)
            if not inexact:
                fixed.append(leaf if _is_key(leaf) else _strong(leaf))
        return cls(structure.unflatten(trained), fixed, (structure, tuple(kinds), tuple(rest)))

    def whole(self) -> Any:
        """The value as its owner gave it."""
        structure, kinds, rest = self._static
        statics = (one.value for one in rest)
        sources = (iter(jax.tree.leaves(self.narrow().trained)), iter(self.fixed), statics)
        return structure.unflatten([next(sources[kind]) for kind in kinds])

    def but(self, trained: Any, fixed: list[Any] | None = None) -> "Parts":
        """The same value with other arrays."""
        return Parts(trained, self.fixed if fixed is None else fixed, self._static, self._dtypes)

    def wide(self) -> "Parts":
        """The same value with trained arrays in float32 at least, to be differentiated by.

        Its owner sees the dtypes that were given, since `whole` casts at every use. The derivative
        is then summed over uses, such as the ticks of a period, in float32.
        """
        leaves, structure = jax.tree.flatten(self.trained)
        dtypes = tuple(leaf.dtype for leaf in leaves)
        wider = [widened(leaf) for leaf in leaves]
        if self._dtypes is not None or dtypes == tuple(leaf.dtype for leaf in wider):
            return self
        return Parts(structure.unflatten(wider), self.fixed, self._static, dtypes)

    def narrow(self) -> "Parts":
        """The value in the dtypes that were given: undoes `wide`."""
        if self._dtypes is None:
            return self
        leaves, structure = jax.tree.flatten(self.trained)
        given = [leaf.astype(d) for leaf, d in zip(leaves, self._dtypes, strict=True)]
        return Parts(structure.unflatten(given), self.fixed, self._static)

    def static_difference(self, other: "Parts") -> list[Any]:
        """The leaves that are no arrays and differ from those of a value of the same structure;
        none where the structures differ."""
        mine, others = self._static, other._static
        if mine[:2] != others[:2]:
            return []
        return [a.value for a, b in zip(mine[2], others[2], strict=True) if a != b]

    def tree_flatten_with_keys(self):
        fixed = jax.tree_util.GetAttrKey("fixed")
        return ((_Itself(), self.trained), (fixed, self.fixed)), (self._static, self._dtypes)

    def tree_flatten(self):
        return (self.trained, self.fixed), (self._static, self._dtypes)

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(*children, *aux)


class _Static:
    """A leaf that is no array, compared as compiled programs need it even if it has no hash."""

    def __init__(self, value: Any):
        self.value = value
        try:
            self._hash = hash(value)
        except TypeError:
            self._hash = None

    def __hash__(self) -> int:
        return id(self.value) if self._hash is None else self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Static) or self._hash != other._hash:
            return False
        same = self.value is other.value
        return same or (self._hash is not None and bool(self.value == other.value))


@dataclasses.dataclass(frozen=True)
class _Itself:
    """No step in a path: a trained leaf is called by the path in its owner's value."""

    def __str__(self) -> str:
        return ""


def parts_of(level: str, value: Any) -> Parts:
    """A level's value taken apart.

    Raises:
        ValueError: an array of it holds something else than numbers, such as objects or text.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        if isinstance(leaf, (np.ndarray, np.generic)) and not (
            jnp.issubdtype(leaf.dtype, np.number) or leaf.dtype == bool
        ):
            raise ValueError(
                f"level {level!r}: {'value' + jax.tree_util.keystr(path)} is an array of "
                f"{leaf.dtype}, expected numbers"
            )
    return Parts.of(value)


def whole(values: dict[str, Parts]) -> dict[str, Any]:
    """Every level's value, as objectives see them."""
    return {name: parts.whole() for name, parts in values.items()}


def widened(leaf: Any) -> Any:
    """In float32 at least: losses, and sums over ticks and copies."""
    wide = jnp.promote_types(leaf.dtype, jnp.float32)
    return leaf if leaf.dtype == wide else leaf.astype(wide)


def like(tree: Any, other: Any) -> Any:
    """The tree in the dtypes of the other one."""
    return jax.tree.map(lambda a, b: a if a.dtype == b.dtype else a.astype(b.dtype), tree, other)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _strong(leaf: Any) -> Any:
    return jax.lax.convert_element_type(leaf, leaf.dtype) if leaf.weak_type else leaf
