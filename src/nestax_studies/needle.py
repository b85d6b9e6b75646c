"""Who finds the needle? Passkeys in haystacks far longer than any that was learned from.

Models learn on haystacks of one length and are tested on up to 32 times as long ones, read in
pieces of the length they know with the memories' state carried from piece to piece. A passkey is a
marker, its name, and its digits; a question is another marker and a name, after which the digits
are asked for one by one, each after the right ones before it.

Sources: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), its table on needles in
haystacks of up to 16K tokens; Mohtashami and Jaggi (2023), for passkeys; Hsieh et al., "RULER"
(2024), for several of them.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from . import lab, sequences
from .lab import names, option
from .lab.figures import Sheet, curves
from .sequences import Claim, Task, ahead, reaches
from .sequences.tasks import Draw, Exam, Example

NOISE, NAMES, DIGITS = 16, 4, 10
LENGTH = 4  # digits
BLOCK = LENGTH + 2  # tokens of a passkey: marker, name, digits
_DIGIT = NOISE + NAMES
_MARK, _ASK = _DIGIT + DIGITS, _DIGIT + DIGITS + 1
VOCABULARY = _ASK + 1
KINDS = {"passkey": "one passkey", "names": f"one of {NAMES} passkeys"}
_COUNT, _GROUPS = 64, 8  # sequences to judge by, of each length; groups of depths
_PAIR = ("hope", "transformer")
FOUND, AHEAD = 0.99, 0.05  # of haystacks; a smaller difference does not count


@dataclass(frozen=True)
class Settings(sequences.Comparison):
    """Who finds the needle?

    Attributes:
        kinds: Of passkey (one) and names (several, one of them asked for), separated by commas; or
            all.
        length: Tokens of the haystacks learned from.
        times: How many times as long those tested are.
    """

    kinds: tuple[str, ...] = names(KINDS)
    length: int | None = option(small=48, full=256)
    times: tuple[int, ...] = (1, 2, 4, 8, 16, 32)

    def __post_init__(self) -> None:
        super().__post_init__()
        rise = self.times[:1] == (1,) and list(self.times) == sorted(set(self.times))
        told, length = ",".join(map(str, self.times)) or "none", self.length or 0
        self.require(rise, f"times must begin with 1 and rise, got {told}")
        least = BLOCK * (2 + (NAMES if "names" in self.kinds else 1))
        self.require(length >= least, f"length must be at least {least}, got {length}")


def haystack(length: int, passkeys: int) -> Draw:
    """Sequences of `length` tokens with so many passkeys, at places that are multiples of a
    passkey's length; that which is asked for lies the deeper, the larger the place."""
    slots = (length - BLOCK + 1) // BLOCK  # the last digit is asked for, not read

    def draw(world: None, key: Array, place: Array) -> Example:
        ks = jax.random.split(key, 4)
        noise = jax.random.randint(ks[0], (length,), 0, NOISE)
        own = NOISE + jax.random.permutation(ks[1], NAMES)[:passkeys]
        digits = _DIGIT + jax.random.randint(ks[2], (passkeys, LENGTH), 0, DIGITS)
        asked = jnp.floor(place * slots).astype(jnp.int32)
        # The first is asked for; the others lie in any other slots.
        others = jax.random.permutation(ks[3], slots - 1)[: passkeys - 1]
        where = jnp.concatenate([asked[None], others + (others >= asked)])
        marks = jnp.full((passkeys, 1), _MARK)
        index = BLOCK * where[:, None] + jnp.arange(BLOCK)[None]
        tokens = noise.at[index].set(jnp.concatenate([marks, own[:, None], digits], axis=1))
        question = jnp.concatenate([jnp.stack([jnp.asarray(_ASK), own[0]]), digits[0]])
        tokens = tokens.at[length - BLOCK + 1 :].set(question[:-1])
        targets = jnp.zeros_like(tokens).at[length - LENGTH :].set(digits[0])
        return Example(tokens, targets, jnp.arange(length) >= length - LENGTH)

    return draw


def task_of(settings: Any, kind: str) -> Task:
    """Haystacks to learn from, and tests on longer ones, by how many times as long they are."""
    length, last = settings.length, settings.times[-1]
    passkeys = 1 if kind == "passkey" else NAMES
    tests = {
        str(n): Exam(haystack(n * length, passkeys), _COUNT, length, max(1, _COUNT // n), _GROUPS)
        for n in settings.times
    }
    return Task(VOCABULARY, haystack(length, passkeys), tests, "1", last * length)


def claims(settings: Any, kind: str) -> list[Claim]:
    """The criteria stood here before the recorded runs."""
    last, paper = settings.times[-1], "(Nested Learning)"
    where = f"{last * settings.length} tokens, {last} times those learned from"
    at = where, sequences.tested(str(last), "whole")
    if kind == "passkey":
        return [
            reaches(f"Hope finds one passkey at any length {paper}", *at, FOUND, "hope"),
            reaches(f"So does Hope-Attention {paper}", *at, FOUND, "hope_attention"),
            ahead(f"The Transformer finds fewer than Hope {paper}", *at, AHEAD, *_PAIR),
        ]
    return [
        ahead(f"Hope finds more of several than Titans {paper}", *at, AHEAD, "hope", "titans"),
        ahead(f"The Transformer finds more than Hope {paper}", *at, AHEAD, *_PAIR[::-1]),
        ahead(f"Hope-Attention finds as many as the Transformer {paper}", *at, -AHEAD,
              "hope_attention", "transformer"),
    ]  # fmt: skip


def table(settings: Any) -> tuple[list[lab.Measure], str]:
    measures = [
        lab.share(f"found in {n * settings.length} tokens", sequences.tested(str(n), "whole"))
        for n in settings.times
    ]
    caption = (
        "Haystacks with every digit of the passkey right: median (least to most) over seeds. "
        f"Learned from were haystacks of {settings.length} tokens; longer ones are read in pieces "
        "of as many, with the state carried. Rates were chosen by the digits right at the length "
        "learned from, on seeds of their own."
    )
    return measures, caption


def draw(settings: Any, done: sequences.Done) -> list[Sheet]:
    lengths = {str(n): str(n * settings.length) for n in settings.times}

    def found(record: lab.Record) -> tuple[Any, Any]:
        whole = [record["tests"][times]["whole"] for times in lengths]
        return [int(tokens) for tokens in lengths.values()], whole

    panels = sequences.panels(done, found, "tokens", "found (%)", log="x")
    caption = (
        f"Haystacks with every digit right; learned from were {settings.length} tokens. Medians "
        "over seeds, bands their range."
    )
    files = {label: kind for kind, label in KINDS.items()}
    sheets = [curves("length", panels, "Longer haystacks than those learned", caption)]
    return sheets + sequences.place_maps(done, files, lengths)


LEAD = """A passkey is hidden at any depth of a sequence of noise and asked for at the end. Models
learn on short sequences and read long ones in pieces, with nothing but their state carried."""
RECIPE = sequences.sized(small=(32, 2, 2), full=(128, 4, 4), centre=10**-2.25)
SUBJECTS = sequences.Subjects("kinds", "needle", KINDS, task_of, claims)
STUDY = sequences.study("A needle in a haystack", LEAD, Settings, SUBJECTS, RECIPE, table, draw)
