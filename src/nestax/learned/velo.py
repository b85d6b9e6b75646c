"""A recurrent network for each tensor that chooses, from a bank, one for each of its parameters."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..optim.internal import Scalar, number, whole
from . import features
from .features import Decays, Statistics
from .lstm import affine, cell, drawn_cell
from .perceptron import applied, drawn, sizes
from .rule import Moment, Rule

MOMENTUM, SECOND, FACTORED = (0.9, 0.99, 0.999), (0.999,), (0.9, 0.99, 0.999)
FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)
AVERAGES, RANKS = 10, 5
INPUTS = len(FRACTIONS) + AVERAGES - 1 + len(MOMENTUM) + 2 * len(SECOND) + RANKS


def velo(lstm_hidden: int = 64, bank: int = 16, hidden: Any = (4, 4), step: Scalar = 0.001) -> Rule:
    """A rule of VeLO's form: an LSTM per tensor sets the weights of a perceptron per parameter.

    For each tensor an LSTM reads nine functions of the fraction of steps done, nine features of the
    loss, the size of the tensor's gradient statistics and its number of axes; before it, a layer
    adds the maximum over all tensors of a rectified layer. It writes controls `c` and a factor
    `r`. The perceptron of the tensor has the weights `100 mean_k(c_k theta_k)` over the bank; it
    reads 30 features of each parameter, which `normalized` has too, and writes a direction d and a
    magnitude a. Added to the parameter is

        -r step rms(p) d exp(0.001 a)

    with the root mean square over the tensor p. Gradients are clipped to ±1000. A tensor of zeros
    hardly moves: its root mean square is floored at 3e-5.

    The source's sizes are `velo(lstm_hidden=512, bank=256)`: 2,301,185 weights. The 2,320,385 of
    its published implementation include 19,200 that are left out here: a layer whose output is not
    used (15,872), the third output of the perceptron (1,280), and inputs for two more features of
    the variance of second moments, which differ only in a mean that is that of the momenta (2,048).
    Also unlike the published defaults, the LSTM's state is carried on, the half-lives of the loss
    averages reach up to `num_steps`, and these averages are corrected for their start at 0 before
    the loss is clipped. No trained weights of the source are included, and none can be loaded.

    Args:
        lstm_hidden: size of the LSTM and of the layer before it.
        bank: number of perceptrons whose weights are mixed.
        hidden: sizes of the perceptron's hidden layers, rectified.
        step: factor of all updates, beside the learning rate.

    Returns:
        A rule that needs `num_steps` and, at each update, the loss as `value`.

    Raises:
        ValueError: sizes that are no ints of at least 1; a negative or infinite step.
        TypeError: an array in place of a size.

    Source: Metz et al., "VeLO: Training versatile learned optimizers by scaling up" (2022),
    appendix A, and the formulas of its published implementation.

    Example:
        ```python
        rule = nx.learned.velo()
        optimizer = rule(rule.init(jax.random.key(0)), num_steps=1000)
        weights = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
        state = optimizer.init(weights)
        updates, state = optimizer.update(weights, state, weights, value=4.0)
        print(updates["w"].shape)  # (3, 2)
        ```
    """
    return _VeLO(
        whole("velo", "lstm_hidden", lstm_hidden),
        whole("velo", "bank", bank),
        sizes("velo", hidden),
        number("velo", "step", step),
    )


class Losses(NamedTuple):
    """Averages of the loss, and the least of each so far.

    Attributes:
        means: moving averages that begin at 0, (10,).
        least: smallest value of each corrected average, (10,).
    """

    means: Array
    least: Array


class VeLOState(NamedTuple):
    """State of the rule, over the tensors that have elements.

    Attributes:
        losses: averages of the loss.
        memory: (h, c) of the LSTM, each (tensors, lstm_hidden).
        tensors: gradient statistics of each tensor.
    """

    losses: Losses
    memory: tuple[Array, Array]
    tensors: tuple[Statistics, ...]


@dataclasses.dataclass(frozen=True)
class _VeLO(Rule):
    name: ClassVar[str] = "velo"
    needs: ClassVar[tuple[str, ...]] = ("value", "num_steps")
    lstm_hidden: int
    bank: int
    hidden: tuple[int, ...]
    step: Any

    def init(self, key: Array) -> PyTree:
        size = self.lstm_hidden
        one, two, three, four, five, six = jax.random.split(key, 6)

        def network(key: Array) -> Any:
            return drawn(key, (30, *self.hidden, 2))

        return {
            "start": {"h": jnp.zeros(size, jnp.float32), "c": jnp.zeros(size, jnp.float32)},
            "own": drawn(one, (INPUTS, size))[0],
            "others": drawn(two, (INPUTS, size))[0],
            "lstm": drawn_cell(three, size, size),
            "controls": drawn(four, (size, self.bank))[0],
            "rate": drawn(five, (size, 1))[0],
            "bank": jax.vmap(network)(jax.random.split(six, self.bank)),
        }

    def begin(self, theta: PyTree, params: PyTree) -> VeLOState:
        leaves = [leaf for leaf in jax.tree.leaves(params) if leaf.size]
        dtype = jnp.result_type(jnp.float32, *leaves)
        shape = (len(leaves), self.lstm_hidden)
        h, c = (jnp.broadcast_to(theta["start"][n].astype(dtype), shape) for n in ("h", "c"))
        counts = (len(MOMENTUM), len(SECOND), len(FACTORED))
        return VeLOState(
            Losses(jnp.zeros(AVERAGES, dtype), jnp.full(AVERAGES, jnp.inf, dtype)),
            (h, c),
            tuple(features.begin(leaf, *counts) for leaf in leaves),
        )

    def update(
        self, theta: PyTree, gradients: PyTree, state: VeLOState, params: PyTree, moment: Moment
    ) -> tuple[PyTree, VeLOState]:
        leaves, structure = jax.tree.flatten(gradients)
        kept = [i for i, leaf in enumerate(leaves) if leaf.size]
        if not kept:
            return gradients, state
        every = jax.tree.leaves(params)
        held = [every[i] for i in kept]
        dtype = state.losses.means.dtype
        steps = jnp.asarray(moment.num_steps, dtype)
        losses, seen = watched(state.losses, jnp.asarray(moment.value, dtype), moment.count, steps)
        common = jnp.concatenate([progress(moment.count.astype(dtype) / steps), seen])
        inputs = jnp.stack(
            [
                jnp.concatenate([common, summary(p, memory).astype(dtype)])
                for p, memory in zip(held, state.tensors, strict=True)
            ]
        )
        others = jnp.max(jax.nn.relu(_layer(theta["others"], inputs)), axis=0, keepdims=True)
        memory = cell(theta["lstm"], _layer(theta["own"], inputs) + others, state.memory)
        controls, rates = (_layer(theta[name], memory[0]) for name in ("controls", "rate"))
        tensors = []
        for i, p, old, control, rate in zip(
            kept, held, state.tensors, controls, rates, strict=True
        ):
            leaves[i], new = self._moved(theta["bank"], leaves[i], old, p, control, rate[0])
            tensors.append(new)
        return structure.unflatten(leaves), VeLOState(losses, memory, tuple(tensors))

    def _moved(
        self,
        bank: PyTree,
        gradient: Array,
        state: Statistics,
        p: Array,
        control: Array,
        rate: Array,
    ) -> tuple[Array, Statistics]:
        """The update of one tensor and its statistics."""
        gradient = jnp.clip(gradient, -1000, 1000)
        kinds = (MOMENTUM, SECOND, FACTORED)
        decays = Decays(*(jnp.asarray(kind, p.dtype) for kind in kinds))
        state = features.accumulated(state, gradient, decays)
        network = jax.tree.map(
            lambda w: 100 / self.bank * jnp.tensordot(control.astype(w.dtype), w, 1), bank
        )
        seen = [
            jnp.broadcast_to(x * features.over_tensor(x), (len(x), *p.shape))
            for x in features.tensor_features(state, gradient, p, clipped=True)
        ]
        direction, magnitude = applied(network, jnp.concatenate(seen).reshape(30, -1))
        size = jnp.sqrt(jnp.mean(jnp.square(p)) + 1e-9)
        update = -rate * self.step * size * direction * jnp.exp(0.001 * magnitude)
        return update.reshape(p.shape), state


def progress(fraction: Array) -> Array:
    """The nine features of the fraction of steps done, `tanh(10 (fraction - tau))`."""
    return jnp.tanh((fraction - jnp.asarray(FRACTIONS, fraction.dtype)) * 10)


def watched(state: Losses, loss: Array, count: Array, steps: Array) -> tuple[Losses, Array]:
    """The averages of the loss after one more, and the nine features made of them.

    The half-lives are spaced evenly by their logarithms, from 10 to the number of steps. A feature
    compares an average with its own least value and with the next slower average.

    Args:
        state: averages so far.
        loss: of this step; clipped to twice the largest average.
        count: number of losses so far.
        steps: number of steps that are planned.

    Returns:
        (averages, features), where the features are in [-1, 1], and 0 for the first two losses.
    """
    exponents = jnp.linspace(0, 1, AVERAGES, dtype=loss.dtype)
    rates = 1 / (10 * jnp.power(steps / 10, exponents))
    count = count.astype(loss.dtype)
    # Of 0 losses there is no average; the first is not clipped.
    weight = -jnp.expm1(-rates * jnp.maximum(count, 1))
    largest = jnp.max(state.means / weight)
    loss = jnp.where(count == 0, loss, jnp.minimum(2 * jnp.abs(largest), loss))
    means = state.means + (loss - state.means) * -jnp.expm1(-rates)
    now = means / -jnp.expm1(-rates * (count + 1))
    least = jnp.minimum(state.least, now)
    span = jnp.maximum(now[1:] - least[:-1], 1e-8)
    seen = jnp.clip((now[:-1] - least[:-1]) / span - 1, -1, 1)
    return Losses(means, least), jnp.where(count < 2, 0, seen)


def summary(param: Array, state: Statistics) -> Array:
    """The features of one tensor: sizes of its statistics relative to its own, and its rank.

    Args:
        param: the tensor.
        state: its statistics before this gradient.

    Returns:
        Log-magnitudes of the variance of the momenta, the mean and the variance of the second
        moment, each over the tensor; and the number of axes longer than 1, one-hot up to 4.
    """
    axes = tuple(range(1, param.ndim + 1))
    unit = jax.lax.rsqrt(jnp.maximum(jnp.mean(jnp.square(param)), 1e-9))
    found = [
        jnp.var(state.momentum * unit, axis=axes),
        jnp.mean(state.second * unit, axis=axes),
        jnp.var(state.second * unit, axis=axes),
    ]
    sizes = jnp.clip(jnp.log(1e-8 + jnp.abs(10 * jnp.concatenate(found))), -5, 5) / 2
    rank = sum(size > 1 for size in param.shape)
    return jnp.concatenate([sizes, jax.nn.one_hot(rank, RANKS, dtype=sizes.dtype)])


def _layer(weights: PyTree, x: Array) -> Array:
    return affine(x, weights["w"], weights["b"])
