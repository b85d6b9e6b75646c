"""What the studies of sequences share: a comparison of every arm on every subject (a task, a
language, a kind of needle), tuned and judged alike."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .. import lab
from ..lab import names, option
from ..lab.figures import Line, Map, Panel, Sheet, maps
from ..lab.options import Preset
from .arms import ARMS, Arm
from .tasks import Task
from .training import POINTS, Recipe, compare, example


@dataclasses.dataclass(frozen=True)
class Comparison(lab.Options):
    """Settings that every comparison has.

    Attributes:
        arms: Of the models compared, separated by commas; or all.
        preset: small is for two cores; full is for a GPU.
        steps: Of every run, a multiple of 20.
        batch_size: Sequences in a step.
        seeds: Runs to judge by.
        tuning_seeds: Runs for each learning rate that is tried.
        trials: Learning rates tried, half a decade apart, and up to two more where the best is the
            smallest or largest.
    """

    arms: tuple[str, ...] = names(ARMS)
    preset: Preset = "small"
    steps: int | None = option(least=POINTS, multiple=POINTS, small=1500, full=10000)
    batch_size: int | None = option(least=1, small=16, full=64)
    seeds: int = option(3, least=1)
    tuning_seeds: int = option(1, least=1)
    trials: int = option(4, least=1)


def sized(
    small: tuple[int, int, int], full: tuple[int, int, int], **more: Any
) -> Callable[[Any], Recipe]:
    """settings -> recipe: the size of each preset (width, depth, heads), at the steps and the batch
    size that are asked for."""

    def recipe(settings: Any) -> Recipe:
        sizes = {"small": small, "full": full}[settings.preset]
        together = settings.seeds
        return Recipe(*sizes, settings.steps, settings.batch_size, together=together, **more)

    return recipe


# Claims

Share = Callable[[lab.Record], np.ndarray]
"""record -> (seeds,), a fraction."""


class Claim(NamedTuple):
    """A claim about the medians over seeds of some arms on one subject.

    Attributes:
        text: the claim, with its source.
        criterion: what would have to be measured.
        arms: that it is about.
        share: of what is measured.
        holds: the arms' medians, in their order -> whether it does.
    """

    text: str
    criterion: str
    arms: tuple[str, ...]
    share: Share
    holds: Callable[..., bool]


def reaches(text: str, where: str, share: Share, least: float, *arms: str) -> Claim:
    """Each arm's median is at least `least`."""
    criterion = f"median over seeds, {where}: at least {100 * least:g} %"
    return Claim(text, criterion, arms, share, lambda *each: min(each) >= least)


def stays_below(text: str, where: str, share: Share, most: float, *arms: str) -> Claim:
    """Each arm's median is at most `most`."""
    criterion = f"median over seeds, {where}: at most {100 * most:g} %"
    return Claim(text, criterion, arms, share, lambda *each: max(each) <= most)


def ahead(text: str, where: str, share: Share, by: float, arm: str, *others: str) -> Claim:
    """An arm's median is so much above those of all the others; where `by` is below 0, it is not
    further below the best of them than that."""
    far = f"{100 * abs(by):g} points"
    how = f"at least {far} above" if by > 0 else f"not more than {far} below"
    rivals = " and ".join(ARMS[other].label for other in others)
    criterion = f"median over seeds, {where}: {ARMS[arm].label} {how} {rivals}"
    return Claim(text, criterion, (arm, *others), share, lambda own, *all_: own >= max(all_) + by)


def tested(test: str, what: str) -> Share:
    """A number of a test; what was not finite counts as nothing right."""
    return lambda record: np.nan_to_num(np.asarray(record["tests"][test][what], float))


# Figures

Done = Mapping[str, Mapping[str, lab.Record]]
"""Label of a subject -> label of an arm -> record, of all that is finished."""


def panels(
    done: Done,
    curve: Callable[[lab.Record], tuple[Any, Any]],
    x: str,
    y: str = "right (%)",
    log: str = "",
) -> list[Panel]:
    """A panel for each subject, a line for each arm; `curve` makes of a record x, (points,), and
    fractions, (points, seeds), which are drawn in percent."""

    def line(arm: str, at: Any, shares: Any) -> Line:
        return Line(at, 100 * np.asarray(shares, float), arm)

    return [
        Panel(label, x, y, [line(arm, *curve(record)) for arm, record in some.items()], log=log)
        for label, some in done.items()
    ]


def place_maps(done: Done, files: Mapping[str, str], tests: Mapping[str, str]) -> list[Sheet]:
    """A figure for each subject, a map for each arm: tests across, groups of places down, coloured
    by the share of sequences with every answer right. Names of the figures' files are given by the
    subject's label, and what stands below a column by the test's name."""
    made, axes = [], {"x": list(tests.values()), "y": ["first", "last"], "label": "right (%)"}
    caption = "Sequences with every answer right, median over seeds, by length and by place."
    for label, some in done.items():
        panels = []
        for arm, record in some.items():
            whole = [record["tests"][test]["whole_by_place"] for test in tests]
            panels.append(Map(arm, 100 * np.median(np.asarray(whole, float), axis=2).T))
        title = f"Where the answer lies: {label}"
        made.append(maps(files[label], panels, title, caption, limits=(0, 100), **axes))
    return made


class Subjects(NamedTuple):
    """What models are compared on.

    Attributes:
        setting: that names them.
        head: of their column in the table.
        labels: of all that there are.
        task_of: (settings, subject) -> what is learned.
        claims: (settings, subject) -> what is claimed of it.
    """

    setting: str
    head: str
    labels: Mapping[str, str]
    task_of: Callable[[Any, str], Task]
    claims: Callable[[Any, str], Iterable[Claim]]


def study(
    title: str,
    lead: str,
    settings: type,
    subjects: Subjects,
    recipe_of: Callable[[Any], Recipe],
    table: Callable[[Any], tuple[Sequence[lab.Measure], str]],
    draw: Callable[[Any, Done], Sequence[Sheet]],
    arm_of: Callable[[str], Arm] = ARMS.__getitem__,
    best: str = "",
) -> lab.Study:
    """A comparison as a study: a stage "subject arm" for each arm on each subject.

    Args:
        title: see `Study`.
        lead: see `Study`.
        settings: a `Comparison`.
        subjects: what models are compared on.
        recipe_of: settings -> how they learn.
        table: settings -> what is reported of every arm, and the caption.
        draw: (settings, what is finished) -> figures.
        arm_of: name -> model.
        best: see `lab.numbers`.
    """
    labels, task_of = subjects.labels, subjects.task_of

    def asked(s: Any) -> Sequence[str]:
        return getattr(s, subjects.setting)

    def stages(s: Any) -> dict[str, lab.Stage]:
        runs = s.trials, s.tuning_seeds, s.seeds
        return {
            f"{name} {arm}": partial(compare, task_of(s, name), arm_of(arm), recipe_of(s), *runs)
            for name in asked(s)
            for arm in s.arms
        }

    def find(s: Any, records: lab.Records) -> lab.Findings:
        (measures, caption), cases, made = table(s), {}, []
        for name in asked(s):
            done = lab.of_subject(records, name, s.arms)
            cases |= {(labels[name], ARMS[arm].label): record for arm, record in done.items()}
            for c in subjects.claims(s, name):
                values = {ARMS[a].label: c.share(done[a]) if a in done else None for a in c.arms}
                holds = lab.medians(c.holds)
                made.append(lab.judge(c.text, c.criterion, values, holds, of=labels[name]))

        def facts(record: lab.Record) -> dict[str, Any]:
            return {"rate": lab.rate_tuned(record), "parameters": record["parameters"]}

        found = lab.numbers((subjects.head, "model"), cases, measures, caption, facts, best)
        return lab.Findings(found, made)

    def shown(s: Any, records: lab.Records) -> Sequence[Sheet]:
        done = {n: lab.of_subject(records, n, s.arms) for n in asked(s)}
        by_label = {
            labels[name]: {ARMS[arm].label: record for arm, record in some.items()}
            for name, some in done.items()
            if some
        }
        return draw(s, by_label)

    def nest(s: Any) -> lab.Example:
        return example(task_of(s, asked(s)[0]), arm_of(s.arms[0]), recipe_of(s))

    return lab.Study(title, lead, settings, stages, find, shown, nest)
