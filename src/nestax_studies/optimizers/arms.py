"""The optimizers compared, and where the grid of each one's learning rate is centred."""

import cmath
import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import optax

from nestax import optim

from .. import models
from ..models import Linear

Rate = Callable[[Any], Any]
PERIOD = 16  # of the slow parameters of `multi_timescale`
FAMILIES = {
    "plain": "no memory, or a plain one",
    "linear": "memories that erase, or keep a window",
    "deep": "deep momentum, complex numbers, two clocks",
    "scaled": "preconditioned and orthogonalised",
}


@dataclasses.dataclass(frozen=True)
class Arm:
    """An optimizer with everything fixed but its learning rate.

    Attributes:
        label: for tables and legends.
        family: the figure that it is drawn in.
        make: learning rate as a schedule, regular expression of the slow parameters -> optimizer.
        steps: what they are proportional to: the "gradient", the rate alone ("unit"), or the
            "inverse" of the gradient's size; which of a task's grids is meant.
        factor: of that grid's centre; 0.1 for what amplifies a steady gradient ten times.
        linear: learning rate -> how layers apply a matrix, for rules that live in the layers.
        without: tasks in which it means nothing.
        alone: whether runs side by side would take both branches of its clock at every step.
    """

    label: str
    family: str
    make: Callable[[Rate, str], optax.GradientTransformation]
    steps: str = "gradient"
    factor: float = 1.0
    linear: Callable[[Any], Linear] = lambda rate: models.apply_linear
    without: tuple[str, ...] = ()
    alone: bool = False


def _plain(optimizer: Callable[..., Any], **options: Any) -> Callable[[Rate, str], Any]:
    return lambda rate, slow: optimizer(rate, **options)


def _delta(decay: float) -> Callable[[Any], Linear]:
    return lambda rate: lambda weight, x: optim.delta_linear(weight, x, rate, decay)


def _clocks(rate: Rate, slow: str) -> optax.GradientTransformation:
    """Adam on two clocks; a schedule counts the updates of its own partition only."""
    return optim.multi_timescale(
        {"slow": optax.adam(lambda count: rate(PERIOD * count)), "fast": optax.adam(rate)},
        {"slow": PERIOD, "fast": 1},
        lambda path, leaf: "slow" if re.search(slow, path) else "fast",
    )


def _turned(modulus: float) -> complex:
    return cmath.rect(modulus, math.pi / 8)


def _arms() -> dict[str, Arm]:
    l2 = _plain(optim.deep_momentum, objective="l2", retention=0.999)
    descent = _plain(optim.delta_gradient_descent)
    # Roots of what images are keyed by would take longer than everything else together.
    kronecker = _plain(optim.preconditioned_momentum, preconditioner="kronecker", largest=512)
    window = _plain(optim.generalized_gradient_descent, retention=(1.0, 0.5, 0.25))
    made = {
        "gradient_descent": Arm("gradient descent", "plain", _plain(optim.gradient_descent)),
        "momentum": Arm("momentum", "plain", _plain(optim.momentum), factor=0.1),
        "normalized_descent": Arm("normalized descent", "plain", _plain(optim.normalized_descent)),
        "sign_descent": Arm("sign descent", "plain", _plain(optim.sign_descent)),
        "ema_sign": Arm("sign of average", "plain", _plain(optim.ema_sign)),
        "adamw": Arm("AdamW", "plain", _plain(optax.adamw)),
        "delta_momentum": Arm("delta momentum", "linear", _plain(optim.delta_momentum)),
        "delta_momentum_weak": Arm(
            "delta momentum, inner rate 0.1",
            "linear",
            _plain(optim.delta_momentum, inner_learning_rate=0.1),
            factor=0.3,
        ),
        "delta_descent": Arm(
            "delta gradient descent", "linear", descent, linear=_delta(1.0), without=("toy",)
        ),
        "delta_descent_weak": Arm(
            "delta descent, decay 0.01", "linear", descent, linear=_delta(0.01), without=("toy",)
        ),
        "window": Arm("generalized, window of 3", "linear", window),
        "deep_momentum": Arm("deep momentum, dot", "deep", _plain(optim.deep_momentum)),
        "deep_momentum_l2": Arm("deep momentum, l2", "deep", l2),
        "deep_momentum_rows": Arm(
            "deep momentum, rows", "deep", _plain(optim.deep_momentum, memory="rows")
        ),
        "complex_momentum": Arm(
            "complex momentum", "deep", _plain(optim.complex_momentum, beta=_turned(0.9))
        ),
        "complex_adam": Arm("complex Adam", "deep", _plain(optim.complex_adam, beta1=_turned(0.8))),
        "multi_timescale": Arm(
            "Adam on two clocks", "deep", _clocks, without=("toy", "forgetting")
        ),
        "diagonal": Arm(
            "preconditioned, diagonal", "scaled", _plain(optim.preconditioned_momentum), factor=0.1
        ),
        "kronecker": Arm("preconditioned, Kronecker", "scaled", kronecker, factor=0.1),
        "muon": Arm("Muon", "scaled", _plain(optim.muon), factor=10.0),
        "m3": Arm("M3", "scaled", _plain(optim.m3)),
        "m3_literal": Arm("M3 as printed", "scaled", _plain(optim.m3, literal=True)),
    }
    unit = ("normalized_descent", "sign_descent", "ema_sign", "adamw", "complex_adam",
            "multi_timescale", "diagonal", "kronecker", "muon", "m3")  # fmt: skip
    units = dict.fromkeys(unit, "unit") | {"m3_literal": "inverse"}
    clocks = ("kronecker", "m3", "m3_literal", "multi_timescale")
    return {
        name: dataclasses.replace(arm, steps=units.get(name, "gradient"), alone=name in clocks)
        for name, arm in made.items()
    }


ARMS = _arms()
