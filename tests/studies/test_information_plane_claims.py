"""Verdicts on made-up measurements of which the right verdict is plain."""

import numpy as np
import pytest

from nestax_studies.information_plane.arms import ARMS
from nestax_studies.information_plane.claims import (
    CLAIMS,
    drop,
    gap_at_equal_loss,
    generalization,
    rulings,
)
from nestax_studies.information_plane.measure import (
    ESTIMATORS,
    SCALE_BOUND,
    SCALE_FREE,
    Curves,
    estimate,
)

EPOCHS = (0, 10, 100, 300, 1000, 2000, 3999)
FLAT = (2, 8, 8, 8, 8, 8, 8)
FALLING = (2, 8, 10, 9, 6, 3, 0.5)
UNLIMITED = {name: {"x": [None, None], "y": 3.3} for name in ESTIMATORS}
ABSENT, PLATEAU = "no significant compression phase", "above 10 bits"
LAST, PENULTIMATE = "the last hidden layer compresses", "the penultimate hidden layer compresses"
ZERO, SEVEN, EXPANDS = "approaches 0 bits", "near 7 bits", "until about epoch 150"
KEPT, RECODES = "stays while I(T;X) falls", "fluctuates between"
ACCURACY, GAP, NESTING = "similar to AdamW's", "tighter gap", "sufficient condition"


def run(x=FLAT, only=ESTIMATORS, y=FLAT, train=0.95, test=0.93, loss=None, seeds=3):
    """A record of two layers; estimators not in `only` see a flat curve."""
    spread = 0.01 * np.arange(seeds)[None, :, None]

    def curve(values):
        shape = (len(EPOCHS), seeds, 2)
        return np.broadcast_to(np.asarray(values, float)[:, None, None], shape)

    losses = np.geomspace(2, 0.1, len(EPOCHS)) if loss is None else np.asarray(loss, float)
    part = {"loss": np.repeat(losses[:, None], seeds, 1)}
    found = {
        name: {"x": curve(x if name in only else FLAT) + spread, "y": curve(y) / 4}
        for name in ESTIMATORS
    }
    return {
        "epoch": list(EPOCHS),
        "train": part | {"accuracy": np.full((len(EPOCHS), seeds), train)},
        "test": part | {"accuracy": np.full((len(EPOCHS), seeds), test)},
        "information": {"train": found},
    }


def judged(arms, ceilings=UNLIMITED):
    return rulings({arm: Curves(record) for arm, record in arms.items()}, ceilings)


def verdict(claim, arm, ceilings=UNLIMITED, **arms):
    of = ARMS[arm].label
    (found,) = [r for r in judged(arms, ceilings) if claim in r.claim and r.of == of]
    return found


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (ESTIMATORS, "supported"),
        ((*SCALE_FREE, "gaussian"), "supported"),
        (SCALE_BOUND, "artefact"),
        (("gaussian", "quantile4"), "artefact"),
        (("quantile30", "gaussian_standardized"), "not supported"),  # they do not decide
        (SCALE_FREE, "not supported"),
        ((), "not supported"),
    ],
)
def test_compression_is_what_survives_a_change_of_scale(only, expected):
    """And absence is judged by the standard of presence."""
    found = verdict(LAST, "dmgd", dmgd=run(FALLING, only))
    assert found.word == expected and found.holds is (expected == "supported")
    assert set(found.said) == set(ESTIMATORS)
    assert verdict(ABSENT, "sgd", sgd=run(FALLING, only)).holds is (expected != "supported")


@pytest.mark.parametrize(
    ("claim", "arm", "holds", "fails"),
    [
        # More than 10 % below the maximum, of the last layer and of the one before.
        (LAST, "dmgd", (0, 5, 10, 10, 10, 10, 8.98), (0, 5, 10, 10, 10, 10, 9.01)),
        (PENULTIMATE, "published", (0, 5, 10, 10, 10, 10, 8.98), (0, 5, 10, 10, 10, 10, 9.01)),
        (ABSENT, "gdm", (0, 5, 10, 10, 10, 10, 9.01), (0, 5, 10, 10, 10, 10, 8.98)),
        # Above 10 bits, from epoch 300 on.
        (PLATEAU, "adamw", (2, 3, 4, 10.1, 12, 12, 12), (2, 3, 4, 12, 9.98, 12, 12)),
        (PLATEAU, "adamw", (2, 3, 4, 10.1, 12, 12, 12), (2, 3, 4, 9.98, 12, 12, 12)),
        # The end, of the median seed: 0.01 above the first.
        (ZERO, "dmgd", (2, 8, 8, 8, 8, 2, 0.98), (2, 8, 8, 8, 8, 2, 1.0)),
        (SEVEN, "dmgd", (2, 9, 9, 9, 9, 9, 6.0), (2, 9, 9, 9, 9, 9, 5.98)),
        (SEVEN, "dmgd", (2, 9, 9, 9, 9, 9, 7.98), (2, 9, 9, 9, 9, 9, 8.0)),
        (SEVEN, "dmgd", (2, 9, 9, 9, 9, 9, 7), (2, 7, 7, 7, 7, 7, 7)),  # it does not fall
        # When it is largest, and whether it falls.
        (EXPANDS, "dmgd", (2, 8, 10, 9, 8, 8, 8), (2, 10, 9, 8, 8, 8, 8)),
        (EXPANDS, "dmgd", (2, 8, 9, 10, 8, 8, 8), (2, 8, 9, 9, 10, 8, 8)),
        (EXPANDS, "dmgd", (2, 8, 9, 10, 8, 8, 8), (2, 8, 9.9, 10, 9.95, 9.95, 9.95)),
        # Less than 5 % of I(T;Y) lost while I(T;X) falls.
        (KEPT, "dmgd", (FALLING, (1, 2, 2, 2, 2, 2, 1.91)), (FALLING, (1, 2, 2, 2, 2, 2, 1.89))),
        (KEPT, "dmgd", (FALLING, (1, 2, 2, 2, 2, 2, 2)), (FLAT, (1, 2, 2, 2, 2, 2, 2))),
        # A drift is no fluctuation: differences of -1, 1 have deviation 1, here in quarters.
        (RECODES, "dmgd", (FLAT, (2, 8, 8, 8, 8, 7.42, 8)), (FLAT, (2, 8, 8, 8, 8, 7.44, 8))),
        (RECODES, "dmgd", (FLAT, (2, 8, 8, 8, 8, 7.42, 8)), (FLAT, (2, 8, 8, 8, 8, 7.5, 7))),
    ],
)  # fmt: skip
def test_criteria_at_their_boundaries(claim, arm, holds, fails):
    for curves, expected in ((holds, "supported"), (fails, "not supported")):
        x, y = curves if len(curves) == 2 else (curves, FLAT)
        assert verdict(claim, arm, **{arm: run(x, y=y)}).word == expected


def test_values_and_spread_are_those_of_the_seeds():
    found = verdict(ZERO, "dmgd", dmgd=run(FALLING))
    value = found.said["gaussian"]
    assert (value.judged, value.met) == (pytest.approx(0.51), True)
    assert found.values["gaussian"] == pytest.approx([0.5, 0.51, 0.52])
    assert "gaussian 0.51 (0.5 to 0.52); binned30 0.51 (0.5 to 0.52)" in found.measured
    assert drop(np.array([1.0, 10, 9])) == pytest.approx(10) and drop(np.zeros(3)) == 0


def test_what_was_not_run_or_not_long_enough_is_not_measured():
    found = verdict(ACCURACY, "dmgd", dmgd=run())
    assert found.holds is None and "no finished arm adamw" in found.measured
    assert verdict(ABSENT, "sgd", dmgd=run()).word == "not measured"
    assert verdict(NESTING, "dmgd", dmgd=run()).measured == "the run has no finished arm sgd"
    assert not [r for r in judged({"dmgd": run()}) if r.of == ARMS["published"].label]
    short = run() | {"epoch": [0, 1, 2, 3, 4, 5, 300]}
    found = verdict(RECODES, "dmgd", dmgd=short)
    assert (found.holds, found.measured) == (None, "the run ends at epoch 300; it takes 2000")
    assert verdict(LAST, "dmgd", dmgd=short).holds is False


def test_what_no_estimator_could_tell_is_not_absent_either():
    record = run()
    told = record["information"]["train"]
    record["information"]["train"] = {n: told[n] for n in told if n not in SCALE_BOUND}
    assert verdict(ABSENT, "sgd", sgd=record).word == "not measured"


def test_an_estimator_whose_ceiling_is_below_the_claim_is_not_asked():
    high = run((2, 12, 12, 12, 12, 12, 12))
    low = {name: {"x": [8.97, 8.97]} for name in ESTIMATORS if "kde" in name}
    found = verdict(PLATEAU, "adamw", UNLIMITED | low, adamw=high)
    assert found.word == "supported"
    assert not found.said["kde_upper"].decides and found.said["kde_upper"].at_ceiling
    free = {name: {"x": [8.0, 8.0]} for name in SCALE_FREE}
    assert verdict(PLATEAU, "adamw", UNLIMITED | free, adamw=high).word == "not measured"


def test_one_layer_must_satisfy_the_estimators_together():
    """Different layers falling under different estimators is compression in none."""
    record = run()
    for name, pair in record["information"]["train"].items():
        pair["x"][:, :, 0 if name in SCALE_FREE else 1] = np.array(FALLING)[:, None]
    assert verdict(ABSENT, "sgd", sgd=record).word == "supported"


def test_a_real_collapse_onto_classes_is_supported_and_a_change_of_scale_an_artefact():
    """Positive and negative control of the whole chain, estimators included."""
    rng, y = np.random.default_rng(0), np.arange(1437) % 10
    spread = rng.uniform(-0.95, 0.95, (1437, 4)).astype(np.float32)
    seen = lambda name, t: float(estimate(name, t, y, 10, 500)["x"])  # noqa: E731
    begin = {name: seen(name, spread) for name in ESTIMATORS}
    centres = rng.uniform(-0.9, 0.9, (10, 4))[y]
    for last, expected in (
        (centres + 1e-4 * rng.normal(size=spread.shape), "supported"),
        (0.02 * spread, "artefact"),
        (spread, "not supported"),
    ):
        record = run()
        for name, pair in record["information"]["train"].items():
            pair["x"] = np.full((len(EPOCHS), 3, 2), begin[name])
            pair["x"][-1] = seen(name, last.astype(np.float32))
        assert verdict(LAST, "dmgd", dmgd=record).word == expected


def test_every_claim_of_the_source_has_a_verdict():
    found = judged({"sgd": run(), "gdm": run(), "adamw": run(), "dmgd": run(FALLING)})
    assert {c.text for c in CLAIMS} < {r.claim for r in found}
    assert len({r.claim for r in found}) == len(CLAIMS) + 3
    assert all(r.holds is not None and r.criterion and r.measured for r in found)


def test_accuracy_is_compared_with_adamw():
    for test, expected in ((0.9201, True), (0.9399, True), (0.9199, False), (0.9401, False)):
        found = verdict(ACCURACY, "dmgd", adamw=run(test=0.93), dmgd=run(test=test))
        assert found.holds is expected
        assert f"the median difference is {100 * (test - 0.93):+.1f} points" in found.measured


def test_a_gap_must_be_tighter_for_every_seed_and_at_equal_loss():
    wide, tight = run(test=0.90), run(test=0.92)
    assert verdict(GAP, "dmgd", adamw=wide, dmgd=tight).word == "supported"
    assert verdict(GAP, "dmgd", adamw=tight, dmgd=wide).word == "not supported"
    tight["test"]["accuracy"][-1, 0] = 0.90
    assert verdict(GAP, "dmgd", adamw=wide, dmgd=tight).word == "not supported"
    few = {"adamw": run(seeds=2), "dmgd": run(seeds=2)}
    assert verdict(GAP, "dmgd", **few).measured == "2 seed(s) say nothing of significance"
    # Training stopped short, on one curve for both, but for a hair.
    adamw, under_fit = run(), run(loss=np.geomspace(2, 0.5, len(EPOCHS)))
    for record, more in ((adamw, 0.002), (under_fit, 0)):
        record["test"]["accuracy"] = 0.95 + more - 0.1 * (2 - record["train"]["loss"])
    found = verdict(GAP, "dmgd", adamw=adamw, dmgd=under_fit)
    assert found.word == "artefact"
    assert found.said["at the end"].met and not found.said["at equal training loss"].met


def test_gap_is_read_where_the_loss_first_passes():
    a, b = Curves(run()), Curves(run(test=0.90))
    losses, gaps = gap_at_equal_loss({"sgd": a, "adamw": b}, points=5)
    np.testing.assert_allclose(losses[[0, -1]], [2, 0.1])
    np.testing.assert_allclose(gaps["sgd"], np.full((5, 3), 2.0))
    np.testing.assert_allclose(gaps["adamw"], np.full((5, 3), 5.0))
    never = Curves(run(loss=(9, 8, 7, 6, 5, 4.6, 4.6)))
    assert len(gap_at_equal_loss({"sgd": a, "adamw": never})[0]) == 0
    # An arm that never halved its loss leaves the others what they have in common.
    assert list(generalization({"sgd": a, "adamw": never})[1]) == ["sgd"]
    zero = Curves(run(loss=(2, 1, 0.1, 0, 0, 0, 0)))
    losses, gaps = gap_at_equal_loss({"sgd": zero, "adamw": zero})
    assert np.all(np.isfinite(losses)) and np.all(np.isfinite(gaps["sgd"]))


@pytest.mark.parametrize(
    ("dmgd", "twin", "kept", "expected"),
    [
        (FALLING, FLAT, FLAT, True),
        (FALLING, FALLING, FLAT, False),  # so does the update without the memory
        (FALLING, FLAT, FALLING, False),  # it forgot the labels as well
        (FLAT, FLAT, FLAT, False),
    ],
)
def test_nesting_is_sufficient_only_against_its_twin(dmgd, twin, kept, expected):
    found = verdict(NESTING, "dmgd", dmgd=run(dmgd, y=kept), sgd=run(twin))
    assert found.holds is expected
