"""Claims put to the test: a criterion, what was measured with its spread, and a verdict."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NEEDS = "needs "  # begins what is told in place of a measurement
SUPPORTED, NOT_SUPPORTED, NOT_MEASURED = "supported", "not supported", "not measured"


def spread(values: Any, digits: int = 1, scale: int | float = 100) -> str:
    """Median (least to most) over seeds, of fractions in percent unless scaled otherwise."""
    return ranged(scale * np.asarray(values, float), f".{digits}f")


def significant(values: Any, digits: int = 3) -> str:
    """Median (least to most) over seeds, with so many significant digits."""
    return ranged(values, f".{digits}g")


def quantiles(values: Any, axis: int | None = None) -> np.ndarray:
    """Least, median and most, (3, ...); nan where one of the values is."""
    values = np.asarray(values, float)
    with np.errstate(invalid="ignore"):  # between infinities of both signs there is no median
        return np.stack([f(values, axis=axis) for f in (np.min, np.median, np.max)])


def ranged(values: Any, form: str, alone: bool = False) -> str:
    """Median (least to most), each in this form, or "-" for what is not finite; how many seeds have
    no number, where some have.

    Args:
        values: (seeds,).
        form: of a number.
        alone: whether the range is left out where it says the same.
    """
    unknown = int(np.isnan(values := np.ravel(np.asarray(values, float))).sum())
    if not values.size or 0 < unknown < values.size:
        return f"- ({unknown} of {values.size} seeds without a number)" if unknown else "-"
    low, middle, high = (f"{v:{form}}" if np.isfinite(v) else "-" for v in quantiles(values))
    return middle if alone and low == middle == high else f"{middle} ({low} to {high})"


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
        values: label -> a number for each seed, (seeds,); None where the run lacks the arm. Where
            an arm or all are lacking, or a number is nan, nothing was measured; infinity is a
            number, such as the steps to what was never reached.
        holds: the arrays in that order -> whether the claim holds; None or nan if that cannot be
            told.
        of: what it is judged for.
        shown: values -> text, where `measured` is not given.
        unit: behind that text.
        measured: in words; made of the values if not given.
    """
    lacking = [label for label, value in values.items() if value is None or not np.size(value)]
    if lacking or not values:
        needs = " and ".join(lacking) or "numbers, and has none"
        return Verdict(claim, criterion, f"{NEEDS}{needs}", None, of)
    arrays = {label: np.asarray(value, float) for label, value in values.items()}
    known = not any(np.isnan(array).any() for array in arrays.values())
    held = holds(*arrays.values()) if known else None
    held = None if held is None or held != held else bool(held)  # nan differs from itself
    text = measured or "; ".join(f"{label} {shown(a)}{unit}" for label, a in arrays.items())
    return Verdict(claim, criterion, text, held, of, arrays)


def medians(holds: Callable[..., bool | None]) -> Callable[..., bool | None]:
    """A rule about the arms' medians over seeds, for `judge`; None if one of them is nan."""

    def rule(*arrays: np.ndarray) -> bool | None:
        middles = [float(quantiles(array)[1]) for array in arrays]
        return None if np.isnan(middles).any() else holds(*middles)

    return rule


def answer(verdicts: Sequence[Verdict], most: int = 3) -> str:
    """The verdicts in a few sentences: how many there are of each, then the claims themselves.

    Args:
        verdicts: of all claims.
        most: claims named for each verdict; of the others only their number is given.
    """
    if not verdicts:
        return "This study judges no claim."
    told = [v for v in verdicts if v.word != NOT_MEASURED]
    lacking = len(verdicts) - len(told)
    needed = dict.fromkeys(v.measured for v in verdicts if v.measured.startswith(NEEDS))
    named = [text.removeprefix(NEEDS) for text in list(needed)[:most]]
    why = f" for want of {' or '.join(named)}{' and more' * (len(needed) > most)}" * bool(named)
    if not told:
        return f"No claim could be judged{why or ' yet'}."
    if len(told) == 1:
        (one,) = told
        sentences = [f"The claim {_is(1, one.word)}: {short(one.claim)}{_among([one.of], 1)}."]
    else:
        sentences = [_counts(told)]
        # A claim that is told by its number alone is one that a reader of many can do without.
        words = (SUPPORTED, NOT_SUPPORTED, *(v.word for v in told if len(told) <= 3 * most))
        for word in dict.fromkeys(words):
            if named := _named(told, word):
                more = f"; and {len(named) - most} more" if len(named) > most else ""
                sentences.append(f"{word.capitalize()}: {'; '.join(named[:most])}{more}.")
    if lacking:
        cases = "One more" if lacking == 1 else f"{lacking} more"
        sentences.append(f"{cases} could not be judged{why}.")
    return " ".join(sentences)


def _counts(told: Sequence[Verdict]) -> str:
    """How many claims there are of each verdict, of at least two."""
    counts = Counter(v.word for v in told)
    claims, cases = len({v.claim for v in told}), len(told)
    order = [w for w in dict.fromkeys((SUPPORTED, NOT_SUPPORTED, *counts)) if counts[w]]
    parts = {word: _is(counts[word], word, counted=True) for word in order}
    if claims < cases:
        some = "One claim was" if claims == 1 else f"{claims} claims were"
        if len(order) > 1:
            return f"{some} judged in {cases} cases: {_and(list(parts.values()))}."
        every = {SUPPORTED: "supported in all", NOT_SUPPORTED: "supported in none"}
        return f"{some} judged in {cases} cases, and {every.get(order[0], f'{order[0]} in all')}."
    if order == [SUPPORTED]:
        return f"All {claims} claims are supported."
    first = f"None of {claims} claims is supported"
    if SUPPORTED in parts:
        first = f"{counts[SUPPORTED]} of {claims} claims {_is(counts[SUPPORTED], SUPPORTED)}"
    else:
        parts.pop(NOT_SUPPORTED, None)
    return f"{_and([first, *(part for word, part in parts.items() if word != SUPPORTED)])}."


def _is(count: int, word: str, counted: bool = False) -> str:
    """As in "is supported", "are not supported", "are artefacts", "2 are not"."""
    what = "not" if counted and word == NOT_SUPPORTED else word
    what = ("an artefact" if count == 1 else "artefacts") if word == "artefact" else what
    return f"{count} " * counted + f"{'is' if count == 1 else 'are'} {what}"


def _and(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)}{',' * (len(first) > 1)} and {last}" if first else last


def _named(told: Sequence[Verdict], word: str) -> list[str]:
    """The claims with a verdict, and for what they have it where it is not for all."""
    cases: dict[str, list[Verdict]] = {}
    for v in told:
        cases.setdefault(v.claim, []).append(v)
    having = {claim: [v.of for v in some if v.word == word] for claim, some in cases.items()}
    return [short(c) + _among(those, len(cases[c])) for c, those in having.items() if those]


def _among(those: Sequence[str], cases: int) -> str:
    """For what a claim has a verdict, of so many cases that it was judged in."""
    if not any(those):
        return ""
    if len(those) > 2:
        return f" (in {'all ' if len(those) == cases else f'{len(those)} of '}{cases} cases)"
    return f" ({' and '.join(those)})"


def short(claim: str) -> str:
    """A claim without its source, which stands in brackets at its end, and without its stop."""
    claim = claim.rstrip(".")
    return claim[: claim.rindex(" (")] if claim.endswith(")") and " (" in claim else claim
