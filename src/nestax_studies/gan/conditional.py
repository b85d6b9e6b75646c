"""A class-conditional pair of residual networks in the manner of BigGAN, for a GPU.

A shared embedding of the class and a part of the noise set the gains and biases of every batch
normalization; the discriminator's score has a term that projects its features onto the class; both
networks are spectrally normalized; the loss is the hinge. No experiment of the paper is repeated
here: neither its data nor its size, and without orthogonal regularization and averaged weights.

Source: Brock, Donahue and Simonyan, "Large scale GAN training for high fidelity natural image
synthesis" (2019), section 3 and appendix B, the networks for 32 x 32 pixels; projection: Miyato and
Koyama, "cGANs with projection discriminator" (2018), equation 4.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .convolutional import normalized, over_batch, settled
from .players import Game

SIDE = 32  # pixels, to which smaller pictures are padded
CHUNK = 32  # of the noise, for each block and for the first layer
EMBEDDED = 128


def convolution(inputs: int, outputs: int, size: int, key: Array) -> Any:
    one, two = jax.random.split(key)
    return normalized(eqx.nn.Conv2d(inputs, outputs, size, padding=size // 2, key=one), two)


def linear(inputs: int, outputs: Any, key: Array, bias: bool = True) -> Any:
    one, two = jax.random.split(key)
    return normalized(eqx.nn.Linear(inputs, outputs, use_bias=bias, key=one), two)


class ConditionalNorm(eqx.Module):
    """Batch normalization with gains and biases that are linear in what is known of the sample."""

    norm: eqx.nn.BatchNorm
    gain: Any
    bias: Any

    def __init__(self, width: int, known: int, *, key: Array):
        one, two = jax.random.split(key)
        self.norm = eqx.nn.BatchNorm(width, "batch", channelwise_affine=False, mode="batch")
        self.gain = linear(known, width, one, bias=False)
        self.bias = linear(known, width, two, bias=False)

    def __call__(self, x: Array, known: Array, state: Any) -> tuple[Array, Any]:
        x, state = self.norm(x, state)
        gain, state = self.gain(known, state)
        bias, state = self.bias(known, state)
        return x * (1 + gain)[:, None, None] + bias[:, None, None], state


class Up(eqx.Module):
    """A residual block that doubles the side."""

    norms: list[ConditionalNorm]
    convolutions: list[Any]
    skip: Any

    def __init__(self, inputs: int, outputs: int, known: int, *, key: Array):
        keys = jax.random.split(key, 5)
        self.norms = [
            ConditionalNorm(width, known, key=k)
            for width, k in zip((inputs, outputs), keys, strict=False)
        ]
        self.convolutions = [
            convolution(inputs, outputs, 3, keys[2]),
            convolution(outputs, outputs, 3, keys[3]),
        ]
        self.skip = convolution(inputs, outputs, 1, keys[4])

    def __call__(self, x: Array, known: Array, state: Any) -> tuple[Array, Any]:
        y, state = self.norms[0](x, known, state)
        y, state = self.convolutions[0](doubled(jax.nn.relu(y)), state)
        y, state = self.norms[1](y, known, state)
        y, state = self.convolutions[1](jax.nn.relu(y), state)
        skipped, state = self.skip(doubled(x), state)
        return y + skipped, state


class Down(eqx.Module):
    """A residual block; it halves the side or keeps it."""

    convolutions: list[Any]
    skip: Any
    halves: bool = eqx.field(static=True)
    first: bool = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, halves: bool, first: bool, *, key: Array):
        one, two, three = jax.random.split(key, 3)
        self.convolutions = [
            convolution(inputs, outputs, 3, one), convolution(outputs, outputs, 3, two),
        ]  # fmt: skip
        self.skip = convolution(inputs, outputs, 1, three) if halves else None
        self.halves, self.first = halves, first

    def __call__(self, x: Array, state: Any) -> tuple[Array, Any]:
        y, state = self.convolutions[0](x if self.first else jax.nn.relu(x), state)
        y, state = self.convolutions[1](jax.nn.relu(y), state)
        if self.skip is not None:
            x, state = self.skip(x, state)
        return (halved(x) + halved(y) if self.halves else x + y), state


class Generator(eqx.Module):
    """Noise and class -> a picture in [0, 1]; the side doubles from 4 in each block."""

    embedding: Any
    into: Any
    blocks: list[Up]
    norm: eqx.nn.BatchNorm
    out: Any
    width: int = eqx.field(static=True)

    def __init__(self, side: int, width: int, classes: int, *, key: Array):
        count, self.width = blocks_of(side), width
        *keys, one, two, three = jax.random.split(key, count + 3)
        self.embedding = linear(classes, EMBEDDED, one, bias=False)
        self.into = linear(CHUNK, width * 16, two)
        self.blocks = [Up(width, width, EMBEDDED + CHUNK, key=k) for k in keys]
        self.norm = eqx.nn.BatchNorm(width, "batch", mode="batch")
        self.out = convolution(width, 1, 3, three)

    def __call__(self, noise: Array, label: Array, state: Any) -> tuple[Array, Any]:
        first, *chunks = noise.reshape(-1, CHUNK)
        embedded, state = self.embedding(label, state)
        x, state = self.into(first, state)
        x = x.reshape(self.width, 4, 4)
        for block, chunk in zip(self.blocks, chunks, strict=True):
            x, state = block(x, jnp.concatenate([embedded, chunk]), state)
        x, state = self.norm(x, state)
        x, state = self.out(jax.nn.relu(x), state)
        return jax.nn.sigmoid(x[0]), state


class Discriminator(eqx.Module):
    """Picture and class -> a score."""

    blocks: list[Down]
    out: Any
    embedding: Any

    def __init__(self, side: int, width: int, classes: int, *, key: Array):
        *keys, one, two = jax.random.split(key, blocks_of(side) + 3)
        self.blocks = [
            Down(
                1 if place == 0 else width, width, side >> place > 8 or not place, not place, key=k
            )
            for place, k in enumerate(keys)  # two that halve 32 to 8, and two more
        ]
        self.out = linear(width, "scalar", one)
        self.embedding = linear(classes, width, two, bias=False)

    def __call__(self, picture: Array, label: Array, state: Any) -> tuple[Array, Any]:
        x = 2 * picture[None] - 1
        for block in self.blocks:
            x, state = block(x, state)
        features = jnp.sum(jax.nn.relu(x), (1, 2))
        score, state = self.out(features, state)
        projected, state = self.embedding(label, state)
        return score + jnp.dot(projected, features), state


def doubled(x: Float[Array, "c h w"]) -> Float[Array, "c 2*h 2*w"]:
    """Every pixel four times."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def halved(x: Float[Array, "c h w"]) -> Float[Array, "c h/2 w/2"]:
    """Means over squares of four pixels."""
    return jnp.mean(x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2), (2, 4))


def blocks_of(side: int) -> int:
    """How often 4 is doubled to give the side."""
    return (side // 4).bit_length() - 1


def game(side: int, width: int, classes: int, batch: int, scale: int, padded: int = SIDE) -> Game:
    """The two networks on pictures, padded to a side that is 4 doubled once or more.

    Args:
        side: of the pictures, in pixels.
        width: channels everywhere; 256 in the paper.
        classes: of the data.
        batch: real and as many generated pictures in a step.
        scale: the largest grey level.
        padded: the side that the networks see.
    """
    before = (padded - side) // 2
    edges = (before, padded - side - before)
    noises = CHUNK * (blocks_of(padded) + 1)

    def init(key: Array) -> tuple[Any, Any]:
        kinds = zip((Generator, Discriminator), jax.random.split(key), strict=True)
        made = (eqx.nn.make_with_state(kind)(padded, width, classes, key=k) for kind, k in kinds)
        one, two = ({"weights": weights, "state": state} for weights, state in made)
        return one, two

    def make(generator: Any, noise: Array, wanted: Array) -> tuple[Array, Any]:
        given = noise, jax.nn.one_hot(wanted, classes)
        return over_batch(generator["weights"], generator["state"], *given)

    def judge(discriminator: Any, samples: Array, labels: Array) -> tuple[Array, Any]:
        given = samples, jax.nn.one_hot(labels, classes)
        return over_batch(discriminator["weights"], discriminator["state"], *given)

    def noise(key: Array, count: int) -> dict[str, Array]:
        one, two = jax.random.split(key)
        wanted = jax.random.randint(two, (count,), 0, classes)
        return {"noise": jax.random.normal(one, (count, noises)), "wanted": wanted}

    def draw(task: Any, key: Array) -> dict[str, Array]:
        one, two = jax.random.split(key)
        index = jax.random.randint(one, (batch,), 0, len(task["labels"]))
        real = jnp.pad(task["images"][index], ((0, 0), edges, edges)) / scale
        return {"real": real, "labels": task["labels"][index], **noise(two, batch)}

    def sample(generator: Any, key: Array, count: int) -> Array:
        made, _ = make(settled(generator), *noise(key, count).values())
        return made[:, before : before + side, before : before + side]

    return Game(init, make, judge, draw, sample, settled, "hinge")
