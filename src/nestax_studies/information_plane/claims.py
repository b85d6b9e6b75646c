"""The claims of D. Goh (2025), their criteria, and the verdicts; `RULE` says how to judge."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .. import lab
from ..lab.claims import NOT_MEASURED, NOT_SUPPORTED, SUPPORTED
from .arms import ARMS
from .measure import SCALE_BOUND, SCALE_FREE, Curves

RULE = f"""A criterion is a number per estimator, and estimators are of two kinds. Scale-bound ones
({", ".join(SCALE_BOUND)}) move when a layer is merely rescaled. Scale-free ones
({", ".join(SCALE_FREE)}) do not, and do see a layer collapse onto clusters.

A claim is supported if it holds under every scale-free estimator and at least one scale-bound one;
not supported if it holds under no scale-bound one; an artefact otherwise. It is not measured if the
run lacks the arm, the epochs or the seeds that it needs, or an estimator that could tell: an
estimator whose ceiling lies below what is claimed is not asked. A claim of absence is not supported
where the presence that it denies would be supported."""

ARTEFACT = "artefact"
DROP = 10.0  # per cent of the maximum
SEEDS = 3  # the fewest that a difference between arms can be judged by
NESTED = ("dmgd", "dmgd-l2", "dmgd-normalized", "published")  # what a claim of DMGD is tried on
PLAIN = ("sgd", "gdm", "adamw")
# The same kind of step without the nested memory, each arm at its own learning rate.
TWINS = {"dmgd": "sgd", "dmgd-l2": "sgd", "dmgd-normalized": "normalized"}
# The estimators whose values are shown beside a verdict; all of them are in the report's details.
_SHOWN = ("gaussian", "binned30", "kde_standardized_upper", "quantile4")

Ceilings = Mapping[str, Any]
Arms = Mapping[str, Curves]


@dataclass(frozen=True)
class Claim:
    """One sentence of the source, and when it counts as true under one estimator.

    `statistic(curve, epochs)` is applied to I(T;X), or I(T;Y) if `axis` is "y", of one layer: to
    the median curve for the value that is judged, to each seed's for the spread. `layer` counts
    from the last (-1); None means every layer, and the claim holds where it holds in any.
    """

    text: str
    criterion: str
    arms: tuple[str, ...]
    unit: str
    statistic: Callable[[np.ndarray, np.ndarray], float]
    met: Callable[[float], bool]
    layer: int | None = -1
    axis: str = "x"
    while_compressing: bool = False  # and I(T;X) falls by more than DROP
    negated: bool = False
    least_epochs: int = 0
    reach: float = 0.0  # bits that an estimator must be able to return


class Estimate(NamedTuple):
    """What one estimator says of a claim: the value `judged` and that of each seed, whether the
    criterion is met (for a claim of absence, whether what it denies is there), whether the
    estimator decides, and whether it returned the most that it can return."""

    judged: float
    seeds: Sequence[float] | np.ndarray
    met: bool
    decides: bool | None = None
    at_ceiling: bool | None = None

    def __str__(self) -> str:
        return f"{self.judged:.3g} ({min(self.seeds):.3g} to {max(self.seeds):.3g})"


@dataclass(frozen=True)
class Ruling(lab.Verdict):
    """A verdict, and what each estimator said; `measured` names the judged values."""

    unit: str = ""
    said: Mapping[str, Estimate] = field(default_factory=dict)


def drop(curve: np.ndarray, epochs: Any = None) -> float:
    """Relative drop of a curve from its maximum to its end, in per cent."""
    top = curve.max()
    return float(100 * (top - curve[-1]) / top) if top > 0 else 0.0


def _fluctuation(curve: np.ndarray, epochs: np.ndarray) -> float:
    """Of neighbouring measurements from epoch 500 on; a steady drift hardly counts."""
    late = curve[epochs >= 500]
    return float(np.std(np.diff(late)) / np.sqrt(2)) if len(late) > 2 else 0.0


_COMPRESSES = f"median I(T;X) ends more than {DROP:.0f} % below its maximum"
_COMPRESSION = Claim(
    "With DMGD the last hidden layer compresses.",
    _COMPRESSES, NESTED, "%", drop, lambda v: v > DROP,
)  # fmt: skip
_KEEPING = Claim(
    "With DMGD I(T;Y) of the last hidden layer stays while I(T;X) falls.",
    "median I(T;Y), on the channel of I(T;X), ends less than 5 % below its maximum, I(T;X) more "
    f"than {DROP:.0f} %",
    NESTED, "%", drop, lambda v: v < 5, axis="y", while_compressing=True,
)  # fmt: skip
CLAIMS = (
    Claim(
        "In SGD, GDM and AdamW there is no significant compression phase.",
        f"median I(T;X) ends no more than {DROP:.0f} % below its maximum in any layer",
        PLAIN, "%", drop, lambda v: v > DROP, layer=None, negated=True,
    ),
    Claim(
        "In AdamW I(T;X) of all layers is above 10 bits within 300 epochs and stays there.",
        "median I(T;X) of the last layer, the narrowest, exceeds 10 bits from epoch 300 on",
        ("adamw",), "bits", lambda curve, epochs: float(curve[epochs >= 300].min()),
        lambda v: v > 10, least_epochs=300, reach=10.0,
    ),
    Claim(
        "With DMGD the penultimate hidden layer compresses.",
        _COMPRESSES, NESTED, "%", drop, lambda v: v > DROP, layer=-2,
    ),
    _COMPRESSION,
    Claim(
        "With DMGD I(T;X) of the last hidden layer approaches 0 bits.",
        "median I(T;X) ends below 1 bit",
        NESTED, "bits", lambda curve, epochs: float(curve[-1]), lambda v: v < 1,
    ),
    Claim(
        "With DMGD I(T;X) of the penultimate hidden layer falls and settles near 7 bits.",
        f"median I(T;X) ends between 6 and 8 bits and more than {DROP:.0f} % below its maximum",
        NESTED, "bits", lambda curve, epochs: float(curve[-1]), lambda v: 6 <= v <= 8, layer=-2,
        while_compressing=True, reach=8.0,
    ),
    Claim(
        "With DMGD I(T;X) of the last hidden layer rises until about epoch 150, then falls.",
        "the median curve's maximum lies between epochs 50 and 450 and it ends more than "
        f"{DROP:.0f} % below",
        NESTED, "epoch", lambda curve, epochs: float(epochs[curve.argmax()]),
        lambda v: 50 <= v <= 450, while_compressing=True, least_epochs=500,
    ),
    _KEEPING,
    Claim(
        "With DMGD I(T;Y) of the penultimate layer fluctuates between epochs 500 and 3900.",
        "its measurements from epoch 500 on differ from their neighbours by more than 0.1 bit "
        "(standard deviation over the square root of 2)",
        NESTED, "bits", _fluctuation, lambda v: v > 0.1, layer=-2, axis="y", least_epochs=2000,
    ),
)  # fmt: skip


def rulings(by_arm: Arms, ceilings: Ceilings) -> list[Ruling]:
    """Every claim judged for every arm that it speaks of.

    Args:
        by_arm: the finished arms.
        ceilings: per estimator the limits of x by layer, bits; None without one.
    """
    asked = [(_judge(claim, arm, by_arm, ceilings), arm) for claim in CLAIMS for arm in claim.arms]
    asked += [(_accuracy(arm, by_arm), arm) for arm in NESTED]
    asked += [(_gap(arm, by_arm), arm) for arm in NESTED]
    asked += [(_nesting(arm, twin, by_arm, ceilings), arm) for arm, twin in TWINS.items()]
    # Arms that were neither asked for nor are the claim's subject say nothing.
    return [r for r, arm in asked if r.holds is not None or arm in ("dmgd", *PLAIN)]


def _ruled(
    claim: tuple[str, str, str],
    arm: str,
    because: str,
    word: str = NOT_MEASURED,
    said: Mapping[str, Estimate] | None = None,
) -> Ruling:
    """A claim's text, criterion and unit, judged for an arm."""
    (text, criterion, unit), said = claim, said or {}
    names = [name for name in _SHOWN if name in said] or list(said)
    values = "; ".join(f"{name} {said[name]}" for name in names)
    measured = f"{because}: {values} {unit}" if values else because
    holds = {SUPPORTED: True, NOT_MEASURED: None}.get(word, False)
    seeds = {name: estimate.seeds for name, estimate in said.items()}
    return Ruling(text, criterion, measured, holds, ARMS[arm].label, seeds, word, unit, said)


def _lacking(by_arm: Arms, *arms: str) -> str:
    names = [arm for arm in arms if arm not in by_arm]
    return f"the run has no finished arm {' and no '.join(names)}" if names else ""


def _judge(claim: Claim, arm: str, by_arm: Arms, ceilings: Ceilings) -> Ruling:
    told = (claim.text, claim.criterion, claim.unit)
    if lacking := _lacking(by_arm, arm):
        return _ruled(told, arm, lacking)
    c = by_arm[arm]
    if claim.layer is not None and c.layers < -claim.layer:
        return _ruled(told, arm, f"the network has {c.layers} hidden layer(s)")
    if c.epochs[-1] < claim.least_epochs:
        short = f"the run ends at epoch {c.epochs[-1]}; it takes {claim.least_epochs}"
        return _ruled(told, arm, short)
    layers = range(c.layers) if claim.layer is None else (c.layers + claim.layer,)
    found = [(_by_estimator(claim, c, layer, ceilings), layer) for layer in layers]
    # Where any layer will do, the one in which the most speaks for it.
    order = (NOT_SUPPORTED, NOT_MEASURED, ARTEFACT, SUPPORTED)
    concluded = [(_conclude(said, claim.negated), said, layer) for said, layer in found]
    (word, because), said, layer = max(concluded, key=lambda x: order.index(x[0][0]))
    if claim.negated and word != NOT_MEASURED:
        word = NOT_SUPPORTED if word == SUPPORTED else SUPPORTED
    where = f" (layer {layer + 1})" if claim.layer is None else ""
    return _ruled(told, arm, because + where, word, said)


def _by_estimator(claim: Claim, c: Curves, layer: int, ceilings: Ceilings) -> dict[str, Estimate]:
    said = {}
    for name in c.estimators:
        x = np.median(c.information(name)[:, :, layer], 1)
        curve = c.information(name, claim.axis)[:, :, layer]
        value = float(claim.statistic(np.median(curve, 1), c.epochs))
        limit = ceilings.get(name, {}).get("x", [None] * c.layers)[layer]
        said[name] = Estimate(
            value,
            [claim.statistic(seed, c.epochs) for seed in curve.T],
            bool(claim.met(value) and (drop(x) > DROP or not claim.while_compressing)),
            name in (*SCALE_BOUND, *SCALE_FREE) and (limit is None or limit >= claim.reach),
            limit is not None and bool(x.max() >= limit - 0.01),
        )
    return said


def _conclude(said: Mapping[str, Estimate], negated: bool) -> tuple[str, str]:
    def asked(names: Sequence[str]) -> list[bool]:
        return [said[n].met for n in names if n in said and said[n].decides]

    bound, free = asked(SCALE_BOUND), asked(SCALE_FREE)
    because = (
        f"{'what it denies is there' if negated else 'holds'} under {sum(bound)} of {len(bound)} "
        f"scale-bound and {sum(free)} of {len(free)} scale-free estimators that could tell"
    )
    if not any(bound):
        return (NOT_SUPPORTED if bound else NOT_MEASURED), because
    if not free and all(bound):
        return NOT_MEASURED, because
    return (SUPPORTED if free and all(free) else ARTEFACT), because


def _accuracy(arm: str, by_arm: Arms) -> Ruling:
    told = (
        "DMGD reaches a terminal accuracy similar to AdamW's.",
        "test accuracy, seed by seed, within 1 point of AdamW's in the median",
        "points",
    )
    if lacking := _lacking(by_arm, arm, "adamw"):
        return _ruled(told, arm, lacking)
    own, other = (by_arm[name].performance("test", "accuracy")[-1] for name in (arm, "adamw"))
    difference = 100 * (own - other)
    value = float(np.median(difference))
    met, because = abs(value) <= 1, f"the median difference is {value:+.1f} points"
    said = {"test accuracy less AdamW's": Estimate(value, difference, met)}
    return _ruled(told, arm, because, SUPPORTED if met else NOT_SUPPORTED, said)


def _gap(arm: str, by_arm: Arms) -> Ruling:
    told = (
        "DMGD keeps a significantly tighter gap between training and validation accuracy.",
        "smaller than AdamW's for every seed, at the end and in the mean over equal training "
        "losses; at the end only: an artefact of under-fitting",
        "points",
    )
    if lacking := _lacking(by_arm, arm, "adamw"):
        return _ruled(told, arm, lacking)
    at_end = by_arm[arm].gap()[-1] - by_arm["adamw"].gap()[-1]
    if len(at_end) < SEEDS:
        return _ruled(told, arm, f"{len(at_end)} seed(s) say nothing of significance")
    losses, gaps = gap_at_equal_loss({name: by_arm[name] for name in (arm, "adamw")})
    if not len(losses):
        return _ruled(told, arm, "the two arms have no training loss in common")
    found = {"at the end": at_end, "at equal training loss": (gaps[arm] - gaps["adamw"]).mean(0)}
    said = {k: Estimate(float(np.median(v)), v, bool((v < 0).all())) for k, v in found.items()}
    end, equal = said.values()
    word = (SUPPORTED if equal.met else ARTEFACT) if end.met else NOT_SUPPORTED
    return _ruled(told, arm, "gap less AdamW's", word, said)


def _nesting(arm: str, twin: str, by_arm: Arms, ceilings: Ceilings) -> Ruling:
    """The conclusion: that the nested memory compresses, not the steps that it is fed with."""
    told = (
        "Deep nesting in optimizers is a sufficient condition for a compression phase that filters "
        "I(T;X) from I(T;Y).",
        "compression of the last hidden layer and keeping of its I(T;Y) are supported for the arm, "
        f"and the former is not without the memory ({ARMS[twin].label} at its own learning rate)",
        "%",
    )
    if lacking := _lacking(by_arm, arm, twin):
        return _ruled(told, arm, lacking)
    own, kept = (_judge(claim, arm, by_arm, ceilings) for claim in (_COMPRESSION, _KEEPING))
    without = _judge(_COMPRESSION, twin, by_arm, ceilings)
    met = own.word == kept.word == SUPPORTED and without.word != SUPPORTED
    because = (
        f"compression {own.word}, I(T;Y) kept {kept.word}; without the memory compression "
        f"{without.word}"
    )
    return _ruled(told, arm, because, SUPPORTED if met else NOT_SUPPORTED, own.said)


def generalization(by_arm: Arms) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """`gap_at_equal_loss` of the arms that learned: one that did not, halving its loss for every
    seed, would leave the others no loss in common with it."""
    learned = {
        arm: c
        for arm, c in by_arm.items()
        if np.all((loss := c.performance("train", "loss")).min(0) < loss[0] / 2)
    }
    return gap_at_equal_loss(learned)


def gap_at_equal_loss(by_arm: Arms, points: int = 25) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Accuracy on training less on test images where training loss is equal.

    Losses are those that every seed of every arm passed on its way down; each seed's gap is read,
    linearly in log loss, where it first got there.

    Args:
        by_arm: the arms to compare.
        points: number of losses, log-spaced.

    Returns:
        Losses (points,), nats, descending, and gaps by arm, (points, seeds), in points. Empty if
        the arms have no loss in common.
    """
    # Losses fall here, so that they can be inverted; in float32 they end at exactly zero.
    best = {
        arm: np.maximum(np.minimum.accumulate(c.performance("train", "loss"), axis=0), 1e-9)
        for arm, c in by_arm.items()
    }
    top = min((losses[0].min() for losses in best.values()), default=0.0)
    bottom = max((losses[-1].max() for losses in best.values()), default=0.0)
    if not bottom < top:
        return np.empty(0), {arm: np.empty((0, losses.shape[1])) for arm, losses in best.items()}
    common = np.geomspace(top, bottom, points)
    gaps = {}
    for arm, losses in best.items():
        gap, seeds = by_arm[arm].gap(), range(losses.shape[1])
        gaps[arm] = np.stack([_first_at(common, losses[:, s], gap[:, s]) for s in seeds], 1)
    return common, gaps


def _first_at(at: np.ndarray, losses: np.ndarray, values: np.ndarray) -> np.ndarray:
    first = np.concatenate([[True], losses[1:] < losses[:-1]])
    return np.interp(-np.log(at), -np.log(losses[first]), values[first])
