"""Which models keep a state? Formal languages, learned on short strings, tested on long ones.

Every model learns which symbols may come next, on strings of up to 50 symbols, and is tested on
strings of up to 500, in one pass. Keeping a state such as a parity needs a memory whose transition
has a negative eigenvalue, or that is not linear. All models are without short convolutions, and
Hope and Titans without forgetting (the gated delta rule shows what that costs). Targets are
smoothed: otherwise no model is asked for an eigenvalue of -1 once -0.99 answers all short strings.

Sources: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), its table on formal
languages; Grazzi, Siems, Zela, Franke, Hutter and Pontil, "Unlocking state-tracking in linear RNNs
through negative eigenvalues" (2025), for the rates up to 2.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import lab, sequences
from ..lab import names, option
from ..lab.figures import Sheet, curves
from ..sequences import ARMS, Arm, Claim, Task, reaches, stays_below, tested
from ..sequences.tasks import Exam
from .languages import LANGUAGES

SHORT = 50  # symbols of the longest string that is learned from
KNOWN, FAILED, GUESSED = 0.99, 0.5, 0.75  # all; at most half; half are right by chance
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
_TESTS = {"short": "up to 50", "longer": "51 to 100", "long": "longest"}


@dataclass(frozen=True)
class Settings(sequences.Comparison):
    """Which models keep a state?

    Attributes:
        languages: Of parity, aa, abab, anbn, anbncn and shuffle2, separated by commas; or all.
        preset: small is for two cores; full has models of two blocks and twice the width, for a
            GPU.
        longest: Symbols of the longest string tested.
    """

    languages: tuple[str, ...] = names(LANGUAGES)
    steps: int | None = option(least=20, multiple=20, small=1000, full=4000)
    batch_size: int | None = option(least=1, small=16, full=128)
    longest: int = option(500, least=3 * SHORT)
    tuning_seeds: int = option(2, least=1)


def task_of(settings: Any, name: str) -> Task:
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
    tune, measure = ("long", "accuracy") if language.regular else ("longer", "whole")
    vocabulary, learned = language.vocabulary, draw(1, SHORT)
    return Task(vocabulary, learned, tests, tune, settings.longest, measure=measure)


def arm_of(name: str) -> Arm:
    """A model as it is compared here."""
    return ARMS[name].given(**_OPTIONS[name])


def claims(settings: Any, name: str) -> list[Claim]:
    """The criteria stood here before the recorded runs."""
    strings, last, paper = tested("longer", "whole"), tested("long", "last"), "(Nested Learning)"
    longer = "strings of 51 to 100 symbols with every answer right, learned from up to 50"
    long = (
        f"strings of up to {settings.longest} symbols: answers right, and after their last symbol"
    )

    def lasting(record: lab.Record) -> np.ndarray:
        """The last symbol alone says little where there is one string of each length."""
        return np.minimum(tested("long", "accuracy")(record), last(record))

    made = [
        reaches(f"Hope knows the language {paper}", longer, strings, KNOWN, "hope"),
        reaches("Hope knows it at ten times the length (ours)", long, lasting, KNOWN, "hope"),
    ]
    if LANGUAGES[name].regular:
        text = f"Transformer, linear attention and the delta rule do not know it {paper}"
        arms = "transformer", "linear_attention", "delta_positive"
        made.append(stays_below(text, longer, strings, FAILED, *arms))
    else:
        arms = "transformer", "linear_attention", "delta", "hope"
        made.append(reaches(f"Every model counts {paper}", longer, strings, KNOWN, *arms))
    if name == "parity":
        text, end = "The delta rule", f"after the last symbol of strings of {settings.longest}"
        paper = "(Grazzi et al. 2025)"
        made += [
            reaches(f"{text} knows parity if its rates reach 2 {paper}", end, last, KNOWN, "delta"),
            stays_below(f"{text} does not know it if they reach 1 only {paper}", end, last, GUESSED,
                        "delta_positive"),
        ]  # fmt: skip
    return made


def table(settings: Any) -> tuple[list[lab.Measure], str]:
    measures = [lab.share(f"strings, {w}", tested(test, "whole")) for test, w in _TESTS.items()]
    measures += [
        lab.share("symbols, longest", tested("long", "accuracy")),
        lab.share("last symbol, longest", tested("long", "last")),
    ]
    caption = (
        "Median (least to most) over seeds. Strings: those with every answer right, of up to 50 "
        f"symbols, of 51 to 100, and of 101 to {settings.longest}; parity, (aa)* and (abab)* are "
        "tested at the most symbols of each. Rates were chosen by the symbols right in the "
        "longest, of counters by the strings right of 51 to 100, on seeds of their own."
    )
    return measures, caption


def draw(settings: Any, done: sequences.Done) -> list[Sheet]:
    def along(record: lab.Record) -> tuple[Any, Any]:
        right = record["tests"]["long"]["by_position"]
        return (1 + np.arange(len(right))) * (settings.longest / len(right)), right

    long = sequences.panels(done, along, "symbol")
    short = sequences.panels(done, lambda r: (r["step"], r["accuracy"]), "step")
    band = "medians over seeds, bands their range."
    long_caption = (
        f"Answers right along strings of 101 to {settings.longest} symbols; learned from were at "
        f"most 50; {band}"
    )
    short_caption = (
        f"Answers right on fresh strings of up to 50 symbols, means over a twentieth of the run; "
        f"{band}"
    )
    return [
        curves("length", long, "Along strings longer than those learned from", long_caption),
        curves("training", short, "Along training", short_caption),
    ]


LEAD = """Models learn which symbols may follow in strings of up to 50 symbols and are tested on
strings of up to ten times as many. Who has learned the rule goes on; who has learned the strings
does not."""
RECIPE = sequences.sized(small=(32, 1, 4), full=(64, 2, 4), centre=10**-1.25, smoothing=0.1)
LABELS = {name: language.label for name, language in LANGUAGES.items()}
SUBJECTS = sequences.Subjects("languages", "language", LABELS, task_of, claims)
STUDY = sequences.study("Formal languages", LEAD, Settings, SUBJECTS, RECIPE, table, draw, arm_of)
