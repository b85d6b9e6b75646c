"""What makes no sense is refused, at construction or at init, by level and by how to mend it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx

SGD = optax.sgd(0.1)


def loss(values, batch):
    return sum(jnp.sum(a**2) for a in jax.tree.leaves(values))


def product(values, batch):
    total = 1.0
    for a in jax.tree.leaves(values):
        total = total * jnp.sum(a)
    return total


def level(name="w", every=1, flow=None, objective=product, optimizer=SGD, **rest):
    return nx.Level(name, objective, optimizer, every=every, flow=flow, **rest)


def fresh(values, task, key):
    return jnp.ones(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: level(name=""), "non-empty string"),
        (lambda: level(optimizer=0.1), "optimizer is an optax transformation"),
        (lambda: level(context=jnp.ones(3)), "give fixed data as the nest's task"),
        (lambda: level(context=[jnp.ones(3)]), r"got list; .* as nx.Stream.of\(loader\)"),
        (lambda: level(every=0), "every is a number of ticks"),
        (lambda: level(horizon=3), "give start as well"),
        (lambda: level(reset_optimizer=False), "without a start there are no episodes"),
        (lambda: level(every=2, accumulate="max"), 'accumulate is None, "mean", "sum" or weights'),
        (
            lambda: level(every=3, accumulate=(1.0, 2.0)),
            r"'w': accumulate has 2 weights, but its period has 3 ticks \(every=3\)",
        ),
        (lambda: level(every=2, accumulate=(1.0, jnp.inf)), "a sequence of finite numbers"),
        (lambda: level(every=2, accumulate=[1.0, [2.0]]), "a sequence of finite numbers"),
        (lambda: level(every=2, accumulate=["mean", "sum"]), "a sequence of finite numbers"),
        (lambda: level(accumulate=(2.0,)), "with every=1 there is only one"),
    ],
)
def test_levels_are_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nx.Nest([]), "at least one level"),
        (lambda: nx.Nest([level(), level()]), "two levels are called 'w'"),
        (lambda: nx.Nest([level(every=2)]), "no level has every=1"),
        (
            lambda: nx.Nest([level(), level("a", 2), level("b", 3)]),
            "level 'b': periods divide one another, and 3 is not a multiple of 2",
        ),
        (lambda: nx.Nest([level(flow=nx.Unroll())]), "'w' has the flow Unroll and no level inside"),
        (lambda: nx.Nest([level(), level("d", 2, flow="unroll")]), "the flow is one such as"),
        (
            lambda: nx.Nest([level("w", 5), level("x", 1, flow=nx.Unroll())]),
            "'x': Unroll follows the updates of 'w', which does not move",
        ),
        (
            lambda: nx.Nest([level(), level("d", 4, flow=nx.Unroll()), level("e", 2)]),
            "'d': Unroll differentiates its own period, in which 'e'",
        ),
        (
            lambda: nx.Nest([level(), level("d", 2, flow=nx.Implicit(nx.CG(2)), accumulate="sum")]),
            "'d': accumulate gathers gradients under Direct",
        ),
        (
            lambda: nx.Nest([level(start=fresh, horizon=5), level("d", 2)]),
            "'w': an episode of 5 ticks is not a multiple of 2",
        ),
        (lambda: nx.Nest([level(start=fresh, horizon=(4, 9)), level("d", 2)]), "of 9 ticks is not"),
        (
            lambda: nx.Nest([level(start=fresh, done=print), level("d", 2)]),
            "'w': done can end an episode every 2 ticks, and the horizon does so in any case",
        ),
        (lambda: nx.Nest([level()], copies=2, stagger=True), "no level has episodes that end"),
        (lambda: nx.Nest([level(start=fresh)], copies=2, stagger=True), "no level has episodes"),
        (
            lambda: nx.Nest(
                [level(start=fresh, horizon=math.inf, done=print)], copies=2, stagger=True
            ),
            "'w' have no longest length; give it a finite horizon beside done",
        ),
        (lambda: nx.Nest([level()], task=lambda key: key), "a task function without a level"),
        (lambda: nx.Nest([level(start=fresh, horizon=2)], stagger=True), "give copies as well"),
        (lambda: nx.Nest([level(start=fresh, horizon=2)], copies=0), "copies is a whole number"),
    ],
)
def test_nests_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def begin(levels, values, key=None, **rest):
    nest = nx.Nest(levels, **rest)
    return nest.init(values, jax.random.key(0) if key is None else key)


ONE = jnp.ones(2)


def widening():
    """A transformation whose update is wider than the gradient."""
    return optax.stateless(lambda g, p: jax.tree.map(lambda a: jnp.ones((3,)), g))


def growing():
    def update(g, state, p=None):
        return g, (state, state)

    return optax.GradientTransformation(lambda p: jnp.zeros(()), update)


def bilinear(values, batch):
    return jnp.sum(values["w"] * values["x"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: begin([level()], {}), "level 'w' has no start: init needs a value"),
        (lambda: begin([level()], {"w": ONE, "v": ONE}), "no level is called 'v'"),
        (lambda: begin([level()], {"w": jnp.arange(3)}), "'w': its value holds nothing to train"),
        (
            lambda: begin([level(start=fresh, horizon=1)], {"w": ONE}),
            "'w' has a start, which gives its value",
        ),
        (
            lambda: begin([level()], {"w": ONE}, key=jnp.zeros(2)),
            "init takes a key, such as jax.random.key",
        ),
        (lambda: begin([level(optimizer=growing())], {"w": ONE}), "'w'.*structure of its opt"),
        (
            lambda: begin([level(objective=lambda v, b: v["w"])], {"w": ONE}),
            "'w': the objective returns a real scalar loss",
        ),
        (
            lambda: begin([level(optimizer=lambda values: 0.1)], {"w": ONE}),
            "'w': the optimizer's function returned float",
        ),
        (
            lambda: begin(
                [level(objective=lambda v, b: jnp.sum(v["w"] ** 2)),
                 level("d", 2, flow=nx.Implicit(nx.CG(3)))],
                {"w": ONE, "d": ONE},
            ),
            "'d': its value does not occur in the objective of 'w'",
        ),
        (
            lambda: begin(
                [(level("w", objective=bilinear), level("u", objective=loss)),
                 level("x", 2, flow=nx.Implicit(nx.CG(3)))],
                {"w": ONE, "u": ONE, "x": ONE},
            ),
            None,
        ),
        (
            lambda: begin(
                [(level("w", objective=lambda v, b: jnp.sum(v["w"] * (v["u"] + v["x"]))),
                  level("u", objective=lambda v, b: -2 * jnp.sum(v["w"] * v["u"]))),
                 level("x", 2, flow=nx.Implicit(nx.CG(3)))],
                {"w": ONE, "u": ONE, "x": ONE},
            ),
            "'x': CG needs a symmetric system, and 'w' and 'u' are coupled",
        ),
    ],
)  # fmt: skip
def test_states_are_refused(make, message):
    if message is None:
        make()
        return
    with pytest.raises(ValueError, match=message):
        make()


def test_adjacent_levels_of_one_period_without_a_flow_are_peers():
    nest = nx.Nest([level("a"), level("b"), level("c", 2), level("d", 2, flow=nx.Direct())])
    assert [[one.name for one in group] for group in nest.groups] == [["a", "b"], ["c"], ["d"]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nx.Peers(), "at least one level"),
        (lambda: nx.Peers([level()]), r"Peers takes levels, got list.*Peers\(\*levels\)"),
        (lambda: nx.Peers(level(), order="in turn"), 'Peers: order is "simultaneous" or "altern'),
    ],
)
def test_peers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks": jnp.ones((3, 2)), "copies": 2}, "tasks has a leading axis of 3.*are 2 copies"),
        (
            {"tasks": {"x": jnp.ones((2, 1)), "y": [jnp.ones(3)]}, "copies": 2},
            r"tasks\['y'\]\[0\] has a leading axis of 3.*are 2 copies",
        ),
        ({"tasks": {"x": jnp.ones(())}, "copies": 2}, r"tasks\['x'\] needs a leading axis of 2 c"),
        ({"tasks": [1.0, 2.0], "copies": 2}, r"tasks\[0\] needs a leading axis of 2.*got 1.0"),
        ({"tasks": {}, "copies": 2}, "tasks holds no arrays"),
        ({"tasks": jnp.ones(2)}, "give copies as well"),
        ({"tasks": lambda key: key, "copies": 2}, "key -> task is given as task"),
        ({"tasks": jnp.ones(2), "task": jnp.ones(2), "copies": 2}, "task and tasks are both given"),
    ],
)
def test_tasks_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        nx.Nest([level(start=fresh, horizon=2)], **given)


def test_gradient_of_an_unknown_level_is_refused():
    nest = nx.Nest([level()])
    with pytest.raises(ValueError, match="no level is called 'v'; there are 'w'"):
        nest.gradient(nest.init({"w": ONE}, jax.random.key(0)), "v")


def test_a_stream_has_no_batches_of_the_period_before():
    stream = nx.Stream(lambda index: np.zeros(2))
    w = nx.Level("w", lambda v, b: v["w"] ** 2, optax.sgd(0.1), stream, every=4, accumulate="mean")
    d = nx.Level("d", lambda v, b: v["w"] * v["d"], optax.sgd(0.1), flow=nx.Implicit(nx.CG()))
    with pytest.raises(ValueError, match=r"batches a Stream no longer has.*every=4"):
        nx.Nest([w, d])
