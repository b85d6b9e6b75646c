"""The pieces that studies are made of: settings, claims, records, figures, sweeps, runs."""

import dataclasses
import json
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.collections import PolyCollection

from nestax.runs import SettingsError
from nestax_studies import lab
from nestax_studies.lab import figures, records, sweep, train
from nestax_studies.lab.options import presets


@dataclasses.dataclass(frozen=True)
class Settings(lab.Options):
    arms: tuple[str, ...] = lab.names("abc", families={"first": "ab"})
    preset: str = "small"
    steps: int | None = lab.option(least=20, multiple=20, small=40, full=100)
    kinds: tuple[str, ...] = lab.names("xyz", small=("x",), full=("all",))
    rate: float = lab.option(0.1, above=0, below=1)
    trials: int = lab.option(3, most=9)
    tune: bool = False
    mode: Literal["a", 2] = "a"
    times: tuple[int, ...] = lab.option((1,), least=1)


def test_settings_take_what_their_preset_says_unless_they_are_told():
    assert Settings() == Settings(("a", "b", "c"), "small", 40, ("x",), 0.1, 3)
    full = Settings(preset="full", arms=("first",))
    assert (full.steps, full.kinds, full.arms) == (100, ("x", "y", "z"), ("a", "b"))
    told = Settings(preset="full", steps=60, arms=("c", "a"))
    assert (told.steps, told.arms) == (60, ("c", "a"))
    steps, kinds = {"small": 40, "full": 100}, {"small": ("x",), "full": ("all",)}
    assert presets(Settings) == {"steps": steps, "kinds": kinds}


def test_settings_out_of_bounds_are_refused_by_name():
    for name, value, said in (
        ("steps", 0, "must be at least 20, got 0"),
        ("steps", 30, "must be a multiple of 20, got 30"),
        ("trials", 10, "must be at most 9, got 10"),
        ("rate", 0.0, "must be above 0, got 0"),
        ("rate", 1.0, "must be below 1, got 1"),
        ("rate", math.nan, "must be finite, got nan"),
        # Of their annotations: beside an invented preset, and where nothing was given, too.
        ("trials", 2.0, "must be a whole number, got 2.0"),
        ("trials", True, "must be a whole number, got True"),
        ("trials", None, "must be a whole number, got None"),
        ("steps", "40", "must be a whole number or None, got '40'"),
        ("rate", np.float32(0.5), "must be a number, got "),
        ("tune", 1, "must be True or False, got 1"),
        ("mode", "b", "must be one of a, 2, got 'b'"),
        ("times", (1, 2.5), "must be a tuple, each a whole number, got"),
        ("times", (1, 0), "must be at least 1, got 0"),
        ("kinds", "x", "must be a tuple, each text, got 'x'"),
        ("preset", "ful", "must be one of small, full, got ful"),
        ("arms", ("d",), "must be named once each, of all, first, a, b, c; got d"),
        ("arms", ("a", "a"), "must be named once each, of all, first, a, b, c; got a, a"),
        ("arms", (), "must be named once each, of all, first, a, b, c; got none"),
    ):
        with pytest.raises(SettingsError, match=f"^{name} {said}"):
            Settings(**{name: value})
    with pytest.raises(SettingsError, match=r"^preset must be one of small, full, got ful"):
        Settings(preset="ful", steps=60, kinds=("x",))
    assert Settings(rate=0.5, mode=2, times=[3]).times == (3,)


def test_clearly_is_nine_wins_in_ten_and_a_median_that_is_large_enough():
    for wins, ties, losses in ((9, 0, 1), (9, 1, 0), (18, 0, 2)):
        difference = np.repeat([1.0, 0.0, -1.0], (wins, ties, losses))
        assert lab.clearly(difference, 1) is True and lab.clearly(difference, 1.001) is False
        for unknown in (np.nan, np.inf):
            assert lab.clearly(np.append(difference, unknown), 1) is None
    for wins, ties, losses in ((8, 0, 2), (8, 2, 0), (7, 0, 3), (4, 0, 1), (17, 1, 2), (0, 1, 0)):
        assert lab.clearly(np.repeat([1.0, 0.0, -1.0], (wins, ties, losses)), 0) is False
    assert lab.clearly(np.array([]), 0) is None


def test_a_claim_is_judged_by_the_arms_in_their_order():
    rule = lab.medians(lambda one, other: one > other)
    values = {"one": [0.9, 0.8, 0.1], "other": [0.5, 0.6, 0.7]}
    found = lab.judge("It wins.", "more", values, rule, of="here")
    assert (found.holds, found.word, found.of) == (True, "supported", "here")
    assert found.measured == "one 80.0 (10.0 to 90.0) %; other 60.0 (50.0 to 70.0) %"
    swapped = lab.judge("It wins.", "more", dict(reversed(values.items())), rule)
    assert (swapped.holds, swapped.word) == (False, "not supported")
    lacking = lab.judge("It wins.", "more", values | {"other": None}, rule)
    assert (lacking.holds, lacking.measured) == (None, "needs other")


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("values", "rule", "holds"),
    [
        ({"a": [NAN, NAN, 1]}, lab.medians(lambda a: not a > 5), None),
        ({"a": [2, 3], "b": [1, NAN]}, lab.medians(lambda a, b: a > b), None),
        ({"a": [1], "b": [NAN]}, lambda *each: max(map(np.median, each)) < 2, None),
        ({"a": [1, INF, INF]}, lab.medians(lambda a: a > 5), True),
        ({"a": [-INF, INF]}, lab.medians(lambda a: not a > 5), None),
        ({"a": [1]}, lambda a: NAN, None),
        ({"a": []}, all, None),
        ({}, lambda: True, None),
    ],
)  # fmt: skip
def test_what_is_not_a_number_is_not_measured(values, rule, holds):
    assert lab.judge("It is low.", "low", values, rule).holds is holds


def test_numbers_that_would_hide_one_another_are_refused():
    loss = lab.number("loss", lambda record: record["loss"])
    for labels, measures, best, said in (
        ((("a / b", "c"), ("a", "b / c")), [loss], "", "rows must differ, got twice: a / b / c"),
        ((("a", "b"),), [loss, loss], "", "names of measures must differ, got twice: loss"),
        ((("a", "b"),), [loss], "lost", "best must name a measure, got 'lost'"),
    ):
        with pytest.raises(ValueError, match=said):
            lab.numbers("xy", {one: {"loss": [1]} for one in labels}, measures, best=best)
    verdict = lab.Verdict("It is low.", "low", "1", True, "here")
    with pytest.raises(ValueError, match=r"got twice: It is low. \[here\]"):
        lab.Findings(lab.Numbers("x", []), [verdict, verdict])
    # Those without a number are last, and say for how many seeds.
    cases = {"p": [2], "q": [NAN], "r": [16777217], "s": [2, NAN, 2]}
    cases = {(name,): {"loss": values} for name, values in cases.items()}
    made = lab.numbers("x", cases, [loss], best="loss", facts=lambda record: {"n": np.int64(1234)})
    cells = ["1.68e+07", "2", "-", "- (1 of 3 seeds without a number)"]
    assert made.table().rows == [[*row] for row in zip("rpqs", ["1,234"] * 4, cells, strict=True)]
    assert made.summary()["r"]["measures"]["loss"]["values"] == [16777217]


def test_numbers_are_ordered_by_their_best_and_stored_by_seed():
    measures = [lab.share("right", lambda r: r["right"]), lab.number("loss", lambda r: r.get("l"))]
    cases = {
        ("task", "poor"): {"right": [0.1, 0.2, 0.3]},
        ("task", "good"): {"right": [0.9, 0.8, 1.0], "l": [1.5]},
        ("other", "one"): {"right": [0.5]},
    }
    made = lab.numbers(("task", "arm"), cases, measures, best="right")
    table = made.table()
    assert table.columns == ["task", "arm", "right (%)", "loss"]
    assert table.rows[0] == ["task", "good", "90.0 (80.0 to 100.0)", "1.5"]
    assert table.rows[1] == ["task", "poor", "20.0 (10.0 to 30.0)", None]
    assert table.rows[2] == ["other", "one", "50.0", None]
    assert json.loads(json.dumps(made.summary()))["task / good"]["measures"] == {
        "right": {"unit": "%", "values": [90.0, 80.0, 100.0]},
        "loss": {"unit": "", "values": [1.5]},
    }
    worst = lab.numbers(("task", "arm"), cases, measures, best="-right")
    assert worst.rows[0].labels == ("task", "poor")


def test_what_is_not_finite_is_stored_as_nothing():
    found = records.listed({"a": np.array([[1 / 3, np.nan], [np.inf, 2]]), "b": 3})
    assert found == {"a": [[0.333333, None], [None, 2.0]], "b": 3.0}
    assert records.listed((16777217, True, jnp.float32(2.5), "a")) == [16777217, True, 2.5, "a"]
    for wrong, said in (({1: 0, "1": 0}, "keys must .* got 1, '1'"), ({"b": b""}, "holds a bytes")):
        with pytest.raises(ValueError, match=said):
            records.listed(wrong)


# Figures


def test_lines_are_medians_and_bands_reach_from_the_least_seed_to_the_most():
    """As captions say, and as the axes hold it."""
    y = np.random.default_rng(0).normal(size=(4, 7))
    panel = figures.Panel("panel", "x", "y", [figures.Line(range(4), y, "line")], {"level": 0.0})
    sheet = figures.curves("name", [panel], "title", "caption")
    (axes,) = sheet.figure.axes
    (band,) = [one for one in axes.collections if isinstance(one, PolyCollection)]
    corners = band.get_paths()[0].vertices
    ends = [corners[corners[:, 0] == at][:, 1] for at in range(4)]
    expected = range(4), np.median(y, axis=1), y.min(1), y.max(1)
    np.testing.assert_allclose(np.stack(sheet.drawn["panel"]["line"]), expected)
    np.testing.assert_allclose(axes.lines[0].get_xydata().T, expected[:2])
    np.testing.assert_allclose([(end.min(), end.max()) for end in ends], np.stack(expected[2:]).T)


def test_dots_are_medians_and_bars_the_range():
    rows = {"one": [figures.Dot([3.0, 1.0, 2.0])], "two": [figures.Dot(None)]}
    sheet = figures.dots("name", [figures.Column("task", "x", rows)], "title", "caption")
    bar, dot = sheet.figure.axes[0].lines
    assert (list(bar.get_xdata()), list(dot.get_xdata())) == ([1.0, 3.0], [2.0])
    assert sheet.drawn == {"task": {"one": [(1.0, 2.0, 3.0)], "two": [None]}}


def test_maps_and_images_show_the_values_given():
    values = np.arange(6.0).reshape(2, 3)
    sheet = figures.maps("name", [figures.Map("a", values)], "title", "caption", label="scale")
    (image,) = sheet.figure.axes[0].images
    np.testing.assert_array_equal(image.get_array(), values)
    assert image.get_clim() == (0.0, 5.0)
    shown = figures.images("name", {"row": np.arange(8.0).reshape(2, 4)}, "title", "caption")
    assert shown.drawn["row"].shape == (2, 2, 2)
    np.testing.assert_array_equal(shown.figure.axes[1].images[0].get_array(), [[4, 5], [6, 7]])


def test_lines_break_where_a_seed_is_not_finite_and_the_caption_says_so():
    y = [[1, NAN], [2, 4], [3, INF]]
    lines = [figures.Line(range(3), y if i else np.ones(3), f"line {i}") for i in range(9)]
    sheet = figures.curves("name", [figures.Panel("p", "x", "y", lines)], "title", "All.")
    _, middle, low, high = sheet.drawn["p"]["line 1"]
    np.testing.assert_array_equal([middle, low, high], [[NAN, i, NAN] for i in (3, 2, 4)])
    assert sheet.caption == "All. A line breaks where the number of a seed is not finite."
    looks = {(line.get_color(), str(line.get_linestyle())) for line in sheet.figure.axes[0].lines}
    assert len(looks) == 9
    lost = figures.Line(range(2), [NAN, -1], "lost")  # nothing that a logarithm can show
    sheet = figures.curves("name", [figures.Panel("p", "x", "y", [lost], log="xy")], "title", "")
    sheet.figure.draw_without_rendering()


def test_figures_of_nothing_are_left_out_and_names_must_fit():
    empty = figures.Column("task", "x", {})
    for make, given in (
        *((figures.curves, one) for one in ([], [figures.Panel("p", "x", "y", [])])),
        *((figures.dots, one) for one in ([], [empty])),
        *((figures.maps, one) for one in ([], [figures.Map("a", np.zeros((0, 2)))])),
        *((figures.images, one) for one in ({}, {"row": []})),
    ):
        assert make("name", given, "title", "caption").drawn == {}
    assert figures._dot(None, figures.Dot([]), 0) is None
    panel = figures.Map("a", [[0.0, 1.0], [2.0, NAN], [4.0, 5.0]])
    sheet = figures.maps("name", [panel], "title", "caption", label="scale", log=True)
    sheet.figure.draw_without_rendering()
    assert sheet.figure.axes[0].images[0].get_clim() == (1.0, 5.0)
    for options, said in (
        ({"y": ["one"]}, "3 rows and 2 columns, got 1 names of rows and 0 of columns"),
        ({"log": True, "limits": (0, 1)}, "must be above 0, got 0 to 1"),
    ):
        with pytest.raises(ValueError, match=said):
            figures.maps("name", [panel], "title", "caption", **options)


# Sweeps and runs side by side


def test_rates_are_tried_beyond_an_edge_twice_at_most():
    assert lab.rates(1.0, 0.5, 3) == pytest.approx([10**-0.5, 1.0, 10**0.5])
    for target, count in ((1.0, 3), (100.0, 5), (1e-9, 5)):
        far = lambda rate, target=target: abs(math.log(rate / target))  # noqa: E731
        tried, best = lab.tuned(
            [0.1, 1.0, 10.0],
            lambda rates, far=far: [far(rate) for rate in rates],
            lambda scores: min(scores, key=scores.__getitem__),
            lambda scores, best: lab.beyond(scores, best, 1.0),
        )
        assert len(tried) == count and best == min(tried, key=far)
    assert lab.beyond([1.0], 1.0, 1.0) == []
    # Seeds to tune by are never judged by.
    assert not any(map(sweep.is_tuning, range(1000)))
    assert all(sweep.is_tuning(lab.tuning(seed)) for seed in range(1000))


def test_runs_side_by_side_are_always_as_many_and_come_back_in_order():
    asked = []

    def program(rates, seeds):
        asked.append(len(rates))
        return {"found": np.add(rates, seeds)}

    found = lab.side_by_side(program, 3, [1, 2, 3, 4, 5], [10, 20, 30, 40, 50])
    assert found["found"].tolist() == [11, 22, 33, 44, 55] and asked == [3, 3]


def test_a_learner_takes_the_steps_of_a_loop_by_hand(x64):
    """Other rates, lengths and seeds in one program; batches by the run's own key and step."""

    def draw(key, number):
        return jax.random.normal(jax.random.fold_in(key, number), (3,))

    def loss(model, batch):
        value = jnp.sum((model["w"] - batch) ** 2)
        return value, {"loss": value}

    def descent(rate, steps):
        return optax.sgd(lambda count: rate * (1 - count / steps))

    nest = train.learner(loss, draw, descent)
    keys = jnp.stack([jax.random.key(seed) for seed in (4, 7)])
    rates, steps = [0.1, 0.02], 4
    state = train.started(nest, {"w": jnp.ones((2, 3))}, rates, keys, steps)
    state, info = nest.run(state, steps)
    seen = np.asarray(info["model"].user["loss"])
    for run in range(2):
        w = np.ones(3)
        for number in range(steps):
            batch = np.asarray(draw(keys[run], number))
            np.testing.assert_allclose(seen[number, run], np.sum((w - batch) ** 2), rtol=1e-6)
            w = w - rates[run] * (1 - number / steps) * 2 * (w - batch)
        np.testing.assert_allclose(state.values["model"]["w"][run], w, rtol=1e-6)
    means = train.stretches(seen, 2)
    np.testing.assert_allclose(means, [seen[:2].mean(0), seen[2:].mean(0)])
