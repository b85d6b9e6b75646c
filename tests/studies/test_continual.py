"""Continual learning: the worlds, consolidation and replay, the two clocks, and the verdicts."""

import dataclasses
import functools
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.images import MATRIX, prototypes
from studies.drawn import assert_range

from nestax.runs import SettingsError
from nestax_studies import continual, lab, streams
from nestax_studies.continual import Settings, find, learning, measures, worlds
from nestax_studies.continual.arms import ARMS, PARTS, STEPS, TURNS, network

# Worlds


def test_a_language_follows_its_table_and_names_itself():
    world = worlds.languages(tasks=3, letters=4, order=2)
    tables = world.draw((), jax.random.key(0))
    assert tables.shape == (3, 16, 4) and world.inputs == 2 * 4 + 3
    # A language in which letter a after context (b, c) is always c + 1.
    sure = jnp.where(jnp.arange(4)[None] == (jnp.arange(16)[:, None] + 1) % 4, 50.0, 0.0)
    rows, labels = world.text((), sure, 2, jax.random.key(1), 20)
    assert rows.shape == (20, 3) and (rows[:, 2] == 2).all()
    np.testing.assert_array_equal(labels, (rows[:, 1] + 1) % 4)
    np.testing.assert_array_equal(rows[1:, :2], np.stack([rows[:-1, 1], labels[:-1]], axis=1))
    found = world.features(rows)
    np.testing.assert_array_equal(found[:, :4], np.eye(4)[rows[:, 0]])
    np.testing.assert_array_equal(found[:, 8:], np.eye(3)[rows[:, 2]])


@pytest.mark.parametrize("order", [1, 2])
def test_nobody_does_better_than_who_knows_the_language(order):
    world = worlds.languages(tasks=1, letters=3, order=order)
    tables, key = world.draw((), jax.random.key(2)), jax.random.key(3)
    best = world.ceiling(tables)
    assert 1 / 3 < best < 1
    tuned, judged = (world.shown((), tables[0], 0, key, one) for one in (0, 1))
    assert not np.array_equal(tuned[0], judged[0])
    for rows, labels in (tuned, judged, world.text((), tables[0], 0, key, 4000)):
        context = sum(np.asarray(rows[:, i]) * 3 ** (order - 1 - i) for i in range(order))
        right = np.mean(np.argmax(tables[0], 1)[context] == labels)
        assert right == pytest.approx(best, abs=1.9 / len(labels) ** 0.5)


def test_images_of_a_task_are_of_its_classes():
    world = worlds.images("class", 5, prototypes())
    own, places = world.draw(world.arrays, jax.random.key(0))
    rows, labels = world.text(world.arrays, (own[1], places[1]), 1, jax.random.key(1), 50)
    assert set(np.ravel(labels)) == set(np.ravel(own[1]))
    np.testing.assert_array_equal(np.argmax(rows, axis=1) // 2, labels)
    seen, answers = world.shown(world.arrays, (own[1], places[1]), 1, jax.random.key(1), 1)
    assert (np.asarray(seen) == 0).all() and len(answers) == 6
    assert world.features(rows).max() <= 1


# Consolidation and replay


def test_fisher_information_of_a_softmax_layer(x64):
    weights = jax.random.normal(jax.random.key(0), (3, 2))
    row = jnp.array([1.0, -2.0])
    rows = jnp.tile(row[None], (20_000, 1))
    found = learning.fisher(lambda w, x: w @ x, weights, rows, jax.random.key(1))
    # E (y - p)_i^2 x_j^2, with p the network's own probabilities
    p = jax.nn.softmax(weights @ row)
    np.testing.assert_allclose(found, jnp.outer(p * (1 - p), row**2), rtol=0.05)


def test_a_reservoir_is_a_uniform_sample_of_all_that_was_met():
    def fill(key):
        buffer, met = jnp.full(4, -1), jnp.asarray(0)
        for i in range(3):
            numbers = 5 * i + jnp.arange(5)
            buffer, met = learning.reservoir(buffer, met, numbers, jax.random.fold_in(key, i))
        return buffer, met

    buffers, met = jax.vmap(fill)(jax.random.split(jax.random.key(0), 3000))
    assert (np.asarray(met) == 15).all()
    assert all(len(set(row)) == 4 for row in np.asarray(buffers)[:50].tolist())
    shares = np.bincount(np.ravel(buffers), minlength=15) / 3000
    np.testing.assert_allclose(shares, 4 / 15, atol=0.04)


SMALL = Settings(tasks=2, steps=96, batch_size=8, hidden=16, buffer=40)
WORLD = worlds.images("class", 2, prototypes())


@functools.cache
def run_of(arm):
    parts = learning.parts(SMALL, WORLD, ARMS[arm], SMALL.network(WORLD, arm))
    return streams.runner(SMALL, *parts)


def ran(arm, rate, extra=0.0):
    return run_of(arm)([lab.tuning(0), lab.tuning(1)], [rate] * 2, [extra] * 2)


def test_a_plain_network_forgets_what_replay_keeps():
    plain, replay = ran("mlp", 0.5), ran("replay", 0.5, 0.5)
    assert plain.shape == (2, 3, 2)
    assert (plain[:, 1, 0] > 0.9).all() and (plain[:, 2, 1] > 0.9).all()
    assert (plain[:, 2, 0] < 0.5).all()
    assert (replay[:, 2, 0] > 0.8).all() and (replay[:, 1, 1] == 0).all()
    np.testing.assert_array_equal(ran("replay", 0.5, 0.0), plain)


def test_a_joint_run_meets_examples_of_all_tasks_so_far():
    given = SMALL, WORLD, ARMS["joint"], SMALL.network(WORLD, "joint"), WORLD.arrays
    first = jax.jit(lambda key: learning.first(*given, key, 0, 0.1, 0.0)["run"]["at"])
    of_task, at = 96 * 8, np.ravel(first(jax.random.key(0)))
    np.testing.assert_array_equal(at[:of_task], np.arange(of_task))
    np.testing.assert_array_equal(at[of_task:] % of_task, np.arange(of_task))
    assert 0.4 < np.mean(at[of_task:] < of_task) < 0.6


def test_a_large_penalty_keeps_the_first_task_and_the_second_out_and_none_does_nothing():
    held, free = ran("ewc", 0.1, 1000.0), ran("mlp", 0.1)
    assert held[:, 2, 0].mean() > free[:, 2, 0].mean() + 0.2
    assert held[:, 2, 1].mean() < free[:, 2, 1].mean() - 0.2
    np.testing.assert_array_equal(ran("ewc", 0.1, 0.0), free)


# The two clocks


def pieces(writes="", clocks=None, count=8):
    """An arm whose batches are of 8 examples, its network, and `count` examples at a time."""
    arm = dataclasses.replace(ARMS["chain"], writes=writes, clocks=clocks)
    net = network(arm, 6, 12, 5, 8)
    params = net.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (16, count, 6))
    y = jax.random.randint(jax.random.key(2), x.shape[:2], 0, 5)
    return arm, net, params, x, y


def test_networks_have_about_as_many_parameters():
    for inputs, classes in ((64, 10), (784, 10), (21, 8)):
        counts = [
            sum(a.size for a in jax.tree.leaves(jax.eval_shape(net.init, jax.random.key(0))))
            for net in (network(ARMS[n], inputs, 64, classes, 16) for n in ("mlp", "chain"))
        ]
        assert 0.9 < counts[0] / counts[1] < 1.1


def test_steps_move_the_starts_of_the_levels_at_their_periods():
    arm, _, params, *_ = pieces(clocks=STEPS)
    tx = arm.make(0.1)
    state, update, moved = tx.init(params), jax.jit(tx.update), []
    for _ in range(max(STEPS)):
        updates, state = update(params, state, params)
        moved.append([bool((level.gate != 0).any()) for level in updates["memory"].levels])
        assert (updates["in"][0].weight != 0).any()
    often = np.sum(moved, axis=0)
    np.testing.assert_array_equal(often, [max(STEPS) // period for period in STEPS])


@pytest.mark.parametrize(
    ("writes", "count", "often"),
    [("label", 8, [16 // turn for turn in TURNS]), ("local", 1, [2 * part for part in PARTS])],
)
def test_examples_write_the_levels_at_their_periods(writes, count, often):
    _, net, params, x, y = pieces(writes, count=count)
    learn = jax.jit(net.learn)
    memory, moved = net.start(params), []
    for i in range(16):
        _, new = learn(params, memory, x[i], y[i], 0.5)
        pairs = zip(new.weights, memory.weights, strict=True)
        moved.append([bool((a.gate != b.gate).any()) for a, b in pairs])
        memory = new
    np.testing.assert_array_equal(np.sum(moved, axis=0), often)
    # What is read is what was written; reading writes nothing.
    before, after = (net.read(params, m, x[0]) for m in (net.start(params), memory))
    assert not np.allclose(before, after)


def test_writing_by_labels_once_is_a_step_of_gradient_descent(x64):
    _, net, params, x, y = pieces("label")
    first = net.start(params)
    _, after = jax.jit(net.learn)(params, first, x[0], y[0], 0.3)

    def loss(level):
        memory = eqx.tree_at(lambda m: m.levels[0], params["memory"], level)
        scores = net.read(params | {"memory": memory}, first, x[0])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, y[0]))

    gradient = jax.jit(jax.grad(loss))(params["memory"].levels[0])
    size = sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient))
    expected = jax.tree.map(lambda g: -0.3 * g / jnp.sqrt(1 + size), gradient)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), after.weights[0], expected
    )


def test_starts_and_targets_are_learned_while_what_is_written_is_carried_along():
    _, net, params, x, y = pieces("local")
    start, learn = net.start(params), jax.jit(net.learn)
    said, memory = learn(params, start, x[0], y[0], 0.0)  # without a rate nothing is written
    np.testing.assert_allclose(said, net.read(params, start, x[0]), rtol=1e-5, atol=1e-6)
    assert all((a == 0).all() for a in jax.tree.leaves(memory.weights))
    memory = learn(params, start, x[0], y[0], 0.5)[1]

    def loss(params):
        return jnp.sum(net.learn(params, memory, x[1], y[1], 0.5)[0] ** 2)

    gradient = jax.jit(jax.grad(loss))(params)["memory"]
    for leaf in jax.tree.leaves((gradient.levels, list(gradient.target))):
        assert (leaf != 0).any()


# Measures and verdicts


def test_transfer_is_measured_before_and_after_a_task():
    matrix = np.concatenate([[[0.1, 0.0, 0.2]], MATRIX])
    found = measures(np.stack([matrix, matrix / 2]))
    expected = {"learning": 0.9, "forgetting": (0.2 + 0.5) / 2, "final": 2 / 3,
                "backward": (-0.2 - 0.5) / 2, "forward": (0.1 + 0.0) / 2}  # fmt: skip
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], [value, value / 2])


def record(final, score=0.5):
    numbers = dict.fromkeys(("learning", "forgetting", "backward", "forward"), [0.7] * 3)
    facts = {"rate": 0.1, "extra": 1.0, "edge": False, "scores": [score], "parameters": 10}
    return facts | numbers | {"final": np.broadcast_to(final, 3).tolist()}


BETTER = record(0.6)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"continuum-steps": BETTER, "chain": record(0.5), "continuum-rates": record(0.5)}, [1]),
        # The rates alone do as well; one seed does worse; half a point; one clock does as well.
        ({"continuum-steps": BETTER, "chain": record(0.5), "continuum-rates": BETTER}, [0]),
        ({"continuum-steps": record((0.6, 0.6, 0.4)), "chain": record(0.5),
          "continuum-rates": record(0.5)}, [0]),
        ({"continuum-steps": record(0.505), "chain": record(0.5), "continuum-rates": record(0.4)},
         [0]),
        ({"continuum-steps": BETTER, "chain": BETTER, "continuum-rates": record(0.5)}, [0]),
        # The best memory is chosen by tuning; there is no chain to compare with.
        ({"continuum-label": record(0.9, 0.4), "continuum-local": BETTER, "mlp": record(0.5),
          "ewc": BETTER, "replay": record(0.7)}, [None, None, 1, 0, 0]),
    ],
)  # fmt: skip
def test_verdicts(given, expected):
    found = find(Settings(streams=("class",)), {f"class {arm}": r for arm, r in given.items()})
    assert [v.holds for v in found.verdicts] == expected
    assert {v.of for v in found.verdicts} == {"split by classes, one head"}
    assert len(found.numbers.rows) == len(given) and json.dumps(found.numbers.summary())
    for row in found.numbers.rows:
        assert (row.measures["final accuracy"]["values"] < 95).all()
        np.testing.assert_allclose(row.measures["forward transfer"]["values"], 70)


def test_every_arm_first_tries_as_many_settings():
    for arm in ARMS.values():
        assert arm.control is None or not ARMS[arm.control].writes or arm.writes
        assert bool(arm.extra) == (len(arm.extras) > 1)
    assert len({arm.label for arm in ARMS.values()}) == len(ARMS)
    grids = [continual.grid("class", name, 4) for name in ARMS]
    assert {len(pairs) for pairs in grids} == {12}
    for pairs in grids:
        ends = [rate(pairs)[0] for rate in (min, max)]
        np.testing.assert_allclose(ends, (0.003, 0.3))


def test_rates_beyond_an_edge_are_tried_at_the_best_second_value(monkeypatch):
    asked = []

    def run(seeds, rates, extras):
        asked.append(set(seeds))
        right = 0.5 + 0.1 * np.log10(rates) - 0.1 * (np.array(extras) != 0.5)
        return np.broadcast_to(right[:, None, None], (len(rates), 3, 2))

    monkeypatch.setattr(streams, "runner", lambda settings, *parts: run)
    settings = Settings(streams=("languages",), tasks=2, seeds=2, trials=3)
    found = continual.learn(settings, "languages", "replay", lab.Desk(lambda text: None, Path()))
    # The grid ends at 2; a decade is the spacing, and no more than two are added.
    np.testing.assert_allclose(found["pairs"][9:], [(20, 0.5), (200, 0.5)])
    assert (found["rate"], found["extra"], found["edge"]) == (found["pairs"][-1][0], 0.5, True)
    assert asked == 3 * [{10_000, 10_001}] + [{0, 1}] and len(found["scores"]) == 11


# A small run


@pytest.fixture(scope="module")
def run():
    """Settings and records."""
    settings = Settings(
        streams=("languages",), arms=("continuum-label", "replay"), tasks=3, steps=16, hidden=16,
        buffer=20, seeds=2, tuning_seeds=1, trials=2,
    )  # fmt: skip
    stages, desk = continual.STUDY.stages(settings), lab.Desk(lambda text: None, Path())
    usual = continual.grid

    def grid(kind, name, trials):
        """Without the largest rates of the memory that is written, where rounding decides what it
        learns, and so which rate is the best."""
        return [pair for pair in usual(kind, name, trials) if name == "replay" or max(pair) < 1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continual, "grid", grid)
        return settings, {name: stage(desk) for name, stage in stages.items()}


def test_a_run_finds_the_numbers_that_were_found_before_it_was_a_nest(run, before):
    before("continual", run[1], rtol=1e-7, atol=2e-5)


def test_figures_show_what_was_recorded(run):
    settings, records = run
    results, rivals, matrices = continual.draw(settings, records)  # one line is no comparison
    assert (results.name, rivals.name, matrices.name) == ("results", "rivals", "languages")
    replay, label = records["languages replay"], ARMS["replay"].label
    for column, name in (("in the end", "final"), ("forgotten", "forgetting")):
        (dot,) = results.drawn[f"languages: {column}"][label]
        np.testing.assert_allclose(dot, 100 * np.quantile(replay[name], (0, 0.5, 1)))
    known = rivals.drawn["Markov languages, named"][label]
    assert known[0].tolist() == [1, 2, 3]
    assert_range(known, 100 * streams.seen(np.asarray(replay["matrix"])[:, 1:]).T)
    np.testing.assert_allclose(matrices.drawn[label], 100 * np.median(replay["matrix"], axis=0))


def test_settings_must_fit():
    with pytest.raises(SettingsError, match="at least 128 examples"):
        Settings(steps=4)
    assert Settings(streams=("languages",), tasks=7)
