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
    """An optimizer of the study."""

    label: str  # its name in tables and figures
    description: str
    # (rate, key) -> the optimizer; the key seeds what it draws at its start.
    make: Callable[[Rate, Key], optax.GradientTransformation]
    fixed_rate: float | None = None  # the only rate at which it is this arm, if there is one


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
    "sgd": Arm("SGD", "gradient descent, no memory", lambda r, key: optim.gradient_descent(r)),
    "gdm": Arm("GDM", "heavy-ball momentum 0.9", lambda r, key: optim.momentum(r)),
    "adamw": Arm("AdamW", "optax.adamw, weight decay 0.01",
                 lambda r, key: optax.adamw(r, weight_decay=1e-2)),
    "dmgd": Arm("DMGD", "deep momentum: an MLP per tensor, trained on the gradient stream "
                "(dot-product objective)", lambda r, key: optim.deep_momentum(r, key=key)),
    "dmgd-l2": Arm(
        "DMGD, L2",
        "deep momentum whose inner objective is to predict the next gradient (squared error)",
        lambda r, key: optim.deep_momentum(r, objective="l2", retention=0.999, key=key)),
    "dmgd-normalized": Arm(
        "DMGD, normalized", "deep momentum whose steps keep their size when gradients shrink",
        lambda r, key: optim.deep_momentum(r, normalize="update", key=key)),
    "frozen": Arm(
        "frozen MLP", "deep momentum's MLP at random weights, never trained",
        lambda r, key: optim.deep_momentum(r, inner_learning_rate=0.0, readout=0.5, key=key)),
    "sign": Arm("sign", "sign descent, no memory", lambda r, key: optim.sign_descent(r)),
    "normalized": Arm("normalized", "gradient of each tensor over its rms, no memory",
                      lambda r, key: optim.normalized_descent(r)),
    "ema-sign": Arm("EMA sign", "sign of the gradient's moving average (0.9)",
                    lambda r, key: optim.ema_sign(r)),
    "rmsprop": Arm("RMSProp", "optax.rmsprop, no momentum",
                   lambda r, key: optax.rmsprop(r, decay=0.99, bias_correction=True)),
    "published": Arm(
        "published code",
        "what the published code ran as DMGD: sign descent with step 0.00316, no memory, no MLP",
        _published, fixed_rate=1e-3),
}  # fmt: skip
