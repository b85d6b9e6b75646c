"""A small convolutional generator, and a discriminator whose layers are spectrally normalized.

Source: Miyato et al., "Spectral normalization for generative adversarial networks" (2018); layers
and power iteration are equinox' own.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .players import Game

NOISE = 32


def normalized(layer: Any, key: Array) -> Any:
    """A layer whose weight is divided by its largest singular value."""
    return eqx.nn.SpectralNorm(layer, "weight", key=key)


class Convolution(eqx.Module):
    """A convolution with 3 x 3 pixels, as one product of matrices: on CPUs XLA's own convolutions
    take eight times as long inside of loops."""

    weight: Float[Array, "outputs 9*inputs"]
    bias: Float[Array, " outputs"]
    stride: int = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, key: Array):
        one, two = jax.random.split(key)
        bound = (9 * inputs) ** -0.5
        self.weight = jax.random.uniform(one, (outputs, 9 * inputs), minval=-bound, maxval=bound)
        self.bias = jax.random.uniform(two, (outputs,), minval=-bound, maxval=bound)
        self.stride = stride

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "_ _ outputs"]:
        height, width, _ = x.shape
        x, step = jnp.pad(x, ((1, 1), (1, 1), (0, 0))), self.stride
        shifted = [
            x[i : i + height : step, j : j + width : step] for i in range(3) for j in range(3)
        ]
        return jnp.concatenate(shifted, -1) @ self.weight.T + self.bias[None, None]


class Generator(eqx.Module):
    """Noise -> a picture of side 4 s in [0, 1], over s and 2 s pixels; layers that double the side
    make four pixels of the channels of one."""

    into: eqx.nn.Linear
    blocks: list[Convolution]
    norms: list[eqx.nn.GroupNorm]
    out: Convolution
    side: int = eqx.field(static=True)

    def __init__(self, side: int, width: int, *, key: Array):
        one, two, three, four = jax.random.split(key, 4)
        self.side = side // 4
        self.into = eqx.nn.Linear(NOISE, 2 * width * self.side**2, key=one)
        self.blocks = [
            Convolution(2 * width, 8 * width, key=two), Convolution(2 * width, width, key=three),
        ]  # fmt: skip
        self.norms = [eqx.nn.GroupNorm(4, 2 * width), eqx.nn.GroupNorm(4, width)]
        self.out = Convolution(width, 4, key=four)

    def __call__(self, noise: Float[Array, " noise"]) -> Float[Array, "side side"]:
        x = jax.nn.relu(self.into(noise)).reshape(self.side, self.side, -1)
        x = _normed(self.norms[0], finer(self.blocks[0](x)))
        x = _normed(self.norms[1], self.blocks[1](x))
        return jax.nn.sigmoid(finer(self.out(x))[..., 0])


def finer(x: Float[Array, "h w channels"]) -> Float[Array, "2*h 2*w _"]:
    """Four pixels of each, from its channels."""
    height, width, channels = x.shape
    x = x.reshape(height, width, 2, 2, channels // 4).transpose(0, 2, 1, 3, 4)
    return x.reshape(2 * height, 2 * width, channels // 4)


def _normed(norm: eqx.nn.GroupNorm, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    return jax.nn.relu(jnp.moveaxis(norm(jnp.moveaxis(x, -1, 0)), 0, -1))


class Discriminator(eqx.Module):
    """A picture -> a score."""

    blocks: list[Any]
    out: Any

    def __init__(self, side: int, width: int, *, key: Array):
        *keys, last = jax.random.split(key, 7)
        sizes = [(1, width, 2), (width, 2 * width, 2), (2 * width, 2 * width, 1)]
        self.blocks = [
            normalized(Convolution(a, b, stride, key=keys[2 * i]), keys[2 * i + 1])
            for i, (a, b, stride) in enumerate(sizes)
        ]
        linear = eqx.nn.Linear(2 * width * (side // 4) ** 2, "scalar", key=last)
        self.out = normalized(linear, last)

    def __call__(self, picture: Float[Array, "side side"], state: Any) -> tuple[Array, Any]:
        x = 2 * picture[..., None] - 1
        for block in self.blocks:
            x, state = block(x, state)
            x = jax.nn.leaky_relu(x, 0.1)
        return self.out(x.reshape(-1), state)


def over_batch(model: Any, state: Any, *inputs: Array) -> tuple[Array, Any]:
    """A model with a state, on each row of its inputs; the state is one for all."""
    axes = (*(0 for _ in inputs), None)
    return jax.vmap(model, axes, (0, None), axis_name="batch")(*inputs, state)


def game(side: int, width: int, batch: int, scale: int) -> Game:
    """The two networks on pictures of this side, a multiple of 4, with the hinge loss.

    Args:
        side: of the pictures, in pixels.
        width: channels of the first convolution.
        batch: real and as many generated pictures in a step.
        scale: the largest grey level.
    """

    def init(key: Array) -> tuple[Any, Any]:
        one, two = jax.random.split(key)
        judged, state = eqx.nn.make_with_state(Discriminator)(side, width, key=two)
        made = {"weights": Generator(side, width, key=one), "state": None}
        return made, {"weights": judged, "state": state}

    def make(generator: Any, noise: Array, wanted: None) -> tuple[Array, None]:
        return jax.vmap(generator["weights"])(noise), None

    def judge(discriminator: Any, samples: Array, labels: None) -> tuple[Array, Any]:
        return over_batch(discriminator["weights"], discriminator["state"], samples)

    def draw(task: Any, key: Array) -> dict[str, Array]:
        one, two = jax.random.split(key)
        index = jax.random.randint(one, (batch,), 0, len(task["labels"]))
        noise = jax.random.normal(two, (batch, NOISE))
        return {"noise": noise, "real": task["images"][index] / scale}

    def sample(generator: Any, key: Array, count: int) -> Array:
        return make(generator, jax.random.normal(key, (count, NOISE)), None)[0]

    return Game(init, make, judge, draw, sample, settled, "hinge")


def settled(network: Any) -> Any:
    """A network whose passes leave its state as it is."""
    return {**network, "weights": eqx.nn.inference_mode(network["weights"])}
