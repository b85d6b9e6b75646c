"""Verdicts on made-up measurements of which the right verdict is plain."""

import numpy as np
import pytest

from nestax import information
from nestax_studies.information_plane.claims import CLAIMS, verdicts
from nestax_studies.information_plane.curves import curves, drop, gap_at_equal_loss
from nestax_studies.information_plane.measure import ESTIMATORS, SCALE_BOUND, SCALE_FREE

EPOCHS = (0, 10, 100, 300, 1000, 2000, 3999)
FLAT = (2, 8, 8, 8, 8, 8, 8)
FALLING = (2, 8, 10, 9, 6, 3, 0.5)


def run(arm, x=FLAT, only=ESTIMATORS, y=FLAT, train=0.95, test=0.93, loss=None, seeds=3):
    """Measurements of two layers; estimators not in `only` see a flat curve."""
    records = []
    for i, epoch in enumerate(EPOCHS):
        info = {}
        for name in ESTIMATORS:
            value = x[i] if name in only else FLAT[i]
            info[name] = {
                "x": [[value + 0.01 * s] * 2 for s in range(seeds)],
                "y": [[y[i] / 4] * 2] * seeds,
            }
        now = (loss or np.geomspace(2, 0.1, len(EPOCHS)))[i]
        records.append(
            {
                "arm": arm,
                "epoch": epoch,
                "train": {"loss": [now] * seeds, "accuracy": [train] * seeds},
                "test": {"loss": [now + 0.1] * seeds, "accuracy": [test] * seeds},
                "information": {"train": info, "test": info},
                "controls": {},
            }
        )
    return records


UNLIMITED = {name: {"x": [None, None], "y": 3.3} for name in ESTIMATORS}


def judged(metrics, ceilings=UNLIMITED):
    return verdicts(metrics, EPOCHS[-1], ceilings)


def verdict(metrics, claim, arm, ceilings=UNLIMITED):
    (row,) = [r for r in judged(metrics, ceilings) if (r["id"], r["arm"]) == (claim, arm)]
    return row


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
    row = verdict(run("dmgd", FALLING, only), "compression-in-last-layer", "dmgd")
    assert row["verdict"] == expected
    assert set(row["by_estimator"]) == set(ESTIMATORS)


@pytest.mark.parametrize(
    ("only", "expected"), [(ESTIMATORS, "not supported"), (SCALE_BOUND, "supported")]
)
def test_absence_is_judged_by_the_standard_of_presence(only, expected):
    row = verdict(run("sgd", FALLING, only), "no-compression-in-standard-optimizers", "sgd")
    assert row["verdict"] == expected


def test_values_and_spread_are_those_of_the_seeds():
    row = verdict(run("dmgd", FALLING), "last-layer-to-zero", "dmgd")
    value = row["by_estimator"]["gaussian"]
    assert (value["low"], value["median"], value["high"]) == pytest.approx((0.5, 0.51, 0.52))
    assert value["met"] is True


def test_a_drop_of_ten_per_cent_is_not_yet_compression():
    curve = (0, 5, 10, 10, 10, 10, 9.01)
    row = verdict(run("dmgd", curve), "compression-in-last-layer", "dmgd")
    assert row["verdict"] == "not supported"
    assert drop(np.array([1.0, 10, 9])) == pytest.approx(10)
    assert drop(np.zeros(3)) == 0


def test_what_was_not_run_is_not_measured():
    by_id = {(r["id"], r["arm"]): r for r in judged(run("dmgd"))}
    assert by_id["similar-accuracy", "dmgd"]["verdict"] == "not measured"
    assert "no finished arm adamw" in by_id["similar-accuracy", "dmgd"]["because"]
    assert by_id["no-compression-in-standard-optimizers", "sgd"]["verdict"] == "not measured"
    assert by_id["nesting-is-sufficient", "dmgd"]["because"] == "the run has no finished arm sgd"


def test_an_unfinished_arm_is_not_judged():
    unfinished = [r for r in run("dmgd", FALLING) if r["epoch"] <= 2000]
    rows = judged(unfinished + run("adamw"))
    assert {r["verdict"] for r in rows if r["arm"] == "dmgd"} == {"not measured"}
    assert all(r["verdict"] != "not measured" for r in rows if r["arm"] == "adamw")


def test_a_run_too_short_for_a_claim_says_so():
    short = [r for r in run("dmgd") if r["epoch"] <= 300]
    row = next(r for r in verdicts(short, 300, UNLIMITED) if r["id"] == "dynamic-re-encoding")
    assert (row["verdict"], row["because"]) == (
        "not measured",
        "the run ends at epoch 300; it takes 2000",
    )


def test_an_estimator_whose_ceiling_is_below_the_claim_is_not_asked():
    high = run("adamw", (2, 12, 12, 12, 12, 12, 12))
    assert verdict(high, "plateau-above-ten-bits", "adamw")["verdict"] == "supported"
    low = {name: {"x": [8.97, 8.97]} for name in ESTIMATORS if "kde" in name}
    row = verdict(high, "plateau-above-ten-bits", "adamw", UNLIMITED | low)
    assert row["verdict"] == "supported"
    assert not row["by_estimator"]["kde_upper"]["decides"]
    assert row["by_estimator"]["kde_upper"]["at_ceiling"]
    free = {name: {"x": [8.0, 8.0]} for name in SCALE_FREE}
    row = verdict(high, "plateau-above-ten-bits", "adamw", UNLIMITED | free)
    assert row["verdict"] == "not measured"


def test_a_rise_without_a_fall_is_no_expansion_before_compression():
    curve = (2, 8, 9.9, 10, 9.95, 9.95, 9.95)
    for claim in ("expansion-until-epoch-150", "label-information-kept"):
        assert verdict(run("dmgd", curve), claim, "dmgd")["verdict"] == "not supported"
    falls = (2, 8, 10, 9, 8, 8, 8)
    for claim in ("expansion-until-epoch-150", "label-information-kept"):
        assert verdict(run("dmgd", falls), claim, "dmgd")["verdict"] == "supported"


def test_a_drift_is_no_fluctuation():
    drift, jumping = (2, 8, 8, 8, 8, 7.5, 7), (2, 8, 8, 8, 4, 8, 4)
    claim = "dynamic-re-encoding"
    assert verdict(run("dmgd", y=drift), claim, "dmgd")["verdict"] == "not supported"
    assert verdict(run("dmgd", y=jumping), claim, "dmgd")["verdict"] == "supported"


def test_one_layer_must_satisfy_the_estimators_together():
    """Different layers falling under different estimators is compression in none."""
    metrics = run("sgd")
    for i, record in enumerate(metrics):
        for name, pair in record["information"]["train"].items():
            layer = 0 if name in SCALE_FREE else 1
            for seed in pair["x"]:
                seed[layer] = FALLING[i]
    row = verdict(metrics, "no-compression-in-standard-optimizers", "sgd")
    assert row["verdict"] == "supported"


def measured_run(final):
    """A run whose last layer, really measured, begins as `spread` and ends as `final`."""
    rng = np.random.default_rng(0)
    y = np.arange(1437) % 10
    spread = rng.uniform(-0.95, 0.95, (1437, 4)).astype(np.float32)
    metrics = run("dmgd")
    for record in metrics:
        t = final(spread, y, rng) if record["epoch"] == EPOCHS[-1] else spread
        for name, pair in record["information"]["train"].items():
            x = estimate(name, t, y)
            pair["x"] = [[x, x]] * 3
    return metrics


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
    claim = "compression-in-last-layer"
    assert verdict(measured_run(collapsed), claim, "dmgd")["verdict"] == "supported"
    shrunk = measured_run(lambda spread, y, rng: 0.02 * spread)
    assert verdict(shrunk, claim, "dmgd")["verdict"] == "artefact"
    same = measured_run(lambda spread, y, rng: spread)
    assert verdict(same, claim, "dmgd")["verdict"] == "not supported"


def test_every_claim_of_the_source_has_a_verdict():
    metrics = run("sgd") + run("gdm") + run("adamw") + run("dmgd", FALLING)
    rows = judged(metrics)
    assert {r["id"] for r in rows} == {c.id for c in CLAIMS} | {
        "similar-accuracy",
        "tighter-gap",
        "nesting-is-sufficient",
    }
    assert all(r["verdict"] != "not measured" for r in rows)
    assert all(r["criterion"] and r["claim"] and r["because"] for r in rows)


def test_accuracy_is_compared_with_adamw():
    adamw = run("adamw", test=0.93)
    near, far = run("dmgd", test=0.925), run("dmgd", test=0.905)
    assert verdict(adamw + near, "similar-accuracy", "dmgd")["verdict"] == "supported"
    row = verdict(adamw + far, "similar-accuracy", "dmgd")
    assert row["verdict"] == "not supported"
    assert row["because"] == "the median difference is -2.5 points"


def test_a_gap_that_is_small_only_because_training_stopped_short_is_an_artefact():
    loss = tuple(np.geomspace(2, 0.5, len(EPOCHS)))
    adamw, under_fit = run("adamw"), run("dmgd", loss=loss)
    for i, record in enumerate(adamw + under_fit):
        gap = 0.1 * (2 - record["train"]["loss"][0])  # one curve for both
        record["test"]["accuracy"] = [0.95 - gap - 1e-9 * (i < len(adamw))] * 3
    row = verdict(adamw + under_fit, "tighter-gap", "dmgd")
    assert row["by_estimator"]["at the end"]["met"]
    assert abs(row["by_estimator"]["at equal training loss"]["median"]) < 0.3


def test_gap_is_read_where_the_loss_first_passes():
    a, b = run("sgd"), run("adamw", test=0.90)
    losses, gaps = gap_at_equal_loss(curves(a + b), points=5)
    np.testing.assert_allclose(losses[[0, -1]], [2, 0.1])
    np.testing.assert_allclose(gaps["sgd"], np.full((5, 3), 2.0))
    np.testing.assert_allclose(gaps["adamw"], np.full((5, 3), 5.0))
    never = run("adamw", loss=(9, 8, 7, 6, 5, 4, 3))
    assert len(gap_at_equal_loss(curves(a + never))[0]) == 0


def test_one_seed_says_nothing_of_a_gap():
    row = verdict(run("dmgd", seeds=1) + run("adamw", seeds=1), "tighter-gap", "dmgd")
    assert (row["verdict"], row["because"]) == (
        "not measured",
        "1 seed(s) say nothing of significance",
    )


def test_losses_of_exactly_zero_are_losses():
    zero = run("sgd", loss=(2, 1, 0.1, 0, 0, 0, 0)) + run("adamw", loss=(2, 1, 0.1, 0, 0, 0, 0))
    losses, gaps = gap_at_equal_loss(curves(zero))
    assert np.all(np.isfinite(losses))
    assert np.all(np.isfinite(gaps["sgd"]))


@pytest.mark.parametrize(
    ("dmgd", "twin", "kept", "expected"),
    [
        (FALLING, FLAT, FLAT, "supported"),
        (FALLING, FALLING, FLAT, "not supported"),  # so does the update without the memory
        (FALLING, FLAT, FALLING, "not supported"),  # it forgot the labels as well
        (FLAT, FLAT, FLAT, "not supported"),
    ],
)
def test_nesting_is_sufficient_only_against_its_twin(dmgd, twin, kept, expected):
    metrics = run("dmgd", dmgd, y=kept) + run("sgd", twin)
    assert verdict(metrics, "nesting-is-sufficient", "dmgd")["verdict"] == expected
