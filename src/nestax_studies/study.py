"""Studies: experiments made of stages, each of which leaves one record; what they have in common.

A study is a file with settings, stages, a summary with verdicts, and figures. A stage (an arm, a
seed, a solver) is done whole or not at all; going on with an interrupted run does the stages that
are missing.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nestax.levels import Nest, State
from nestax.runs import (
    Picture,
    Progress,
    RunError,
    RunFolder,
    Section,
    Table,
    Text,
    refusals,
    write_report,
)
from nestax.runs.machine import machine

Records = dict[str, dict[str, Any]]
Stage = Callable[[Callable[[str], None]], dict[str, Any]]

SUPPORTED, NOT_SUPPORTED, NOT_MEASURED = "supported", "not supported", "not measured"
_TUNING = 10_000  # seeds from here on are for tuning
BEYOND = 2  # learning rates tried beyond an edge where the best one lies, at most
_BADGES = {SUPPORTED: "good", NOT_SUPPORTED: "bad", NOT_MEASURED: "muted"}


def tuning(seed: int) -> int:
    """The number of a seed that is tuned by, not judged by."""
    return _TUNING + seed


def is_tuning(seed: int) -> bool:
    """Whether a seed is one to tune by."""
    return seed >= _TUNING


def beyond(rates: Iterable[float], best: float, decades: float) -> list[float]:
    """The learning rate to try next, so many decades away, if the best of those tried is the
    smallest or the largest of them; none where only one was tried."""
    tried = set(rates)
    step = (best == max(tried)) - (best == min(tried))
    return [best * 10 ** (decades * step)] if step else []


def tuned(
    first: Sequence[Any],
    attempt: Callable[[Sequence[Any]], Sequence[Any]],
    best_of: Callable[[Mapping[Any, Any]], Any],
    further: Callable[[Mapping[Any, Any], Any], Sequence[Any]],
) -> tuple[dict[Any, Any], Any]:
    """Tries settings, and then, at most `BEYOND` times, what the best so far asks for.

    Args:
        first: settings to try, hashable.
        attempt: settings -> what is found of each.
        best_of: (what was found, by setting) -> the best setting.
        further: (the same, the best) -> settings to try next, such as `beyond` names.

    Returns:
        What was found, by setting, in the order in which they were tried; and the best setting.
    """
    tried, best, fresh = {}, None, first
    for _ in range(1 + BEYOND):
        if fresh:
            tried |= dict(zip(fresh, attempt(fresh), strict=True))
            best = best_of(tried)
            fresh = further(tried, best)
    return tried, best


def parameters(model: Any) -> int:
    """How many numbers of a model, or of its shapes, can be trained."""
    return sum(
        leaf.size
        for leaf in jax.tree.leaves(model)
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)
    )


def spread(values: Sequence[float] | np.ndarray, digits: int = 1, scale: float = 100) -> str:
    """Median (least to most) over seeds, of fractions in percent unless scaled otherwise."""
    low, middle, high = scale * np.quantile(values, (0, 0.5, 1))
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def rate_tuned(record: Mapping[str, Any]) -> str:
    """A record's learning rate, and whether it is the smallest or largest tried."""
    return f"{record['rate']:.2g}" + " (edge)" * record["edge"]


def clearly(difference: np.ndarray, least: float) -> bool | None:
    """Whether differences paired over seeds are in favour: their median is at least `least`, and at
    least nine in ten are above 0. None if one is not known."""
    if not np.isfinite(difference).all():
        return None
    wins = np.sum(difference > 0)
    return bool(np.median(difference) >= least and wins >= 0.9 * len(difference))


@dataclass(frozen=True)
class Verdict:
    """A claim put to the test.

    Attributes:
        claim: in words, with its source.
        criterion: what would have to be measured for it to hold.
        measured: what was, with its spread.
        holds: whether it did; None if the run lacks what it takes.
    """

    claim: str
    criterion: str
    measured: str
    holds: bool | None

    @property
    def word(self) -> str:
        return NOT_MEASURED if self.holds is None else SUPPORTED if self.holds else NOT_SUPPORTED


@dataclass(frozen=True)
class Findings:
    """What a study makes of its records.

    Attributes:
        summary: every number that is printed, JSON-able.
        table: the numbers in columns.
        verdicts: the claims judged.
        more: sections of the report after the figures.
    """

    summary: dict[str, Any]
    table: Table
    verdicts: Sequence[Verdict] = ()
    more: Sequence[Section] = ()


@dataclass(frozen=True)
class Example:
    """A study's nest, for a look at its levels and flows.

    Attributes:
        nest, state: where to look.
        level: the level whose gradient the flows give; None if none has a flow.
        flows: name -> flow, to compare.
    """

    nest: Nest
    state: State
    level: str | None
    flows: Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """An experiment in stages; `run` and `report` are what the command line calls.

    Attributes:
        title, lead: of the report.
        stages: settings -> name -> stage. A stage is told how to say what it does, does it, and
            returns its record, JSON-able.
        find: (settings, records) -> Findings; records hold the finished stages, by name.
        draw: (settings, records, directory) -> pictures.
        example: settings -> the nest it is about, small, with a state and flows to compare.
    """

    title: str
    lead: str
    stages: Callable[[Any], Mapping[str, Stage]]
    find: Callable[[Any, Records], Findings]
    draw: Callable[[Any, Records, Path], list[Picture]]
    example: Callable[[Any], Example]

    def run(self, settings: Any, folder: RunFolder) -> None:
        """Does the stages that the folder lacks.

        Raises:
            RunError: the folder cannot be written, a file of it was changed, or a loss is not
                finite. Finished stages stay.
        """
        done = _records(folder)
        stages = self.stages(settings)
        facts = _facts(folder) or {"machine": machine(), "seconds": {}}
        with Progress(len(stages)) as progress:
            for number, (name, stage) in enumerate(stages.items()):
                if name in done:
                    continue

                def say(text: str, number: int = number, name: str = name) -> None:
                    progress.update(number, f"{name}  {text}")

                say("begins")
                began = time.monotonic()
                try:
                    record = stage(say)
                except FloatingPointError as error:
                    raise RunError(f"{name}: {error}") from error
                facts["seconds"][name] = time.monotonic() - began
                folder.write_json("facts.json", facts)
                folder.append({"stage": name, **record})
                progress.note(f"{name}: {facts['seconds'][name]:.1f} s")
            progress.update(len(stages), "done")

    def report(self, settings: Any, folder: RunFolder) -> list[str]:
        """Writes summary.json, figures/ and report.html; returns the lines worth printing.

        Raises:
            RunError: there is no measurement yet.
        """
        records = _records(folder)
        if not records:
            raise RunError(
                f"{folder.path} holds no measurement yet; go on with: nestax resume {folder.path}"
            )
        found = self.find(settings, records)
        facts = _facts(folder)
        complete = set(self.stages(settings)) <= set(records)
        verdicts = [
            {"claim": v.claim, "criterion": v.criterion, "measured": v.measured, "verdict": v.word}
            for v in found.verdicts
        ]
        summary = {
            "complete": complete,
            "settings": folder.settings,
            **found.summary,
            "verdicts": verdicts,
            **facts,
        }
        folder.write_json("summary.json", summary)
        with refusals(folder.path):
            directory = folder.path / "figures"
            directory.mkdir(exist_ok=True)
            pictures = self.draw(settings, records, directory)
            judged = Table(
                ["claim", "criterion", "measured", "verdict"],
                [list(v.values()) for v in verdicts],
                badges=_BADGES,
            )
            seconds = sum(facts.get("seconds", {}).values())
            made = "\n".join(f"- {key}: {value}" for key, value in facts.get("machine", {}).items())
            write_report(
                folder.path / "report.html",
                self.title,
                self.lead if complete else f"The run is not finished.\n\n{self.lead}",
                [
                    Section("Verdicts", [judged]),
                    Section("Numbers", [found.table]),
                    Section("Figures", pictures),
                    *found.more,
                    Section("How it was made", [Text(f"{seconds:.0f} s on:\n\n{made}")]),
                ],
            )
        return [f"{v.word:14} {v.claim}\n{'':14} {v.measured}" for v in found.verdicts]


def _facts(folder: RunFolder) -> dict[str, Any]:
    return folder.read_json("facts.json", "machine", "seconds")


def _records(folder: RunFolder) -> Records:
    """The finished stages, by name."""
    return {str(record["stage"]): record for record in folder.metrics("stage")}
