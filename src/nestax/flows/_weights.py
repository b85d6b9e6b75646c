"""Which leaves of a value are weights, and which must never reach an optimizer.

Running statistics, counters and random state come in the same pytrees as weights. Other libraries
mark them by a class or by a name. Classes are recognised by their names, so that none of those
libraries is imported.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_SPLIT = (
    "give only the parameters, graph, params = nnx.split(model, nnx.Param), and put the model "
    "together in the objective: nnx.merge(graph, params)"
)
_TIE = (
    "tie them with eqx.nn.Shared, or call the one layer twice; layers that only begin alike take "
    "copies, such as copy.deepcopy(layer)"
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
    kind: Kind | None  # of the outermost part around it that holds no weights, firm ones first
    setting: bool  # a Python float in an equinox module, which equinox does not train either
    inexact: bool


class Part(NamedTuple):
    """Something that updates would part if a value held it twice."""

    node: Any  # kept, so that nothing else gets its id
    what: str
    repair: str
    paths: list[tuple[Any, ...]]


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
    parts: dict[int, Part] = {}
    leaves = list(_walk(value, (), None, False, parts))
    check_arrays(who, value)
    flags = [None] * len(leaves) if trained is None else _flags(who, value, trained)
    for leaf, flag in zip(leaves, flags, strict=True):
        kind = leaf.kind
        if kind is not None and (flag is None or (flag and kind.firm)):
            raise ValueError(
                f"{who}{jax.tree_util.keystr(leaf.path)} is {kind.what}, not a weight: it would "
                f"be trained, or stay what it is for ever. To repair this, {kind.repair}"
            )
    for node, what, repair, paths in parts.values():
        moved = len(paths) > 1 and any(
            leaf.inexact and flag is not False
            for leaf, flag in zip(leaves, flags, strict=True)
            if any(leaf.path[: len(path)] == path for path in paths)
        )
        if moved and not _uniform(node):
            first, second = (jax.tree_util.keystr(path) for path in paths[:2])
            raise ValueError(
                f"{who} holds one {what} twice, at {first} and {second}: updates would "
                f"part them. To repair this, {repair}"
            )
    settings = [leaf.setting for leaf in leaves]
    return [
        None if setting else flag is not False
        for setting, flag in zip(settings, flags, strict=True)
    ]


def check_arrays(who: str, value: Any) -> None:
    """Refuses arrays of other libraries, and modules of torch: a compiled program would hold them
    as constants.

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
        elif (module := ("torch", "Module") in _classes(leaf)) or (
            hasattr(leaf, "shape") and hasattr(leaf, "dtype")
        ):
            package, name = type(leaf).__module__.partition(".")[0], type(leaf).__name__
            what = f"a {package} {name}, no array of JAX or numpy"
            repair = "convert it, for instance with np.asarray(x)"
            if ("torch", "Tensor") in _classes(leaf):
                repair = "convert it with nx.torch.to_jax"
            if module:
                repair = (
                    "give its tensors, nx.torch.to_jax(dict(net.named_parameters())), and call it "
                    "in the objective by nx.torch.jax_function(net)"
                )
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


_MODULE = Kind(
    "part of a whole flax nnx module (which changes in place)",
    f"{_SPLIT}. (With dropout or statistics nnx.split takes more filters: docs/interop/flax.md)",
)
_NUMPY = Kind(
    "a numpy array in an equinox module, which equinox does not train",
    "make it an array of JAX by jnp.asarray, or say which leaves are weights, with trained=",
    firm=False,
)


def _walk(
    node: Any,
    path: tuple[Any, ...],
    kind: Kind | None,
    module: bool,
    parts: dict[int, Part],
) -> Iterator[Leaf]:
    """The leaves of a pytree in their order; `parts` gathers by id what should occur once only."""
    inner = _kind(node, path)
    if kind is None or (inner is not None and inner.firm and not kind.firm):
        kind = inner
    classes, inexact, once = _classes(node), _inexact(node), None
    if ("flax", "Variable") in classes:
        once = "flax Variable", f"{_SPLIT}, which holds it once"
    elif ("equinox", "Module") in classes:
        module, once = True, ("equinox module", _TIE)
    elif module and isinstance(node, jax.Array):
        once = "array of an equinox module", _TIE
    elif module and inexact and isinstance(node, (np.ndarray, np.generic)):
        kind = kind or _NUMPY
    if once is not None:
        parts.setdefault(id(node), Part(node, *once, [])).paths.append(path)
    children = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda one: one is not node)[0]
    for key, child in children:
        if child is node:
            setting = type(node) in (float, complex)
            yield Leaf(path, kind, module and setting, inexact)
        else:
            beside = isinstance(node, Mapping) and "params" in node
            named = kind or _collection(key[-1], beside)
            yield from _walk(child, (*path, *key), named, module, parts)


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
    if beside_params and name != "params":
        say = f'trained={{"params": True, "{name}": False}}, or trained=True for all'
        return Kind("in a collection beside 'params'", f"say which are weights, {say}", firm=False)
    return None


def _uniform(node: Any) -> bool:
    """Whether this is an array whose entries are all equal, or may be: several layers that begin
    with ones may be given one array."""
    if not isinstance(node, jax.Array):
        return False
    return isinstance(node, Tracer) or bool(np.all(np.asarray(node) == np.asarray(node).flat[:1]))


def _inexact(node: Any) -> bool:
    dtype = getattr(node, "dtype", None)
    return isinstance(node, (float, complex)) or (
        isinstance(dtype, np.dtype) and jnp.issubdtype(dtype, jnp.inexact)
    )


def _classes(node: Any) -> set[tuple[str, str]]:
    """(package, name) of its class and the classes it derives from."""
    return {(one.__module__.partition(".")[0], one.__name__) for one in type(node).__mro__}
