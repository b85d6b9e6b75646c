"""Weight decays: solvers against a dense Hessian, a whole small run, verdicts, settings."""

import json

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from nestax.runs import SettingsError
from nestax_studies import models
from nestax_studies import weight_decay as study
from nestax_studies._images import cross_entropy
from nestax_studies.weight_decay import solvers

TINY = {
    "data": "digits", "images": 10, "hidden": 3, "seeds": 2, "steps": 20,
    "compared_images": 12, "batch_size": 4, "products": (2,),
}  # fmt: skip


@pytest.fixture
def short(monkeypatch):
    """Fewer arms, and fewer updates of the weights."""
    monkeypatch.setattr(study, "_MODELS", ("linear",))
    monkeypatch.setattr(study, "_ARMS", {arm: study._ARMS[arm] for arm in ("one", "each")})
    monkeypatch.setattr(solvers, "_NOISY", 10)
    monkeypatch.setattr(solvers, "_SETTLED", 60)


def test_curvature_is_the_largest_eigenvalue(x64):
    key = jax.random.key(0)
    weights = models.mlp_init(key, (5, 3))
    batch = jax.random.normal(key, (8, 5)), jnp.arange(8) % 3
    flat, back = jax.flatten_util.ravel_pytree(weights)
    hessian = jax.hessian(lambda w: cross_entropy(back(w), batch))(flat)
    found = solvers._curvature(weights, batch)
    np.testing.assert_allclose(found, np.linalg.eigvalsh(hessian)[-1], rtol=1e-4)


def test_enough_products_find_the_direction_of_the_exact_hypergradient(monkeypatch):
    monkeypatch.setattr(solvers, "_SETTLED", 3000)
    settings = study.Settings(**TINY | {"products": (150,), "log_decay": -2.0})
    record = study.compare(settings, "linear", lambda text: None)
    assert max(record["gradient"]) < 1e-6 and max(record["exact_residual"]) < 1e-6
    assert np.min(record["settled"]["cg"]) > 1 - 1e-6
    assert np.min(record["settled"]["neumann"]) > 0.99
    # No inverse is not enough, and neither is a place where the inner problem is not solved.
    assert np.max(record["settled"]["identity"]) < 0.999
    assert np.max(record["noisy"]["cg"]) < 0.999
    assert np.all(np.abs(record["settled"]["identity"]) <= 1 + 1e-9)


def test_a_run_is_complete_and_an_interrupted_one_goes_on(folder, tmp_path, short):
    settings = study.Settings(**TINY)
    with folder(tmp_path / "whole", settings) as opened:
        study.STUDY.run(settings, opened)
        lines = study.STUDY.report(settings, opened)
    assert len(lines) == 4 and not any("not measured" in line for line in lines)
    rows = [json.loads(r) for r in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    by_stage = {row["stage"]: row for row in rows}
    assert len(by_stage) == 3
    linear = by_stage["linear each"]
    assert linear["hyperparameters"] == 64 * 10 + 10
    assert by_stage["linear one"]["hyperparameters"] == 1
    assert np.shape(linear["valid"]) == (21, 2) and len(linear["residual"]) == 2
    # All arms begin with the same images and weights.
    assert all(by_stage[f"linear {arm}"]["test"][0] == linear["test"][0] for arm in study._ARMS)
    for name in ("overfitting.png", "solvers.png"):
        assert (tmp_path / "whole" / "figures" / name).stat().st_size > 10_000
    kept = rows[::2]  # without linear each
    with folder(tmp_path / "broken", settings) as opened:
        for row in kept:
            opened.append(row)
        opened.write_json("facts.json", {"machine": {}, "seconds": {}})
        study.STUDY.run(settings, opened)
        assert sorted(map(str, opened.metrics())) == sorted(map(str, rows))


def ends(valid, test):
    return {"train": [1.0, 1.0], "valid": [valid] * 2, "test": [test] * 2}


@pytest.mark.parametrize(
    ("each", "one", "words"),
    [
        ((1.0, 0.6), (0.6, 0.55), ["supported", "supported"]),
        ((0.9, 0.4), (0.6, 0.3), ["not supported", "not supported"]),
        ((1.0, 0.85), (0.9, 0.88), ["not supported", "supported"]),
    ],
)
def test_overfitting_is_judged_by_both_accuracies(each, one, words):
    found = study._overfitting(study.Settings(), "mlp", {"each": ends(*each), "one": ends(*one)})
    assert [verdict.word for verdict in found] == words


def test_directions_are_judged_at_a_few_products():
    def record(neumann, cg):
        cosines = {"neumann": [[c] * 3 for c in neumann], "cg": [[c] * 3 for c in cg]}
        return {"products": [1, 2, 10, 50], "settled": cosines, "noisy": cosines}

    better = record([0.1, 0.6, 0.7, 0.7], [0.9, 0.5, 0.6, 0.9])
    worse = record([0.9, 0.6, 0.5, 0.9], [0.1, 0.5, 0.6, 0.1])
    assert [v.word for v in solvers.directions("mlp", better)] == ["supported"] * 2
    assert [v.word for v in solvers.directions("mlp", worse)] == ["not supported"] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"steps": 30}, "multiple of 20"),
        ({"batch_size": 101}, "must not exceed"),
        ({"products": ()}, "at least 1"),
        ({"images": 701}, "700 at most"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        study.Settings(**options)


def test_the_example_is_a_nest_of_two_levels():
    example = study.example(study.Settings(**TINY))
    assert example.level == "decay" and "Neumann(20)" in example.flows
    words = str(example.nest.levels(example.state))
    assert "decay" in words and "weights" in words
