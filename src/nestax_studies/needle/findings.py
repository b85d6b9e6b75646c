"""What the records say: who finds a needle in haystacks of lengths never seen. The criteria stood
here before the recorded runs."""

from typing import Any

import numpy as np

from nestax.runs import Table

from .. import sequences
from ..sequences import ARMS
from ..study import Findings, Records, Verdict, rate_tuned, spread
from .haystack import LABELS

FOUND = 0.99
AHEAD = 0.05  # of haystacks; less is no difference
_PAPER = "Nested Learning, needles"


def found(record: dict[str, Any], times: int) -> np.ndarray:
    """(seeds,): the share of haystacks with every digit right."""
    return sequences.tested(record, str(times), "whole")


def find(settings: Any, records: Records) -> Findings:
    rows: list[list[Any]] = []
    summary: dict[str, Any] = {}
    verdicts: list[Verdict] = []
    for kind in settings.kinds:
        done = sequences.done(settings, records, kind)
        summary[kind] = sequences.summarized(done)
        for arm, record in done.items():
            cells = [spread(found(record, times)) for times in settings.times]
            rows.append([LABELS[kind], ARMS[arm].label, rate_tuned(record), *cells])
        verdicts += _verdicts(settings, kind, done)
    lengths = [f"{times * settings.learned} tokens" for times in settings.times]
    caption = (
        "Haystacks with every digit of the passkey right, in percent: median (least to most) over "
        f"seeds. Learned from were haystacks of {settings.learned} tokens; longer ones are read in "
        "pieces of as many, with the state carried. Rates were chosen by the digits right at the "
        "length learned from, on seeds of their own."
    )
    table = Table(["needle", "model", "rate", *lengths], rows, caption)
    return Findings(summary, table, verdicts)


def _verdicts(settings: Any, kind: str, done: Records) -> list[Verdict]:
    made: list[Verdict] = []
    last = settings.times[-1]

    def judge(claim: str, criterion: str, arms: tuple[str, ...], holds: Any) -> None:
        at_last = lambda record: found(record, last)  # noqa: E731
        made.append(sequences.verdict(claim, criterion, done, arms, at_last, holds))

    where = f"haystacks of {last * settings.learned} tokens, {last} times those learned from"
    share = f"median over seeds: at least {100 * FOUND:g} % of"
    ahead = f"{100 * AHEAD:g} points more"
    if kind == "passkey":
        judge(
            f"Hope finds one passkey at any length ({_PAPER}, 16K tokens)",
            f"{share} {where}",
            ("hope",),
            lambda m: m["hope"] >= FOUND,
        )
        judge(
            f"Hope-Attention finds one passkey at any length ({_PAPER}, 16K tokens)",
            f"{share} {where}",
            ("hope_attention",),
            lambda m: m["hope_attention"] >= FOUND,
        )
        judge(
            f"The Transformer finds fewer than Hope does ({_PAPER}: 80 % against 100)",
            f"median over seeds, {where}: Hope finds {ahead}",
            ("hope", "transformer"),
            lambda m: m["hope"] >= m["transformer"] + AHEAD,
        )
    else:
        judge(
            f"Of several passkeys Hope finds more than Titans does ({_PAPER})",
            f"median over seeds, {where}: {ahead}",
            ("hope", "titans"),
            lambda m: m["hope"] >= m["titans"] + AHEAD,
        )
        judge(
            f"Of several passkeys the Transformer finds more than Hope does ({_PAPER})",
            f"median over seeds, {where}: {ahead}",
            ("transformer", "hope"),
            lambda m: m["transformer"] >= m["hope"] + AHEAD,
        )
        judge(
            f"Of several passkeys Hope-Attention finds as many as the Transformer ({_PAPER})",
            f"median over seeds, {where}: not {100 * AHEAD:g} points fewer",
            ("hope_attention", "transformer"),
            lambda m: m["hope_attention"] > m["transformer"] - AHEAD,
        )
    return made
