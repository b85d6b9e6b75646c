"""Which tokens of a piece are there, and where documents begin in it: `valid` and `reset`.

Layers that look at neighbouring tokens move the valid ones to the front, treat what follows as
padding on the right, and bring the results back. Documents are numbered by the resets so far:
document 0 continues the state that is given.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int, Integer

Mask = Bool[Array | np.ndarray, " time"]


def segment_starts(
    segments: Integer[Array | np.ndarray, " time"], valid: Mask | None = None
) -> Mask:
    """Marks where documents begin in a packed sequence: the `reset=` of scans, layers and models.

    Args:
        segments: the id of each token's document, (time,) integers; neighbours of the same id are
            one document.
        valid: (time,) bool; ids of tokens that are not valid do not count. None: all tokens are
            valid.

    Returns:
        A mask, (time,) bool, True at the first token, and at each token whose id differs from that
        of the token before. A numpy array if the ids are known, so that the number of documents is
        known inside `jit` too.

    Raises:
        ValueError: segments that are not one array of integers; a mask of another shape or dtype.
    """
    if not (
        isinstance(segments, (np.ndarray, jax.Array))
        and not isinstance(segments, np.ma.MaskedArray)
        and segments.ndim == 1
        and jnp.issubdtype(segments.dtype, jnp.integer)
    ):
        raise ValueError(
            "segment_starts: segments must be one array of integers (time,), an id for each token, "
            f"got {_described(segments)}; make lists arrays, and for a batch use jax.vmap"
        )
    time = segments.shape[0]
    valid, _ = check_masks("segment_starts", time, valid, None)
    known = not isinstance(segments, Tracer) and not isinstance(valid, Tracer)
    xp: Any = np if known else jnp
    ids = xp.asarray(segments)
    if not time:
        return xp.zeros(0, bool)
    differs = lambda ids: xp.concatenate([xp.ones(1, bool), ids[1:] != ids[:-1]])  # noqa: E731
    if valid is None:
        return differs(ids)
    if known:
        starts = np.zeros(time, bool)
        starts[valid] = differs(ids[valid])[: np.sum(valid)]
        return starts
    front = to_front(jnp.asarray(valid))
    return front.back(differs(jnp.take(ids, front.source, mode="clip")))


def check_masks(
    name: str,
    time: int,
    valid: Any,
    reset: Any,
    max_documents: int | None = None,
) -> tuple[Mask | None, Mask | None]:
    """Refuses masks of another shape or dtype, and too many documents.

    Args:
        name: of the function or layer, for the error.
        time: tokens in the piece.
        valid: one bool for each token, or None.
        reset: like `valid`.
        max_documents: how many documents may begin in the piece, or None.

    Returns:
        `valid` and `reset`: known ones as numpy arrays, and None if they change nothing.

    Raises:
        ValueError: see above; it names the argument.
    """
    if max_documents is not None and not (
        isinstance(max_documents, (int, np.integer))
        and not isinstance(max_documents, bool)
        and max_documents >= 1
    ):
        raise ValueError(
            f"{name}: max_documents must be a whole number, at least 1, or None, got "
            f"{max_documents!r}"
        )
    valid, reset = _checked(name, "valid", time, valid), _checked(name, "reset", time, reset)
    if not time:
        return None, None
    if isinstance(valid, np.ndarray) and valid.all():
        valid = None
    if isinstance(reset, np.ndarray):
        if not reset.any():
            reset = None
        elif max_documents is not None and np.sum(reset) > max_documents:
            raise ValueError(
                f"{name}: {np.sum(reset)} documents begin in this piece, more than max_documents="
                f"{max_documents}; pass that number or more, or None"
            )
    return valid, reset


def _checked(name: str, what: str, time: int, mask: Any) -> Any:
    if mask is None:
        return None
    if not (
        isinstance(mask, (np.ndarray, jax.Array))
        and not isinstance(mask, np.ma.MaskedArray)
        and mask.shape == (time,)
        and mask.dtype == bool
    ):
        raise ValueError(
            f"{name}: {what} must be one array of booleans of shape ({time},), one for each token, "
            f"got {_described(mask)}; make lists arrays and numbers booleans, as in "
            "numpy.asarray(mask, bool), and for a batch use jax.vmap"
        )
    return mask if isinstance(mask, Tracer) else np.asarray(mask)


def _described(value: Any) -> str:
    """A value's shape and dtype, or its type."""
    if isinstance(value, np.ma.MaskedArray):
        return "a masked array"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} of shape {value.shape}"
    return f"a {type(value).__name__}"


def blank(x: Array, valid: Mask | None) -> Array:
    """x (time, ...) with zeros where tokens are not valid; with `valid=None` x itself.

    The numbers that stood there, NaN included, reach neither results nor gradients.
    """
    if valid is None:
        return x
    there = jnp.asarray(valid).reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(jnp.broadcast_to(there, x.shape), x, jnp.zeros_like(x))


def documents(reset: Mask) -> Int[Array, " time"]:
    """The document of each token: how many have begun so far, int32."""
    return jnp.cumsum(jnp.asarray(reset), dtype=jnp.int32)


class Front(NamedTuple):
    """The valid tokens of a piece side by side at its beginning, in their order.

    Attributes:
        source: the place of each valid token in the piece, then `time`, (time,).
        place: where each token lies in front; of no meaning where it is not valid, (time,).
        valid: (time,).
        count: how many are valid, int32.
    """

    source: Int[Array, " time"]
    place: Int[Array, " time"]
    valid: Bool[Array, " time"]
    count: Int[Array, ""]

    def take(self, x: Array) -> Array:
        """Moves features (time, ...) to the front; zeros follow."""
        return x.at[self.source].get(mode="fill", fill_value=0)

    def label(self, document: Int[Array, " time"]) -> Int[Array, " time"]:
        """Moves the documents' numbers to the front; what follows is of the last document."""
        return document.at[self.source].get(mode="clip")

    def back(self, y: Array) -> Array:
        """Brings results (time, ...) back to their tokens; zeros where a token is not valid."""
        return blank(y[self.place], self.valid)


def to_front(valid: Mask) -> Front:
    """Where valid tokens go if those that are not valid are left out."""
    valid = jnp.asarray(valid)
    time = valid.shape[0]
    (source,) = jnp.nonzero(valid, size=time, fill_value=time)
    place = jnp.cumsum(valid, dtype=jnp.int32)
    return Front(
        source.astype(jnp.int32),
        jnp.maximum(place - 1, 0),
        valid,
        place[-1] if time else jnp.zeros((), jnp.int32),
    )
