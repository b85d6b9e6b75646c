"""What the MAML study makes of its records: numbers, verdicts, figures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nestax.runs import Picture, Table

from ..plots import Line, Panel, draw
from ..study import Findings, Records, Verdict

ARMS = {
    "unrolled": "MAML, unrolled",
    "first-order": "MAML, first order",
    "implicit": "iMAML",
    "joint": "no adaptation in learning",
}
TESTED = 600  # fresh tasks
_SCORE = {"sinusoid": "mean squared error", "omniglot": "accuracy"}


def find(settings: Any, records: Records) -> Findings:
    summary, rows, scores = {}, [], {}
    for arm, record in records.items():
        every = np.asarray([seed["scores"] for seed in record["seeds"]])  # seed, task, step
        scores[arm] = every[:, :, -1]
        means = scores[arm].mean(1)
        mean, half = interval(scores[arm].mean(0))
        extra = {k: record["seeds"][0][k] for k in ("inner_gradient", "residual")
                 if k in record["seeds"][0]}  # fmt: skip
        summary[arm] = {
            "rates": record["rates"], "sweep": record["sweep"], "mean": mean, "half": half,
            "seeds": means.tolist(), "by_step": every.mean((0, 1)).tolist(), **extra,
        }  # fmt: skip
        used = record["rates"]
        rows.append([
            ARMS[arm], f"{used['inner']:g}", f"{used['outer']:g}", f"{used['pull']:g}",
            f"{every[:, :, 0].mean():.3f}", f"{mean:.3f} ± {half:.3f}",
            f"{means.min():.3f} to {means.max():.3f}",
        ])  # fmt: skip
    head = ["arm", "inner rate", "outer rate", "pull", f"{_SCORE[settings.task]} before",
            "after adaptation", "seeds"]  # fmt: skip
    caption = (
        f"On {TESTED} fresh tasks, the same for all: mean over tasks and seeds, its 95 % "
        "interval over tasks, and the range of the seeds' means."
    )
    return Findings({"arms": summary}, Table(head, rows, caption), verdicts(settings, scores))


def interval(values: np.ndarray) -> tuple[float, float]:
    """The mean and half the width of its 95 % interval."""
    return float(values.mean()), float(1.96 * values.std(ddof=1) / len(values) ** 0.5)


def verdicts(settings: Any, scores: dict[str, np.ndarray]) -> list[Verdict]:
    """`scores`: arm -> final scores of the same fresh tasks, in the order (seed, task)."""
    found = []

    def judge(claim: str, criterion: str, needs: tuple[str, ...], decide: Callable) -> None:
        if set(needs) <= set(scores):
            measured, holds = decide(*(scores[arm] for arm in needs))
            found.append(Verdict(claim, criterion, measured, holds))
        else:
            found.append(Verdict(claim, criterion, f"needs {' and '.join(needs)}", None))

    def close(other: np.ndarray, exact: np.ndarray) -> tuple[str, bool]:
        mean, half = interval((other - exact).mean(0))
        if settings.task == "omniglot":
            return f"{100 * mean:+.1f} ± {100 * half:.1f} points", bool(mean - half >= -0.01)
        holds = bool(other.mean() <= 1.2 * exact.mean())
        return f"{other.mean():.2f} against {exact.mean():.2f}", holds

    def ninety(exact: np.ndarray) -> tuple[str, bool]:
        mean, half = interval(exact.mean(0))
        text = f"{100 * mean:.1f} ± {100 * half:.1f} %, worst seed {100 * exact.mean(1).min():.1f}"
        return text, bool(mean - half >= 0.9)

    def fifth(exact: np.ndarray, joint: np.ndarray) -> tuple[str, bool]:
        text = (
            f"{exact.mean():.2f} against {joint.mean():.2f}, worst seed {exact.mean(1).max():.2f}"
        )
        return text, bool(exact.mean(1).max() <= joint.mean(1).min() / 5)

    if settings.task == "omniglot":
        judge(
            "An initialization learnt by MAML tells five new characters apart after one drawing of "
            "each (Finn et al. 2017)",
            "accuracy of at least 90 % on characters of unseen alphabets, at the lower end of its "
            "interval; the publication reaches 98.7 % on an easier split with more training",
            ("unrolled",), ninety,
        )  # fmt: skip
        bound = "no worse than 1 point, at the lower end of the paired difference's interval"
    else:
        judge(
            "Learning to adapt is not learning all tasks at once (Finn et al. 2017)",
            "after adaptation at most a fifth of the error of the control, in every seed",
            ("unrolled", "joint"), fifth,
        )  # fmt: skip
        bound = "an error of at most 1.2 times that of MAML"
    judge("First-order MAML does nearly as well as MAML (Finn et al. 2017)", bound,
          ("first-order", "unrolled"), close)  # fmt: skip
    judge("iMAML does as well as MAML (Rajeswaran et al. 2019)", bound,
          ("implicit", "unrolled"), close)  # fmt: skip
    return found


def figures(settings: Any, records: Records, directory: Path) -> list[Picture]:
    learning, adapting = [], []
    for arm, record in records.items():
        losses = np.asarray([seed["loss"] for seed in record["seeds"]])
        learning.append(Line(record["seeds"][0]["step"], losses.T, ARMS[arm]))
        scores = np.asarray([seed["scores"] for seed in record["seeds"]]).mean(1)
        adapting.append(Line(range(scores.shape[1]), scores.T, ARMS[arm]))
    unit = "mean squared error" if settings.task == "sinusoid" else "cross entropy in nats"
    log = "y" if settings.task == "sinusoid" else ""
    panels = [
        Panel("Learning", "update of the initialization", f"loss after adaptation, {unit}",
              learning, log=log),
        Panel("Fresh tasks", "step of adaptation", _SCORE[settings.task], adapting, log=log),
    ]  # fmt: skip
    caption = (
        "Left: the loss that is learnt from, averaged over neighbouring updates. Right: fresh "
        f"tasks, mean over {TESTED}. Lines are medians over seeds, bands their range."
    )
    return [draw(directory / "maml.png", panels, "Learning to learn", caption)]
