"""Training of sequence models: measures against numpy, tuning, one program, carried state."""

import dataclasses
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references.sequence_models import Bag, Recurrent

from nestax_studies import formal_languages, lab
from nestax_studies.sequences import (
    ARMS,
    Arm,
    Exam,
    Example,
    Recipe,
    Task,
    descent,
    judging,
    read,
    training,
)

RECIPE = Recipe(4, 1, 1, steps=40, batch_size=4, points=4, together=2, centre=0.03)


def parity(length):
    def draw(world, key, place):
        bits = jax.random.randint(key, (length,), 0, 2)
        return Example(bits, jnp.cumsum(bits) % 2, jnp.arange(length) % 3 > 0)

    return draw


TASK = Task(
    2,
    parity(9),
    {
        "same": Exam(parity(9), 8, groups=4),
        "long": Exam(parity(120), 10, together=4),
        "pieces": Exam(parity(120), 10, piece=24, together=10),
    },
    "same",
    120,
)


@dataclasses.dataclass(frozen=True)
class Stand(Arm):
    kind: type = Recurrent

    def make(self, *sizes):
        return self.kind(*sizes)


DESK = lab.Desk(lambda text: None, Path())
GOOD, POOR = Stand("good", "-"), Stand("poor", "-", kind=Bag)


@pytest.fixture(scope="module")
def good():
    return training.runner(TASK, GOOD, RECIPE)([0.03, 0.03, 0.0], [0, 1, 2])


def test_a_model_that_can_learns_and_one_that_cannot_does_not(good):
    assert good["loss"].shape == (3, 4) and good["accuracy"].shape == (3, 4)
    assert (good["loss"][:2, -1] < good["loss"][:2, 0]).all()
    for name in ("same", "long", "pieces"):
        assert (good["tests"][name]["whole"][:2] == 1).all()
    poor = training.runner(TASK, POOR, RECIPE)([0.03], [0])
    assert poor["tests"]["long"]["accuracy"] < 0.8 and poor["tests"]["long"]["whole"] == 0


def test_nothing_is_learned_at_rate_zero(good):
    np.testing.assert_allclose(good["loss"][2], good["loss"][2, 0], rtol=0.05)


def test_a_state_that_is_carried_from_piece_to_piece_makes_no_difference():
    tokens = jax.random.randint(jax.random.key(0), (24,), 0, 5)
    for kind in (Recurrent, Bag):
        model = kind(5, 0, 0, 0, 24, jax.random.key(1))
        for piece in (1, 6, 24):
            np.testing.assert_allclose(read(model, tokens, piece), read(model, tokens), rtol=1e-5)


def test_measures_are_those_of_a_count_by_hand():
    """Scores are the answers, but for some that are wrong and one that is not finite."""
    time, count = 120, 6
    keys = jax.random.split(jax.random.key(5), count)
    wrong = np.zeros((count, time), bool)
    wrong[1, 7], wrong[2, 119], wrong[4, [10, 100]] = True, True, True
    asked = np.arange(time) % 3 > 0
    bits = np.stack([np.asarray(jax.random.randint(key, (time,), 0, 2)) for key in keys])

    def answer(trained, tokens, piece):
        row = jnp.argmax(jnp.all(tokens[None] == jnp.asarray(bits), axis=1))
        right = jax.nn.one_hot(jnp.cumsum(tokens) % 2, 2)
        scores = jnp.where(jnp.asarray(wrong)[row][:, None], 1 - right, right)
        return scores.at[50].set(jnp.where(row == 3, jnp.nan, scores[50]))

    task = dataclasses.replace(TASK, answer=answer)
    test = Exam(parity(time), count, together=4, groups=3)
    found = judging.judge(task, test, None, None, jax.random.key(5))
    right = ~wrong
    right[3, 50] = False
    total = right[:, asked].sum()
    assert asked[[7, 50, 10, 100, 119]].all()
    np.testing.assert_allclose(found["accuracy"], total / (count * asked.sum()), rtol=1e-6)
    np.testing.assert_allclose(found["whole"], 2 / 6, rtol=1e-6)
    np.testing.assert_allclose(found["last"], 5 / 6, rtol=1e-6)
    assert np.isnan(found["loss"])
    np.testing.assert_allclose(found["whole_by_place"], [0.5, 0.0, 0.5], rtol=1e-6)
    by_place = (right & asked).reshape(3, -1).sum(1) / (2 * asked.sum())
    np.testing.assert_allclose(found["by_place"], by_place, rtol=1e-6)
    cut = lambda a: a.reshape(-1, 24, 5).sum((0, 2))  # noqa: E731
    blocks = cut(right & asked) / (count * cut(asked))  # of at most 25 blocks, for 120 places
    np.testing.assert_allclose(found["by_position"], blocks, rtol=1e-6)


def test_the_rate_that_answers_best_is_chosen_and_seeds_to_tune_by_are_not_judged(monkeypatch):
    asked = []

    def runner(task, arm, recipe):
        def run(rates, seeds):
            asked.append((list(rates), list(seeds)))
            accuracy = np.where(np.isclose(rates, recipe.centre), 0.9, 0.5)
            accuracy = np.where(np.asarray(rates) > 2 * recipe.centre, 0.90004, accuracy)
            loss = np.where(np.isclose(rates, recipe.centre), 0.1, 0.2)
            test = {"accuracy": accuracy, "loss": loss}
            return {"loss": loss[:, None], "tests": {"same": test}}

        return run

    monkeypatch.setattr(training, "runner", runner)
    found = training.compare(TASK, GOOD, RECIPE, 3, 2, 3, DESK)
    assert found["rate"] == RECIPE.centre and not found["edge"]
    np.testing.assert_allclose(found["scores"], [0.5, 0.9, 0.90004])
    assert asked[0][1] == 3 * [10_000, 10_001] and asked[1] == ([RECIPE.centre] * 3, [0, 1, 2])
    assert found["parameters"] == 4 and found["step"] == [10, 20, 30, 40]
    assert found["tests"]["same"]["accuracy"] == [0.9] * 3 and len(found["loss"]) == 1
    assert training.compare(TASK, GOOD, RECIPE, 1, 1, 1, DESK)["edge"]


@pytest.mark.parametrize(
    ("best", "tried", "edge"),
    [
        (0.0, [-0.5, 0, 0.5], False),
        (1.0, [-0.5, 0, 0.5, 1, 1.5], False),
        (-1.0, [-1.5, -1, -0.5, 0, 0.5], False),
        (9.0, [-0.5, 0, 0.5, 1, 1.5], True),  # no more than two
        (None, [-1.5, -1, -0.5, 0, 0.5], True),  # where all diverge, the smallest is the best
    ],
)
def test_rates_beyond_an_edge_are_tried(monkeypatch, best, tried, edge):
    def runner(task, arm, recipe):
        def run(rates, seeds):
            away = np.abs(np.log10(np.asarray(rates) / recipe.centre) - (best or 0))
            test = {"accuracy": 0.5 - 0.01 * away, "loss": away}
            if best is None:
                test = {name: np.full(len(rates), np.nan) for name in test}
            return {"loss": away[:, None], "tests": {"same": test}}

        return run

    monkeypatch.setattr(training, "runner", runner)
    found = training.compare(TASK, GOOD, RECIPE, 3, 2, 3, DESK)
    np.testing.assert_allclose(np.log10(np.array(found["rates"]) / RECIPE.centre), tried, atol=1e-9)
    assert found["rate"] == found["rates"][int(np.argmax(found["scores"]))]
    assert found["edge"] is edge


def test_rates_can_be_chosen_by_whole_sequences(monkeypatch):
    def runner(task, arm, recipe):
        def run(rates, seeds):
            small = np.asarray(rates) < recipe.centre * 1.01
            test = {"accuracy": 1 - 0.1 * small, "whole": 0.0 + small, "loss": 1.0 * small}
            return {"loss": test["loss"][:, None], "tests": {"same": test}}

        return run

    monkeypatch.setattr(training, "runner", runner)
    by_answers, by_sequences = (
        training.compare(dataclasses.replace(TASK, measure=measure), GOOD, RECIPE, 3, 1, 1, DESK)
        for measure in ("accuracy", "whole")
    )
    assert by_answers["rate"] > RECIPE.centre * 1.01 > by_sequences["rate"]
    assert max(by_sequences["scores"]) == 1.0


def test_runs_of_all_rates_and_seeds_are_one_program(good):
    compiled = []

    class Counting(Stand):
        def make(self, *sizes):
            compiled.append(sizes)
            return super().make(*sizes)

    run = training.runner(TASK, Counting("good", "-"), RECIPE)
    again = run([0.03, 0.03, 0.0], [0, 1, 2])
    run([0.01], [7])
    assert len(compiled) == 1
    np.testing.assert_array_equal(again["loss"], good["loss"])


def test_gates_and_vectors_do_not_decay():
    """Of the models themselves: what makes rates, retention and momentum, and nothing else."""
    kept = set()
    for name in ARMS:
        model = ARMS[name].make(5, 8, 1, 2, 12, jax.random.key(0))
        arrays = eqx.filter(model, eqx.is_inexact_array)
        for (path, leaf), decays in zip(
            jax.tree.leaves_with_path(arrays),
            jax.tree.leaves(descent.decayed(arrays)),
            strict=True,
        ):
            assert not (decays and leaf.ndim < 2)
            if leaf.ndim > 1 and not decays:
                kept.add(jax.tree_util.keystr(path).split("mixer.")[-1])
    made = {f"{name}.weight" for name in ("rate", "forget", "mu")}
    begun = {f"{name}['{box}']" for name in ("skips", "initial") for box in ("rate", "retain")}
    assert {path.removesuffix("[0]") for path in kept} == made | begun


def test_the_example_is_the_nest_that_runs():
    found = training.example(TASK, GOOD, RECIPE)
    state, info = found.nest.run(found.state, 3)
    assert len(info["model"].loss) == 3 and found.level is None
    assert "model" in str(found.nest.levels(state))


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_makes_a_model_that_can_be_trained_and_read_in_pieces(name):
    """Traced only: what models compute is tested where they live."""
    arms = [ARMS[name], formal_languages.arm_of(name)]
    tokens = jnp.zeros(12, jnp.int32)

    def trained(arm, key, pieces):
        model = arm.make(5, 8, 1, 2, 12, key)
        return eqx.filter_grad(lambda m: jnp.sum(read(m, tokens, pieces)))(model), read(
            model, tokens
        )

    for arm in arms:
        _, scores = eqx.filter_eval_shape(lambda k, a=arm: trained(a, k, 4), jax.random.key(0))
        assert scores.shape == (12, 5)


def test_arms_are_named_apart():
    assert len({arm.label for arm in ARMS.values()}) == len(ARMS) == 8
