"""The claims under test, their criteria, and the verdicts.

The claims are those of D. Goh, "An Information-Theoretic Investigation of Nested Learning" (2025).
A criterion is a number per estimator, and estimators are of two kinds:

* **scale-bound** ones (fixed bins, kernel density, the published Gaussian log-determinant) move
  when a layer is merely rescaled;
* **scale-free** ones (few quantile bins, kernel density of standardized units) do not, and do see
  a layer collapse onto clusters.

A claim is **supported** if it holds under every scale-free estimator and at least one scale-bound
one; **not supported** if it holds under no scale-bound one; an **artefact** otherwise. It is **not
measured** if the run lacks the arm, the epochs or the seeds it takes, or an estimator that could
tell: one whose ceiling lies below what is claimed is not asked. A claim of absence is judged by the
same standard: it is not supported where the presence it denies would be supported.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .arms import ARMS
from .curves import Curves, curves, drop, gap_at_equal_loss
from .measure import SCALE_BOUND, SCALE_FREE

DROP = 10.0  # per cent of the maximum
SEEDS = 3  # the fewest that a difference between arms can be judged by
NESTED = ("dmgd", "dmgd-l2", "dmgd-normalized", "published")  # what a claim of DMGD is tried on
PLAIN = ("sgd", "gdm", "adamw")
# The same kind of step without the nested memory, each arm at its own learning rate.
TWINS = {"dmgd": "sgd", "dmgd-l2": "sgd", "dmgd-normalized": "normalized"}

SUPPORTED, NOT_SUPPORTED = "supported", "not supported"
ARTEFACT, NOT_MEASURED = "artefact", "not measured"

Ceilings = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Claim:
    """One sentence of the source, and when it counts as true under one estimator.

    `statistic(curve, epochs)` is applied to I(T;X), or I(T;Y) if `axis` is "y", of one layer: to
    the median curve for the value that is judged, to each seed's for the spread. `layer` counts
    from the last (-1); None means every layer, and the claim holds where it holds in any.
    """

    id: str
    text: str
    criterion: str
    arms: tuple[str, ...]
    statistic: Callable[[np.ndarray, np.ndarray], float]
    met: Callable[[float], bool]
    unit: str
    layer: int | None = -1
    axis: str = "x"
    while_compressing: bool = False  # and I(T;X) falls by more than DROP
    negated: bool = False
    least_epochs: int = 0
    reach: float = 0.0  # bits that an estimator must be able to return


def _drop(curve: np.ndarray, epochs: np.ndarray) -> float:
    return drop(curve)


def _fluctuation(curve: np.ndarray, epochs: np.ndarray) -> float:
    """Of neighbouring measurements from epoch 500 on; a steady drift hardly counts."""
    late = curve[epochs >= 500]
    return float(np.std(np.diff(late)) / np.sqrt(2)) if len(late) > 2 else 0.0


CLAIMS = (
    Claim(
        "no-compression-in-standard-optimizers",
        "In SGD, GDM and AdamW there is no significant compression phase.",
        f"median I(T;X) ends no more than {DROP:.0f} % below its maximum in any layer",
        PLAIN,
        _drop,
        lambda v: v > DROP,
        "%",
        layer=None,
        negated=True,
    ),
    Claim(
        "plateau-above-ten-bits",
        "In AdamW I(T;X) of all layers is above 10 bits within 300 epochs and stays there.",
        "median I(T;X) of the last layer, the narrowest, exceeds 10 bits from epoch 300 on",
        ("adamw",),
        lambda curve, epochs: float(curve[epochs >= 300].min()),
        lambda v: v > 10,
        "bits",
        least_epochs=300,
        reach=10.0,
    ),
    Claim(
        "compression-in-penultimate-layer",
        "With DMGD the penultimate hidden layer compresses.",
        f"median I(T;X) ends more than {DROP:.0f} % below its maximum",
        NESTED,
        _drop,
        lambda v: v > DROP,
        "%",
        layer=-2,
    ),
    Claim(
        "compression-in-last-layer",
        "With DMGD the last hidden layer compresses.",
        f"median I(T;X) ends more than {DROP:.0f} % below its maximum",
        NESTED,
        _drop,
        lambda v: v > DROP,
        "%",
    ),
    Claim(
        "last-layer-to-zero",
        "With DMGD I(T;X) of the last hidden layer approaches 0 bits.",
        "median I(T;X) ends below 1 bit",
        NESTED,
        lambda curve, epochs: float(curve[-1]),
        lambda v: v < 1,
        "bits",
    ),
    Claim(
        "penultimate-layer-near-seven-bits",
        "With DMGD I(T;X) of the penultimate hidden layer falls and settles near 7 bits.",
        f"median I(T;X) ends between 6 and 8 bits and more than {DROP:.0f} % below its maximum",
        NESTED,
        lambda curve, epochs: float(curve[-1]),
        lambda v: 6 <= v <= 8,
        "bits",
        layer=-2,
        while_compressing=True,
        reach=8.0,
    ),
    Claim(
        "expansion-until-epoch-150",
        "With DMGD I(T;X) of the last hidden layer rises until about epoch 150, then falls.",
        "the median curve's maximum lies between epochs 50 and 450 and it ends more than "
        f"{DROP:.0f} % below",
        NESTED,
        lambda curve, epochs: float(epochs[curve.argmax()]),
        lambda v: 50 <= v <= 450,
        "epoch",
        while_compressing=True,
        least_epochs=500,
    ),
    Claim(
        "label-information-kept",
        "With DMGD I(T;Y) of the last hidden layer stays while I(T;X) falls.",
        "median I(T;Y), on the channel of I(T;X), ends less than 5 % below its maximum, I(T;X) "
        f"more than {DROP:.0f} %",
        NESTED,
        _drop,
        lambda v: v < 5,
        "%",
        axis="y",
        while_compressing=True,
    ),
    Claim(
        "dynamic-re-encoding",
        "With DMGD I(T;Y) of the penultimate layer fluctuates between epochs 500 and 3900.",
        "its measurements from epoch 500 on differ from their neighbours by more than 0.1 bit "
        "(standard deviation over the square root of 2)",
        NESTED,
        _fluctuation,
        lambda v: v > 0.1,
        "bits",
        layer=-2,
        axis="y",
        least_epochs=2000,
    ),
)


def verdicts(
    metrics: Sequence[dict[str, Any]], epochs: int, ceilings: Ceilings
) -> list[dict[str, Any]]:
    """Every claim judged for every arm it speaks of, JSON-able.

    Args:
        metrics: the measurements.
        epochs: of a finished arm; others are not judged.
        ceilings: per estimator the limits of x by layer, bits; None without one.

    Returns:
        Rows of id, claim, arm, criterion, unit, verdict, because, and by_estimator: median, low
        and high over seeds, whether the criterion is met (for a claim of absence: whether what it
        denies is there), whether the estimator decides, and whether it was at its ceiling.
    """
    by_arm = {arm: c for arm, c in curves(metrics).items() if c.epochs[-1] == epochs}
    rows = [_judge(claim, arm, by_arm, ceilings) for claim in CLAIMS for arm in claim.arms]
    rows += [_accuracy(arm, by_arm) for arm in NESTED]
    rows += [_gap(arm, by_arm) for arm in NESTED]
    rows += [_nesting_is_sufficient(arm, twin, by_arm, ceilings) for arm, twin in TWINS.items()]
    # Arms that were neither asked for nor are the claim's subject say nothing.
    return [r for r in rows if r["verdict"] != NOT_MEASURED or r["arm"] in ("dmgd", *PLAIN)]


def _row(claim: str, text: str, arm: str, criterion: str, unit: str) -> dict[str, Any]:
    return {
        "id": claim,
        "claim": text,
        "arm": arm,
        "criterion": criterion,
        "unit": unit,
        "verdict": NOT_MEASURED,
        "because": "",
        "by_estimator": {},
    }


def _lacking(by_arm: dict[str, Curves], *arms: str) -> str:
    names = [arm for arm in arms if arm not in by_arm]
    return f"the run has no finished arm {' and no '.join(names)}" if names else ""


def _judge(claim: Claim, arm: str, by_arm: dict[str, Curves], ceilings: Ceilings) -> dict[str, Any]:
    row = _row(claim.id, claim.text, arm, claim.criterion, claim.unit)
    if lacking := _lacking(by_arm, arm):
        return row | {"because": lacking}
    c = by_arm[arm]
    if claim.layer is not None and c.layers < -claim.layer:
        return row | {"because": f"the network has {c.layers} hidden layer(s)"}
    if c.epochs[-1] < claim.least_epochs:
        return row | {
            "because": f"the run ends at epoch {c.epochs[-1]}; it takes {claim.least_epochs}"
        }
    layers = range(c.layers) if claim.layer is None else (c.layers + claim.layer,)
    found = [(_by_estimator(claim, c, layer, ceilings), layer) for layer in layers]
    # Where any layer will do, the one in which the most speaks for it.
    order = (NOT_SUPPORTED, NOT_MEASURED, ARTEFACT, SUPPORTED)
    concluded = [(_conclude(values, claim.negated), values, layer) for values, layer in found]
    (presence, said), values, layer = max(concluded, key=lambda x: order.index(x[0][0]))
    verdict = presence
    if claim.negated:
        verdict = NOT_SUPPORTED if presence == SUPPORTED else SUPPORTED
    where = f" (layer {layer + 1})" if claim.layer is None else ""
    return row | {"verdict": verdict, "because": said + where, "by_estimator": values}


def _by_estimator(
    claim: Claim, c: Curves, layer: int, ceilings: Ceilings
) -> dict[str, dict[str, Any]]:
    out = {}
    for name in c.estimators:
        x = c.information(name)[:, :, layer]
        curve = c.information(name, claim.axis)[:, :, layer]
        value = claim.statistic(np.median(curve, 1), c.epochs)
        seeds = [claim.statistic(curve[:, s], c.epochs) for s in range(curve.shape[1])]
        falls = drop(np.median(x, 1)) > DROP
        limit = ceilings.get(name, {}).get("x", [None] * c.layers)[layer]
        out[name] = {
            **_estimate(value, seeds, claim.met(value) and (falls or not claim.while_compressing)),
            "decides": name in (*SCALE_BOUND, *SCALE_FREE)
            and (limit is None or limit >= claim.reach),
            "at_ceiling": limit is not None and bool(np.median(x, 1).max() >= limit - 0.01),
        }
    return out


def _estimate(value: Any, seeds: Sequence[float] | np.ndarray, met: bool) -> dict[str, Any]:
    return {
        "median": float(value),
        "low": float(np.min(seeds)),
        "high": float(np.max(seeds)),
        "met": bool(met),
    }


def _conclude(values: dict[str, dict[str, Any]], negated: bool) -> tuple[str, str]:
    def asked(names: Sequence[str]) -> list[bool]:
        return [values[n]["met"] for n in names if n in values and values[n]["decides"]]

    bound, free = asked(SCALE_BOUND), asked(SCALE_FREE)
    said = (
        f"{'what it denies is there' if negated else 'holds'} under {sum(bound)} of {len(bound)} "
        f"scale-bound and {sum(free)} of {len(free)} scale-free estimators that could tell"
    )
    if not any(bound):
        return (NOT_SUPPORTED if bound else NOT_MEASURED), said
    if not free and all(bound):
        return NOT_MEASURED, said
    return (SUPPORTED if free and all(free) else ARTEFACT), said


def _accuracy(arm: str, by_arm: dict[str, Curves]) -> dict[str, Any]:
    row = _row(
        "similar-accuracy",
        "DMGD reaches a terminal accuracy similar to AdamW's.",
        arm,
        "test accuracy, seed by seed, within 1 point of AdamW's in the median",
        "points",
    )
    if lacking := _lacking(by_arm, arm, "adamw"):
        return row | {"because": lacking}
    accuracy = {name: by_arm[name].performance("test", "accuracy")[-1] for name in (arm, "adamw")}
    difference = 100 * (accuracy[arm] - accuracy["adamw"])
    value = float(np.median(difference))
    met = abs(value) <= 1
    row["by_estimator"]["test accuracy less AdamW's"] = _estimate(value, difference, met)
    return row | {
        "verdict": SUPPORTED if met else NOT_SUPPORTED,
        "because": f"the median difference is {value:+.1f} points",
    }


def _gap(arm: str, by_arm: dict[str, Curves]) -> dict[str, Any]:
    row = _row(
        "tighter-gap",
        "DMGD keeps a significantly tighter gap between training and validation accuracy.",
        arm,
        "smaller than AdamW's for every seed, at the end and in the mean over equal training "
        "losses; at the end only: an artefact of under-fitting",
        "points",
    )
    if lacking := _lacking(by_arm, arm, "adamw"):
        return row | {"because": lacking}
    at_end = by_arm[arm].gap()[-1] - by_arm["adamw"].gap()[-1]
    if len(at_end) < SEEDS:
        return row | {"because": f"{len(at_end)} seed(s) say nothing of significance"}
    losses, gaps = gap_at_equal_loss({name: by_arm[name] for name in (arm, "adamw")})
    if not len(losses):
        return row | {"because": "the two arms have no training loss in common"}
    equal = (gaps[arm] - gaps["adamw"]).mean(0)
    found = {"at the end": at_end, "at equal training loss": equal}
    values = {k: _estimate(np.median(v), v, bool((v < 0).all())) for k, v in found.items()}
    end_met, equal_met = (value["met"] for value in values.values())
    return row | {
        "verdict": (SUPPORTED if equal_met else ARTEFACT) if end_met else NOT_SUPPORTED,
        "because": f"gap less AdamW's: {np.median(at_end):+.2f} points at the end, "
        f"{np.median(equal):+.2f} at equal training loss",
        "by_estimator": values,
    }


def _nesting_is_sufficient(
    arm: str, twin: str, by_arm: dict[str, Curves], ceilings: Ceilings
) -> dict[str, Any]:
    """The conclusion: that the nested memory compresses, not the steps that it is fed with."""
    row = _row(
        "nesting-is-sufficient",
        "Deep nesting in optimizers is a sufficient condition for a compression phase that filters "
        "I(T;X) from I(T;Y).",
        arm,
        "compression of the last hidden layer and keeping of its I(T;Y) are supported for the arm, "
        f"and the former is not without the memory ({ARMS[twin].label} at its own learning rate)",
        "%",
    )
    if lacking := _lacking(by_arm, arm, twin):
        return row | {"because": lacking}
    compression, keeping = (
        next(claim for claim in CLAIMS if claim.id == name)
        for name in ("compression-in-last-layer", "label-information-kept")
    )
    own, kept = (_judge(claim, arm, by_arm, ceilings) for claim in (compression, keeping))
    without = _judge(compression, twin, by_arm, ceilings)
    met = (own["verdict"], kept["verdict"]) == (SUPPORTED, SUPPORTED)
    return row | {
        "verdict": SUPPORTED if met and without["verdict"] != SUPPORTED else NOT_SUPPORTED,
        "because": f"compression {own['verdict']}, I(T;Y) kept {kept['verdict']}; without the "
        f"memory compression {without['verdict']}",
        "by_estimator": own["by_estimator"],
    }
