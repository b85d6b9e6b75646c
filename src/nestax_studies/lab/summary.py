"""summary.json: all numbers of a run's report, laid out as docs/guides/studies.md describes."""

import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nestax import __version__
from nestax.runs import RunError, RunFolder, Section

from .claims import Verdict, answer
from .records import Numbers, listed, refuse_repeated

SCHEMA = 1
"""Version of the layout; another number whenever a key changes its meaning or goes."""

KEYS: dict[str, type] = {"schema": int, "complete": bool, "claims": list}
KEYS |= dict.fromkeys(("study", "question", "nestax", "answer"), str)
KEYS |= dict.fromkeys(("settings", "machine", "seconds", "arms", "more"), dict)
"""Keys of the layout, and what they hold."""
_CLAIM: dict[str, type] = dict.fromkeys(("claim", "of", "criterion", "measured", "verdict"), str)
_ARM: dict[str, type] = dict.fromkeys(("labels", "facts", "measures"), dict)
_MEASURE: dict[str, type] = {"unit": str, "values": list}


@dataclass(frozen=True)
class Findings:
    """What a study makes of its records.

    Attributes:
        numbers: the measures of every arm.
        verdicts: the claims judged.
        more: numbers that belong to no arm, JSON-able.
        sections: of the report, after the numbers.

    Raises:
        ValueError: a claim was judged twice for the same case.
    """

    numbers: Numbers
    verdicts: Sequence[Verdict] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    sections: Sequence[Section] = ()

    def __post_init__(self) -> None:
        cases = (v.claim + f" [{v.of}]" * bool(v.of) for v in self.verdicts)
        refuse_repeated("claims judged for one case", cases)


def summarized(
    folder: RunFolder, question: str, complete: bool, found: Findings, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Every number that the report prints, JSON-able."""
    return {
        "schema": SCHEMA,
        "study": folder.experiment,
        "question": question,
        "nestax": __version__,
        "complete": complete,
        "answer": answer(found.verdicts),
        "settings": folder.settings,
        "machine": facts.get("machine", {}),
        "seconds": facts.get("seconds", {}),
        "arms": found.numbers.summary(),
        "claims": claims(found.verdicts),
        "more": listed(found.more, None, "more"),
    }


def claims(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Verdicts as they stand in summary.json."""
    return [
        {
            "claim": v.claim,
            "of": v.of,
            "criterion": v.criterion,
            "measured": v.measured,
            "spread": {label: _spread(values) for label, values in v.values.items()},
            "verdict": v.word,
        }
        for v in verdicts
    ]


def _spread(values: Any) -> dict[str, Any]:
    median, least, most = spread_of(np.ravel(values).tolist())
    return listed({"least": least, "median": median, "most": most})


def read(path: Path) -> dict[str, Any]:
    """The summary of a run.

    Args:
        path: a run's folder, or its summary.json.

    Raises:
        RunError: there is none, it is not a summary, or one of another layout.
    """
    file = path / "summary.json" if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = f"; {_again(file)}".replace(" again", "") * (path / "settings.json").exists()
        raise RunError(f"{file}: there is no such file{hint}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read as a summary: {error}") from None
    if not isinstance(found, dict) or "schema" not in found:
        raise RunError(
            f"{file} is no summary of a study, or was written by an earlier version of nestax, "
            "whose summaries were laid out otherwise; run the study again"
        )
    if found["schema"] != SCHEMA:
        raise RunError(
            f"{file} has layout {found['schema']}, and nestax {__version__} reads layout {SCHEMA}; "
            f"{_again(file)}"
        )
    for place in _wrong(found):
        raise RunError(
            f"{file} is damaged: {place} is missing or not what it should be; {_again(file)}"
        )
    return found


def _again(file: Path) -> str:
    return f"make it again with: nestax report {shlex.quote(str(file.parent))}"


def _wrong(found: Any) -> Iterator[str]:
    """The places where a summary is not laid out as it should be."""
    yield from _lacking("", found, KEYS)
    for number, claim in enumerate(found["claims"]):
        yield from _lacking(f"claims {number} ", claim, _CLAIM)
    for name, arm in found["arms"].items():
        yield from _lacking(f"arms {name!r} ", arm, _ARM)
        for head, measure in arm["measures"].items():
            place = f"arms {name!r} measures {head!r} "
            yield from _lacking(place, measure, _MEASURE)
            if not all(value is None or type(value) in (int, float) for value in measure["values"]):
                yield f"{place}'values'"


def _lacking(place: str, found: Any, keys: Mapping[str, type]) -> Iterator[str]:
    for key, kind in keys.items():
        if not isinstance(found, Mapping) or not isinstance(found.get(key), kind):
            yield f"{place}{key!r}"


def spread_of(values: Sequence[int | float | None]) -> tuple[float, float, float]:
    """(median, least, most) of a measure's values; nan where one is not a number."""
    every = np.asarray([math.nan if v is None else v for v in values], float)
    if not every.size or np.isnan(every).any():
        return math.nan, math.nan, math.nan
    return float(np.median(every)), float(every.min()), float(every.max())
