"""What the streams' records say: learning, forgetting, and what is compared at equal learning.

An arm that learns less has less to forget, and the rate trades one for the other. So arms are
compared where they have learned as much: by interpolating what is forgotten along the rates tried.
The criteria stood here before the long runs, after runs of one seed that showed what rates to try
and that less than a point must not count: split by classes every arm forgets all it learned.
"""

from typing import Any, NamedTuple

import numpy as np

from nestax.runs import Table

from ..study import Findings, Records, Verdict, clearly, spread
from .arms import ARMS
from .streams import STREAMS

LEVEL = 0.95  # of the best learning accuracy that both arms have
LEAST = 0.01  # accuracy; a smaller difference does not count
_PAIRED = (
    f"over paired seeds the median difference is at least {100 * LEAST:g} point in its favour, and "
    "the sign of at least nine in ten"
)
_EQUAL = f"where learning accuracy is {100 * LEVEL:g} % of the best that both have at any rate"


class Measures(NamedTuple):
    """Of accuracies (..., tasks, tasks), after task i on task j; each of shape (...).

    Attributes:
        learning: accuracy on a task when it is over, mean over tasks.
        forgetting: the most that was ever known of a task from then on, less what is known at the
            end; mean over all tasks but the last.
        final: accuracy at the end, mean over tasks.
    """

    learning: np.ndarray
    forgetting: np.ndarray
    final: np.ndarray


def measures(matrix: np.ndarray) -> Measures:
    learned = np.diagonal(matrix, axis1=-2, axis2=-1)
    end = matrix[..., -1, :]
    most = np.stack([matrix[..., j:, j].max(-1) for j in range(matrix.shape[-1])], axis=-1)
    return Measures(learned.mean(-1), (most - end)[..., :-1].mean(-1), end.mean(-1))


def seen(matrix: np.ndarray) -> np.ndarray:
    """(..., tasks, tasks) -> (..., tasks): mean accuracy on the tasks so far, after each."""
    tasks = matrix.shape[-1]
    return (matrix * np.tri(tasks)).sum(-1) / np.arange(1, tasks + 1)


def forgotten_at(learning: np.ndarray, forgetting: np.ndarray, level: float) -> float:
    """What is forgotten where a learning accuracy is first reached, both (rates,), slowest first.

    Between two rates it is interpolated. NaN where the slowest rate learns more, or none as much.
    """
    reached = np.flatnonzero(learning >= level)
    if not len(reached) or reached[0] == 0:
        return float("nan")
    high = reached[0]
    part = (level - learning[high - 1]) / (learning[high] - learning[high - 1])
    return float(forgetting[high - 1] + part * (forgetting[high] - forgetting[high - 1]))


def less_forgotten(one: dict[str, Any], other: dict[str, Any]) -> np.ndarray:
    """(seeds,): how much less the first of two records forgets at equal learning accuracy."""
    found = []
    (mine, lost), (theirs, gone) = (
        (np.asarray(r["learning"]).T, np.asarray(r["forgetting"]).T) for r in (one, other)
    )
    for seed in range(len(mine)):
        level = LEVEL * min(mine[seed].max(), theirs[seed].max())
        pair = (mine[seed], lost[seed]), (theirs[seed], gone[seed])
        own, others = (forgotten_at(*arm, level) for arm in pair)
        found.append(others - own)
    return np.asarray(found)


def at_tuned(record: dict[str, Any], name: str) -> np.ndarray:
    """(seeds,): a measure at the rate that was chosen."""
    return np.asarray(record[name][record["place"]])


def find(settings: Any, records: Records) -> Findings:
    rows: list[list[Any]] = []
    summary: dict[str, Any] = {}
    found: list[Verdict] = []
    for stream in settings.streams:
        done = {
            arm: records[f"{stream} {arm}"]
            for arm in ARMS
            if arm in settings.arms and f"{stream} {arm}" in records
        }
        gains = {arm: _gains(arm, done) for arm in done}
        summary[stream] = {arm: _numbers(record, gains[arm]) for arm, record in done.items()}
        for arm in sorted(done, key=lambda arm: -float(np.median(at_tuned(done[arm], "final")))):
            record = done[arm]
            rate = f"{record['rates'][record['place']]:.2g}" + (" (edge)" * record["edge"])
            cells = [spread(at_tuned(record, name)) for name in Measures._fields]
            compared = [_points(gains[arm].get(against)) for against in ("single", "control")]
            rows.append([STREAMS[stream], ARMS[arm].label, rate, *cells, *compared])
        found += _verdicts(stream, done, gains)
    head = ["stream", "arm", "rate", "learning accuracy %", "forgetting, points", "final %",
            "less forgotten than one clock", "than the same rates, one clock"]  # fmt: skip
    caption = (
        "Median (least to most) over seeds; the best at the end first. Learning: accuracy on a "
        "task when it is over; forgetting: the most ever known of it less what is known at the "
        "end, without the last task; final: accuracy on all tasks at the end. These are at the "
        f"rate that was best for the last, on seeds of their own. The last two columns: {_EQUAL}, "
        "points of forgetting less than of another arm on the same seeds; "
        "- where the rates tried do not reach that far."
    )
    return Findings(summary, Table(head, rows, caption), found)


def _gains(name: str, done: Records) -> dict[str, np.ndarray]:
    """How much less an arm forgets than those it is compared with, where these were run."""
    arm, found = ARMS[name], {}
    for against in ("single", "control"):
        other = getattr(arm, against)
        if other in done:
            found[against] = less_forgotten(done[name], done[other])
    return found


def _points(difference: np.ndarray | None) -> str | None:
    if difference is None:
        return None
    return spread(difference) if np.isfinite(difference).all() else "-"


def _numbers(record: dict[str, Any], gains: dict[str, np.ndarray]) -> dict[str, Any]:
    kept = {name: record[name] for name in ("rates", "scores", "edge", "matrix")}
    tuned = {name: at_tuned(record, name).tolist() for name in Measures._fields}
    less = {
        f"less_forgotten_than_{against}": [x if np.isfinite(x) else None for x in values.tolist()]
        for against, values in gains.items()
    }
    return kept | {"rate": record["rates"][record["place"]]} | tuned | less


def _verdicts(stream: str, done: Records, gains: dict[str, dict[str, np.ndarray]]) -> list[Verdict]:
    found = []
    for name in done:
        arm = ARMS[name]
        if arm.how not in ("mean", "sum"):
            continue
        texts, judged = [], []
        for against in dict.fromkeys((arm.single, arm.control)):
            assert against is not None
            key = "single" if against == arm.single else "control"
            gain = gains[name].get(key)
            judged.append(None if gain is None else clearly(gain, LEAST))
            words = "-" if gain is None else _points(gain)
            texts.append(f"{words} points less than {ARMS[against].label}")
        holds = None if None in judged else all(judged)
        found.append(
            Verdict(
                f"Slow clocks forget less at equal learning: {arm.label}; {STREAMS[stream]} "
                "(Nested Learning, 7.1)",
                f"{_EQUAL}: less forgotten than with one clock, and than with one clock that moves "
                f"every part as far; {_PAIRED}",
                "; ".join(texts),
                holds,
            )
        )
    clocks = {name for name in done if ARMS[name].how in ("mean", "sum")}
    if clocks and set(done) - clocks:
        best = [
            max(some, key=lambda name: max(done[name]["scores"]))
            for some in (sorted(clocks), sorted(set(done) - clocks))
        ]
        ends = [at_tuned(done[name], "final") for name in best]
        texts = [
            f"{ARMS[name].label}: {spread(end)} %" for name, end in zip(best, ends, strict=True)
        ]
        found.append(
            Verdict(
                f"Several clocks know more in the end: {STREAMS[stream]} (Nested Learning, 7.1)",
                "average final accuracy of the best arm with several clocks against that of the "
                f"best with one, rates of its parts chosen likewise, both chosen on seeds of their "
                f"own: {_PAIRED}",
                "; ".join(texts),
                clearly(ends[0] - ends[1], LEAST),
            )
        )
    return found
