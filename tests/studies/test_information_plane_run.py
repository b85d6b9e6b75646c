"""Runs on embedded data: numbers from before the study was made of the lab, interruptions."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from nestax.runs import RunError, RunFolder, SettingsError
from nestax_studies import lab
from nestax_studies.information_plane import STUDY, Settings
from nestax_studies.information_plane.study import SWEEP, Bench

BEFORE = json.loads((Path(__file__).parent / "before" / "information-plane.json").read_text())
SMALL = Settings(arms=("sgd", "dmgd"), widths=(4, 3), **BEFORE["settings"])


@pytest.fixture(scope="module")
def bench():
    return Bench(SMALL)


@pytest.fixture(scope="module")
def records(bench, tmp_path_factory):
    path = tmp_path_factory.mktemp("arms")
    return {arm: bench.arm(arm, desk(path / arm)) for arm in SMALL.arms}


def desk(path):
    return lab.Desk(lambda text: None, path)


def other(bench, **options):
    """The same images and programs with other settings, and without a sweep."""
    changed = copy.copy(bench)
    changed.settings = dataclasses.replace(bench.settings, tune=False, tune_epochs=None, **options)
    return changed


def test_numbers_are_those_from_before(records):
    for arm, known in BEFORE["arms"].items():
        record = records[arm]
        assert record["rate"] == known["rate"]
        assert record["epoch"] == BEFORE["epoch"]
        np.testing.assert_allclose(record["scores"], known["scores"], rtol=1e-5)
        for place, values in known["at epoch 1"].items():
            found = record
            for name in place.split("/"):
                found = found[name]
            # An activation whose last bit differs may lie in the next cell.
            cells = {"atol": 2e-3} if "binned" in place or "quantile" in place else {}
            np.testing.assert_allclose(found[1], values, rtol=1e-5, err_msg=place, **cells)


def test_findings_and_summary_hold_what_was_measured(records):
    found = STUDY.find(SMALL, records)
    said = {(v.claim, v.of): v.word for v in found.verdicts}
    assert said == {(v["claim"], v["of"]): v["verdict"] for v in BEFORE["verdicts"]}
    row = found.numbers.summary()["DMGD"]
    accuracy = records["dmgd"]["test"]["accuracy"][-1]
    np.testing.assert_allclose(row["measures"]["test accuracy"]["values"], 100 * np.array(accuracy))
    more = json.loads(json.dumps(found.more, allow_nan=False))
    last = records["dmgd"]["information"]["train"]["gaussian"]["x"][-1]
    assert more["last"]["dmgd"]["information"]["train"]["gaussian"]["x"] == last
    assert list(more["sweeps"]["sgd"].values()) == records["sgd"]["scores"]
    (estimates,) = [e for e in more["estimators"] if "last hidden layer compresses" in e["claim"]]
    verdict = next(v for v in found.verdicts if "last hidden layer compresses" in v.claim)
    assert estimates["binned30"]["seeds"] == list(verdict.values["binned30"])
    details = found.sections[0].body
    assert len(details) == len([v for v in found.verdicts if v.values])
    told = details[0].blocks[0].rows
    assert [row[0] for row in told] == list(records["sgd"]["information"]["train"])


def test_interrupted_anywhere_it_ends_as_if_nothing_had_happened(
    bench, records, tmp_path, monkeypatch
):
    """A checkpoint after every piece of training; interrupted before the first, after others."""
    often = copy.copy(bench)
    often.piece, often.keep = 0.0, 0.0
    steps, save, swept = [], RunFolder.checkpoint, []

    def interrupted(self, step, state, meta):
        if steps:
            save(self, step, state, meta)
        steps.append(step)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "checkpoint", interrupted)
    monkeypatch.setattr(often, "_sweep", lambda *a: swept.append(a) or bench._sweep(*a))
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            often.arm("sgd", desk(tmp_path))
        assert (tmp_path / "metrics.jsonl").read_text().count("\n") == (1 if len(steps) < 3 else 2)
    monkeypatch.setattr(RunFolder, "checkpoint", save)
    record = often.arm("sgd", desk(tmp_path))
    assert steps == [0, 0, 1, 2]  # 2 lies between measurements
    assert len(swept) == 1
    assert record == records["sgd"]


def test_a_loss_that_is_not_finite_stops_with_the_place(bench, tmp_path):
    with pytest.raises(RunError) as refused:
        other(bench, learning_rate=1e38).arm("sgd", desk(tmp_path / "loss"))
    message = str(refused.value)
    assert "the loss of SGD is not finite in epoch 1 (seeds 0, 1, learning rate 1e+38)" in message
    assert "smaller --learning-rate" in message
    # The loss was finite before the last step, the weights are not.
    one = other(bench, learning_rate=1e38, batch_size=1437, epochs=1)
    with pytest.raises(RunError, match="not finite in epoch 1"):
        one.arm("sgd", desk(tmp_path / "weights"))


def test_rates_are_given_published_or_matched_to_a_step(bench, tmp_path):
    def chosen(arm, **options):
        changed = other(bench, **options)
        return changed._rate(arm, changed.training(arm), desk(tmp_path))

    assert chosen("sgd", learning_rate=0.3)["rate"] == 0.3
    assert chosen("published", learning_rate=0.3)["rate"] == 1e-3
    # Sign descent moves every coordinate by its rate, but for the dead ones of gradient zero.
    assert chosen("sign", match_step=0.01)["rate"] == pytest.approx(0.01, rel=0.1)


def test_a_sweep_takes_the_rate_of_least_held_out_loss(records):
    for arm in SMALL.arms:
        record = records[arm]
        assert record["rates"] == list(SWEEP)
        assert record["rate"] == SWEEP[int(np.argmin(record["scores"]))]


def test_a_batch_larger_than_what_a_sweep_learns_from_is_refused():
    with pytest.raises(RunError, match="1294 does not fit into the 1293 images of digits"):
        Bench(dataclasses.replace(SMALL, batch_size=1294))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ("sgd", "adamax")}, "got adamax"),
        ({"widths": (3, 0)}, "widths must be positive"),
        ({"widths": ()}, "widths must be positive"),
        ({"measurements": 1}, "measurements must be at least 2"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"match_step": float("inf")}, "match_step must be finite"),
        ({"tune": True, "match_step": 1e-3}, "give one of them"),
        ({"tune_epochs": 3}, "give --tune as well"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        Settings(**options)


def test_schedule_is_log_spaced_and_complete():
    schedule = Settings(epochs=3999, measurements=25).schedule()
    assert schedule[:3] == (0, 1, 2)
    assert schedule[-1] == 3999
    assert len(schedule) <= 25
    assert Settings(epochs=1).schedule() == (0, 1)
    assert list(schedule) == sorted(set(schedule))
    assert SMALL.schedule() == (0, 1, 4)
