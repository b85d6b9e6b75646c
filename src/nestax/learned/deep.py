"""Deep momentum that is meta-trained: the memory of a tensor is an MLP."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..optim.internal import whole
from .memories import Memories, drawn, kept, logit, product


def deep_momentum(keys: Any = 8, values: Any = 4, width: Any = 8, hidden: Any = 8) -> Memories:
    r"""Deep momentum whose keys, values, initial memory, rates and read-out are learned.

    The rule of `delta_momentum` with an MLP as the memory of a tensor, trained by one step of
    gradient descent per update, on all coordinates i of the tensor together:

        y_i    = W_2' tanh(W_1' k_i)                               (the read)
        L      = mean_i |W_2' tanh(W_1' k_i') - v_i|^2 / 2         (keys of the past)
        G_l    = grad_(W_l) L,   G_l <- G_l / max(1, |G_l|)
        W_l   <- W_l,0 + a_l (W_l - W_l,0) - eta_l G_l / rows_l    (the write; layers l = 1, 2)

    where W_1 is (keys, width), W_2 is (width, values), rows_l is the number of rows of W_l, and |.|
    the root of the sum of squares. Keys, values, features, read-out and size are those of
    `delta_momentum`. Theta has W_0, the logits of a and eta for each layer, and all else that
    `delta_momentum` has; at the defaults 638 numbers. A layer never leaves a ball of radius
    eta_l / (rows_l (1 - a_l)) around its initial weights, so that no theta lets it diverge. In
    `nx.optim.deep_momentum` keys and values are the gradient itself, and the initial memory is
    random.

    Before meta-training W_1 is random, W_2 is zero, and the rule is as `delta_momentum` then: much
    like Adam. `rule.member("momentum", decay)` is theta of normalized momentum, and
    `rule.member("adam", decay, second)` that of normalized Adam.

    Args:
        keys: entries of a key.
        values: entries of a value.
        width: tanh units of the memory.
        hidden: tanh units of the read-out.

    Returns:
        The rule.

    Raises:
        ValueError: a number that is not whole and at least 1.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (50), for the
    write; the bound of the steps is nestax's.

    Example:
        ```python
        rule = nx.learned.deep_momentum(width=4)
        theta = rule.init(jax.random.key(0))
        optimizer = rule(theta, learning_rate=0.1)
        weights = {"w": jnp.ones((2, 3))}
        state = optimizer.init(weights)
        updates, state = optimizer.update({"w": 2 * jnp.ones((2, 3))}, state, weights)
        print(updates["w"][0].round(3))  # [-0.1 -0.1 -0.1]
        ```
    """
    return DeepMomentum(
        whole("deep_momentum", "keys", keys),
        whole("deep_momentum", "values", values),
        whole("deep_momentum", "hidden", hidden),
        whole("deep_momentum", "width", width),
    )


@dataclasses.dataclass(frozen=True)
class DeepMomentum(Memories):
    """See `deep_momentum`.

    Attributes:
        keys: entries of a key.
        values: entries of a value.
        hidden: tanh units of the read-out.
        width: tanh units of the memory.
    """

    name: ClassVar[str] = "deep_momentum"
    width: int

    def memory(self, key: Array) -> PyTree:
        """See `Memories.memory`."""
        return {
            "initial": {
                "first": drawn(key, self.keys, self.width),
                "last": jnp.zeros((self.width, self.values), jnp.float32),
            },
            "retention": logit([0.99, 0.99]),
            "rate": logit([0.5, 0.5]),
        }

    def read(self, memory: PyTree, key: Array) -> Array:
        """See `Memories.read`."""
        return product(memory["last"], jnp.tanh(product(memory["first"], key)))

    def write(
        self, weights: PyTree, memory: PyTree, key: Array, value: Array
    ) -> tuple[PyTree, Array]:
        """See `Memories.write`."""

        def loss(memory: PyTree) -> tuple[Array, Array]:
            error = self.read(memory, key) - value
            return jnp.sum(jnp.square(error)) * self.values / (2 * value.size), error

        gradient, error = jax.grad(loss, has_aux=True)(memory)
        initial = weights["initial"]
        retention, rate = jax.nn.sigmoid(weights["retention"]), jax.nn.sigmoid(weights["rate"])

        def layer(name: str, index: int) -> Array:
            back = kept(initial[name], memory[name], retention[index])
            return back - rate[index] * _bounded(gradient[name]) / memory[name].shape[0]

        return {"first": layer("first", 0), "last": layer("last", 1)}, error


def _bounded(gradient: Array) -> Array:
    """The gradient with a norm of at most one."""
    square = jnp.sum(jnp.square(gradient))
    return gradient / jnp.sqrt(jnp.maximum(square, 1))
