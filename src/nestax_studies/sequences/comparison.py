"""A comparison: every arm on every subject (a task, a language, a kind of needle), tuned alike.

What the studies of this kind share: their settings, their stages, and how verdicts are found.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np

from nestax.runs import SettingsError

from ..options import chosen, positive
from ..study import Records, Verdict, spread
from .arms import ARMS, Arm
from .tasks import Task
from .training import POINTS, Recipe, compare


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Settings that every comparison has.

    Attributes:
        arms: Of the models compared, separated by commas; or all.
        preset: small is for two cores; full is for a GPU.
        steps: Of every run, a multiple of 20; the preset's if not given.
        batch_size: Sequences in a step; the preset's if not given.
        seeds: Runs to judge by.
        tuning_seeds: Runs for each learning rate that is tried.
        trials: Learning rates tried, half a decade apart, and up to two more where the best is the
            smallest or largest.

    Raises:
        SettingsError: a value that makes no sense.
    """

    arms: tuple[str, ...] = ("all",)
    preset: Literal["small", "full"] = "small"
    steps: int | None = None
    batch_size: int | None = None
    seeds: int = 3
    tuning_seeds: int = 1
    trials: int = 4

    def __post_init__(self) -> None:
        self.choose("arms", ARMS)
        positive(self, "batch_size", "seeds", "tuning_seeds", "trials")
        if self.steps is not None and (self.steps < POINTS or self.steps % POINTS):
            raise SettingsError(f"steps must be a multiple of {POINTS}, got {self.steps}")

    def choose(self, name: str, known: Iterable[str]) -> None:
        """Checks a setting that names things, and spells out what `all` means."""
        object.__setattr__(self, name, chosen(name, getattr(self, name), known))

    def recipe(self, presets: Mapping[str, Mapping[str, Any]], **more: Any) -> Recipe:
        """The preset's, at the steps and batch size that are asked for."""
        asked = {"steps": self.steps, "batch_size": self.batch_size}
        given = {name: value for name, value in asked.items() if value is not None}
        sizes = {**presets[self.preset], **given, **more}
        return Recipe(together=self.seeds, **sizes)


def stages(
    settings: Comparison,
    subjects: Iterable[str],
    task_of: Callable[[Any, str], Task],
    recipe: Recipe,
    arm_of: Callable[[str], Arm] = ARMS.__getitem__,
) -> dict[str, Any]:
    """A stage for each arm on each subject, named "subject arm"."""
    runs = settings.trials, settings.tuning_seeds, settings.seeds
    return {
        f"{subject} {arm}": partial(compare, task_of(settings, subject), arm_of(arm), recipe, *runs)
        for subject in subjects
        for arm in settings.arms
    }


def done(settings: Comparison, records: Records, subject: str) -> Records:
    """The records there are of a subject, by arm, in the arms' order."""
    found = {arm: records.get(f"{subject} {arm}") for arm in settings.arms}
    return {arm: record for arm, record in found.items() if record}


def summarized(arms: Records) -> Records:
    """What a summary holds of a subject's records."""
    kept = "rates", "scores", "rate", "edge", "parameters", "tests"
    return {arm: {name: record[name] for name in kept} for arm, record in arms.items()}


def tested(record: Mapping[str, Any], test: str, what: str) -> np.ndarray:
    """(seeds,): a number of a test; what was not finite counts as nothing right."""
    return np.nan_to_num(np.asarray(record["tests"][test][what], float))


def verdict(
    claim: str,
    criterion: str,
    arms: Records,
    about: Iterable[str],
    share: Callable[[dict[str, Any]], np.ndarray],
    holds: Callable[[dict[str, float]], bool],
) -> Verdict:
    """A claim about some arms' medians over seeds.

    Args:
        claim, criterion: in words.
        arms: the records there are.
        about: the arms that it takes; where one is missing, nothing was measured.
        share: of a record, (seeds,), what is judged.
        holds: of the medians, by arm.
    """
    about = tuple(about)
    values = {arm: share(arms[arm]) for arm in about if arm in arms}
    texts = [f"{ARMS[arm].label}: {spread(value)} %" for arm, value in values.items()]
    full = len(values) == len(about)
    middle = {arm: float(np.median(value)) for arm, value in values.items()}
    return Verdict(claim, criterion, "; ".join(texts) or "-", bool(holds(middle)) if full else None)
