"""Comparing flows on a nest, and the levels of a nest."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.nests import noise

import nestax as nx


def noisy(task, key):
    x = noise(key, 120).reshape(30, 4)
    return x, x @ jnp.arange(4.0) + 1


def train(values, batch):
    x, y = batch
    penalty = 0.5 * jnp.sum(jnp.exp(values["decay"]) * values["w"] ** 2)
    return 0.5 * jnp.mean((x @ values["w"] - y) ** 2) + penalty


def valid(values, batch):
    x, y = batch
    return 0.5 * jnp.mean((x @ values["w"] - 2 * y) ** 2)


def still(task, key):
    """The same data at every tick, so that the weights settle."""
    return noisy(task, jax.random.key(7))


def nest(flow, data=noisy):
    w = nx.Level("w", train, optax.sgd(0.2), data)
    decay = nx.Level("decay", valid, optax.adam(0.01), noisy, every=20, flow=flow)
    return nx.Nest([w, decay])


def test_flows_are_compared_with_the_exact_gradient_on_the_same_data():
    made = nest(nx.Implicit(nx.CG(4)), still)
    state, _ = made.run(made.init({"w": jnp.zeros(4), "decay": jnp.zeros(4)}, jax.random.key(0)), 3)
    flows = {
        "exact": nx.Implicit(nx.Dense()),
        "CG(4)": nx.Implicit(nx.CG(4)),
        "CG(1)": nx.Implicit(nx.CG(1)),
        "identity": nx.Implicit(nx.Identity(0.01)),
    }
    found = nx.compare_flows(made, state, flows, draws=3, repeats=2)
    error = {row.name: row.error for row in found.rows}
    cosine = {row.name: row.cosine for row in found.rows}
    # float32 against float64 on the very same draws; other draws would be far off.
    assert error["exact"].shape == (3,) and error["exact"].max() < 1e-4
    assert error["CG(4)"].max() < 1e-3
    assert error["CG(1)"].min() > 10 * error["CG(4)"].max()
    assert error["identity"].min() > 0.5 and cosine["identity"].min() > 0.5
    assert len(set(error["CG(1)"])) == 3  # each draw is another one
    lines = str(found).splitlines()
    assert "gradient of 'decay' against Implicit" in lines[0] and len(lines) == 7


def test_unrolled_flows_are_compared_with_unrolling():
    made = nest(nx.Unroll())
    state = made.init({"w": jnp.zeros(4), "decay": jnp.zeros(4)}, jax.random.key(0))
    found = nx.compare_flows(made, state, [nx.Unroll(), nx.Forward(), nx.Unroll(last=2)], draws=2)
    full, forward, short = (row.error.max() for row in found.rows)
    assert full < 1e-4 and forward < 1e-4 and short > 1e-2


def test_contexts_that_are_told_the_copy_are_compared():
    def numbered(task, key, *, copy):
        return noise(key, 3) + 10 * copy

    w = nx.Level(
        "w", lambda v, b: jnp.sum((v["w"] - v["x"] * b) ** 2), optax.sgd(0.1), numbered,
        start=lambda v, task, key, copy: jnp.zeros(3) + copy,
    )  # fmt: skip
    x = nx.Level("x", lambda v, b: jnp.sum(v["w"] ** 2), optax.sgd(0.1), every=2, flow=nx.Unroll())
    made = nx.Nest([w, x], copies=2)
    state = made.init({"x": jnp.ones(())}, jax.random.key(0))
    (row,) = nx.compare_flows(made, state, [nx.Unroll()], draws=2, repeats=1).rows
    assert row.error.max() < 1e-5


def episodes(every=2, accumulate=None):
    """A rate and a shift above copies that learn in episodes of six steps, each its own task."""

    def inner(values, batch):
        return jnp.sum(jnp.cosh(values["w"] - batch)) + values["theta"]["shift"] @ values["w"]

    batch = lambda task, key: task + 0.1 * noise(key, 2)  # noqa: E731
    w = nx.Level(
        "w", inner, lambda v: optax.sgd(jnp.exp(v["theta"]["rate"])), batch, horizon=6,
        start=lambda v, task, key: task + 0.3 * noise(key, 2),
    )  # fmt: skip
    outer = lambda v, batch: jnp.sum((v["w"] - batch) ** 2)  # noqa: E731
    theta = nx.Level(
        "theta", outer, optax.adam(0.1), batch, every, nx.Unroll(), accumulate=accumulate
    )
    made = nx.Nest([w, theta], lambda key: noise(key, 2), copies=6)
    values = {"theta": {"rate": jnp.asarray(-1.5), "shift": jnp.array([0.3, -0.2])}}
    return made, made.init(values, jax.random.key(0))


def test_truncations_of_an_episode_are_compared_with_the_whole():
    flows = [nx.Unroll(), nx.PES(0.05), nx.NRES(0.05)]
    found = nx.compare_flows(*episodes(), flows, draws=100, repeats=1, updates=3)
    assert "the executed program, summed over 3 updates, in float64" in str(found)
    assert found.check.error < 1e-6
    cut, pes, nres = found.rows
    assert cut.bias > 0.1 and cut.bias > 3 * cut.spread / 10
    for row in (pes, nres):
        assert row.bias < 3 * row.spread / 10 < 0.5, row.name
    # Two episodes, each of them one period: nothing is cut.
    whole = episodes(6, (0.0, 1.0) * 3)
    (row,) = nx.compare_flows(*whole, [nx.Unroll()], draws=2, repeats=1, updates=2).rows
    assert row.error.max() < 1e-5


def test_an_estimate_is_held_against_the_data_that_it_sees():
    """Of a linear loss in one number an estimate has the right sign, on the same data."""
    batch = lambda task, key: jax.random.normal(key, ())  # noqa: E731
    w = nx.Level("w", lambda v, b: v["w"], optax.sgd(0.1), start=lambda v, task, key: v["theta"])
    theta = nx.Level(
        "theta", lambda v, b: v["w"] * b, optax.sgd(0.1), batch, every=2, flow=nx.Unroll()
    )
    made = nx.Nest([w, theta], copies=2)
    state = made.init({"theta": 1.0}, jax.random.key(0))
    found = nx.compare_flows(made, state, [nx.ES(0.1), nx.Unroll()], draws=100, repeats=1)
    estimate, exact = found.rows
    assert exact.error.max() < 1e-5 and estimate.cosine.min() > 0.999
    # The estimate is e^2 / sigma^2 times the gradient.
    assert estimate.bias < 3 * estimate.spread / 10
    assert estimate.spread == pytest.approx(np.sqrt(2), rel=0.4)


def test_single_precision_in_a_start_is_no_rounding_of_the_check():
    """What a start closes over is an array of float32: everything after it is in float64."""
    weights, target = jnp.linspace(-1, 1, 5), jnp.arange(5.0)
    loss = lambda v, b: jnp.sum(jnp.exp(v["d"]) * v["w"] ** 2 + (v["w"] - target) ** 2)  # noqa: E731
    w = nx.Level("w", loss, optax.sgd(0.1), start=lambda v, task, key: weights)
    outer = lambda v, b: jnp.sum(v["w"] ** 4)  # noqa: E731
    d = nx.Level("d", outer, optax.sgd(0.1), every=20, flow=nx.Unroll())
    made = nx.Nest([w, d])
    state = made.init({"d": jnp.zeros(5)}, jax.random.key(0))
    assert nx.check_gradient(made, state, "d", verbose=False, tolerance=1e-7)


def test_what_cannot_be_compared_is_refused():
    made = nx.Nest([nx.Level("w", lambda v, b: v["w"] ** 2, optax.sgd(0.1))])
    state = made.init({"w": 1.0}, jax.random.key(0))
    with pytest.raises(ValueError, match="no level of this nest has a flow"):
        nx.compare_flows(made, state, [nx.Direct()])
    with pytest.raises(ValueError, match="no level is called 'v'"):
        nx.compare_flows(made, state, [nx.Direct()], "v")
    with pytest.raises(ValueError, match="updates is a whole number of at least 1, got 0"):
        nx.compare_flows(made, state, [nx.Direct()], "w", updates=0)
    with pytest.raises(
        ValueError, match=r"exact=Unroll\(\) is a flow of one update, and updates=2"
    ):
        nx.compare_flows(made, state, [nx.Direct()], "w", exact=nx.Unroll(), updates=2)


def test_a_nest_is_made_again_with_all_its_options():
    def start(values, task, key):
        return jnp.zeros(2)

    def level(name, **more):
        return nx.Level(name, lambda v, b: jnp.sum(v[name] ** 2), optax.sgd(0.1), **more)

    peers = nx.Peers(level("a", start=start, horizon=4), level("b"), order="alternating")
    given = {
        "task": lambda key: jax.random.normal(key, (2,)),
        "copies": 2,
        "order": "simultaneous",
        "stagger": True,
        "mesh": jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,)),
        "norms": False,
    }
    first = nx.Nest([peers, (level("c"), level("d"))], **given)
    again = first.machine.changed(lambda one: one)
    options = inspect.signature(type(again)).parameters
    assert all(getattr(again, name) == getattr(first.machine, name) for name in options)
    declaration = again.declaration
    for name in inspect.signature(type(declaration)).parameters:
        assert getattr(declaration, name) == getattr(first.declaration, name), name
    assert declaration.orders == ("alternating", "simultaneous")
    assert (declaration.stagger, again.norms, again.mesh) == (True, False, given["mesh"])


def test_the_levels_of_a_nest():
    made = nest(nx.Unroll())
    with pytest.raises(ValueError, match="call init first"):
        made.levels()
    made.init({"w": jnp.zeros(4), "decay": jnp.zeros(4)}, jax.random.key(0))
    table = made.levels()
    moments = (".optimizers['decay'][0].mu", ".optimizers['decay'][0].nu")
    assert table.levels == ((".values['w']",), moments, (".values['decay']",))
    assert table.frequencies[".values['w']"] == 20
    np.testing.assert_equal(table.frequencies[".values['decay']"], 1)
