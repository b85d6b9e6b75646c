"""Who finds the needle? Passkeys in haystacks far longer than any that was learned from.

Models learn on haystacks of one length and are tested on up to 32 times as long ones, read in
pieces of the length they know with the memories' state carried from piece to piece.

    nestax run needle --out runs/needle
    nestax run needle --kinds passkey --arms hope,hope_attention,transformer --out runs/passkey
    nestax run needle --preset full --out runs/needle-full

Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), its table on needles in
haystacks of up to 16K tokens.
"""

import dataclasses
from typing import Any

from nestax.runs import SettingsError

from .. import sequences
from ..sequences import ARMS, Exam, Recipe, Task
from ..study import Example, Study
from .figures import draw_all
from .findings import find
from .haystack import BLOCK, KINDS, VOCABULARY, haystack

_PRESETS: dict[str, dict[str, Any]] = {
    "small": {"width": 32, "depth": 2, "heads": 2, "steps": 1500, "batch_size": 16},
    "full": {"width": 128, "depth": 4, "heads": 4, "steps": 10000, "batch_size": 64},
}
_LENGTHS = {"small": 48, "full": 256}
_CENTRE = 10**-2.25
_COUNT = 64  # sequences to judge by, of each length
GROUPS = 8  # of depths


@dataclasses.dataclass(frozen=True)
class Settings(sequences.Comparison):
    """Who finds the needle?

    Every model tries learning rates by the same rule, on seeds of their own, and is judged on fresh
    ones after the same number of steps.

    Attributes:
        kinds: Of passkey (one) and names (several, one of them asked for), separated by commas; or
            all.
        preset: small is for two cores; full has longer haystacks and larger models, for a GPU.
        length: Tokens of the haystacks learned from; the preset's if not given.
        times: How many times as long those tested are.

    Raises:
        SettingsError: a value that makes no sense.
    """

    kinds: tuple[str, ...] = ("all",)
    length: int | None = None
    times: tuple[int, ...] = (1, 2, 4, 8, 16, 32)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.choose("kinds", KINDS)
        if self.times[:1] != (1,) or list(self.times) != sorted(set(self.times)):
            raise SettingsError(
                "times must begin with 1 and rise, got "
                + (",".join(map(str, self.times)) or "none")
            )
        least = BLOCK * (max(KINDS[kind] for kind in self.kinds) + 2)
        if self.length is not None and self.length < least:
            raise SettingsError(f"length must be at least {least}, got {self.length}")

    @property
    def learned(self) -> int:
        """Tokens of the haystacks learned from."""
        return self.length or _LENGTHS[self.preset]


def task_of(settings: Settings, kind: str) -> Task:
    """Haystacks to learn from, and tests on longer ones, by how many times as long they are."""
    length, passkeys = settings.learned, KINDS[kind]
    tests = {
        str(times): Exam(
            haystack(times * length, passkeys),
            _COUNT,
            piece=length,
            together=max(1, _COUNT // times),
            groups=GROUPS,
        )
        for times in settings.times
    }
    return Task(VOCABULARY, haystack(length, passkeys), tests, "1", settings.times[-1] * length)


def recipe_of(settings: Settings) -> Recipe:
    return settings.recipe(_PRESETS, centre=_CENTRE)


def stages(settings: Settings) -> dict[str, Any]:
    return sequences.stages(settings, settings.kinds, task_of, recipe_of(settings))


def example(settings: Settings) -> Example:
    """One model learning to find passkeys; its memories are levels of their own inside."""
    task = task_of(settings, settings.kinds[0])
    return sequences.example(task, ARMS[settings.arms[0]], recipe_of(settings))


STUDY = Study(
    "A needle in a haystack",
    "A passkey is hidden at any depth of a sequence of noise and asked for at the end. Models "
    "learn on short sequences and read long ones in pieces, with nothing but their state carried.",
    stages,
    find,
    draw_all,
    example,
)
