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


class Generator(eqx.Module):
    """Noise -> a picture of side 4 s in [0, 1], over s, 2 s and 4 s pixels."""

    into: eqx.nn.Linear
    blocks: list[eqx.nn.Conv2d]
    norms: list[eqx.nn.GroupNorm]
    out: eqx.nn.Conv2d
    side: int = eqx.field(static=True)

    def __init__(self, side: int, width: int, *, key: Array):
        one, two, three, four = jax.random.split(key, 4)
        self.side = side // 4
        self.into = eqx.nn.Linear(NOISE, 2 * width * self.side**2, key=one)
        self.blocks = [
            eqx.nn.Conv2d(2 * width, 2 * width, 3, padding=1, key=two),
            eqx.nn.Conv2d(2 * width, width, 3, padding=1, key=three),
        ]
        self.norms = [eqx.nn.GroupNorm(4, 2 * width), eqx.nn.GroupNorm(4, width)]
        self.out = eqx.nn.Conv2d(width, 1, 3, padding=1, key=four)

    def __call__(self, noise: Float[Array, " noise"]) -> Float[Array, "side side"]:
        x = jax.nn.relu(self.into(noise)).reshape(-1, self.side, self.side)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = jax.nn.relu(norm(block(doubled(x))))
        return jax.nn.sigmoid(self.out(x)[0])


class Discriminator(eqx.Module):
    """A picture -> a score."""

    blocks: list[Any]
    out: Any

    def __init__(self, side: int, width: int, *, key: Array):
        *keys, last = jax.random.split(key, 7)
        sizes = [(1, width, 2), (width, 2 * width, 2), (2 * width, 2 * width, 1)]
        self.blocks = [
            normalized(
                eqx.nn.Conv2d(a, b, 3, stride=stride, padding=1, key=keys[2 * i]), keys[2 * i + 1]
            )
            for i, (a, b, stride) in enumerate(sizes)
        ]
        linear = eqx.nn.Linear(2 * width * (side // 4) ** 2, "scalar", key=last)
        self.out = normalized(linear, last)

    def __call__(self, picture: Float[Array, "side side"], state: Any) -> tuple[Array, Any]:
        x = picture[None] - 0.5
        for block in self.blocks:
            x, state = block(x, state)
            x = jax.nn.leaky_relu(x, 0.1)
        return self.out(x.reshape(-1), state)


def doubled(x: Float[Array, "c h w"]) -> Float[Array, "c 2*h 2*w"]:
    """Every pixel four times."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


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
