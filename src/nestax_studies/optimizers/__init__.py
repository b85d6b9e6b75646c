"""Are optimizers that are memories better ones? Every optimizer tuned alike, on four tasks.

    nestax run optimizers --out runs/optimizers
    nestax run optimizers --preset full --tasks network,language --out runs/optimizers-full

Sources: the claims are those of Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025),
eq. (46-53) and Algorithm 1; the toy is its eq. (53).
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from nestax import optim
from nestax.levels import Level, Nest
from nestax.runs import SettingsError

from .. import models
from ..options import chosen, positive
from ..study import Example, Study
from . import remembered
from .arms import ARMS
from .figures import draw_all
from .findings import find
from .networks import language, network
from .small import forgetting, toy
from .training import Task, compare

_SMALL: dict[str, dict[str, Any]] = {
    "toy": {"steps": 1000},
    "forgetting": {"steps": 400},
    "network": {"name": "digits", "hidden": (32,), "batch_size": 64, "steps": 240, "points": 20},
    "language": {"width": 128, "depth": 5, "heads": 4, "length": 64, "batch_size": 8,
                 "steps": 240, "points": 20},
}  # fmt: skip
_FULL: dict[str, dict[str, Any]] = {
    "toy": {"steps": 2000},
    "forgetting": {"steps": 800},
    "network": {"name": "fashion-mnist", "hidden": (256, 128), "batch_size": 128, "steps": 3000,
                "points": 40},
    "language": {"width": 192, "depth": 4, "heads": 6, "length": 128, "batch_size": 32,
                 "steps": 2000, "points": 40},
}  # fmt: skip
_PRESETS = {"small": _SMALL, "full": _FULL}
_TUNING_SEEDS = {"toy": 10, "forgetting": 5, "network": 3, "language": 2}
_TASKS = {"toy": toy, "forgetting": forgetting, "network": network, "language": language}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Are optimizers that are memories better ones?

    Every optimizer has its learning rate tuned under the same budget, on seeds of their own, and is
    judged on fresh ones after the same number of steps and after the same time.

    Attributes:
        tasks: Of toy, forgetting, network and language, separated by commas; or all.
        optimizers: Of those compared, separated by commas; or all.
        preset: small is for two cores, with digits and 1 million weights in the transformer;
            full has Fashion-MNIST and 1.8 million, for a GPU.
        data: Images of the network; the preset's if not given.
        seeds: Runs to judge by.
        tuning_seeds: Runs for each learning rate that is tried; if not given 10, 5, 3 and 2 in the
            order of the tasks.
        trials: Learning rates tried; all but two are the grid.
        steps: Of every run, a multiple of 80; the preset's if not given.

    Raises:
        SettingsError: a value that makes no sense.
    """

    tasks: tuple[str, ...] = ("all",)
    optimizers: tuple[str, ...] = ("all",)
    preset: Literal["small", "full"] = "small"
    data: Literal["digits", "mnist", "fashion-mnist"] | None = None
    seeds: int = 5
    tuning_seeds: int | None = None
    trials: int = 9
    steps: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("tasks", _TASKS), ("optimizers", ARMS)):
            object.__setattr__(self, name, chosen(name, getattr(self, name), known))
        positive(self, "seeds", "tuning_seeds")
        if self.trials < 5:
            raise SettingsError(f"trials must be at least 5, got {self.trials}")
        if self.steps is not None and (self.steps < 80 or self.steps % 80):
            raise SettingsError(f"steps must be a multiple of 80, got {self.steps}")


def task_of(settings: Settings, name: str) -> Task:
    """A task at the size that the settings ask for."""
    options = dict(_PRESETS[settings.preset][name])
    if settings.steps is not None:
        options["steps"] = settings.steps
    if name == "network" and settings.data is not None:
        options["name"] = settings.data
    # Side by side runs save time where a step is too small to fill the machine.
    alone = name == "language" and jax.default_backend() == "cpu"
    return _TASKS[name](**options, together=1 if alone else settings.seeds)


def stages(settings: Settings) -> dict[str, Any]:
    made = functools.cache(functools.partial(task_of, settings))  # data is read once

    def stage(task: str, arm: str) -> Any:
        return lambda say: compare(
            made(task),
            arm,
            settings.trials,
            settings.tuning_seeds or _TUNING_SEEDS[task],
            settings.seeds,
            say,
        )

    memory = {remembered.STAGE: lambda say: remembered.measure(settings.optimizers)}
    return memory | {
        f"{task} {arm}": stage(task, arm)
        for task in settings.tasks
        for arm in settings.optimizers
        if task not in ARMS[arm].without
    }


def example(settings: Settings) -> Example:
    """A small network under delta momentum: which level its memory is."""

    def loss(values: dict[str, Any], batch: Any) -> jax.Array:
        return jnp.mean((models.mlp(values["weights"], batch) - batch) ** 2)

    def draw(task: Any, key: jax.Array) -> jax.Array:
        return jax.random.normal(key, (8, 4))

    weights = Level("weights", loss, optim.delta_momentum(0.1), draw)
    nest = Nest([weights])
    start = {"weights": models.mlp_init(jax.random.key(0), (4, 3, 4))}
    return Example(nest, nest.init(start, jax.random.key(0)), None, {})


STUDY = Study(
    "Optimizers that are memories",
    "Nested learning reads momentum as a memory of gradients, and proposes memories that erase, "
    "that are preconditioned, deep, orthogonalised or on several clocks. Here each has its "
    "learning rate tuned under the same budget as the ordinary optimizers, and is judged on fresh "
    "seeds, after as many steps and after as much time.",
    stages,
    find,
    draw_all,
    example,
)
