"""Claims put to the test: a criterion, what was measured with its spread, and a verdict."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SUPPORTED, NOT_SUPPORTED, NOT_MEASURED = "supported", "not supported", "not measured"


def spread(values: Any, digits: int = 1, scale: int | float = 100) -> str:
    """Median (least to most) over seeds, of fractions in percent unless scaled otherwise."""
    low, middle, high = scale * np.quantile(np.asarray(values, float), (0, 0.5, 1))
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def significant(values: Any, digits: int = 3) -> str:
    """Median (least to most) over seeds, with so many significant digits."""
    low, middle, high = np.quantile(np.asarray(values, float), (0, 0.5, 1))
    return f"{middle:.{digits}g} ({low:.{digits}g} to {high:.{digits}g})"


def clearly(difference: np.ndarray, least: int | float) -> bool | None:
    """Whether differences paired over seeds are in favour: their median is at least `least`, and at
    least nine in ten are above 0. None if one of them is not finite, or there is none."""
    difference = np.asarray(difference, float)
    if not difference.size or not np.isfinite(difference).all():
        return None
    wins = int(np.sum(difference > 0))
    return bool(np.median(difference) >= least and 10 * wins >= 9 * difference.size)


@dataclass(frozen=True)
class Verdict:
    """A claim that was judged.

    Attributes:
        claim: in words, with its source.
        criterion: what would have to be measured for it to hold.
        measured: what was measured, in words.
        holds: whether it did; None if the run lacks what is needed.
        of: what it was judged for: an arm, a task, a data set. Empty if there is only one.
        values: the numbers behind `measured`, by label, one for each seed.
        word: the verdict where it is none of the usual three.
    """

    claim: str
    criterion: str
    measured: str
    holds: bool | None
    of: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    word: str = ""

    def __post_init__(self) -> None:
        usual = {True: SUPPORTED, False: NOT_SUPPORTED, None: NOT_MEASURED}
        object.__setattr__(self, "word", self.word or usual[self.holds])


def judge(
    claim: str,
    criterion: str,
    values: Mapping[str, Any],
    holds: Callable[..., Any],
    *,
    of: str = "",
    shown: Callable[[Any], str] = spread,
    unit: str = " %",
    measured: str = "",
) -> Verdict:
    """A claim about numbers of several arms.

    Args:
        claim: in words, with its source.
        criterion: what would have to be measured for it to hold.
        values: label -> a number for each seed, (seeds,); None where the run lacks the arm, in
            which case nothing was measured.
        holds: the arrays in that order -> whether the claim holds; None if that cannot be told.
        of: what it is judged for.
        shown: values -> text, where `measured` is not given.
        unit: behind that text.
        measured: in words; made of the values if not given.
    """
    lacking = [label for label, value in values.items() if value is None]
    if lacking:
        return Verdict(claim, criterion, f"needs {' and '.join(lacking)}", None, of)
    arrays = {label: np.asarray(value, float) for label, value in values.items()}
    held = holds(*arrays.values())
    text = measured or "; ".join(f"{label} {shown(a)}{unit}" for label, a in arrays.items())
    return Verdict(claim, criterion, text, None if held is None else bool(held), of, arrays)


def medians(holds: Callable[..., bool]) -> Callable[..., bool]:
    """A rule about the arms' medians over seeds, for `judge`."""
    return lambda *arrays: holds(*(float(np.median(a)) for a in arrays))


def answer(verdicts: Sequence[Verdict], most: int = 3) -> str:
    """The verdicts in two or three sentences.

    Args:
        verdicts: of all claims.
        most: claims named for each verdict; of the others only their number is given.
    """
    told = [v for v in verdicts if v.holds is not None or v.word != NOT_MEASURED]
    if not told:
        return "No claim could be judged yet."
    count = sum(v.word == SUPPORTED for v in told)
    sentences = [f"{count} of {len(told)} verdicts support their claim."]
    for word in dict.fromkeys((SUPPORTED, NOT_SUPPORTED, *(v.word for v in told))):
        claims = list(dict.fromkeys(_short(v) for v in told if v.word == word))
        if claims:
            more = f"; and {len(claims) - most} more" if len(claims) > most else ""
            sentences.append(f"{word.capitalize()}: {'; '.join(claims[:most])}{more}.")
    return " ".join(sentences)


def _short(verdict: Verdict) -> str:
    """The claim without its source."""
    claim = verdict.claim.rstrip(".")
    claim = claim[: claim.rindex(" (")] if claim.endswith(")") and " (" in claim else claim
    return f"{claim} ({verdict.of})" if verdict.of else claim
