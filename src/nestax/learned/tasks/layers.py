"""What the networks of the families share: layers, activations, the loss of classifiers."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ...optim.internal import whole

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "sine": jnp.sin,
}


def check_activations(who: str, names: Any) -> tuple[str, ...]:
    """Names of activations as a tuple.

    Raises:
        ValueError: none, or an unknown one.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in names if name not in ACTIVATIONS]
    if not names or unknown:
        raise ValueError(
            f"{who}: activations are names among {', '.join(ACTIVATIONS)}, got {names!r:.80}"
        )
    return names


def check_sizes(who: str, argument: str, sizes: Any) -> tuple[int, ...]:
    """Sizes of layers as a tuple.

    Raises:
        ValueError: no list, or a size below 1.
    """
    if not isinstance(sizes, Sequence) or isinstance(sizes, str):
        raise ValueError(f"{who}: {argument} must be a list of sizes, such as (32,), got {sizes!r}")
    return tuple(whole(who, argument, size) for size in sizes)


def activate(names: Sequence[str], which: Array, x: Array) -> Array:
    """The activation number `which` of those named."""
    if len(names) == 1:
        return ACTIVATIONS[names[0]](x)
    return jax.lax.switch(which, [ACTIVATIONS[name] for name in names], x)


def dense_init(key: Array, inputs: int, outputs: int) -> dict[str, Array]:
    """A linear layer that keeps the variance, with biases of zero."""
    weight = jax.random.normal(key, (inputs, outputs)) / jnp.sqrt(inputs)
    return {"weight": weight, "bias": jnp.zeros((outputs,), weight.dtype)}


def dense(layer: Any, x: Array) -> Array:
    """A linear layer of rows, shape (..., inputs) -> (..., outputs)."""
    bias = layer["bias"]
    return x @ layer["weight"] + bias.reshape((1,) * (x.ndim - 1) + bias.shape)


def mlp_init(key: Array, sizes: Sequence[int]) -> PyTree:
    """Linear layers of these sizes, first to last, as a tuple."""
    keys = jax.random.split(key, len(sizes) - 1)
    pairs = zip(keys, sizes, sizes[1:], strict=False)
    return tuple(dense_init(key, inputs, outputs) for key, inputs, outputs in pairs)


def mlp(layers: PyTree, activation: Callable[[Array], Array], x: Array) -> Array:
    """Linear layers with an activation between them."""
    for layer in layers[:-1]:
        x = activation(dense(layer, x))
    return dense(layers[-1], x)


def cross_entropy(scores: Array, labels: Array) -> Array:
    """Mean cross entropy in nats.

    Args:
        scores: shape (..., classes).
        labels: integers, shape (...).
    """
    chosen = jnp.take_along_axis(scores, labels[..., None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(scores, axis=-1) - chosen)
