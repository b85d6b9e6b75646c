"""A report for its reader: summary.json, report.html, and what the terminal shows.

Question, answer, headline figure, claims, further figures, numbers, and folded away what only some
readers want.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nestax import __version__
from nestax.runs import Details, Picture, RunFolder, Section, Table, Text, write_report

from .claims import NOT_MEASURED, NOT_SUPPORTED, SUPPORTED, Verdict, answer
from .records import Numbers, listed

BADGES = {SUPPORTED: "good", NOT_SUPPORTED: "bad", NOT_MEASURED: "muted", "artefact": "warn"}
_UNFINISHED = "The run is not finished; only finished stages are judged."


def summarized(
    schema: int,
    folder: RunFolder,
    complete: bool,
    numbers: Numbers,
    verdicts: Sequence[Verdict],
    more: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Every number that the report prints, JSON-able."""
    return {
        "schema": schema,
        "study": folder.experiment,
        "nestax": __version__,
        "complete": complete,
        "answer": answer(verdicts),
        "settings": folder.settings,
        "machine": facts.get("machine", {}),
        "seconds": facts.get("seconds", {}),
        "arms": numbers.summary(),
        "claims": [
            {
                "claim": v.claim,
                "of": v.of,
                "criterion": v.criterion,
                "measured": v.measured,
                "spread": {label: _spread(values) for label, values in v.values.items()},
                "verdict": v.word,
            }
            for v in verdicts
        ],
        "more": dict(more),
    }


def _spread(values: Any) -> dict[str, Any]:
    every = sorted(float(v) for v in values)
    middle = len(every) // 2
    median = every[middle] if len(every) % 2 else (every[middle - 1] + every[middle]) / 2
    return listed({"least": every[0], "median": median, "most": every[-1]})


def claims_table(verdicts: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each claim, a column for each arm or task that claims were judged for."""
    columns = list(dict.fromkeys(v["of"] for v in verdicts))
    rows: dict[str, dict[str, str]] = {}
    for v in verdicts:
        rows.setdefault(v["claim"], {})[v["of"]] = v["verdict"]
    cells = [[claim, *(found.get(of, "") for of in columns)] for claim, found in rows.items()]
    return Table(["claim", *(of or "verdict" for of in columns)], cells, badges=BADGES)


def write(
    path: Path,
    title: str,
    lead: str,
    summary: Mapping[str, Any],
    numbers: Table,
    verdicts: Sequence[Verdict],
    pictures: Sequence[Picture],
    sections: Sequence[Section],
) -> None:
    """Writes the report."""
    claims = summary["claims"]
    heads = ["claim", "of", "criterion", "measured", "verdict"]
    judged = Table(heads, [[v[head] for head in heads] for v in claims], badges=BADGES)
    machine = "\n".join(f"- {key}: {value}" for key, value in summary["machine"].items())
    seconds = sum(_seconds(value) for value in summary["seconds"].values())
    settings = [[key, _shown(value)] for key, value in summary["settings"].items()]
    parts = [
        Section("Answer", [Text(summary["answer"]), *pictures[:1]]),
        Section(
            "Claims", [claims_table(claims), Details("Criteria, and what was measured", [judged])]
        ),
        Section("Figures", pictures[1:]),
        Section("Numbers", [numbers]),
        *sections,
        Section(
            "How it was made",
            [
                Details("Settings", [Table(["setting", "value"], settings)]),
                Details("Machine and time", [Text(f"{seconds:.0f} s on:\n\n{machine}")]),
            ],
        ),
    ]
    unfinished = "" if summary["complete"] else f"{_UNFINISHED}\n\n"
    write_report(path, title, unfinished + lead, [part for part in parts if part.body])


def lines(summary: Mapping[str, Any], verbose: bool = False) -> list[str]:
    """What the terminal shows: the answer and the claims; with `verbose` what was measured too."""
    told = [] if summary["complete"] else [_UNFINISHED]
    told.append(summary["answer"])
    for v in summary["claims"]:
        of = f"  [{v['of']}]" if v["of"] else ""
        told.append(f"{v['verdict']:14} {v['claim']}{of}")
        if verbose:
            told.append(f"{'':14} {v['criterion']}\n{'':14} {v['measured']}")
    return told


def _seconds(value: Any) -> float:
    return sum(map(_seconds, value.values())) if isinstance(value, Mapping) else float(value)


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
