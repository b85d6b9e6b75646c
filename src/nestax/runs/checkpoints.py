"""A run's checkpoints: those of orbax, which appear whole or not at all, and checksums of them.

Of several processes that JAX connects, process 0 writes them. Orbax is told that it is alone.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from .errors import RunError, needed
from .files import refusals
from .journal import Journal

State = TypeVar("State")

_OURS = ("arrays", "checksum")  # what is added to a checkpoint's facts


class Checkpoints:
    """The newest checkpoint of a run's folder, in `checkpoints/`."""

    def __init__(self, folder: Path, journal: Journal):
        self._folder, self._path, self._journal = folder, folder / "checkpoints", journal
        self._open, self._checked = None, False

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Saves a pytree of arrays and numbers, and JSON-able facts."""
        ocp = _orbax()
        leaves = [_storable(leaf) for leaf in jax.tree.leaves(state)]
        meta = {**meta, "arrays": [_described(leaf) for leaf in leaves]}
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(_kept(leaves)),
            meta=ocp.args.JsonSave({**meta, "checksum": _checksum(meta)}),
        )
        try:
            with refusals(self._folder), _quiet():
                self._manager().save(step, args=arguments)
                self._journal.keeps(f"{self._path.name}/{step}")
            self._checked = True
        except BaseException:
            self._open = None  # a new one removes what was half written
            raise

    def saved(self) -> dict[str, Any] | None:
        """The facts saved with the newest checkpoint; None without one.

        Raises:
            RunError: they are damaged.
        """
        meta = self._meta()
        return None if meta is None else {k: v for k, v in meta.items() if k not in _OURS}

    def restore(self, like: State) -> State:
        """The state of the newest checkpoint.

        Args:
            like: a state of the same structure, shapes and dtypes.

        Raises:
            RunError: it is damaged, or of another structure, or there is none.
        """
        ocp = _orbax()
        meta = self._meta()
        if meta is None:
            raise RunError(f"{self._folder} has no checkpoint to restore; start the run first")
        leaves, structure = jax.tree.flatten(like)
        plain = [_storable(leaf) for leaf in leaves]
        described = meta.get("arrays")
        if described is not None:
            self._fits(described, plain)
        asked = [ocp.utils.to_shape_dtype_struct(leaf) for leaf in _kept(plain)]
        found = self._read("state", ocp.args.StandardRestore(asked))
        if described is not None:
            rest = iter(found)
            found = [next(rest) if np.size(leaf) else leaf for leaf in plain]
            found = [_placed(one, leaf) for one, leaf in zip(found, leaves, strict=True)]
            for number, (leaf, known) in enumerate(zip(found, described, strict=True)):
                if _described(leaf) != known:
                    raise self._damaged(f"array {number} has another checksum")
        return structure.unflatten(map(_like, found, leaves))

    def _fits(self, described: list[Any], leaves: list[Any]) -> None:
        kinds = [(known[0], tuple(known[1])) for known in described]
        asked = [(str(leaf.dtype), tuple(leaf.shape)) for leaf in leaves]
        if kinds != asked:
            at = next((i for i, (a, b) in enumerate(zip(kinds, asked, strict=False)) if a != b), -1)
            what = (
                f"array {at} is {kinds[at][0]}{list(kinds[at][1])} and {asked[at][0]}"
                f"{list(asked[at][1])} is asked for"
                if at >= 0
                else f"it has {len(kinds)} arrays and {len(asked)} are asked for"
            )
            raise RunError(
                f"the checkpoint in {self._path} is of another state: {what}; restore it into a "
                "state like the one that was saved"
            )

    def _meta(self) -> dict[str, Any] | None:
        ocp = _orbax()
        with self._reading():
            step = self._manager().latest_step()
            if step is None:
                if any(p.name.isdigit() for p in self._path.iterdir()):
                    raise ValueError("it is incomplete")
                return None
            if not self._checked:  # before orbax, whose threads would print what they stumble over
                self._journal.check_checkpoint(f"{self._path.name}/{step}")
                self._checked = True
        meta = self._read("meta", ocp.args.JsonRestore())
        if not isinstance(meta, dict) or _checksum(meta) != meta.get("checksum", _checksum(meta)):
            raise self._damaged("its facts have another checksum")
        if "arrays" in meta and "checksum" not in meta:
            raise self._damaged("its checksum is missing")
        return meta

    def _read(self, item: str, arguments: Any) -> Any:
        ocp = _orbax()
        with self._reading():
            manager = self._manager()
            return manager.restore(
                manager.latest_step(), args=ocp.args.Composite(**{item: arguments})
            )[item]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            with _quiet():
                yield
        except RunError:
            raise
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0][:120]
            raise self._damaged(f"{type(error).__name__}: {first}") from None

    def _damaged(self, why: str) -> RunError:
        step = self._open.latest_step() if self._open is not None else None
        path = self._path if step is None else self._path / str(step)
        return RunError(
            f"the checkpoint {path} cannot be read ({why}); it was damaged or made by another "
            f"version. Put back its files, or delete {self._path} to begin again from the start "
            "with the same call"
        )

    def _manager(self) -> Any:
        if self._open is None:
            ocp = _orbax()
            alone = _alone(ocp)
            options = ocp.CheckpointManagerOptions(
                max_to_keep=1,
                create=False,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
                multiprocessing_options=alone,
            )
            handlers = {
                "state": ocp.StandardCheckpointHandler(multiprocessing_options=alone),
                "meta": ocp.JsonCheckpointHandler(multiprocessing_options=alone),
            }
            with refusals(self._folder):
                self._path.mkdir(exist_ok=True)
                self._open = ocp.CheckpointManager(
                    self._path.absolute(), options=options, item_handlers=handlers
                )
        return self._open


def _orbax() -> Any:
    return needed("orbax.checkpoint", "orbax-checkpoint", "a run's checkpoints")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What orbax would log of a failure, a traceback of its threads, is in the error as well."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _alone(ocp: Any) -> Any:
    """Options by which orbax waits for no other process.

    Raises:
        RunError: this is not process 0; orbax would leave out arrays without a word.
    """
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    if me := jax.process_index():
        raise RunError(
            f"this is process {me} of {jax.process_count()}, and checkpoints are written by "
            "process 0. Spread one nest over all processes, or start processes that run nests of "
            "their own without jax.distributed.initialize"
        )
    return ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})


def _storable(leaf: Any) -> Any:
    """A number as an array, which keeps its dtype; where there are several processes, an array of
    the host.

    Raises:
        ValueError: other processes hold parts of it.
    """
    if not isinstance(leaf, jax.Array):
        return leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf)
    if jax.process_count() == 1:
        return leaf
    if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        raise ValueError(
            "checkpoints are written by one process, and other processes hold parts of an array; "
            "in all processes bring it to the host first, with jax.experimental.multihost_utils"
            ".process_allgather(state, tiled=True)"
        )
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return np.asarray(leaf)


def _placed(found: Any, leaf: Any) -> Any:
    """What was restored, on the devices of a leaf that is an array of JAX."""
    if not isinstance(leaf, jax.Array) or isinstance(found, jax.Array):
        return found
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda at: found[at])


def _like(found: Any, leaf: Any) -> Any:
    """What was restored for a leaf, of its type."""
    if isinstance(leaf, (jax.Array, np.ndarray)):
        return found
    return np.asarray(found)[()] if isinstance(leaf, np.generic) else np.asarray(found).item()


def _kept(leaves: list[Any]) -> list[Any]:
    """What orbax is given: it stores neither arrays without elements nor nothing at all."""
    return [leaf for leaf in leaves if np.size(leaf)] or [np.zeros(1)]


def _described(leaf: Any) -> list[Any]:
    """dtype, shape, checksum."""
    described = [str(leaf.dtype), list(leaf.shape)]
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    raw = np.ascontiguousarray(leaf).tobytes()
    return [*described, hashlib.blake2b(raw, digest_size=8).hexdigest()]


def _checksum(meta: dict[str, Any]) -> str:
    rest = {name: value for name, value in meta.items() if name != "checksum"}
    text = json.dumps(rest, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
