"""What the comparison of optimizers makes of its records: numbers, verdicts, figures."""

import textwrap
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from .. import lab
from ..lab.figures import Column, Dot, Line, Panel, Sheet, curves, dots
from .arms import ARMS, FAMILIES, STREAM
from .tasks import ALPHA, OMEGA, SETTLED
from .training import CAP


class Look(NamedTuple):
    """How a task is reported: its title, what optimizers are compared by, the curve that is drawn,
    and the curve's axis if that is not what they are compared by."""

    title: str
    outcome: str
    curve: str
    axis: str = ""


_RELATIVE = "loss at the end, mean of all tasks, relative to its start"
LOOKS = {
    "toy": Look("toy valley", f"steps until psi <= {SETTLED:g} for good", "psi", "psi"),
    "forgetting": Look("orthogonal tasks", _RELATIVE, "first", "loss of the first task, relative"),
    "network": Look("images", "training loss, nats", "train"),
    "language": Look("characters", "training loss, nats per character", "train"),
}
_PAIRED = "less with at least nine in ten of the paired seeds, hence in the median"
_PUSHED = 0.01  # of what a task had to move the weights by
_SOURCE = "(Nested Learning, eq."
_LARGE = ("network", "language")
_DEEP = ("deep_momentum", "deep_momentum_l2", "deep_momentum_rows")
_REFERENCES = ("momentum", "adamw")  # in every figure, always in the same colours
_LEAST, _FADED = 1e-9, 1e-4  # what is less is drawn there
_WALKERS = ("momentum", "delta_momentum", "deep_momentum_rows", "adamw", "muon", "m3")
_RANGE = "Lines are medians over seeds, bands their range"


def _uncapped(values: Any) -> np.ndarray:
    """With infinity for what is not finite."""
    return np.where(np.asarray(values) >= CAP, np.inf, values)


def number(name: str) -> Callable[[lab.Record], Any]:
    """Record -> (seeds,): a number, or the end of a curve, by name; None if there is none."""

    def of(record: lab.Record) -> Any:
        values = record["curves"].get(name)
        return None if values is None else _uncapped(values[-1] if np.ndim(values) > 1 else values)

    return of


def outcome(record: lab.Record) -> np.ndarray:
    """(seeds,): what optimizers are compared by after equal steps; less is better. Infinity stands
    for what is not finite, and for a valley not reached."""
    if (steps := number("settled")(record)) is not None:
        return np.where(steps > record["step"][-1], np.inf, steps)
    return number("train" if "train" in record["curves"] else "loss")(record)


def in_time(record: lab.Record) -> np.ndarray | None:
    """The outcome after AdamW's time, of networks."""
    return _uncapped(record["equal_time"]["train"]) if "equal_time" in record else None


def find(settings: Any, records: lab.Records) -> lab.Findings:
    cases = {
        (LOOKS[task].title, ARMS[arm].label): record
        for task in settings.tasks
        for arm, record in lab.of_subject(records, task, ARMS).items()
    }
    measures = [
        lab.number("after equal steps", outcome),
        lab.number("psi at the end", number("psi")),
        lab.share("pushed", number("pushed"), 2),
        lab.share("forgotten", number("forgotten"), 2),
        lab.number("test loss", number("test")),
        lab.share("wrong", number("wrong")),
        lab.number("time per step, AdamW = 1", lambda record: record.get("pace"), digits=2),
        lab.number("after AdamW's time", in_time),
    ]
    told = "; ".join(f"{LOOKS[task].title}: {LOOKS[task].outcome}" for task in settings.tasks)
    caption = (
        "Median (least to most) over seeds, less is better; each task's best first. After equal "
        f"steps: {told}. A rate at the edge of all that were tried might not be the best one. - is "
        "a loss that is not finite, or a valley not reached. After AdamW's time: the same loss, at "
        "the same rate, of runs with as many steps as take the time of AdamW's, schedule included."
    )
    facts = lambda record: {"rate": lab.rate_tuned(record)}  # noqa: E731
    best = f"-{measures[0].name}"
    table = lab.numbers(("task", "optimizer"), cases, measures, caption, facts, best)
    kept = ("rates", "scores", "parameters", "seconds", "equal_time")
    more = {name: {k: r[k] for k in kept if k in r} for name, r in records.items() if "rate" in r}
    return lab.Findings(table, verdicts(settings, records), more)


def less(one: np.ndarray, *others: np.ndarray) -> bool:
    """Whether `one` is less than all others, by the criterion for paired seeds. Two that never got
    there are equal."""
    return all(10 * np.sum(one < other) >= 9 * len(one) for other in others)


def verdicts(settings: Any, records: lab.Records) -> list[lab.Verdict]:
    """Of the claims about tasks that were asked for. Seeds are paired: the same seed is the same
    start, the same data and the same order for every optimizer."""
    found = []

    def judge(
        task: str,
        arms: Sequence[str],
        claim: str,
        criterion: str,
        of: Callable[[lab.Record], Any] = outcome,
        holds: Callable[..., bool] = less,
    ) -> None:
        if task in settings.tasks:
            stages = {ARMS[arm].label: records.get(f"{task} {arm}") for arm in arms}
            values = {label: record and of(record) for label, record in stages.items()}
            words = {"of": ARMS[arms[0]].label, "shown": lab.significant, "unit": ""}
            found.append(lab.judge(claim, criterion, values, holds, **words))

    for arm in ("delta_momentum", "delta_momentum_weak"):
        claim = f"A memory that erases reaches the toy's minimum sooner than momentum {_SOURCE} 48-"
        judge("toy", (arm, "momentum"), f"{claim}49, 53)", f"{LOOKS['toy'].outcome}: {_PAIRED}")
        claim = f"A memory that erases forgets less than momentum {_SOURCE} 48-49)"
        criterion = f"growth of old tasks' losses after their end: {_PAIRED}"
        judge("forgetting", (arm, "momentum"), claim, criterion, number("forgotten"))
    judge(
        "forgetting",
        ("momentum", "gradient_descent"),
        "Momentum's memory of an old task pushes the weights after an orthogonal one has begun "
        "(Nested Learning, 4.3)",
        f"in the old tasks' directions they move by at least {_PUSHED:g} of what they had to learn "
        f"there, with every seed, and by gradient descent by less than {_PUSHED / 10:g}",
        number("pushed"),
        lambda far, near: np.min(far) >= _PUSHED and np.max(near) < _PUSHED / 10,
    )
    for (task, look), arm in product(LOOKS.items(), _DEEP):
        claim = f"A deep memory is better than momentum: {look.title} {_SOURCE} 50)"
        judge(task, (arm, "momentum"), claim, f"{look.outcome}: {_PAIRED}")
    budgets = {"as many steps": outcome, "as much time": in_time}
    for task, (words, of), arm in product(_LARGE, budgets.items(), ("m3", "m3_literal")):
        claim = f"M3 has a lower loss than AdamW and Muon after {words}: {LOOKS[task].title} "
        criterion = f"{LOOKS[task].outcome}: against both, {_PAIRED}"
        judge(task, (arm, "adamw", "muon"), f"{claim}(Nested Learning, Algorithm 1)", criterion, of)
    return found


def draw(settings: Any, records: lab.Records) -> list[Sheet]:
    done = {task: lab.of_subject(records, task, ARMS) for task in settings.tasks}
    done = {task: some for task, some in done.items() if some}
    there = [arm for arm in ARMS if any(arm in some for some in done.values())]
    sheets = [_results(done, there)] if there else []
    for family in FAMILIES:
        own = [a for a in there if ARMS[a].family == family and a not in _REFERENCES]
        if own or (there and family == "plain"):
            sheets.append(_curves(done, family, [*_REFERENCES, *own]))
    return [*sheets, *_memory(records.get("influence", {"held": {}})), *_paths(done)]


def _results(done: dict[str, lab.Records], arms: list[str]) -> Sheet:
    """A row for each optimizer, a column for each task."""
    columns = []
    for task, records in done.items():
        rows = {ARMS[arm].label: [] for arm in arms}
        for arm, record in records.items():
            colour = list(FAMILIES).index(ARMS[arm].family)
            most = record["step"][-1] if task == "toy" else np.inf
            for values, filled in ((outcome(record), True), (in_time(record), False)):
                if values is not None:
                    rows[ARMS[arm].label].append(Dot(_within(values, most), colour, filled))
        words = textwrap.fill(LOOKS[task].outcome, 30)
        columns.append(Column(LOOKS[task].title, words, rows, log=True))
    caption = (
        "Dots are medians over seeds after equal steps, bars their range; open dots below: after "
        "the time that AdamW takes. Less is better. Without a dot: not finite, or the valley not "
        "reached. Bars end at ten times the median. Colours are families."
    )
    return dots("results", columns, "All optimizers, each at its tuned rate", caption)


def _within(values: np.ndarray, most: Any) -> Any:
    """Cut off at `most`, where a seed never got there, and at ten times the median."""
    middle = np.median(np.maximum(values, _LEAST))
    return np.clip(values, _LEAST, min(most, 10 * middle)) if np.isfinite(middle) else None


def _curves(done: dict[str, lab.Records], family: str, arms: list[str]) -> Sheet:
    panels = []
    for task, records in done.items():
        look, lines = LOOKS[task], []
        for arm in (arm for arm in arms if arm in records):
            y = np.asarray(records[arm]["curves"][look.curve])
            y = np.where(y >= CAP, np.nan, np.maximum(y, _LEAST))
            lines.append(Line(records[arm]["step"], y, ARMS[arm].label))
        panels.append(Panel(look.title, "step", look.axis or look.outcome, lines, log="y"))
    caption = (
        f"Each at its tuned rate. {_RANGE}. Orthogonal tasks: the first one is over after a "
        "quarter of the steps."
    )
    panels = [panel for panel in panels if panel.lines]
    return curves(family, panels, f"Optimizers: {FAMILIES[family]}", caption)


def _memory(record: lab.Record) -> list[Sheet]:
    steps, rows, columns = STREAM
    lines = [
        Line(np.arange(steps), np.maximum(values, _FADED), ARMS[arm].label)
        for arm, values in record["held"].items()
    ]
    caption = (
        f"One matrix of {rows} x {columns}, {steps} independent normal gradients; what leaving one "
        f"of them out changes in the last update. {_RANGE}; less than {_FADED:g} is drawn there. "
        "Momentum's line is 0.9 to the power of the age; M3's slow memory holds whole chunks of 32."
    )
    axis = "change of the update, newest = 1"
    panel = Panel("influence", "age of the gradient, steps", axis, lines, log="y")
    return [curves("memory", [panel], "What optimizers remember", caption)]


def _paths(done: dict[str, lab.Records]) -> list[Sheet]:
    """Every step of the first seed's run through the valley."""
    r, panels = np.linspace(-4.5, 4.5, 200), []
    floor = Line(r, r + ALPHA * np.sin(OMEGA * r), "floor of the valley")
    for arm in (arm for arm in _WALKERS if arm in done.get("toy", {})):
        curve = done["toy"][arm]["curves"]
        path = [np.asarray(curve[name])[:, 0] for name in ("r", "theta")]
        steps = Line(path[0], path[1], "steps")
        panels.append(Panel(ARMS[arm].label, "r", "theta", [floor, steps]))
    caption = "Every step of the first seed's run. The valley's floor falls towards its minimum, 0."
    return [curves("paths", panels, "Through the toy valley", caption)]
