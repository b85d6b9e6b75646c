"""What the records of language models say, in bits for each character, and the claims judged.

The criteria stood here before the recorded runs, but for those of temperature and of learning in
context, which came after the hour that they were first judged by.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nestax.runs import Section, Table, Text

from ..study import Findings, Records, Verdict, clearly, spread
from .arms import ARMS, CLAIMS, Claim

LEAST = 0.01  # bits; a smaller difference does not count
CAP = 8.0  # bits, those of a byte of which nothing is known: stands for a run that diverged
REACHED = 1.6  # nats, which the preset hour is to reach
_WAYS = {  # of reading it; of an hour each has to reach that by itself
    "windows": "",
    "calibrated": ", at the temperature that suits the kept text best",
    "in_context": ", its MLPs learning from what they read",
}
_CRITERION = (
    f"bits on text to judge by, paired over seeds: the median difference is at least {LEAST:g}, "
    "and at least nine in ten have its sign"
)


def seeds_of(records: Records, arm: str) -> list[dict[str, Any]]:
    """The records of an arm's seeds, in their order."""
    found = {
        int(name.rsplit(" ", 1)[1]): record
        for name, record in records.items()
        if name.startswith(f"{arm} seed ")
    }
    return [found[seed] for seed in sorted(found)]


def bits(seeds: list[dict[str, Any]]) -> np.ndarray:
    """(seeds,): bits for each token, in windows that are read from an empty state."""
    return _nats(seeds, "windows") / math.log(2)


def _nats(seeds: list[dict[str, Any]], name: str) -> np.ndarray:
    nats = [math.inf if record.get("diverged") else record[name] for record in seeds]
    return np.fmin(np.asarray(nats), CAP * math.log(2))


def gains(seeds: list[dict[str, Any]]) -> np.ndarray:
    """(seeds,): bits fewer for each token where the state is carried along; 0 if a run diverged."""
    return np.asarray([record.get("gain", 0.0) for record in seeds]) / math.log(2)


def calibrated(seeds: list[dict[str, Any]]) -> np.ndarray:
    """(seeds,): bits fewer with scores divided by the best temperature; 0 if a run diverged."""
    found = [r["windows"] - r["calibrated"] if "calibrated" in r else 0.0 for r in seeds]
    return np.asarray(found) / math.log(2)


def learned(seeds: list[dict[str, Any]]) -> np.ndarray:
    """(seeds,): bits fewer where MLPs learn from what they read, against a stream that they only
    read. Empty for blocks without an MLP; runs that diverged are left out."""
    found = [np.mean(record["learned"]) for record in seeds if "learned" in record]
    return np.asarray(found) / math.log(2)


def find(settings: Any, records: Records) -> Findings:
    done = {arm: seeds for arm in settings.arms if (seeds := seeds_of(records, arm))}
    summary = {arm: _numbers(seeds, records.get(f"{arm} rates")) for arm, seeds in done.items()}
    rows: list[list[Any]] = []
    for arm in sorted(done, key=lambda arm: float(np.median(bits(done[arm])))):
        seeds, tuned = done[arm], records.get(f"{arm} rates")
        rate = f"{seeds[0]['rate']:.2g}" + (" (edge)" if tuned and tuned["edge"] else "")
        nats = bits(seeds) * math.log(2)
        row = [ARMS[arm].label, seeds[0]["parameters"], rate, len(tuned["rates"]) if tuned else 1]
        columns = [bits(seeds), nats, gains(seeds), calibrated(seeds), learned(seeds)]
        rows.append([*row, *(spread(found, 3, 1.0) if len(found) else "" for found in columns)])
    unit = "byte" if settings.data == "wikitext2" else "character"
    head = ["model", "parameters", "rate", "rates tried", f"bits per {unit}",
            f"nats per {unit}", "bits gained by state", "by temperature",
            "by learning in context"]  # fmt: skip
    caption = (
        "Median (least to most) over seeds, the best first, on text that nobody has seen: in "
        f"windows of {settings.length}, each from an empty state. Gained: where the state is "
        "carried from one window to the next, on the same text; where scores are divided by the "
        "number that suits the kept text best; where every MLP, of blocks that have one, is "
        "written after each window by the gradient of the loss on it, against a stream that is "
        f"only read. A run that diverged counts as {CAP:g} bits. Rates marked as edge are the "
        "smallest or largest tried."
    )
    verdicts = [verdict for claim in CLAIMS if (verdict := _verdict(claim, done)) is not None]
    if settings.preset == "hour":
        verdicts += _reached(settings, done)
    return Findings(summary, Table(head, rows, caption), verdicts, _samples(done))


def _numbers(seeds: list[dict[str, Any]], tuned: Mapping[str, Any] | None) -> dict[str, Any]:
    numbers: dict[str, Any] = {name: seeds[0][name] for name in ("rate", "parameters")}
    numbers |= {"bits": bits(seeds).round(5).tolist(), "gain": gains(seeds).round(5).tolist()}
    numbers |= {"calibrated": calibrated(seeds).round(5).tolist()}
    numbers |= {"learned": learned(seeds).round(5).tolist()}
    numbers["diverged"] = sum(bool(record.get("diverged")) for record in seeds)
    if tuned is not None:
        numbers |= {name: tuned[name] for name in ("rates", "scores", "edge")}
    return numbers


def _verdict(claim: Claim, done: Mapping[str, list[dict[str, Any]]]) -> Verdict | None:
    """None where the arms were not asked for."""
    if claim.better not in done or claim.worse not in done:
        return None
    better, worse = (bits(done[arm]) for arm in (claim.better, claim.worse))
    count = min(len(better), len(worse))
    gain = worse[:count] - better[:count]
    holds = clearly(gain, LEAST)
    texts = [f"{ARMS[claim.better].label} {spread(better, 3, 1.0)} bits"]
    texts += [f"{ARMS[claim.worse].label} {spread(worse, 3, 1.0)}"]
    measured = f"{', '.join(texts)}; {spread(gain, 3, 1.0)} fewer over {count} seeds"
    if claim.opposite:
        return Verdict(
            claim.text, f"not so: {_CRITERION}", measured, None if holds is None else not holds
        )
    return Verdict(claim.text, _CRITERION, measured, holds)


def _reached(settings: Any, done: Mapping[str, list[dict[str, Any]]]) -> list[Verdict]:
    found = []
    for arm, seeds in done.items():
        count = seeds[0]["parameters"]
        for name, way in _WAYS.items():
            if name != "windows" and not all(name in record for record in seeds):
                continue
            nats = _nats(seeds, name)
            found.append(
                Verdict(
                    f"A model of a million parameters learns the text to {REACHED:g} nats: "
                    f"{ARMS[arm].label}{way}",
                    f"at least 1,000,000 parameters, and a median of at most {REACHED:g} nats for "
                    "each character of the text to judge by",
                    f"{count:,} parameters, {spread(nats, 3, 1.0)} nats",
                    count >= 1_000_000 and bool(np.median(nats) <= REACHED),
                )
            )
    return found


def _samples(done: Mapping[str, list[dict[str, Any]]]) -> list[Section]:
    found = []
    for arm, seeds in done.items():
        if "sample" in seeds[0]:
            said = " / ".join(seeds[0]["sample"].split("\n"))
            given = " / ".join(seeds[0]["prompt"].split("\n"))
            found.append(f"{ARMS[arm].label}\n\n[{given}] {said}")
    text = "In brackets what the first seed's model was given, then what it wrote; / ends a line."
    return [Section("Samples", [Text("\n\n".join([text, *found]))])] if found else []
