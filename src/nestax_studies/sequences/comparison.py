"""A comparison: every arm on every subject (a task, a language, a kind of needle), tuned alike."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .. import lab
from ..lab import names, option
from ..lab.figures import Column, Dot, Line, Map, Panel, Sheet, maps
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

    Raises:
        SettingsError: a value that makes no sense.
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
        width, depth, heads = {"small": small, "full": full}[settings.preset]
        steps, batch_size, together = settings.steps, settings.batch_size, settings.seeds
        return Recipe(width, depth, heads, steps, batch_size, together=together, **more)

    return recipe


class Claim(NamedTuple):
    """A claim about the medians over seeds of some arms on one subject.

    Attributes:
        text: the claim, with its source.
        criterion: what would have to be measured.
        arms: that it is about.
        share: record -> (seeds,), a fraction.
        holds: the arms' medians, in their order -> whether it does.
    """

    text: str
    criterion: str
    arms: tuple[str, ...]
    share: Callable[[lab.Record], np.ndarray]
    holds: Callable[..., bool]


Share = Callable[[lab.Record], np.ndarray]


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


def find(
    settings: Any,
    records: lab.Records,
    heads: tuple[str, str],
    labels: Mapping[str, str],
    measures: Sequence[lab.Measure],
    caption: str,
    claims: Callable[[str], Iterable[Claim]],
    best: str = "",
) -> lab.Findings:
    """The table, a row for each arm on each subject, and every claim about every subject.

    Args:
        settings: what was asked for.
        records: of the finished stages.
        heads: of the columns of subjects and arms.
        labels: of the subjects that were asked for.
        measures, caption, best: see `lab.numbers`.
        claims: about a subject.
    """
    cases, made = {}, []
    for subject, label in labels.items():
        done = lab.of_subject(records, subject, settings.arms)
        cases |= {(label, ARMS[arm].label): record for arm, record in done.items()}
        for c in claims(subject):
            values = {ARMS[a].label: c.share(done[a]) if a in done else None for a in c.arms}
            made.append(lab.judge(c.text, c.criterion, values, lab.medians(c.holds), of=label))
    return lab.Findings(lab.numbers(heads, cases, measures, caption, _facts, best), made)


def _facts(record: lab.Record) -> dict[str, Any]:
    return {"rate": lab.rate_tuned(record), "parameters": record["parameters"]}


def panels(
    settings: Comparison,
    records: lab.Records,
    subjects: Mapping[str, str],
    curve: Callable[[lab.Record], tuple[Any, Any]],
    x: str,
    y: str = "right (%)",
    log: str = "",
) -> list[Panel]:
    """A panel for each subject, a line for each arm.

    Args:
        settings: what was asked for.
        records: of the finished stages.
        subjects: subject -> label.
        curve: record -> x (points,) and fractions (points, seeds), drawn in percent.
        x, y: of the axes.
        log: which axes are logarithmic.
    """
    made = []
    for subject, label in subjects.items():
        lines = [
            Line(curve(record)[0], 100 * np.asarray(curve(record)[1], float), ARMS[arm].label)
            for arm, record in lab.of_subject(records, subject, settings.arms).items()
        ]
        made += [Panel(label, x, y, lines, log=log)] if lines else []
    return made


def columns(
    settings: Comparison,
    records: lab.Records,
    subjects: Mapping[str, str],
    share: Callable[[lab.Record], np.ndarray],
) -> list[Column]:
    """Axes for each subject, a dot for each arm, for `lab.figures.dots`; an arm has one colour."""
    made = []
    for subject, label in subjects.items():
        done = lab.of_subject(records, subject, settings.arms)
        rows = {ARMS[a].label: [Dot(100 * share(done[a]), list(ARMS).index(a))] for a in done}
        made += [Column(label, "right (%)", rows, (-3, 103))] if rows else []
    return made


def place_maps(
    settings: Any, records: lab.Records, labels: Mapping[str, str], tests: Mapping[str, str]
) -> list[Sheet]:
    """A figure for each subject, a map for each arm: tests across, groups of places down, coloured
    by the share of sequences with every answer right.

    Args:
        settings: what was asked for.
        records: of the finished stages.
        labels: subject -> label.
        tests: name of a test -> what stands below its column.
    """
    made, axes = [], {"x": list(tests.values()), "y": ["first", "last"], "label": "right (%)"}
    caption = "Sequences with every answer right, median over seeds, by length and by place."
    for subject, label in labels.items():
        panels = []
        for arm, record in lab.of_subject(records, subject, settings.arms).items():
            whole = [record["tests"][test]["whole_by_place"] for test in tests]
            values = 100 * np.median(np.asarray(whole, float), axis=2).T
            panels.append(Map(ARMS[arm].label, values))
        title = f"Where the answer lies: {label}"
        made += [maps(subject, panels, title, caption, limits=(0, 100), **axes)] if panels else []
    return made


def tested(test: str, what: str) -> Callable[[lab.Record], np.ndarray]:
    """record -> (seeds,): a number of a test; what was not finite counts as nothing right."""
    return lambda record: np.nan_to_num(np.asarray(record["tests"][test][what], float))


def study(
    title: str,
    lead: str,
    settings: type,
    subjects: str,
    task_of: Callable[[Any, str], Task],
    recipe_of: Callable[[Any], Recipe],
    find: Callable[[Any, lab.Records], lab.Findings],
    draw: Callable[[Any, lab.Records], Sequence[Sheet]],
    arm_of: Callable[[str], Arm] = ARMS.__getitem__,
) -> lab.Study:
    """A comparison as a study: a stage "subject arm" for each arm on each subject.

    Args:
        title, lead, settings, find, draw: see `Study`.
        subjects: the setting that names them.
        task_of: (settings, subject) -> what is learned.
        recipe_of: settings -> how.
        arm_of: name -> model.
    """

    def stages(s: Any) -> dict[str, lab.Stage]:
        runs = s.trials, s.tuning_seeds, s.seeds
        return {
            f"{name} {arm}": partial(compare, task_of(s, name), arm_of(arm), recipe_of(s), *runs)
            for name in getattr(s, subjects)
            for arm in s.arms
        }

    def shown(s: Any) -> lab.Example:
        return example(task_of(s, getattr(s, subjects)[0]), arm_of(s.arms[0]), recipe_of(s))

    return lab.Study(title, lead, settings, stages, find, draw, shown)
