"""MAML: the three gradients against their formulas, the tasks, a small run, verdicts, figures."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from studies.drawn import assert_range

from nestax.flows import CG, Implicit
from nestax.levels import DivergenceError
from nestax_studies import data, maml
from nestax_studies.data import Omniglot
from nestax_studies.lab import Desk
from nestax_studies.maml import tasks

RATES = {"inner": 0.05, "outer": 1e-3, "pull": 2.0, "steps": 10.0}


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


# The tasks


def test_sinusoids_have_the_published_ranges():
    family = tasks.sinusoids(10)
    episodes = jax.vmap(family.train)(jax.random.split(jax.random.key(0), 500))
    (x, y), (others, targets) = episodes
    assert x.shape == (500, 10, 1) and others.shape == (500, 10, 1)
    assert -5 <= x.min() < -4.9 and 4.9 < x.max() <= 5
    assert 4 < jnp.abs(y).max() <= 5
    # Both parts are of one wave: a sin(x + p) solves for a cos(p), a sin(p) from either.
    basis, other = (np.concatenate([np.sin(z), np.cos(z)], 2) for z in (x, others))
    wave = np.stack([np.linalg.lstsq(*one)[0] for one in zip(basis, y, strict=True)])
    np.testing.assert_allclose(other @ wave, targets, atol=0.02)
    assert np.all(wave[:, 1] >= -1e-2)  # a sin(p), p in [0, pi]


def test_episodes_have_distinct_classes_and_drawings():
    classes, drawings = 6, 4
    numbers = np.arange(classes * drawings, dtype=np.uint8).reshape(classes, drawings, 1, 1)
    pictures = np.broadcast_to(numbers, (classes, drawings, 5, 5))
    draw = jax.jit(partial(tasks.episodes(5, 1, 3), pictures))
    for key in jax.random.split(jax.random.key(0), 20):
        support, query = draw(key)
        seen, others = (np.rint(part[0][:, 0, 0] * 255).astype(int) for part in (support, query))
        assert len({*seen}) == 5 and len({*others}) == 15 and not {*seen} & {*others}
        kinds = dict(zip(np.asarray(support[1]), seen // drawings, strict=True))
        assert len(set(kinds.values())) == 5
        assert [kinds[label] for label in np.asarray(query[1])] == (others // drawings).tolist()
    pictures = jax.random.normal(jax.random.key(0), (2, 5, 5))
    for quarters in range(4):
        turned = tasks.turn(pictures, jnp.asarray(quarters))
        np.testing.assert_array_equal(turned, np.rot90(pictures, quarters, (1, 2)))


def test_omniglot_is_judged_on_alphabets_never_seen(monkeypatch):
    """Classes are pictures of one grey, which says whose they are."""
    greys = [np.arange(20, dtype=np.uint8), np.arange(100, 107, dtype=np.uint8)]
    sets = [np.broadcast_to(g[:, None, None, None], (len(g), 20, 28, 28)) for g in greys]
    numbers = [np.arange(n, dtype=np.int32) // 2 for n in (20, 7)]  # two in an alphabet
    monkeypatch.setattr(data, "omniglot", lambda: Omniglot(*sets, *numbers))
    monkeypatch.setattr(tasks, "_HELD", 0.7)
    family = tasks.omniglot(5, 1, 4)
    parts = {"train": range(14), "valid": range(14, 20), "test": range(100, 107)}
    for part, allowed in parts.items():
        episodes = jax.jit(jax.vmap(getattr(family, part)))(jax.random.split(jax.random.key(1), 9))
        seen = {*np.rint(255 * episodes.query[0][:, :, 0, 0]).astype(int).ravel()}
        assert seen <= set(allowed) and len(seen) > 5
    weights = family.init(jax.random.key(0))
    loss, accuracy = family.judge(weights, jax.tree.map(lambda a: a[0], episodes.support))
    assert loss > 0 and 0 <= accuracy <= 1
    assert maml.Settings(task="omniglot").arms == ("unrolled", "first-order", "implicit")


# A small run


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    tiny = {"steps": 12, "seeds": 2, "tasks": 3, "width": 4, "inner_steps": 2, "test_steps": 3}
    stages = maml.stages(maml.Settings(arms=("unrolled",), tune=False, **tiny), tested=8)
    return {"unrolled": stages["unrolled"](Desk(print, tmp_path_factory.mktemp("maml")))}


def test_a_run_has_the_numbers_of_before_and_shows_them(records, before):
    record = records["unrolled"]
    losses = [seed["loss"] for seed in record["seeds"]]
    scores = np.asarray([seed["scores"] for seed in record["seeds"]])
    assert scores.shape == (2, 8, 4) and record["sweep"] == []
    by_step, steps = scores.mean(1), list(range(1, 13))
    before("maml", {"rates": record["rates"], "loss": losses, "by_step": by_step}, 1e-5, 1e-5)
    settings, name = maml.Settings(seeds=2), "MAML, unrolled"
    found = maml.find(settings, records)
    measures = found.numbers.summary()[name]["measures"]
    for measure, step in (("before", 0), ("after adaptation", 3)):
        measured = measures[f"mean squared error {measure}"]["values"]
        np.testing.assert_allclose(measured, by_step[:, step], rtol=1e-5)
    assert "residual" not in measures and [v.holds for v in found.verdicts] == [None] * 3
    exact = [seed | {"residual": 0.5, "inner_gradient": 2.0} for seed in record["seeds"]]
    more = maml.find(settings, {"implicit": record | {"seeds": exact}}).numbers.summary()
    assert more["iMAML"]["measures"]["residual"]["values"] == [0.5, 0.5]
    (sheet,) = maml.draw(settings, records)
    assert_range(sheet.drawn["Learning"][name], np.transpose(losses), steps)
    assert_range(sheet.drawn["Fresh tasks"][name], by_step.T, range(4))


def test_the_example_has_flows_to_compare():
    found = []
    settings = maml.Settings(width=3)
    jax.eval_shape(lambda: found.append(maml.example(settings)) or found[0].state)
    assert found[0].level == "init" and len(found[0].flows) == 5


# How rates are chosen


@pytest.fixture
def learn(monkeypatch, desk):
    """A function (task, arm, scores, diverges) -> record and the runs that were trained. Nothing is
    trained: `scores` are given by the initialization's rate, `diverges` is of (rates, steps)."""

    def does(task, arm, scores, diverges=lambda rates, steps: False):
        did, settings = [], maml.Settings(task=task, steps=100, seeds=3)

        def step(state):
            score = scores[round(float(state.values["rates"]["outer"]), 6)]
            info = SimpleNamespace(user=np.full((1, 8), score))
            return state, {"shift": info, "init": info}

        def watched(nest, state, steps, desk, name, words):
            rates = {name: round(float(x), 6) for name, x in state.values["rates"].items()}
            did.append((name, steps))
            if diverges(rates, steps):
                raise DivergenceError("init", 1, state, None, "")
            rows = [{"step": n, "loss": {"init": 1.0}} for n in range(1, steps + 1)]
            return state, {"init": SimpleNamespace(residual=None)}, rows

        begun = lambda values, key: SimpleNamespace(values=values, tick=0)  # noqa: E731
        nest = SimpleNamespace(init=begun, step=step)
        monkeypatch.setattr(maml, "system", lambda *args, **more: nest)
        monkeypatch.setattr(maml.train, "watched", watched)
        return maml.learn(settings, arm, quadratic(), lambda part, steps: nest, desk), did

    return does


@pytest.mark.parametrize(("task", "best"), [("sinusoid", 0.001), ("omniglot", 0.003)])
def test_rates_are_chosen_by_validation_tasks_after_a_tenth_of_the_steps(learn, task, best):
    record, did = learn(task, "unrolled", {0.001: 0.2, 0.003: 0.4})
    assert record["rates"]["outer"] == best  # the least error, or the largest accuracy
    assert len(record["sweep"]) == 4 and len(record["seeds"]) == 3
    assert [steps for _, steps in did] == [10] * 4 + [100] * 3
    assert len({name for name, _ in did}) == 7  # folders of their own
    assert len(record["seeds"][0]["loss"]) == 60


def test_rates_that_diverge_give_way_to_the_next_best(learn):
    scores = {0.001: 0.2, 0.003: 0.4}
    late = lambda rates, steps: steps == 100 and rates["outer"] == 0.001  # noqa: E731
    record, did = learn("sinusoid", "implicit", scores, late)
    assert record["rates"] == {"inner": 0.02, "outer": 0.003, "pull": 3.0}
    assert [one.get("diverged", False) for one in record["sweep"]] == [True, True, False, False]
    assert len(did) == 4 + 1 + 1 + 3  # a choice ends with the first seed that diverges
    # Rates that diverge at once are no candidates.
    record, _ = learn("sinusoid", "joint", scores, lambda rates, steps: rates["outer"] == 0.001)
    assert [one["outer"] for one in record["sweep"]] == [0.003, 0.003]
    with pytest.raises(FloatingPointError, match="every choice of its rates diverges"):
        learn("sinusoid", "joint", {}, lambda rates, steps: True)


# Verdicts


VERDICTS = {  # final scores, of each of two seeds where these are not alike
    "omniglot": (
        ({"unrolled": 0.95, "first_order": 0.941, "implicit": 0.96}, "+++"),
        ({"unrolled": 0.9003, "first_order": 0.889, "implicit": 0.8}, "---"),  # within an interval
        ({"unrolled": 0.95}, "+00"),
        ({"first_order": 0.95}, "000"),
    ),
    "sinusoid": (
        ({"unrolled": 0.3, "joint": 1.55, "first_order": 0.35, "implicit": 0.2}, "+++"),
        ({"unrolled": 0.3, "joint": 1.45, "first_order": 0.37, "implicit": 2.0}, "---"),
        ({"unrolled": (0.1, 0.5), "joint": 2.0, "first_order": 0.3}, "-+0"),  # in every seed
        ({"unrolled": 0.1, "joint": (0.4, 2.0), "implicit": 0.1}, "-0+"),
        ({"unrolled": 0.3, "implicit": 2.0}, "00-"),
    ),
}


@pytest.mark.parametrize("task", VERDICTS)
def test_verdicts_and_intervals(task):
    """Tasks differ by noise that arms share."""
    noise = np.random.RandomState(0).normal(0, 0.01, (2, 600))
    noise -= noise.mean(1, keepdims=True)
    signs = {"supported": "+", "not supported": "-", "not measured": "0"}
    for means, expected in VERDICTS[task]:
        scores = {
            arm.replace("_", "-"): np.broadcast_to(mean, 2)[:, None] + noise
            for arm, mean in means.items()
        }
        assert "".join(signs[v.word] for v in maml.verdicts(task, scores)) == expected
    mean, half = maml.interval(np.array([0.0, 1.0] * 50))
    assert mean == 0.5 and half == pytest.approx(1.96 * 0.5 / 10, rel=0.01)
