"""Warm and cold starts: the known solution, a whole small run, verdicts."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax.runs import SettingsError
from nestax_studies import implicit_bias as bias
from nestax_studies import lab

TINY = {"steps": 10, "features": 12, "hidden": 4, "seeds": 2}


DESK = lab.Desk(print, Path("none"))


@pytest.fixture
def few(monkeypatch):
    """Curves of fewer points, weights trained anew for less long."""
    monkeypatch.setattr(bias, "POINTS", 5)
    monkeypatch.setattr(bias.Settings, "again", 50)
    field = bias.Settings.__dataclass_fields__["steps"]
    monkeypatch.setattr(field, "metadata", {})


def test_descent_from_the_start_finds_the_solution_nearest_to_it(few):
    settings = bias.Settings(**TINY)
    problem = bias.curve(settings)
    for start, within in (("cold", True), ("warm", False)):
        nest = bias.system(settings, problem, "unrolled", start)
        state, info = nest.run(nest.init({}, jax.random.key(0)), 10)
        example = jax.tree.map(lambda a: jnp.asarray(a[-1]), info["example"].user[1])
        far = jax.vmap(bias.from_nearest)(state.task, example, state.values["weights"])
        assert (far < 1e-3).all() if within else (far > 1e-2).all()
        assert (info["weights"].loss[-1] < 1e-6).all()


def test_both_flows_agree_where_the_inner_problem_is_solved(few, x64):
    settings = bias.Settings(**TINY)
    found = []
    for flow in ("unrolled", "implicit"):
        nest = bias.system(settings, bias.curve(settings), flow, "warm")
        state = nest.init({}, jax.random.key(0))
        found.append(nest.gradient(state, "example"))
    # The targets are 0 at first, and so are the solutions: here the flows agree.
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-4)


def test_digits_are_read(few):
    record = bias.learn(bias.Settings(**TINY), "digits", "unrolled", "cold", DESK)
    assert np.shape(record["outer"]) == (5, 2) and np.shape(record["end"]["accuracy"]) == (2,)


def test_a_small_run_and_its_figures(few):
    settings = bias.Settings(**TINY)
    record = bias.learn(settings, "curve", "implicit", "cold", DESK)
    assert np.shape(record["inner"]) == (5, 2) and record["step"] == [2, 4, 6, 8, 10]
    errors, fits = bias.draw(settings, {"curve implicit cold": record})
    _, middle, low, high = errors.drawn["curve, implicit"]["cold start"]
    for drawn, rule in ((middle, np.median), (low, np.min), (high, np.max)):
        np.testing.assert_allclose(drawn, rule(record["outer"], axis=1))
    panel = fits.drawn["cold start, implicit"]
    assert panel["end of the run"][1].tolist() == record["fits"][0]
    assert panel["its end"][0].tolist() == record["path"][0][-1:]


def test_the_example_has_levels():
    example = bias.example(bias.Settings(features=12, hidden=4, seeds=2))
    assert "example" in str(example.nest.levels(example.state))
    assert example.level == "example" and len(example.flows) == 2


# Settings, verdicts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": 0}, "features must be at least 1, got 0"),
        ({"seeds": -1}, "seeds must be at least 1, got -1"),
        ({"batch_size": -1}, "batch_size must be at least 0, got -1"),
        ({"steps": 250}, "multiple of 200, got 250"),
        ({"steps": 0}, "at least 200, got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        bias.Settings(**options)


def record(test, anew, far, inner=1e-6):
    """Of two seeds."""
    found = {"end": {"test": list(test)}, "anew": {"test": list(anew)}, "from_nearest": list(far)}
    for when in ("end", "anew"):
        found[when]["accuracy"] = [0.5, 0.5]
    return {**found, "inner": [[1.0, 1.0], [inner, inner]]}


WARM = record((0.1, 0.1), (0.3, 0.2), (0.9, 0.6))
COLD = record((0.3, 0.3), (0.3, 0.3), (0.01, 0.02))


@pytest.mark.parametrize(
    ("warm", "cold", "expected"),
    [
        (WARM, COLD, [True, True, True]),
        (record((0.1, 0.2), (0.3, 0.2), (0.9, 0.4)), COLD, [False, False, False]),
        (WARM, record((0.3, 0.3), (0.3, 0.3), (0.01, 0.2), inner=0.01), [False, True, False]),
    ],
)
def test_verdicts(warm, cold, expected):
    records = {"curve unrolled warm": warm, "curve unrolled cold": cold}
    found = bias.find(bias.Settings(), records)
    assert [v.holds for v in found.verdicts if v.of == "curve, unrolled"] == expected
    only = bias.find(bias.Settings(), {"curve unrolled warm": warm}).verdicts
    assert len(only) == 10 and only[0].holds is None
