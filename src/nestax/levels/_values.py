"""What a level's value consists of: the part that is trained, other arrays, and everything static.

Values are any pytrees: equinox modules and flax parameters hold functions, integers and keys beside
weights, and running statistics, which are inexact too. Only what is trained is differentiated and
updated, and only arrays may enter compiled code.
"""

import enum
from typing import Any, NoReturn, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_TRAINED, _FIXED, _STATIC, _KEY = range(4)


class _Later(enum.Enum):
    """Not computed yet; None is a value. An enum stays itself when a state is pickled or copied."""

    LATER = enum.auto()


_LATER = _Later.LATER


@jax.tree_util.register_pytree_with_keys_class
class Parts:
    """A value taken apart; a pytree whose leaves are its arrays.

    Attributes:
        trained: the value with None in place of every leaf that is not trained.
        fixed: the other arrays (integers, statistics, the data of keys), in order.
    """

    def __init__(self, trained: Any, fixed: list[Any], static: tuple[Any, ...], dtypes: Any = None):
        self._split: Any = (trained, fixed)
        self._arrays: Any = _LATER
        self._static = static
        self._dtypes = dtypes  # of the owner's trained arrays, where `trained` is wider

    @classmethod
    def joined(cls, arrays: Any, static: tuple[Any, ...]) -> "Parts":
        """The inverse of `arrays`. It looks at them only when asked to: transformations of JAX put
        anything in their place."""
        made = cls.__new__(cls)
        made._split, made._arrays, made._static, made._dtypes = _LATER, arrays, static, None
        return made

    def having(self, arrays: Any) -> "Parts":
        """This value with other arrays, as `arrays` has them."""
        return Parts.joined(arrays, self._static)

    @property
    def trained(self) -> Any:
        return self._taken_apart()[0]

    @property
    def fixed(self) -> list[Any]:
        return self._taken_apart()[1]

    @property
    def arrays(self) -> Any:
        """The value with None in place of what is no array: every array keeps the path that it has
        in its owner's value."""
        if self._arrays is _LATER:
            structure, kinds, _ = self._static
            trained, fixed = self._split
            trained, fixed = iter(jax.tree.leaves(trained)), iter(fixed)
            source = {_TRAINED: trained, _FIXED: fixed, _KEY: fixed}
            leaves = [None if kind == _STATIC else next(source[kind]) for kind in kinds]
            self._arrays = structure.unflatten(leaves)
        return self._arrays

    @classmethod
    def of(cls, value: Any, copy: bool = True, weights: list[bool | None] | None = None) -> "Parts":
        """Takes a value apart. Python floats become arrays; other Python numbers stay what they
        are, so that a layer's count of heads is not traced. `weights` says for each leaf whether it
        is trained if it is inexact (by default it is); a float for which it says None stays."""
        leaves, structure = jax.tree.flatten(value)
        kinds, trained, fixed, rest = [], [], [], []
        for leaf, weight in zip(leaves, weights or [True] * len(leaves), strict=True):
            number = isinstance(leaf, (float, complex)) and not isinstance(leaf, np.generic)
            if number and weight is not None:
                leaf = np.asarray(leaf, jnp.result_type(type(leaf)))
            if not isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
                kinds.append(_STATIC)
                trained.append(None)
                rest.append(_Static(leaf))
                continue
            if _is_key(leaf):  # as data: not everything that saves arrays knows typed keys
                kinds.append(_KEY)
                trained.append(None)
                rest.append(_Static(jax.random.key_impl(leaf)))
                fixed.append(jax.random.key_data(leaf))
                continue
            # Never weakly typed, or the second step would compile anew.
            leaf = jnp.array(leaf) if copy else jnp.asarray(leaf)
            moved = weight and jnp.issubdtype(leaf.dtype, jnp.inexact)
            kinds.append(_TRAINED if moved else _FIXED)
            trained.append(_strong(leaf) if moved else None)
            if not moved:
                fixed.append(_strong(leaf))
        return cls(structure.unflatten(trained), fixed, (structure, tuple(kinds), tuple(rest)))

    def whole(self) -> Any:
        """The value as its owner gave it."""
        structure, kinds, rest = self._static
        # Other things than arrays are handed back: `hasattr(state, "values")` may be asked while
        # there are shapes, or nothing, in place of arrays.
        arrays = iter(jax.tree.leaves(self.narrow().arrays))
        statics, leaves = iter(rest), []
        for kind in kinds:
            leaf = next(statics).value if kind == _STATIC else next(arrays, None)
            if kind == _KEY:
                impl = next(statics).value
                if isinstance(leaf, (jax.Array, np.ndarray)):
                    leaf = jax.random.wrap_key_data(jnp.asarray(leaf), impl=impl)
            leaves.append(leaf)
        return structure.unflatten(leaves)

    def _taken_apart(self) -> tuple[Any, list[Any]]:
        if self._split is _LATER:
            structure, kinds, _ = self._static
            arrays, trained, fixed = iter(jax.tree.leaves(self._arrays)), [], []
            for kind in kinds:
                leaf = None if kind == _STATIC else next(arrays)
                trained.append(leaf if kind == _TRAINED else None)
                if kind in (_FIXED, _KEY):
                    fixed.append(leaf)
            self._split = structure.unflatten(trained), fixed
        return self._split

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

    def keeping(self, value: Any, who: str) -> "Parts":
        """The same parts with those arrays of `value` that are not trained.

        Args:
            value: like the whole value, made of the very leaves that `whole` returns.
            who: begins an error.

        Raises:
            ValueError: `value` is not the whole value with nothing but such arrays changed.
        """
        before, after = self._static[0], jax.tree.structure(value)
        if before != after:
            raise ValueError(f"{who} changes the structure of the value, from {before} to {after}")
        fixed, rest = [], iter(self._static[2])
        leaves = jax.tree_util.tree_leaves_with_path(self.whole())
        pairs = zip(leaves, jax.tree.leaves(value), strict=True)
        for ((path, old), new), kind in zip(pairs, self._static[1], strict=True):
            where = jax.tree_util.keystr(path)
            if kind == _TRAINED and new is not old:
                raise ValueError(
                    f"{who} changes {where}, which is trained: return it untouched, and move it by "
                    "the optimizer, for instance optax.chain(optimizer, a projection)"
                )
            held = next(rest) if kind in (_STATIC, _KEY) else None
            if kind == _KEY:
                fixed.append(jax.random.key_data(new))
            if kind == _STATIC and held != _Static(new):
                raise ValueError(
                    f"{who} changes {where} from {old!r} to {new!r}, but only arrays can change; "
                    "give the value an array there"
                )
            if kind == _FIXED:
                new = new if isinstance(new, jax.Array) else jnp.asarray(new)
                if new.weak_type and jnp.result_type(old, new) == old.dtype:
                    new = jax.lax.convert_element_type(new, old.dtype)
                if (new.shape, new.dtype) != (old.shape, old.dtype):
                    raise ValueError(
                        f"{who} changes {where} from {old.dtype}{list(old.shape)} to "
                        f"{new.dtype}{list(new.shape)}; it must keep shape and dtype"
                    )
                fixed.append(new)
        return self.but(self.trained, fixed)

    def like(self, value: Any, where: str) -> "Parts":
        """Another value in the place of this one: its arrays, of these shapes and dtypes.

        Raises:
            ValueError: another structure, shape, dtype or static part, by path.
        """
        structure, kinds, rest = self._static
        given = jax.tree.structure(value)
        if given != structure:
            raise ValueError(f"{where}: its structure is {structure}, and {given} was given")
        olds, statics, leaves = iter(jax.tree.leaves(self.arrays)), iter(rest), []
        paths = jax.tree_util.tree_leaves_with_path(value)
        for (path, leaf), kind in zip(paths, kinds, strict=True):
            at = where + jax.tree_util.keystr(path)
            if kind in (_STATIC, _KEY):
                old = next(statics)
                new = jax.random.key_impl(leaf) if kind == _KEY and _is_key(leaf) else leaf
                if old != _Static(new):
                    raise ValueError(
                        f"{at}: it is {old.value!r}, which is not trained but part of the value's "
                        f"structure, and {leaf!r} was given"
                    )
            if kind == _STATIC:
                leaves.append(None)
            else:
                leaf = jax.random.key_data(leaf) if kind == _KEY else leaf
                leaves.append(alike(next(olds), leaf, at))
        return Parts.joined(structure.unflatten(leaves), self._static)

    def tree_flatten_with_keys(self):
        names = map(jax.tree_util.GetAttrKey, ("trained", "fixed"))
        children, aux = self.tree_flatten()
        return tuple(zip(names, children, strict=True)), aux

    def tree_flatten(self):
        return self._taken_apart(), (self._static, self._dtypes)

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

    def __reduce__(self):  # texts have another hash in every process
        return _Static, (self.value,)

    def __hash__(self) -> int:
        return id(self.value) if self._hash is None else self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Static) or self._hash != other._hash:
            return False
        same = self.value is other.value
        return same or (self._hash is not None and bool(self.value == other.value))


@jax.tree_util.register_pytree_with_keys_class
class Values(dict):
    """A dict of level name -> value that is read only: a state's values are a view of it, and a
    value written here would go nowhere."""

    def _refuse(self, *given: Any, **more: Any) -> NoReturn:
        name = repr(given[0]) if given and isinstance(given[0], str) else "name"
        raise TypeError(
            "state.values is read only, since a state never changes; use state = "
            f"state.replace(values={{{name}: value}}), or dict(state.values) for a dict of your own"
        )

    __setitem__ = __delitem__ = __ior__ = _refuse  # type: ignore[assignment]
    update = pop = popitem = clear = setdefault = _refuse  # type: ignore[assignment]

    def __reduce__(self):
        return Values, (dict(self),)

    def tree_flatten_with_keys(self):
        names = tuple(sorted(self))
        return tuple((jax.tree_util.DictKey(name), self[name]) for name in names), names

    @classmethod
    def tree_unflatten(cls, names, children):
        return cls(zip(names, children, strict=True))


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


def joined(parts: Any) -> tuple[Any, Any]:
    """The arrays of a dict of parts, and the static rest. What transformations of JAX have put in
    its place stays as it is."""
    if type(parts) is not dict or not all(isinstance(one, Parts) for one in parts.values()):
        return parts, None
    arrays = {name: one.arrays for name, one in parts.items()}
    return arrays, tuple((name, parts[name]._static) for name in sorted(parts))


def parted(arrays: Any, static: Any) -> Any:
    """The inverse of `joined`."""
    if static is None or type(arrays) is not dict:
        return arrays
    return {name: Parts.joined(arrays[name], one) for name, one in static}


def alike(old: Any, new: Any, where: str) -> Any:
    """`new` as an array of its own that can take the place of `old`.

    Raises:
        ValueError: it is no array or number, or of another shape or dtype.
    """
    number = isinstance(new, (int, float, complex)) and not isinstance(new, (bool, np.generic))
    if number and np.can_cast(np.result_type(type(new)), old.dtype, "same_kind"):
        new = np.asarray(new, old.dtype)
    if not isinstance(new, (jax.Array, np.ndarray, np.generic)):
        raise ValueError(f"{where}: expected {_kind(old)}, got {new!r}")
    sharding = None if isinstance(old, Tracer) else getattr(old, "sharding", None)
    new = _strong(jnp.array(new))
    if (new.shape, new.dtype) != (old.shape, old.dtype):
        copies = ""
        if new.shape == old.shape[1:]:
            copies = (
                f", or jnp.broadcast_to(value, {old.shape}) if the first axis is of copies or runs"
            )
        raise ValueError(
            f"{where}: expected {_kind(old)}, got {_kind(new)}; give that shape and dtype, such as "
            f"value.astype({str(old.dtype)!r}){copies}"
        )
    if sharding is not None and len(sharding.device_set) > 1:
        new = jax.device_put(new, sharding)
    return new


def _kind(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _is_key(leaf: Any) -> TypeGuard[jax.Array]:
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or isinstance(dtype, np.dtype):  # asked of every leaf of a state: quickly
        return False
    return isinstance(leaf, jax.Array) and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _strong(leaf: Any) -> Any:
    return jax.lax.convert_element_type(leaf, leaf.dtype) if leaf.weak_type else leaf
