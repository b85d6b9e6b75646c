"""What the records say: who recalls what. The criteria stood here before the recorded runs."""

from typing import Any

import numpy as np

from nestax.runs import Table

from .. import sequences
from ..sequences import ARMS
from ..study import Findings, Records, Verdict, rate_tuned, spread
from .tasks import TASKS

BEHIND = 0.01  # accuracy; less is no difference
ERASED = 0.1  # accuracy that erasing is to add
KNOWN = 0.99
_PAPER = "Nested Learning, MAD"
_OURS = {"mqar": "ours", "noisy": "ours"}  # what that paper's table does not hold
_SOLVED = ("recall", "copying")  # 99 % and more there


def answered(record: dict[str, Any]) -> np.ndarray:
    """(seeds,): the share of right answers."""
    return sequences.tested(record, "test", "accuracy")


def find(settings: Any, records: Records) -> Findings:
    rows: list[list[Any]] = []
    summary: dict[str, Any] = {}
    verdicts: list[Verdict] = []
    for name in settings.tasks:
        done = sequences.done(settings, records, name)
        summary[name] = sequences.summarized(done)
        for arm in sorted(done, key=lambda arm: -float(np.median(answered(done[arm])))):
            record = done[arm]
            whole = sequences.tested(record, "test", "whole")
            cells = [spread(answered(record)), spread(whole), record["parameters"]]
            rows.append([TASKS[name][0], ARMS[arm].label, rate_tuned(record), *cells])
        verdicts += _verdicts(name, done)
    head = ["task", "model", "rate", "answers %", "whole sequences %", "parameters"]
    caption = (
        "Median (least to most) over seeds, the best first: right answers, and sequences with "
        "every answer right. Rates were chosen by right answers, on seeds of their own."
    )
    return Findings(summary, Table(head, rows, caption), verdicts)


def _verdicts(name: str, done: Records) -> list[Verdict]:
    found, label = [], TASKS[name][0]

    def judge(claim: str, criterion: str, arms: tuple[str, ...], holds: Any) -> None:
        found.append(sequences.verdict(claim, criterion, done, arms, answered, holds))

    judge(
        f"Hope is behind neither Titans nor the Transformer in {label} ({_OURS.get(name, _PAPER)})",
        f"median over seeds of right answers: at most {100 * BEHIND:g} point below the better of "
        "the two",
        ("hope", "titans", "transformer"),
        lambda m: m["hope"] >= max(m["titans"], m["transformer"]) - BEHIND,
    )
    if name in _SOLVED:
        judge(
            f"Hope solves {label} ({_PAPER})",
            f"median over seeds: at least {100 * KNOWN:g} % of the answers right",
            ("hope",),
            lambda m: m["hope"] >= KNOWN,
        )
    if name == "mqar":
        judge(
            "A memory that erases recalls more than one that only adds (Yang et al. 2024, delta "
            "rule)",
            f"median over seeds of right answers: the delta rule {100 * ERASED:g} points above "
            "linear attention",
            ("delta", "linear_attention"),
            lambda m: m["delta"] >= m["linear_attention"] + ERASED,
        )
        judge(
            "Attention recalls any number of pairs (Arora et al. 2024)",
            f"median over seeds: at least {100 * KNOWN:g} % of the answers right",
            ("transformer",),
            lambda m: m["transformer"] >= KNOWN,
        )
    return found
