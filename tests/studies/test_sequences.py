"""Training of sequence models: measures against numpy, tuning, one program, carried state."""

import dataclasses
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references.sequence_models import Bag, Recurrent

from nestax_studies import formal_languages, lab, sequences
from nestax_studies.sequences import ARMS, Arm, Task, training
from nestax_studies.sequences.tasks import Exam, Example, read

RECIPE = sequences.Recipe(4, 1, 1, steps=40, batch_size=4, together=2, centre=0.03)


def parity(length):
    def draw(world, key, place):
        bits = jax.random.randint(key, (length,), 0, 2)
        return Example(bits, jnp.cumsum(bits) % 2, jnp.arange(length) % 3 > 0)

    return draw


EXAMS = {
    "same": Exam(parity(9), 8, groups=4),
    "long": Exam(parity(120), 10, together=4),
    "pieces": Exam(parity(120), 10, piece=24, together=10),
}
TASK = Task(2, parity(9), EXAMS, "same", 120)


@dataclasses.dataclass(frozen=True)
class Stand(Arm):
    """Makes a stand-in, and counts how often it is asked to."""

    made: list = dataclasses.field(default_factory=list)

    def make(self, *sizes):
        self.made.append(sizes)
        return Recurrent(*sizes)


def test_a_model_that_can_learns_whatever_runs_beside_it_in_one_program():
    arm = Stand("good", "-")
    run = training.runner(TASK, arm, RECIPE)
    found = run([0.03, 0.03, 0.0], [0, 1, 3])
    assert found["loss"].shape == found["accuracy"].shape == (3, 20)
    assert (found["loss"][:2, -1] < found["loss"][:2, 0]).all()
    for test in found["tests"].values():
        assert (test["whole"][:2] == 1).all() and test["whole"][2] < 0.5
    still = found["loss"][2].reshape(4, 5).mean(1)
    np.testing.assert_allclose(still, still[0], rtol=0.05)
    again = run([0.03], [1])
    assert again["loss"].shape == (1, 20) and len(arm.made) == 1
    np.testing.assert_array_equal(again["loss"][0], found["loss"][1])


def test_a_state_that_is_carried_from_piece_to_piece_makes_no_difference():
    tokens = jax.random.randint(jax.random.key(0), (24,), 0, 5)
    model = Bag(5, 0, 0, 0, 24, jax.random.key(1))
    np.testing.assert_allclose(read(model, tokens, 6), read(model, tokens), rtol=1e-5)


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
    judge = jax.jit(lambda key: sequences.tasks.judge(task, test, None, None, key))
    found = judge(jax.random.key(5))
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


@pytest.mark.parametrize(
    ("best", "measure", "tried", "edge"),
    [
        (0.0, "accuracy", [-0.5, 0, 0.5], False),
        (1.0, "accuracy", [-0.5, 0, 0.5, 1, 1.5], False),
        (-1.0, "accuracy", [-1.5, -1, -0.5, 0, 0.5], False),
        (9.0, "accuracy", [-0.5, 0, 0.5, 1, 1.5], True),  # no more than two
        (1.0, "whole", [-1.5, -1, -0.5, 0, 0.5], False),
        (0.0, "tie", [-0.5, 0, 0.5], False),
        (None, "accuracy", [-1.5, -1, -0.5, 0, 0.5], True),  # all diverge: the smallest is the best
    ],
)
def test_the_best_rate_is_chosen_on_seeds_that_are_not_judged(
    monkeypatch, best, measure, tried, edge
):
    """Whole sequences are right at a tenth of the rate at which answers are, which are all but
    alike for a tie: then the loss tells."""
    asked = []

    def run(rates, seeds):
        asked.append(list(seeds))
        place = np.log10(np.asarray(rates) / RECIPE.centre)
        away = np.abs(place - (np.nan if best is None else best))
        whole, loss = 0.5 - 0.01 * np.abs(place - (best or 0) + 2), away
        right = 0.5 + 4e-5 * place if measure == "tie" else 0.5 - 0.01 * away
        test = {"accuracy": right, "whole": whole, "loss": loss}
        return {"loss": loss[:, None], "tests": {"same": test}}

    monkeypatch.setattr(training, "runner", lambda task, arm, recipe: run)
    task = dataclasses.replace(TASK, measure="whole" if measure == "whole" else "accuracy")
    desk = lab.Desk(lambda text: None, Path())
    found = training.compare(task, Stand("good", "-"), RECIPE, 3, 2, 3, desk)
    np.testing.assert_allclose(np.log10(np.array(found["rates"]) / RECIPE.centre), tried, atol=1e-9)
    place = 0 if best is None else tried.index({"whole": -1.0}.get(measure, min(best, tried[-1])))
    assert found["rate"] == found["rates"][place] and found["edge"] is edge
    assert all(s == [10_000, 10_001] * (len(s) // 2) for s in asked[:-1]) and asked[-1] == [0, 1, 2]
    assert found["parameters"] == 4 and found["step"] == list(range(2, 41, 2))
    assert len(found["tests"]["same"]["accuracy"]) == 3


def test_every_arm_can_be_read_in_pieces_and_its_gates_and_vectors_do_not_decay():
    """Traced only: what models compute is tested where they live. Of parameters that are matrices
    only those do not decay that make rates, retention and momentum."""
    kept, tokens, key = set(), jnp.zeros(12, jnp.int32), jax.random.key(0)
    for name in ARMS:
        arms = ARMS[name], formal_languages.arm_of(name)
        model, other = (eqx.filter_eval_shape(arm.make, 5, 8, 1, 2, 12, key) for arm in arms)
        assert eqx.filter_eval_shape(read, other, tokens, 4).shape == (12, 5)
        shapes = eqx.filter(model, lambda a: jnp.issubdtype(getattr(a, "dtype", int), jnp.inexact))
        decays = jax.tree.leaves(training.decayed(shapes))
        for (path, leaf), decay in zip(jax.tree.leaves_with_path(shapes), decays, strict=True):
            assert not (decay and leaf.ndim < 2)
            if leaf.ndim > 1 and not decay:
                kept.add(jax.tree_util.keystr(path).split("mixer.")[-1].removesuffix("[0]"))
    made = {f"{name}.weight" for name in ("rate", "forget", "mu")}
    begun = {f"{name}['{box}']" for name in ("skips", "initial") for box in ("rate", "retain")}
    assert kept == made | begun
    assert len({arm.label for arm in ARMS.values()}) == len(ARMS) == 8


def test_the_example_is_the_nest_that_runs():
    found = training.example(TASK, Stand("good", "-"), RECIPE)
    state, info = found.nest.run(found.state, 3)
    assert len(info["model"].loss) == 3 and found.level is None
    assert "model" in str(found.nest.levels(state))
