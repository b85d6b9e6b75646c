"""Multilayer perceptrons on labelled images."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ...optim.internal import whole
from ..family import Family
from .labelled import labelled
from .layers import activate, check_activations, check_sizes, cross_entropy, mlp, mlp_init


def mlps(
    data: Any,
    *,
    hidden: Any = (32,),
    batch: Any = 128,
    activations: Any = ("relu", "tanh", "gelu"),
    classes: Any = None,
) -> Family:
    """Multilayer perceptrons that classify images.

    A task is one of the data sets and one of the activations. Batches are drawn with replacement,
    and images are standardised by the mean and the standard deviation of their data set. The loss
    is the mean cross entropy in nats.

    Example:
        ```python
        images, labels = jnp.ones((20, 8, 8)), jnp.arange(20) % 10
        family = nx.learned.mlps((images, labels), hidden=(16,), batch=4)
        task = family.sample(jax.random.key(0))
        params = family.init(task, jax.random.key(1))
        print(params[0]["weight"].shape, f"{family.scale(task):.3f}")  # (64, 16) 2.303
        ```

    Args:
        data: `(images, labels)`, or a list of such pairs whose images have the same shape. Images
            are arrays (images, ...) of numbers, labels are integers from 0 on.
        hidden: sizes of the hidden layers; `()` is a linear classifier.
        batch: images of a batch.
        activations: names to draw from: "relu", "tanh", "gelu", "silu", "elu" or "sine".
        classes: number of classes; None: the largest label plus one.

    Returns:
        The family, named by its hidden layers, such as "mlps 32". Its scale is the loss of a
        uniform guess, log(classes).

    Raises:
        ValueError: images or labels of another kind, shapes that do not agree, labels out of range,
            a size below 1, an unknown activation.
    """
    sets = labelled("mlps", data, classes)
    hidden = check_sizes("mlps", "hidden", hidden)
    count = whole("mlps", "batch", batch)
    names = check_activations("mlps", activations)
    sizes = (math.prod(sets.shape), *hidden, sets.classes)

    def sample(key: Array) -> PyTree:
        one, two = jax.random.split(key)
        return {"data": sets.choose(one), "activation": jax.random.randint(two, (), 0, len(names))}

    def init(task: PyTree, key: Array) -> PyTree:
        del task
        return mlp_init(key, sizes)

    def draw(task: PyTree, key: Array) -> PyTree:
        images, labels = sets.draw(task["data"], key, count)
        flat = images.reshape(count, -1)
        return {"images": flat, "labels": labels, "activation": task["activation"]}

    def loss(params: PyTree, batch: PyTree) -> Array:
        def activation(x: Array) -> Array:
            return activate(names, batch["activation"], x)

        return cross_entropy(mlp(params, activation, batch["images"]), batch["labels"])

    def scale(task: PyTree) -> Array:
        del task
        return jnp.log(float(sets.classes))

    name = f"mlps {'-'.join(map(str, hidden)) or 'linear'}"
    return Family(name, sample, init, draw, loss, scale)


def mlp_families(
    data: Any,
    key: Array,
    count: Any,
    *,
    widths: Any = (8, 64),
    depths: Any = (1, 3),
    **options: Any,
) -> list[Family]:
    """Families of multilayer perceptrons with drawn widths and depths.

    The tasks of one family have the same shapes, so widths and depths differ between families. Each
    hidden layer has its own width, drawn log-uniformly.

    Example:
        ```python
        data = jnp.ones((20, 8, 8)), jnp.arange(20) % 10
        families = nx.learned.mlp_families(data, jax.random.key(0), 3, batch=4)
        print(len(families), families[0].name.split()[0])  # 3 mlps
        ```

    Args:
        data: as for `mlps`.
        key: of `jax.random.key`.
        count: number of families.
        widths: least and largest width of a hidden layer.
        depths: least and largest number of hidden layers.
        options: of `mlps`.

    Returns:
        A list of families with different names; of equal sizes the second is "mlps 32 (2)".

    Raises:
        ValueError: as `mlps`; a count below 1, or bounds that are not two increasing numbers.
    """
    count = whole("mlp_families", "count", count)
    narrow, wide = _bounds("widths", widths, 1)
    shallow, deep = _bounds("depths", depths, 0)
    families = []
    for one in jax.random.split(key, count):
        how_deep, how_wide = jax.random.split(one)
        depth = int(jax.random.randint(how_deep, (), shallow, deep + 1))
        # Rounded down below wide + 1, so that each width has the share of its logarithm.
        drawn = np.asarray(jax.random.uniform(how_wide, (depth,)), float)
        exact = narrow * ((wide + 1) / narrow) ** drawn
        hidden = [int(np.clip(width, narrow, wide)) for width in exact]
        family = mlps(data, hidden=hidden, **options)
        same = sum(other.name.split(" (")[0] == family.name for other in families)
        if same:  # a nest tells families by their names
            family = dataclasses.replace(family, name=f"{family.name} ({same + 1})")
        families.append(family)
    return families


def _bounds(argument: str, given: Any, least: int) -> tuple[int, int]:
    if not isinstance(given, Sequence) or len(given) != 2:
        raise ValueError(f"mlp_families: {argument} must be (least, largest), got {given!r:.60}")
    low, high = (whole("mlp_families", argument, one, least) for one in given)
    if high < low:
        raise ValueError(f"mlp_families: {argument} must be (least, largest), got {given!r:.60}")
    return low, high
