"""Small convolutional networks on labelled images."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ...optim.internal import whole
from ..family import Family
from .labelled import labelled
from .layers import activate, check_activations, check_sizes, cross_entropy, dense, dense_init


def convnets(
    data: Any,
    *,
    channels: Any = (8, 16),
    kernel: Any = 3,
    batch: Any = 64,
    activations: Any = ("relu", "tanh", "gelu"),
    classes: Any = None,
) -> Family:
    """Convolutional networks that classify images.

    Each layer is a convolution with stride 2, zero padding and an activation. The mean over
    positions is read by a linear layer. Tasks, batches and the loss are those of `mlps`. Kernels
    have the shape (kernel, kernel, inputs, outputs).

    Example:
        ```python
        data = jnp.ones((20, 8, 8)), jnp.arange(20) % 10
        family = nx.learned.convnets(data, channels=(4, 6), batch=4)
        task = family.sample(jax.random.key(0))
        params = family.init(task, jax.random.key(1))
        print([layer["weight"].shape for layer in params])  # [(3, 3, 1, 4), (3, 3, 4, 6), (6, 10)]
        ```

    Args:
        data: `(images, labels)`, or a list of such pairs whose images have the same shape: (images,
            height, width) or (images, height, width, colours).
        channels: outputs of each convolution, at least one.
        kernel: height and width of the kernels, an odd number.
        batch: images of a batch.
        activations: names to draw from, as for `mlps`.
        classes: number of classes; None: the largest label plus one.

    Returns:
        The family, named by its channels, such as "convnets 8-16". Its scale is the loss of a
        uniform guess, log(classes).

    Raises:
        ValueError: as `mlps`; images of another number of axes, no channels, or an even kernel.
    """
    sets = labelled("convnets", data, classes)
    if len(sets.shape) not in (2, 3):
        raise ValueError(
            "convnets: images must have the shape (images, height, width) or (images, height, "
            f"width, colours), and one image has the shape {sets.shape}"
        )
    channels = check_sizes("convnets", "channels", channels)
    if not channels:
        raise ValueError("convnets: channels must name one convolution at least, such as (8,)")
    kernel = whole("convnets", "kernel", kernel)
    if kernel % 2 == 0:
        raise ValueError(f"convnets: kernel must be odd, got {kernel}")
    count = whole("convnets", "batch", batch)
    names = check_activations("convnets", activations)
    height, width, colours = (*sets.shape, 1)[:3]

    def sample(key: Array) -> PyTree:
        one, two = jax.random.split(key)
        return {"data": sets.choose(one), "activation": jax.random.randint(two, (), 0, len(names))}

    def init(task: PyTree, key: Array) -> PyTree:
        del task
        *keys, last = jax.random.split(key, len(channels) + 1)
        layers = []
        for one, inputs, outputs in zip(keys, (colours, *channels), channels, strict=False):
            layer = dense_init(one, kernel * kernel * inputs, outputs)
            shaped = layer["weight"].reshape(kernel, kernel, inputs, outputs)
            layers.append({**layer, "weight": shaped})
        return (*layers, dense_init(last, channels[-1], sets.classes))

    def draw(task: PyTree, key: Array) -> PyTree:
        images, labels = sets.draw(task["data"], key, count)
        images = images.reshape(count, height, width, colours)
        return {"images": images, "labels": labels, "activation": task["activation"]}

    def loss(params: PyTree, batch: PyTree) -> Array:
        x = batch["images"]
        for layer in params[:-1]:
            flat = {**layer, "weight": layer["weight"].reshape(-1, layer["weight"].shape[-1])}
            x = activate(names, batch["activation"], dense(flat, _patches(x, kernel)))
        return cross_entropy(dense(params[-1], jnp.mean(x, axis=(1, 2))), batch["labels"])

    def scale(task: PyTree) -> Array:
        del task
        return jnp.log(float(sets.classes))

    name = f"convnets {'-'.join(map(str, channels))}"
    return Family(name, sample, init, draw, loss, scale)


def _patches(x: Array, kernel: int) -> Array:
    """What a convolution with stride 2 sees: (images, height, width, channels) ->
    (images, rows, columns, kernel * kernel * channels).

    A product of matrices follows. XLA's convolution is slow on CPUs where each task has kernels of
    its own, since `jax.vmap` makes it a convolution of groups.
    """
    rows, columns = ((size + 1) // 2 for size in x.shape[1:3])
    pad = kernel // 2
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    seen = [
        x[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
        for i in range(kernel)
        for j in range(kernel)
    ]
    return jnp.concatenate(seen, axis=-1)
