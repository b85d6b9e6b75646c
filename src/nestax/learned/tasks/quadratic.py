"""Quadratic tasks: drawn spectra, and drawn least-squares problems."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ...optim.internal import number, whole
from ..family import Family


def quadratics(size: Any = 10, *, condition: Any = 1000.0, noise: Any = 0.0) -> Family:
    """Quadratics with a drawn spectrum, rotation and minimum.

        loss(x) = |D^(1/2) Q' (x - m)|^2 / 2

    Q is a uniformly drawn rotation, m is drawn from N(0, I), and training begins at x = 0. The
    largest eigenvalue is 1 and the smallest 1 / c, where log c is drawn uniformly from
    [0, log condition]. The logarithms of the other eigenvalues are uniform between them.

    Example:
        ```python
        family = nx.learned.quadratics(4)
        task = family.sample(jax.random.key(0))
        x = family.init(task, jax.random.key(1))
        loss = family.loss(x, family.batch(task, jax.random.key(2)))
        print(loss / family.scale(task))  # 1.0
        ```

    Args:
        size: number of parameters.
        condition: largest condition number, at least 1.
        noise: standard deviation by which each coordinate of the minimum moves from batch to batch.

    Returns:
        The family "quadratics". Its scale is the loss at the start without noise.

    Raises:
        ValueError: a size below 1, a condition below 1, or negative noise.
    """
    size = whole("quadratics", "size", size)
    condition = number("quadratics", "condition", condition, 1)
    noise = number("quadratics", "noise", noise)

    def sample(key: Array) -> PyTree:
        turn, top, between, minimum = jax.random.split(key, 4)
        ends = jnp.array([0.0, 1.0])
        place = jnp.concatenate([ends, jax.random.uniform(between, (max(size - 2, 0),))])[:size]
        exponent = -jnp.log(condition) * jax.random.uniform(top) * place
        rotation = jax.random.orthogonal(turn, size)
        # A factor instead of the matrix: the loss is then a sum of squares, never negative.
        factor = jnp.exp(exponent / 2)[:, None] * rotation.T
        return {"factor": factor, "minimum": jax.random.normal(minimum, (size,))}

    def init(task: PyTree, key: Array) -> Array:
        del key
        return jnp.zeros_like(task["minimum"])

    def batch(task: PyTree, key: Array) -> PyTree:
        moved = noise * jax.random.normal(key, (size,))
        return {"factor": task["factor"], "minimum": task["minimum"] + moved}

    def loss(params: Array, batch: PyTree) -> Array:
        return jnp.sum((batch["factor"] @ (params - batch["minimum"])) ** 2) / 2

    def scale(task: PyTree) -> Array:
        return jnp.sum((task["factor"] @ task["minimum"]) ** 2) / 2

    return Family("quadratics", sample, init, batch, loss, scale)


def least_squares(size: Any = 10) -> Family:
    """Least-squares problems with normally distributed entries.

        loss(x) = |W x - y|^2,    W_ij, y_i ~ N(0, 1)

    Training begins at x ~ N(0, 0.01^2). The loss is the sum of squares, so it begins near `size`.

    Example:
        ```python
        family = nx.learned.least_squares(10)
        task = family.sample(jax.random.key(0))
        print(task["matrix"].shape, family.scale(task))  # (10, 10) 10.0
        ```

    Args:
        size: number of parameters and of equations.

    Returns:
        The family "least-squares". Its scale is `size`.

    Raises:
        ValueError: a size below 1.

    Source: Andrychowicz et al., "Learning to learn by gradient descent by gradient descent" (2016),
    section 3.1.
    """
    size = whole("least_squares", "size", size)

    def sample(key: Array) -> PyTree:
        one, two = jax.random.split(key)
        return {
            "matrix": jax.random.normal(one, (size, size)),
            "target": jax.random.normal(two, (size,)),
        }

    def init(task: PyTree, key: Array) -> Array:
        del task
        return 0.01 * jax.random.normal(key, (size,))

    def batch(task: PyTree, key: Array) -> PyTree:
        del key
        return task

    def loss(params: Array, batch: PyTree) -> Array:
        return jnp.sum((batch["matrix"] @ params - batch["target"]) ** 2)

    def scale(task: PyTree) -> Array:
        del task
        return jnp.asarray(float(size))

    return Family("least-squares", sample, init, batch, loss, scale)
