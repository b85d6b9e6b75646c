"""Optimizers compared: tasks, tuning, a naive loop, a whole small run, verdicts."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from studies.drawn import assert_range

from nestax_studies import data, lab, models
from nestax_studies import optimizers as study
from nestax_studies.data import Text
from nestax_studies.optimizers import arms, findings, tasks, training
from nestax_studies.optimizers.arms import ARMS

NUMBERS = ("settled", "pushed", "forgotten")  # all else are curves
DESK = lab.Desk(lambda text: None, Path("unused"))


@pytest.fixture
def language(monkeypatch):
    """A text that can be learned: the same five letters over and over."""
    numbers = np.tile(np.arange(5, dtype=np.uint8), 100)
    monkeypatch.setattr(data, "tiny_shakespeare", lambda: Text("abcde", numbers, numbers[:200]))
    return tasks.language((8, 2, 2), 6, 4, 80, 2, 1)


def network(together=2):
    return tasks.network("digits", (5,), 8, 80, 4, together)


def slow(task):
    """The slow parameters, and the others, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(task.init, jax.random.key(0)))
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    found = {path for path in paths if re.search(task.slow, path)}
    return found, set(paths) - found


# Tasks


def test_the_valley_is_the_papers_and_lowest_at_zero():
    r, theta = (points := np.random.default_rng(0).normal(size=(2, 20)) * 3)
    found = tasks.valley(jnp.asarray(points.T))
    np.testing.assert_allclose(found, r**2 + 10 * (r - theta + np.sin(2 * r)) ** 2, rtol=1e-4)
    assert np.min(found) > 0 == tasks.valley(jnp.zeros(2))


def test_to_be_settled_is_to_stay_there():
    losses = [
        [9, 0.001, 5, 0.009, 0.001],  # jumped across, and came back to stay
        [9, 5, 5, 0.001, 0.02],  # did not stay
        [9, 5, 5, 5, 4],
        [9, 5, 5, np.nan, np.nan],
        [0.001] * 5,
    ]
    found = tasks.settled(np.array(losses))
    assert found[0] == 3 and found[4] == 0
    assert 5 <= found[1] < found[2] < found[3] == 10


def test_gradients_of_different_tasks_are_orthogonal():
    task = tasks.forgetting(80, 1)
    world = task.world(jax.random.key(0))
    weight = jax.random.normal(jax.random.key(1), (tasks.OUTPUTS, tasks.INPUTS))
    batches = [task.batch(world, at, 80, jax.random.key(at)) for at in (0, 19, 20, 45, 79)]
    slope = jax.grad(task.loss)
    slopes = np.stack([np.ravel(slope(weight, b, models.apply_linear)) for b in batches])
    slopes /= np.linalg.norm(slopes, axis=1, keepdims=True)
    angles, owners = slopes @ slopes.T, np.array([0, 0, 1, 2, 3])
    assert np.max(np.abs(angles[owners[:, None] != owners])) < 1e-5 and angles[0, 1] > 0.1
    assert np.all(np.abs(slopes[0]) > 1e-8)  # not along the axes


def test_what_is_forgotten_and_pushed():
    """By hand: one run, one output, four tasks of one input each, one point for each task."""
    scales = np.array([1.0, 1.0, 1.0, 0.5])
    errors = [[2, 2, 2, 1], [1, 2, 2, 1], [1, 1, 2, 1], [2, 1, 0, 1], [2, 1, 0, 0.5]]
    found = tasks.forgotten(np.array(errors, float)[None, :, None], scales)
    # Tasks end at points 1, 2 and 3 with relative losses 1/4, 1/4 and 0; the first grows to 1.
    np.testing.assert_allclose(found["forgotten"], [0.75 / 3])
    # Of what they had to learn, the weights move by 1/2 in the first task's direction.
    np.testing.assert_allclose(found["pushed"], [0.5 / 3])
    np.testing.assert_allclose(found["first"][0], [1, 0.25, 0.25, 1, 1])
    np.testing.assert_allclose(found["loss"][0, -1], (1 + 0.25 + 0 + 0.25) / 4)


def test_momentum_pushes_and_descent_does_not_and_other_steps_and_rates_need_no_other_program():
    task, traced = tasks.forgetting(80, 2), []
    counted = lambda *given: traced.append(None) or task.loss(*given)  # noqa: E731
    runs = {
        arm: training.runner(dataclasses.replace(task, loss=counted), ARMS[arm])
        for arm in ("gradient_descent", "momentum")
    }
    descent = runs["gradient_descent"]([0.3] * 2, [0, 1], 80)
    momentum = runs["momentum"]([0.03] * 2, [0, 1], 80)
    assert np.all(descent["pushed"] < 1e-5) and np.all(momentum["pushed"] > 0.01)
    for curves in (descent, momentum):
        assert curves["loss"].shape == (2, 81) and np.all(curves["loss"][:, -1] < 0.5)
    count = len(traced)
    assert runs["momentum"]([0.1, 0.2, 0.3], [0, 1, 2], 160)["loss"].shape == (3, 81)
    assert len(traced) == count


def test_images_are_classified_as_by_the_shared_network():
    task = network()
    weights = task.init(jax.random.key(0))
    images, labels = task.data["test"]
    scores = models.mlp(weights, images / 16)
    expected = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
    seen = jax.jit(task.measure)(weights, task.data)
    assert seen["test"] == pytest.approx(float(expected.mean()), rel=1e-5)
    assert seen["wrong"] == pytest.approx(float(np.mean(scores.argmax(1) != labels)), abs=1e-6)
    assert len(task.data["all"][1]) == 1437
    assert slow(task) == ({"0/weight", "0/bias"}, {"1/weight", "1/bias"})


def test_text_is_predicted_from_what_is_before(language):
    batch = language.batch(language.data, 0, 80, jax.random.key(0))
    assert batch.shape == (4, 7)
    np.testing.assert_array_equal(batch[:, 1:], (batch[:, :-1] + 1) % 5)
    curves = training.runner(language, ARMS["adamw"])([0.03], [0], 80)
    assert curves["test"][0, 0] == pytest.approx(np.log(5), abs=0.2)
    assert curves["train"][0, -1] < 0.3
    own, others = slow(language)
    assert {path.rsplit("/", 1)[0] for path in own} == {"blocks/0"} and "blocks/1/up" in others


# Training


@pytest.mark.parametrize("name", ["multi_timescale", "delta_descent"])
def test_runs_equal_a_loop_in_python(name):
    """Rates that warm up and fall, batches, and the updates themselves; side by side and alone."""
    arm, steps, rates, seeds = ARMS[name], 12, [0.03, 0.3, 0.1], [3, 4, 3]
    task = dataclasses.replace(network(), points=3)
    found = training.runner(task, arm)(rates, seeds, steps)
    if not arm.alone:
        alone = training.runner(dataclasses.replace(task, together=1), arm)
        for key, values in alone(rates[1:2], seeds[1:2], steps).items():
            np.testing.assert_allclose(found[key][1:2], values, rtol=1e-4, atol=1e-6)

    def rate_at(count):
        done = (count + 0.5) / steps
        fall = (1 + jnp.cos(jnp.pi * (done - 0.05) / 0.95)) / 2
        return rates[1] * jnp.where(done < 0.05, done / 0.05, fall)

    # The slow layer's one update would come after sixteen ticks.
    moving = slice(1, None) if name == "multi_timescale" else slice(None)
    optimizer = (optax.adam if name == "multi_timescale" else optax.sgd)(rate_at)
    slope = jax.jit(lambda w, batch, rate: jax.grad(task.loss)(w, batch, arm.linear(rate)))
    key = jax.random.key(seeds[1])
    weights = task.init(jax.random.fold_in(key, 0))
    state = optimizer.init(weights[moving])
    for step in range(steps):
        drawn = jax.random.fold_in(jax.random.fold_in(key, 1), step)
        batch = task.batch(task.data, step, steps, drawn)
        slopes = slope(weights, batch, rate_at(step))
        updates, state = optimizer.update(slopes[moving], state)
        weights[moving] = optax.apply_updates(weights[moving], updates)
    for key, value in jax.jit(task.measure)(weights, task.data).items():
        assert found[key].shape == (3, 4)
        assert found[key][1, -1] == pytest.approx(float(value), rel=1e-3)


def test_every_optimizer_moves_a_task_that_it_is_meant_for(language):
    """Updates are traced: states and parameters keep their shapes. Nothing is compiled."""
    made = {"toy": tasks.toy(80, 1), "forgetting": tasks.forgetting(80, 1)}
    made |= {"network": network(), "language": language}
    for number, (name, arm) in enumerate(ARMS.items()):
        labels = [label for label in made if label not in arm.without]
        task = made[labels[number % len(labels)]]
        optimizer = arm.make(lambda count: 0.1, task.slow)

        def first(key, task=task, optimizer=optimizer):
            return (weights := task.init(key)), optimizer.init(weights)

        def moved(key, first=first, task=task, arm=arm, optimizer=optimizer):
            weights, state = first(key)
            batch = task.batch(task.world(key) if task.world else task.data, 0, 80, key)
            slope = jax.grad(task.loss)(weights, batch, arm.linear(0.1))
            updates, state = optimizer.update(slope, state, weights)
            return optax.apply_updates(weights, updates), state

        key = jax.random.key(0)
        assert jax.eval_shape(first, key) == jax.eval_shape(moved, key), name


def test_what_is_not_finite_is_capped(monkeypatch):
    values = np.array([[1.0, np.nan, np.inf, -np.inf, 1e9, -3.0]])
    task = dataclasses.replace(tasks.forgetting(80, 1), reduce=lambda raw: {"loss": values})
    monkeypatch.setattr(lab, "side_by_side", lambda *given: {})
    found = training.runner(task, ARMS["momentum"])([0.1], [0], 80)["loss"]
    np.testing.assert_array_equal(found, [[1, *[training.CAP] * 4, -3]])


# Tuning


def test_grids_have_the_same_number_of_trials_around_each_ones_centre():
    grids = {n: training.grid(tasks.forgetting(80, 1), arm, 9) for n, arm in ARMS.items()}
    np.testing.assert_allclose(np.diff(np.log10([*grids.values()])), np.full((len(ARMS), 6), 0.5))
    centre = {"momentum": 0.03, "gradient_descent": 0.3, "adamw": 0.01, "diagonal": 0.001}
    assert {name: grids[name][3] for name in centre} == pytest.approx(centre)


@pytest.mark.parametrize(
    ("best", "expected"), [(0, (-0.25, 0.25)), (-1, (-1.5, -2)), (1, (1.5, 2))]
)
def test_the_last_trials_go_beyond_the_edge_or_between(best, expected):
    for exponents in ((-1, -0.5, 0, 0.5, 1), (0.5, -1, 1, 0, -0.5)):
        found = training.more([10.0**i for i in exponents], 10.0**best)
        assert np.log10(found) == pytest.approx(np.array(expected))


def test_the_best_rate_is_found_and_judged_on_fresh_seeds(monkeypatch):
    """A run that only tells its rate and seed."""
    asked = []

    def run(rates, seeds, steps):
        asked.append((list(rates), list(seeds), steps))
        off = np.abs(np.log10(np.asarray(rates)) - np.log10(2.0))
        return {"loss": np.stack([off, off], axis=1)}

    monkeypatch.setattr(training, "runner", lambda task, arm: run)
    monkeypatch.setattr(training, "pace", lambda task, arm: (0.02, 0.01))
    task = dataclasses.replace(tasks.forgetting(80, 1), large=True)
    record = training.compare(task, "gradient_descent", 9, 3, 5, DESK)
    assert len(record["rates"]) == len(record["scores"]) == 9
    assert record["rate"] == pytest.approx(0.3 * 10**0.75) and not record["edge"]
    assert {seed for _, seeds, _ in asked[:2] for seed in seeds} == {10_000, 10_001, 10_002}
    # Half as fast as AdamW: half as many steps in the same time.
    assert asked[2][1:] == asked[3][1:] == (list(range(5)), 80) and record["pace"] == 2
    record = training.compare(dataclasses.replace(task, steps=800), "momentum", 5, 1, 2, DESK)
    assert asked[-1][2] == 400 and record["equal_time"]["steps"] == 400
    assert record["edge"]  # of 0.0095 to 3: the best is 2, then 9.5 and 30 are tried
    assert np.shape(record["curves"]["loss"]) == (2, 2)


def test_pace_is_seconds_for_a_step():
    paces = training.pace(tasks.toy(80, 1), ARMS["gradient_descent"], repeats=1, least=1e-3)
    assert min(paces) > 0 and max(paces) < 1


# A run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Settings and records of a small run."""
    settings = study.Settings(
        tasks=("toy", "forgetting", "network"), optimizers=("momentum", "adamw"),
        seeds=2, tuning_seeds=1, trials=5, steps=80,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "pace", lambda task, arm: (0.02, 0.01))
        return settings, {name: run(DESK) for name, run in study.stages(settings).items()}


def test_numbers_are_those_from_before_the_studies_moved(finished, before):
    ends = lambda curves: {n: v if n in NUMBERS else v[-1] for n, v in curves.items()}  # noqa: E731
    found = {s: r | {"ends": ends(r["curves"])} for s, r in finished[1].items() if "curves" in r}
    # Six digits of either are kept, which is 1e-5; tests compile without most optimizations.
    before("optimizers", found, rtol=2e-5, atol=0)


def test_findings_and_figures_show_what_was_recorded(finished):
    settings, records = finished
    network = records["network momentum"]
    train, timed = np.asarray(network["curves"]["train"]), network["equal_time"]["train"]
    # AdamW's pace is its own; who takes twice as long has half as many steps.
    assert records["network adamw"]["pace"] == 1 and network["equal_time"]["steps"] == 40
    rows = {row.labels: row.measures for row in study.find(settings, records).numbers.rows}
    found = {name: m["values"] for name, m in rows["images", "momentum"].items()}
    np.testing.assert_allclose(found["after equal steps"], train[-1])
    np.testing.assert_allclose(found["after AdamW's time"], timed)
    np.testing.assert_allclose(found["wrong"], 100 * np.asarray(network["curves"]["wrong"][-1]))
    sheets = {sheet.name: sheet.drawn for sheet in study.draw(settings, records)}
    assert list(sheets) == ["results", "plain", "memory", "paths"]
    filled, empty = sheets["results"]["images"]["momentum"]  # least, median, most
    assert_range([filled[at] for at in (1, 0, 2)], train[-1])
    assert_range([empty[at] for at in (1, 0, 2)], timed)
    assert sheets["plain"]["images"]["momentum"][0].tolist() == network["step"]
    assert_range(sheets["plain"]["images"]["momentum"], train)
    held = np.asarray(records["influence"]["held"]["momentum"])
    expected = np.tile(0.9 ** np.arange(96.0)[:, None], 5)
    np.testing.assert_allclose(held, expected, rtol=1e-3, atol=1e-6)
    assert_range(sheets["memory"]["influence"]["momentum"], np.maximum(held, 1e-4))
    path = records["toy momentum"]["curves"]
    drawn = np.array(sheets["paths"]["momentum"]["steps"][:2])
    np.testing.assert_array_equal(drawn, np.asarray([path["r"], path["theta"]])[..., 0])


def test_optimizers_have_tasks_families_and_a_nest():
    stages = study.stages(study.Settings())
    assert "language delta_descent" in stages and "toy delta_descent" not in stages
    assert "network multi_timescale" in stages and "forgetting multi_timescale" not in stages
    families = [arm.family for n, arm in ARMS.items() if n not in ("momentum", "adamw")]
    # A legend has eight looks, two of which are the references'.
    assert {*families} == {*arms.FAMILIES} and max(map(families.count, families)) <= 6
    example = study.example(study.Settings())
    assert "model" in str(example.nest.levels(example.state))


@pytest.mark.parametrize("preset", ["small", "full"])
def test_presets_have_points_that_divide_the_steps(language, monkeypatch, preset):
    digits = data.load("digits")
    monkeypatch.setattr(data, "load", lambda name: digits)
    for name in findings.LOOKS:
        for steps in (None, 80):
            task = study.task_of(study.Settings(preset=preset, steps=steps), name)
            assert task.steps % task.points == 0 and task.steps == (steps or task.steps)


# Verdicts


def told(cases):
    """Settings and records of five seeds with the same numbers, or with those given.

    Args:
        cases: stage -> steps to the valley; how far momentum pushed, and what was forgotten; or the
            loss after as many steps, and after as much time.
    """
    settings = study.Settings(tasks=tuple(dict.fromkeys(stage.split()[0] for stage in cases)))
    records = {}
    for stage, numbers in cases.items():
        task = stage.split()[0]
        one, two = ((np.zeros(5) + v).tolist() for v in numbers)
        made = {"rate": 0.1, "edge": stage == "toy momentum", "step": [0, 100]}
        if task == "toy":
            path = dict.fromkeys(("r", "theta"), [[0.0]] * 2)
            made["curves"] = {"settled": one, "psi": [one] * 2, **path}
        elif task == "forgetting":
            made["curves"] = {"loss": [one] * 2, "pushed": one, "forgotten": two}
        else:
            made["curves"] = dict.fromkeys(("train", "test", "wrong"), [one] * 2)
            made |= {"pace": 1.0, "equal_time": {"steps": 100, "train": two}}
        records[stage] = made
    return settings, records


M3 = {"language adamw": (2.0, 2.0), "language m3": (1.8, 1.95)}
MOMENTUM = {"forgetting momentum": (0.05, 0.2)}


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ({"toy momentum": (50, 0), "toy delta_momentum": ([40, 40, 40, 40, 49], 0)}, [True]),
        ({"toy momentum": (50, 0), "toy deep_momentum": ([40, 40, 40, 40, 51], 0)}, [False]),
        # To be a little closer after the last step is not to have got there.
        ({"toy momentum": (180, 0), "toy delta_momentum": (150, 0)}, [False]),
        (MOMENTUM | {"forgetting gradient_descent": (1e-6, 0)}, [True]),
        (MOMENTUM | {"forgetting gradient_descent": (2e-3, 0)}, [False]),
        ({"forgetting momentum": (5e-3, 0), "forgetting gradient_descent": (0, 0)}, [False]),
        (MOMENTUM | {"forgetting delta_momentum": (0.05, [0.1] * 4 + [0.2])}, [False]),
        (M3 | {"language muon": (1.9, 1.9)}, [True, False]),  # the time is Muon's
        (M3 | {"language muon": (1.7, 2.0)}, [False, True]),
        (M3, []),
    ],
)
def test_verdicts(cases, expected):
    found = study.find(*told(cases)).verdicts
    assert [v.holds for v in found if v.holds is not None] == expected


def test_less_means_less_with_nine_seeds_in_ten():
    less = lambda one, other: findings.less(np.asarray(one), np.asarray(other))  # noqa: E731
    assert less([1] * 10, [2] * 9 + [0]) and not less([1] * 10, [2] * 8 + [0] * 2)
    assert not less([1] * 5, [2] * 4 + [1]) and not less([2] * 5, [1] * 5)
    assert less([1, 1, 1], [np.inf] * 3) and not less([np.inf] * 3, [np.inf] * 3)
    assert lab.significant([np.inf, 1, 2]) == "2 (1 to -)"


def test_rows_are_ordered_by_outcome_and_say_what_is_uncertain():
    settings, records = told(
        {"toy momentum": ([10, 20, 20, 20, 150], 0), "toy adamw": (15, 0),
         "toy window": ([10, 20, 150, 150, 150], 0), "network adamw": (0.5, 0.4)}
    )  # fmt: skip
    found = study.find(settings, records)
    table = found.numbers.table()
    cells = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    optimizers = ["AdamW", "momentum", "generalized, window of 3", "AdamW"]
    assert [row["optimizer"] for row in cells] == optimizers
    assert cells[1]["rate"] == "0.1 (edge)" and cells[2]["after equal steps"] == "- (10 to -)"
    assert cells[3]["after equal steps"] == "0.5" and cells[3]["after AdamW's time"] == "0.4"
    # Bars end where the run does; what most seeds never reached has no dot.
    drawn = study.draw(settings, records)[0].drawn["toy valley"]
    assert drawn["momentum"] == [(10, 20, 100)] and drawn["generalized, window of 3"] == [None]
