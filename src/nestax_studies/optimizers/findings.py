"""What the comparison of optimizers makes of its records: numbers and verdicts.

The criteria stood here before the recorded runs. Two of them, and one arm, came after a look at
smaller ones: on the toy "first reached" became "settled for good", as a large step may cross the
minimum by chance; networks are judged by training loss, as test loss on few images rewarded fewer
steps; and delta momentum with a tenth of the inner rate was added. Seeds are paired: the same seed
is the same start, the same data and the same order for every optimizer.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from nestax.runs import Table

from ..study import Findings, Records, Verdict, rate_tuned
from .arms import ARMS
from .small import SETTLED
from .training import CAP

TITLES = {
    "toy": "toy valley",
    "forgetting": "orthogonal tasks",
    "network": "images",
    "language": "characters",
}
OUTCOMES = {
    "toy": f"steps until psi <= {SETTLED:g} for good",
    "forgetting": "loss at the end, mean of all tasks, relative to its start",
    "network": "training loss, nats",
    "language": "training loss, nats per character",
}
_PAIRED = "less with at least nine in ten of the paired seeds, hence in the median"
_PUSHED = 0.01  # of what a task had to move the weights by
_DELTA = ("delta_momentum", "delta_momentum_weak")
_DEEP = ("deep_momentum", "deep_momentum_l2", "deep_momentum_rows")


def outcome(task: str, record: dict[str, Any]) -> np.ndarray:
    """(seeds,): what optimizers are compared by after equal steps; less is better."""
    curves = record["curves"]
    if task == "toy":
        return np.asarray(curves["settled"])
    return np.asarray(curves["loss" if task == "forgetting" else "train"][-1])


def better(one: Any, other: Any) -> tuple[str, bool]:
    """Whether `one` is less than `other`, by the criterion for paired seeds. Two that never got
    there are equal."""
    one, other = np.asarray(one), np.asarray(other)
    wins = int(np.sum(one < other))
    text = f"{spread(one)} against {spread(other)}, less with {wins} of {len(one)} seeds"
    return text, bool(wins >= 0.9 * len(one))


def spread(values: Any) -> str:
    """Median (least to most)."""
    # Between infinities there is nothing to interpolate.
    method = "linear" if np.all(np.isfinite(values)) else "nearest"
    ordered = np.quantile(values, (0, 0.5, 1), method=method)
    shown = ["-" if v >= CAP else f"{v:.3g}" for v in ordered]
    return f"{shown[1]} ({shown[0]} to {shown[2]})"


def lasting(task: str, record: dict[str, Any]) -> np.ndarray:
    """The outcome, with infinity for seeds that never got there."""
    found = outcome(task, record)
    return np.where(found > record["step"][-1], np.inf, found) if task == "toy" else found


def _shown(task: str, record: dict[str, Any]) -> str:
    return spread(lasting(task, record))


def find(settings: Any, records: Records) -> Findings:
    rows: list[list[Any]] = []
    summary: dict[str, Any] = {task: {} for task in settings.tasks}
    for task in settings.tasks:
        done = {
            stage.split()[1]: record
            for stage, record in records.items()
            if stage.split()[0] == task
        }
        for arm in sorted(done, key=lambda arm: float(np.median(outcome(task, done[arm])))):
            record = done[arm]
            summary[task][arm] = _numbers(task, record)
            cells = [TITLES[task], ARMS[arm].label, rate_tuned(record), _shown(task, record)]
            cells.append(_further(task, record))
            timed = record.get("equal_time")
            cells += [f"{record['pace']:.2f}", spread(timed["train"])] if timed else [None, None]
            rows.append(cells)
    head = ["task", "optimizer", "rate", "after equal steps", "also", "time per step, AdamW = 1",
            "after AdamW's time"]  # fmt: skip
    caption = (
        "Median (least to most) over seeds, less is better; each task's best first. After equal "
        "steps: "
        + "; ".join(f"{TITLES[task]}: {OUTCOMES[task]}" for task in settings.tasks)
        + ". A rate at the edge of all that were tried might not be the best one. - is a loss that "
        "is not finite, or a valley not reached. After AdamW's time: the same loss, at the same "
        "rate, of runs with as many steps as take the time of AdamW's, schedule included."
    )
    return Findings({"tasks": summary}, Table(head, rows, caption), verdicts(settings, records))


def _numbers(task: str, record: dict[str, Any]) -> dict[str, Any]:
    kept = ("rates", "scores", "rate", "edge", "parameters", "seconds", "pace", "equal_time")
    curves = record["curves"]
    last = {
        name: values[-1] if np.ndim(values) == 2 else values
        for name, values in curves.items()
        if name not in ("r", "theta")
    }
    return {name: record[name] for name in kept if name in record} | {
        "outcome": outcome(task, record).tolist(),
        "last": last,
    }


def _further(task: str, record: dict[str, Any]) -> str:
    curves = record["curves"]
    if task == "toy":
        return f"psi at the end {spread(curves['loss'][-1])}"
    if task == "forgetting":
        pushed, forgotten = (100 * np.asarray(curves[name]) for name in ("pushed", "forgotten"))
        return f"pushed {spread(pushed)} %, forgotten {spread(forgotten)} %"
    if task == "network":
        wrong = spread(100 * np.asarray(curves["wrong"][-1]))
        return f"test loss {spread(curves['test'][-1])}, wrong {wrong} %"
    return f"test loss {spread(curves['test'][-1])}"


def verdicts(settings: Any, records: Records) -> list[Verdict]:
    """Of the claims about tasks that were asked for."""
    found: list[Verdict] = []

    def judge(
        task: str, needs: tuple[str, ...], claim: str, criterion: str, decide: Callable
    ) -> None:
        if task not in settings.tasks:
            return
        stages = [records.get(f"{task} {arm}") for arm in needs]
        if None in stages:
            found.append(Verdict(claim, criterion, f"needs {' and '.join(needs)}", None))
        else:
            found.append(Verdict(claim, criterion, *decide(*stages)))

    def end(task: str) -> Callable:
        return lambda one, other: better(lasting(task, one), lasting(task, other))

    for arm in _DELTA:
        judge(
            "toy", (arm, "momentum"),
            f"{ARMS[arm].label} reaches the toy's minimum sooner than momentum (Nested Learning, "
            "eq. 48-49, 53)",
            f"{OUTCOMES['toy']}: {_PAIRED}", end("toy"),
        )  # fmt: skip

    def pushed(one: Any, still: Any) -> tuple[str, bool]:
        far, near = (100 * np.asarray(r["curves"]["pushed"]) for r in (one, still))
        text = f"{spread(far)} % of the way; by gradient descent {spread(near)} %"
        return text, bool(np.min(far) >= 100 * _PUSHED and np.max(near) < 10 * _PUSHED)

    judge(
        "forgetting", ("momentum", "gradient_descent"),
        "Momentum's memory of an old task pushes the weights after an orthogonal one has begun "
        "(Nested Learning, 4.3)",
        f"in the old tasks' directions they move by at least {100 * _PUSHED:g} % of what they had "
        f"to learn there, with every seed, and by gradient descent by less than {10 * _PUSHED:g} %",
        pushed,
    )  # fmt: skip
    for arm in _DELTA:
        judge(
            "forgetting", (arm, "momentum"),
            f"{ARMS[arm].label} forgets less than momentum (Nested Learning, eq. 48-49)",
            f"growth of old tasks' losses after their end: {_PAIRED}",
            lambda one, other: better(one["curves"]["forgotten"], other["curves"]["forgotten"]),
        )  # fmt: skip
    for task in TITLES:
        for arm in _DEEP:
            judge(
                task, (arm, "momentum"),
                f"{ARMS[arm].label} is better than momentum: {TITLES[task]} (Nested Learning, eq. "
                "50)",
                f"{OUTCOMES[task]}: {_PAIRED}", end(task),
            )  # fmt: skip

    def both(look: Callable) -> Callable:
        def decide(one: Any, adamw: Any, muon: Any) -> tuple[str, bool]:
            texts, holds = zip(
                *(better(look(one), look(other)) for other in (adamw, muon)), strict=True
            )
            return f"AdamW: {texts[0]}; Muon: {texts[1]}", all(holds)

        return decide

    for task in ("network", "language"):
        looks = {
            "as many steps": lambda record, task=task: outcome(task, record),
            "as much time": lambda record: np.asarray(record["equal_time"]["train"]),
        }
        for words, look in looks.items():
            for arm in ("m3", "m3_literal"):
                judge(
                    task, (arm, "adamw", "muon"),
                    f"{ARMS[arm].label} has a lower loss than AdamW and Muon after {words}: "
                    f"{TITLES[task]} (Nested Learning, Algorithm 1)",
                    f"{OUTCOMES[task]}: against both, {_PAIRED}", both(look),
                )  # fmt: skip
    return found
