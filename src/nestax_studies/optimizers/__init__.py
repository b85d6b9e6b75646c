"""Are optimizers that are memories better ones? Every optimizer tuned alike, on four tasks.

Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (46-53) and
Algorithm 1.
"""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import jax

from .. import lab
from ..lab import names, option
from ..lab.options import Preset
from . import tasks, training
from .arms import ARMS, remembered
from .findings import LOOKS, draw, find

_SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "small": {
        "toy": {"steps": 1000},
        "forgetting": {"steps": 400},
        "network": {"hidden": (32,), "batch_size": 64, "steps": 240, "points": 20},
        "language": {"sizes": (128, 5, 4), "length": 64, "batch_size": 8, "steps": 240,
                     "points": 20},
    },
    "full": {
        "toy": {"steps": 2000},
        "forgetting": {"steps": 800},
        "network": {"hidden": (256, 128), "batch_size": 128, "steps": 3000, "points": 40},
        "language": {"sizes": (192, 4, 6), "length": 128, "batch_size": 32, "steps": 2000,
                     "points": 40},
    },
}  # fmt: skip
_TUNING_SEEDS = {"toy": 10, "forgetting": 5, "network": 3, "language": 2}


@dataclass(frozen=True)
class Settings(lab.Options):
    """Are optimizers that are memories better ones?

    Attributes:
        tasks: Of toy, forgetting, network and language, separated by commas; or all.
        optimizers: Of those compared, separated by commas; or all.
        preset: small is for two cores, with digits and 1 million weights in the transformer;
            full has Fashion-MNIST and 1.8 million, for a GPU.
        data: Images of the network.
        seeds: Runs to judge by.
        tuning_seeds: Runs for each learning rate that is tried; if not given 10, 5, 3 and 2 in the
            order of the tasks.
        trials: Learning rates tried; all but two are the grid.
        steps: Of every run, a multiple of 80; if not given 1000, 400, 240 and 240 in the order of
            the tasks, under full 2000, 800, 3000 and 2000.
    """

    tasks: tuple[str, ...] = names(LOOKS)
    optimizers: tuple[str, ...] = names(ARMS)
    preset: Preset = "small"
    data: Literal["digits", "mnist", "fashion-mnist"] | None = option(
        small="digits", full="fashion-mnist"
    )
    seeds: int = option(5, least=1)
    tuning_seeds: int | None = option(least=1)
    trials: int = option(9, least=5)
    steps: int | None = option(least=80, multiple=80)


def task_of(settings: Settings, name: str) -> tasks.Task:
    """A task at the size that the settings ask for."""
    sizes = _SIZES[settings.preset][name] | ({"name": settings.data} if name == "network" else {})
    if settings.steps is not None:
        sizes["steps"] = settings.steps
    # Side by side runs save time where a step is too small to fill the machine.
    alone = name == "language" and jax.default_backend() == "cpu"
    return getattr(tasks, name)(**sizes, together=1 if alone else settings.seeds)


def stages(settings: Settings) -> dict[str, lab.Stage]:
    made = cache(partial(task_of, settings))  # data is read once

    def stage(task: str, arm: str, desk: lab.Desk) -> lab.Record:
        count = settings.tuning_seeds or _TUNING_SEEDS[task]
        return training.compare(made(task), arm, settings.trials, count, settings.seeds, desk)

    return {"influence": lambda desk: {"held": remembered(settings.optimizers)}} | {
        f"{task} {arm}": partial(stage, task, arm)
        for task in settings.tasks
        for arm in settings.optimizers
        if task not in ARMS[arm].without
    }


def example(settings: Settings) -> lab.Example:
    """A linear layer under delta momentum: which level its memory is."""
    task, keys = tasks.forgetting(80, 1), jax.random.split(jax.random.key(0), 1)
    nest = training.system(task, ARMS["delta_momentum"])
    return lab.Example(nest, training.begun(task, nest, [0.1], keys, task.steps).run(0))


LEAD = """Nested learning reads momentum as a memory of gradients, and proposes memories that erase,
that are preconditioned, deep, orthogonalised or on several clocks. Here each has its learning rate
tuned under the same budget as the ordinary optimizers, and is judged on fresh seeds, after as many
steps and after as much time."""
STUDY = lab.Study("Optimizers that are memories", LEAD, Settings, stages, find, draw, example)
