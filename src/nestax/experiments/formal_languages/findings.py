"""What the records say: who knows a language, at lengths never seen. The criteria stood here before
the recorded runs."""

from typing import Any

import numpy as np

from ...runs import Table
from .._images import spread
from ..sequences import ARMS
from ..study import Findings, Records, Verdict
from .languages import LANGUAGES

KNOWN = 0.99  # of strings, or of last symbols
FAILED = 0.5  # of strings, at most
_PAPER = "(Nested Learning, formal languages)"
_WITHOUT = ("transformer", "linear_attention", "delta_positive")  # 0 % of longer strings there
_NAMES = {"short": "trained lengths", "longer": "twice as long", "long": "longest"}


def tested(record: dict[str, Any], test: str, what: str) -> np.ndarray:
    """(seeds,): a number of a test; what was not finite counts as nothing right."""
    return np.nan_to_num(np.asarray(record["tests"][test][what], float))


def find(settings: Any, records: Records) -> Findings:
    rows: list[list[Any]] = []
    summary: dict[str, Any] = {}
    verdicts: list[Verdict] = []
    for name in settings.languages:
        done = {arm: r for arm in settings.arms if (r := records.get(f"{name} {arm}"))}
        summary[name] = {
            arm: {k: r[k] for k in ("rates", "scores", "rate", "edge", "parameters", "tests")}
            for arm, r in done.items()
        }
        for arm, record in done.items():
            cells = [spread(tested(record, test, "whole")) for test in _NAMES]
            cells += [spread(tested(record, "long", what)) for what in ("accuracy", "last")]
            rate = f"{record['rate']:.2g}" + " (edge)" * record["edge"]
            rows.append([LANGUAGES[name].label, ARMS[arm].label, rate, *cells])
        verdicts += _verdicts(settings, name, done)
    head = ["language", "model", "rate", *(f"strings %, {words}" for words in _NAMES.values()),
            "symbols %, longest", "last symbol %, longest"]  # fmt: skip
    caption = (
        "Median (least to most) over seeds. Strings: those with every answer right, of up to 50 "
        f"symbols, of 51 to 100, and of 101 to {settings.longest}; parity, (aa)* and (abab)* are "
        "tested at the most symbols of each. Rates were chosen by the symbols right in the "
        "longest, on seeds of their own."
    )
    return Findings(summary, Table(head, rows, caption), verdicts)


def _verdicts(settings: Any, name: str, done: Records) -> list[Verdict]:
    language, found = LANGUAGES[name], []

    def judge(claim: str, criterion: str, arms: tuple[str, ...], what: Any, holds: Any) -> None:
        values = {arm: what(done[arm]) for arm in arms if arm in done}
        texts = [f"{ARMS[arm].label}: {spread(value)} %" for arm, value in values.items()]
        full = len(values) == len(arms)
        found.append(
            Verdict(claim, criterion, "; ".join(texts) or "-", holds(values) if full else None)
        )

    def strings(record: dict[str, Any]) -> np.ndarray:
        return tested(record, "longer", "whole")

    def last(record: dict[str, Any]) -> np.ndarray:
        return tested(record, "long", "last")

    def know(values: dict[str, np.ndarray]) -> bool:
        return bool(min(np.median(value) for value in values.values()) >= KNOWN)

    def fail(values: dict[str, np.ndarray]) -> bool:
        return bool(max(np.median(value) for value in values.values()) <= FAILED)

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
        f"median over seeds: after the last symbol of strings of up to {settings.longest}, at "
        f"least {100 * KNOWN:g} % of the answers right",
        ("hope",),
        last,
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
            "75 % of the answers right",
            ("delta_positive",),
            last,
            lambda values: bool(np.median(values["delta_positive"]) <= 0.75),
        )
    return found
