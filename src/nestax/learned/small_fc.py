"""A perceptron per parameter with Adafactor's accumulators and a clock: 197 weights."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..optim.internal import number
from . import features, fused
from .features import Decays, Statistics
from .perceptron import applied, drawn, sizes
from .rule import Moment, PerTensor

MOMENTUM, SECOND, FACTORED = (0.9, 0.99, 0.999), (0.999,), (0.9, 0.99, 0.999)


@dataclasses.dataclass(frozen=True)
class _SmallFC(PerTensor):
    name: ClassVar[str] = "small_fc"
    hidden: tuple[int, ...]
    step: Any
    exponent: Any
    fused: bool = True

    def init(self, key: Array) -> PyTree:
        return {
            "layers": drawn(key, (39, *self.hidden, 2)),
            "momentum": jnp.zeros(len(MOMENTUM), jnp.float32),
            "second": jnp.zeros(len(SECOND), jnp.float32),
            "factored": jnp.zeros(len(FACTORED), jnp.float32),
        }

    def begin_tensor(self, theta: PyTree, param: Array) -> Statistics:
        return features.begin(param, len(MOMENTUM), len(SECOND), len(FACTORED))

    def update_tensor(
        self, theta: PyTree, gradient: Array, state: Statistics, param: Array, moment: Moment
    ) -> tuple[Array, Statistics]:
        decays = Decays(
            features.decayed(MOMENTUM, theta["momentum"]),
            features.decayed(SECOND, theta["second"]),
            features.decayed(FACTORED, theta["factored"]),
        )
        state = features.accumulated(state, gradient, decays)
        gradient = features.bounded(gradient)
        time = features.clock(moment.count, param.dtype)
        fast = _fused if self.fused else _plain
        direction, magnitude = fused.either(
            _plain, fast, theta["layers"], gradient, state, param, time
        )
        return -self.step * direction * jnp.exp(self.exponent * magnitude), state


def _plain(
    layers: PyTree, gradient: Array, state: Statistics, param: Array, time: Array
) -> tuple[Array, ...]:
    """Direction and magnitude."""
    seen = [
        jnp.broadcast_to(x * features.over_tensor(x), (len(x), *param.shape))
        for x in features.tensor_features(state, gradient, param)
    ]
    x = jnp.concatenate(seen).reshape(28, -1)
    x = jnp.concatenate([x, jnp.broadcast_to(time[:, None], (len(time), param.size))])
    return tuple(applied(layers, x).reshape(2, *param.shape))


def _fused(
    layers: PyTree, gradient: Array, state: Statistics, param: Array, time: Array
) -> tuple[Array, ...]:
    """The same; what the clock adds is one number per hidden unit."""
    seen, factors = fused.features(state, gradient, param)
    (first, *rest), of_clock = layers, len(seen)
    first = {
        "w": first["w"][:of_clock] * factors(1e-5)[:, None],
        "b": first["b"] + time @ first["w"][of_clock:],
    }
    return tuple(fused.answers([first, *rest], seen))


def small_fc(hidden: Any = (4, 4), step: Any = 0.001, exponent: Any = 0.001) -> PerTensor:
    """A small perceptron per parameter that sees momenta, second moments and a clock.

    Each parameter has 39 features: gradient g, parameter p, three momenta m, a second moment v,
    `m / sqrt(v)`, `1 / sqrt(v)`, factored second moments of three decays over the two largest axes
    (rows, columns, their inverse roots, and gradient and momenta divided by them), and eleven
    functions of the number of updates. All but the clock are divided by their root mean square over
    the tensor. The perceptron answers with a direction d and a magnitude a; what is added to the
    parameter is

        -step d exp(exponent a)

    Its weights and seven decays are theta, 197 numbers at the default size. The decays are
    `1 - (1 - beta) exp(10 theta)` with beta as in the source; those of second moments are clipped
    to [0, 1]. Of axes of one size the later counts as larger. Gradients beyond ±1e10 are clipped.

    The clock ties the rule to the number of steps that it is trained for, and a tensor without
    gradient moves. `normalized` has no clock.

    Args:
        hidden: sizes of the hidden layers, rectified.
        step: factor of all updates, beside the learning rate.
        exponent: factor of the magnitude.

    Returns:
        The rule; theta has the keys layers, momentum, second and factored.

    Raises:
        ValueError: sizes that are not ints of at least 1; a negative or infinite factor.

    Source: Metz et al., "Practical tradeoffs between memory, compute, and performance in learned
    optimizers" (2022), and the published implementation's formulas.

    Example:
        ```python
        rule = nx.learned.small_fc()
        theta = rule.init(jax.random.key(0))
        print(sum(leaf.size for leaf in jax.tree.leaves(theta)))  # 197
        optimizer = rule(theta, learning_rate=1.0)
        weights = {"w": jnp.ones((3, 2))}
        state = optimizer.init(weights)
        updates, state = optimizer.update({"w": jnp.ones((3, 2))}, state, weights)
        ```
    """
    return _SmallFC(
        sizes("small_fc", hidden),
        number("small_fc", "step", step),
        number("small_fc", "exponent", exponent),
    )
