"""The optimizers compared: each isolates one ingredient of the claim."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nestax import optim

Rate = optax.ScalarOrSchedule
Key = jax.Array | int


@dataclasses.dataclass(frozen=True)
class Arm:
    """An optimizer of the experiment.

    `make(rate, key)` builds it; `key` seeds whatever it draws at its start. `fixed_rate` is set
    where a sweep would make the arm something else.
    """

    label: str
    description: str
    make: Callable[[Rate, Key], optax.GradientTransformation]
    fixed_rate: float | None = None


def _published(rate: Rate, key: Key) -> optax.GradientTransformation:
    """The update that the published code made: its two averages start from zero at every call.

    v = 0.001 g^2, m = 0.1 g / (sqrt(v) + 1e-8), so W <- W - 3.162 rate g / (|g| + 3.16e-7).
    """
    del key

    def update(updates: Any, params: Any = None) -> Any:
        del params
        return jax.tree.map(lambda g: 0.1 * g / (jnp.sqrt(0.001 * jnp.square(g)) + 1e-8), updates)

    return optax.chain(optax.stateless(update), optax.scale_by_learning_rate(rate))


ARMS = {
    "sgd": Arm(
        "SGD",
        "gradient descent, no memory",
        lambda rate, key: optim.gradient_descent(rate),
    ),
    "gdm": Arm(
        "GDM",
        "heavy-ball momentum 0.9",
        lambda rate, key: optim.momentum(rate),
    ),
    "adamw": Arm(
        "AdamW",
        "optax.adamw, weight decay 0.01",
        lambda rate, key: optax.adamw(rate, weight_decay=1e-2),
    ),
    "dmgd": Arm(
        "DMGD",
        "deep momentum: an MLP per tensor, trained on the gradient stream (dot-product objective)",
        lambda rate, key: optim.deep_momentum(rate, key=key),
    ),
    "dmgd-l2": Arm(
        "DMGD, L2",
        "deep momentum whose inner objective is to predict the next gradient (squared error)",
        lambda rate, key: optim.deep_momentum(rate, objective="l2", retention=0.999, key=key),
    ),
    "dmgd-normalized": Arm(
        "DMGD, normalized",
        "deep momentum whose steps keep their size when gradients shrink",
        lambda rate, key: optim.deep_momentum(rate, normalize="update", key=key),
    ),
    "frozen": Arm(
        "frozen MLP",
        "deep momentum's MLP at random weights, never trained",
        lambda rate, key: optim.deep_momentum(rate, inner_learning_rate=0.0, readout=0.5, key=key),
    ),
    "sign": Arm(
        "sign",
        "sign descent, no memory",
        lambda rate, key: optim.sign_descent(rate),
    ),
    "normalized": Arm(
        "normalized",
        "gradient of each tensor over its rms, no memory",
        lambda rate, key: optim.normalized_descent(rate),
    ),
    "ema-sign": Arm(
        "EMA sign",
        "sign of the gradient's moving average (0.9)",
        lambda rate, key: optim.ema_sign(rate),
    ),
    "rmsprop": Arm(
        "RMSProp",
        "optax.rmsprop, no momentum",
        lambda rate, key: optax.rmsprop(rate, decay=0.99, bias_correction=True),
    ),
    "published": Arm(
        "published code",
        "what the published code ran as DMGD: sign descent with step 0.00316, no memory, no MLP",
        _published,
        fixed_rate=1e-3,
    ),
}
