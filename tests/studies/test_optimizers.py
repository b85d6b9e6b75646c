"""Optimizers compared: tasks, tuning, a naive loop, a whole small run, verdicts, settings."""

import dataclasses
import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nestax.runs import RunFolder, SettingsError
from nestax_studies import data, lab, models
from nestax_studies import optimizers as study
from nestax_studies.data import Text
from nestax_studies.optimizers import arms, findings, tasks, training
from nestax_studies.optimizers.arms import ARMS

DESK = lab.Desk(lambda text: None, Path("unused"))


@pytest.fixture
def shakespeare(monkeypatch):
    """A text that can be learned: the same five letters over and over."""
    numbers = np.tile(np.arange(5, dtype=np.uint8), 100)
    monkeypatch.setattr(data, "tiny_shakespeare", lambda: Text("abcde", numbers, numbers[:200]))


def tiny_language(together=1):
    return tasks.language((8, 2, 2), 6, 4, 80, 4, together)


def tiny_network(together=2):
    return tasks.network("digits", (5,), 8, 80, 4, together)


# Tasks


def test_the_valley_is_the_papers_and_lowest_at_zero():
    rng = np.random.default_rng(0)
    for r, theta in rng.normal(size=(20, 2)) * 3:
        value = tasks.valley(jnp.asarray([r, theta]))
        expected = r**2 + 10 * (r - theta + np.sin(2 * r)) ** 2
        assert value == pytest.approx(expected, rel=1e-4) and value > 0
    assert tasks.valley(jnp.zeros(2)) == 0


def test_to_be_settled_is_to_stay_there():
    losses = np.array(
        [
            [9, 0.001, 5, 0.009, 0.001],  # jumped across, and came back to stay
            [9, 5, 5, 0.001, 0.02],  # did not stay
            [9, 5, 5, 5, 4],
            [9, 5, 5, np.nan, np.nan],
            [0.001] * 5,
        ]
    )
    found = tasks.settled(losses)
    assert found[0] == 3 and found[4] == 0
    assert 5 <= found[1] < found[2] < found[3] == 10


def test_gradients_of_different_tasks_are_orthogonal():
    task = tasks.forgetting(80, 1)
    world = task.world(jax.random.key(0))
    weight = jax.random.normal(jax.random.key(1), (tasks.OUTPUTS, tasks.INPUTS))
    slopes = []
    for step in (0, 19, 20, 45, 79):
        batch = task.batch(world, step, 80, jax.random.key(step))
        slopes.append(np.asarray(jax.grad(task.loss)(weight, batch, models.apply_linear)))
    sizes = np.linalg.norm(slopes, axis=(1, 2))
    angles = np.einsum("aij,bij->ab", slopes, slopes) / sizes[:, None] / sizes
    owners = np.array([0, 0, 1, 2, 3])
    different = owners[:, None] != owners
    assert np.max(np.abs(angles[different])) < 1e-5
    assert angles[0, 1] > 0.1
    # Not along the axes.
    assert np.count_nonzero(np.abs(slopes[0]) > 1e-6) == slopes[0].size


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


def test_momentum_pushes_and_descent_does_not():
    task = tasks.forgetting(80, 2)
    pushed = {
        name: training.runner(task, ARMS[name])([rate] * 2, [0, 1], 80)
        for name, rate in (("gradient_descent", 0.3), ("momentum", 0.03))
    }
    assert np.all(pushed["gradient_descent"]["pushed"] < 1e-5)
    assert np.all(pushed["momentum"]["pushed"] > 0.01)
    for curves in pushed.values():
        assert curves["loss"].shape == (2, 81) and np.all(curves["loss"][:, -1] < 0.5)


def test_images_are_classified_as_by_the_shared_network():
    task = tiny_network()
    weights = task.init(jax.random.key(0))
    images, labels = task.data["test"]
    scores = models.mlp(weights, images / 16)
    expected = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
    seen = task.measure(weights, task.data)
    assert seen["test"] == pytest.approx(float(expected.mean()), rel=1e-5)
    assert seen["wrong"] == pytest.approx(float(np.mean(scores.argmax(1) != labels)), abs=1e-6)
    assert len(task.data["all"][1]) == 1437
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(weights)
    ]
    assert [bool(re.search(task.slow, path)) for path in paths] == [True, True, False, False]


def test_text_is_predicted_from_what_is_before(shakespeare):
    task = tiny_language()
    batch = task.batch(task.data, 0, 80, jax.random.key(0))
    assert batch.shape == (4, 7)
    np.testing.assert_array_equal(batch[:, 1:], (batch[:, :-1] + 1) % 5)
    curves = training.runner(task, ARMS["adamw"])([0.03], [0], 80)
    assert curves["test"][0, 0] == pytest.approx(np.log(5), abs=0.2)
    assert curves["train"][0, -1] < 0.3
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(task.init(jax.random.key(0)))
    ]
    slow = {path.rsplit("/", 1)[0] for path in paths if re.search(task.slow, path)}
    assert slow == {"blocks/0"} and "blocks/1/up" in paths


# Training


@pytest.mark.parametrize("name", ["momentum", "multi_timescale", "delta_descent"])
def test_runs_equal_a_loop_in_python(name):
    """Rates that warm up and fall, batches, and the updates themselves; side by side and alone."""
    task, steps = tiny_network(), 12
    arm = ARMS[name]
    rates, seeds = [0.03, 0.3, 0.1], [3, 4, 3]
    task = dataclasses.replace(task, points=3)
    found = training.runner(task, arm)(rates, seeds, steps)
    alone = training.runner(dataclasses.replace(task, together=1), arm)(rates, seeds, steps)
    for key in found:
        assert found[key].shape == (3, 4)
        np.testing.assert_allclose(found[key], alone[key], rtol=1e-4, atol=1e-6)

    def rate_at(count):
        done = (count + 0.5) / steps
        if done < 0.05:
            return rates[1] * done / 0.05
        return rates[1] / 2 * (1 + np.cos(np.pi * (done - 0.05) / 0.95))

    key = jax.random.key(seeds[1])
    weights = task.init(jax.random.fold_in(key, 0))
    if name == "multi_timescale":
        # The slow layer's one update would come after sixteen ticks.
        optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)
        state = optimizer.init(weights[1:])
    else:
        optimizer = optax.inject_hyperparams(
            lambda learning_rate: optax.sgd(
                learning_rate, momentum=0.9 if name == "momentum" else None
            )
        )(learning_rate=0.0)
        state = optimizer.init(weights)
    for step in range(steps):
        batch_key = jax.random.fold_in(jax.random.fold_in(key, 1), step)
        batch = task.batch(task.data, step, steps, batch_key)
        linear = arm.linear(rate_at(step))
        slope = jax.grad(task.loss)(weights, batch, linear)
        state.hyperparams["learning_rate"] = jnp.asarray(rate_at(step))
        if name == "multi_timescale":
            updates, state = optimizer.update(slope[1:], state)
            weights = [weights[0], *optax.apply_updates(weights[1:], updates)]
        else:
            updates, state = optimizer.update(slope, state)
            weights = optax.apply_updates(weights, updates)
    expected = task.measure(weights, task.data)
    for key in expected:
        assert found[key][1, -1] == pytest.approx(float(expected[key]), rel=1e-3)


def test_any_number_of_steps_and_rates_is_compiled_once():
    traced = []
    task = tasks.forgetting(80, 2)

    def loss(*given):
        traced.append(None)
        return task.loss(*given)

    run = training.runner(dataclasses.replace(task, loss=loss), ARMS["momentum"])
    run([0.1], [0], 80)
    count = len(traced)
    three = run([0.1, 0.2, 0.3], [0, 1, 2], 160)
    assert len(traced) == count
    assert three["loss"].shape == (3, 81)


def test_every_optimizer_moves_every_task_that_it_is_meant_for(shakespeare):
    """Programs are traced, which checks what updates do to the states; they are not compiled."""
    made = {
        "toy": tasks.toy(80, 1),
        "forgetting": tasks.forgetting(80, 1),
        "network": tiny_network(),
        "language": tiny_language(),
    }
    keys = jax.random.split(jax.random.key(0), 1)
    for number, (name, arm) in enumerate(ARMS.items()):
        # One task for each optimizer.
        for place, (label, task) in enumerate(made.items()):
            if label in arm.without or place != number % 4:
                continue
            nest = training.system(task, arm)
            moved = lambda nest=nest, task=task: nest.step(  # noqa: E731
                training.begun(task, nest, [0.1], keys, 80)
            )[0].values["model"]
            after = jax.eval_shape(moved)
            first = jax.eval_shape(task.init, keys[0])
            shapes = lambda tree: [a.shape for a in jax.tree.leaves(tree)]  # noqa: E731
            assert shapes(after) == [(1, *shape) for shape in shapes(first)], name


def test_what_is_not_finite_is_capped(monkeypatch):
    task = tasks.forgetting(80, 1)
    values = np.array([[1.0, np.nan, np.inf, -np.inf, 1e9, -3.0]])
    task = dataclasses.replace(task, reduce=lambda raw: {"loss": values})
    monkeypatch.setattr(lab, "side_by_side", lambda *given: {})
    found = training.runner(task, ARMS["momentum"])([0.1], [0], 80)["loss"]
    np.testing.assert_array_equal(found, [[1, *[training.CAP] * 4, -3]])


# Tuning


def test_grids_have_the_same_number_of_trials_around_each_ones_centre():
    task = tasks.forgetting(80, 1)
    for name, arm in ARMS.items():
        rates = training.grid(task, arm, 9)
        assert len(rates) == 7
        np.testing.assert_allclose(np.diff(np.log10(rates)), 0.5)
        centre = {"momentum": 0.03, "gradient_descent": 0.3, "adamw": 0.01, "diagonal": 0.001}
        if name in centre:
            assert rates[3] == pytest.approx(centre[name])


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([3, 2, 1, 2, 3], [10**-0.25, 10**0.25]),
        ([1, 2, 3, 4, 5], [10**-1.5, 10**-2.0]),
        ([5, 4, 3, 2, 1], [10**1.5, 10**2.0]),
        ([1e6, 1e6, 1e6, 1e6, 1e6], [10**-1.5, 10**-2.0]),  # all diverged: smaller
    ],
)
def test_the_last_trials_go_beyond_the_edge_or_between(scores, expected):
    scores, rates = [float(s) for s in scores], [10.0 ** (i / 2) for i in range(-2, 3)]
    tried = dict(zip(rates, scores, strict=True))
    best = min(tried, key=lambda rate: tried[rate])
    assert training.more(rates, best) == pytest.approx(expected)
    assert training.more(rates[::-1], best) == pytest.approx(expected)


def test_the_best_rate_is_found_and_judged_on_fresh_seeds(monkeypatch):
    """A run that only tells its rate and seed."""
    asked = []

    def runner(task, arm):
        def run(rates, seeds, steps):
            asked.append((list(rates), list(seeds), steps))
            off = np.abs(np.log10(np.asarray(rates)) - np.log10(2.0))
            return {"loss": np.stack([off, off + np.asarray(seeds) * 0], axis=1)}

        return run

    monkeypatch.setattr(training, "runner", runner)
    monkeypatch.setattr(training, "pace", lambda task, arm: (0.02, 0.01))
    task = dataclasses.replace(tasks.forgetting(80, 1), large=True)
    record = training.compare(task, "gradient_descent", 9, 3, 5, DESK)
    assert len(record["rates"]) == len(record["scores"]) == 9
    assert record["rate"] == pytest.approx(0.3 * 10**0.75) and not record["edge"]
    tuning = {seed for _, seeds, _ in asked[:2] for seed in seeds}
    assert len(tuning) == 3 and not tuning & set(asked[2][1])
    assert asked[2][1:] == (list(range(5)), 80)
    # Half as fast as AdamW: half as many steps in the same time.
    assert asked[3][1:] == (list(range(5)), 80) and record["pace"] == 2
    record = training.compare(dataclasses.replace(task, steps=800), "momentum", 5, 1, 2, DESK)
    assert asked[-1][2] == 400 and record["equal_time"]["steps"] == 400
    assert record["edge"]  # of 0.0095 to 3: the best is 2, then 9.5 and 30 are tried
    assert np.shape(record["curves"]["loss"]) == (2, 2)


def test_pace_is_seconds_for_a_step():
    own, usual = training.pace(tiny_network(), ARMS["muon"], repeats=1, least=1e-3)
    assert 0 < own < 1 and 0 < usual < 1


# A run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Settings, records and summary of a small run."""
    settings = study.Settings(
        tasks=("toy", "forgetting", "network"), optimizers=("momentum", "adamw"),
        seeds=2, tuning_seeds=1, trials=5, steps=80,
    )  # fmt: skip
    asked = json.loads(json.dumps(dataclasses.asdict(settings)))
    path = tmp_path_factory.mktemp("optimizers") / "run"
    with pytest.MonkeyPatch.context() as patch, RunFolder.create(path, "study", asked) as folder:
        patch.setattr(training, "pace", lambda task, arm: (0.02, 0.01))
        study.STUDY.run(settings, folder)
        summary = study.STUDY.report(settings, folder)
        return settings, {r["stage"]: r for r in folder.metrics()}, summary


def test_numbers_are_those_from_before_the_studies_moved(finished):
    stored = json.loads((Path(__file__).parent / "before" / "optimizers.json").read_text())
    # Six digits of either are kept, which is 1e-5; tests compile without most optimizations.
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5)
    for stage, before in stored.items():
        record = finished[1][stage]
        curves = {name: np.asarray(values) for name, values in record["curves"].items()}
        ends = {name: a[-1] if a.ndim > 1 else a for name, a in curves.items()}
        assert ends.keys() == before["ends"].keys()
        for name, values in before["ends"].items():
            close(ends[name], values, err_msg=f"{stage}: {name}")
        for name in ("rates", "scores", "rate"):
            close(record[name], before[name])


def test_a_run_is_complete_and_its_figures_show_what_was_recorded(finished):
    settings, records, summary = finished
    assert list(records) == list(study.stages(settings)) and len(records) == 7
    assert summary["complete"] and len(summary["arms"]) == 6
    network = records["network adamw"]
    measures = summary["arms"]["images / AdamW"]["measures"]
    assert measures["after equal steps"]["values"] == network["curves"]["train"][-1]
    assert measures["after AdamW's time"]["values"] == network["equal_time"]["train"]
    wrong = 100 * np.asarray(network["curves"]["wrong"][-1])
    np.testing.assert_allclose(measures["wrong"]["values"], wrong, rtol=1e-6)
    # AdamW's pace is its own; who takes twice as long has half as many steps.
    assert network["pace"] == 1 and network["equal_time"]["steps"] == 80
    assert records["network momentum"]["equal_time"]["steps"] == 40

    sheets = {sheet.name: sheet for sheet in study.STUDY.draw(settings, records)}
    assert list(sheets) == ["results", "plain", "memory", "paths"]
    train = np.asarray(network["curves"]["train"])
    filled, still_open = sheets["results"].drawn["images"]["AdamW"]
    timed = np.asarray(network["equal_time"]["train"])
    for (low, middle, high), values in ((filled, train[-1]), (still_open, timed)):
        assert (low, middle, high) == pytest.approx((values.min(), values.mean(), values.max()))
    x, middle, low, high = sheets["plain"].drawn["images"]["AdamW"]
    assert x.tolist() == network["step"]
    for drawn, rule in ((middle, np.median), (low, np.min), (high, np.max)):
        np.testing.assert_allclose(drawn, rule(train, axis=1))
    held = np.asarray(records["influence"]["held"]["momentum"])
    np.testing.assert_allclose(
        held, np.tile(0.9 ** np.arange(96.0)[:, None], 5), rtol=1e-3, atol=1e-6
    )
    drawn = sheets["memory"].drawn["influence"]["momentum"][1]
    np.testing.assert_allclose(drawn, np.maximum(np.median(held, axis=1), 1e-4))
    r, theta, *_ = sheets["paths"].drawn["momentum"]["steps"]
    path = records["toy momentum"]["curves"]
    np.testing.assert_array_equal([r, theta], np.asarray([path["r"], path["theta"]])[..., 0])


def test_dots_leave_out_what_never_got_there():
    values = {"few": [10, 20, 150], "most": [10, 150, 150]}
    records = {
        f"toy {arm}": record("toy", some)
        for arm, some in zip(("momentum", "adamw"), values.values(), strict=True)
    }
    for one in records.values():
        one["curves"] |= {"r": [[0.0] * 3] * 2, "theta": [[0.0] * 3] * 2}
    sheet = study.STUDY.draw(study.Settings(tasks=("toy",)), records)[0]
    assert sheet.drawn["toy valley"] == {"momentum": [(10, 20, 100)], "AdamW": [None]}


def test_the_example_has_levels():
    example = study.example(study.Settings())
    assert "model" in str(example.nest.levels(example.state))


# Settings, verdicts


def test_settings_name_tasks_and_optimizers():
    settings = study.Settings()
    assert settings.tasks == ("toy", "forgetting", "network", "language")
    assert settings.optimizers == tuple(ARMS)
    stages = study.stages(settings)
    assert "language delta_descent" in stages and "toy delta_descent" not in stages
    assert "network multi_timescale" in stages and "forgetting multi_timescale" not in stages
    assert {arm.family for arm in ARMS.values()} == set(arms.FAMILIES)
    # A legend has eight looks, two of which are the references'.
    for family in arms.FAMILIES:
        own = [a for a in ARMS if ARMS[a].family == family and a not in ("momentum", "adamw")]
        assert len(own) <= 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ("toy", "images")}, "tasks must be named once each, of all, toy, forgetting"),
        ({"tasks": ()}, "got none"),
        ({"optimizers": ("adamw", "adamw")}, "optimizers must be named once each"),
        ({"trials": 4}, "trials must be at least 5, got 4"),
        ({"steps": 100}, "steps must be a multiple of 80, got 100"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        study.Settings(**options)


def test_presets_have_points_that_divide_the_steps(shakespeare, monkeypatch):
    digits = data.load("digits")
    monkeypatch.setattr(data, "load", lambda name: digits)
    for preset in ("small", "full"):
        for steps in (None, 80):
            settings = study.Settings(preset=preset, steps=steps)
            for name in settings.tasks:
                task = study.task_of(settings, name)
                assert task.steps % task.points == 0 and task.steps == (steps or task.steps)
    full = study.task_of(study.Settings(preset="full"), "language")
    shapes = jax.eval_shape(
        lambda key: models.transformer_init(key, 65, *np.shape(0), 192, 4), jax.random.key(0)
    )
    assert 1e6 < sum(leaf.size for leaf in jax.tree.leaves(shapes)) < 3e6
    assert jax.eval_shape(full.init, jax.random.key(0)).embedding.shape == (5, 192)


def record(task, outcome, *, time=None, pushed=0.0, forgotten=0.0, steps=100):
    """Of five seeds with the same numbers, or with those given."""
    values = (np.zeros(np.size(outcome) if np.ndim(outcome) else 5) + outcome).tolist()
    curves = {
        "toy": {"settled": values, "psi": [values, values]},
        "forgetting": {
            "loss": [values, values], "pushed": [pushed] * 5,
            "forgotten": (np.zeros(5) + np.asarray(forgotten)).tolist(),
        },
        "network": {"train": [values] * 2, "test": [values] * 2, "wrong": [values] * 2},
        "language": {"train": [values] * 2, "test": [values] * 2},
    }[task]  # fmt: skip
    found = {"rate": 0.1, "edge": False, "step": [0, steps], "curves": curves}
    if task in ("network", "language"):
        after = (np.zeros(5) + np.asarray(outcome if time is None else time)).tolist()
        found |= {"pace": 1.0, "equal_time": {"steps": steps, "train": after}}
    return found


def judged(records):
    settings = study.Settings(tasks=tuple(dict.fromkeys(name.split()[0] for name in records)))
    found = study.STUDY.find(settings, records).verdicts
    return {(v.claim, v.of): v.holds for v in found if v.holds is not None}


def test_less_means_less_with_nine_seeds_in_ten():
    less = lambda one, other: findings.less(np.asarray(one), np.asarray(other))  # noqa: E731
    assert less([1] * 10, [2] * 9 + [0]) and not less([1] * 10, [2] * 8 + [0] * 2)
    assert not less([1] * 5, [2] * 4 + [1]) and not less([2] * 5, [1] * 5)
    assert less([1, 1, 1], [np.inf] * 3) and not less([np.inf] * 3, [np.inf] * 3)
    assert findings.spread([np.inf, 1, 2]) == "2 (1 to -)"


def test_verdicts_on_the_toy():
    records = {
        "toy momentum": record("toy", 50),
        "toy delta_momentum": record("toy", [40, 40, 40, 40, 49]),
        "toy deep_momentum": record("toy", [40, 40, 40, 40, 51]),
        "toy deep_momentum_l2": record("toy", 150),
    }
    found = judged(records)
    assert [holds for claim, holds in found.items()] == [True, False, False]
    # To be a little closer after the last step is not to have got there.
    both = judged({"toy momentum": record("toy", 180), "toy delta_momentum": record("toy", 150)})
    assert list(both.values()) == [False]


def test_verdicts_on_orthogonal_tasks():
    still = record("forgetting", 1, pushed=1e-6)
    for pushed, expected in ((0.05, True), (0.005, False)):
        moved = record("forgetting", 1, pushed=pushed, forgotten=0.2)
        found = judged({"forgetting momentum": moved, "forgetting gradient_descent": still})
        assert list(found.values()) == [expected]
    moved = record("forgetting", 1, pushed=0.05, forgotten=0.2)
    other = record("forgetting", 1, pushed=0.05, forgotten=[0.1, 0.1, 0.1, 0.1, 0.3])
    found = judged({"forgetting momentum": moved, "forgetting delta_momentum": other})
    assert list(found.values()) == [False]


def test_verdicts_on_m3_need_both_rivals_beaten():
    records = {
        "language adamw": record("language", 2.0),
        "language muon": record("language", 1.9),
        "language m3": record("language", 1.8, time=1.95),
    }
    found = judged(records)
    assert [("steps" in claim, holds) for (claim, of), holds in found.items()] == [
        (True, True),
        (False, False),
    ]
    assert not judged({k: v for k, v in records.items() if "muon" not in k})


def test_rows_are_ordered_by_outcome_and_say_what_is_uncertain():
    records = {
        "toy momentum": record("toy", 50) | {"edge": True},
        "toy adamw": record("toy", 20),
        "toy window": record("toy", 150),
        "network adamw": record("network", 0.5, time=0.4),
    }
    found = study.STUDY.find(study.Settings(tasks=("toy", "network")), records)
    table = found.numbers.table()
    assert [row[1] for row in table.rows] == [
        "AdamW", "momentum", "generalized, window of 3", "AdamW",
    ]  # fmt: skip
    cell = lambda row, head: table.rows[row][list(table.columns).index(head)]  # noqa: E731
    assert cell(1, "rate") == "0.1 (edge)" and cell(2, "after equal steps") == "-"
    assert cell(3, "after equal steps") == "0.5" and cell(3, "after AdamW's time") == "0.4"
