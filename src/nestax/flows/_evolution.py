"""Evolution strategies: gradients from losses alone, one perturbed value for each copy.

Copies 2i and 2i + 1 of a nest are pair i: they run the period with value + e_i and value - e_i on
the same batches. With w_i the weight of a pair and L+, L- the losses of its copies,

    gradient = mean over pairs of  w_i (L+ - L-) / (2 sigma^2).

The three strategies differ in what e_i and w_i are along an episode that is longer than the period.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from ._flow import Flow, Period, Reached
from ._solvers import check_number


@dataclasses.dataclass(frozen=True, repr=False)
class Evolution(Flow, abc.ABC):
    """What the three strategies share; their own docstrings describe the attributes."""

    follows: ClassVar[bool] = True
    estimates: ClassVar[bool] = True
    perturbs: ClassVar[bool] = True
    sigma: float | int | np.number
    shape: str = "difference"
    clip: float | int | np.number | None = None

    def __post_init__(self) -> None:
        who = type(self).__name__
        for name in ("sigma", "clip"):
            given = getattr(self, name)
            if isinstance(given, np.number):  # which would decide over dtypes
                object.__setattr__(self, name, given.item())
        check_number(who, "sigma", self.sigma, least=0)
        if self.sigma == 0:
            raise ValueError(f"{who}: sigma must be positive, such as 0.01; got 0")
        if self.shape not in ("difference", "sign", "rank"):
            raise ValueError(f'{who}: shape is "difference", "sign" or "rank", got {self.shape!r}')
        if self.clip is not None:
            check_number(who, "clip", self.clip)

    def init(self, value: PyTree, copies: int | None) -> PyTree:
        """See `Flow.init`: no memory.

        Raises:
            ValueError: the value has complex leaves, which cannot be perturbed.
        """
        if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(value)):
            raise ValueError(
                f"{type(self).__name__} perturbs real numbers, and the level's value holds complex "
                "ones; give it their real and imaginary parts"
            )
        return super().init(value, copies)

    @abc.abstractmethod
    def drawn(self, memory: PyTree, noise: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        """The perturbations of one period.

        Args:
            memory: the memory of the flow.
            noise: fresh noise, a pytree whose leaves have a leading axis of pairs.

        Returns:
            (perturbations, weights, memory): two pytrees like `noise`, and the next memory.
        """

    def gradient(
        self, period: Period, memory: PyTree, key: PRNGKeyArray
    ) -> tuple[PyTree, Reached, PyTree]:
        """See `Flow.gradient`."""
        assert period.copies is not None
        pairs = period.copies // 2
        leaves, structure = jax.tree.flatten(period.value)
        noise = structure.unflatten(
            [
                self.sigma * jax.random.normal(k, (pairs, *leaf.shape), leaf.dtype)
                for k, leaf in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
            ]
        )
        epsilon, weight, memory = self.drawn(memory, noise)

        def spread(leaf: Array, e: Array) -> Array:
            both = jnp.stack([leaf[None] + e, leaf[None] - e], axis=1)
            return both.reshape(2 * pairs, *leaf.shape)

        reached = period.run_each(jax.tree.map(spread, period.value, epsilon))
        slope = self.slopes(reached.losses.reshape(pairs, 2))

        def estimate(weight: Array) -> Array:
            return jnp.tensordot(slope.astype(weight.dtype), weight, 1) / pairs

        return jax.tree.map(estimate, weight), reached, memory

    def slopes(self, losses: Array) -> Array:
        """The factors that the weights of the pairs are multiplied by.

        Args:
            losses: shape (pairs, 2), of the positive and the negative perturbation.

        Returns:
            An array of shape (pairs,).
        """
        sound = jnp.all(jnp.isfinite(losses), axis=1)
        losses = losses if self.clip is None else jnp.minimum(losses, self.clip)
        losses = jnp.where(sound[:, None], losses, 0)
        if self.shape == "rank":
            losses = _ranks(losses, sound)
        difference = losses[:, 0] - losses[:, 1]
        if self.shape == "sign":
            difference = jnp.sign(difference)
        return jnp.where(sound, difference, 0) / (2 * self.sigma**2)


def _ranks(losses: Array, sound: Array) -> Array:
    """Ranks of the sound pairs' losses from -1/2 to 1/2; equal losses share the mean of theirs."""
    flat, there = losses.reshape(-1), jnp.repeat(sound, 2)
    below = (flat[:, None] > flat[None]) & there[None]
    equal = (flat[:, None] == flat[None]) & there[None]
    place = jnp.sum(below, axis=1) + (jnp.sum(equal, axis=1) - 1) / 2
    ranks = place / jnp.maximum(jnp.sum(there) - 1, 1) - 0.5
    return ranks.reshape(losses.shape).astype(losses.dtype)


@dataclasses.dataclass(frozen=True, repr=False)
class ES(Evolution):
    """Evolution strategies over one period: a fresh perturbation for every period.

    Each pair of copies runs the period with value + e and value - e, e drawn from N(0, sigma^2).
    The gradient is the mean over pairs of `e (L+ - L-) / (2 sigma^2)`. It is unbiased for the loss
    of one period, smoothed by N(0, sigma^2). In longer episodes the influence of earlier periods is
    lost, as under an `Unroll` over one period.

    Example:
        ```python
        loss, key = jnp.floor, jax.random.key(0)  # the derivative is 0 almost everywhere
        value, gradient = nx.evolution_gradient(loss, jnp.zeros(()), key, nx.ES(1.0), pairs=9999)
        print(f"{gradient:.1f}")  # 1.0
        ```

    Attributes:
        sigma: standard deviation of the perturbations.
        shape: the function of the losses in place of L+ - L-. "difference": L+ - L- itself. "sign":
            its sign. "rank": the difference of their ranks among the losses of all copies, from
            -1/2 to 1/2. The last two are biased, and do not change if losses are rescaled.
        clip: losses above this are replaced by it; None for no bound. In either case a pair with a
            loss that is not finite contributes nothing.

    Raises:
        ValueError: sigma is not a positive number; another shape; a clip that is not a finite
            number.

    Source: Salimans, Ho, Chen, Sidor and Sutskever, "Evolution strategies as a scalable alternative
    to reinforcement learning" (2017), with antithetic pairs.
    """

    def drawn(self, memory: PyTree, noise: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        """See `Evolution.drawn`."""
        return noise, noise, memory


@dataclasses.dataclass(frozen=True, repr=False)
class PES(Evolution):
    """Persistent evolution strategies: fresh perturbations, weighted by their sum in the episode.

    Summed over the periods of an episode the gradient is unbiased for the smoothed loss of the
    whole episode. Its variance grows with the number of periods.

    Example:
        ```python
        loss, zero = lambda v, batch: (v["w"] - 1) ** 2, lambda v, task, key: jnp.zeros(())
        w = nx.Level("w", loss, lambda v: optax.sgd(v["rate"]), start=zero, horizon=8)
        rate = nx.Level("rate", loss, optax.sgd(0.01), every=4, flow=nx.PES(0.01))
        nest = nx.Nest([w, rate], copies=32)
        state, info = nest.run(nest.init({"rate": 0.05}, jax.random.key(0)), steps=10)
        print(state.values["rate"] > 0.05)  # True
        ```

    Attributes:
        sigma: standard deviation of the perturbations.
        shape: the function of the losses in place of L+ - L-, as for `ES`: "difference", "sign" or
            "rank". The last two are biased, and do not change if losses are rescaled.
        clip: losses above this are replaced by it; None for no bound. In either case a pair with a
            loss that is not finite contributes nothing.

    Raises:
        ValueError: sigma is not a positive number; another shape; a clip that is not a finite
            number.

    Source: Vicol, Metz and Sohl-Dickstein, "Unbiased gradient estimation in unrolled computation
    graphs with persistent evolution strategies" (2021), algorithm 2.
    """

    def init(self, value: PyTree, copies: int | None) -> PyTree:
        """See `Flow.init`: the sums of the perturbations, one for each pair."""
        super().init(value, copies)
        return _for_pairs(value, copies)

    def restarted(self, memory: PyTree, due: Array) -> PyTree:
        """See `Flow.restarted`."""
        return jax.tree.map(lambda a: jnp.where(_column(due[::2], a), 0, a), memory)

    def drawn(self, memory: PyTree, noise: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        """See `Evolution.drawn`."""
        total = jax.tree.map(jnp.add, memory, noise)
        return noise, total, total


@dataclasses.dataclass(frozen=True, repr=False)
class NRES(Evolution):
    """Noise-reuse evolution strategies: one perturbation for each episode.

    Like `PES` it is unbiased for the smoothed loss of the whole episode. Unlike that of `PES` its
    variance does not grow with the number of periods.

    Attributes:
        sigma: standard deviation of the perturbations.
        shape: the function of the losses in place of L+ - L-, as for `ES`: "difference", "sign" or
            "rank". The last two are biased, and do not change if losses are rescaled.
        clip: losses above this are replaced by it; None for no bound. In either case a pair with a
            loss that is not finite contributes nothing.

    Raises:
        ValueError: sigma is not a positive number; another shape; a clip that is not a finite
            number.

    Source: Li, Harrison, Sohl-Dickstein, Smith and Metz, "Variance-reduced gradient estimation via
    noise-reuse in online evolution strategies" (2023), algorithm 1; the ES-Single of Vicol (2023).
    """

    def init(self, value: PyTree, copies: int | None) -> PyTree:
        """See `Flow.init`: the perturbations, and which pairs need new ones."""
        super().init(value, copies)
        zeros = _for_pairs(value, copies)
        return zeros, jnp.ones(0 if copies is None else copies // 2, bool)

    def restarted(self, memory: PyTree, due: Array) -> PyTree:
        """See `Flow.restarted`."""
        kept, fresh = memory
        return kept, fresh | due[::2]

    def drawn(self, memory: PyTree, noise: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        """See `Evolution.drawn`."""
        kept, fresh = memory
        epsilon = jax.tree.map(lambda a, b: jnp.where(_column(fresh, a), a, b), noise, kept)
        return epsilon, epsilon, (epsilon, jnp.zeros_like(fresh))


def _for_pairs(value: PyTree, copies: int | None) -> PyTree:
    pairs = 0 if copies is None else copies // 2
    return jax.tree.map(lambda a: jnp.zeros((pairs, *a.shape), a.dtype), value)


def _column(flags: Array, like: Array) -> Any:
    return flags.reshape(-1, *(1,) * (like.ndim - 1))
