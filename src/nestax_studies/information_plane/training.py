"""Training of many small networks side by side, compiled once for any number of epochs."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8, UInt32

from ..models import mlp, mlp_init

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": jnp.tanh, "relu": jax.nn.relu}
# Independent streams of the one seed that all randomness of a network comes from.
_WEIGHTS, _MEMORY = 0, 1


class Networks(NamedTuple):
    """n networks in training; everything but `epoch` has a leading axis n."""

    parameters: Any
    optimizer: Any
    rate: Float[Array, " n"]
    loss: Float[Array, " n"]  # mean over the batches of the last epoch, nats
    epoch: Int[Array, ""]


class Images(NamedTuple):
    """Training images as bytes (a quarter of float32's memory traffic) and their labels."""

    pixels: UInt8[Array, "images pixels"]
    labels: Int[Array, " images"]
    scale: Float[Array, ""]

    def batch(self, indices: Array) -> tuple[Array, Array]:
        return self.pixels[indices].astype(jnp.float32) / self.scale, self.labels[indices]


Make = Callable[[Any, Any], optax.GradientTransformation]


class Training:
    """Trains networks of one shape with one arm's optimizer.

    Data order: epoch e visits the images in an order drawn from (seed 0, e), in batches of
    `batch_size` without the incomplete last one; it is the same for all networks and arms, so the
    first layer of all networks is one matrix product.
    """

    def __init__(self, make: Make, sizes: tuple[int, ...], activation: str, batch_size: int):
        self.make, self.sizes, self.batch_size = make, sizes, batch_size
        self.activation = ACTIVATIONS[activation]
        self.advance = jax.jit(self._advance, donate_argnums=0)
        self.unit_step = jax.jit(self._unit_step)

    def init(self, seeds: Int[Array, " n"], rates: Float[Array, " n"]) -> Networks:
        """Fresh networks; equal seeds give equal weights whatever the optimizer."""

        def one(seed: Array, rate: Array) -> tuple[Any, Any]:
            key = jax.random.key(seed)
            parameters = mlp_init(jax.random.fold_in(key, _WEIGHTS), self.sizes)
            transformation = self.make(rate, jax.random.fold_in(key, _MEMORY))
            return parameters, transformation.init(parameters)

        # Not jitted: compiling two dozen draws into one program takes seconds for every arm, while
        # the draws' own programs serve all arms.
        parameters, optimizer = jax.vmap(one)(seeds, rates)
        rates = jnp.array(rates, jnp.float32)  # own buffers: `advance` gives its argument's away
        loss, epoch = jnp.full(rates.shape, jnp.inf, jnp.float32), jnp.zeros((), jnp.int32)
        return Networks(parameters, optimizer, rates, loss, epoch)

    def _advance(self, networks: Networks, until: Array, images: Images, stop: Array) -> Networks:
        """Trains up to epoch `until`; with `stop`, no further than an epoch of non-finite loss."""

        def unfinished(state: Networks) -> Array:
            healthy = jnp.all(jnp.isfinite(state.loss)) | ~stop | (state.epoch == 0)
            return (state.epoch < until) & healthy

        return jax.lax.while_loop(unfinished, partial(self._epoch, images=images), networks)

    def _epoch(self, state: Networks, images: Images) -> Networks:
        def step(carry: tuple[Any, Any], batch: Array) -> tuple[tuple[Any, Any], Array]:
            x, y = images.batch(batch)

            def one(parameters: Any, optimizer: Any, rate: Array) -> tuple[Any, Any, Array]:
                loss, gradient = jax.value_and_grad(self._loss)(parameters, x, y)
                updates, optimizer = self.make(rate, 0).update(gradient, optimizer, parameters)
                return optax.apply_updates(parameters, updates), optimizer, loss

            parameters, optimizer, loss = jax.vmap(one)(*carry, state.rate)
            return (parameters, optimizer), loss

        begin = (state.parameters, state.optimizer)
        end, losses = jax.lax.scan(step, begin, self._order(state.epoch, images))
        return Networks(*end, state.rate, losses.mean(0), state.epoch + 1)

    def _order(self, epoch: Array, images: Images) -> Int[Array, "batches size"]:
        count, size = images.labels.shape[0], self.batch_size
        words = jax.random.bits(jax.random.fold_in(jax.random.key(0), epoch), (count,))
        return shuffled(words)[: count // size * size].reshape(-1, size)

    def _loss(self, parameters: Any, x: Array, y: Array) -> Array:
        logits = mlp(parameters, x, self.activation)
        # By one-hot rows: the gradient of picking single entries is a slow scatter on CPUs.
        labels = jax.nn.one_hot(y, logits.shape[1], dtype=logits.dtype)
        return optax.softmax_cross_entropy(logits, labels).mean()

    def _unit_step(self, networks: Networks, images: Images) -> Float[Array, " n"]:
        """Root mean square per coordinate of the steps of the first epoch at rate 1, all taken at
        the present weights, so that it says nothing of where a rate leads."""

        def one(parameters: Any, optimizer: Any) -> Array:
            def step(optimizer: Any, batch: Array) -> tuple[Any, Array]:
                gradient = jax.grad(self._loss)(parameters, *images.batch(batch))
                updates, optimizer = self.make(1.0, 0).update(gradient, optimizer, parameters)
                coordinates = jnp.concatenate([u.ravel() for u in jax.tree.leaves(updates)])
                return optimizer, jnp.mean(jnp.square(coordinates))

            order = self._order(jnp.zeros((), jnp.int32), images)
            return jnp.sqrt(jax.lax.scan(step, optimizer, order)[1].mean())

        return jax.vmap(one)(networks.parameters, networks.optimizer)


def shuffled(words: UInt32[Array, " n"]) -> Int[Array, " n"]:
    """0 .. n - 1 in an order drawn from n random words.

    For up to 2^16 indices one sort of single words, random bits above and the index below, in a
    fifth of the time of an argsort. Two indices draw the same bits, and then keep their order, once
    in 2^16 pairs.
    """
    n = len(words)
    if n > 2**16:
        return jnp.argsort(words)
    mask = np.uint32(2**16 - 1)
    return (jnp.sort(words & ~mask | jnp.arange(n, dtype=jnp.uint32)) & mask).astype(jnp.int32)
