"""Multilayer perceptrons whose hidden activations can be looked at."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class Layer(NamedTuple):
    """An affine map y = W x + b."""

    weight: Float[Array, "out in"]
    bias: Float[Array, " out"]


def mlp_init(key: PRNGKeyArray, sizes: Sequence[int]) -> list[Layer]:
    """Draws a network; weights and biases uniform on ±1/sqrt(fan in).

    Args:
        key: a typed PRNG key; layers draw from it independently.
        sizes: (inputs, hidden..., outputs); at least two, each at least 1.

    Returns:
        One `Layer` per map, first to last, float32 (float64 under x64).

    Raises:
        ValueError: fewer than two sizes, or a size below 1.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(
            f"mlp_init: sizes must be two or more positive numbers, got {tuple(sizes)}"
        )
    layers = []
    for index, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        weight_key, bias_key = jax.random.split(jax.random.fold_in(key, index))
        bound = fan_in**-0.5
        layers.append(
            Layer(
                jax.random.uniform(weight_key, (fan_out, fan_in), minval=-bound, maxval=bound),
                jax.random.uniform(bias_key, (fan_out,), minval=-bound, maxval=bound),
            )
        )
    return layers


def mlp_layers(
    layers: Sequence[Layer],
    x: Float[Array, "*batch inputs"],
    activation: Callable[[Array], Array] = jnp.tanh,
) -> tuple[list[Float[Array, "*batch _"]], Float[Array, "*batch outputs"]]:
    """The activations of every hidden layer, first to last, and the outputs (no activation)."""
    # Columns, as in y = W x: for narrow layers side by side (under vmap) a third faster on CPUs
    # than rows, which are transposed back and forth.
    columns = x.reshape(-1, x.shape[-1]).T
    hidden = []
    for index, layer in enumerate(layers):
        columns = layer.weight @ columns
        columns = columns + jnp.broadcast_to(layer.bias[:, None], columns.shape)
        if index < len(layers) - 1:
            columns = activation(columns)
            hidden.append(columns.T.reshape(*x.shape[:-1], -1))
    return hidden, columns.T.reshape(*x.shape[:-1], -1)


def mlp(
    layers: Sequence[Layer],
    x: Float[Array, "*batch inputs"],
    activation: Callable[[Array], Array] = jnp.tanh,
) -> Float[Array, "*batch outputs"]:
    """The outputs of the network."""
    return mlp_layers(layers, x, activation)[1]
