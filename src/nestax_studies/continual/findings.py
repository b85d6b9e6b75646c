"""What the streams' records say: learning, forgetting, transfer, and the claims judged.

The criteria stood here before the recorded runs.
"""

from typing import Any, NamedTuple

import numpy as np

from nestax.runs import Table

from ..study import Findings, Records, Verdict, clearly, rate_tuned, spread
from ..timescales import findings as timescales
from ..timescales.findings import LEAST
from .arms import ARMS
from .worlds import STREAMS

_CRITERION = (
    f"average accuracy at the end, over paired seeds: the median difference is at least "
    f"{100 * LEAST:g} point in its favour, and the sign of at least nine in ten"
)
_RIVALS = {
    "mlp": "a plain MLP",
    "ewc": "elastic weight consolidation",
    "replay": "replay",
}


class Measures(NamedTuple):
    """Of accuracies (..., tasks + 1, tasks), after i tasks on task j; each of shape (...).

    Attributes:
        learning: accuracy on a task when it is over, mean over tasks.
        forgetting: the most that was known of a task from then on, less what is known at the end;
            mean over all tasks but the last.
        final: accuracy at the end, mean over tasks.
        backward: accuracy at the end less that when a task was over, mean over all but the last.
        forward: accuracy just before a task is learned less that before anything was, mean over all
            but the first.
    """

    learning: np.ndarray
    forgetting: np.ndarray
    final: np.ndarray
    backward: np.ndarray
    forward: np.ndarray


def measures(matrix: np.ndarray) -> Measures:
    learned = matrix[..., 1:, :]
    over = np.diagonal(learned, axis1=-2, axis2=-1)
    ahead = np.diagonal(matrix[..., :-1, :], axis1=-2, axis2=-1)
    backward = (learned[..., -1, :] - over)[..., :-1].mean(-1)
    forward = (ahead - matrix[..., 0, :])[..., 1:].mean(-1)
    return Measures(*timescales.measures(learned), backward, forward)


def find(settings: Any, records: Records) -> Findings:
    rows: list[list[Any]] = []
    summary: dict[str, Any] = {}
    verdicts: list[Verdict] = []
    for stream in settings.streams:
        done = {
            arm: records[f"{stream} {arm}"] for arm in settings.arms if f"{stream} {arm}" in records
        }
        summary[stream] = {
            arm: {name: value for name, value in record.items() if name != "stage"}
            for arm, record in done.items()
        }
        for arm in sorted(done, key=lambda arm: -float(np.median(done[arm]["final"]))):
            record = done[arm]
            also = f"{ARMS[arm].extra} {record['extra']:g}" if ARMS[arm].extra else None
            cells = [spread(record[name]) for name in ("final", "learning", "forgetting")]
            cells += [spread(record[name]) for name in ("backward", "forward")]
            what = STREAMS[stream], ARMS[arm].label, record["parameters"]
            rows.append([*what, rate_tuned(record), also, *cells])
        verdicts += _verdicts(stream, done)
    head = ["stream", "arm", "parameters", "rate", "also tuned", "final %",
            "learning accuracy %", "forgetting, points", "backward transfer",
            "forward transfer"]  # fmt: skip
    caption = (
        "Median (least to most) over seeds; the best at the end first. Final: accuracy on all "
        "tasks at the end; learning: on a task when it is over; forgetting: the most ever known of "
        "a task less what is known at the end; backward transfer: the end less the moment when a "
        "task was over; forward transfer: the moment before a task is learned less the beginning. "
        "The arm that learns all tasks so far at once is a reference, not a contender."
    )
    return Findings(summary, Table(head, rows, caption), verdicts)


def _verdicts(stream: str, done: Records) -> list[Verdict]:
    found = []
    for name in done:
        arm = ARMS[name]
        if not arm.continuum:
            continue
        others = [other for other in dict.fromkeys(("chain", arm.control)) if other]
        judged = [_gain(done, name, other) for other in others]
        texts = [
            f"{'-' if gain is None else spread(gain)} points more than {ARMS[other].label}"
            for gain, other in zip(judged, others, strict=True)
        ]
        holds = [None if gain is None else clearly(gain, LEAST) for gain in judged]
        found.append(
            Verdict(
                f"Several clocks know more in the end than one: {arm.label}; {STREAMS[stream]} "
                "(Nested Learning, 7.1)",
                f"against the same chain on one clock, and with what differs in the clock alone; "
                f"{_CRITERION}",
                "; ".join(texts),
                None if None in holds else all(holds),
            )
        )
    clocks = [name for name in done if ARMS[name].continuum]
    if not clocks:
        return found
    best = max(clocks, key=lambda name: max(done[name]["scores"]))
    for rival, words in _RIVALS.items():
        if rival not in done:
            continue
        gain = _gain(done, best, rival)
        assert gain is not None
        ends = [f"{ARMS[name].label}: {spread(done[name]['final'])} %" for name in (best, rival)]
        found.append(
            Verdict(
                f"A continuum memory knows more in the end than {words}: {STREAMS[stream]} "
                "(Nested Learning, section 9)",
                f"the best of {len(clocks)} arms with several clocks, chosen on seeds of its own "
                f"(so about {len(clocks)} times the rival's settings); {_CRITERION}",
                f"{'; '.join(ends)}; {spread(gain)} points more",
                clearly(gain, LEAST),
            )
        )
    return found


def _gain(done: Records, one: str, other: str) -> np.ndarray | None:
    """How much more one arm knows in the end than another, on the same seeds."""
    if other not in done:
        return None
    return np.asarray(done[one]["final"]) - np.asarray(done[other]["final"])
