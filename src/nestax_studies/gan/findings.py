"""Claims, numbers and figures of adversarial training."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import lab
from ..lab.figures import COLOURS, GREY, Line, Map, Panel, Sheet, curves, free, maps
from . import training, worlds
from .training import Beta

EQUAL = {"rate": "equal rate", "step": "equal effective step"}
MARGIN = 0.01  # of the share matched, of which 1 is all
PAPER = "Complex Momentum, AISTATS 2022"


def done(settings: Any, records: lab.Records) -> dict[str, lab.Record]:
    """The comparisons there are, by what they are called."""
    return {EQUAL[e]: records[f"equal {e}"] for e in settings.equal if f"equal {e}" in records}


def best(
    record: lab.Record, betas: Mapping[str, Beta], among: Callable[[Beta], bool]
) -> tuple[str, np.ndarray] | None:
    """Of some betas the one that is best on the seeds to choose by, and its scores on the others;
    None if there is none of them."""
    chosen_by = np.mean(record["chosen by"], axis=1)
    places = [i for i, beta in enumerate(betas.values()) if among(beta)]
    if not places:
        return None
    place = max(places, key=lambda i: chosen_by[i])
    return list(betas)[place], np.asarray(record["score"][place], float)


REAL = "real, 0 and negative ones included"
# Written before the first run, but for the words. Of each claim: the betas that it says are better,
# and those that they are compared with; both with the modulus that is best on seeds of its own.
SIDES: dict[str, tuple[str, Callable[[Beta], bool], str, Callable[[Beta], bool]]] = {
    f"A non-real momentum of the discriminator is best ({PAPER})": (
        "not real", lambda b: not b.real, REAL, lambda b: b.real,
    ),
    f"Almost-positive momentum does at least as well as positive momentum ({PAPER})": (
        "arg π/8", lambda b: b.turn == "π/8", "positive", lambda b: b.turn == "0" and b.modulus > 0,
    ),
    "Negative momentum does better than none (Gidel et al. 2019)": (
        "negative", lambda b: b.turn == "π", "0", lambda b: b.modulus == 0,
    ),
}  # fmt: skip
AT_LEAST = "at least as well"  # claims with these words allow the margin; others must exceed it
ROBUST = f"Almost-positive momentum is less fragile than positive momentum of modulus 0.8 ({PAPER})"


def verdicts(name: str, record: lab.Record, betas: Mapping[str, Beta]) -> list[lab.Verdict]:
    """The claims, for one comparison."""
    shown, found = functools.partial(lab.spread, digits=1), []
    for claim, (first, of_first, second, of_second) in SIDES.items():
        sides = [best(record, betas, among) for among in (of_first, of_second)]
        if second == REAL and not {"0", "π"} <= {b.turn for b in betas.values() if b.modulus}:
            sides[1] = None  # of the real ones some are lacking
        values = {
            f"{words} (beta {side[0]})" if side else words: side[1] if side else None
            for words, side in zip((first, second), sides, strict=True)
        }
        if AT_LEAST in claim:
            holds = lab.medians(lambda a, b: a >= b - MARGIN)
            criterion = "share matched in the median over seeds at most 1 point below"
        else:
            holds = lambda a, b: lab.clearly(a - b, MARGIN)  # noqa: E731
            criterion = (
                "share matched higher by 1 point in the median, and with nine of ten seeds at least"
            )
        criterion += "; each side's beta chosen on seeds of its own"
        found.append(lab.judge(claim, criterion, values, holds, of=name, shown=shown))
    pair = {words: best(record, betas, lambda b, t=t: (b.modulus, b.turn) == (0.8, t))
            for words, t in (("0.8 exp(i π/8)", "π/8"), ("0.8", "0"))}  # fmt: skip
    values = {words: side and side[1] for words, side in pair.items()}
    criterion = "the worst seed of 0.8 exp(i π/8) matches more than the worst of 0.8, by 1 point"
    holds = lambda a, b: a.min() >= b.min() + MARGIN  # noqa: E731
    return [*found, lab.judge(ROBUST, criterion, values, holds, of=name, shown=shown)]


def find(settings: Any, records: lab.Records) -> lab.Findings:
    betas = training.grid(settings.moduli, settings.arguments)
    cases, judged, more = {}, [], {}
    for name, record in done(settings, records).items():
        judged += verdicts(name, record, betas)
        for place, beta in enumerate(betas):
            kinds = ("end", "redrawn")
            part = {k: {m: v[place] for m, v in record[k].items()} for k in kinds}
            cases[name, beta] = {**part, "score": record["score"][place]}
        keys = ("generator", "rate", "edge", "tried")
        more[name] = {key: record[key] for key in keys}
    return lab.Findings(_numbers(settings, cases), judged, more)


def _numbers(settings: Any, cases: dict[Any, lab.Record]) -> lab.Numbers:
    distance = "Fréchet distance, classifier trained here"
    what = "modes" if settings.task == "ring" else "classes"
    ends: Any = {
        "modes": (what, "", 1, 1), "precision": ("precision", "%", 1, 100),
        "recall": ("recall", "%", 1, 100), "distance": (distance, "", None, 1),
    }  # fmt: skip
    measures = [lab.share("matched", lambda record: record["score"])]
    for key, (name, *look) in ends.items():
        again = lambda r, key=key: [np.mean(r["redrawn"][key])]  # noqa: E731
        measures.append(lab.Measure(name, lambda r, key=key: r["end"][key], *look))
        head = "distance" if key == "distance" else name
        measures.append(lab.Measure(f"{head} ± redrawn", again, *look))
    caption = (
        "Medians (least to most) over seeds. Matched: 1 minus the total variation distance between "
        "the shares of modes or classes and the data's, mean over the last quarter of each run. "
        f"Others at the end, from {settings.samples} samples, means over 3 draws; ± redrawn: the "
        "standard deviation over these, mean over seeds. The distance is taken between features of "
        "a small classifier that was trained here; it is no FID."
    )
    return lab.numbers(("comparison", "beta"), cases, measures, caption)


def draw(settings: Any, records: lab.Records) -> list[Sheet]:
    betas = training.grid(settings.moduli, settings.arguments)
    found, panels, lines = done(settings, records), [], []
    for name, record in found.items():
        median = dict(zip(betas, np.median(record["score"], axis=1), strict=True))
        at = lambda m, t: 100 * median[str(Beta(m, t) if m else Beta(0.0, "0"))]  # noqa: E731, B023
        rows = [[at(m, t) for t in settings.arguments] for m in (0.0, *settings.moduli)]
        panels.append(Map(name, rows))
        steps = np.linspace(0, settings.steps, settings.points + 1)
        curve = [Line(steps, 100 * np.asarray(y), beta) for beta, y in record["curve"].items()]
        lines.append(Panel(name, "step", "matched (%)", curve))
    caption = (
        "Matched shares of modes or classes, %: medians over seeds. Rows: |beta| of the "
        "discriminator; columns: its argument. The first row is the same run everywhere."
    )
    sheets = [maps(
        "grid", panels, "Momentum of the discriminator", caption, x=settings.arguments,
        y=[f"|β| = {m:g}" for m in (0.0, *settings.moduli)], label="matched (%)",
    )]  # fmt: skip
    caption = "Medians over seeds, bands their range; betas of the modulus that rates are tuned by."
    sheets.append(curves("curves", lines, "On the way", caption))
    for name, record in found.items():
        sheets.append(_samples(settings, name, record))
    return sheets


def _samples(settings: Any, name: str, record: lab.Record) -> Sheet:
    """Rows: betas; columns: time."""
    rows = {beta: np.asarray(some, float) for beta, some in record["samples"].items()}
    times = [f"step {settings.steps * i // 4:,}" for i in range(5)]

    def paint(figure: Any) -> dict[str, Any]:
        grid = figure.subplots(len(rows), 5, squeeze=False)
        for place, (line, (beta, some)) in enumerate(zip(grid, rows.items(), strict=True)):
            for axes, time, samples in zip(line, times, some, strict=True):
                if samples.ndim == 3:
                    axes.imshow(_mosaic(samples), cmap="gray", vmin=0, vmax=1)
                else:
                    colour = COLOURS[place % len(COLOURS)]
                    axes.plot(*samples.T, ".", color=colour, markersize=2, alpha=0.5)
                    axes.plot(*worlds.CENTRES.T, "o", color=GREY, markerfacecolor="none", zorder=0)
                    axes.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
                if place == 0:
                    axes.set_title(time, fontsize=8)
            line[0].set_ylabel(beta, rotation=0, ha="right", va="center", fontsize=8)
        return rows

    caption = (
        "Of the first seed: a row for each beta of the discriminator, time from left to right."
    )
    title = f"Samples over time: {name}"
    return free(f"samples, {name}", title, caption, paint, (7.4, 1.35 * len(rows) + 0.3))


def _mosaic(pictures: np.ndarray) -> np.ndarray:
    """Pictures, (16, side, side), as one."""
    side = pictures.shape[1]
    return pictures.reshape(4, 4, side, side).transpose(0, 2, 1, 3).reshape(4 * side, 4 * side)
