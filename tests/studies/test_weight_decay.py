"""Weight decays: solvers against a dense Hessian, a small run, figures, verdicts, settings."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.flatten_util
import numpy as np
import pytest

from nestax.runs import SettingsError
from nestax_studies import lab, models
from nestax_studies import weight_decay as study
from nestax_studies.images import cross_entropy

BEFORE = json.loads((Path(__file__).parent / "before" / "weight-decay.json").read_text())
DESK = lab.Desk(print, Path("none"))


class Short(study.Settings):
    """Few updates before solvers are compared."""

    noisy, settled = 10, 60


TINY = {
    "data": "digits", "images": 10, "hidden": 3, "seeds": 2, "steps": 20,
    "compared_images": 12, "batch_size": 4, "products": (2,),
}  # fmt: skip


# What a context draws depends on how it is defined, and the tests' type checker wraps functions. So
# this stage runs in a process of its own.
SOLVERS = """
import json, pathlib, sys
from nestax_studies import lab, weight_decay as study

class Short(study.Settings):
    noisy, settled = 10, 60

settings = Short(**json.loads(sys.argv[1]))
desk = lab.Desk(lambda text: None, pathlib.Path())
print(json.dumps(study.stages(settings)["linear solvers"](desk)))
"""


@pytest.fixture(scope="module")
def records():
    """Of a run of some stages."""
    stages = study.stages(Short(**TINY))
    found = {name: stages[name](DESK) for name in BEFORE if name != "linear solvers"}
    command = [sys.executable, "-c", SOLVERS, json.dumps(TINY)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return found | {"linear solvers": json.loads(done.stdout)}


def test_curvature_is_the_largest_eigenvalue(x64):
    key = jax.random.key(0)
    weights = models.mlp_init(key, (5, 3))
    batch = jax.random.normal(key, (8, 5)), jax.numpy.arange(8) % 3
    flat, back = jax.flatten_util.ravel_pytree(weights)
    hessian = jax.hessian(lambda w: cross_entropy(back(w), batch))(flat)
    largest = np.linalg.eigvalsh(hessian)[-1]
    np.testing.assert_allclose(study.curvature(weights, batch), largest, rtol=1e-4)


def test_enough_products_find_the_direction_of_the_exact_hypergradient(monkeypatch):
    monkeypatch.setattr(study.Settings, "settled", 3000)
    settings = study.Settings(**TINY | {"products": (150,), "log_decay": -2.0})
    record = study.compared(settings, "linear", DESK)
    assert max(record["gradient"]) < 1e-6 and max(record["exact_residual"]) < 1e-6
    assert np.min(record["settled"]["cg"]) > 1 - 1e-6
    assert np.min(record["settled"]["neumann"]) > 0.99
    # No inverse is not enough, and neither is a place where the inner problem is not solved.
    assert np.max(record["settled"]["identity"]) < 0.999
    assert np.max(record["noisy"]["cg"]) < 0.999
    assert np.all(np.abs(record["settled"]["identity"]) <= 1 + 1e-9)


@pytest.mark.parametrize("stage", BEFORE)
def test_numbers_are_those_of_before_the_move_to_the_lab(records, stage):
    if stage == "linear solvers":
        for place in study.PLACES:
            for name, values in BEFORE[stage][place].items():
                np.testing.assert_allclose(records[stage][place][name], values, rtol=1e-5)
        return
    at = {"train": -1, "valid": 10, "test": -1}
    for name, values in BEFORE[stage].items():
        own = records[stage][name]
        np.testing.assert_allclose(own[at[name]] if name in at else own, values, rtol=1e-5)


def test_arms_begin_alike_and_differ_in_their_hyperparameters(records):
    one, each = records["linear one"], records["linear each"]
    assert one["test"][0] == each["test"][0] and np.shape(each["valid"]) == (21, 2)
    found = study.find(Short(**TINY), records)
    facts = [row.facts["hyperparameters"] for row in found.numbers.rows]
    assert facts == [1, 64 * 10 + 10]
    missing = [v for v in found.verdicts if v.holds is None]
    assert len(found.verdicts) == 10 and len(missing) == 1 + 5  # without identity, without the MLP


def test_figures_show_what_was_recorded(records):
    overfitting, solvers = study.draw(Short(**TINY), records)
    panel = overfitting.drawn["linear: one for each weight, Neumann"]
    x, middle, low, high = panel["validation"]
    assert x[-1] == 20
    recorded = 100 * np.asarray(records["linear each"]["valid"])
    for drawn, rule in ((middle, np.median), (low, np.min), (high, np.max)):
        np.testing.assert_allclose(drawn, rule(recorded, axis=1))
    panel = solvers.drawn["linear: minibatch, inner problem not solved"]
    cosines = records["linear solvers"]["noisy"]
    for name, label in study.SOLVERS.items():
        np.testing.assert_allclose(panel[label][1], np.median(cosines[name], axis=1))


def run(valid, test):
    ends = {"train": [[1.0] * 2], "valid": [[valid] * 2], "test": [[test] * 2]}
    return ends | {"hyperparameters": 1}


@pytest.mark.parametrize(
    ("each", "one", "expected"),
    [
        ((0.99, 0.78), (0.6, 0.51), [True, True]),
        ((0.98, 0.4), (0.6, 0.3), [False, False]),
        ((1.0, 0.81), (0.9, 0.8), [False, False]),
    ],
)
def test_overfitting_is_judged_by_both_accuracies(each, one, expected):
    records = {"mlp each": run(*each), "mlp one": run(*one)}
    judged = study.find(study.Settings(), records).verdicts
    assert [v.holds for v in judged if v.holds is not None] == expected
    assert {v.of for v in judged if v.holds is not None} == {"mlp"}


@pytest.mark.parametrize(
    ("neumann", "holds"),
    [([0.1, 0.5, 0.6, 0.1], True), ([0.9, 0.5, 0.59, 0.9], False), ([0.9, 0.49, 0.6, 0.9], False)],
)
def test_directions_are_judged_at_a_few_products(neumann, holds):
    cg = [0.5, 0.5, 0.6, 0.5]
    cosines = {"neumann": [[c] * 3 for c in neumann], "cg": [[c] * 3 for c in cg]}
    record = {"products": [1, 2, 10, 50], "settled": cosines}
    assert study.few_terms("mlp", "settled", record).holds is holds
    many = {"products": [1, 50], "settled": cosines}
    assert study.few_terms("mlp", "settled", many).holds is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 101}, "must not exceed"),
        ({"products": ()}, "at least 1"),
        ({"products": (0, 1)}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        study.Settings(**options)


def test_the_example_is_a_nest_of_two_levels():
    example = study.example(Short(**TINY))
    assert example.level == "decay" and "Neumann(20)" in example.flows and len(example.flows) == 5
    words = str(example.nest.levels(example.state))
    assert "decay" in words and "weights" in words
