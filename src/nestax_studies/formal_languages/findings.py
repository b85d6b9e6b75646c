"""What the records say: who knows a language, at lengths never seen. The criteria stood here before
the recorded runs."""

from typing import Any

import numpy as np

from nestax.runs import Table

from .. import sequences
from ..sequences import ARMS, tested
from ..study import Findings, Records, Verdict, rate_tuned, spread
from .languages import LANGUAGES

KNOWN = 0.99  # of strings, or of last symbols
FAILED = 0.5  # of strings, at most
GUESSED = 0.75  # of last symbols, at most; half are right by chance
_PAPER = "(Nested Learning, formal languages)"
# In the paper's table none of these knows more than 10.1 % of the longer strings.
_WITHOUT = ("transformer", "linear_attention", "delta_positive")
_NAMES = {"short": "trained lengths", "longer": "twice as long", "long": "longest"}


def find(settings: Any, records: Records) -> Findings:
    rows: list[list[Any]] = []
    summary: dict[str, Any] = {}
    verdicts: list[Verdict] = []
    for name in settings.languages:
        done = sequences.done(settings, records, name)
        summary[name] = sequences.summarized(done)
        for arm, record in done.items():
            cells = [spread(tested(record, test, "whole")) for test in _NAMES]
            cells += [spread(tested(record, "long", what)) for what in ("accuracy", "last")]
            rows.append([LANGUAGES[name].label, ARMS[arm].label, rate_tuned(record), *cells])
        verdicts += _verdicts(settings, name, done)
    head = ["language", "model", "rate", *(f"strings %, {words}" for words in _NAMES.values()),
            "symbols %, longest", "last symbol %, longest"]  # fmt: skip
    caption = (
        "Median (least to most) over seeds. Strings: those with every answer right, of up to 50 "
        f"symbols, of 51 to 100, and of 101 to {settings.longest}; parity, (aa)* and (abab)* are "
        "tested at the most symbols of each. Rates were chosen by the symbols right in the "
        "longest, of counters by the strings right of 51 to 100, on seeds of their own."
    )
    return Findings(summary, Table(head, rows, caption), verdicts)


def _verdicts(settings: Any, name: str, done: Records) -> list[Verdict]:
    language, found = LANGUAGES[name], []

    def judge(claim: str, criterion: str, arms: tuple[str, ...], what: Any, holds: Any) -> None:
        found.append(sequences.verdict(claim, criterion, done, arms, what, holds))

    def strings(record: dict[str, Any]) -> np.ndarray:
        return tested(record, "longer", "whole")

    def last(record: dict[str, Any]) -> np.ndarray:
        return tested(record, "long", "last")

    def lasting(record: dict[str, Any]) -> np.ndarray:
        """The last symbol alone says little where there is one string of each length."""
        return np.minimum(tested(record, "long", "accuracy"), last(record))

    def know(medians: dict[str, float]) -> bool:
        return min(medians.values()) >= KNOWN

    def fail(medians: dict[str, float]) -> bool:
        return max(medians.values()) <= FAILED

    longer = "of strings of 51 to 100 symbols, after training on up to 50"
    judge(
        f"Hope knows {language.label} {_PAPER}",
        f"median over seeds: at least {100 * KNOWN:g} % {longer}, with every answer right",
        ("hope",),
        strings,
        know,
    )
    judge(
        f"Hope knows {language.label} at ten times the length (ours)",
        f"median over seeds: at least {100 * KNOWN:g} % of the answers right in strings of up to "
        f"{settings.longest} symbols, and of those after their last symbols",
        ("hope",),
        lasting,
        know,
    )
    if language.regular:
        judge(
            f"Transformer, linear attention and the delta rule do not know {language.label} "
            f"{_PAPER}",
            f"median over seeds of each: at most {100 * FAILED:g} % {longer}, with every answer "
            "right",
            _WITHOUT,
            strings,
            fail,
        )
    else:
        judge(
            f"Every model counts: {language.label} {_PAPER}",
            f"median over seeds of each: at least {100 * KNOWN:g} % {longer}, with every answer "
            "right",
            ("transformer", "linear_attention", "delta", "hope"),
            strings,
            know,
        )
    if name == "parity":
        judge(
            "The delta rule knows parity if its rates reach 2 (Grazzi et al. 2025)",
            f"median over seeds: after the last symbol of strings of {settings.longest}, at least "
            f"{100 * KNOWN:g} % of the answers right",
            ("delta",),
            last,
            know,
        )
        judge(
            "and not if they reach 1 only (Grazzi et al. 2025)",
            f"median over seeds: after the last symbol of strings of {settings.longest}, at most "
            f"{100 * GUESSED:g} % of the answers right",
            ("delta_positive",),
            last,
            lambda m: m["delta_positive"] <= GUESSED,
        )
    return found
