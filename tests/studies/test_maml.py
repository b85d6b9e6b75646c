"""MAML: the three gradients against their formulas, the tasks, a small run, verdicts, figures."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax.flows import CG, Implicit
from nestax.levels import DivergenceError
from nestax_studies import data, maml
from nestax_studies.data import Omniglot
from nestax_studies.lab import Desk
from nestax_studies.maml import tasks
from nestax_studies.models import _conv

RATES = {"inner": 0.05, "outer": 1e-3, "pull": 2.0, "steps": 10.0}
BEFORE = json.loads((Path(__file__).parent / "before" / "maml.json").read_text())


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
    values = maml.values_of(jnp.zeros(3), RATES | {"pull": 0.0})
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
    found = _conv._patches(x) @ w.reshape(27, 4)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_network_normalizes_with_the_batch_itself():
    weights = _conv.conv_init(jax.random.key(0), 4, 5)
    pictures = jax.random.uniform(jax.random.key(1), (10, 28, 28))
    scores = _conv.conv(weights, pictures)
    np.testing.assert_allclose(scores, _conv.conv(weights, 3 * pictures), atol=1e-3)
    loss, accuracy = tasks.classify(weights, (pictures, jnp.arange(10) % 5))
    assert 0 <= accuracy <= 1 and loss > 0


def test_omniglot_is_judged_on_alphabets_never_seen(monkeypatch):
    """Classes are pictures of one grey, which says whose they are."""
    sets = [
        np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 20, 28, 28)) + base
        for n, base in ((20, 0), (7, 100))
    ]
    numbers = [np.arange(n, dtype=np.int32) // 2 for n in (20, 7)]  # two in an alphabet
    monkeypatch.setattr(data, "omniglot", lambda: Omniglot(*sets, *numbers))
    monkeypatch.setattr(tasks, "_HELD", 0.7)
    family = tasks.omniglot(5, 1, 4)
    for part, allowed in (
        ("train", range(14)),
        ("valid", range(14, 20)),
        ("test", range(100, 107)),
    ):
        draw = jax.jit(getattr(family, part))
        episodes = [draw(key) for key in jax.random.split(jax.random.key(1), 9)]
        seen = {int(g) for e in episodes for g in np.rint(255 * e.query[0][:, 0, 0])}
        assert seen <= set(allowed) and len(seen) > 5
    loss, accuracy = family.judge(family.init(jax.random.key(0)), episodes[0].support)
    assert loss > 0 and 0 <= accuracy <= 1


# A small run


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    settings = maml.Settings(
        arms=("unrolled",), tune=False, steps=12, seeds=2, tasks=3, width=4, inner_steps=2,
        test_steps=3,
    )  # fmt: skip
    stage = maml.stages(settings, tested=8)["unrolled"]
    return {"unrolled": stage(Desk(print, tmp_path_factory.mktemp("maml")))}


def test_a_run_has_the_numbers_of_the_study_before_it_was_moved(records):
    record = records["unrolled"]
    assert record["rates"] == BEFORE["rates"] and record["sweep"] == []
    for seed, loss, by_step in zip(record["seeds"], BEFORE["loss"], BEFORE["by_step"], strict=True):
        np.testing.assert_allclose(seed["loss"], loss, rtol=1e-5)
        assert np.shape(seed["scores"]) == (8, 4) and seed["step"] == list(range(1, 13))
        np.testing.assert_allclose(np.mean(seed["scores"], 0), by_step, rtol=1e-5, atol=1e-5)


def test_numbers_and_figure_are_those_recorded(records):
    settings, seeds = maml.Settings(seeds=2), records["unrolled"]["seeds"]
    found = maml.find(settings, records)
    arm = found.numbers.summary()["MAML, unrolled"]
    for name, step in (("before", 0), ("after adaptation", 3)):
        expected = [np.mean(np.asarray(seed["scores"])[:, step]) for seed in seeds]
        measured = arm["measures"][f"mean squared error {name}"]["values"]
        np.testing.assert_allclose(measured, expected, rtol=1e-5)
    assert "residual" not in arm["measures"]
    assert [verdict.holds for verdict in found.verdicts] == [None] * 3
    implicit = {"seeds": [seed | {"residual": 0.5, "inner_gradient": 2.0} for seed in seeds]}
    more = maml.find(settings, {"implicit": records["unrolled"] | implicit})
    assert more.numbers.summary()["iMAML"]["measures"]["residual"]["values"] == [0.5, 0.5]
    (sheet,) = maml.draw(settings, records)
    for panel, rows in (
        ("Learning", [seed["loss"] for seed in seeds]),
        ("Fresh tasks", [np.mean(seed["scores"], 0) for seed in seeds]),
    ):
        _, middle, low, high = sheet.drawn[panel]["MAML, unrolled"]
        for drawn, rule in ((middle, np.median), (low, np.min), (high, np.max)):
            np.testing.assert_allclose(drawn, rule(rows, axis=0), rtol=1e-6)


# How rates are chosen


@pytest.fixture
def learn(monkeypatch, tmp_path):
    """A function (task, arm, scores, diverges) -> record and the runs that were trained. Nothing is
    trained: `scores` are given by the initialization's rate, `diverges` is of (rates, steps)."""

    def does(task, arm, scores, diverges=lambda rates, steps: False):
        did, settings = [], maml.Settings(task=task, steps=100, seeds=3)

        class Fake:
            tick, ticks_per_step = 0, 1

            def init(self, values, key):
                self.values = values
                return self

            def step(self, state):
                score = scores[round(float(state.values["rates"]["outer"]), 6)]
                taken = type("Info", (), {"user": np.full((1, 8), score)})
                return state, {"shift": taken, "init": taken}

        def watched(nest, state, steps, desk, name, words):
            rates = {name: round(float(x), 6) for name, x in state.values["rates"].items()}
            did.append((name, rates, steps))
            if diverges(rates, steps):
                raise DivergenceError("init", 1, state, None, "")
            rows = [{"step": n, "loss": {"init": 1.0}} for n in range(1, steps + 1)]
            return state, {"init": type("Info", (), {"residual": None})}, rows

        monkeypatch.setattr(maml, "system", lambda *args, **more: Fake())
        monkeypatch.setattr(maml.train, "watched", watched)
        desk = Desk(print, tmp_path)
        return maml.learn(settings, arm, quadratic(), lambda part, steps: Fake(), desk), did

    return does


@pytest.mark.parametrize(("task", "best"), [("sinusoid", 0.001), ("omniglot", 0.003)])
def test_rates_are_chosen_by_validation_tasks_after_a_tenth_of_the_steps(learn, task, best):
    record, did = learn(task, "unrolled", {0.001: 0.2, 0.003: 0.4})
    assert record["rates"]["outer"] == best  # the least error, or the largest accuracy
    assert len(record["sweep"]) == 4 and len(record["seeds"]) == 3
    assert [steps for _, _, steps in did] == [10] * 4 + [100] * 3
    assert len({name for name, *_ in did}) == 7  # folders of their own
    assert len(record["seeds"][0]["loss"]) == 60


def test_rates_that_diverge_late_give_way_to_the_next_best(learn):
    late = lambda rates, steps: steps == 100 and rates["outer"] == 0.001  # noqa: E731
    record, did = learn("sinusoid", "implicit", {0.001: 0.2, 0.003: 0.4}, late)
    assert record["rates"] == {"inner": 0.02, "outer": 0.003, "pull": 3.0}
    assert [one.get("diverged", False) for one in record["sweep"]] == [True, True, False, False]
    assert len(did) == 4 + 1 + 1 + 3  # a choice ends with the first seed that diverges


def test_rates_that_diverge_at_once_are_no_candidates(learn):
    soon = lambda rates, steps: rates["outer"] == 0.001  # noqa: E731
    record, _ = learn("sinusoid", "joint", {0.001: 0.2, 0.003: 0.4}, soon)
    assert [one["outer"] for one in record["sweep"]] == [0.003, 0.003]
    with pytest.raises(FloatingPointError, match="every choice of its rates diverges"):
        learn("sinusoid", "joint", {}, lambda rates, steps: True)


# Settings, verdicts


def test_omniglot_has_presets_of_its_own():
    settings = maml.Settings(task="omniglot", preset="full", seeds=1)
    assert (settings.seeds, settings.width, settings.implicit_steps) == (1, 64, 16)
    assert settings.arms == ("unrolled", "first-order", "implicit")
    usual = maml.Settings(preset="full")
    assert (usual.steps, usual.width) == (60000, 40) and usual.arms[-1] == "joint"


def words(task, **scores):
    """Verdicts on final scores whose means over tasks are given for each of two seeds; tasks differ
    by noise that arms share."""
    noise = np.random.RandomState(0).normal(0, 0.01, (2, 600))
    noise -= noise.mean(1, keepdims=True)
    arrays = {
        arm.replace("_", "-"): np.broadcast_to(mean, 2)[:, None] + noise
        for arm, mean in scores.items()
    }
    signs = {"supported": "+", "not supported": "-", "not measured": "0"}
    return "".join(signs[verdict.word] for verdict in maml.verdicts(task, arrays))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"unrolled": 0.95, "first_order": 0.941, "implicit": 0.96}, "+++"),
        ({"unrolled": 0.9003, "first_order": 0.889, "implicit": 0.8}, "---"),  # within an interval
        ({"unrolled": 0.95}, "+00"),
        ({"first_order": 0.95}, "000"),
    ],
)
def test_verdicts_on_omniglot(scores, expected):
    assert words("omniglot", **scores) == expected


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"unrolled": 0.3, "joint": 1.55, "first_order": 0.35, "implicit": 0.2}, "+++"),
        ({"unrolled": 0.3, "joint": 1.45, "first_order": 0.37, "implicit": 2.0}, "---"),
        ({"unrolled": (0.1, 0.5), "joint": 2.0, "first_order": 0.3}, "-+0"),  # in every seed
        ({"unrolled": 0.1, "joint": (0.4, 2.0), "implicit": 0.1}, "-0+"),
        ({"unrolled": 0.3, "implicit": 2.0}, "00-"),
    ],
)
def test_verdicts_on_sinusoids(scores, expected):
    assert words("sinusoid", **scores) == expected


def test_the_interval_is_that_of_the_mean():
    mean, half = maml.interval(np.array([0.0, 1.0] * 50))
    assert mean == 0.5 and half == pytest.approx(1.96 * 0.5 / 10, rel=0.01)
