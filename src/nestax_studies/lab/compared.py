"""Runs side by side: the settings that differ, the measures of every arm, the claims."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nestax.runs import Cell, RunError, Section, Table, Text, write_report

from . import summary as summaries
from .claims import short
from .page import UNFINISHED, aligned, badge, legend, mark, shown

_ABSENT = ""  # of a run that has no such setting, measure or claim
_ROWS = 40  # measures that the terminal shows


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
    names = dict.fromkeys(name for run in runs for name in run.summary["settings"])
    found = {
        name: [
            shown(values[name]) if name in values else _ABSENT
            for values in (run.summary["settings"] for run in runs)
        ]
        for name in names
    }
    return {name: values for name, values in found.items() if len(set(values)) > 1}


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
    heads = [run.name for run in runs]
    told = []
    for run in runs:
        told += textwrap.wrap(f"{run.name}: {_says(run)}", columns, subsequent_indent="   ")
    different = settings(runs)
    told += ["", "Settings that differ" if different else "All settings are the same."]
    if different:
        rows = [
            (name, [_cut(v, _room(runs, columns)) for v in row]) for name, row in different.items()
        ]
        told += aligned(heads, rows, columns)
    measured = measures(runs, ranges=len(runs) <= 3)
    if measured:
        told += ["", f"Measures: median{' (least to most)' * (len(runs) <= 3)} over seeds"]
        arm = ""
        some = list(measured.items())[:_ROWS]
        rows = []
        for (own, name), row in some:
            rows += [(own, [""] * len(runs))] if own != arm else []
            rows.append((f"  {name}", row))
            arm = own
        told += aligned(heads, rows, columns)
        if len(measured) > len(some):
            told.append(f"… and {len(measured) - len(some)} more; all of them: --out compare.html")
    judged = claims(runs)
    if judged:
        rows = [
            (short(claim) + (f" [{of}]" if of else ""), [mark(w) if w else "" for w in row])
            for (claim, of), row in judged.items()
        ]
        moved = [
            row for row, words in zip(rows, judged.values(), strict=True) if len(set(words)) > 1
        ]
        words = [word for row in judged.values() for word in row if word]
        if len(rows) > _ROWS // 2:
            told += ["", f"Claims: {len(rows)}, of which {len(moved)} differ" + ":" * bool(moved)]
            rows = moved[:_ROWS]
        else:
            told += ["", "Claims"]
        told += [*aligned(heads, rows, columns), legend(words)] if rows else []
    return told


def _room(runs: Sequence[Run], columns: int) -> int:
    return max(12, (columns - 20) // len(runs) - 2)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _says(run: Run) -> str:
    """A run in a line."""
    known = run.summary
    unfinished = "" if known["complete"] else ", not finished"
    return f"{run.path.parent} ({known['study']}, nestax {known['nestax']}{unfinished})"


# As a page


def write(path: Path, runs: Sequence[Run]) -> None:
    """The comparison as a page (HTML)."""
    heads = [run.name for run in runs]
    listed = Table(
        ["run", "folder", "study", "nestax", "answer"],
        [
            [r.name, str(r.path.parent), r.summary["study"], r.summary["nestax"], _answer(r)]
            for r in runs
        ],
    )
    different = [[name, *row] for name, row in settings(runs).items()]
    judged: list[list[Cell]] = [
        [claim, of or None, *(badge(word, len(runs) <= 3) if word else "" for word in row)]
        for (claim, of), row in claims(runs).items()
    ]
    words = [word for row in claims(runs).values() for word in row if word]
    measured = [[*key, *row] for key, row in measures(runs).items()]
    parts = [
        Section("Runs", [listed]),
        Section(
            "Settings that differ",
            [Table(["setting", *heads], different) if different else Text("All are the same.")],
        ),
        Section(
            "Measures",
            [
                Table(
                    ["arm", "measure", *heads],
                    measured,
                    "Median (least to most) over seeds.",
                    labels=2,
                )
            ]
            if measured
            else [],
        ),
        Section(
            "Claims",
            [Table(["claim", "judged for", *heads], judged, f"{legend(words)}.", labels=1)]
            if judged
            else [],
        ),
    ]
    questions = " ".join(dict.fromkeys(run.summary["question"] for run in runs))
    write_report(path, "Runs compared", "", [part for part in parts if part.body], questions)


def _answer(run: Run) -> str:
    return run.summary["answer"] + ("" if run.summary["complete"] else f" {UNFINISHED}")
