"""Several clocks against forgetting: streams, arms, measures, a small run, verdicts, figures."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nestax.runs import SettingsError
from nestax_studies import data, lab, streams, timescales
from nestax_studies.streams import Images, draw_tasks, measures, seen
from nestax_studies.timescales import ARMS, FAMILIES, Settings, find, forgotten_at, less_forgotten

DESCENT = "descent-first-16"


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


def test_split_tasks_share_out_the_classes():
    classes, places = draw_tasks(False, 5, 6, jax.random.key(1))
    assert classes.shape == (5, 2) and sorted(np.ravel(classes)) == list(range(10))
    np.testing.assert_array_equal(places, np.tile(np.arange(6), (5, 1)))


def test_permuted_tasks_have_all_classes_and_other_pixels():
    classes, places = draw_tasks(True, 4, 50, jax.random.key(1))
    np.testing.assert_array_equal(classes, np.tile(np.arange(10), (4, 1)))
    np.testing.assert_array_equal(places[0], np.arange(50))
    assert (np.sort(places) == np.arange(50)).all()
    assert len(np.unique(places, axis=0)) == 4


def prototypes(noise=0):
    """Ten classes that cannot be mistaken; images to judge by that are all black."""
    shown = np.kron(np.eye(10), np.ones((1, 2))) * 200
    train = np.tile(shown[:, None], (1, 3, 1)).astype(np.uint8)
    return Images(train, np.stack([train, np.zeros_like(train)]), 255)


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


def test_where_the_task_is_known_other_classes_are_out_of_the_question():
    arm, x, own = ARMS["descent"], jnp.ones((3, 20)), jnp.array([7, 2])
    params = timescales.network(arm, 20, 8, jax.random.key(0))
    known, free = (timescales.scores(kind, arm, params, x, own) for kind in ("task", "class"))
    assert set(np.ravel(jnp.argsort(known, axis=1)[:, -2:])) == {2, 7}
    np.testing.assert_array_equal(known[:, own], free[:, own])
    assert (np.delete(known, [2, 7], axis=1) < -1e8).all()


def test_blocks_add():
    arm, x, own = ARMS["descent-blocks"], jnp.ones((3, 20)), jnp.arange(10)
    params = timescales.network(arm, 20, 8, jax.random.key(0))
    parts = [
        timescales.scores("class", arm, [jax.tree.map(jnp.zeros_like, p) if j != i else p
                                         for j, p in enumerate(params)], x, own)
        for i in range(3)
    ]  # fmt: skip
    added = timescales.scores("class", arm, params, x, own)
    np.testing.assert_allclose(added, sum(parts), rtol=1e-5, atol=1e-6)


# Arms


def test_every_arm_has_a_family_and_what_it_is_compared_with():
    for name, arm in ARMS.items():
        assert arm.family in FAMILIES
        assert (arm.how == "one") == (arm.single is None)
        assert (arm.how in ("mean", "sum")) == (arm.control is not None)
        for other in (arm.single, arm.control):
            if other is not None:
                assert ARMS[other].base == arm.base and ARMS[other].blocks == arm.blocks
                assert ARMS[other].how in ("one", "rates") and other != name
    assert len({arm.label for arm in ARMS.values()}) == len(ARMS)
    assert not set(FAMILIES) & set(ARMS)  # both are named on the command line
    # As many as there are colours, one of them for what is drawn beside a family.
    assert all(sum(arm.family == name for arm in ARMS.values()) <= 8 for name in FAMILIES)


@pytest.mark.parametrize(
    "name", [name for name, arm in ARMS.items() if arm.control and arm.base == "descent"]
)
def test_the_control_moves_every_part_as_far_if_gradients_do_not_change(name):
    arm = ARMS[name]
    control = ARMS[arm.control]
    gradients = [jnp.array([1.0, -2.0]) * (i + 1) for i in range(3)]
    moved = []
    for one in (arm, control):
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


def test_arms_that_are_compared_try_the_same_rates():
    for name, arm in ARMS.items():
        for other in (arm.single, arm.control):
            assert other is None or timescales.grid(other, 9) == timescales.grid(name, 9)
    rates = timescales.grid("descent", 3)
    assert rates == sorted(rates) and rates[1] == pytest.approx(np.sqrt(rates[0] * rates[2]))


# Measures


MATRIX = np.array([[0.9, 0.1, 0.0], [0.6, 0.8, 0.2], [0.7, 0.3, 1.0]])


def test_measures_of_a_matrix():
    found = measures(np.stack([MATRIX, MATRIX / 2]))
    np.testing.assert_allclose(found["learning"], [0.9, 0.45])
    np.testing.assert_allclose(found["forgetting"], [(0.2 + 0.5) / 2, 0.175])
    np.testing.assert_allclose(found["final"], [2 / 3, 1 / 3])
    np.testing.assert_allclose(seen(MATRIX), [0.9, 0.7, 2 / 3])


def test_the_most_that_was_known_may_come_later_than_the_task_itself():
    later = MATRIX.copy()
    later[1, 0] = 0.95
    np.testing.assert_allclose(measures(later)["forgetting"], (0.25 + 0.5) / 2)
    before = MATRIX.copy()
    before[0, 1] = 0.99  # by chance, before it was learned
    np.testing.assert_allclose(measures(before)["forgetting"], 0.35)


def test_forgetting_is_interpolated_at_the_first_rate_that_learns_enough():
    learning = np.array([0.2, 0.6, 0.9, 0.95, 0.4])
    forgetting = np.array([0.0, 0.1, 0.4, 0.5, 0.9])
    assert forgotten_at(learning, forgetting, 0.7) == pytest.approx(0.2)
    assert forgotten_at(learning, forgetting, 0.9) == pytest.approx(0.4)
    assert np.isnan(forgotten_at(learning, forgetting, 0.96))
    assert np.isnan(forgotten_at(learning, forgetting, 0.2))


def record(forgetting, final=(0.5, 0.5, 0.5), score=0.5, top=1.0):
    """Three rates, three seeds; `forgetting` is where 95 % is learned."""
    learning = np.array([[0.0] * 3, [0.95 * top] * 3, [top] * 3])
    return {
        "rates": [0.1, 0.2, 0.3], "rate": 0.2, "place": 1, "edge": False,
        "scores": [0.0, score, 0.0],
        "learning": learning.tolist(), "forgetting": [[0.0] * 3, list(forgetting), [1.0] * 3],
        "final": [[0.0] * 3, list(final), [0.0] * 3], "matrix": [MATRIX.tolist()] * 3,
    }  # fmt: skip


def test_arms_are_compared_where_both_have_learned_as_much():
    difference = less_forgotten(record((0.1, 0.2, 0.3)), record((0.3, 0.3, 0.3)))
    np.testing.assert_allclose(difference, [0.2, 0.1, 0.0], atol=1e-12)
    # The other learns at most half: at 0.475, which is half way to this arm's second rate.
    difference = less_forgotten(record((0.1, 0.2, 0.3)), record((0.3,) * 3, top=0.5))
    np.testing.assert_allclose(difference, [0.25, 0.2, 0.15], atol=1e-12)


def test_a_difference_must_be_a_point_and_have_the_sign_of_nine_in_ten():
    good = np.array([0.01, 0.02, 0.001])
    assert streams.ahead(good) is True and streams.more(good + 0.5, np.full(3, 0.5)) is True
    assert streams.ahead(good, np.array([0.009, 0.009, 0.03])) is False
    assert streams.ahead(good, np.array([0.02, 0.02, -0.001])) is False
    assert streams.ahead(good, np.array([0.02, 0.02, np.nan])) is None


# Studies


@pytest.fixture(scope="module")
def run():
    """Settings and records of a small run."""
    settings = Settings(
        streams=("task",), arms=("descent", f"{DESCENT}-mean"), tasks=3, steps=64, seeds=2,
        tuning_seeds=1, trials=3,
    )  # fmt: skip
    stages, desk = timescales.STUDY.stages(settings), lab.Desk(lambda text: None, Path())
    return settings, {name: stage(desk) for name, stage in stages.items()}


def test_a_run_finds_the_numbers_that_were_found_before_it_was_a_nest(run, before):
    before("timescales", run[1], rtol=1e-7, atol=2e-5)


def test_figures_show_what_was_recorded(run):
    settings, records = run
    results, first, others = timescales.draw(settings, records)
    assert [s.name for s in (results, first, others)] == ["results", "first", "others"]
    mean, single = (records[f"task {arm}"] for arm in (f"{DESCENT}-mean", "descent"))
    label, final = ARMS[f"{DESCENT}-mean"].label, 100 * np.asarray(mean["final"][mean["place"]])
    (ends,) = results.drawn["task: in the end"][label]
    np.testing.assert_allclose(ends, (min(final), np.median(final), max(final)))
    gain = 100 * less_forgotten(mean, single)
    (less,) = results.drawn["task: forgets less"][label]
    np.testing.assert_allclose(less, (min(gain), np.median(gain), max(gain)))
    x, middle, low, high = first.drawn["split by classes, task known"][label]
    known = 100 * seen(np.asarray(mean["matrix"]))
    assert x.tolist() == [1, 2, 3]
    for one, rule in ((middle, np.median), (low, np.min), (high, np.max)):
        np.testing.assert_allclose(one, rule(known, axis=0))
    learned, lost, *_ = first.drawn["split by classes, task known: forgotten"][label]
    most = int(np.argmax(np.median(mean["learning"], axis=1)))
    np.testing.assert_allclose(learned, 100 * np.median(mean["learning"], axis=1)[: most + 1])
    np.testing.assert_allclose(lost, 100 * np.median(mean["forgetting"], axis=1)[: most + 1])
    assert set(first.drawn["split by classes, task known"]) == {label, ARMS["descent"].label}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ("sgd",)}, "got sgd"),
        ({"streams": ("split",)}, "of all, class, task, permuted; got split"),
        ({"tasks": 1}, "at least 2"),
        ({"tasks": 6}, "at most 5 where classes are split, got 6"),
        ({"steps": 100}, "multiple of 64, got 100"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        Settings(**options)


def test_settings_name_families_and_permutations_may_be_many():
    settings = Settings(streams=("permuted",), tasks=10, arms=("blocks", "descent"))
    assert settings.arms[0] == "descent" and "descent-blocks-64-mean" in settings.arms
    assert {ARMS[arm].family for arm in settings.arms} == {"others", "blocks"}
    full = Settings(preset="full")
    assert full.arms == tuple(ARMS) and (full.steps, full.data) == (448, "mnist")
    small = Settings()
    assert len(small.arms) == 11 and (small.steps, small.data) == (128, "digits")


@pytest.mark.parametrize(
    ("mean", "rates", "expected"),
    [
        (record((0.1,) * 3, (0.7,) * 3, 0.6), record((0.2,) * 3), [True, True]),
        # Less than one clock, but no less than the same rates.
        (record((0.1,) * 3, (0.7,) * 3, 0.6), record((0.1,) * 3, (0.7,) * 3, 0.6), [False, False]),
        # Less than the same rates, but one seed more than one clock.
        (record((0.1, 0.1, 0.4)), record((0.5,) * 3), [False, False]),
        # Half a point less.
        (record((0.195,) * 3, (0.505,) * 3, 0.6), record((0.2,) * 3), [False, False]),
        # The best arm is the one that was best on the seeds to tune by.
        (record((0.1,) * 3, (0.7,) * 3, 0.6), record((0.2,) * 3, (0.8,) * 3, 0.7), [True, False]),
    ],
)
def test_verdicts(mean, rates, expected):
    records = {
        "task descent": record((0.3,) * 3),
        f"task {DESCENT}-mean": mean,
        f"task {DESCENT}-rates": rates,
    }
    found = find(Settings(streams=("task",)), records)
    assert [v.holds for v in found.verdicts] == expected
    assert {v.of for v in found.verdicts} == {"split by classes, task known"}
    assert len(found.numbers.rows) == 3 and json.dumps(found.numbers.summary())
    gains = found.numbers.summary()[
        f"split by classes, task known / {ARMS[f'{DESCENT}-mean'].label}"
    ]["measures"]["less forgotten than one clock"]
    np.testing.assert_allclose(
        gains["values"], 100 * less_forgotten(mean, record((0.3,) * 3)), rtol=1e-5
    )
    del records[f"task {DESCENT}-rates"]
    lacking = find(Settings(streams=("task",)), records).verdicts[0]
    assert lacking.holds is None and "rates only" in lacking.measured
