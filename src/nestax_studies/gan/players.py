"""Two players, a generator and a discriminator, as a nest; and their losses."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from nestax.levels import Held, Level, Nest, Peers
from nestax.optim import complex_adam

Scores = Float[Array, " n"]
Order = Literal["simultaneous", "alternating"]


class Loss(NamedTuple):
    """What the players descend.

    Attributes:
        generator: scores of generated samples -> loss.
        discriminator: (scores of real samples, of generated samples) -> loss.
    """

    generator: Callable[[Scores], Array]
    discriminator: Callable[[Scores, Scores], Array]


LOSSES = {
    # Goodfellow et al., "Generative adversarial nets" (2014), section 3; scores are logits.
    "nonsaturating": Loss(
        lambda made: jnp.mean(jax.nn.softplus(-made)),
        lambda real, made: jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(made)),
    ),
    # Miyato et al., "Spectral normalization for GANs" (2018), equations 16 and 17.
    "hinge": Loss(
        lambda made: -jnp.mean(made),
        lambda real, made: jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + made)),
    ),
}


@dataclass(frozen=True, eq=False)
class Game:
    """Networks and data of the two players. A network's value has two parts: "weights", which are
    trained, and "state", which its passes change (vectors of power iterations, running averages);
    None if there is nothing of that kind.

    Attributes:
        init: key -> network of the generator, network of the discriminator.
        make: (generator, noise, labels) -> samples, its state afterwards.
        judge: (discriminator, samples, labels) -> scores, its state afterwards.
        draw: (task, key) -> "noise", "real"; and "labels" of the real samples and "wanted" ones of
            those to be made, None without classes.
        sample: (generator, key, count) -> samples, with states left as they are.
        settled: discriminator -> the same, with its state held still.
        loss: a name of `LOSSES`.
        task: data that contexts draw from.
    """

    init: Callable[[Array], tuple[Any, Any]]
    make: Callable[[Any, Array, Any], tuple[Array, Any]]
    judge: Callable[[Any, Array, Any], tuple[Scores, Any]]
    draw: Callable[[Any, Array], dict[str, Any]]
    sample: Callable[[Any, Array, int], Array]
    settled: Callable[[Any], Any] = lambda discriminator: discriminator
    loss: str = "nonsaturating"
    task: Any = None


def gain(modulus: Any, argument: Any) -> Any:
    """Re 1 / (1 - beta): the steps of complex Adam along a constant gradient, in learning rates."""
    re, im = modulus * jnp.cos(argument), modulus * jnp.sin(argument)
    return (1 - re) / ((1 - re) ** 2 + im**2)


def system(game: Game, order: Order = "simultaneous", **options: Any) -> Nest:
    """The nest: two peers, and a level that holds the rates of both and the discriminator's beta,
    so that other rates need no other program.

    Both see the same noise. The generator's optimizer is Adam without momentum. Each objective
    hands on the state of its own network; the generator looks at the discriminator as it stands.

    Args:
        game: see `Game`.
        order: in which the players move.
        options: of the nest.
    """
    loss = LOSSES[game.loss]

    def generator(values: dict[str, Any], batch: dict[str, Any]) -> Any:
        wanted, own = batch.get("wanted"), values["generator"]
        made, state = game.make(own, batch["noise"], wanted)
        scores, _ = game.judge(game.settled(values["discriminator"]), made, wanted)
        return loss.generator(scores), state

    def discriminator(values: dict[str, Any], batch: dict[str, Any]) -> Any:
        real, wanted = batch["real"], batch.get("wanted")
        made, _ = game.make(values["generator"], batch["noise"], wanted)
        labels = None if wanted is None else jnp.concatenate([batch["labels"], wanted])
        # One pass, so that the power iteration takes one step.
        scores, state = game.judge(values["discriminator"], jnp.concatenate([real, made]), labels)
        return loss.discriminator(scores[: len(real)], scores[len(real) :]), state

    def plain(values: dict[str, Any]) -> optax.GradientTransformation:
        return optax.adam(values["run"]["generator"], b1=0.0)

    def momentum(values: dict[str, Any]) -> optax.GradientTransformation:
        run = values["run"]
        return complex_adam(run["rate"], (run["modulus"], run["argument"]))

    began = eqx.filter_eval_shape(game.init, jax.random.key(0))
    levels = [
        _level(name, objective, optimizer, game.draw, network)
        for name, objective, optimizer, network in (
            ("generator", generator, plain, began[0]),
            ("discriminator", discriminator, momentum, began[1]),
        )
    ]
    return Nest([Peers(*levels, order=order), Held("run")], game.task, norms=False, **options)


def _level(name: str, objective: Any, optimizer: Any, draw: Any, network: Any) -> Level:
    """A player; of a network with a state only the weights are trained, and the state is kept."""
    if network["state"] is None:
        return Level(name, lambda v, b: objective(v, b)[0], optimizer, draw)
    keep = lambda network, state: {**network, "state": state}  # noqa: E731
    parts = {"weights": True, "state": False}
    return Level(name, objective, optimizer, draw, trained=parts, keep=keep)


@functools.cache
def nest_of(game: Game, order: Order) -> Nest:
    """`system`, made once, so that its program is compiled once."""
    return system(game, order)
