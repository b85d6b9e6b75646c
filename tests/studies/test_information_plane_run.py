"""A small run on embedded data: what is measured against numpy, numbers from before the study was
made of the lab, interruptions, figures."""

import copy
import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from studies.drawn import assert_range

from nestax import information
from nestax.plots import save
from nestax.runs import RunError, RunFolder, SettingsError
from nestax_studies import data, lab
from nestax_studies.data import Dataset, Split
from nestax_studies.information_plane import STUDY, Settings, figures, measure
from nestax_studies.information_plane.arms import ARMS
from nestax_studies.information_plane.measure import ESTIMATORS
from nestax_studies.information_plane.study import SWEEP, Bench
from nestax_studies.models import Layer

BEFORE = json.loads((Path(__file__).parent / "before" / "information-plane.json").read_text())
SMALL = Settings(arms=("sgd", "dmgd"), widths=(4, 3), **BEFORE["settings"])


@pytest.fixture(scope="module")
def bench():
    """With one program for each arm."""
    made = Bench(SMALL)
    made.training = functools.cache(made.training)
    return made


@pytest.fixture(scope="module")
def records(bench, tmp_path_factory):
    path = tmp_path_factory.mktemp("arms")
    return {arm: bench.arm(arm, desk(path / arm)) for arm in SMALL.arms}


def desk(path):
    return lab.Desk(lambda text: None, path)


def other(bench, **options):
    """The same images and measuring programs with other settings, and without a sweep."""
    changed = copy.copy(bench)
    changed.settings = dataclasses.replace(bench.settings, tune=False, tune_epochs=None, **options)
    del changed.training
    return changed


# What is measured


@pytest.fixture(scope="module")
def measured(bench):
    """Networks at their start: parameters, their measurement, and what numpy makes of them: of each
    seed the hidden layers and the logits, by part."""
    bench.compiling.join()
    networks = bench.training("sgd").init(jnp.arange(SMALL.seeds), jnp.zeros(SMALL.seeds))
    digits, expected = data.load("digits"), {}
    for part in ("train", "test"):
        for seed in range(SMALL.seeds):
            x, hidden = getattr(digits, part).inputs, []
            for layer in networks.parameters:
                x = x @ np.asarray(layer.weight[seed]).T + np.asarray(layer.bias[seed])
                hidden.append(np.tanh(x).astype(np.float32))
                logits, x = x, hidden[-1]
            expected[part, seed] = hidden[:-1], logits, getattr(digits, part).labels
    return networks.parameters, bench.measurement(networks.parameters), expected


def test_performance_and_controls(measured):
    parameters, record, expected = measured
    for (part, seed), (hidden, logits, labels) in expected.items():
        own = jax.nn.log_softmax(logits)[np.arange(len(labels)), labels]
        assert record[part]["loss"][seed] == pytest.approx(-float(own.mean()), rel=1e-5)
        right = (logits.argmax(1) == labels).mean()
        assert record[part]["accuracy"][seed] == pytest.approx(right, abs=1e-6)
        for index, t in enumerate(hidden) if part == "train" else ():
            found = {name: of[seed][index] for name, of in record["controls"].items()}
            assert found["std"] == pytest.approx(t.std(0).mean(), rel=1e-4)
            assert found["least_std"] == pytest.approx(t.std(0).min(), rel=1e-4)
            assert found["saturated"] == (np.abs(t) > 0.99).mean()
            assert found["distinct"] == len(np.unique(t, axis=0))
            spectrum = np.linalg.eigvalsh(np.cov(t.T))
            share = spectrum / spectrum.sum()
            rank = np.exp(-(share * np.log(share)).sum())
            assert found["effective_rank"] == pytest.approx(rank, rel=1e-3)
        norms = [np.linalg.norm(layer.weight[seed]) for layer in parameters]
        assert record["controls"]["weight_norm"][seed] == pytest.approx(norms, rel=1e-5)


def test_information_is_what_the_estimators_say_and_within_its_limits(measured, bench):
    record, ceilings = measured[1]["information"], bench.measurement.ceilings(SMALL.widths)
    assert set(record["train"]) == set(ceilings) == set(ESTIMATORS)
    assert set(record["test"]) == set(measure.TEST_ESTIMATORS)
    cells = {
        **{f"binned{bins}": (bins, "fixed") for bins in (10, 30, 100)},
        **{f"quantile{bins}": (bins, "quantile") for bins in (4, 30)},
        "adaptive30": (30, "adaptive"),
    }
    sizes = (500, SMALL.kde_points)
    for (part, seed), (hidden, _, y) in measured[2].items():
        for index, t in enumerate(hidden):
            said = {}
            for name in cells.keys() & record[part].keys():
                bins, edges = cells[name]
                found = information.binned(t, y, bins, edges=edges)
                said[name] = found.x, found.y
            for form in ("", "_standardized"):
                s, few = (information.standardize(t[:n]) if form else t[:n] for n in sizes)
                found = information.gaussian_upper_bound(s, y[:500])
                said[f"gaussian{form}"] = found.x, found.y
                if part == "train":
                    found = information.kde_bounds(few, y[: sizes[1]])
                    said[f"kde{form}_lower"] = found.x_lower, found.y_lower
                    said[f"kde{form}_upper"] = found.x_upper, found.y_upper
            for name in record[part]:
                x, about = (record[part][name][axis][seed][index] for axis in "xy")
                # Activations differ in their last bit, which may move one row to the next cell.
                assert (x, about) == pytest.approx(said[name], abs=2e-2), name
                assert part == "test" or x <= ceilings[name]["x"][index] + 2e-2, name
                if "gaussian" not in name:  # a difference of upper bounds obeys neither limit
                    assert about <= min(x, np.log2(10)) + 1e-9, name


def test_what_breaks_its_bound_is_an_error_and_programs_are_compiled_once_per_part(measured, bench):
    measurement, parameters = bench.measurement, measured[0]
    broken = measurement(jax.tree.map(lambda x: 2 * x, parameters))
    assert measurement._information._cache_size() == 2
    assert measurement._controls._cache_size() == 1
    broken = jax.tree.map(np.asarray, broken, is_leaf=lambda x: isinstance(x, list))
    broken["information"]["test"]["quantile4"]["y"] = np.full((2, 2), 3.4)
    with pytest.raises(RuntimeError, match="quantile4 on test images"):
        measurement._check(broken)


def test_noise_ruins_what_only_scale_protects_and_shuffled_labels_are_shuffled():
    """Two classes told apart by one unit: noise is harmless at scale 1, not at scale 0.05."""
    rng = np.random.default_rng(0)
    labels = (np.arange(800) % 2).astype(np.int32)
    images = np.stack([16 * labels, rng.integers(0, 17, 800)], 1).astype(np.uint8)[:, None, :]
    dataset = Dataset("toy", Split(images, labels, 16), Split(images, labels, 16), 2)
    made = measure.Measurement(dataset, "tanh", kde_points=100)
    # Phi(0.05 / 0.1) = 0.69, Phi(0.05 / 0.316) = 0.56
    for scale, noisy, noisier in ((1.0, 1.0, 1.0), (0.05, 0.69, 0.56)):
        first = Layer(jnp.array([[[2 * scale, 0.0]]]), jnp.array([[-scale]]))
        network = [first, Layer(jnp.array([[[-50.0], [50.0]]]) / scale, jnp.zeros((1, 2)))]
        assert made.evaluate(network, made.test)["accuracy"][0] == 1
        with jax.enable_x64(True):
            found = made._controls(network, made.train, made.test, made._shuffled)
            found = {name: float(of[0, 0]) for name, of in found.items()}
        assert max(found["shuffled_y"], found["shuffled_y_quantile4"]) < 0.05
        assert found["noisy_accuracy"] == pytest.approx(noisy, abs=0.06 * (scale < 1))
        assert found["noisy_accuracy_kde"] == pytest.approx(noisier, abs=0.06)


def test_distinct_rows_and_effective_rank_where_rows_are_alike():
    above = np.nextafter(np.float32(1), np.float32(2))
    rows = jnp.array([[0.0, 1], [-0.0, 1], [0.0, above], [1, 0]])
    assert int(measure.distinct_rows(rows)) == 3
    alike = jnp.ones((4, 2))
    assert int(measure.distinct_rows(alike)) == float(measure.effective_rank(alike)) == 1
    line = rows[:, :1] * jnp.ones((1, 2))
    assert float(measure.effective_rank(line)) == pytest.approx(1, abs=1e-2)


# A run


def test_numbers_are_those_from_before(records):
    for arm, known in BEFORE["arms"].items():
        record = records[arm]
        assert record["rate"] == known["rate"] == SWEEP[int(np.argmin(record["scores"]))]
        assert record["epoch"] == BEFORE["epoch"]
        np.testing.assert_allclose(record["scores"], known["scores"], rtol=1e-5)
        for place, values in known["at epoch 1"].items():
            found = functools.reduce(lambda of, name: of[name], place.split("/"), record)
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
    assert [row[0] for row in details[0].blocks[0].rows] == sorted(ESTIMATORS)


def test_interrupted_anywhere_it_ends_as_if_nothing_had_happened(
    bench, records, tmp_path, monkeypatch
):
    """A checkpoint after every piece of training; interrupted before the first, after others."""
    often = copy.copy(bench)
    often.keep = 0.0
    steps, save, swept, begun = [], RunFolder.checkpoint, [], []

    def pieces(training, networks, *given):
        begun.append(int(networks.epoch))
        return bench._pieces(training, networks, *given)

    def interrupted(self, step, state, meta):
        if steps:
            save(self, step, state, meta)
        steps.append(step)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "checkpoint", interrupted)
    monkeypatch.setattr(often, "_pieces", pieces)
    monkeypatch.setattr(often, "_sweep", lambda *a: swept.append(a) or bench._sweep(*a))
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            often.arm("sgd", desk(tmp_path))
        assert (tmp_path / "metrics.jsonl").read_text().count("\n") == (1 if len(steps) < 3 else 2)
    monkeypatch.setattr(RunFolder, "checkpoint", save)
    begun.clear()
    record = often.arm("sgd", desk(tmp_path))
    assert steps == [0, 0, 1, 2]  # 2 lies between measurements
    assert begun[0] == 2 and len(swept) == 1 and record == records["sgd"]


def test_a_loss_that_is_not_finite_stops_with_the_place(bench, tmp_path):
    where = r"the loss of SGD is not finite in epoch 1 \(seeds 0, 1, learning rate 1e\+38\)"
    with pytest.raises(RunError, match=f"{where}.*smaller --learning-rate"):
        other(bench, learning_rate=1e38).arm("sgd", desk(tmp_path / "loss"))
    # The loss was finite before the last step, the weights are not.
    one = other(bench, learning_rate=1e38, batch_size=1437, epochs=1)
    with pytest.raises(RunError, match="not finite in epoch 1"):
        one.arm("sgd", desk(tmp_path / "weights"))


def test_rates_are_given_published_or_matched_to_a_step(bench, tmp_path):
    def chosen(arm, **options):
        changed = other(bench, **options)
        return changed._rate(arm, changed.training(arm), desk(tmp_path))["rate"]

    assert chosen("sgd", learning_rate=0.3) == 0.3
    assert chosen("published", learning_rate=0.3) == 1e-3
    # Sign descent moves every coordinate by its rate, but for the dead ones of gradient zero.
    assert chosen("sign", match_step=0.01) == pytest.approx(0.01, rel=0.1)


def test_settings_that_make_no_sense_are_refused():
    for options, message in (
        ({"batch_size": 1438}, "1438 does not fit into the 1437 images of digits"),
        ({"batch_size": 1294, "tune": True}, "1294 does not fit into the 1293 images"),
        ({"widths": (3, 0)}, "widths must be positive"),
        ({"widths": ()}, "widths must be positive"),
        ({"tune": True, "match_step": 1e-3}, "give one of them"),
        ({"tune_epochs": 3}, "give --tune as well"),
    ):
        with pytest.raises(SettingsError, match=message):
            Settings(**options)


def test_schedule_is_log_spaced_and_complete():
    schedule = Settings(epochs=3999, measurements=25).schedule()
    assert schedule[:3] == (0, 1, 2) and schedule[-1] == 3999 and len(schedule) <= 25
    assert list(schedule) == sorted(set(schedule))
    assert Settings(epochs=1).schedule() == (0, 1) and SMALL.schedule() == (0, 1, 4)


# Figures


@pytest.fixture(scope="module")
def drawn(records):
    """The records, with an arm more, as arrays; and what is drawn of them, by figure."""
    settings = dataclasses.replace(SMALL, arms=("sign", "dmgd", "sgd"))
    found = {"sign": records["dmgd"], **records}
    sheets = figures.draw(settings, found)
    arrays = jax.tree.map(np.asarray, found, is_leaf=lambda x: isinstance(x, list))
    return arrays, {sheet.name: sheet for sheet in sheets}


def test_planes_show_every_seed_and_the_medians(drawn):
    found, sheets = drawn
    last = "layer 2 (3 units)"
    for arm, record in found.items():
        said = {name: pair["x"][:, :, 1] for name, pair in record["information"]["train"].items()}
        said["kde"] = (said["kde_lower"] + said["kde_upper"]) / 2
        for name in ("binned30", "gaussian", "quantile30", "kde"):
            sheet = sheets["information_plane" + f"_{name}" * (name != "binned30")]
            panel = sheet.drawn[ARMS[arm].label][last]
            np.testing.assert_allclose(panel["seeds"][0], said[name])
            np.testing.assert_allclose(panel["median"][0], np.median(said[name], 1))
            limit = record["ceilings"]["kde_upper" if name == "kde" else name]
            assert panel["limits"] == [limit["x"][1], limit["y"]]
    overview = sheets["overview"].drawn
    rows = [e.title for e in (figures.GAUSSIAN, figures.STANDARDIZED, figures.QUANTILE)]
    assert list(overview) == rows
    assert all(list(row) == ["DMGD", "SGD", "sign"] for row in overview.values())
    train = found["dmgd"]["information"]["train"]
    panel = overview[figures.STANDARDIZED.title]["DMGD"]
    np.testing.assert_allclose(panel["seeds"][1], train["gaussian_standardized"]["y"][:, :, 1])
    x = np.median(train["gaussian"]["x"][:, :, 1], 1)
    title = sheets["overview"].figure.axes[0].get_title()
    assert title.endswith(f"peak {x.max():.1f}, end {x[-1]:.1f} bits")


def test_curves_are_medians_and_ranges(drawn):
    found, sheets = drawn
    for name, axis, limit in (
        ("information", "x", "largest possible estimate"),
        ("label_information", "y", "entropy of the labels"),
    ):
        panels = sheets[name].drawn
        assert len(panels) == 5 and "bands their whole range" in sheets[name].caption
        first = panels[figures.BINNED.title]["layer 1 (4 units)"]
        stated = found["sgd"]["ceilings"]["binned30"][axis]
        assert first[limit] == (stated[0] if axis == "x" else stated)
        for arm, record in found.items():
            values = record["information"]["train"]["quantile30"][axis][:, :, 1]
            panel = panels[figures.QUANTILE.title]["layer 2 (3 units)"]
            assert_range(panel[ARMS[arm].label], values)
    bias = np.median(found["sgd"]["controls"]["shuffled_y"][:, :, 0], 1)
    np.testing.assert_allclose(first["SGD, labels shuffled"][1], bias)
    names = ("weight_norm", "std", "saturated", "effective_rank", "distinct", "noisy_accuracy")
    rows = dict(zip(names, sheets["controls"].drawn.values(), strict=True))
    for name, factor in zip(names, (1, 1, 100, 1, 100 / 1437, 100), strict=True):
        values = factor * found["sgd"]["controls"][name]
        assert_range(rows[name]["layer 2 (3 units)"]["SGD"], values[:, :, 1])
    norms = found["sgd"]["controls"]["weight_norm"][:, :, 2]
    assert_range(rows["weight_norm"]["readout"]["SGD"], norms)
    assert rows["std"]["readout"] == {}
    panels = sheets["generalization"].drawn
    for part, word in (("train", "training"), ("test", "test")):
        assert_range(panels[f"{word} loss"]["SGD"], found["sgd"][part]["loss"])
        assert_range(panels[f"{word} accuracy"]["SGD"], 100 * found["sgd"][part]["accuracy"])


@pytest.mark.parametrize("epochs", [1, 2])
def test_smallest_cases_are_drawn_without_a_warning(records, tmp_path, epochs):
    """Few epochs, without limits of the estimator, with units that are dead and a known loss."""
    cut = lambda x: np.asarray(x)[:epochs] if np.ndim(x) > 1 else x  # noqa: E731
    record = jax.tree.map(cut, records["dmgd"], is_leaf=lambda x: isinstance(x, list))
    record |= {"epoch": list(range(epochs)), "ceilings": copy.deepcopy(record["ceilings"])}
    record["ceilings"]["gaussian"]["x"] = [None, None]
    record["controls"]["std"] = np.zeros((epochs, 2, 2))
    record["train"]["loss"] = np.array([[2.0, 2.1], [0.1, 0.2]])[:epochs]
    sheets = figures.draw(SMALL, {"dmgd": record})
    told = sheets[-1].drawn["accuracy gap at equal training loss"]
    if epochs == 1:
        assert told == {}
        return
    losses, gaps = figures.generalization({"dmgd": measure.Curves(record)})
    np.testing.assert_allclose(told["DMGD"][0], losses)
    assert_range(told["DMGD"], gaps["dmgd"])
    for sheet in sheets:
        save(sheet.figure, tmp_path / f"{sheet.name}.png")
