"""What the associative memories that are meta-trained have in common.

A momentum is a memory that learns while it is used: what it writes, keeps and says is here a
matter of theta. Every tensor has a memory of its own, of a size that does not depend on the tensor:
it maps the key of a coordinate to the value of that coordinate, and all coordinates write into it
together. Theta has one set of weights for matrices, tensors of two or more axes, and one for
vectors and scalars; it does not depend on shapes, so that one theta trains any network.

For a tensor with gradient g and parameters p, elementwise, where nu(x) = x / rms(x) over the
tensor, and 0 / 0 is 0:

    m_j <- b_j m_j + (1 - b_j) g,    r^2 <- c r^2 + (1 - c) g^2       (moments, from zero)
    h    = [nu(m_j)]_j, [nu(m_j / r)]_j                               (what the moments say)
    f    = [nu(g), nu(g / r), nu(p)], h                               (all features)
    k    = nu(tanh(K' h)),    v = tanh(V' f)                          (key and value)
    e    = M(k_before) - v                                            (surprise)
    M   <- M_0 + a (M - M_0) - eta grad_M mean |e|^2 / 2              (the write)
    y    = M(k)                                                       (the read)
    o    = d' [f, y] + q' tanh(A' [f, y])                             (the read-out)
    x    = 1, rms v ~ rms e, [rms m_j ~ rms r]_j, rms g ~ rms r       (comparisons)
    p   <- p - learning_rate exp(z' x) nu(o)                          (the size)

In a key nu is over coordinates and entries together. Comparisons are `a ~ b = (a - b) / (a + b)`,
of m_j and r whose bias is corrected, as Adam's, by `1 - b_j^t` and `sqrt(1 - c^t)`. `k_before` is
the key before this update, made of the moments alone, so that **keys are of the past and values of
the present**: the memory learns to foresee the value. K, V, M_0, d, A, q, z and, by their logits,
b, c, a and eta are theta.

There are no biases, so that the direction is odd in (g, p), and a tensor whose gradients are all
zero stays unless the read-out weighs p. The size of a step depends on how far averages of gradients
cancel, on the present gradient beside past ones, and on how well the memory foresees. Nothing
depends on the scale of the loss. The number t of the update corrects the bias of averages, and is
nothing that theta could read: no horizon is learned.

With q = z = 0 and d = 1 at nu(m_j) alone the rule is heavy-ball momentum, normalized; at
nu(m_j / r) it is Adam, normalized, with an eps of zero.
"""

import abc
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..optim.internal import number, option, rooted
from .rule import Moment, PerTensor

DECAYS = (0.5, 0.9, 0.99)  # of the averages, before meta-training
SECOND = 0.999
PAST = 2 * len(DECAYS)  # features that keys are made of
FEATURES = 3 + PAST
MOMENTUM, ADAM = 1, 4  # places of the average with decay 0.9, and of that over the root
SIZE = (0.0, 0.0, 0.0, 2.0, 0.0, 1.0)  # about Adam's steps, where averages cancel
FORESIGHT = 3.0  # weight of what the memory foresees, beside that of the average
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
        """What the memory says for keys [keys, ...]: [values, ...]."""

    @abc.abstractmethod
    def write(
        self, weights: PyTree, memory: PyTree, key: Array, value: Array
    ) -> tuple[PyTree, Array]:
        """The memory after one step of its own learning, and M(key) - value before it."""

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
            # What the memory says first is what it foresees of g / r.
            "values": drawn(keys[1], FEATURES, self.values).at[:, 0].set(0).at[1, 0].set(1),
            "memory": self.memory(keys[2]),
            "direct": momentum_only(self.values, ADAM).at[FEATURES].set(FORESIGHT),
            "hidden": drawn(keys[3], read, self.hidden),
            "out": jnp.zeros(self.hidden, jnp.float32),
            "size": jnp.array(SIZE, jnp.float32),
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
            weights["size"] = jnp.zeros_like(weights["size"])
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
        weights = _of_kind(theta, param)
        decays, second = jax.nn.sigmoid(weights["decays"]), jax.nn.sigmoid(weights["second"])
        averages = tuple(
            b * m + (1 - b) * gradient for b, m in zip(decays, state["averages"], strict=True)
        )
        root = rooted(second, state["root"], 1 - second, gradient)
        before, _ = _past(state["averages"], state["root"])
        present, sizes = _past(averages, root)
        now, own = normalized(jnp.stack([gradient, _over(gradient, root), param]), 1)
        features = jnp.concatenate([now, present])
        value = jnp.tanh(product(weights["values"], features))
        memory, error = self.write(weights["memory"], state["memory"], _key(weights, before), value)
        seen = jnp.concatenate([features, self.read(memory, _key(weights, present))])
        hidden = jnp.tanh(product(weights["hidden"], seen))
        direction, _ = normalized(
            product(weights["direct"], seen) + product(weights["out"], hidden)
        )
        steps = (moment.count + 1).astype(gradient.dtype)
        corrections = -jnp.expm1(steps * jax.nn.log_sigmoid(weights["decays"]))
        slow = normalized(root)[1] / jnp.sqrt(
            -jnp.expm1(steps * jax.nn.log_sigmoid(weights["second"]))
        )
        known = jnp.concatenate([sizes[: len(DECAYS)] / corrections, own[:1]])
        foreseen = _compared(normalized(value)[1], normalized(error)[1])
        told = jnp.concatenate([jnp.stack([jnp.ones_like(slow), foreseen]), _compared(known, slow)])
        size = jnp.exp(jnp.sum(weights["size"] * told))
        return -size * direction, {"averages": averages, "root": root, "memory": memory}


def normalized(x: Array, first: int = 0) -> tuple[Array, Array]:
    """x over its root mean square over the axes from `first` on, and that; 0 / 0 is 0.

    Squares of small or large numbers do not under- or overflow.
    """
    axes = tuple(range(first, x.ndim))
    # The result does not depend on this scale, so that it needs no derivative.
    top = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axes, keepdims=True))
    zero = top == 0
    top = jnp.where(zero, 1, top)
    x = x / top
    square = jnp.mean(jnp.square(x), axis=axes, keepdims=True)
    root = jnp.sqrt(jnp.where(zero, 1, square))
    return x / root, jnp.where(zero, 0, top * root).reshape(x.shape[:first])


def product(weights: Array, features: Array) -> Array:
    """Weights [features] or [features, outputs] times features [features, ...]."""
    return jnp.tensordot(weights.T, features, 1)


def _over(x: Array, root: Array) -> Array:
    """x / root; zero where the root is, as all gradients were zero there."""
    return x / jnp.where(root == 0, 1, root)


def _past(averages: tuple[Array, ...], root: Array) -> tuple[Array, Array]:
    """What the moments say, and the sizes of these."""
    return normalized(jnp.stack([*averages, *(_over(m, root) for m in averages)]), 1)


def _key(weights: PyTree, features: Array) -> Array:
    return normalized(jnp.tanh(product(weights["keys"], features)))[0]


def _compared(a: Array, b: Array) -> Array:
    """(a - b) / (a + b) of numbers of at least 0, between -1 and 1."""
    total = a + b
    return (a - b) / jnp.where(total == 0, 1, total)


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
