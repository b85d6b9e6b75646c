"""One nest in several processes: what must be the same in all of them is compared, and what one of
them decides is told to the others.

A program over the devices of several processes ends only if all of them run it, the same one, in
the same order. Arrays that every process hands in by itself, such as batches of the host, are
taken to be equal; JAX does not look. So what differs would give wrong numbers or wait forever.

Every function here that exchanges something must be called by all processes.
"""

import json
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

T = TypeVar("T")

_WIDTH = 4096  # bytes that a process tells the others at once


def together(tree: Any) -> bool:
    """Whether an array of a pytree lies on devices of several processes."""
    if jax.process_count() == 1:
        return False
    return any(
        isinstance(a, jax.Array) and not isinstance(a, Tracer) and not a.is_fully_addressable
        for a in jax.tree.leaves(tree)
    )


def spans(mesh: Any) -> bool:
    """Whether a mesh has devices of several processes."""
    return mesh is not None and len({device.process_index for device in mesh.devices.flat}) > 1


def on_host(array: Any) -> Any:
    """An array as numpy has it; exchanged, if other processes hold parts of it."""
    if not isinstance(array, jax.Array):
        return np.asarray(array)
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return _utilities().process_allgather(array, tiled=True)


def whole(tree: Any) -> Any:
    """A pytree as arrays of the host, if several processes hold it; exchanged."""
    return jax.tree.map(on_host, tree) if together(tree) else tree


def spread(tree: Any, like: Any) -> Any:
    """Process 0's arrays of the host, placed as those of `like`, which gives shapes and dtypes in
    the other processes; exchanged."""

    def one(array: Any, like: Any) -> Any:
        if not isinstance(like, jax.Array):
            return array
        whole = np.asarray(_utilities().broadcast_one_to_all(np.asarray(array)), like.dtype)
        return jax.make_array_from_callback(like.shape, like.sharding, lambda at: whole[at])

    return jax.tree.map(one, tree, like)


def told(text: str) -> list[str]:
    """The texts of all processes, cut where they are long; exchanged."""
    raw = text.encode()[:_WIDTH]
    rows = _utilities().process_allgather(np.frombuffer(raw.ljust(_WIDTH, b"\0"), np.uint8))
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in np.asarray(rows)]


def led(function: Callable[[], Any]) -> Any:
    """What a function returns in process 0, JSON-able, to all; the others do not call it.

    Raises:
        RuntimeError: in the others, if it raised anything in process 0.
    """
    error: BaseException | None = None
    said = ""
    if jax.process_index() == 0:
        try:
            said = json.dumps({"returned": function()})
            if len(said) > _WIDTH:
                raise ValueError(f"process 0 tells the others at most {_WIDTH} characters")
        except BaseException as caught:  # an interruption too: the others wait for an answer
            error, said = caught, _message(caught)
    first = told(said)[0]
    if error is not None:
        raise error
    if first.startswith("!"):
        raise RuntimeError(f"process 0 ended with {first[1:]}")
    return json.loads(first)["returned"]


def alike(
    function: Callable[[], T], compared: Callable[[T], Any], what: Callable[[set[str]], str]
) -> T:
    """What a function returns, called by all processes.

    Args:
        function: called here too.
        compared: of what it returned, by name, the numbers that must be equal.
        what: names that differ -> the beginning of an error.

    Raises:
        ValueError: they differ.
        RuntimeError: it raised something in another process.
    """
    error: BaseException | None = None
    made: Any = None
    try:
        made = function()
        said = json.dumps(compared(made))
        if len(said) > _WIDTH:
            said = json.dumps({"": digest(said)})
    except BaseException as caught:  # an interruption too: the others wait for an answer
        error, said = caught, _message(caught)
    everyone = told(said)
    if error is not None:
        raise error
    for number, one in enumerate(everyone):
        if one.startswith("!"):
            raise RuntimeError(f"process {number} ended with {one[1:]}")
    if len(set(everyone)) > 1:
        found = [json.loads(one) for one in everyone]
        names = {name for one in found for name in one}
        differing = {n for n in names if len({json.dumps(one.get(n)) for one in found}) > 1}
        others = [str(i) for i, one in enumerate(found) if one != found[0]]
        raise ValueError(
            f"{what(differing)} not the same in process 0 and in process {', '.join(others)}"
        )
    return made


def digest(*things: Any) -> str:
    """A number for pytrees of arrays and texts; of arrays that lie on other devices too, only for
    shape and dtype."""
    found = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(things):
        found = zlib.crc32(jax.tree_util.keystr(path).encode(), found)
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
            text = "" if callable(leaf) or " at 0x" in repr(leaf) else repr(leaf)
            found = zlib.crc32(text.encode(), found)
            continue
        found = zlib.crc32(f"{leaf.shape} {leaf.dtype}".encode(), found)
        if isinstance(leaf, jax.Array):
            if isinstance(leaf, Tracer) or not leaf.is_fully_addressable:
                continue
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
        found = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), found)
    return f"{found:08x}"


def same_beginning(where: Any, given: dict[str, Any]) -> None:
    """Refuses, at `init`, what differs between processes that run one nest.

    Args:
        where: the mesh.
        given: by what an error calls it.

    Raises:
        ValueError: what differs.
    """
    if jax.process_count() == 1 or not (spans(where) or together(given)):
        return
    alike(
        lambda: given,
        lambda given: {name: digest(one) for name, one in given.items()},
        lambda names: (
            f"Nest.init: {_listed(names, 'what it was given')}: the numbers must be equal in all "
            "processes, so draw them from one seed and read them from one file; they are"
        ),
    )


def same_program(program: dict[str, str]) -> None:
    """Refuses programs that differ between processes, constants that they hold included.

    Args:
        program: by name, a number for each part of it.

    Raises:
        ValueError: what differs.
    """
    alike(
        lambda: program,
        lambda program: {name: one[:6] for name, one in program.items()},
        lambda names: (
            f"Nest.init: {_listed(names, 'the program of the levels')}: every process runs the "
            "same program, with the same numbers in it (data and rates that functions hold "
            "included); hand over data by the task, as nx.Stream or drawn with the key. It is"
        ),
    )


def same_batches(read: Callable[[], T], who: str) -> T:
    """Host data as all processes read it.

    Raises:
        ValueError: they have read something else.
    """
    return alike(
        read,
        lambda fed: {"": digest(fed)},
        lambda _: (
            f"{who}: every process reads all batches of a Stream, for all copies, and its devices "
            "take their part; so it must be a function of the index alone, without the process's "
            "number and without a seed of its own. The batches are"
        ),
    )


def _listed(names: set[str], otherwise: str) -> str:
    return " and ".join(sorted(names - {""})) or otherwise


def _message(error: BaseException) -> str:
    return f"!{type(error).__name__}: {error}"


def _utilities() -> Any:
    from jax.experimental import multihost_utils  # imported where it is used: it takes time

    return multihost_utils
