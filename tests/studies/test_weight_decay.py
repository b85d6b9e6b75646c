"""Weight decays: solvers against a dense Hessian, a small run, figures, verdicts, settings."""

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path

import jax
import jax.flatten_util
import numpy as np
import pytest
from studies.drawn import assert_range

from nestax.runs import SettingsError
from nestax_studies import lab, models
from nestax_studies import weight_decay as study
from nestax_studies.images import cross_entropy

DESK = lab.Desk(lambda text: None, Path("none"))
OPTIONS = {
    "data": "digits", "images": 10, "hidden": 3, "seeds": 2, "steps": 20,
    "compared_images": 12, "batch_size": 4, "products": (2, 150),
}  # fmt: skip
SMALL = study.Settings(**OPTIONS)


def unchecked():
    """The study without the tests' type checker, which wraps functions: what a context draws
    depends on how it is defined."""
    loader = SourceFileLoader(study.__name__, study.__file__)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def records():
    """Of some stages, with few updates before solvers are compared."""
    module = unchecked()
    module.Settings.noisy, module.Settings.settled = 10, 60
    stages = module.stages(module.Settings(**OPTIONS))
    return {n: stages[n](DESK) for n in ("linear one", "linear each", "linear solvers")}


def test_curvature_is_the_largest_eigenvalue(x64):
    key = jax.random.key(0)
    weights = models.mlp_init(key, (5, 3))
    batch = jax.random.normal(key, (8, 5)), jax.numpy.arange(8) % 3
    flat, back = jax.flatten_util.ravel_pytree(weights)
    hessian = jax.jit(jax.hessian(lambda w: cross_entropy(back(w), batch)))(flat)
    largest = np.linalg.eigvalsh(hessian)[-1]
    np.testing.assert_allclose(study.curvature(weights, batch), largest, rtol=1e-4)


def test_numbers_are_those_of_before_the_move_to_the_lab(records, before):
    found = {}
    for stage, record in records.items():
        ends = {name: record[name][-1] for name in ("train", "test") if name in record}
        middle = {"valid": record["valid"][10]} if "valid" in record else {}
        first = {
            place: {name: v if name == "rate" else v[:1] for name, v in record[place].items()}
            for place in study.PLACES if place in record
        }  # fmt: skip
        found[stage] = record | ends | middle | first
    before("weight-decay", found, rtol=1e-5, atol=0)


def test_enough_products_find_the_direction_of_the_exact_hypergradient(records):
    record = records["linear solvers"]
    assert max(record["exact_residual"]) < 1e-6
    assert np.min(record["settled"]["cg"][1]) > 1 - 1e-6
    assert np.min(record["settled"]["neumann"][1]) > 0.99
    assert np.max(record["noisy"]["cg"][1]) < 0.999  # the inner problem is not solved there


def test_findings_and_figures_show_what_was_recorded(records):
    one, each = records["linear one"], records["linear each"]
    assert one["test"][0] == each["test"][0] and np.shape(each["valid"]) == (21, 2)
    found = study.find(SMALL, records)
    assert [row.facts["hyperparameters"] for row in found.numbers.rows] == [1, 64 * 10 + 10]
    missing = [v for v in found.verdicts if v.holds is None]
    assert len(found.verdicts) == 10 and len(missing) == 1 + 5  # without identity, without the MLP
    overfitting, solvers = study.draw(SMALL, records)
    panel = overfitting.drawn["linear: one for each weight, Neumann"]
    assert panel["validation"][0][-1] == 20
    for name, label in (("train", "training"), ("valid", "validation"), ("test", "test")):
        assert_range(panel[label], 100 * np.asarray(each[name]))
    for place, words in study.PLACES.items():
        cosines = records["linear solvers"][place]
        for name, label in study.SOLVERS.items():
            drawn = cosines[name] * (2 if name == "identity" else 1)  # it takes no products
            assert_range(solvers.drawn[f"linear: {words}"][label], drawn)


@pytest.mark.parametrize(
    ("each", "one", "expected"),
    [
        ((0.99, 0.78), (0.6, 0.51), [True, True]),
        ((0.98, 0.4), (0.6, 0.3), [False, False]),
        ((1.0, 0.81), (0.9, 0.8), [False, False]),
    ],
)
def test_overfitting_is_judged_by_both_accuracies(each, one, expected):
    records = {
        f"mlp {arm}": {"train": [[1.0]], "valid": [[valid] * 2], "test": [[test] * 2]}
        | {"hyperparameters": 1}
        for arm, (valid, test) in (("each", each), ("one", one))
    }
    judged = [v for v in study.find(study.Settings(), records).verdicts if v.holds is not None]
    assert [v.holds for v in judged] == expected and {v.of for v in judged} == {"mlp"}


@pytest.mark.parametrize(
    ("products", "neumann", "holds"),
    [
        ([1, 2, 10, 50], [0.1, 0.5, 0.6, 0.1], True),
        ([1, 2, 10, 50], [0.9, 0.5, 0.59, 0.9], False),
        ([1, 2, 10, 50], [0.9, 0.49, 0.6, 0.9], False),
        ([1, 50], [0.1, 0.5], None),
    ],
)
def test_directions_are_judged_at_a_few_products(products, neumann, holds):
    cosines = {name: [[c] * 3 for c in some] for name, some in
               {"neumann": neumann, "cg": [0.5, 0.5, 0.6, 0.5]}.items()}  # fmt: skip
    record = {"products": products, "settled": cosines}
    assert study.few_terms("mlp", "settled", record).holds is holds


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(SettingsError, match="must not exceed"):
        study.Settings(batch_size=101)
    for products in ((), (0, 1)):
        with pytest.raises(SettingsError, match="at least 1"):
            study.Settings(products=products)


def test_the_example_is_a_nest_of_two_levels():
    example = study.example(SMALL)
    assert example.level == "decay" and "Neumann(20)" in example.flows and len(example.flows) == 5
    words = str(example.nest.levels(example.state))
    assert "decay" in words and "weights" in words
