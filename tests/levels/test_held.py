"""Values that nothing moves, and what they report."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references import nests

import nestax as nx


def noise(task, key):
    return task + nests.noise(key, 2)


def fit(values, batch):
    return jnp.sum((values["w"] - batch * values["scale"]["by"]) ** 2) / 2


def test_it_reports_and_stays():
    """The report is that of the objective where the run is; nobody's data change by it."""
    w = nx.Level("w", fit, optax.sgd(0.1), noise)
    scale = nx.Held("scale")
    test = nx.Held("test", 4, lambda v, b: (fit(v, b), {"first": v["w"][0]}))
    nest = nx.Nest([w, scale, test], jnp.array([1.0, -1.0]))
    held = {"by": jnp.asarray(2.0), "count": 3, "named": "a"}
    state = nest.init({"w": jnp.zeros(2), "scale": held, "test": None}, jax.random.key(0))
    after, info = nest.run(state, 3)
    assert after.values["scale"] == held and after.values["test"] is None
    assert info["test"].loss.shape == (3,)
    values = after.values["w"]
    np.testing.assert_allclose(info["test"].user["first"][-1], values[0], rtol=1e-6)
    last = fit({"w": values, "scale": held}, jnp.array([1.0, -1.0]))
    np.testing.assert_allclose(info["test"].loss[-1], last, rtol=1e-6)
    alone = nx.Nest([w, nx.Held("scale")], jnp.array([1.0, -1.0]))
    begin = alone.init({"w": jnp.zeros(2), "scale": held}, jax.random.key(0))
    np.testing.assert_array_equal(alone.run(begin, 12)[0].values["w"], values)


def test_flows_pass_it_by():
    """A penalty that is held inside: the best response to the outer level is d / (1 + penalty)."""
    inner = lambda v, b: ((v["w"] - v["d"]) ** 2 + v["penalty"] * v["w"] ** 2) / 2  # noqa: E731
    w = nx.Level("w", inner, optax.sgd(0.3))
    d = lambda flow: nx.Level(  # noqa: E731
        "d", lambda v, b: v["w"] ** 2 / 2, optax.sgd(0.1), every=40, flow=flow
    )
    for flow in (nx.Unroll(), nx.Implicit(nx.CG(3)), nx.Implicit(nx.GMRES(), condition="update")):
        nest = nx.Nest([w, nx.Held("penalty"), d(flow)])
        state = nest.init({"w": 0.0, "penalty": 1.0, "d": 2.0}, jax.random.key(0))
        np.testing.assert_allclose(nest.gradient(state, "d"), 0.5, rtol=1e-5)
        state = nest.run(state.replace(values={"penalty": 3.0}), 1)[0]
        np.testing.assert_allclose(state.values["w"], 0.5, rtol=1e-5)


@pytest.mark.parametrize(
    "place, order, first",
    [
        (lambda held: held, "simultaneous", 4.0),
        (lambda held: held, "alternating", 2.0),
        (lambda held: (held,), "simultaneous", 2.0),
    ],
    ids=["peer", "alternating", "group"],
)
def test_where_it_reports(place, order, first):
    """Before the updates of its peers of that tick, after those of other groups; the number may be
    an integer, and a report needs no value."""
    w = nx.Level("w", lambda v, b: v["w"] ** 2, optax.sgd(0.25))
    often = nx.Held("often", report=lambda v, b: v["w"].astype(int))
    rare = nx.Held("rare", 2, lambda v, b: v["w"])
    nest = nx.Nest([w, place(often), rare], order=order)
    state, info = nest.run(nest.init({"w": 4.0}, jax.random.key(0)), 1)
    assert info["often"].loss.dtype == jnp.float32 and state.values["often"] is None
    np.testing.assert_array_equal(info["often"].loss, [first, first / 2])
    np.testing.assert_array_equal(info["rare"].loss, [1.0])
    each = {"often": jnp.zeros(2)}
    runs = nest.init({"w": 4.0}, jax.random.split(jax.random.key(0)), each)
    assert runs.values["often"].shape == (2,) and runs.values["rare"] is None


@pytest.mark.parametrize(
    "report, message",
    [
        (lambda values: 0.0, "level 'look': the report is called as report.values, batch"),
        (lambda v, b: jnp.ones(2), r"the report returns a real scalar number.*got float32\[2\]"),
        (lambda v, b: v["lok"], "its report reads values.'lok'.*did you mean 'look'"),
        (None, "level 'look' has no start: init needs a value for it"),
    ],
)
def test_what_makes_no_report_is_refused(report, message):
    with pytest.raises(ValueError, match=message):
        nx.Nest([nx.Held("look", report=report)]).init({}, jax.random.key(0))
