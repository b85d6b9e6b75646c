"""Warm and cold starts: the known solution, small runs, verdicts."""

from pathlib import Path

import jax
import numpy as np
import pytest
from studies.drawn import assert_range

from nestax_studies import implicit_bias as bias
from nestax_studies import lab

SMALL = bias.Settings(steps=200, features=12, hidden=4, seeds=2)


@pytest.fixture(scope="module")
def records():
    stages, desk = bias.stages(SMALL), lab.Desk(lambda text: None, Path("none"))
    names = ("curve unrolled warm", "curve implicit cold", "digits unrolled cold")
    return {name: stages[name](desk) for name in names}


def test_cold_descent_finds_the_solution_nearest_to_the_start_and_warm_descent_does_not(records):
    warm, cold, digits = records.values()
    assert max(cold["from_nearest"]) < 1e-3 and min(warm["from_nearest"]) > 1e-2
    assert max(warm["inner"][-1] + cold["inner"][-1]) < 1e-6
    assert np.shape(digits["outer"]) == (200, 2) and np.shape(digits["end"]["accuracy"]) == (2,)


def test_both_flows_agree_where_the_inner_problem_is_solved(x64):
    found = []
    for flow in bias.FLOWS:
        nest = bias.system(SMALL, bias.curve(SMALL), flow, "warm")
        found.append(nest.gradient(nest.init({}, jax.random.key(0)), "example"))
    # The targets are 0 at first, and so are the solutions: here the flows agree.
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-4)


def test_figures_show_what_was_recorded(records):
    errors, fits = bias.draw(SMALL, records)
    record = records["curve implicit cold"]
    assert_range(errors.drawn["curve, implicit"]["cold start"], record["outer"])
    panel = fits.drawn["cold start, implicit"]
    assert panel["end of the run"][1].tolist() == record["fits"][0]
    assert panel["trained anew"][1].tolist() == record["fits"][1]
    assert panel["its end"][0].tolist() == record["path"][0][-1:]


def record(test, anew, far, inner=1e-6):
    """Of two seeds."""
    found = {when: {"test": t, "accuracy": t} for when, t in (("end", test), ("anew", anew))}
    return found | {"from_nearest": far, "inner": [[1.0, 1.0], [inner, inner]]}


WARM = record((0.1, 0.1), (0.3, 0.2), (0.9, 0.6))
COLD = record((0.3, 0.3), (0.3, 0.3), (0.01, 0.02))


@pytest.mark.parametrize(
    ("warm", "cold", "expected"),
    [
        (WARM, COLD, [True, True, True]),
        (record((0.1, 0.2), (0.3, 0.2), (0.9, 0.4)), COLD, [False, False, False]),
        (WARM, record((0.3, 0.3), (0.3, 0.3), (0.01, 0.2), inner=0.01), [False, True, False]),
        (WARM, None, [None, True, None]),
    ],
)
def test_verdicts(warm, cold, expected):
    records = {"curve unrolled warm": warm} | ({"curve unrolled cold": cold} if cold else {})
    found = bias.find(SMALL, records).verdicts
    assert [v.holds for v in found if v.of == "curve, unrolled"] == expected
    assert len(found) == 10


def test_the_example_is_a_nest_of_two_levels():
    example = bias.example(SMALL)
    assert example.level in str(example.nest.levels(example.state)) and len(example.flows) == 2
