"""What the associative memories that are meta-trained have in common.

A momentum is a memory that learns while it is used: what it writes, keeps and says is here a
matter of theta. Every tensor has a memory of its own, of a size that does not depend on the tensor:
it maps the key of a coordinate to the value of that coordinate, and all coordinates write into it
together.
Theta has one set of weights for matrices, tensors of two or more axes, and one for vectors and
scalars; it does not depend on shapes, so that one theta trains any network.

For a tensor with gradient g and parameters p, elementwise, with nu(x) = x / rms(x) over the tensor:

    m_j <- b_j m_j + (1 - b_j) g,    r^2 <- c r^2 + (1 - c) g^2       (moments, from zero)
    h    = [nu(m_j)]_j, [nu(m_j / r)]_j                               (what the moments say)
    f    = [nu(g), nu(g / r), nu(p), h]                               (all features)
    k    = nu(tanh(h K)),    v = tanh(f V)                            (key and value)
    M   <- M_0 + a (M - M_0) - eta grad_M mean |M(k_before) - v|^2/2  (the write)
    y    = M(k)                                                       (the read)
    o    = [f, y] d + tanh([f, y] A) q                                (the read-out)
    p   <- p - learning_rate nu(o)

Keys have a mean square of one over coordinates and their entries together; `k_before` is the key
before this update, made of the moments alone, so that **keys are of the past and values of the
present**: the memory learns to foresee the value. K, V, M_0, d, A, q and, by their logits, b, c, a
and eta are theta. 0 / 0 is 0. There are no biases, so that rules are odd in (g, p), and a tensor
whose gradients are all zero stays unless the read-out weighs p. Nothing depends on the scale of
the loss, and nothing on the number of the update, so that a horizon is not learned.

With q = 0 and d = 1 at nu(m_j) alone the rule is heavy-ball momentum, normalized; at nu(m_j / r) it
is Adam, normalized, with an eps of zero.
"""

import abc
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..optim.internal import number, option, over_rms, root_mean_square, rooted
from .rule import Moment, PerTensor

DECAYS = (0.5, 0.9, 0.99)  # of the averages, before meta-training
SECOND = 0.999
PAST = 2 * len(DECAYS)  # features that keys are made of
FEATURES = 3 + PAST
MOMENTUM, ADAM = 1, 4  # places of the average with decay 0.9, and of that over the root
KINDS = ("matrices", "vectors")


@dataclasses.dataclass(frozen=True)
class Memories(PerTensor):
    """A rule with one memory per tensor. A subclass defines what a memory is.

    Attributes:
        keys: entries of a key.
        values: entries of a value.
        hidden: tanh units of the read-out.
    """

    keys: int
    values: int
    hidden: int

    @abc.abstractmethod
    def memory(self, key: Array) -> PyTree:
        """The weights of a memory before meta-training and its logits, a dict with "initial"."""

    @abc.abstractmethod
    def read(self, memory: PyTree, key: Array) -> Array:
        """What the memory says for keys [..., keys]: [..., values]."""

    @abc.abstractmethod
    def write(self, weights: PyTree, memory: PyTree, key: Array, value: Array) -> PyTree:
        """The memory after one step of its own learning."""

    def init(self, key: Array) -> PyTree:
        """See `Rule.init`."""
        return dict(zip(KINDS, map(self._weights, jax.random.split(key)), strict=True))

    def _weights(self, key: Array) -> PyTree:
        keys = jax.random.split(key, 4)
        read = FEATURES + self.values
        return {
            "decays": logit(DECAYS),
            "second": logit(SECOND),
            "keys": drawn(keys[0], PAST, self.keys),
            "values": drawn(keys[1], FEATURES, self.values),
            "memory": self.memory(keys[2]),
            "direct": momentum_only(self.values, ADAM),
            "hidden": drawn(keys[3], read, self.hidden),
            "out": jnp.zeros(self.hidden, jnp.float32),
        }

    def member(self, kind: str = "momentum", decay: Any = 0.9, second: Any = SECOND) -> PyTree:
        """Weights with which the rule is a known optimizer whose steps are normalized.

        Its update is `-learning_rate u / rms(u)` for each tensor, where -u is the optimizer's step;
        everything that the read-out does not weigh is as `init` draws it, and learns on.

        Args:
            kind: `"momentum"`, as `nx.optim.momentum`, or `"adam"`, as `optax.adam` with eps 0.
            decay: of the average of gradients, between 0 and 1.
            second: of the average of squares, between 0 and 1.

        Returns:
            theta.

        Raises:
            ValueError: another kind; a decay that is not between 0 and 1.
        """
        option(self.name, "kind", kind, ("momentum", "adam"))
        for argument, value in (("decay", decay), ("second", second)):
            if number(self.name, argument, value, 0, 1, below=True) == 0:
                raise ValueError(f"{self.name}: {argument} must be above 0, got {value}")
        theta = self.init(jax.random.key(0))
        for weights in theta.values():
            weights["decays"] = weights["decays"].at[1].set(logit(decay))
            weights["second"] = logit(second)
            weights["direct"] = momentum_only(self.values, ADAM if kind == "adam" else MOMENTUM)
        return theta

    def begin_tensor(self, theta: PyTree, param: Array) -> PyTree:
        """See `PerTensor.begin_tensor`: moments, their root and the memory."""
        weights = _of_kind(theta, param)
        zeros = jnp.zeros_like(param)
        averages = tuple(zeros for _ in DECAYS)
        return {"averages": averages, "root": zeros, "memory": weights["memory"]["initial"]}

    def update_tensor(
        self, theta: PyTree, gradient: Array, state: PyTree, param: Array, moment: Moment
    ) -> tuple[Array, PyTree]:
        """See `PerTensor.update_tensor`."""
        del moment
        weights = _of_kind(theta, param)
        decays, second = jax.nn.sigmoid(weights["decays"]), jax.nn.sigmoid(weights["second"])
        averages = tuple(
            b * m + (1 - b) * gradient for b, m in zip(decays, state["averages"], strict=True)
        )
        root = rooted(second, state["root"], 1 - second, gradient)
        present = past(averages, root)
        features = jnp.stack(
            [normalized(gradient), normalized(over(gradient, root)), normalized(param), *present],
            axis=-1,
        )
        before = self._key(weights, past(state["averages"], state["root"]))
        value = jnp.tanh(features @ weights["values"])
        memory = self.write(weights["memory"], state["memory"], before, value)
        said = self.read(memory, self._key(weights, present))
        seen = jnp.concatenate([features, said], axis=-1)
        out = seen @ weights["direct"] + jnp.tanh(seen @ weights["hidden"]) @ weights["out"]
        return -normalized(out), {"averages": averages, "root": root, "memory": memory}

    def _key(self, weights: PyTree, features: list[Array]) -> Array:
        return normalized(jnp.tanh(jnp.stack(features, axis=-1) @ weights["keys"]))


def normalized(x: Array) -> Array:
    """x over its root mean square; zero where that is zero."""
    return over_rms(x, root_mean_square(x))


def over(x: Array, root: Array) -> Array:
    """x / root; zero where the root is, as all gradients were zero there."""
    return x / jnp.where(root == 0, 1, root)


def past(averages: tuple[Array, ...], root: Array) -> list[Array]:
    """What the moments say."""
    return [*map(normalized, averages), *(normalized(over(m, root)) for m in averages)]


def logit(p: Any) -> Array:
    """The number whose sigmoid is p."""
    p = jnp.asarray(p, jnp.float32)
    return jnp.log(p) - jnp.log1p(-p)


def drawn(key: Array, rows: int, columns: int) -> Array:
    """Weights that keep the size of what they are multiplied with."""
    return jax.random.normal(key, (rows, columns), jnp.float32) / math.sqrt(rows)


def momentum_only(values: int, place: int) -> Array:
    """A read-out of one of the features that are of the past."""
    return jnp.zeros(FEATURES + values, jnp.float32).at[3 + place].set(1)


def kept(initial: PyTree, memory: PyTree, retention: Array) -> PyTree:
    """Retention leads a memory back to the initial one."""
    return jax.tree.map(lambda m, m0: m0 + retention * (m - m0), memory, initial)


def _of_kind(theta: PyTree, param: Array) -> PyTree:
    weights = theta["matrices" if param.ndim > 1 else "vectors"]
    return jax.tree.map(lambda a: jnp.asarray(a, param.dtype), weights)
