"""Which models recall? Multi-query associative recall, and the six tasks called MAD.

Sources: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), its tables on MAD and on
recall; the tasks are of Arora et al. (2024) and of Poli et al. (2024), see `tasks`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import lab, sequences
from ..lab import names
from ..lab.figures import Column, Dot, Sheet, curves, dots
from ..sequences import Claim, Task, ahead, reaches
from .tasks import GROUPS, TASKS

BEHIND, ERASED, KNOWN = 0.01, 0.1, 0.99  # of answers: no difference; a difference; all
_MAD = ("recall", "fuzzy", "copying", "compression", "memorization")  # that paper's table
_SOLVED = ("recall", "copying")  # 99 % and more there
answered = sequences.tested("test", "accuracy")


@dataclass(frozen=True)
class Settings(sequences.Comparison):
    """Which models recall?

    Attributes:
        tasks: Of mqar, recall, fuzzy, noisy, copying, compression and memorization, separated by
            commas; or all.
        preset: small is for two cores; full has the lengths of the published tasks, for a GPU.
    """

    tasks: tuple[str, ...] = names(TASKS)
    batch_size: int | None = lab.option(least=1, small=16, full=128)


def task_of(settings: Any, name: str) -> Task:
    """A task at the size that the settings ask for."""
    return TASKS[name].make(*getattr(TASKS[name], settings.preset))


def claims(settings: Any, task: str) -> list[Claim]:
    """The criteria stood here before the recorded runs."""
    paper, where = "(Nested Learning, MAD)", "right answers"
    text = (
        f"Hope is behind neither Titans nor the Transformer {paper if task in _MAD else '(ours)'}"
    )
    made = [ahead(text, where, answered, -BEHIND, "hope", "titans", "transformer")]
    if task in _SOLVED:
        made.append(reaches(f"Hope solves it {paper}", where, answered, KNOWN, "hope"))
    if task == "mqar":
        text = "A memory that erases recalls more than one that only adds (Yang et al. 2024)"
        made.append(ahead(text, where, answered, ERASED, "delta", "linear_attention"))
        text = "Attention recalls any number of pairs (Arora et al. 2024)"
        made.append(reaches(text, where, answered, KNOWN, "transformer"))
    return made


def table(settings: Any) -> tuple[list[lab.Measure], str]:
    whole = lab.share("whole sequences right", sequences.tested("test", "whole"))
    return [lab.share("answers right", answered), whole], (
        "Median (least to most) over seeds, the best first: right answers, and sequences with "
        "every answer right. Rates were chosen by right answers, on seeds of their own."
    )


def draw(settings: Any, done: sequences.Done) -> list[Sheet]:
    shares = {
        label: {arm: [Dot(100 * answered(record))] for arm, record in some.items()}
        for label, some in done.items()
    }
    columns = [Column(label, "right (%)", rows, (-3, 103)) for label, rows in shares.items()]
    caption = "Right answers at the tuned rate: dots are medians over seeds, bars their range."
    sheets = [dots("results", columns, "All models in all tasks", caption)]
    seeds, mqar = "medians over seeds, bands their range.", TASKS["mqar"]
    if mqar.label in done:
        pairs = getattr(mqar, settings.preset)[1] * (np.arange(GROUPS) + 1) / GROUPS
        place = lambda r: (pairs, r["tests"]["test"]["by_place"])  # noqa: E731
        panels = sequences.panels({mqar.label: done[mqar.label]}, place, "pairs, at most")
        caption = f"Right answers by the number of pairs; {seeds}"
        sheets.append(curves("pairs", panels, "More to keep", caption))
    along = sequences.panels(done, lambda r: (r["step"], r["accuracy"]), "step")
    caption = f"Right answers on fresh sequences, means over a twentieth of the run; {seeds}"
    return [*sheets, curves("training", along, "Along training", caption)]


LEAD = """Models learn to answer by what they have read, from fresh sequences, with their learning
rates tuned alike. A memory of fixed size has to choose what it keeps; attention keeps
everything."""
RECIPE = sequences.sized(small=(32, 2, 2), full=(128, 2, 4), centre=10**-2.25)
LABELS = {name: task.label for name, task in TASKS.items()}
SUBJECTS = sequences.Subjects("tasks", "task", LABELS, task_of, claims)
STUDY = sequences.study(
    "Recall", LEAD, Settings, SUBJECTS, RECIPE, table, draw, best="answers right"
)
