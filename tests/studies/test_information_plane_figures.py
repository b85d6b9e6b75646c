"""The figures of the information plane: what they draw is what was recorded."""

import json

import numpy as np
import pytest

from nestax.plots import save
from nestax_studies.information_plane import Settings, figures
from nestax_studies.information_plane.arms import ARMS
from nestax_studies.information_plane.measure import ESTIMATORS

CONTROLS = ("weight_norm", "std", "saturated", "effective_rank", "distinct", "noisy_accuracy")
FIGURES = [
    "overview",
    "information_plane",
    "information_plane_gaussian",
    "information_plane_quantile30",
    "information_plane_kde",
    "information",
    "label_information",
    "controls",
    "generalization",
]
RANGE = (np.median, np.min, np.max)


def records(arms, seeds, widths, epochs):
    """Random measurements, none of them like another."""
    rng, found = np.random.default_rng(0), {}
    size = (len(epochs), seeds)
    for arm in arms:
        part = {"accuracy": rng.uniform(size=size)}
        part["loss"] = np.geomspace(2, 0.1, len(epochs))[:, None] * rng.uniform(0.9, 1, size)
        made = {
            "epoch": epochs, "images": 200, "train": part, "test": part | {"accuracy": 0},
            "information": {"train": {
                name: {axis: rng.uniform(1, 9, (*size, len(widths))) for axis in "xy"}
                for name in ESTIMATORS
            }},
            "controls": {name: rng.uniform(size=(*size, len(widths))) for name in CONTROLS},
            "ceilings": {name: {"x": [10.0] * len(widths), "y": 3.3} for name in ESTIMATORS},
        }  # fmt: skip
        made["test"] = {name: rng.uniform(0.5, 1, size) for name in ("loss", "accuracy")}
        made["controls"]["weight_norm"] = rng.uniform(size=(*size, len(widths) + 1))
        made["controls"]["shuffled_y"] = rng.uniform(size=(*size, len(widths)))
        found[arm] = json.loads(json.dumps(made, default=np.ndarray.tolist))
    return found


@pytest.fixture(scope="module")
def drawn():
    arms = ("sign", "dmgd", "sgd")
    settings = Settings(arms=arms, widths=(3, 2), seeds=4)
    found = records(arms, 4, (3, 2), [0, 1, 5, 20])
    return found, {sheet.name: sheet for sheet in figures.draw(settings, found)}


def assert_range(told, values):
    """A line is the median over seeds, a band the range from least to most."""
    for got, rule in zip(told[1:], RANGE, strict=True):
        np.testing.assert_allclose(got, rule(values, axis=1))


def test_planes_show_every_seed_and_the_medians(drawn):
    found, sheets = drawn
    assert list(sheets) == FIGURES
    for arm, record in found.items():
        said = {name: np.array(r["x"]) for name, r in record["information"]["train"].items()}
        middle = (said["kde_lower"] + said["kde_upper"]) / 2
        for name, x in (
            ("", said["binned30"]),
            ("_gaussian", said["gaussian"]),
            ("_quantile30", said["quantile30"]),
            ("_kde", middle),
        ):
            panels = sheets[f"information_plane{name}"].drawn[ARMS[arm].label]
            for j, panel in enumerate(panels.values()):
                np.testing.assert_allclose(panel["seeds"][0], x[:, :, j])
                np.testing.assert_allclose(panel["median"][0], np.median(x[:, :, j], 1))
                assert panel["limits"] == [10.0, 3.3]
    overview = sheets["overview"].drawn
    assert list(overview) == [
        e.title for e in (figures.GAUSSIAN, figures.STANDARDIZED, figures.QUANTILE)
    ]
    assert all(list(row) == ["DMGD", "SGD", "sign"] for row in overview.values())
    y = np.array(found["dmgd"]["information"]["train"]["gaussian_standardized"]["y"])[:, :, -1]
    panel = overview[figures.STANDARDIZED.title]["DMGD"]
    np.testing.assert_allclose(panel["seeds"][1], y)
    axes = sheets["overview"].figure.axes[0]
    x = np.median(np.array(found["dmgd"]["information"]["train"]["gaussian"]["x"])[:, :, -1], 1)
    assert axes.get_title().endswith(f"peak {x.max():.1f}, end {x[-1]:.1f} bits")


@pytest.mark.parametrize(("name", "axis"), [("information", "x"), ("label_information", "y")])
def test_curves_of_information_are_medians_and_ranges(drawn, name, axis):
    found, sheets = drawn
    panels = sheets[name].drawn
    assert len(panels) == 5 and "bands their whole range" in sheets[name].caption
    for arm, record in found.items():
        values = np.array(record["information"]["train"]["quantile30"][axis])
        panel = panels[figures.QUANTILE.title]["layer 2 (2 units)"]
        assert_range(panel[ARMS[arm].label], values[:, :, 1])
    first = panels[figures.BINNED.title]["layer 1 (3 units)"]
    bias = np.median(np.array(found["sgd"]["controls"]["shuffled_y"])[:, :, 0], 1)
    if axis == "y":
        np.testing.assert_allclose(first["SGD, labels shuffled"][1], bias)
    assert first[{"x": "largest possible estimate", "y": "entropy of the labels"}[axis]] == (
        10.0 if axis == "x" else 3.3
    )


def test_controls_and_generalization_are_medians_and_ranges(drawn):
    found, sheets = drawn
    factors = dict(zip(CONTROLS, (1, 1, 100, 1, 100 / 200, 100), strict=True))
    rows = dict(zip(CONTROLS, sheets["controls"].drawn.values(), strict=True))
    for name, factor in factors.items():
        values = factor * np.array(found["sign"]["controls"][name])
        assert_range(rows[name]["layer 2 (2 units)"]["sign"], values[:, :, 1])
    norms = np.array(found["sign"]["controls"]["weight_norm"])
    assert_range(rows["weight_norm"]["readout"]["sign"], norms[:, :, 2])
    assert rows["std"]["readout"] == {}

    panels = sheets["generalization"].drawn
    for part, word in (("train", "training"), ("test", "test")):
        assert_range(panels[f"{word} loss"]["SGD"], np.array(found["sgd"][part]["loss"]))
        accuracy = 100 * np.array(found["sgd"][part]["accuracy"])
        assert_range(panels[f"{word} accuracy"]["SGD"], accuracy)
    curves = {arm: figures.Curves(record) for arm, record in found.items()}
    losses, gaps = figures.generalization(curves)
    assert len(losses) == 25
    told = panels["accuracy gap at equal training loss"]["SGD"]
    np.testing.assert_allclose(told[0], losses)
    assert_range(told, gaps["sgd"])


@pytest.mark.parametrize(("seeds", "epochs"), [(1, [0]), (2, [0, 1])])
def test_smallest_cases_are_drawn_without_a_warning(tmp_path, seeds, epochs):
    """One epoch, one layer, without limits of the estimator, with units that are dead."""
    found = records(("dmgd",), seeds, (4,), epochs)
    found["dmgd"]["ceilings"]["gaussian"]["x"] = [None]
    found["dmgd"]["controls"]["std"] = [[[0.0]] * seeds for _ in epochs]
    sheets = figures.draw(Settings(arms=("sgd", "dmgd"), widths=(4,)), found)
    assert [sheet.name for sheet in sheets] == FIGURES
    if len(epochs) > 1:
        for sheet in sheets:
            save(sheet.figure, tmp_path / f"{sheet.name}.png")
    assert (sheets[-1].drawn["accuracy gap at equal training loss"] == {}) == (len(epochs) == 1)


def test_arms_keep_their_colours():
    assert set(figures.LOOKS) == set(ARMS)
    assert len({colour for colour, _ in figures.LOOKS.values()}) == len(ARMS)
