"""A perceptron per parameter that sees momenta and a clock: 1,762 weights."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..optim.internal import number
from . import features
from .perceptron import applied, drawn, sizes
from .rule import Moment, PerTensor

DECAYS = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
BLOCK = 2**14  # number of parameters whose hidden units are in memory at once


@dataclasses.dataclass(frozen=True)
class _MLP(PerTensor):
    name: ClassVar[str] = "mlp"
    hidden: tuple[int, ...]
    step: Any
    exponent: Any
    block: int = BLOCK

    def init(self, key: Array) -> PyTree:
        return {"layers": drawn(key, (19, *self.hidden, 2))}

    def begin_tensor(self, theta: PyTree, param: Array) -> Array:
        return jnp.zeros((len(DECAYS), *param.shape), param.dtype)

    def update_tensor(
        self, theta: PyTree, gradient: Array, state: Array, param: Array, moment: Moment
    ) -> tuple[Array, Array]:
        gradient = features.bounded(gradient)
        state = features.averaged(state, gradient, jnp.asarray(DECAYS, param.dtype))
        seen = jnp.concatenate([gradient[None], param[None], state])
        seen = (seen * features.over_tensor(seen)).reshape(len(seen), -1)
        time = features.clock(moment.count, param.dtype)
        layers = theta["layers"]

        def answers(x: Array) -> Array:
            clock = jnp.broadcast_to(time[:, None], (len(time), x.shape[1]))
            return applied(layers, jnp.concatenate([x, clock]))

        blocks, rest = divmod(param.size, self.block)
        # Hidden units of all parameters at once would take 32 times the tensor's memory.
        parts = seen[:, : blocks * self.block].reshape(len(seen), blocks, self.block).swapaxes(0, 1)
        found = [jax.lax.map(jax.checkpoint(answers), parts).swapaxes(0, 1)] if blocks else []
        found += [answers(seen[:, blocks * self.block :])[:, None]] if rest else []
        direction, magnitude = jnp.concatenate([x.reshape(2, -1) for x in found], axis=1)
        step = -self.step * direction * jnp.exp(self.exponent * magnitude)
        return step.reshape(param.shape), state


def mlp(hidden: Any = (32, 32), step: Any = 0.001, exponent: Any = 0.001) -> PerTensor:
    """A perceptron per parameter that sees the gradient, six momenta, the parameter and a clock.

    The 19 features are the gradient, the parameter, averages of the gradient with decays 0.1, 0.5,
    0.9, 0.99, 0.999 and 0.9999, each divided by its root mean square over the tensor, and eleven
    functions of the number of updates. The perceptron answers with a direction d and a magnitude a;
    what is added to the parameter is

        -step d exp(exponent a)

    Theta holds 1,762 numbers at the default size, ten times as many as that of `small_fc`, and an
    update costs about ten times as much. Gradients beyond ±1e10 are clipped.

    Args:
        hidden: sizes of the hidden layers, rectified.
        step: factor of all updates, beside the learning rate.
        exponent: factor of the magnitude.

    Returns:
        The rule; theta has the key layers.

    Raises:
        ValueError: sizes that are not ints of at least 1; a negative or infinite factor.

    Source: Metz et al., "Understanding and correcting pathologies in the training of learned
    optimizers" (2019), and the published implementation's formulas.

    Example:
        ```python
        rule = nx.learned.mlp()
        theta = rule.init(jax.random.key(0))
        print(sum(leaf.size for leaf in jax.tree.leaves(theta)))  # 1762
        ```
    """
    return _MLP(
        sizes("mlp", hidden), number("mlp", "step", step), number("mlp", "exponent", exponent)
    )
