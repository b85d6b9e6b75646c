"""The optimizers compared, and where the grid of each one's learning rate is centred."""

import cmath
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from nestax import optim

from .. import models
from ..models import Linear

Rate = Callable[[Any], Any]
REMEMBERING = (
    "momentum", "adamw", "delta_momentum", "delta_momentum_weak", "deep_momentum_rows",
    "complex_momentum", "muon", "m3",
)  # fmt: skip
STREAMS, STREAM = 5, (96, 8, 8)  # of gradients: steps of one matrix
PERIOD = 16  # of the slow parameters of `multi_timescale`
FAMILIES = {
    "plain": "no memory, or a plain one",
    "linear": "memories that erase, or keep a window",
    "deep": "deep momentum, complex numbers, two clocks",
    "scaled": "preconditioned and orthogonalised",
}


@dataclass(frozen=True)
class Arm:
    """An optimizer with everything fixed but its learning rate."""

    label: str
    family: str  # the figure that it is drawn in
    make: Callable[[Rate, str], optax.GradientTransformation]  # (schedule, slow parameters' regex)
    steps: str = "gradient"  # proportional to it, to the rate alone ("unit"), or its "inverse"
    factor: float = 1.0  # of the task's grid for such steps; 0.1 where steady gradients add up
    linear: Callable[[Any], Linear] = lambda rate: models.apply_linear  # how layers apply a matrix
    without: tuple[str, ...] = ()  # tasks in which it means nothing
    alone: bool = False  # runs side by side would take both branches of its clock at every step


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


_NORMALIZED = _plain(optim.normalized_descent)
_WEAK = _plain(optim.delta_momentum, inner_learning_rate=0.1)
_DESCENT = _plain(optim.delta_gradient_descent)
_WINDOW = _plain(optim.generalized_gradient_descent, retention=(1.0, 0.5, 0.25))
_L2 = _plain(optim.deep_momentum, objective="l2", retention=0.999)
_ROWS = _plain(optim.deep_momentum, memory="rows")
_TURNED = _plain(optim.complex_momentum, beta=cmath.rect(0.9, math.pi / 8))
_ADAM = _plain(optim.complex_adam, beta1=cmath.rect(0.8, math.pi / 8))
_DIAGONAL = _plain(optim.preconditioned_momentum)
# Roots of what images are keyed by would take longer than everything else together.
_KRONECKER = _plain(optim.preconditioned_momentum, preconditioner="kronecker", largest=512)
_LITERAL = _plain(optim.m3, literal=True)

ARMS = {
    "gradient_descent": Arm("gradient descent", "plain", _plain(optim.gradient_descent)),
    "momentum": Arm("momentum", "plain", _plain(optim.momentum), factor=0.1),
    "normalized_descent": Arm("normalized descent", "plain", _NORMALIZED, "unit"),
    "sign_descent": Arm("sign descent", "plain", _plain(optim.sign_descent), "unit"),
    "ema_sign": Arm("sign of average", "plain", _plain(optim.ema_sign), "unit"),
    "adamw": Arm("AdamW", "plain", _plain(optax.adamw), "unit"),
    "delta_momentum": Arm("delta momentum", "linear", _plain(optim.delta_momentum)),
    "delta_momentum_weak": Arm("delta momentum, inner rate 0.1", "linear", _WEAK, factor=0.3),
    "delta_descent": Arm(
        "delta gradient descent", "linear", _DESCENT, linear=_delta(1.0), without=("toy",)
    ),
    "delta_descent_weak": Arm(
        "delta descent, decay 0.01", "linear", _DESCENT, linear=_delta(0.01), without=("toy",)
    ),
    "window": Arm("generalized, window of 3", "linear", _WINDOW),
    "deep_momentum": Arm("deep momentum, dot", "deep", _plain(optim.deep_momentum)),
    "deep_momentum_l2": Arm("deep momentum, l2", "deep", _L2),
    "deep_momentum_rows": Arm("deep momentum, rows", "deep", _ROWS),
    "complex_momentum": Arm("complex momentum", "deep", _TURNED),
    "complex_adam": Arm("complex Adam", "deep", _ADAM, "unit"),
    "multi_timescale": Arm(
        "Adam on two clocks", "deep", _clocks, "unit", without=("toy", "forgetting"), alone=True
    ),
    "diagonal": Arm("preconditioned, diagonal", "scaled", _DIAGONAL, "unit", 0.1),
    "kronecker": Arm("preconditioned, Kronecker", "scaled", _KRONECKER, "unit", 0.1, alone=True),
    "muon": Arm("Muon", "scaled", _plain(optim.muon), "unit", 10.0),
    "m3": Arm("M3", "scaled", _plain(optim.m3), "unit", alone=True),
    "m3_literal": Arm("M3 as printed", "scaled", _LITERAL, "inverse", alone=True),
}


def remembered(arms: Sequence[str]) -> dict[str, Any]:
    """Arm -> (ages, streams): what leaving out the gradient of that age changes in the last update,
    relative to what leaving out the newest one changes; on `STREAM` without any structure."""
    held = {}
    for arm in REMEMBERING:
        if arm not in arms:
            continue
        optimizer, columns = ARMS[arm].make(lambda count: jnp.ones(()), ""), []
        for seed in range(STREAMS):
            stream = np.random.default_rng(seed).normal(size=STREAM).astype(np.float32)
            found = np.asarray(optim.influence(optimizer, stream, method="removal"), float)[::-1]
            columns.append(found / found[0])
        held[arm] = np.stack(columns, axis=1).tolist()
    return held
