"""The small network that learned rules apply to the features of each parameter."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..optim.internal import whole

FEW = 32  # parameters: matrices of rows are faster for as many on CPUs, of columns for more


def sizes(name: str, hidden: Any) -> tuple[int, ...]:
    """Sizes of hidden layers as a tuple.

    Raises:
        ValueError: no sequence of ints of at least 1.
    """
    if isinstance(hidden, (str, bytes)) or not isinstance(hidden, Sequence):
        raise ValueError(f"{name}: hidden must be a sequence of sizes, such as (4, 4)")
    return tuple(whole(name, "hidden", size) for size in hidden)


def drawn(key: Array, widths: Sequence[int]) -> list[dict[str, Array]]:
    """Layers before training: truncated normal weights times 1 / sqrt(inputs), biases 0.

    Args:
        key: of `jax.random.key`.
        widths: inputs, hidden layers, outputs.
    """
    keys = jax.random.split(key, len(widths) - 1)
    return [
        {
            "w": jax.random.truncated_normal(one, -2, 2, (a, b), jnp.float32) / a**0.5,
            "b": jnp.zeros(b, jnp.float32),
        }
        for one, a, b in zip(keys, widths, widths[1:], strict=False)
    ]


def applied(layers: Sequence[dict[str, Array]], x: Array) -> Array:
    """The network with rectified hidden layers.

    Args:
        layers: weights (inputs, outputs) and biases.
        x: (inputs, n).

    Returns:
        (outputs, n).
    """
    if x.shape[1] <= FEW:
        x = x.T
        for index, layer in enumerate(layers):
            x = jax.nn.relu(x) if index else x
            x = x @ layer["w"] + layer["b"][None]
        return x.T
    for index, layer in enumerate(layers):
        if index:
            x = jax.nn.relu(x)
        x = layer["w"].T @ x + layer["b"][:, None]
    return x
