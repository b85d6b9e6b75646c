"""Verdicts on made-up measurements of which the right verdict is plain."""

import numpy as np
import pytest

from nestax import information
from nestax_studies.information_plane.arms import ARMS
from nestax_studies.information_plane.claims import (
    CLAIMS,
    drop,
    gap_at_equal_loss,
    generalization,
    rulings,
)
from nestax_studies.information_plane.measure import ESTIMATORS, SCALE_BOUND, SCALE_FREE, Curves

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
    shape = (len(EPOCHS), seeds, 2)
    spread = 0.01 * np.arange(seeds)[None, :, None]

    def curve(values):
        return np.broadcast_to(np.asarray(values, float)[:, None, None], shape)

    found = {
        name: {"x": curve(x if name in only else FLAT) + spread, "y": curve(y) / 4}
        for name in ESTIMATORS
    }
    losses = np.geomspace(2, 0.1, len(EPOCHS)) if loss is None else np.asarray(loss, float)
    part = {"loss": np.repeat(losses[:, None], seeds, 1), "accuracy": np.zeros(shape[:2])}
    return {
        "epoch": list(EPOCHS),
        "train": part | {"accuracy": np.full(shape[:2], train)},
        "test": part | {"accuracy": np.full(shape[:2], test)},
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
        (("gaussian",), "artefact"),
        (("gaussian", "quantile4"), "artefact"),
        (("quantile30", "gaussian_standardized"), "not supported"),  # they do not decide
        (SCALE_FREE, "not supported"),
        ((), "not supported"),
    ],
)
def test_compression_is_what_survives_a_change_of_scale(only, expected):
    found = verdict(LAST, "dmgd", dmgd=run(FALLING, only))
    assert found.word == expected and found.holds is (expected == "supported")
    assert set(found.said) == set(ESTIMATORS)


@pytest.mark.parametrize(
    ("only", "expected"), [(ESTIMATORS, "not supported"), (SCALE_BOUND, "supported")]
)
def test_absence_is_judged_by_the_standard_of_presence(only, expected):
    assert verdict(ABSENT, "sgd", sgd=run(FALLING, only)).word == expected


def test_values_and_spread_are_those_of_the_seeds():
    found = verdict(ZERO, "dmgd", dmgd=run(FALLING))
    value = found.said["gaussian"]
    assert (value.judged, value.met) == (pytest.approx(0.51), True)
    assert found.values["gaussian"] == pytest.approx([0.5, 0.51, 0.52])
    assert "gaussian 0.51 (0.5 to 0.52); binned30 0.51 (0.5 to 0.52)" in found.measured


@pytest.mark.parametrize(
    ("claim", "arm", "options", "expected"),
    [
        # More than 10 % below the maximum, of the last layer and of the one before.
        (LAST, "dmgd", {"x": (0, 5, 10, 10, 10, 10, 9.01)}, "not supported"),
        (LAST, "dmgd", {"x": (0, 5, 10, 10, 10, 10, 8.98)}, "supported"),
        (PENULTIMATE, "published", {"x": (0, 5, 10, 10, 10, 10, 9.01)}, "not supported"),
        (PENULTIMATE, "published", {"x": (0, 5, 10, 10, 10, 10, 8.98)}, "supported"),
        (ABSENT, "gdm", {"x": (0, 5, 10, 10, 10, 10, 9.01)}, "supported"),
        (ABSENT, "gdm", {"x": (0, 5, 10, 10, 10, 10, 8.98)}, "not supported"),
        # Above 10 bits, from epoch 300 on.
        (PLATEAU, "adamw", {"x": (2, 3, 4, 10.1, 12, 12, 12)}, "supported"),
        (PLATEAU, "adamw", {"x": (2, 3, 4, 12, 9.98, 12, 12)}, "not supported"),
        (PLATEAU, "adamw", {"x": (2, 3, 4, 9.98, 12, 12, 12)}, "not supported"),
        # The end, of the median seed: 0.01 above the first.
        (ZERO, "dmgd", {"x": (2, 8, 8, 8, 8, 2, 0.98)}, "supported"),
        (ZERO, "dmgd", {"x": (2, 8, 8, 8, 8, 2, 1.0)}, "not supported"),
        (SEVEN, "dmgd", {"x": (2, 9, 9, 9, 9, 9, 6.0)}, "supported"),
        (SEVEN, "dmgd", {"x": (2, 9, 9, 9, 9, 9, 5.98)}, "not supported"),
        (SEVEN, "dmgd", {"x": (2, 9, 9, 9, 9, 9, 7.98)}, "supported"),
        (SEVEN, "dmgd", {"x": (2, 9, 9, 9, 9, 9, 8.0)}, "not supported"),
        (SEVEN, "dmgd", {"x": (2, 7, 7, 7, 7, 7, 7)}, "not supported"),  # it does not fall
        # When it is largest, and whether it falls.
        (EXPANDS, "dmgd", {"x": (2, 10, 9, 8, 8, 8, 8)}, "not supported"),
        (EXPANDS, "dmgd", {"x": (2, 8, 10, 9, 8, 8, 8)}, "supported"),
        (EXPANDS, "dmgd", {"x": (2, 8, 9, 10, 8, 8, 8)}, "supported"),
        (EXPANDS, "dmgd", {"x": (2, 8, 9, 9, 10, 8, 8)}, "not supported"),
        (EXPANDS, "dmgd", {"x": (2, 8, 9.9, 10, 9.95, 9.95, 9.95)}, "not supported"),
        # Less than 5 % of I(T;Y) lost while I(T;X) falls.
        (KEPT, "dmgd", {"x": FALLING, "y": (1, 2, 2, 2, 2, 2, 1.91)}, "supported"),
        (KEPT, "dmgd", {"x": FALLING, "y": (1, 2, 2, 2, 2, 2, 1.89)}, "not supported"),
        (KEPT, "dmgd", {"x": FLAT, "y": (1, 2, 2, 2, 2, 2, 2)}, "not supported"),
        # A drift is no fluctuation: differences of -1, 1 have deviation 1, here in quarters.
        (RECODES, "dmgd", {"y": (2, 8, 8, 8, 8, 7.5, 7)}, "not supported"),
        (RECODES, "dmgd", {"y": (2, 8, 8, 8, 8, 7.42, 8)}, "supported"),
        (RECODES, "dmgd", {"y": (2, 8, 8, 8, 8, 7.44, 8)}, "not supported"),
    ],
)
def test_criteria_at_their_boundaries(claim, arm, options, expected):
    assert verdict(claim, arm, **{arm: run(**options)}).word == expected


def test_a_drop_is_relative_to_the_maximum():
    assert drop(np.array([1.0, 10, 9])) == pytest.approx(10)
    assert drop(np.zeros(3)) == 0


def test_what_was_not_run_is_not_measured():
    found = verdict(ACCURACY, "dmgd", dmgd=run())
    assert found.holds is None and "no finished arm adamw" in found.measured
    assert verdict(ABSENT, "sgd", dmgd=run()).word == "not measured"
    assert verdict(NESTING, "dmgd", dmgd=run()).measured == "the run has no finished arm sgd"
    assert not [r for r in judged({"dmgd": run()}) if r.of == ARMS["published"].label]


def test_a_run_too_short_for_a_claim_says_so():
    short = run() | {"epoch": [0, 1, 2, 3, 4, 5, 300]}
    found = verdict(RECODES, "dmgd", dmgd=short)
    assert (found.holds, found.measured) == (None, "the run ends at epoch 300; it takes 2000")
    assert verdict(LAST, "dmgd", dmgd=short).holds is False


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


def measured_run(final):
    """A run whose last layer, really measured, begins as `spread` and ends as `final`."""
    rng = np.random.default_rng(0)
    y = np.arange(1437) % 10
    spread = rng.uniform(-0.95, 0.95, (1437, 4)).astype(np.float32)
    last, record = final(spread, y, rng), run()
    for name, pair in record["information"]["train"].items():
        pair["x"] = np.full((len(EPOCHS), 3, 2), estimate(name, spread, y))
        pair["x"][-1] = estimate(name, last, y)
    return record


def estimate(name, t, y):
    if name.endswith("standardized") or "standardized_" in name:
        t = information.standardize(t)
    if name.startswith("gaussian"):
        return float(information.gaussian_upper_bound(t[:500]).x)
    if name.startswith("kde"):
        bounds = information.kde_bounds(t[:500])
        return float(bounds.x_lower if name.endswith("lower") else bounds.x_upper)
    edges = {"a": "adaptive", "q": "quantile"}.get(name[0], "fixed")
    return float(information.binned(t, bins=int(name.lstrip("abdeilnqptuv")), edges=edges).x)


def collapsed(spread, y, rng):
    means = rng.uniform(-0.9, 0.9, (10, 4))
    return (means[y] + 1e-4 * rng.normal(size=spread.shape)).astype(np.float32)


def test_a_real_collapse_onto_classes_is_supported_and_a_change_of_scale_an_artefact():
    """Positive and negative control of the whole chain, estimators included."""
    assert verdict(LAST, "dmgd", dmgd=measured_run(collapsed)).word == "supported"
    shrunk = measured_run(lambda spread, y, rng: 0.02 * spread)
    assert verdict(LAST, "dmgd", dmgd=shrunk).word == "artefact"
    same = measured_run(lambda spread, y, rng: spread)
    assert verdict(LAST, "dmgd", dmgd=same).word == "not supported"


def test_every_claim_of_the_source_has_a_verdict():
    found = judged({"sgd": run(), "gdm": run(), "adamw": run(), "dmgd": run(FALLING)})
    assert {c.text for c in CLAIMS} < {r.claim for r in found}
    assert len({r.claim for r in found}) == len(CLAIMS) + 3
    assert all(r.holds is not None and r.criterion and r.measured for r in found)


@pytest.mark.parametrize(
    ("test", "expected"),
    [(0.9201, True), (0.9399, True), (0.9199, False), (0.9401, False)],
)
def test_accuracy_is_compared_with_adamw(test, expected):
    found = verdict(ACCURACY, "dmgd", adamw=run(test=0.93), dmgd=run(test=test))
    assert found.holds is expected
    assert f"the median difference is {100 * (test - 0.93):+.1f} points" in found.measured


def test_a_gap_must_be_tighter_for_every_seed():
    wide, tight = run(test=0.90), run(test=0.92)
    assert verdict(GAP, "dmgd", adamw=wide, dmgd=tight).word == "supported"
    assert verdict(GAP, "dmgd", adamw=tight, dmgd=wide).word == "not supported"
    tight["test"]["accuracy"][-1, 0] = 0.90
    assert verdict(GAP, "dmgd", adamw=wide, dmgd=tight).word == "not supported"
    few = {"adamw": run(seeds=2), "dmgd": run(seeds=2)}
    assert verdict(GAP, "dmgd", **few).measured == "2 seed(s) say nothing of significance"


def test_a_gap_that_is_small_only_because_training_stopped_short_is_an_artefact():
    adamw, under_fit = run(), run(loss=np.geomspace(2, 0.5, len(EPOCHS)))
    for record in (adamw, under_fit):  # one curve for both, but for a hair
        record["test"]["accuracy"] = 0.95 - 0.1 * (2 - record["train"]["loss"])
    adamw["test"]["accuracy"] = adamw["test"]["accuracy"] + 0.002
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
