"""What `Nest.init` refuses, by level and path (rule R12)."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ..flows import Direct
from . import _point
from ._carry import View
from ._declaration import TRAJECTORY, Declaration, flow_of
from ._level import Level
from ._values import Parts

if TYPE_CHECKING:
    from ._nest import Nest, State


def mesh(given: Any, copies: int | None) -> None:
    if not isinstance(given, jax.sharding.Mesh):
        raise ValueError(
            'mesh is a jax.sharding.Mesh, such as jax.make_mesh((8,), ("copies",), '
            f"axis_types=(AxisType.Auto,)); got {type(given).__name__}"
        )
    if copies is None:
        raise ValueError("a mesh spreads copies; give copies as well, or shard the values instead")
    axis, size = given.axis_names[0], given.shape[given.axis_names[0]]
    if copies % size:
        raise ValueError(
            f"{copies} copies do not divide over the {size} devices of the mesh's axis "
            f"{axis!r}; use "
            f"{copies + size - copies % size}"
        )


def raw_key(key: Any) -> jax.Array:
    example = jax.random.key_data(jax.random.key(0))
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    if not isinstance(key, jax.Array) or (key.shape, key.dtype) != (example.shape, example.dtype):
        raise ValueError(f"init takes a key, such as jax.random.key(0); got {key!r}")
    return jnp.array(key)


def known(nest: Declaration, name: str) -> None:
    names = [level.name for level in nest.levels]
    if name not in names:
        raise ValueError(f"no level is called {name!r}; there are {', '.join(map(repr, names))}")


def names(nest: Declaration, values: Any) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"init takes a dict of level name -> value, got {type(values).__name__}")
    started = {level.name for level in nest.episodic}
    for name in values:
        known(nest, name)
        if name in started:
            raise ValueError(
                f"level {name!r} has a start, which gives its value; leave it out of init"
            )
    for level in nest.levels:
        if level.name not in values and level.name not in started:
            raise ValueError(f"level {level.name!r} has no start: init needs a value for it")


def trainable(parts: dict[str, Parts]) -> None:
    for name, one in parts.items():
        if not jax.tree.leaves(one.trained):
            raise ValueError(
                f"level {name!r}: its value holds nothing to train (no array of floating point or "
                "complex numbers)"
            )


def state(nest: "Nest", begun: "State") -> None:
    trainable(begun.parts)
    for level in nest.declaration.levels:
        _stable(nest, level, begun)
    for level in nest.declaration.levels:
        if not isinstance(flow_of(level), (Direct, *TRAJECTORY)):
            _settled(nest, level, begun)


def _stable(nest: "Nest", level: Level, begun: "State") -> None:
    """An update must leave the level's value and optimizer state as it found them in shape."""
    program, view = nest._program, View(nest.copies)

    def once(begun: "State", feed: Any) -> Any:
        carry = nest._carry(begun, feed)
        batch, axis = program.batch(level.context, carry, view)
        losses, _ = program.losses(level, carry.values, batch, axis, view)
        gradient = carry.values[level.name].trained
        parts, optimizer = program.update(level, carry, gradient, losses, view)
        again = program.fresh(level, carry, view) if level.start is not None else None
        return (parts, optimizer), again

    feed = nest.feed(begun) if program.streams else {}
    (parts, optimizer), again = jax.eval_shape(once, begun, feed)
    old = (begun.parts[level.name], begun.optimizers[level.name])
    _same(level, "its optimizer's update", "value", old[0], parts)
    _same(level, "its optimizer's update", "optimizer state", old[1], optimizer)
    if again is not None:
        _same(level, "its start", "value", old[0], again[0])


def _same(level: Level, who: str, what: str, old: Any, new: Any) -> None:
    before, after = jax.tree.structure(old), jax.tree.structure(new)
    if before != after:
        raise ValueError(
            f"level {level.name!r}: {who} changes the structure of its {what}, from {before} to "
            f"{after}"
        )
    pairs = zip(jax.tree_util.tree_leaves_with_path(old), jax.tree.leaves(new), strict=True)
    for (path, a), b in pairs:
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise ValueError(
                f"level {level.name!r}: {who} changes {what}{jax.tree_util.keystr(path)} from "
                f"{a.dtype}{list(a.shape)} to {b.dtype}{list(b.shape)}; it must keep shape and "
                f"dtype"
            )


def _settled(nest: "Nest", level: Level, begun: "State") -> None:
    """An implicit gradient that is zero by construction, or a solver that does not fit, is refused.

    Judged from products with random vectors at a random point near the values, where nothing that
    depends on anything is exactly zero.
    """
    program, solver = nest._program, _point.solver_of(level)
    inner = nest.declaration.eliminated(level)
    view = View(None, 0) if nest.copies is not None else View()

    def one(leaf: jax.Array, key: jax.Array) -> jax.Array:
        return leaf + 0.1 * jax.random.normal(key, leaf.shape, leaf.dtype)

    def products(begun: "State", feed: Any, key: jax.Array) -> Any:
        carry = nest._carry(begun, feed)
        carry = carry._replace(before={n: program.kept(carry) for n in program.rerun})
        if nest.copies is not None:
            axes = program.carry_axes(carry)
            first = jax.vmap(lambda c, i: (c, i), (axes, 0), 0, axis_size=nest.copies)
            carry, _ = first(carry, jnp.arange(nest.copies))
            carry = jax.tree.map(lambda a: a[0], carry)
        point = _point._Point(program, carry, view)
        group = nest.declaration.group(level)
        slow = point.current(
            o for o in nest.declaration.levels if nest.declaration.group(o) >= group
        )
        fast = point.current(inner)
        leaves, structure = jax.tree.flatten((fast, slow, fast, fast))
        keys = jax.random.split(key, len(leaves))
        fast, slow, u, w = structure.unflatten(
            [one(a, k) for a, k in zip(leaves, keys, strict=True)]
        )

        def condition(fast: Any, own: Any) -> Any:
            return point.stationarity(level, {**slow, level.name: own, **fast})

        _, back = jax.vjp(condition, fast, slow[level.name])
        (au, cross), (aw, _) = back(u), back(w)
        return _dot(au, w), _dot(aw, u), _dot(au, au), _dot(w, w), _dot(cross, cross)

    feed = nest.feed(begun) if program.streams else {}
    found = jax.jit(products)(begun, feed, jax.random.key(0))
    left, right, image, size, cross = (float(np.asarray(a)) for a in found)
    names = " and ".join(repr(o.name) for o in inner)
    if cross == 0:
        raise ValueError(
            f"level {level.name!r}: its value does not occur in the objective of {names}, whose "
            "stationary point its implicit flow differentiates: the gradient would be zero. A "
            "starting "
            "point or learning rate is differentiated by Unroll()"
        )
    asymmetry = abs(left - right) / max((image * size) ** 0.5, 1e-30)
    if len(inner) > 1 and getattr(solver, "symmetric", False) and asymmetry > 1e-3:
        raise ValueError(
            f"level {level.name!r}: {type(solver).__name__} needs a symmetric system, and {names} "
            "are coupled by objectives of their own; use Dense() or another general solver"
        )


def _dot(a: Any, b: Any) -> Any:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum(jnp.vdot(x, y).real for x, y in pairs)
