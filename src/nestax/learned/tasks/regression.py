"""Logistic regression on drawn features."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ...optim.internal import number, whole
from ..family import Family
from .layers import cross_entropy, dense


def logistic(
    features: Any = 10,
    *,
    classes: Any = 2,
    batch: Any = 32,
    condition: Any = 100.0,
    sharpness: Any = 3.0,
) -> Family:
    """Logistic regression whose examples are drawn anew for every batch.

    A task draws the weights of a softmax from N(0, sharpness^2), which then draws the labels, and
    the covariance of the features. Its largest eigenvalue is 1 and the smallest 1 / c, where log c
    is drawn uniformly from [0, log condition]; the directions are drawn, too. Training begins at
    zero. The loss is the mean cross entropy in nats.

    Example:
        ```python
        family = nx.learned.logistic(5)
        task = family.sample(jax.random.key(0))
        params = family.init(task, jax.random.key(1))
        loss = family.loss(params, family.batch(task, jax.random.key(2)))
        print(f"{loss:.3f} {family.scale(task):.3f}")  # 0.693 0.693
        ```

    Args:
        features: number of features.
        classes: number of classes, at least 2.
        batch: examples of a batch.
        condition: largest condition number of the features' covariance, at least 1.
        sharpness: standard deviation of the weights that draw the labels.

    Returns:
        The family "logistic". Its scale is the loss of a uniform guess, log(classes).

    Raises:
        ValueError: a number out of these ranges.
    """
    features = whole("logistic", "features", features)
    classes = whole("logistic", "classes", classes, 2)
    batch = whole("logistic", "batch", batch)
    condition = number("logistic", "condition", condition, 1)
    sharpness = number("logistic", "sharpness", sharpness)

    def sample(key: Array) -> PyTree:
        turn, top, weights = jax.random.split(key, 3)
        place = jnp.linspace(0.0, 1.0, features)
        deviation = jnp.exp(-jnp.log(condition) * jax.random.uniform(top) * place / 2)
        return {
            "mixing": deviation[:, None] * jax.random.orthogonal(turn, features),
            "weight": sharpness * jax.random.normal(weights, (features, classes)),
        }

    def init(task: PyTree, key: Array) -> PyTree:
        del key
        weight = jnp.zeros_like(task["weight"])
        return {"weight": weight, "bias": jnp.zeros((classes,), weight.dtype)}

    def draw(task: PyTree, key: Array) -> PyTree:
        one, two = jax.random.split(key)
        inputs = jax.random.normal(one, (batch, features)) @ task["mixing"]
        return {"inputs": inputs, "labels": jax.random.categorical(two, inputs @ task["weight"])}

    def loss(params: PyTree, batch: PyTree) -> Array:
        return cross_entropy(dense(params, batch["inputs"]), batch["labels"])

    def scale(task: PyTree) -> Array:
        del task
        return jnp.log(float(classes))

    return Family("logistic", sample, init, draw, loss, scale)
