"""Runs side by side: the settings that differ, the measures of every arm, the claims."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nestax.runs import RunError, Section, Table, Text, write_report

from . import summary as summaries
from .page import UNFINISHED, aligned, apart, badge, hung, labelled, legend, mark, shown

_ABSENT = ""  # of a run that has no such setting, measure or claim
_ROWS = 40  # measures that the terminal shows
_MIXED = "These runs are of different studies; what has one name need not be the same thing."
_FEW = 3  # runs beside one another for which there is room for ranges and words


@dataclass(frozen=True)
class Run:
    """A run that is compared.

    Attributes:
        name: a letter.
        path: of its summary.
        summary: see `summary`.
    """

    name: str
    path: Path
    summary: Mapping[str, Any]


def read(paths: Sequence[Path]) -> list[Run]:
    """The summaries of runs.

    Args:
        paths: folders of runs, or their summary.json; two or more.

    Raises:
        RunError: fewer than two, more than 26, or one that cannot be read.
    """
    if not 2 <= len(paths) <= 26:
        raise RunError(f"compare needs 2 to 26 runs, got {len(paths)}: nestax compare RUN RUN")
    found = []
    for at, path in enumerate(paths):
        file = path / "summary.json" if path.is_dir() else path
        found.append(Run(chr(ord("A") + at), file, summaries.read(path)))
    return found


# What is compared


def settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Setting -> its value in each run, of those that are not the same in all."""
    every = [run.summary["settings"] for run in runs]
    names = dict.fromkeys(name for values in every for name in values)
    found = {}
    for name in names:
        exact = [json.dumps(v[name], sort_keys=True) if name in v else _ABSENT for v in every]
        if len(set(exact)) > 1:
            texts = [shown(values[name]) if name in values else _ABSENT for values in every]
            found[name] = texts if len(set(texts)) == len(set(exact)) else exact
    return found


def measures(runs: Sequence[Run], ranges: bool = True) -> dict[tuple[str, str], list[str]]:
    """(arm, measure with its unit) -> median (least to most) in each run.

    Args:
        runs: what is compared.
        ranges: whether the least and the most are shown.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for at, run in enumerate(runs):
        for arm, one in run.summary["arms"].items():
            for name, measure in one["measures"].items():
                head = f"{name} ({measure['unit']})" if measure["unit"] else name
                row = found.setdefault((arm, head), [_ABSENT] * len(runs))
                row[at] = _spread(measure["values"], ranges)
    return found


def claims(runs: Sequence[Run]) -> dict[tuple[str, str], list[str]]:
    """(claim, what it was judged for) -> the verdict in each run."""
    found: dict[tuple[str, str], list[str]] = {}
    for at, run in enumerate(runs):
        for claim in run.summary["claims"]:
            row = found.setdefault((claim["claim"], claim["of"]), [_ABSENT] * len(runs))
            row[at] = claim["verdict"]
    return found


def _spread(values: Sequence[int | float | None], ranges: bool) -> str:
    middle, low, high = summaries.spread_of(values)
    if not np.isfinite(middle):
        return "not finite"
    told = f"{middle:.4g}"
    return f"{told} ({low:.3g} to {high:.3g})" if ranges and low < high else told


# As text


def lines(runs: Sequence[Run], columns: int = 80) -> list[str]:
    """The comparison for a terminal of so many columns."""
    heads, told, few = [run.name for run in runs], [], len(runs) <= _FEW
    for run in runs:
        told += hung(f"{run.name}: ", _says(run), columns)
    told += hung("", _MIXED, columns) if _mixed(runs) else []
    different, measured, judged = settings(runs), measures(runs, few), claims(runs)
    told += ["", "Settings that differ" if different else "All settings are the same."]
    if different:
        room = max(12, (columns - 20) // len(runs) - 2)
        rows = [(name, apart(row, room)) for name, row in different.items()]
        told += aligned(heads, rows, columns)
    if measured:
        told += ["", f"Measures: median{' (least to most)' * few} over seeds"]
        some, rows, arm = list(measured.items())[:_ROWS], [], ""
        for (own, name), row in some:
            rows += [(own, [""] * len(runs))] if own != arm else []
            rows.append((f"  {name}", row))
            arm = own
        told += aligned(heads, rows, columns)
        if len(measured) > len(some):
            told.append(f"… and {len(measured) - len(some)} more; all of them: --out compare.html")
    if judged:
        title = "Claims"
        if len(judged) > _ROWS // 2:
            moved = {key: words for key, words in judged.items() if len(set(words)) > 1}
            title += f": {len(judged)}, of which {len(moved)} differ" + ":" * bool(moved)
            judged = dict(list(moved.items())[:_ROWS])
        rows = [
            (labelled(*key), [mark(w) if w else "" for w in row]) for key, row in judged.items()
        ]
        told += ["", title]
        told += [*aligned(heads, rows, columns), legend(_words(judged))] if rows else []
    return told


def _mixed(runs: Sequence[Run]) -> bool:
    return len({run.summary["study"] for run in runs}) > 1


def _words(judged: Mapping[Any, Sequence[str]]) -> list[str]:
    return [word for row in judged.values() for word in row if word]


def _says(run: Run) -> str:
    """A run in a line."""
    known = run.summary
    unfinished = "" if known["complete"] else ", not finished"
    return f"{run.path.parent} ({known['study']}, nestax {known['nestax']}{unfinished})"


# As a page


def write(path: Path, runs: Sequence[Run]) -> None:
    """The comparison as a page (HTML)."""
    heads, listed = [run.name for run in runs], []
    for run in runs:
        known = run.summary
        answer = known["answer"] + ("" if known["complete"] else f" {UNFINISHED}")
        listed.append([run.name, str(run.path.parent), known["study"], known["nestax"], answer])
    different = [[name, *row] for name, row in settings(runs).items()]
    measured = [[*key, *row] for key, row in measures(runs).items()]
    judged = claims(runs)
    badges = [
        [claim, of or None, *(badge(w, len(runs) <= _FEW) if w else "" for w in row)]
        for (claim, of), row in judged.items()
    ]
    over, marks = "Median (least to most) over seeds.", f"{legend(_words(judged))}."
    tables = {
        "Runs": Table(["run", "folder", "study", "nestax", "answer"], listed),
        "Settings that differ": Table(["setting", *heads], different),
        "Measures": Table(["arm", "measure", *heads], measured, over, labels=2),
        "Claims": Table(["claim", "judged for", *heads], badges, marks),
    }
    sections = [
        Section(title, [table if table.rows else Text("None.")]) for title, table in tables.items()
    ]
    questions = " ".join(dict.fromkeys(run.summary["question"] for run in runs))
    write_report(path, "Runs compared", _MIXED * _mixed(runs), sections, questions)
