"""What each optimizer still holds of past gradients, on a stream without any structure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from nestax import optim
from nestax.runs import Picture

from ..plots import Line, Panel, draw
from .arms import ARMS

STAGE = "influence"
SHOWN = (
    "momentum", "adamw", "delta_momentum", "delta_momentum_weak", "deep_momentum_rows",
    "complex_momentum", "muon", "m3",
)  # fmt: skip
_STEPS, _SIZE, _SEEDS = 96, 8, 5
_LEAST = 1e-4


def measure(arms: Sequence[str]) -> dict[str, Any]:
    """Arm -> (ages, seeds): what leaving out the gradient of that age changes in the last update,
    relative to what leaving out the newest one changes."""
    held = {}
    for arm in SHOWN:
        if arm not in arms:
            continue
        tx = ARMS[arm].make(lambda count: jnp.ones(()), "")
        columns = []
        for seed in range(_SEEDS):
            rng = np.random.default_rng(seed)
            stream = rng.normal(size=(_STEPS, _SIZE, _SIZE)).astype(np.float32)
            found = np.asarray(optim.influence(tx, stream, method="removal"), float)[::-1]
            columns.append(found / found[0])
        held[arm] = np.stack(columns, axis=1).tolist()
    return {"held": held}


def draw_remembered(record: Any, path: Path) -> Picture | None:
    lines = [
        Line(np.arange(_STEPS), np.maximum(values, _LEAST), ARMS[arm].label)
        for arm, values in record["held"].items()
    ]
    if not lines:
        return None
    panel = Panel(
        "", "age of the gradient, steps", "change of the update, newest = 1", lines, log="y"
    )
    caption = (
        f"One matrix of {_SIZE} x {_SIZE}, {_STEPS} independent normal gradients; what leaving one "
        "of them out changes in the last update. Lines are medians over streams, bands their "
        f"range; less than {_LEAST:g} is drawn there. Momentum's line is 0.9 to the power of the "
        "age; M3's slow memory holds whole chunks of 32."
    )
    return draw(path, [panel], "What optimizers remember", caption)
