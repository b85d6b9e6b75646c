"""Randomness: which batch, start and task a level gets (rules R4 and R7).

A batch is a function of (context, tick, copy) and the nest's key alone. How a run is cut
into calls changes no draw, and a level that is added changes nobody else's data.
"""

import functools
import types
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._calls import plain, shown
from ._copy_number import with_copy

_TASK = zlib.crc32(b"task")


def batch(
    context: Any, key: jax.Array, task: Any, tick: Any, copy: Any, identity: Any = None
) -> Any:
    """The batch of `context` at a tick, for one copy.

    Args:
        context: `context(task, key) -> batch` or `context(task, key, copy) -> batch`; None gives
            the task.
        key: the nest's key, raw (`state.key`).
        task: this copy's task.
        tick: number of the tick being executed, from 0.
        copy: number of the copy; 0 where there are none.
        identity: of the context in its nest, see `identities`; None for a context that is the only
            one with its definition.
    """
    if context is None:
        return task
    identity = (definition(context), 0) if identity is None else identity
    return with_copy(plain(context), copy, task, batch_key(identity, key, tick, copy))


def batch_key(identity: tuple[int, int], key: jax.Array, tick: Any, copy: Any) -> jax.Array:
    """The key of that batch."""
    return _fold(key, *identity, tick, copy)


def memory_key(identity: tuple[int, int], key: jax.Array, tick: Any, copy: Any) -> jax.Array:
    """The key of what a process remembers at first, in an episode that begins at `tick`."""
    return _fold(key, zlib.crc32(b"memory"), *identity, tick, copy)


def start_key(key: jax.Array, name: str, tick: Any, copy: Any) -> jax.Array:
    """The key of the start of a level's episode that begins at `tick`."""
    return _fold(key, zlib.crc32(b"start " + name.encode()), tick, copy)


def horizon_key(key: jax.Array, name: str, tick: Any, copy: Any) -> jax.Array:
    """The key of the length of a level's episode that begins at `tick`."""
    return _fold(key, zlib.crc32(b"horizon " + name.encode()), tick, copy)


def flow_key(key: jax.Array, name: str, tick: Any) -> jax.Array:
    """The key of what the flow of a level draws for the period that begins at `tick`."""
    return _fold(key, zlib.crc32(b"flow " + name.encode()), tick)


def task_key(key: jax.Array, tick: Any, copy: Any) -> jax.Array:
    """The key of the task drawn for the episode that begins at `tick`."""
    return _fold(key, _TASK, tick, copy)


def raw_keys(who: str, keys: Any) -> jax.Array:
    """A key as raw data, in an array of its own; or several, along a leading axis.

    Raises:
        ValueError: it is none, or an axis without keys.
    """
    example = jax.random.key_data(jax.random.key(0))
    given = keys
    if isinstance(keys, jax.Array) and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        keys = jax.random.key_data(keys)
    if isinstance(keys, jax.Array) and keys.dtype == example.dtype:
        if keys.shape == example.shape:
            return jnp.array(keys)
        if keys.ndim == 2 and keys.shape[1:] == example.shape:
            if not len(keys):
                raise ValueError(
                    f"{who} got keys for no run, an array without entries; give at least one, as "
                    "in jax.random.split(key, 8)"
                )
            return jnp.array(keys)
    raise ValueError(
        f"{who} takes a key, such as jax.random.key(0), or for runs side by side several along "
        f"one leading axis, such as jax.random.split(key, 8); got {shown(given)}"
    )


def definition(context: Any) -> int:
    """A number for what a context is, the same in every process: what it is called, which names it
    uses, and what it closes over or is applied to."""
    return zlib.crc32(repr(_described(context, 4)).encode())


def identities(contexts: list[Any]) -> dict[int, tuple[int, int]]:
    """What stands for each context in its draws, by id: its definition, and its number among the
    contexts that have the same definition and are not the same, so that they draw different
    batches.

    Taken once for a nest: what a context closes over may change while the nest is used, and its
    draws must not.
    """
    seen: dict[int, list[Any]] = {}
    found: dict[int, tuple[int, int]] = {}
    for context in contexts:
        what = definition(context)
        alike = seen.setdefault(what, [])
        number = next((i for i, one in enumerate(alike) if same(context, one)), len(alike))
        if number == len(alike):
            alike.append(context)
        found[id(context)] = what, number
    return found


def same(a: Any, b: Any) -> bool:
    """Whether two contexts are one: the same object, equal bound methods or other objects that
    compare equal, or partial applications of one function to equal arguments."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, functools.partial):
        return all(map(same, (a.func, a.args, a.keywords), (b.func, b.args, b.keywords)))
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, (np.ndarray, jax.Array)):
        return _same_array(a, b)
    try:
        return bool(a == b)
    except Exception:  # such as objects that hold arrays: their own comparison has no answer
        return False


def _same_array(a: Any, b: Any) -> bool:
    if (a.shape, a.dtype) != (b.shape, b.dtype) or isinstance(a, Tracer):
        return False
    if isinstance(a, jax.Array):
        if not (a.is_fully_addressable and b.is_fully_addressable):
            return False
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
    return np.array_equal(np.asarray(a), np.asarray(b))


def _described(thing: Any, depth: int) -> Any:
    if isinstance(thing, (str, int, float, complex, bool, bytes, type(None))):
        return thing
    if depth == 0:
        return type(thing).__qualname__
    if isinstance(thing, types.FunctionType):
        code = thing.__code__
        names = (code.co_varnames, code.co_names, code.co_freevars)
        cells = [_cell(cell, depth) for cell in thing.__closure__ or ()]
        given = _described((thing.__defaults__, thing.__kwdefaults__), depth - 1)
        # Without its module: a script draws the same when it is run and when it is imported, and
        # what is moved to another file keeps its numbers.
        return (thing.__qualname__, names, cells, given)
    if isinstance(thing, types.MethodType):
        return _described((thing.__func__, thing.__self__), depth)
    if isinstance(thing, functools.partial):
        return _described((thing.func, thing.args, thing.keywords), depth)
    if isinstance(thing, (tuple, list)):
        return [_described(part, depth - 1) for part in thing]
    if isinstance(thing, dict):
        return sorted(
            (_named(key), repr(_described(part, depth - 1))) for key, part in thing.items()
        )
    if isinstance(thing, (np.ndarray, np.generic)):
        return (thing.shape, str(thing.dtype), zlib.crc32(np.ascontiguousarray(thing).tobytes()))
    if isinstance(thing, jax.Array):
        return (thing.shape, str(thing.dtype))  # what it holds may lie on other machines
    inner = getattr(thing, "__wrapped__", None)
    return _described(inner, depth) if inner is not None else type(thing).__qualname__


def _named(key: Any) -> str:
    name = str(key)
    # An address differs in every process.
    return repr(_described(key, 1)) if " at 0x" in name else name


def _cell(cell: Any, depth: int) -> Any:
    try:
        return _described(cell.cell_contents, depth - 1)
    except ValueError:  # not filled yet
        return None


def _fold(key: jax.Array, *numbers: Any) -> jax.Array:
    folded = jax.random.wrap_key_data(key)
    for number in numbers:
        folded = jax.random.fold_in(folded, number)
    return folded
