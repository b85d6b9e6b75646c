"""Which leaves of a value are weights, and which must never reach an optimizer.

Running statistics, counters and random state come in the same pytrees as weights. Other libraries
mark them by a class or by a name. Classes are recognised by their names, so that none of those
libraries is imported.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

_SPLIT = (
    "give only the parameters, graph, params = nnx.split(model, nnx.Param), and put the model "
    "together in the objective: nnx.merge(graph, params)"
)
_KEEP = (
    'give {"params": ..., "stats": ...} to a Level with trained={"params": True, "stats": False} '
    'and keep=lambda value, info: {**value, "stats": info["stats"]}, whose objective returns '
    '(loss, {"stats": new_stats})'
)
_RANDOM = (
    "take randomness from the batch: split the random state off, and reseed the merged model with "
    "the batch's key, or call its layers with rngs=nnx.Rngs(key)"
)


class Kind(NamedTuple):
    """A part of a pytree that holds no weights.

    Attributes:
        what: its name in an error.
        repair: what to do instead.
        firm: whether it is refused even where `trained` covers it; otherwise saying so is enough.
    """

    what: str
    repair: str
    firm: bool = True


class Leaf(NamedTuple):
    path: tuple[Any, ...]
    kind: Kind | None  # of the outermost part around it that holds no weights
    setting: bool  # a Python float in an equinox module, which equinox does not train either


def trained_leaves(who: str, value: Any, trained: Any = None) -> list[bool | None]:
    """For every leaf of a value whether an optimizer may move it; None: not an array for anybody.

    Args:
        who: begins an error, such as "level 'w': its value".
        value: any pytree.
        trained: a pytree of bools that is a prefix of the value, a function from the value to one,
            or None: everything but what is refused.

    Raises:
        ValueError: by path, a leaf that no compiled program can take, a leaf that is no weight and
            that `trained` does not exclude, or a `trained` that does not fit the value.
    """
    variables: dict[int, list[tuple[Any, ...]]] = {}
    leaves = list(_walk(value, (), None, False, variables))
    check_arrays(who, value)
    flags = [None] * len(leaves) if trained is None else _flags(who, value, trained)
    for leaf, flag in zip(leaves, flags, strict=True):
        kind = leaf.kind
        if kind is not None and (flag is None or (flag and kind.firm)):
            raise ValueError(
                f"{who}{jax.tree_util.keystr(leaf.path)} is {kind.what}, not a weight: it would "
                f"be trained, or stay what it is for ever. To repair this, {kind.repair}"
            )
    for paths in variables.values():
        below = [
            flag
            for leaf, flag in zip(leaves, flags, strict=True)
            if any(leaf.path[: len(path)] == path for path in paths)
        ]
        if len(paths) > 1 and any(flag is not False for flag in below):
            first, second = (jax.tree_util.keystr(path) for path in paths[:2])
            raise ValueError(
                f"{who} holds one flax Variable twice, at {first} and {second}: updates would "
                f"part them. To repair this, {_SPLIT}, which holds it once"
            )
    settings = [leaf.setting for leaf in leaves]
    return [
        None if setting else flag is not False
        for setting, flag in zip(settings, flags, strict=True)
    ]


def check_arrays(who: str, value: Any) -> None:
    """Refuses arrays of other libraries: a compiled program would hold them as constants.

    Raises:
        ValueError: by path.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        if isinstance(leaf, (jax.Array, type)):
            continue
        if isinstance(leaf, (np.ndarray, np.generic)):
            if leaf.dtype.kind not in "OSUMm":
                continue
            what, repair = f"a numpy array of dtype {leaf.dtype}", "encode it as numbers"
        elif hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
            package, name = type(leaf).__module__.partition(".")[0], type(leaf).__name__
            what = f"a {package} {name}, no array of JAX or numpy"
            repair = "convert it, for instance with np.asarray(x)"
            if ("torch", "Tensor") in _classes(leaf):
                repair = "convert it with jnp.asarray(x.detach().cpu().numpy())"
        else:
            continue
        raise ValueError(f"{who}{jax.tree_util.keystr(path)} is {what}: {repair}")


def is_function(given: Any) -> bool:
    """Whether this is a function; a pytree that happens to be callable is none."""
    return callable(given) and jax.tree_util.all_leaves([given])


def _flags(who: str, value: Any, trained: Any) -> list[bool]:
    chosen = trained(value) if is_function(trained) else trained
    for path, flag in jax.tree_util.tree_leaves_with_path(chosen):
        if not isinstance(flag, (bool, np.bool_)):
            raise ValueError(
                f"{who}: `trained` is a pytree of bools, a prefix of the value, or a function from "
                f"the value to one; got {flag!r} at {jax.tree_util.keystr(path) or 'its root'}"
            )
    try:
        return [bool(flag) for flag in jax.tree.leaves(jax.tree.broadcast(chosen, value))]
    except ValueError as error:
        raise ValueError(
            f"{who} does not have the structure that `trained` says; give a bool for each leaf, or "
            f"for a whole part: {error}"
        ) from error


_MODULE = Kind("part of a whole flax nnx module (which changes in place)", _SPLIT)


def _walk(
    node: Any,
    path: tuple[Any, ...],
    kind: Kind | None,
    module: bool,
    variables: dict[int, list[tuple[Any, ...]]],
) -> Iterator[Leaf]:
    """The leaves of a pytree in their order; `variables` gathers where flax Variables are."""
    kind = kind or _kind(node, path)
    classes = _classes(node)
    module = module or ("equinox", "Module") in classes
    if ("flax", "Variable") in classes:
        variables.setdefault(id(node), []).append(path)
    children = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda one: one is not node)[0]
    for key, child in children:
        if child is node:
            yield Leaf(path, kind, module and isinstance(node, (float, complex)))
        else:
            beside = isinstance(node, Mapping) and "params" in node
            named = kind or _collection(key[-1], beside)
            yield from _walk(child, (*path, *key), named, module, variables)


def _kind(node: Any, path: tuple[Any, ...]) -> Kind | None:
    classes = _classes(node)
    name = type(node).__name__
    if ("flax", "Variable") in classes and ("flax", "Param") not in classes:
        if ("flax", "RngState") in classes:
            return Kind(f"random state (flax {name})", _RANDOM)
        theirs = type(node).__module__.startswith("flax.")
        return Kind(f"a flax {name}", f"{_SPLIT}; or {_KEEP}", firm=theirs)
    if classes & {("flax", "RngStream"), ("flax", "Rngs")}:
        return Kind(f"random state (flax {name})", _RANDOM)
    if classes & {("flax", "Pytree"), ("flax", "Object")}:
        return _MODULE
    if ("equinox", "State") in classes:
        return Kind("an equinox State", f"close over it; or {_KEEP}")
    if ("equinox", "StateIndex") in classes:
        return Kind(
            "the state of an equinox layer",
            "make the model with eqx.nn.make_with_state, which takes the state out of it",
        )
    if ("optax", name) in classes and hasattr(node, "_fields"):
        return Kind("an optimizer's state", "give only the parameters", firm=False)
    if isinstance(node, Mapping) and {"counter", "hidden", "average"} <= set(node):
        return Kind("a haiku state", f"give only the parameters; or {_KEEP}", firm=False)
    return None


def _collection(key: Any, beside_params: bool) -> Kind | None:
    """What a key of a linen module's variables says."""
    name = getattr(key, "key", getattr(key, "name", None))
    if name == "batch_stats" or (beside_params and name in ("cache", "intermediates")):
        return Kind(f"of the flax collection {name!r}", f"give only the parameters; or {_KEEP}")
    return None


def _classes(node: Any) -> set[tuple[str, str]]:
    """(package, name) of its class and the classes it derives from."""
    return {(one.__module__.partition(".")[0], one.__name__) for one in type(node).__mro__}
