"""What finished stages leave behind, and the numbers that a study reports of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nestax.runs import Table

Record = dict[str, Any]
Records = dict[str, Record]
"""The finished stages' records, by the stage's name."""


def of_subject(records: Records, subject: str, arms: Iterable[str]) -> Records:
    """The records there are of the stages "subject arm", by arm, in the arms' order."""
    found = {arm: records.get(f"{subject} {arm}") for arm in arms}
    return {arm: record for arm, record in found.items() if record is not None}


def listed(values: Any, digits: int = 6) -> Any:
    """Arrays as lists for JSON: so many significant digits, None for what is not finite."""
    if isinstance(values, Mapping):
        return {name: listed(value, digits) for name, value in values.items()}
    if np.ndim(values):
        return [listed(value, digits) for value in values]
    return float(f"{values:.{digits}g}") if np.isfinite(values) else None


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
                "facts": dict(row.facts),
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
            largest first; "-name" for smallest first. As given if empty.
    """
    rows = []
    for labels, record in cases.items():
        found = {
            m.name: {"unit": m.unit, "digits": m.digits, "values": m.values(record)}
            for m in measures
        }
        measured = {name: one for name, one in found.items() if one["values"] is not None}
        rows.append(Row(labels, facts(record), measured))
    if best:
        name, sign = best.lstrip("-"), 1 if best.startswith("-") else -1
        groups = list(dict.fromkeys(row.labels[:-1] for row in rows))

        def order(row: Row) -> tuple[int, float]:
            values = row.measures.get(name, {"values": sign * np.inf})["values"]
            return groups.index(row.labels[:-1]), sign * float(np.median(values))

        rows.sort(key=order)
    return Numbers(heads, rows, caption)


def rate_tuned(record: Mapping[str, Any]) -> str:
    """A record's learning rate, and whether it is the smallest or largest tried."""
    return f"{record['rate']:.2g}" + " (edge)" * record["edge"]


def _fact(value: Any) -> Any:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value


def _cell(measured: Mapping[str, Any] | None) -> str | None:
    if measured is None:
        return None
    values, digits = np.asarray(measured["values"], float), measured["digits"]
    # Between infinities there is nothing to interpolate.
    how = "linear" if np.isfinite(values).all() else "nearest"
    low, middle, high = np.quantile(values, (0, 0.5, 1), method=how)
    form = ".3g" if digits is None else f".{digits}f"
    shown = [f"{v:{form}}" if np.isfinite(v) else "-" for v in (middle, low, high)]
    return shown[0] if len(set(shown)) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"
