"""The memory of deep momentum: an MLP, and what of a tensor it reads as keys.

Two granularities. *Coordinates*: every coordinate of a matrix is a key of its own, so that one tiny
MLP R -> R serves matrices of any shape. *Rows*: every row of the matrix (out, b) is a key, and the
MLP R^b -> R^b can mix what belongs to different inputs of one unit. Vectors are matrices (n, 1).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._checks import number, option, static, whole
from ._descent import over_rms, root_mean_square
from ._matrices import newton_schulz

Memory = tuple[Float[Array, "..."], ...]
Features = Callable[[Array], Array]


@dataclass(frozen=True)
class Reading:
    """How a matrix becomes keys, and how what is said of them becomes a matrix.

    Columns (width, keys) are used throughout: keys stay the contiguous axis.

    Attributes:
        rows: whether a key is a row rather than a coordinate. Vectors are columns: each unit has a
            row of length one, as it has one row in the matrix of its layer, and the memory is the
            coordinatewise one.
        average: whether a key contains the slow average.
        features: phi, from a key (k,) to what the memory reads (d,).
    """

    rows: bool = False
    average: bool = True
    features: Features | None = None

    def width(self, columns: int) -> int:
        """b: the length of a row, 1 for coordinates."""
        return columns if self.rows else 1

    def _columns(self, matrix: Float[Array, "out in"]) -> Float[Array, "b keys"]:
        if not self.rows:
            return matrix.reshape(1, -1)
        # In units of sqrt(b), keys have the same mean squared norm for every width.
        return matrix.T / math.sqrt(self.width(matrix.shape[1]))

    def keys(self, u: Array, c: Array | None) -> Float[Array, "d keys"]:
        """What the memory reads of a gradient u and its slow average c.

        A key of zeros stays zeros whatever phi makes of it: of a gradient that is not there nothing
        is said, and nothing is learnt.
        """
        key = self._columns(u)
        if self.average:
            assert c is not None
            key = jnp.concatenate([key, self._columns(over_rms(c, root_mean_square(c)))])
        if self.features is None:
            return key
        there = jnp.any(key != 0, axis=0, keepdims=True)
        made = jax.vmap(self.features, 1, 1)(key)
        return jnp.where(there, made, jnp.zeros_like(made))

    def said(self, memory: Memory, u: Array, c: Array | None) -> Array:
        """The MLP's answers to all keys, in the shape of u; sqrt(b) MLP(key), see `_columns`."""
        answers = read(memory, self.keys(u, c))
        if not self.rows:
            return answers.reshape(u.shape)
        return answers.T * math.sqrt(self.width(u.shape[1]))

    def initial(
        self, key: Array, columns: int, hidden: Sequence[int], readout: float, dtype: Any
    ) -> Memory:
        """A memory for matrices of so many columns."""
        width = self.width(columns)
        parts = 2 if self.average else 1
        if self.features is None:
            # Each part's keys have a mean squared norm of one.
            return initial_memory(key, parts * width, width, hidden, parts, readout, dtype)
        seen = jax.eval_shape(self.features, jax.ShapeDtypeStruct((parts * width,), dtype))
        if len(getattr(seen, "shape", ())) != 1:
            raise ValueError(
                f"deep_momentum: features must map a key of shape ({parts * width},) to one axis, "
                f"got {seen}"
            )
        return initial_memory(key, seen.shape[0], width, hidden, seen.shape[0], readout, dtype)


def initial_memory(
    key: Array,
    fan_in: int,
    fan_out: int,
    hidden: Sequence[int],
    squared_norm: int,
    readout: float,
    dtype: Any,
) -> Memory:
    """Layers (out, in): hidden ones LeCun normal, the read-out normal with std `readout`.

    Args:
        squared_norm: of what the first layer reads, on average.
    """
    sizes = (fan_in, *hidden, fan_out)
    layers = []
    for index, (columns, rows) in enumerate(pairwise(sizes)):
        last = index == len(sizes) - 2
        if last and readout == 0.0:
            layers.append(jnp.zeros((rows, columns), dtype))
            continue
        scale = readout if last else (squared_norm if index == 0 else columns) ** -0.5
        layer_key = jax.random.fold_in(key, index)
        layers.append(scale * jax.random.normal(layer_key, (rows, columns), dtype))
    return tuple(layers)


def read(memory: Memory, key: Float[Array, "d keys"]) -> Float[Array, "b keys"]:
    """The MLP applied to every column. It is odd: no biases, tanh."""
    *layers, readout = memory
    for layer in layers:
        key = jnp.tanh(layer @ key)
    return readout @ key


def orthogonal(said: Float[Array, "out b"]) -> Float[Array, "out b"]:
    """Newton-Schulz, at a root mean square of about one: a vector is divided by its own."""
    return newton_schulz(said) * math.sqrt(max(said.shape))


def check(
    objective: Any,
    memory: Any,
    memory_input: Any,
    normalize: Any,
    hidden: Any,
    skip: Any,
    shared: Any,
    readout: Any,
    features: Any,
    output: Any,
) -> None:
    """Refuses structural arguments of `deep_momentum` that make no sense."""
    name = "deep_momentum"
    static(name, readout=readout, skip=skip, shared=shared, features=features, output=output)
    for argument, value, known in (
        ("objective", objective, ("dot", "l2")),
        ("memory", memory, ("coordinates", "rows")),
        ("memory_input", memory_input, ("gradient", "average", "constant")),
        ("normalize", normalize, ("memory", "update", "none")),
    ):
        option(name, argument, value, known)
    if not isinstance(hidden, (tuple, list)):
        raise ValueError(
            f"{name}: hidden must be a tuple of sizes such as (8,), got {hidden!r:.60}"
        )
    for size in hidden:
        whole(name, "hidden sizes", size)
    if memory_input == "constant" and (hidden or skip):
        raise ValueError(
            f'{name}: memory_input="constant" is a linear memory read without the gradient; '
            f"pass hidden=() and skip=False, got hidden={tuple(hidden)} and skip={skip}"
        )
    if memory_input == "constant" and (memory == "rows" or features is not None):
        raise ValueError(
            f'{name}: memory_input="constant" has a slot for each coordinate and reads no '
            'rows and no features; pass memory="coordinates" and features=None'
        )
    if memory == "rows" and shared:
        raise ValueError(
            f"{name}: rows of different tensors differ in length, so one memory cannot read "
            'them all; pass shared=False or memory="coordinates"'
        )
    number(name, "readout", readout)
    if features is not None and not callable(features):
        raise ValueError(
            f"{name}: features must be a function of a key or None, got {features!r:.60}"
        )
    if output is not None and not callable(output):
        option(name, "output", output, ("orthogonal",), '"orthogonal", a function or None')
