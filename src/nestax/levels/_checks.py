"""What `Nest.init` refuses, by level and path (rule R12)."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _soundness
from ._carry import View
from ._declaration import Declaration
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


def tasks(given: Any, task: Any, copies: int | None) -> None:
    """One task for each copy, along the leading axis of every array."""
    if task is not None:
        raise ValueError(
            "task and tasks are both given; task is shared by all copies, tasks holds one for each "
            "copy: give one of the two"
        )
    if copies is None:
        raise ValueError(
            "tasks holds one task for each copy; give copies as well, or a single task as task"
        )
    if callable(given) and jax.tree.leaves(given) == [given]:
        raise ValueError("tasks is a pytree of arrays; a function key -> task is given as task")
    leaves = jax.tree_util.tree_leaves_with_path(given)
    if not leaves:
        raise ValueError("tasks holds no arrays; expected arrays with a leading axis of copies")
    for path, leaf in leaves:
        where = "tasks" + jax.tree_util.keystr(path)
        if not isinstance(leaf, (jax.Array, np.ndarray)) or leaf.ndim == 0:
            found = "a scalar" if isinstance(leaf, (jax.Array, np.ndarray)) else repr(leaf)
            raise ValueError(
                f"{where} needs a leading axis of {copies} copies, got {found}; stack the tasks, "
                "as in jax.tree.map(lambda *a: jnp.stack(a), *list_of_tasks)"
            )
        if leaf.shape[0] != copies:
            raise ValueError(
                f"{where} has a leading axis of {leaf.shape[0]}, but there are {copies} copies, "
                f"each of which needs a task; stack {copies} tasks or give copies={leaf.shape[0]}"
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
    _soundness.check(nest, begun)


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
