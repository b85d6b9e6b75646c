"""A perceptron per parameter without a clock whose steps have the size of the learning rate."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..optim.internal import number, option
from . import features, fused
from .features import Decays, Statistics
from .perceptron import applied, drawn, sizes
from .rule import Moment, PerTensor
from .small_fc import FACTORED, MOMENTUM, SECOND

ADAM = 6  # place of m / sqrt(v) with the decays 0.9 and 0.999 among the features


@dataclasses.dataclass(frozen=True)
class _Normalized(PerTensor):
    name: ClassVar[str] = "normalized"
    hidden: tuple[int, ...]
    eps: Any
    begin_as: str = "adam"
    fused: bool = True

    def init(self, key: Array) -> PyTree:
        layers = drawn(key, (30, *self.hidden, 1))
        if self.begin_as == "adam":
            # Two rectified units carry m / sqrt(v) and its negative; the others are not heard yet.
            (first, *middle, last), two = layers, jnp.eye(2, dtype=jnp.float32)
            signs = jnp.array([1.0, -1.0], jnp.float32)
            first["w"] = first["w"].at[:, :2].set(0).at[ADAM, :2].set(signs)
            for layer in middle:
                layer["w"] = layer["w"].at[:, :2].set(0).at[:2, :2].set(two)
            last["w"] = jnp.zeros_like(last["w"]).at[:2, 0].set(signs)
        return {"layers": layers}

    def begin_tensor(self, theta: PyTree, param: Array) -> Statistics:
        return features.begin(param, len(MOMENTUM), len(SECOND), len(FACTORED))

    def update_tensor(
        self, theta: PyTree, gradient: Array, state: Statistics, param: Array, moment: Moment
    ) -> tuple[Array, Statistics]:
        kinds = (MOMENTUM, SECOND, FACTORED)
        decays = Decays(*(jnp.asarray(kind, param.dtype) for kind in kinds))
        state = features.accumulated(state, gradient, decays)
        gradient = features.bounded(gradient)
        fast = _fused if self.fused else _plain
        found = fused.either(_plain, fast, theta["layers"], gradient, state, param, self.eps)
        return -found * jnp.squeeze(features.over_tensor(found[None], 1e-9), 0), state


def _plain(layers: PyTree, gradient: Array, state: Statistics, param: Array, eps: Any) -> Array:
    """The perceptron's answer."""
    seen = [
        jnp.broadcast_to(x * features.over_tensor(x, eps), (len(x), *param.shape))
        for x in features.tensor_features(state, gradient, param, clipped=True)
    ]
    return applied(layers, jnp.concatenate(seen).reshape(30, -1)).reshape(param.shape)


def _fused(layers: PyTree, gradient: Array, state: Statistics, param: Array, eps: Any) -> Array:
    """The same."""
    seen, factors = fused.features(state, gradient, param, clipped=True)
    first, *rest = layers
    first = {"w": first["w"] * factors(eps)[:, None], "b": first["b"]}
    (found,) = fused.answers([first, *rest], seen)
    return found


def normalized(hidden: Any = (8, 8), eps: Any = 1e-20, begin_as: Any = "adam") -> PerTensor:
    """A small perceptron per parameter without a clock; its steps have the learning rate's size.

    Each parameter has 30 features: the 28 of `small_fc` that are no clock, `clip(g, -0.1, 0.1)` and
    `g / sqrt(v + 1e-6)`, each divided by its root mean square over the tensor. With d the answer of
    the perceptron, what is added to the parameter is

        -d / sqrt(mean(d^2) + 1e-9)

    with the mean over the tensor, so that the root mean square of a tensor's step is the learning
    rate, which may be a schedule. Decays are those of `small_fc` and fixed; theta holds 329 numbers
    at the default size.

    A tensor without gradient moves, too, unless the perceptron answers 0. Gradients beyond ±1e10
    are clipped.

    Args:
        hidden: sizes of the hidden layers, rectified.
        eps: added to the mean square that features are divided by the root of.
        begin_as: what `init` gives. "adam": weights that answer with m / sqrt(v + 1e-6), decays 0.9
            and 0.999, so that the rule begins as Adam with normalized steps. It needs at least two
            units in every hidden layer. "random": random weights, which lose long trainings.

    Returns:
        The rule; theta has the key layers.

    Raises:
        ValueError: sizes that are not ints of at least 1, or of 1 with "adam"; an eps below 1e-24;
            another word.

    Source: Moudgil et al., "Celo2" (2602.19142): features without a clock and the normalized
    update, here without its orthogonalization.

    Example:
        ```python
        rule = nx.learned.normalized()
        theta = rule.init(jax.random.key(0))
        optimizer = rule(theta, optax.cosine_decay_schedule(0.01, 1000))
        weights = {"w": jnp.ones((3, 2))}
        state = optimizer.init(weights)
        updates, state = optimizer.update({"w": jnp.ones((3, 2))}, state, weights)
        print(jnp.round(jnp.sqrt(jnp.mean(updates["w"] ** 2)), 5))  # 0.01
        ```
    """
    layers = sizes("normalized", hidden)
    option("normalized", "begin_as", begin_as, ("adam", "random"))
    if begin_as == "adam" and (not layers or min(layers) < 2):
        raise ValueError(
            "normalized: to begin as Adam it needs at least two units in every hidden layer, got "
            f'hidden={layers}; give more, or begin_as="random"'
        )
    return _Normalized(layers, number("normalized", "eps", eps, 1e-24), begin_as)
