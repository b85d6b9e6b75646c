"""Episodes of drawn lengths, episodes that end by themselves, and copies that never begin anew."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.nests import agree, draw, draw_task, noise, noisy, restless

import nestax as nx
from nestax.levels import _episodes

KEY = jax.random.key(0)


def half(x):
    return jnp.sum(x**2) / 2


def counter(**options):
    """A level that counts the ticks of its episode."""
    start = lambda values, task, key: jnp.zeros(())  # noqa: E731
    return nx.Level("w", lambda v, b: -v["w"], optax.sgd(1.0), start=start, **options)


def pulled(**options):
    """Drawn to where a slower level and the batch say, from a random place."""
    loss = lambda v, b: (half(v["w"] - v["d"] - b["shift"]), {"w": v["w"]})  # noqa: E731
    start = lambda v, task, key: v["d"] + noise(key, 3) + task["shift"]  # noqa: E731
    return nx.Level("w", loss, optax.sgd(0.3, momentum=0.5), noisy(0.2), start=start, **options)


def leader(flow, every=2, **options):
    loss = lambda v, b: half(v["w"] - 1) + half(v["d"]) / 4  # noqa: E731
    return nx.Level("d", loss, optax.sgd(0.1), noisy(0.2), every, flow, **options)


@pytest.mark.parametrize("seed", (4, 5, 11))
def test_random_nests_with_episodes_of_all_lengths(x64, seed):
    nest, values, _ = draw(seed)
    agree(restless(nest), values, 2, seed, whole_run=seed % 2 == 0)


@pytest.mark.parametrize(
    ("options", "flow"),
    [
        ({"horizon": (4, 12)}, nx.Unroll()),
        ({"horizon": (4, 8), "done": lambda value, info: info["w"][0] > 0.8}, nx.PES(0.1)),
        ({"horizon": lambda task, key: 3 + 4 * jax.random.uniform(key)}, nx.NRES(0.1)),
    ],
    ids=["drawn", "done", "function"],
)
def test_staggered_copies_equal_the_interpreter(x64, options, flow):
    """Tasks, starts, processes, momentum and the memories of flows begin anew with each episode."""
    process = nx.Process(
        lambda values, memory, task, key: (
            {"shift": task["shift"] + memory},
            0.5 * memory + 0.1 * noise(key, 3) + 0.1 * values["d"],
        ),
        init=lambda values, task, key: 0.1 * task["shift"],
    )
    w = pulled(**options)
    third = nx.Level("v", lambda v, b: half(v["v"] - b["shift"]), optax.sgd(0.1), process)
    nest = nx.Nest([w, third, leader(flow)], draw_task, copies=4, stagger=True)
    values = {"d": jnp.zeros(3), "v": jnp.zeros(3)}
    assert len(set(nest.init(values, KEY).ages["w"].tolist())) > 1
    agree(nest, values, steps=4)


def test_lengths_are_log_uniform():
    nest = nx.Nest([counter(horizon=(2, 512)), nx.Held("d", every=2)], copies=4000)
    lengths = np.asarray(nest.init({"d": 0.0}, KEY).episodes["w"].ends)
    assert lengths.min() == 2 and lengths.max() <= 512 and (lengths % 2 == 0).all()
    # Half of them below the geometric mean of the ends, 32, within four standard errors.
    assert abs(np.mean(lengths < 32) - 0.5) < 4 * 0.5 / math.sqrt(4000) + 1 / 128


def ticks_of(nest, values, steps):
    """The loss of the counter at every tick: minus the age of its episode."""
    state, info = nest.run(nest.init(values, KEY), steps)
    return state, (-info["w"].loss).tolist()


def test_an_episode_ends_with_the_restart_period_in_which_it_is_done():
    done = lambda value, info: value > 4.5  # noqa: E731
    nest = nx.Nest([counter(horizon=math.inf, done=done), nx.Held("d", every=4)])
    state, ages = ticks_of(nest, {"d": 0.0}, 5)
    assert ages == [*range(8), *range(8), *range(4)]
    assert state.ages["w"] == 4 and state.episodes["w"].ends == 2**31 - 1
    # The tick is moved, not the age; at 0 everything begins.
    moved = state.replace(tick=400)
    assert moved.ages["w"] == 4
    assert (-nest.run(moved, 2)[1]["w"].loss).tolist() == [*range(4, 8), *range(4)]
    assert (-nest.run(state.replace(tick=0), 1)[1]["w"].loss).tolist() == [*range(4)]


def test_an_episode_without_end_begins_once():
    alone = nx.Nest([counter()])
    assert ticks_of(alone, {}, 7)[1] == [*range(7)]
    under = nx.Nest([counter(horizon=math.inf), nx.Held("d", every=2)], copies=2)
    assert ticks_of(under, {"d": 0.0}, 3)[1] == [[age, age] for age in range(6)]
    assert "without end" in repr(under)


def test_a_run_of_drawn_episodes_is_resumed_bit_for_bit():
    nest = nx.Nest([pulled(horizon=(2, 6)), leader(nx.PES(0.1))], draw_task, copies=4)
    start = nest.init({"d": jnp.zeros(3)}, KEY)
    whole, _ = nest.run(start, 9)
    half_way, _ = nest.run(start, 4)
    leaves, structure = jax.tree.flatten(half_way)
    again, _ = nest.run(structure.unflatten([jnp.asarray(np.asarray(a)) for a in leaves]), 5)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def players():
    x = nx.Level("x", lambda v, b: jnp.sum(v["x"] * v["y"]) + b["shift"] @ v["x"], optax.sgd(0.1))
    y = nx.Level("y", lambda v, b: -jnp.sum(v["x"] * v["y"]), optax.adam(0.1), every=2)
    return x, y


def test_copies_that_persist_begin_where_they_are_told_to(x64):
    """A game from many starts, each with batches of its own."""
    x, y = players()
    x = nx.Level("x", x.objective, x.optimizer, noisy(0.3))
    nest = nx.Nest([x, y], {"shift": jnp.ones(3)}, copies=3)
    starts = {"x": jnp.arange(9.0).reshape(3, 3), "y": jnp.ones((3, 3))}
    end, _ = agree(nest, starts, steps=3, whole_run=False)
    assert end.values["x"].shape == (3, 3)
    # The rows do not touch one another.
    other = nest.run(nest.init(starts | {"x": starts["x"].at[0].set(7.0)}, KEY), 3)[0]
    np.testing.assert_array_equal(other.values["x"][1:], end.values["x"][1:])
    assert (other.values["x"][0] != end.values["x"][0]).all()


def test_lengths_that_are_none_are_one_restart_period_at_least():
    for given, expected in (
        (lambda task, key: jnp.nan, 2),
        (lambda task, key: -5, 2),
        (lambda task, key: 3, 4),
        (lambda task, key: jnp.asarray(16777217), 16777218),
        (lambda task, key: 2**40, 2**30 - 2),
    ):
        nest = nx.Nest([counter(horizon=given), nx.Held("d", every=2)])
        ends = nest.init({"d": 0.0}, KEY).episodes["w"].ends
        assert ends == expected if expected < 2**24 + 9 else ends > 2**29


def test_stagger_of_long_episodes_does_not_overflow():
    for horizon in (10**7, (10**7 - 2, 10**7)):
        nest = nx.Nest([counter(horizon=horizon), nx.Held("d", every=2)], copies=400, stagger=True)
        phase = _episodes.ahead(nest.machine.problem, jnp.arange(400), 10**7)
        np.testing.assert_array_equal(phase, np.arange(400) * (10**7 // 2) // 400 * 2)


def test_held_levels_begin_no_episodes_where_others_do():
    d = nx.Level("d", lambda v, b: v["d"] ** 2, optax.sgd(0.1), every=3)
    nest = nx.Nest([counter(), (d,), nx.Held("rate")])
    assert ticks_of(nest, {"d": 1.0, "rate": 1.0}, 2)[1] == [0, 1, 2, 0, 1, 2]


def test_mistakes_are_refused():
    nest = nx.Nest(players(), {"shift": jnp.ones(3)}, copies=2)
    with pytest.raises(ValueError, match=r"level 'x': its value has the shape \[3\]; no level has"):
        nest.init({"x": jnp.zeros(3), "y": jnp.zeros((2, 3))}, KEY)
    for options, message in (
        ({"horizon": (4, 4)}, r"\(least, most\), two whole numbers of ticks, the first smaller"),
        ({"horizon": 2.5}, "horizon is a number of ticks, a whole number of at least 1, math.inf"),
        ({"horizon": lambda task: 4}, r"the horizon is called as horizon\(task, key\)"),
        ({"horizon": 2**31}, "at most 2.*31 - 2 ticks, got 2147483648; math.inf"),
        ({"done": lambda value: True}, r"done is called as done\(value, info\)"),
        ({"done": True}, r"done is a function \(value, info\) -> bool, got True"),
    ):
        with pytest.raises(ValueError, match=message):
            counter(**options)
    with pytest.raises(ValueError, match="done ends an episode, and a level without a start"):
        nx.Level("w", lambda v, b: v["w"], optax.sgd(1.0), done=lambda value, info: True)
    for options, message in (
        ({"horizon": lambda task, key: "4"}, "the horizon must return a number of ticks, got '4'"),
        ({"horizon": lambda task, key: key}, "the horizon must return a number of ticks, got"),
        (
            {"horizon": math.inf, "done": lambda value, info: info},
            r"done must return True or False, got None; return \(loss, info\) from the objective",
        ),
        *(
            ({"horizon": math.inf, "done": done}, message)
            for done, message in (
                (lambda value, info: info["over"], "done got None for an info; return .loss, info"),
                (lambda value, info: info.over, "done got None for an info; return .loss, info"),
                (lambda value, info: not value > 3, "a traced number is true"),
                (lambda value, info: value > 3 and value < 5, r"combined by &, \| and ~"),
            )
        ),
    ):
        with pytest.raises(ValueError, match=message):
            nx.Nest([counter(**options), nx.Held("d", every=2)]).init({"d": 0.0}, KEY)


def test_states_of_other_episodes_are_refused():
    fixed, drawn = (
        nx.Nest([counter(horizon=h), nx.Held("d", every=2)], copies=2) for h in (4, (2, 4))
    )
    with pytest.raises(ValueError, match="state of another nest: its episodes"):
        drawn.step(fixed.init({"d": 0.0}, KEY))


def test_which_episode_is_the_longest_must_be_told():
    other = nx.Level(
        "u", lambda v, b: v["u"] ** 2, optax.sgd(0.1), start=lambda v, t, k: 1.0, horizon=100
    )
    with pytest.raises(ValueError, match=r"'w': tasks, processes .* its own or that of 'u' cannot"):
        nx.Nest([(counter(horizon=lambda task, key: 2), other), nx.Held("d", every=2)])


def test_a_level_in_a_tuple_of_its_own_is_shared():
    """Beside one with a start, of the same period and without a flow, it would be its peer."""
    policy = nx.Level("d", lambda v, batch: (v["d"] - v["w"]) ** 2, optax.sgd(0.1))
    for entry, shape in ((policy, (2,)), ((policy,), ())):
        nest = nx.Nest([counter(horizon=4), entry], copies=2)
        assert nest.init({"d": 0.0}, KEY).values["d"].shape == shape
