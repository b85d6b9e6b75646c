"""One special case of the rules each, compiled nests against the tick-by-tick interpreter."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.nests import SIZES, agree, draw_task, noisy, objective, starting, vector

import nestax as nx

pytestmark = pytest.mark.usefixtures("x64")
FIXED = {"shift": np.array([0.3, -0.2, 0.1])}


class Levels:
    """Makes levels whose objectives couple all of `names`."""

    def __init__(self, names):
        self.names, self.rng = list(names), np.random.default_rng(len(names))
        self.context = noisy(0.3)

    def __call__(self, name, every=1, flow=None, begins=False, optimizer=None, **more):
        outside = self.names[self.names.index(name) + 1 :]
        more.setdefault("context", self.context)
        loss = objective(self.rng, name, self.names)
        more.setdefault("start", starting(self.rng, name, outside) if begins else None)
        return nx.Level(
            name,
            loss,
            optimizer or optax.sgd(0.2, momentum=0.3),
            every=every,
            flow=flow,
            **more,
        )


def check(nest, steps=2, **more):
    rng = np.random.default_rng(0)
    values = {name: jnp.asarray(rng.normal(size=size)) for name, size in SIZES.items()}
    persistent = [x.name for group in nest.groups for x in group if not x.start]
    values = {name: values[name] for name in persistent}
    return agree(nest, values, steps, whole_run=False, **more)


def implicit(context=None):
    return nx.Implicit(nx.Dense(), context)


OTHER = noisy(0.9)  # than that of the levels: for a flow that has one of its own

BOTH = pytest.mark.parametrize("order", ["simultaneous", "alternating"])


# R2 and R3: order and gathering.


@BOTH
def test_gathering_beside_the_fastest_peers(order):
    make = Levels("abcd")
    peers = make("a"), make("c", 2, accumulate="sum"), make("b"), make("d", 4, accumulate="mean")
    check(nx.Nest([peers], FIXED, order=order))


WEIGHTS = (0.5, -1.0, 0.0, 2.0)


@BOTH
def test_gathering_with_a_weight_for_each_tick(order):
    make = Levels("abcd")
    peers = make("a"), make("c", 4, accumulate=WEIGHTS), make("b")
    slow = make("d", 4, nx.Unroll(last=3), accumulate=np.array(WEIGHTS))
    nest = nx.Nest([peers, slow], FIXED, order=order)
    check(nest, gradients=["c", "d"] if order == "alternating" else ())


@pytest.mark.parametrize("flow", [None, nx.Forward()])
def test_weights_of_copies(flow):
    make = Levels("abc")
    middle = make("b", 2, flow, accumulate=[3, 0.25])
    check(nx.Nest([make("a", begins=True), middle, make("c", 4)], draw_task, copies=2), steps=1)


def test_gathering_at_the_fastest_clock_is_no_gathering():
    make = Levels("ab")
    check(nx.Nest([(make("a", accumulate="sum"), make("b", 2, accumulate="mean"))], FIXED))


@BOTH
def test_an_outer_level_faster_than_those_inside(order):
    make = Levels("abcd")
    groups = [(make("a", 2), make("b", 4)), (make("c"),), (make("d", 2),)]
    check(nx.Nest(groups, FIXED, order=order))


def test_adjacent_levels_of_one_clock_are_a_game():
    make = Levels("abc")
    nest = nx.Nest([make("a"), make("b"), make("c", 2)], FIXED)
    assert [len(group) for group in nest.groups] == [2, 1]
    check(nest)


def test_a_simultaneous_game_does_not_depend_on_the_list():
    """Not even where one player owns the other's learning rate."""

    def play(names):
        make = Levels("ab")
        levels = {"a": make("a", optimizer=rated_by_b), "b": make("b")}
        return check(nx.Nest([tuple(levels[name] for name in names)], FIXED))[0]

    def rated_by_b(values):
        return optax.sgd(0.2 + 0.1 * jnp.tanh(vector(values["b"])[0]))

    one, other = play("ab"), play("ba")
    for name in "ab":
        np.testing.assert_allclose(one.values[name], other.values[name], rtol=1e-12)


def test_gathering_in_two_groups_with_orders_of_their_own():
    make = Levels("abcd")
    first = nx.Peers(make("a"), make("c", 2, accumulate="sum"), order="alternating")
    check(nx.Nest([first, (make("b"), make("d", 2, accumulate="mean"))], FIXED))
    make = Levels("abcd")
    first = nx.Peers(make("a"), make("c", 2, accumulate="sum"), order="simultaneous")
    second = nx.Peers(make("b"), make("d", 2, accumulate="mean"))
    check(nx.Nest([first, second], FIXED, order="alternating"))


def test_alternating_peers_of_a_trajectory_flow_in_a_simultaneous_nest():
    make = Levels("abcd")
    peers = nx.Peers(make("b", 2, nx.Unroll()), make("c", 2, nx.Unroll()), order="alternating")
    check(nx.Nest([(make("a"), make("d")), peers], FIXED))


def test_two_games_of_one_nest_in_two_orders():
    """On min_x max_y xy, simultaneous descent spirals out and alternating descent does not."""

    def game(x, y):
        rate = optax.sgd(0.1)
        return (
            nx.Level(x, lambda v, batch: v[x] * v[y], rate),
            nx.Level(y, lambda v, batch: -v[x] * v[y], rate),
        )

    nest = nx.Nest([nx.Peers(*game("x", "y"), order="alternating"), game("u", "v")])
    assert nest.orders == ("alternating", "simultaneous") and nest.order == "simultaneous"
    begin = nest.init({"x": 1.0, "y": 0.0, "u": 1.0, "v": 0.0}, jax.random.key(0))
    x, y, u, v = map(nest.run(begin, steps=100)[0].values.get, "xyuv")
    np.testing.assert_allclose(x**2 + y**2 - 0.1 * x * y, 1, rtol=1e-10)
    np.testing.assert_allclose(u**2 + v**2, 1.01**100, rtol=1e-10)


# R6: flows.


def test_peers_that_look_back_differently_far_share_one_pass():
    make = Levels("abcd")
    calls = itertools.count()

    def counted(task, key):
        jax.debug.callback(lambda: next(calls))
        return noisy(0.3)(task, key)

    inner = make("a", begins=True, horizon=6, context=counted)
    flows = (nx.Unroll(last=1), nx.Unroll(), nx.Unroll(last=2))
    peers = [make(n, 3, flow, context=None) for n, flow in zip("bcd", flows, strict=True)]
    mixed = nx.Nest([inner, tuple(peers)], FIXED, copies=2)
    check(mixed, gradients="bcd")
    begin = mixed.init({n: jnp.ones(SIZES[n]) for n in "bcd"}, jax.random.key(0))
    jax.effects_barrier()
    before = next(calls)
    jax.block_until_ready(mixed.step(begin))
    jax.effects_barrier()
    assert next(calls) - before - 1 == 2 * 3  # copies and ticks
    together = mixed.gradient(begin, ("b", "c", "d"))
    np.testing.assert_array_equal(together["b"], mixed.gradient(begin, "b"))


@pytest.mark.parametrize("accumulate", [None, "mean"])
def test_the_last_iterations_are_those_of_the_loop_just_inside(accumulate):
    make = Levels("abc")
    slow = make("c", 4, nx.Unroll(last=1), accumulate=accumulate)
    check(nx.Nest([make("a"), make("b", 2), slow], FIXED), gradients=["c"] * bool(accumulate))


def test_a_truncated_flow_outside_a_whole_one_of_the_same_clock():
    make = Levels("abc")
    middle = make("b", 2, nx.Unroll(), accumulate="mean")
    check(nx.Nest([make("a"), middle, make("c", 2, nx.Unroll(last=1))], FIXED))


@BOTH
@pytest.mark.parametrize("first", [None, nx.Unroll()])
def test_peers_of_a_trajectory_flow(order, first):
    make = Levels("abc")
    peers = make("b", 2, first), make("c", 2, nx.Unroll())
    check(nx.Nest([make("a"), peers], FIXED, order=order))


def test_trajectory_flow_over_levels_of_its_own_clock():
    make = Levels("abc")
    check(nx.Nest([make("a"), make("b", 1, nx.Unroll()), make("c", 1, nx.Forward())], FIXED))


def test_three_levels_by_implicit_functions():
    make = Levels("abc")
    levels = [make("a"), make("b", 2, implicit(OTHER)), make("c", 4, implicit())]
    check(nx.Nest(levels, FIXED), steps=1)


def test_implicit_eliminates_every_group_that_nothing_has_eliminated():
    make = Levels("abc")
    check(nx.Nest([make("a"), make("b", 2), make("c", 4, implicit())], FIXED), steps=1)


def test_implicit_with_a_partial_derivative_between():
    """The level between has eliminated nothing, but what lies inside the innermost flow is gone."""
    make = Levels("abcd")
    levels = [make("a"), make("b", 2, implicit()), make("c", 4), make("d", 4, implicit(OTHER))]
    check(nx.Nest(levels, FIXED), steps=1)


def test_implicit_outside_an_unroll_runs_the_period_again():
    make = Levels("abc")
    inner = make("b", 2, nx.Unroll())
    check(nx.Nest([make("a", begins=True), inner, make("c", 4, implicit())], FIXED), steps=1)
    make = Levels("abc")
    inner = make("b", 2, nx.Unroll(last=1), accumulate=[3, 0.25])
    check(nx.Nest([make("a"), inner, make("c", 2, implicit())], FIXED), steps=1)


def test_implicit_outside_two_unrolls_of_one_group():
    make = Levels("abcd")
    peers = make("b", 2, nx.Unroll()), make("c", 2, nx.Unroll(last=1))
    check(nx.Nest([make("a", begins=True), peers, make("d", 2, implicit())], FIXED), steps=1)


def test_implicit_outside_an_unroll_with_peers_that_moved():
    make = Levels("abcd")
    peers = make("b", 2, nx.Unroll()), make("c", 2)
    nest = nx.Nest([make("a"), peers, make("d", 2, implicit())], FIXED, order="alternating")
    check(nest, steps=1)


def test_unroll_outside_an_implicit():
    make = Levels("abc")
    check(nx.Nest([make("a"), make("b", 2, implicit()), make("c", 4, nx.Unroll())], FIXED), steps=1)


def test_implicit_crosses_a_slower_clock():
    make = Levels("ab")
    check(nx.Nest([make("a", 4), make("b", 1, implicit())], FIXED))


# R7: episodes.


def test_episodes_that_begin_within_a_differentiated_period():
    make = Levels("abc")
    levels = [make("a", begins=True), make("b", 2), make("c", 4, nx.Unroll())]
    check(nx.Nest(levels, draw_task))
    make = Levels("abc")
    levels = [make("a", begins=True), make("b", 2), make("c", 4, nx.Unroll(last=1))]
    check(nx.Nest(levels, FIXED))


@pytest.mark.parametrize("stagger", [False, True])
def test_an_optimizer_state_that_is_kept_over_episodes(stagger):
    make = Levels("abc")
    fast = make("a", begins=True, horizon=2, reset_optimizer=False)
    middle = make("b", 2, begins=True, horizon=4)
    levels = [fast, middle, make("c", 4, nx.Unroll())]
    gradients = ["c"] if stagger else ()
    check(nx.Nest(levels, draw_task, copies=2, stagger=stagger), gradients=gradients)


def test_an_episode_of_a_level_with_a_flow_of_its_own():
    make = Levels("abc")
    middle = make("b", 2, nx.Unroll(), begins=True, horizon=4)
    check(nx.Nest([make("a", begins=True, horizon=4), middle, make("c", 4)], draw_task))


def test_a_start_sees_what_lies_outside_and_peers_without_a_start():
    seen = {}

    def start(name):
        def begin(values, task, key):
            seen[name] = sorted(values)
            return jnp.ones(SIZES[name])

        return begin

    make = Levels("abcd")
    a, b, c, d = make("a"), make("b"), make("c", 2), make("d", 4)
    peers = [
        nx.Level(x.name, x.objective, x.optimizer, x.context, start=start(x.name)) for x in (a, b)
    ]
    slow = nx.Level("c", c.objective, c.optimizer, c.context, 2, start=start("c"), horizon=8)
    nest = nx.Nest([(peers[0], peers[1]), slow, d], FIXED)
    nest.init({"d": jnp.ones(1)}, jax.random.key(0))
    assert seen == {"a": ["c", "d"], "b": ["c", "d"], "c": ["d"]}
    nx.Nest([(peers[0], b), slow, d], FIXED).init(
        {"b": jnp.ones(1), "d": jnp.ones(1)}, jax.random.key(0)
    )
    assert seen["a"] == ["b", "c", "d"]


# R8: copies.


@pytest.mark.parametrize("flow", [nx.Unroll(), implicit()], ids=["unroll", "implicit"])
def test_a_shared_level_between_copies_and_the_outermost(flow):
    make = Levels("abc")
    levels = [make("a", begins=True), make("b", 2), make("c", 4, flow)]
    check(nx.Nest(levels, draw_task, copies=2), steps=1)


def test_implicit_flows_of_copied_and_shared_levels():
    make = Levels("abc")
    middle = make("b", 2, implicit(), begins=True)
    nest = nx.Nest([make("a", begins=True), middle, make("c", 2, implicit())], FIXED, copies=2)
    check(nest, steps=1)


def test_staggered_episodes():
    make = Levels("abc")
    fast = make("a", begins=True, horizon=2)
    middle = make("b", 2, nx.Unroll(), begins=True, horizon=6)
    nest = nx.Nest([fast, middle, make("c", 2)], draw_task, copies=3, stagger=True)
    check(nest, steps=4)


def test_staggered_episodes_of_one_length_on_two_levels():
    """Phases are multiples of the larger restart period, that of the outer of the two; here there
    are fewer of them than copies."""
    make = Levels("abc")
    levels = [make("a", begins=True, horizon=8), make("b", 2, begins=True, horizon=8), make("c", 4)]
    check(nx.Nest(levels, draw_task, copies=3, stagger=True), steps=3)


STACKED = {"shift": np.array([[0.3, -0.2, 0.1], [-0.4, 0.6, 0.2]])}


@pytest.mark.parametrize("flow", [nx.Unroll(), implicit()], ids=["unroll", "implicit"])
def test_one_fixed_task_for_each_copy(flow):
    make = Levels("abc")
    middle = make("b", 2, flow, begins=True, context=None)
    nest = nx.Nest([make("a", begins=True), middle, make("c", 4)], copies=2, tasks=STACKED)
    check(nest, gradients=["c"] if isinstance(flow, nx.Unroll) else ())


def numbered(task, key, copy):
    noise = 0.3 * jax.random.normal(key, (3,), task["shift"].dtype)
    return {"shift": task["shift"] + noise + jnp.array([0.5, -1.0, 0.7]) * copy}


@pytest.mark.parametrize("flow", [nx.Unroll(), implicit(numbered)])
def test_contexts_and_starts_that_are_told_the_copy(flow):
    make = Levels("abc")
    drawn = starting(np.random.default_rng(7), "a", "bc")

    def start(values, task, key, *, copy):
        return drawn(values, task, key) + 0.4 * copy

    a = make("a", start=start, context=numbered)
    levels = [a, make("b", 2, flow, begins=True), make("c", 4, context=numbered)]
    check(nx.Nest(levels, FIXED, copies=2))


# R9: optimizers.


def recorder():
    """Plain descent that keeps what it was given."""

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return {
            "value": jnp.zeros(()),
            "grad": zeros,
            "ahead": jnp.zeros(()),
            "batch": jnp.zeros(3),
        }

    def update(updates, state, params, *, value, grad, value_fn, batch, **extra):
        ahead = value_fn(jax.tree.map(lambda p: p + 1, params))
        kept = {"value": value, "grad": grad, "ahead": ahead, "batch": batch["shift"]}
        return jax.tree.map(lambda u: -0.1 * u, updates), kept

    return optax.GradientTransformationExtraArgs(init, update)


@BOTH
def test_what_an_optimizer_is_given(order):
    make = Levels("abc")
    a, b = make("a", begins=True, optimizer=recorder()), make("b", 2, nx.Unroll())
    nest = nx.Nest([(a, make("c", optimizer=recorder())), b], draw_task, copies=2, order=order)
    check(nest, steps=1)


# R5 and R6: what an implicit flow is linearized on.


@pytest.mark.parametrize("every", [4, 2])  # after whole periods of the inner level, and within them
def test_an_accumulating_level_is_linearized_on_its_whole_period(every):
    level = Levels("ab")
    a = level("a", 4, accumulate="mean")
    b = level("b", 1 if every == 2 else 4, nx.Implicit(nx.Dense()))
    tick = nx.Level("t", lambda v, batch: v["t"] ** 2, optax.sgd(0.1))
    nest = nx.Nest([a, b, (tick,)] if every == 4 else [a, b], task=FIXED)
    rng = np.random.default_rng(0)
    values = {name: jnp.asarray(rng.normal(size=SIZES[name])) for name in "ab"}
    agree(nest, values | ({"t": 1.0} if every == 4 else {}), 2)


def test_the_fixed_point_of_an_update_is_differentiated():
    level = Levels("abc")
    decayed = optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.2, momentum=0.5))
    flow = nx.Implicit(nx.Dense(), condition="update")
    a = level("a", optimizer=decayed)
    b = level("b", 2, flow, optimizer=optax.adam(0.1, b1=0.5, b2=0.8, eps=0.1))
    check(nx.Nest([a, b, level("c", 4, flow)], task=FIXED), steps=1)
