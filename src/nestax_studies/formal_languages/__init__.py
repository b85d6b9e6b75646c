"""Which models keep a state? Formal languages, learned on short strings, tested on long ones.

Every model learns which symbols may come next, on strings of up to 50 symbols, and is tested on
strings of up to 500, in one pass. Keeping a state such as a parity needs a memory whose transition
has a negative eigenvalue, or that is not linear. All models are without short convolutions, and
Hope and Titans without forgetting (the gated delta rule shows what that costs). Targets are
smoothed: else nobody is asked for an eigenvalue of -1 once -0.99 answers all short strings.

    nestax run formal-languages --out runs/formal-languages
    nestax run formal-languages --languages parity --arms hope,delta --out runs/parity
    nestax run formal-languages --preset full --out runs/formal-languages-full

Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), its table on formal
languages; Grazzi, Siems, Zela, Franke, Hutter and Pontil, "Unlocking state-tracking in linear RNNs
through negative eigenvalues" (2025), for the rates up to 2.
"""

import dataclasses
from typing import Any

from nestax.runs import SettingsError

from .. import sequences
from ..sequences import ARMS, Arm, Exam, Recipe, Task
from ..study import Example, Study
from .figures import draw_all
from .findings import find
from .languages import LANGUAGES

SHORT = 50  # symbols of the longest string that is learned from
_PRESETS: dict[str, dict[str, Any]] = {
    "small": {"width": 32, "depth": 1, "heads": 4, "steps": 1000, "batch_size": 16},
    "full": {"width": 64, "depth": 2, "heads": 4, "steps": 4000, "batch_size": 128},
}
_CENTRE = 10**-1.25
_SMOOTHING = 0.1
# What a symbol does to a state must be the same wherever it stands: no convolution over the symbols
# before it, nothing that fades or is written by the way, and its own write is read at once. Errors
# are kept short, so that memories of keys and rates do not grow along strings.
_READ = {"conv": 0, "read": "after"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "hope": _READ | {"decay": False, "limit": 0.25, "continuum": {"objective": None}},
    "hope_attention": {"continuum": {"objective": None}},
    "transformer": {},
    "gated_delta": {"conv": 0},
    "delta": {"conv": 0},
    "delta_positive": {"conv": 0},
    "titans": _READ | {"decay": False},
    "linear_attention": {"conv": 0},
}


@dataclasses.dataclass(frozen=True)
class Settings(sequences.Comparison):
    """Which models keep a state?

    Every model tries learning rates by the same rule, on seeds of their own, and is judged on fresh
    ones after the same number of steps.

    Attributes:
        languages: Of parity, aa, abab, anbn, anbncn and shuffle2, separated by commas; or all.
        preset: small is for two cores; full has models of two blocks and twice the width, for a
            GPU.
        longest: Symbols of the longest string tested.

    Raises:
        SettingsError: a value that makes no sense.
    """

    languages: tuple[str, ...] = ("all",)
    longest: int = 500
    tuning_seeds: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.choose("languages", LANGUAGES)
        if self.longest < 3 * SHORT:
            raise SettingsError(f"longest must be at least {3 * SHORT}, got {self.longest}")


def task_of(settings: Settings, name: str) -> Task:
    """A language: strings to learn from, and tests on as long ones, longer ones and long ones."""
    language = LANGUAGES[name]

    def draw(shortest: int, longest: int) -> Any:
        return lambda world, key, place: language.example(key, place, shortest, longest)

    tests = {
        "short": Exam(draw(1, SHORT)),
        "longer": Exam(draw(SHORT + 1, 2 * SHORT)),
        "long": Exam(draw(2 * SHORT + 1, settings.longest)),
    }
    # While a counter counts, nearly all answers are those to the symbol alone.
    tuned_by = ("long", "accuracy") if language.regular else ("longer", "whole")
    sizes = language.vocabulary, draw(1, SHORT), tests, tuned_by[0], settings.longest
    return Task(*sizes, measure=tuned_by[1])


def recipe_of(settings: Settings) -> Recipe:
    return settings.recipe(_PRESETS, centre=_CENTRE, smoothing=_SMOOTHING)


def arm_of(name: str) -> Arm:
    """A model as it is compared here."""
    return ARMS[name].given(**_OPTIONS[name])


def stages(settings: Settings) -> dict[str, Any]:
    return sequences.stages(settings, settings.languages, task_of, recipe_of(settings), arm_of)


def example(settings: Settings) -> Example:
    """One model learning one language; its memories are levels of their own inside."""
    task = task_of(settings, settings.languages[0])
    return sequences.example(task, arm_of(settings.arms[0]), recipe_of(settings))


STUDY = Study(
    "Formal languages",
    "Models learn which symbols may follow in strings of up to 50 symbols and are tested on "
    "strings of up to ten times as many. Who has learned the rule goes on; who has learned the "
    "strings does not.",
    stages,
    find,
    draw_all,
    example,
)
