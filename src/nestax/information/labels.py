"""Class labels: their checks, a dense code for them, and their entropy H(Y)."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Int

from . import _check
from ._counting import changes, plug_in_entropy, run_lengths, sort_words

_WIDEST_RANGE = 1024
_LARGEST = int(np.iinfo(np.int64).max)


@dataclasses.dataclass(frozen=True)
class Labels:
    """Labels as codes in [0, count); under a trace without declared classes count is None."""

    codes: Any
    count: int | None


def label_entropy(y: ArrayLike, *, classes: int | tuple[int, ...] | None = None) -> ArrayLike:
    """Entropy of the empirical distribution of the labels, H(Y), in bits.

    Args:
        y: integer class labels, of shape (N,).
        classes: the classes that must occur: a number C for 0 .. C-1, or a tuple of labels.

    Returns:
        H(Y), numpy float64; inside `jit` or `vmap`, a JAX scalar of the enabled precision.

    Raises:
        ValueError: if y is not a vector of at least two integers, a label is not in `classes`, or
            a class of `classes` is empty. Inside `jit` and `vmap` values are not checked.
    """
    return entropy(encode("label_entropy", y, None, classes))[0]


def entropy(labels: Labels) -> tuple[Any, Any]:
    """H(Y) in bits and the number of classes that occur."""
    n = labels.codes.shape[0]
    if _check.is_traced(labels.codes):
        counts = _counts(labels.codes)
        return plug_in_entropy(counts, n), jnp.sum(counts > 0, dtype=jnp.int32)
    counts = np.bincount(labels.codes)
    counts = counts[counts > 0]
    return np.float64(np.sum(counts * np.log2(n / counts)) / n), np.int64(counts.size)


def encode(
    function: str,
    y: Any,
    rows: int | None,
    classes: Any,
    dense: bool = False,
) -> Labels:
    """Check labels and number them from zero.

    Args:
        function: who is called, for an error.
        y: integer class labels, of shape (N,).
        rows: how many there must be; None for any number from 2.
        classes: the classes that must occur, see `label_entropy`.
        dense: whether every code must occur, and the classes be known.

    Returns:
        The codes and their number.

    Raises:
        ValueError: see `label_entropy`; also if dense is wanted of traced labels whose classes
            are not declared.
    """
    y = _check.as_array(function, "y", y, "a vector of integer class labels")
    if y.ndim != 1:
        raise ValueError(
            f"{function}: y has shape {y.shape}; expected a vector of labels, (rows,). Turn "
            "one-hot rows into labels with y.argmax(-1), and drop axes of size one with "
            "y.reshape(-1)."
        )
    if rows is not None and y.shape[0] != rows:
        raise ValueError(
            f"{function}: y has {y.shape[0]} label(s) and t has {rows} row(s); expected one label "
            "per row. Take both from the same batch, in the same order."
        )
    if y.shape[0] < 2:
        raise ValueError(
            f"{function}: y has {y.shape[0]} label(s); expected at least 2. Pass more rows."
        )
    if not (jnp.issubdtype(y.dtype, jnp.integer) or y.dtype == bool):
        raise ValueError(
            f"{function}: y has dtype {y.dtype}; expected integer class labels. Convert them with "
            "y.astype(int), or bin a continuous target first."
        )
    declared = _declared(function, classes)
    if isinstance(y, Tracer):
        return _encode_traced(function, y, declared, dense)
    y = np.asarray(y)
    y = y.astype(np.int64) if y.dtype.kind in "bi" else y
    if declared is not None:
        return _encode_declared(function, y, declared)
    lowest, span = y.min(), int(y.max()) - int(y.min()) + 1
    if dense or span > _WIDEST_RANGE:
        values, codes = np.unique(y, return_inverse=True)
        return Labels(codes.astype(np.int32), values.size)
    return Labels((y - lowest).astype(np.int32), span)


def _declared(function: str, classes: Any) -> np.ndarray | None:
    if classes is None:
        return None
    why = "Give the number of classes, or a tuple of all labels."
    if isinstance(classes, tuple | list | np.ndarray):
        values = _check.as_array(function, "classes", classes, "a tuple of integers")
        if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "iu":
            raise ValueError(
                f"{function}: classes is {classes!r:.80}; expected a tuple of integers. {why}"
            )
        if np.unique(values).size != values.size:
            raise ValueError(
                f"{function}: classes is {classes!r:.80}, which names a class twice. {why}"
            )
        if int(values.max()) > _LARGEST:
            raise ValueError(
                f"{function}: classes holds {values.max()}; expected labels below 2**63. Number "
                "them anew, for example with numpy.unique(y, return_inverse=True)[1]."
            )
        return np.sort(values.astype(np.int64))
    return np.arange(_check.whole_number(function, classes, "classes", 1, 2**24, why))


def _encode_declared(function: str, y: np.ndarray, declared: np.ndarray) -> Labels:
    # Compared as int64: of int64 and uint64 numpy makes floating-point numbers.
    signed = y.astype(np.int64)
    codes = np.minimum(np.searchsorted(declared, signed), declared.size - 1).astype(np.int32)
    unknown = np.flatnonzero((declared[codes] != signed) | (y > _LARGEST))
    shown = f"{declared[:8].tolist()}{' ...' if declared.size > 8 else ''}"
    if unknown.size:
        raise ValueError(
            f"{function}: y holds {unknown.size} label(s) outside the declared classes {shown}, "
            f"the first ({y[unknown[0]]}) in row {unknown[0]}. Declare all classes, or number the "
            "labels from 0 to classes - 1."
        )
    missing = declared[np.bincount(codes, minlength=declared.size) == 0]
    if missing.size:
        raise ValueError(
            f"{function}: empty class: {missing.size} of the declared classes {shown} have no "
            f"sample, the first is {missing[0]}; expected each to occur in y. Draw the rows so "
            "that they cover all classes, or leave out classes=."
        )
    return Labels(codes, declared.size)


def _encode_traced(function: str, y: Array, declared: np.ndarray | None, dense: bool) -> Labels:
    y = y.astype(jnp.int32) if y.dtype == bool else y
    if declared is not None:
        info = jnp.iinfo(y.dtype)
        if not (info.min <= declared[0] and declared[-1] <= info.max):
            raise ValueError(
                f"{function}: y is of {y.dtype}, which cannot hold all classes from {declared[0]} "
                f"to {declared[-1]}; expected each to occur. Declare those that do."
            )
        codes = jnp.searchsorted(jnp.asarray(declared.astype(y.dtype)), y)
        return Labels(jnp.minimum(codes, declared.size - 1).astype(jnp.int32), declared.size)
    if dense:
        raise ValueError(
            f"{function}: y is traced by jit or vmap, so its classes are unknown; this estimator "
            "needs their number. Pass classes=, or keep y out of the traced arguments."
        )
    return Labels(y, None)


def _counts(codes: Int[Array, " n"]) -> Int[Array, " n"]:
    return run_lengths(changes(sort_words([codes])))
