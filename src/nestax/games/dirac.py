"""The smallest generative adversarial network."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .checks import number
from .game import Game, Values, known_game, refusing

KNOWN: dict[str, Callable[[Any], Any]] = {
    "standard": jax.nn.log_sigmoid,
    "wasserstein": lambda t: t,
}


def dirac_gan(
    f: str | Callable[[Any], Any] = "standard", penalty: Any = 0.0, nonsaturating: bool = False
) -> Game:
    """Dirac-GAN: the data are a point at 0, the generator is a point, the discriminator is linear.

    With the generator's point t and the discriminator's slope p, the discriminator maximizes
    `f(p t) + f(0) - penalty p²/2`. The generator minimizes `f(p t) + f(0)`, or `-f(-p t)` if
    `nonsaturating`. Without a penalty the eigenvalues of the field's Jacobian at the equilibrium
    are `±i f'(0)`, and simultaneous descent circles outwards. With it they are
    `penalty/2 ± sqrt(penalty²/4 - f'(0)²)`.

    Example:
        ```python
        game = nx.games.dirac_gan("wasserstein", penalty=0.5)
        field = game.field(game.start)
        print(field["generator"], field["discriminator"])  # 1.0 -0.5
        ```

    Args:
        f: "standard": `-log(1 + exp(-t))`. "wasserstein": `t`. Or a function of a number.
        penalty: strength of a penalty on the squared gradient of the discriminator (R1 and R2,
            which are equal here), at least 0.
        nonsaturating: the generator's loss.

    Returns:
        A `Game` of the players "generator" and "discriminator", with numbers as values that start
        at 1. The equilibrium is 0. There is no exploitability: best responses are at infinity, or
        have no closed form.

    Raises:
        ValueError: an unknown f, or a penalty below 0.

    Source: Mescheder, Geiger and Nowozin, "Which Training Methods for GANs do actually Converge?"
    (2018), Definition 2.1.
    """
    if isinstance(f, str) and f in KNOWN:
        of: Callable[[Any], Any] = KNOWN[f]
    elif callable(f):
        of = f
    else:
        raise ValueError(
            f'dirac_gan: f must be "standard", "wasserstein" or a function of a number, got {f!r}'
        )
    strength = number("dirac_gan", "penalty", penalty, 0)

    def generator(values: Values) -> jax.Array:
        t = values["generator"] * values["discriminator"]
        return -of(-t) if nonsaturating else of(t) + of(jnp.zeros_like(t))

    def discriminator(values: Values) -> jax.Array:
        p = values["discriminator"]
        t = p * values["generator"]
        return strength * p**2 / 2 - of(t) - of(jnp.zeros_like(t))

    return known_game(
        "dirac_gan",
        losses={"generator": generator, "discriminator": discriminator},
        start={"generator": jnp.ones(()), "discriminator": jnp.ones(())},
        equilibria=({"generator": jnp.zeros(()), "discriminator": jnp.zeros(())},),
        regrets=refusing(
            "the best responses in dirac_gan are at infinity, or have no closed form; look at the "
            "distance to the equilibrium instead"
        ),
    )
