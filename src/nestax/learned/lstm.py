"""The coordinatewise LSTM: one small recurrent network that every coordinate uses by itself."""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..optim.internal import Scalar, number, whole
from .rule import Moment, PerTensor


def lstm(
    hidden: int = 20,
    layers: int = 2,
    scale: Scalar = 0.01,
    preprocess: Scalar | None = 10.0,
    forget: Scalar = 1.0,
) -> PerTensor:
    """An LSTM that reads the gradient of one coordinate and writes its update.

    All coordinates share the weights and each has a state of its own. With `u` the preprocessed
    gradient of a coordinate,

        (d, s) <- LSTM(u, s),    w <- w + scale d.

    Each layer computes `i, f, g, o = x A + h B + b`, `c <- sigmoid(f) c + sigmoid(i) tanh(g)` and
    `h <- sigmoid(o) tanh(c)`; a linear read-out follows the last one. The default has 5,141
    weights.

    Gradients are data of the rule, and it stops no derivative. Under `nx.Unroll()` the derivative
    of the meta-loss therefore contains the second derivatives of the loss; the source drops them,
    as `nx.Unroll(first_order=True)` does.

    Args:
        hidden: size of each layer.
        layers: number of layers.
        scale: factor of the updates. The source has 0.01 for networks and 1 for quadratics.
        preprocess: p of `u = (log|g| / p, sign g)` where `|g| >= exp(-p)` and `(-1, exp(p) g)`
            elsewhere, which shows gradients of all sizes to the network. None: `u = g`, for
            problems whose gradients have a size of about 1 to 10; the weights that read it then
            begin ten times smaller.
        forget: the bias of the forget gates before meta-training. At 1 a cell remembers about four
            steps, at 3 about twenty.

    Returns:
        A rule; its theta is `{"layers": (...), "output": {...}}`.

    Raises:
        ValueError: an argument outside the ranges above.
        TypeError: an array in place of `hidden` or `layers`.

    Source: Andrychowicz et al., "Learning to learn by gradient descent by gradient descent"
    (2016), section 2.1 and appendix A.

    Example:
        ```python
        rule = nx.learned.lstm()
        theta = rule.init(jax.random.key(0))
        print(sum(leaf.size for leaf in jax.tree.leaves(theta)))  # 5141
        optimizer = rule(theta)
        weights = {"w": jnp.ones((2, 3))}
        state = optimizer.init(weights)
        updates, state = optimizer.update({"w": 2 * jnp.ones((2, 3))}, state, weights)
        print(updates["w"].shape)  # (2, 3)
        ```
    """
    if preprocess is not None:
        preprocess = number("lstm", "preprocess", preprocess)
        if preprocess == 0:
            raise ValueError("lstm: preprocess must be above 0, or None for the gradient itself")
    return _LSTM(
        whole("lstm", "hidden", hidden),
        whole("lstm", "layers", layers),
        number("lstm", "scale", scale),
        preprocess,
        number("lstm", "forget", forget, -math.inf),
    )


@dataclasses.dataclass(frozen=True)
class _LSTM(PerTensor):
    name: ClassVar[str] = "lstm"
    hidden: int
    layers: int
    scale: Any
    preprocess: Any
    forget: Any

    def init(self, key: Array) -> PyTree:
        keys = jax.random.split(key, self.layers + 1)
        sizes = [1 if self.preprocess is None else 2] + [self.hidden] * (self.layers - 1)
        output = jax.random.normal(keys[-1], (self.hidden, 1), jnp.float32)
        layers = [
            drawn_cell(k, size, self.hidden, self.forget)
            for k, size in zip(keys[:-1], sizes, strict=True)
        ]
        if self.preprocess is None:
            layers[0]["input"] = layers[0]["input"] / 10
        return {
            "layers": tuple(layers),
            "output": {
                "weights": output / (2 * math.sqrt(self.hidden)),
                "bias": jnp.zeros(1, jnp.float32),
            },
        }

    def begin_tensor(self, theta: PyTree, param: Array) -> PyTree:
        del theta
        zeros = jnp.zeros((*param.shape, self.hidden), param.dtype)
        return ((zeros, zeros),) * self.layers

    def update_tensor(
        self, theta: PyTree, gradient: Array, state: PyTree, param: Array, moment: Moment
    ) -> tuple[Array, PyTree]:
        del param, moment
        x = gradient[..., None] if self.preprocess is None else seen(gradient, self.preprocess)
        after = []
        for weights, memory in zip(theta["layers"], state, strict=True):
            memory = cell(weights, x, memory)
            x = memory[0]
            after.append(memory)
        d = affine(x, theta["output"]["weights"], theta["output"]["bias"])
        return self.scale * d[..., 0], tuple(after)


def seen(gradient: Array, p: float) -> Array:
    """The gradient's logarithm and sign, (..., 2); its derivative is finite at 0."""
    size = jnp.abs(gradient)
    large = size >= jnp.exp(-jnp.asarray(p, gradient.dtype))
    logarithm = jnp.log(jnp.where(large, size, 1)) / p
    sign = jnp.where(large, jnp.sign(gradient), gradient * jnp.exp(jnp.asarray(p, gradient.dtype)))
    return jnp.stack([jnp.where(large, logarithm, -1), sign], axis=-1)


def drawn_cell(key: Array, inputs: int, hidden: int, forget: Any = 1.0) -> PyTree:
    """Weights of one LSTM layer, of variance 1 / (number of inputs), with a forget bias."""
    one, two = jax.random.split(key)
    bias = jnp.zeros(4 * hidden, jnp.float32).at[hidden : 2 * hidden].set(forget)
    size = math.sqrt(inputs + hidden)
    return {
        "input": jax.random.normal(one, (inputs, 4 * hidden), jnp.float32) / size,
        "hidden": jax.random.normal(two, (hidden, 4 * hidden), jnp.float32) / size,
        "bias": bias,
    }


def cell(weights: PyTree, x: Array, memory: tuple[Array, Array]) -> tuple[Array, Array]:
    """One step of an LSTM layer, over the last axis.

    Args:
        weights: as `drawn_cell` gives them; the gates are input, forget, candidate, output.
        x: inputs, (..., inputs).
        memory: (h, c), each (..., hidden).

    Returns:
        The next (h, c).
    """
    h, c = memory
    gates = jnp.concatenate([x, h], axis=-1)
    matrix = jnp.concatenate([weights["input"], weights["hidden"]])
    i, f, g, o = jnp.split(affine(gates, matrix, weights["bias"]), 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def affine(x: Array, weights: Array, bias: Array) -> Array:
    """`x W + b` over the last axis of an array of any rank."""
    return x @ weights + bias.reshape((1,) * (x.ndim - 1) + bias.shape)
