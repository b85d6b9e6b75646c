"""What finished stages leave behind, and the numbers that a study reports of them."""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nestax.runs import Table

from .claims import ranged

Record = dict[str, Any]
"""Texts, numbers, arrays, and lists and mappings of them, by any key but "stage". Arrays come back
as lists; what is not finite as nan in a list, as None by itself."""
Records = dict[str, Record]
"""The finished stages' records, by the stage's name."""


def of_subject(records: Records, subject: str, arms: Iterable[str]) -> Records:
    """The records there are of the stages "subject arm", by arm, in the arms' order."""
    found = {arm: records.get(f"{subject} {arm}") for arm in arms}
    return {arm: record for arm, record in found.items() if record is not None}


def listed(values: Any, digits: int | None = 6, where: str = "values") -> Any:
    """Values as JSON holds them: arrays as lists, None for numbers that are not finite.

    Args:
        values: numbers, texts, arrays, and lists and mappings of them.
        digits: significant digits of fractions; None keeps all. Whole numbers keep theirs.
        where: what an error names.

    Raises:
        ValueError: JSON cannot hold a value, or a mapping's keys are not distinct texts.
    """
    if isinstance(values, Mapping):
        made = {str(k): listed(v, digits, f"{where}[{k!r}]") for k, v in values.items()}
        if len(made) < len(values) or not all(isinstance(key, str | int) for key in values):
            keys = ", ".join(map(repr, values))
            raise ValueError(f"{where}: keys must be texts that differ, got {keys}")
        return made
    values = values.tolist() if hasattr(values, "tolist") else values  # arrays and their scalars
    if isinstance(values, list | tuple):
        return [listed(value, digits, where) for value in values]
    if values is None or isinstance(values, bool | int | str):
        return values
    if isinstance(values, os.PathLike):
        return os.fspath(values)
    if not hasattr(values, "__float__"):
        raise ValueError(
            f"{where} holds a {type(values).__name__}, which JSON cannot; give numbers, texts, "
            "arrays, or lists and mappings of them"
        )
    value = float(values)
    if not math.isfinite(value):
        return None
    whole = value.is_integer() and abs(value) < 2**53
    return value if digits is None or whole else float(f"{value:.{digits}g}")


def read_back(values: Any) -> Any:
    """What `listed` made, with nan again for None in lists of numbers."""
    if isinstance(values, dict):
        return {name: read_back(value) for name, value in values.items()}
    if not isinstance(values, list):
        return values
    if {*map(type, values)} <= {int, float, type(None)}:
        return [math.nan if value is None else value for value in values]
    return [read_back(value) for value in values]


def refuse_repeated(what: str, names: Iterable[Any]) -> None:
    """Refuses names of which there are several alike.

    Raises:
        ValueError: names them.
    """
    if repeated := [str(name) for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{what} must differ, got twice: {', '.join(repeated)}; rename one")


@dataclass(frozen=True)
class Measure:
    """A number that a study reports of every arm, one for each seed.

    Attributes:
        name: what is measured; the head of its column.
        of: record -> (seeds,), or None where the record has no such number.
        unit: of the values as they are reported: "%", "nats", "" for none.
        digits: behind the point; None: three significant digits.
        scale: by which values are multiplied, 100 to report fractions in percent.
    """

    name: str
    of: Callable[[Record], Any]
    unit: str = "%"
    digits: int | None = 1
    scale: int | float = 100

    def values(self, record: Record) -> np.ndarray | None:
        """(seeds,): in its unit."""
        found = self.of(record)
        return None if found is None else self.scale * np.atleast_1d(np.asarray(found, float))


def share(name: str, of: Callable[[Record], Any], digits: int = 1) -> Measure:
    """A fraction, reported in percent."""
    return Measure(name, of, "%", digits, 100.0)


def number(
    name: str, of: Callable[[Record], Any], unit: str = "", digits: int | None = None
) -> Measure:
    """A number as it is."""
    return Measure(name, of, unit, digits, 1.0)


@dataclass(frozen=True)
class Row:
    """An arm in the table of numbers.

    Attributes:
        labels: what it is: subject and arm, or the arm alone.
        facts: further cells that are no measurements of seeds, by head: a learning rate, a count.
        measures: name -> {"unit", "digits", "values"}.
    """

    labels: tuple[str, ...]
    facts: Mapping[str, Any]
    measures: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Numbers:
    """The numbers of a study: a row for each arm.

    Attributes:
        heads: of the labels' columns.
        rows: the arms.
        caption: how to read the table.
    """

    heads: Sequence[str]
    rows: Sequence[Row]
    caption: str = ""

    def __post_init__(self) -> None:
        refuse_repeated("labels of the table's rows", (" / ".join(r.labels) for r in self.rows))

    def table(self) -> Table:
        """As it is shown: medians, least and most over seeds."""
        facts = list(dict.fromkeys(name for row in self.rows for name in row.facts))
        units = {n: m["unit"] for row in self.rows for n, m in row.measures.items()}
        heads = [f"{name} ({unit})" if unit else name for name, unit in units.items()]
        rows = []
        for row in self.rows:
            told = [_fact(row.facts.get(name)) for name in facts]
            rows.append([*row.labels, *told, *(_cell(row.measures.get(name)) for name in units)])
        return Table([*self.heads, *facts, *heads], rows, self.caption, labels=len(self.heads))

    def summary(self) -> dict[str, Any]:
        """As it stands in summary.json: arm -> labels, facts, measures by seed."""
        return {
            " / ".join(row.labels): {
                "labels": dict(zip(self.heads, row.labels, strict=True)),
                "facts": listed(row.facts, None, "facts"),
                "measures": {
                    name: {"unit": m["unit"], "values": listed(m["values"], 7)}
                    for name, m in row.measures.items()
                },
            }
            for row in self.rows
        }


def numbers(
    heads: Sequence[str],
    cases: Mapping[tuple[str, ...], Record],
    measures: Sequence[Measure],
    caption: str = "",
    facts: Callable[[Record], Mapping[str, Any]] = lambda record: {},
    best: str = "",
) -> Numbers:
    """Every measure of every arm.

    Args:
        heads: of the labels' columns.
        cases: labels -> record.
        measures: what is reported.
        caption: how to read the table.
        facts: record -> further cells, by head.
        best: a measure's name, by whose median arms that share all labels but the last are ordered,
            largest first, those that have no number last; "-name" for smallest first. As given if
            empty.

    Raises:
        ValueError: rows with the same labels, measures of the same name, or an unknown `best`.
    """
    refuse_repeated("names of measures", (m.name for m in measures))
    name, sign = best.removeprefix("-"), 1 if best.startswith("-") else -1
    if name not in ("", *(m.name for m in measures)):
        raise ValueError(f"numbers: best must name a measure, got {name!r}")
    rows = []
    for labels, record in cases.items():
        found = {
            m.name: {"unit": m.unit, "digits": m.digits, "values": m.values(record)}
            for m in measures
        }
        measured = {name: one for name, one in found.items() if one["values"] is not None}
        rows.append(Row(labels, facts(record), measured))
    if best:
        groups = list(dict.fromkeys(row.labels[:-1] for row in rows))

        def order(row: Row) -> tuple[int, float]:
            values = row.measures.get(name, {"values": np.nan})["values"]
            median = sign * float(np.median(values))
            return groups.index(row.labels[:-1]), np.inf if np.isnan(median) else median

        rows.sort(key=order)
    return Numbers(heads, rows, caption)


def rate_tuned(record: Mapping[str, Any]) -> str:
    """A record's learning rate, and whether it is the smallest or largest tried."""
    return f"{record['rate']:.2g}" + " (edge)" * record["edge"]


def _fact(value: Any) -> Any:
    value = listed(value, None, "facts")
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value


def _cell(measured: Mapping[str, Any] | None) -> str | None:
    if measured is None:
        return None
    digits = measured["digits"]
    return ranged(measured["values"], ".3g" if digits is None else f".{digits}f", alone=True)
