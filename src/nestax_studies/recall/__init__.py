"""Which models recall? Multi-query associative recall, and the six tasks called MAD.

Every model learns every task from fresh examples, with its learning rate tuned, in as many steps.

    nestax run recall --out runs/recall
    nestax run recall --tasks mqar,recall --arms hope,titans,transformer --out runs/mqar
    nestax run recall --preset full --out runs/recall-full

Sources: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), its tables on MAD and on
recall; the tasks are of Arora et al. (2024) and of Poli et al. (2024), see `tasks`.
"""

import dataclasses
from typing import Any

from .. import sequences
from ..sequences import ARMS, Recipe, Task
from ..study import Example, Study
from .figures import draw_all
from .findings import find
from .tasks import TASKS

_SIZES: dict[str, dict[str, Any]] = {
    "small": {"width": 32, "depth": 2, "heads": 2, "steps": 1500, "batch_size": 16},
    "full": {"width": 128, "depth": 2, "heads": 4, "steps": 10000, "batch_size": 128},
}
_SMALL: dict[str, dict[str, Any]] = {
    "mqar": {"length": 32, "pairs": 8, "keys": 16, "values": 16},
    "recall": {"length": 32, "keys": 8, "values": 8},
    "fuzzy": {"length": 40, "entries": 4, "keys": 4, "values": 4},
    "noisy": {"length": 40, "keys": 8, "values": 8, "noise": 0.2, "kinds": 8},
    "copying": {"length": 32, "content": 6, "kinds": 8},
    "compression": {"length": 12, "kinds": 8, "size": 32},
    "memorization": {"length": 32, "keys": 64, "values": 64},
}
_FULL: dict[str, dict[str, Any]] = {
    "mqar": {"length": 256, "pairs": 64, "keys": 512, "values": 512},
    "recall": {"length": 128, "keys": 8, "values": 8},
    "fuzzy": {"length": 128, "entries": 8, "keys": 8, "values": 8},
    "noisy": {"length": 128, "keys": 8, "values": 8, "noise": 0.2, "kinds": 16},
    "copying": {"length": 256, "content": 16, "kinds": 16},
    "compression": {"length": 32, "kinds": 16, "size": 128},
    "memorization": {"length": 32, "keys": 256, "values": 256},
}
PRESETS = {"small": _SMALL, "full": _FULL}
_CENTRE = 10**-2.25


@dataclasses.dataclass(frozen=True)
class Settings(sequences.Comparison):
    """Which models recall?

    Every model tries learning rates by the same rule, on seeds of their own, and is judged on fresh
    ones after the same number of steps.

    Attributes:
        tasks: Of mqar, recall, fuzzy, noisy, copying, compression and memorization, separated by
            commas; or all.
        preset: small is for two cores; full has the lengths of the published tasks, for a GPU.

    Raises:
        SettingsError: a value that makes no sense.
    """

    tasks: tuple[str, ...] = ("all",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.choose("tasks", TASKS)


def task_of(settings: Settings, name: str) -> Task:
    """A task at the size that the settings ask for."""
    return TASKS[name][1](**PRESETS[settings.preset][name])


def recipe_of(settings: Settings) -> Recipe:
    return settings.recipe(_SIZES, centre=_CENTRE)


def stages(settings: Settings) -> dict[str, Any]:
    return sequences.stages(settings, settings.tasks, task_of, recipe_of(settings))


def example(settings: Settings) -> Example:
    """One model learning one task; its memories are levels of their own inside."""
    task = task_of(settings, settings.tasks[0])
    return sequences.example(task, ARMS[settings.arms[0]], recipe_of(settings))


STUDY = Study(
    "Recall",
    "Models learn to answer by what they have read, from fresh sequences, with their learning "
    "rates tuned alike. A memory of fixed size has to choose what it keeps; attention keeps "
    "everything.",
    stages,
    find,
    draw_all,
    example,
)
