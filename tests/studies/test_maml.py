"""MAML: the three gradients against their formulas, the tasks, whole small runs, verdicts."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax.flows import CG, Implicit
from nestax.levels import DivergenceError
from nestax.runs import SettingsError
from nestax_studies import data, maml
from nestax_studies.data import Omniglot
from nestax_studies.maml import tasks
from nestax_studies.maml.findings import interval, verdicts

TINY = {"steps": 12, "seeds": 2, "tasks": 3, "width": 4, "inner_steps": 2, "test_steps": 3}
RATES = {"inner": 0.05, "outer": 1e-3, "pull": 2.0, "steps": 10.0}


@pytest.fixture
def few(monkeypatch):
    """Fewer fresh tasks."""
    monkeypatch.setattr(maml, "TESTED", 8)


# The nest


def quadratic():
    """Tasks (a, b): loss (w - b)' a (w - b) / 2, the same examples to adapt to and to judge by, so
    that every gradient is known in closed form."""

    def sample(key):
        a, b, c = jax.random.normal(key, (3, 3))
        return tasks.Episode((jnp.exp(a), b), (jnp.ones(3), c))

    def judge(w, examples):
        a, b = examples
        loss = 0.5 * jnp.sum(a * (w - b) ** 2)
        return loss, loss

    return tasks.Family(sample, sample, sample, lambda key: jnp.zeros(3), judge)


@pytest.mark.parametrize("arm", ["unrolled", "first-order", "implicit", "joint"])
def test_one_nest_holds_the_gradients_of_maml_its_first_order_form_and_imaml(arm, x64, monkeypatch):
    monkeypatch.setitem(maml._FLOWS, "implicit", Implicit(CG(10, tolerance=1e-14), tolerance=1e6))
    family, steps = quadratic(), 400 if arm == "implicit" else 3
    nest = maml.system(family, arm, steps, 2, family.train)
    init = np.array([0.3, -0.5, 1.0])
    rates = {name: jnp.asarray(value) for name, value in RATES.items()}
    state = nest.init({"init": init, "rates": rates}, jax.random.key(3))
    (a, b), (_, c) = jax.tree.map(np.asarray, state.task)  # numpy may broadcast here
    pull = RATES["pull"]
    # w - w_0 = shift: shift <- shift - rate (a (init + shift - b) + pull shift), elementwise.
    shrink = 1 - RATES["inner"] * (a + pull)
    response = -a * (1 - shrink**steps) / (a + pull)  # d shift / d init
    adapted = init + response * (init - b)
    factor = {"unrolled": 1 + response, "implicit": pull / (a + pull), "first-order": 1.0}
    expected = (adapted - c) * factor.get(arm, 1.0) if arm != "joint" else init - c
    np.testing.assert_allclose(nest.gradient(state, "init"), expected.mean(0), rtol=1e-7)


def test_the_still_nest_judges_every_step_and_changes_nothing():
    family = quadratic()
    nest = maml.system(family, "unrolled", 4, 5, family.test, still=True)
    values = {"init": jnp.zeros(3), "rates": maml._floats(RATES | {"pull": 0.0})}
    state = nest.init(values, jax.random.key(0))
    after, info = nest.step(state)
    np.testing.assert_array_equal(after.values["init"], state.values["init"])
    (a, b), query = jax.tree.map(np.asarray, state.task)
    for step in range(4):
        adapted = b * (1 - (1 - RATES["inner"] * a) ** step)
        expected = jax.vmap(family.judge)(adapted, query)[1]
        np.testing.assert_allclose(info["shift"].user[step], expected, rtol=1e-4)
    assert info["init"].user.shape == (1, 5)


def test_the_rate_falls_along_half_a_cosine():
    tx = maml._adam({"rates": {"outer": jnp.asarray(0.1), "steps": jnp.asarray(4.0)}})
    state, sizes = tx.init(jnp.zeros(1)), []
    for _ in range(6):
        update, state = tx.update(jnp.ones(1), state)
        sizes.append(-float(update[0]))
    expected = [0.1 * (1 + np.cos(np.pi * min(n / 4, 1))) / 2 for n in range(6)]
    np.testing.assert_allclose(sizes, expected, atol=1e-5)


# The tasks


def test_sinusoids_have_the_published_ranges():
    family = tasks.sinusoids(10)
    episodes = jax.vmap(family.train)(jax.random.split(jax.random.key(0), 500))
    x, y = episodes.support
    assert x.shape == (500, 10, 1) and episodes.query[0].shape == (500, 10, 1)
    assert -5 <= x.min() < -4.9 and 4.9 < x.max() <= 5
    assert 4 < jnp.abs(y).max() <= 5
    # Both parts are of one wave: a sin(x + p) solves for a cos(p), a sin(p) from either.
    basis = jnp.concatenate([jnp.sin(x), jnp.cos(x)], 2)
    wave = jax.vmap(lambda b, y: jnp.linalg.lstsq(b, y)[0])(basis, y)
    other = jnp.concatenate([jnp.sin(episodes.query[0]), jnp.cos(episodes.query[0])], 2)
    np.testing.assert_allclose(other @ wave, episodes.query[1], atol=0.02)
    assert jnp.all(wave[:, 1] >= -1e-2)  # a sin(p), p in [0, pi]
    loss, score = family.judge(family.init(jax.random.key(0)), (x[0], y[0]))
    assert loss == score


def test_episodes_have_distinct_classes_and_drawings():
    classes, drawings = 6, 4
    numbers = np.arange(classes * drawings, dtype=np.uint8).reshape(classes, drawings, 1, 1)
    pictures = np.broadcast_to(numbers, (classes, drawings, 5, 5))
    draw = tasks.episodes(5, 1, 3)
    for key in jax.random.split(jax.random.key(0), 20):
        episode = draw(pictures, key)
        seen = [np.rint(part[0][:, 0, 0] * 255).astype(int) for part in episode]
        labels = [np.asarray(part[1]) for part in episode]
        assert (seen[0].shape, seen[1].shape) == ((5,), (15,))
        assert len({*seen[0], *seen[1]}) == 20
        kinds = {
            label: number // drawings for label, number in zip(labels[0], seen[0], strict=True)
        }
        assert len(set(kinds.values())) == 5
        assert [kinds[label] for label in labels[1]] == (seen[1] // drawings).tolist()


def test_turns_are_quarters():
    pictures = jax.random.normal(jax.random.key(0), (2, 5, 5))
    for quarters in range(4):
        turned = tasks.turn(pictures, jnp.asarray(quarters))
        np.testing.assert_array_equal(turned, np.rot90(pictures, quarters, (1, 2)))


@pytest.mark.parametrize("size", [28, 7, 2])
def test_patches_make_a_matrix_product_the_convolution(size):
    x, w = (
        jax.random.normal(jax.random.key(0), (2, size, size, 3)),
        jax.random.normal(jax.random.key(1), (3, 3, 3, 4)),
    )
    expected = jax.lax.conv_general_dilated(
        x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    found = tasks._patches(x) @ w.reshape(27, 4)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_network_normalizes_with_the_batch_itself():
    weights = tasks.conv_init(jax.random.key(0), 4, 5)
    pictures = jax.random.uniform(jax.random.key(1), (10, 28, 28))
    np.testing.assert_allclose(
        tasks.conv(weights, pictures), tasks.conv(weights, 3 * pictures), atol=1e-3
    )
    loss, accuracy = tasks.classify(weights, (pictures, jnp.arange(10) % 5))
    assert 0 <= accuracy <= 1 and loss > 0


# Whole runs


def test_a_run_is_complete_and_an_interrupted_one_goes_on(folder, tmp_path, few, monkeypatch):
    settings = maml.Settings(arms=("first-order", "joint"), tune=False, **TINY)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with folder(whole, settings) as opened:
        maml.run(settings, opened)
        lines = maml.STUDY.report(settings, opened)
    assert any("not measured" in line for line in lines)
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["complete"] and set(summary["arms"]) == {"first-order", "joint"}
    assert len(summary["arms"]["joint"]["by_step"]) == 4
    assert (whole / "figures" / "maml.png").stat().st_size > 10_000

    # Broken off within the second arm's second seed: what was done is not done again.
    did = []

    def interrupted(self, nest, state, infos, done, steps):
        self.watch.record(nest, state, infos, done, steps)
        did.append(done)
        if len(did) > 3 and did.count(steps) == 3:
            raise KeyboardInterrupt

    with folder(broken, settings) as opened:
        with monkeypatch.context() as patch:
            patch.setattr(maml._Told, "record", interrupted)
            with pytest.raises(KeyboardInterrupt):
                maml.run(settings, opened)
        assert [record["stage"] for record in opened.metrics()] == ["first-order"]
        maml.run(settings, opened)
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_rates_are_chosen_by_validation_tasks_and_divergence_is_survived(
    tmp_path, few, monkeypatch
):
    tried = ((0.01, 1e6), (1e-3,), (0.0,))  # the second rate diverges
    monkeypatch.setitem(maml._TRIED, "sinusoid", tried)
    settings = maml.Settings(arms=("first-order",), **{**TINY, "seeds": 1})
    record = maml.learn(settings, "first-order", tmp_path, lambda text: None)
    assert record["rates"] == {"inner": 0.01, "outer": 1e-3, "pull": 0.0}
    assert [one["inner"] for one in record["sweep"]] == [0.01]
    monkeypatch.setitem(maml._TRIED, "sinusoid", ((1e6,), (1e-3,), (0.0,)))
    with pytest.raises(FloatingPointError, match="every candidate"):
        maml.learn(settings, "first-order", tmp_path / "again", lambda text: None)


def test_rates_that_diverge_late_give_way_to_the_next_best(tmp_path, few, monkeypatch):
    record, doomed = maml._Told.record, []

    def diverges(self, nest, state, infos, done, steps):
        if "choice-0" in str(self.watch._given):
            doomed.append(done)
            raise DivergenceError("init", done, state, None, "")
        record(self, nest, state, infos, done, steps)

    monkeypatch.setattr(maml._Told, "record", diverges)
    monkeypatch.setitem(maml._TRIED, "sinusoid", ((0.01,), (1e-3, 2e-3), (0.0,)))
    settings = maml.Settings(arms=("first-order",), **{**TINY, "seeds": 1})
    found = maml.learn(settings, "first-order", tmp_path, lambda text: None)
    best, next_best = sorted(found["sweep"], key=lambda one: one["score"])
    assert doomed and best["diverged"] and "diverged" not in next_best
    assert found["rates"]["outer"] == next_best["outer"]


def test_omniglot_runs_on_characters_of_noise(few, monkeypatch):
    draw = np.random.RandomState(0)
    sets = [draw.randint(0, 256, (n, 20, 28, 28)).astype(np.uint8) for n in (20, 7)]
    numbers = [np.arange(n, dtype=np.int32) // 2 for n in (20, 7)]
    monkeypatch.setattr(data, "omniglot", lambda: Omniglot(*sets, *numbers))
    monkeypatch.setattr(tasks, "_HELD", 0.7)
    settings = maml.Settings(
        task="omniglot", arms=("first-order",), tune=False, **{**TINY, "seeds": 1, "steps": 2}
    )
    record = maml.STUDY.stages(settings)["first-order"](lambda text: None)
    scores = np.asarray(record["seeds"][0]["scores"])
    assert scores.shape == (8, 4) and (scores >= 0).all() and (scores <= 1).all()


def test_the_example_names_flows_for_the_initialization():
    example = maml.example(maml.Settings(**TINY))
    assert example.level == "init" and len(example.flows) == 5


# Settings, verdicts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ("reptile",)}, "of unrolled, first-order, implicit, joint; got reptile"),
        ({"arms": ()}, "got none"),
        ({"arms": ("joint", "joint")}, "named once each"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"inner_steps": -1}, "inner_steps must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        maml.Settings(**options)


def test_presets_fill_what_is_not_given_and_survive_the_folder():
    settings = maml.Settings(task="omniglot", preset="full", seeds=1)
    assert (settings.seeds, settings.width) == (1, 64)
    assert "joint" not in settings.arms and "joint" in maml.Settings().arms
    again = {k: tuple(v) if isinstance(v, list) else v
             for k, v in json.loads(json.dumps(dataclasses.asdict(settings))).items()}  # fmt: skip
    assert maml.Settings(**again) == settings


def words(task, **scores):
    """Verdicts on final scores given as means; tasks differ by a little noise that arms share."""
    noise = np.random.RandomState(0).normal(0, 0.01, (2, 600))
    arrays = {arm.replace("_", "-"): mean + noise for arm, mean in scores.items()}
    return [verdict.word for verdict in verdicts(maml.Settings(task=task), arrays)]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"unrolled": 0.95, "first_order": 0.945, "implicit": 0.96}, "+++"),
        ({"unrolled": 0.90, "first_order": 0.88, "implicit": 0.8}, "---"),
        ({"unrolled": 0.95}, "+00"),
        ({"first_order": 0.95}, "000"),
    ],
)
def test_verdicts_on_omniglot(scores, expected):
    table = {"+": "supported", "-": "not supported", "0": "not measured"}
    assert words("omniglot", **scores) == [table[sign] for sign in expected]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"unrolled": 0.3, "joint": 3.0, "first_order": 0.33, "implicit": 0.2}, "+++"),
        ({"unrolled": 0.3, "joint": 1.0, "first_order": 0.4, "implicit": 2.0}, "---"),
        ({"unrolled": 0.3, "implicit": 2.0}, "00-"),
    ],
)
def test_verdicts_on_sinusoids(scores, expected):
    table = {"+": "supported", "-": "not supported", "0": "not measured"}
    assert words("sinusoid", **scores) == [table[sign] for sign in expected]


def test_the_interval_is_that_of_the_mean():
    mean, half = interval(np.array([0.0, 1.0] * 50))
    assert mean == 0.5 and half == pytest.approx(1.96 * 0.5 / 10, rel=0.01)
