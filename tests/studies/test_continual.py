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

from nestax.runs import SettingsError
from nestax_studies import continual, lab, streams
from nestax_studies.continual import Settings, find, learning, measures, worlds
from nestax_studies.continual.arms import ARMS, PARTS, STEPS, TURNS, network
from nestax_studies.streams import Images

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


def test_texts_to_tune_by_and_to_judge_by_are_different_ones_of_the_same_language():
    world = worlds.languages(tasks=2, letters=4, order=1)
    table, key = world.draw((), jax.random.key(0))[0], jax.random.key(1)
    texts = [world.shown((), table, 0, key, judged) for judged in (0, 1)]
    assert not np.array_equal(texts[0][0], texts[1][0])
    best = worlds.best_possible(np.asarray(table), 1)
    for rows, labels in texts:
        told = np.argmax(table, axis=1)[np.asarray(rows[:, 0])]
        assert np.mean(told == labels) == pytest.approx(best, abs=0.08)


@pytest.mark.parametrize("order", [1, 2])
def test_nobody_does_better_than_who_knows_the_language(order):
    world = worlds.languages(tasks=1, letters=3, order=order)
    table = world.draw((), jax.random.key(2))[0]
    best = worlds.best_possible(np.asarray(table), order)
    rows, labels = world.text((), table, 0, jax.random.key(3), 4000)
    context = sum(np.asarray(rows[:, i]) * 3 ** (order - 1 - i) for i in range(order))
    assert np.mean(np.argmax(table, 1)[context] == labels) == pytest.approx(best, abs=0.03)
    assert 1 / 3 < best < 1 and world.ceiling(table[None]) == pytest.approx(best)


def prototypes():
    """Ten classes that cannot be mistaken; images to judge by that are all black."""
    shown = np.kron(np.eye(10), np.ones((1, 2))) * 200
    train = np.tile(shown[:, None], (1, 3, 1)).astype(np.uint8)
    return Images(train, np.stack([train, np.zeros_like(train)]), 255)


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


TUNING = (lab.tuning(0), lab.tuning(1))


@functools.cache
def run_of(arm):
    settings = Settings(tasks=2, steps=96, batch_size=8, hidden=16, buffer=40)
    world = worlds.images("class", 2, prototypes())
    parts = learning.parts(settings, world, ARMS[arm], settings.network(world, arm))
    return streams.runner(settings, *parts)


def ran(arm, rate, extra=0.0, seeds=TUNING):
    return run_of(arm)(seeds, [rate] * len(seeds), [extra] * len(seeds))


def test_a_plain_network_forgets_what_replay_and_a_joint_run_keep():
    plain, replay, joint = ran("mlp", 0.5), ran("replay", 0.5, 0.5), ran("joint", 0.5)
    assert plain.shape == (2, 3, 2)
    assert (plain[:, 1, 0] > 0.9).all() and (plain[:, 2, 1] > 0.9).all()
    assert (plain[:, 2, 0] < 0.5).all()
    assert (replay[:, 2, 0] > 0.8).all() and (joint[:, 2] > 0.8).all()
    assert (replay[:, 1, 1] == 0).all() and (joint[:, 1, 1] == 0).all()


def test_a_share_of_nothing_is_no_replay_and_no_penalty_no_consolidation():
    plain = ran("mlp", 0.2)
    np.testing.assert_array_equal(ran("replay", 0.2, 0.0), plain)
    np.testing.assert_array_equal(ran("ewc", 0.2, 0.0), plain)


def test_a_large_penalty_keeps_the_first_task_and_the_second_out():
    held, free = ran("ewc", 0.1, 1000.0), ran("ewc", 0.1)
    assert held[:, 2, 0].mean() > free[:, 2, 0].mean() + 0.2
    assert held[:, 2, 1].mean() < free[:, 2, 1].mean() - 0.2


def test_what_diverges_knows_nothing_and_seeds_to_judge_by_see_other_examples():
    assert (ran("mlp", 1e38)[:, 1:] == 0).all()
    judged = ran("mlp", 0.5, seeds=(0, 1))
    # One black image is called one class, which is of either task.
    np.testing.assert_allclose(judged.sum(2), 0.2, atol=1e-6)


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
    arm, net, params, x, y = pieces(clocks=STEPS)
    tx = arm.make(0.1)
    state = tx.init(params)

    def loss(params, x, y):
        scores = net.learn(params, net.start(params), x, y, 0.0)[0]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, y))

    @jax.jit
    def step(params, state, x, y):
        updates, state = tx.update(jax.grad(loss)(params, x, y), state, params)
        return optax.apply_updates(params, updates), state

    moved = []
    for i in range(max(STEPS)):
        new, state = step(params, state, x[i], y[i])
        pairs = zip(new["memory"].levels, params["memory"].levels, strict=True)
        moved.append([bool((a.gate != b.gate).any()) for a, b in pairs])
        assert (new["in"].weight != params["in"].weight).any()
        params = new
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


def test_without_a_rate_in_context_nothing_is_written(x64):
    _, net, params, x, y = pieces("local")
    plain = pieces()[1]
    memory, learn = net.start(params), jax.jit(net.learn)
    for i in range(4):
        said, memory = learn(params, memory, x[i], y[i], 0.0)
        np.testing.assert_allclose(said, net.read(params, net.start(params), x[i]), rtol=1e-10)
    assert all((a == 0).all() for a in jax.tree.leaves(memory.weights))
    start = plain.init(jax.random.key(0))
    said, still = plain.learn(start, plain.start(start), x[0], y[0], 9.0)
    assert all((a == 0).all() for a in jax.tree.leaves(still.weights))


def test_starts_and_targets_are_learned_while_the_memory_is_carried_along():
    _, net, params, x, y = pieces("local")
    memory = jax.jit(net.learn)(params, net.start(params), x[0], y[0], 0.5)[1]

    def loss(params):
        return jnp.sum(net.learn(params, memory, x[1], y[1], 0.5)[0] ** 2)

    gradient = jax.jit(jax.grad(loss))(params)["memory"]
    for leaf in jax.tree.leaves((gradient.levels, list(gradient.target))):
        assert (leaf != 0).any()


# Measures and verdicts


MATRIX = np.array([[0.1, 0.0, 0.2], [0.9, 0.1, 0.0], [0.6, 0.8, 0.4], [0.7, 0.3, 1.0]])


def test_measures_of_a_matrix():
    found = measures(np.stack([MATRIX, MATRIX / 2]))
    expected = {"learning": 0.9, "forgetting": (0.2 + 0.5) / 2, "final": 2 / 3,
                "backward": (-0.2 - 0.5) / 2, "forward": (0.1 + 0.2) / 2}  # fmt: skip
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], [value, value / 2])


def record(final, score=0.5):
    parts = {name: [0.5] * len(final) for name in measures(MATRIX)}
    return parts | {
        "final": list(final), "rate": 0.1, "extra": 1.0, "edge": False, "scores": [score],
        "pairs": [[0.1, 1.0]], "ceiling": None, "parameters": 10,
        "matrix": [MATRIX.tolist()] * len(final),
    }  # fmt: skip


def judged(**given):
    settings = Settings(streams=("class",))
    found = find(settings, {f"class {arm.replace('_', '-')}": r for arm, r in given.items()})
    assert {v.of for v in found.verdicts} == {"split by classes, one head"}
    return {v.claim.split(" (")[0]: v.holds for v in found.verdicts}, found


@pytest.mark.parametrize(
    ("mine", "chain", "rates", "holds"),
    [
        ((0.6, 0.6, 0.6), (0.5,) * 3, (0.5,) * 3, True),
        ((0.6, 0.6, 0.6), (0.5,) * 3, (0.6,) * 3, False),  # the rates alone do as well
        ((0.6, 0.6, 0.4), (0.5,) * 3, (0.5,) * 3, False),
        ((0.505,) * 3, (0.5,) * 3, (0.4,) * 3, False),  # half a point
        ((0.6,) * 3, (0.6,) * 3, (0.5,) * 3, False),  # one clock does as well
    ],
)
def test_several_clocks_must_beat_one_clock_and_its_rates(mine, chain, rates, holds):
    found, whole = judged(
        continuum_steps=record(mine), chain=record(chain), continuum_rates=record(rates)
    )
    words = "Several clocks know more in the end than one: "
    assert found == {words + ARMS["continuum-steps"].label: holds}
    assert len(whole.numbers.rows) == 3 and json.dumps(whole.numbers.summary())


def test_the_best_memory_is_chosen_by_tuning_and_compared_with_its_rivals():
    found, _ = judged(
        continuum_label=record((0.9,) * 3, 0.4), continuum_local=record((0.6,) * 3, 0.5),
        mlp=record((0.5,) * 3), replay=record((0.7,) * 3), ewc=record((0.6,) * 3),
    )  # fmt: skip
    rivals = [holds for claim, holds in found.items() if claim.startswith("A continuum memory")]
    assert rivals == [True, False, False]
    clocks = [holds for claim, holds in found.items() if claim.startswith("Several clocks")]
    assert clocks == [None, None]  # there is no chain on one clock to compare with


def test_every_arm_names_what_it_is_compared_with():
    for arm in ARMS.values():
        assert arm.control is None or not ARMS[arm.control].writes or arm.writes
        assert bool(arm.extra) == (len(arm.extras) > 1)
    assert len({arm.label for arm in ARMS.values()}) == len(ARMS)
    assert ARMS["ewc"].kind == "ewc" and STEPS[0] == 1


def test_every_arm_first_tries_as_many_settings():
    grids = {name: continual.grid("class", name, 4) for name in ARMS}
    assert {len(pairs) for pairs in grids.values()} == {12}
    rates = {name: sorted({rate for rate, _ in pairs}) for name, pairs in grids.items()}
    assert {(round(r[0], 8), round(r[-1], 8)) for r in rates.values()} == {
        (round(rates["mlp"][0], 8), round(rates["mlp"][-1], 8))
    }


@pytest.mark.parametrize(
    ("best", "more", "edge"), [(0.03, 0, False), (0.9, 1, False), (99, 2, True)]
)
def test_rates_beyond_an_edge_are_tried_at_the_best_second_value(monkeypatch, best, more, edge):
    def runner(settings, *parts):
        def run(seeds, rates, extras):
            away = np.abs(np.log10(np.array(rates) / best)) + 0.1 * (np.array(extras) != 0.5)
            return np.broadcast_to((0.5 - 0.01 * away)[:, None, None], (len(rates), 3, 2))

        return run

    monkeypatch.setattr(streams, "runner", runner)
    monkeypatch.setitem(continual._CENTRES, "languages", 0.03)
    settings = Settings(streams=("languages",), tasks=2, seeds=2, trials=3)
    found = continual.learn(settings, "languages", "replay", lab.Desk(lambda text: None, Path()))
    assert found["extra"] == 0.5 and found["edge"] is edge and len(found["scores"]) == 9 + more
    np.testing.assert_allclose(
        found["pairs"][9:], [(0.3 * 10**i, 0.5) for i in range(1, more + 1)] or np.empty((0,))
    )
    assert found["scores"][found["pairs"].index((found["rate"], 0.5))] == max(found["scores"])


# Studies


@pytest.fixture(scope="module")
def run():
    """Settings and records of a small run."""
    settings = Settings(
        streams=("languages",), arms=("continuum-label", "replay"), tasks=3, steps=16, hidden=16,
        buffer=20, seeds=2, tuning_seeds=1, trials=2,
    )  # fmt: skip
    stages, desk = continual.STUDY.stages(settings), lab.Desk(lambda text: None, Path())
    return settings, {name: stage(desk) for name, stage in stages.items()}


def test_a_run_finds_the_numbers_that_were_found_before_it_was_a_nest(run, before):
    # Not the scores of the memory that is written: at the largest rates rounding decides them.
    before("continual", run[1], rtol=1e-7, atol=2e-5)


def test_figures_show_what_was_recorded(run):
    settings, records = run
    results, rivals, matrices = continual.draw(settings, records)  # one line is no comparison
    assert (results.name, rivals.name, matrices.name) == ("results", "rivals", "languages")
    replay, label = records["languages replay"], ARMS["replay"].label
    for column, name in (("in the end", "final"), ("forgotten", "forgetting")):
        (dot,) = results.drawn[f"languages: {column}"][label]
        values = 100 * np.asarray(replay[name])
        np.testing.assert_allclose(dot, (min(values), np.median(values), max(values)))
    x, middle, low, high = rivals.drawn["Markov languages, named"][label]
    known = 100 * streams.seen(np.asarray(replay["matrix"])[:, 1:])
    assert x.tolist() == [1, 2, 3]
    for one, rule in ((middle, np.median), (low, np.min), (high, np.max)):
        np.testing.assert_allclose(one, rule(known, axis=0))
    np.testing.assert_allclose(matrices.drawn[label], 100 * np.median(replay["matrix"], axis=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": 6}, "at most 5 where classes are split, got 6"),
        ({"steps": 4}, "at least 128 examples"),
        ({"batch_size": 12}, "multiple of 8, got 12"),
        ({"order": 3}, "at most 2, got 3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        Settings(**options)


def test_presets_fill_what_is_not_given():
    full = Settings(preset="full", streams=("languages",), tasks=7)
    assert (full.data, full.steps, full.hidden, full.buffer) == ("mnist", 448, 64, 200)
    assert Settings(hidden=5).hidden == 5 and Settings().buffer == 100
