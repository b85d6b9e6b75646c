"""Several clocks against forgetting: streams, arms, measures, a small run, verdicts, figures."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.images import MATRIX, prototypes
from studies.drawn import assert_range

from nestax.runs import SettingsError
from nestax_studies import data, lab, streams, timescales
from nestax_studies.streams import draw_tasks, measures, seen
from nestax_studies.timescales import ARMS, FAMILIES, Settings, find, forgotten_at, less_forgotten

MEAN, RATES = "descent-first-16-mean", "descent-first-16-rates"


# Streams


def test_images_of_training_tuning_and_judging_are_different_ones(monkeypatch):
    def split(first, per_class):
        numbers = first + np.arange(10 * per_class)
        images = np.stack([numbers // 256, numbers % 256], axis=1)[:, None]
        return data.Split(images.astype(np.uint8), np.int32(numbers % 10))

    given = data.Dataset("numbers", split(0, 9), split(5000, 4), 10)
    monkeypatch.setattr(streams.data, "load", lambda name: given)
    found = streams.images("numbers", 3)
    parts = [found.train, *found.held_out]
    assert [part.shape for part in parts] == [(10, 6, 2), (10, 3, 2), (10, 3, 2)]
    numbers = [256 * part[..., 0].astype(int) + part[..., 1] for part in parts]
    for part in numbers:
        np.testing.assert_array_equal(part % 10, np.arange(10)[:, None] + 0 * part)
    assert sorted(np.concatenate(numbers[:2], axis=1).ravel()) == list(range(90))
    assert numbers[2].min() >= 5000 and len(np.unique(numbers[2])) == 30


def test_tasks_share_out_the_classes_or_permute_the_pixels():
    classes, places = draw_tasks(False, 5, 6, jax.random.key(1))
    assert classes.shape == (5, 2) and sorted(np.ravel(classes)) == list(range(10))
    np.testing.assert_array_equal(places, np.tile(np.arange(6), (5, 1)))
    classes, places = draw_tasks(True, 4, 50, jax.random.key(1))
    np.testing.assert_array_equal(classes, np.tile(np.arange(10), (4, 1)))
    np.testing.assert_array_equal(places[0], np.arange(50))
    assert (np.sort(places) == np.arange(50)).all() and len(np.unique(places, axis=0)) == 4


def test_a_task_is_learned_and_seeds_to_tune_by_are_looked_at_on_other_images():
    settings = Settings(tasks=2, steps=192, batch_size=8)
    vars(settings)["images"] = prototypes()
    run = streams.runner(settings, *timescales.parts(settings, "class", "descent"))
    seeds = [lab.tuning(0), 0] * 3
    still, learned, lost = run(seeds, [0.0, 0.0, 0.3, 0.3, 1e30, 1e30]).reshape(3, 2, 2, 2)
    # Five classes each, and learning the second five forgets the first.
    assert learned[0, 0, 0] > 0.9 and learned[0, 1, 1] > 0.9
    assert learned[0, 1, 0] < 0.5 and learned[0, 0, 1] == 0
    assert (still[0, 0] == still[0, 1]).all()  # nothing moves at rate 0
    # One black image is called one class.
    np.testing.assert_allclose(learned[1, [0, 1], [0, 1]], 0.2, atol=1e-6)
    assert (lost == 0).all()  # what diverges knows nothing


def test_blocks_add_and_where_the_task_is_known_other_classes_are_out_of_the_question():
    arm, x, own = ARMS["descent-blocks"], jnp.ones((3, 20)), jnp.array([7, 2])
    params = timescales.network(arm, 20, 8, jax.random.key(0))
    known, free = (timescales.scores(kind, arm, params, x, own) for kind in ("task", "class"))
    np.testing.assert_array_equal(known[:, own], free[:, own])
    assert (np.delete(known, [2, 7], axis=1) < -1e8).all()
    one = ARMS["descent"]  # a single network
    alone = sum(timescales.scores("class", one, block, x, own) for block in params)
    np.testing.assert_allclose(free, alone, rtol=1e-5, atol=1e-6)


# Arms


def test_arms_are_compared_with_one_clock_at_the_same_rates():
    for name, arm in ARMS.items():
        assert arm.family in FAMILIES and arm.clocks == (arm.how in ("mean", "sum"))
        assert (arm.how == "one") == (arm.single is None)
        assert arm.clocks == (arm.control is not None)
        for other in {arm.single, arm.control} - {None}:
            assert ARMS[other].base == arm.base and ARMS[other].blocks == arm.blocks
            assert not ARMS[other].clocks and other != name
            assert timescales.grid(other, 9) == timescales.grid(name, 9)
    assert len({arm.label for arm in ARMS.values()}) == len(ARMS)
    assert not set(FAMILIES) & set(ARMS)  # both are named on the command line
    # As many as there are colours, one of them for what is drawn beside a family.
    assert all(sum(arm.family == name for arm in ARMS.values()) <= 8 for name in FAMILIES)


@pytest.mark.parametrize(
    "name", [n for n, arm in ARMS.items() if arm.control and arm.base == "descent" and "16" in n]
)
def test_the_control_moves_every_part_as_far_if_gradients_do_not_change(name):
    arm = ARMS[name]
    gradients = [jnp.array([1.0, -2.0]) * (i + 1) for i in range(3)]
    moved = []
    for one in (arm, ARMS[arm.control]):
        params = jax.tree.map(jnp.zeros_like, gradients)

        def tick(carry, _, one=one):
            params, state = carry
            updates, state = one.make(0.1).update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), params

        start = params, one.make(0.1).init(params)
        (params, _), path = jax.lax.scan(tick, start, None, length=max(arm.periods))
        moved.append(params)
        rests = [bool((part[1] == 0).all()) for part in path]
        assert rests == [c > 1 and one is arm for c in arm.periods]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *moved)


# Measures


def test_measures_of_a_matrix():
    found = measures(np.stack([MATRIX, MATRIX / 2]))
    np.testing.assert_allclose(found["learning"], [0.9, 0.45])
    np.testing.assert_allclose(found["forgetting"], [(0.2 + 0.5) / 2, 0.175])
    np.testing.assert_allclose(found["final"], [2 / 3, 1 / 3])
    np.testing.assert_allclose(seen(MATRIX), [0.9, 0.7, 2 / 3])
    # The most that was known may come later than the task itself, but not before it.
    later, before = MATRIX.copy(), MATRIX.copy()
    later[1, 0], before[0, 1] = 0.95, 0.99
    np.testing.assert_allclose(measures(later)["forgetting"], (0.25 + 0.5) / 2)
    np.testing.assert_allclose(measures(before)["forgetting"], 0.35)


def test_forgetting_is_interpolated_at_the_first_rate_that_learns_enough():
    learning = np.array([0.2, 0.6, 0.9, 0.95, 0.4])
    forgetting = np.array([0.0, 0.1, 0.4, 0.5, 0.9])
    assert forgotten_at(learning, forgetting, 0.7) == pytest.approx(0.2)
    assert forgotten_at(learning, forgetting, 0.9) == pytest.approx(0.4)
    assert np.isnan(forgotten_at(learning, forgetting, 0.96))
    assert np.isnan(forgotten_at(learning, forgetting, 0.2))


def record(forgetting, final=0.5, score=0.5, top=1.0):
    """Three rates, three seeds; `forgetting` is where 95 % is learned."""
    by_rate = {
        "learning": [0.0, 0.95 * top, top], "forgetting": [0.0, forgetting, 1.0],
        "final": [0.0, final, 0.0],
    }  # fmt: skip
    facts = {"rate": 0.2, "place": 1, "edge": False, "scores": [0.0, score, 0.0]}
    return facts | {n: [np.broadcast_to(v, 3).tolist() for v in by] for n, by in by_rate.items()}


def test_arms_are_compared_where_both_have_learned_as_much():
    difference = less_forgotten(record((0.1, 0.2, 0.3)), record(0.3))
    np.testing.assert_allclose(difference, [0.2, 0.1, 0.0], atol=1e-12)
    # The other learns at most half: at 0.475, which is half way to this arm's second rate.
    difference = less_forgotten(record((0.1, 0.2, 0.3)), record(0.3, top=0.5))
    np.testing.assert_allclose(difference, [0.25, 0.2, 0.15], atol=1e-12)


GAIN = record(0.1, 0.7, 0.6)


@pytest.mark.parametrize(
    ("mean", "rates", "expected"),
    [
        (GAIN, record(0.2), [True, True]),
        (GAIN, GAIN, [False, False]),  # less than one clock, but no less than the same rates
        (record((0.1, 0.1, 0.4)), record(0.5), [False, False]),  # one seed more than one clock
        (record(0.195, 0.505, 0.6), record(0.2), [False, False]),  # half a point less
        (record(0.28, 0.52, 0.6), record(0.3), [True, True]),
        (GAIN, record(0.2, 0.8, 0.7), [True, False]),  # best on the seeds to tune by
        (GAIN, None, [None, True]),
    ],
)
def test_verdicts(mean, rates, expected):
    records = {"task descent": record(0.3), f"task {MEAN}": mean}
    records |= {f"task {RATES}": rates} if rates else {}
    found = find(Settings(streams=("task",)), records)
    assert [v.holds for v in found.verdicts] == expected
    assert {v.of for v in found.verdicts} == {"split by classes, task known"}
    assert len(found.numbers.rows) == len(records) and json.dumps(found.numbers.summary())
    (row,) = [row for row in found.numbers.rows if row.labels[1] == ARMS[MEAN].label]
    gains, than_one = row.measures["less forgotten than one clock"], record(0.3)
    np.testing.assert_allclose(gains["values"], 100 * less_forgotten(mean, than_one))


# A small run


@pytest.fixture(scope="module")
def run():
    """Settings and records."""
    settings = Settings(
        streams=("task",), arms=("descent", MEAN), tasks=3, steps=64, seeds=2, tuning_seeds=1,
        trials=3,
    )  # fmt: skip
    stages, desk = timescales.STUDY.stages(settings), lab.Desk(lambda text: None, Path())
    return settings, {name: stage(desk) for name, stage in stages.items()}


def test_a_run_finds_the_numbers_that_were_found_before_it_was_a_nest(run, before):
    before("timescales", run[1], rtol=1e-7, atol=2e-5)


def test_figures_show_what_was_recorded(run):
    settings, records = run
    results, first, others = timescales.draw(settings, records)
    assert [s.name for s in (results, first, others)] == ["results", "first", "others"]
    mean, single = (records[f"task {arm}"] for arm in (MEAN, "descent"))
    label, title = ARMS[MEAN].label, "split by classes, task known"
    for column, values in (
        ("in the end", np.asarray(mean["final"][mean["place"]])),
        ("forgets less", less_forgotten(mean, single)),
    ):
        (dot,) = results.drawn[f"task: {column}"][label]
        np.testing.assert_allclose(dot, 100 * np.quantile(values, (0, 0.5, 1)))
    assert set(first.drawn[title]) == {label, ARMS["descent"].label}
    assert first.drawn[title][label][0].tolist() == [1, 2, 3]
    assert_range(first.drawn[title][label], 100 * seen(np.asarray(mean["matrix"])).T)
    curves = [100 * np.median(mean[name], axis=1) for name in ("learning", "forgetting")]
    most = int(np.argmax(curves[0])) + 1
    for drawn, curve in zip(first.drawn[f"{title}: forgotten"][label][:2], curves, strict=True):
        np.testing.assert_allclose(drawn, curve[:most])


def test_settings_name_families_and_permutations_may_be_many():
    settings = Settings(streams=("permuted",), tasks=10, arms=("blocks", "descent"))
    assert settings.arms[0] == "descent" and "descent-blocks-64-mean" in settings.arms
    assert {ARMS[arm].family for arm in settings.arms} == {"others", "blocks"}
    assert Settings(preset="full").arms == tuple(ARMS) and len(Settings().arms) == 11
    with pytest.raises(SettingsError, match="at most 5 where classes are split, got 6"):
        Settings(tasks=6)
