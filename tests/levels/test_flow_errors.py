"""Flows of a user's own: what they return and run their period with is checked by name."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx


def nest(flow, rate=0.2, **options):
    """A starting point above weights that take two steps from it."""
    loss = lambda v, batch: jnp.sum((v["w"] - jnp.array([1.0, -2.0])) ** 2)  # noqa: E731
    w = nx.Level("w", loss, optax.sgd(0.1), start=lambda v, task, key: v["begin"])
    begin = nx.Level("begin", loss, optax.sgd(rate), every=2, flow=flow)
    return nx.Nest([w, begin], **options)


def own(returned, first=(), **facts):
    """A flow whose gradient is `returned(period, memory)`, called Own."""
    methods = {
        "init": lambda self, value, copies: first,
        "gradient": lambda self, period, memory, key: returned(period, memory),
    }
    return type("Own", (nx.Flow,), {"follows": True, "estimates": True, **methods, **facts})()


def gives(gradient, run=lambda p: p.run(p.value), after=lambda memory: memory):
    return lambda period, memory: (gradient(period), run(period), after(memory))


def ones(period):
    return jnp.ones(2)


IS_LIKE = r"level 'begin': the gradient of the flow Own is like period.value, float32\[2\]; got "
TO_RUN = "level 'begin': the value that the flow Own gives to period.run"


@pytest.mark.parametrize(
    "returned, message",
    [
        (gives(lambda p: p.run(p.value).loss), IS_LIKE + r"float32\[\]"),
        (gives(lambda p: jnp.ones(1)), IS_LIKE + r"float32\[1\]"),
        (gives(lambda p: jnp.ones(2, int)), IS_LIKE + r"int32\[2\]"),
        (gives(lambda p: {"a": jnp.ones(2)}), IS_LIKE + r"PyTreeDef\({'a'"),
        (gives(lambda p: None), IS_LIKE + "None"),
        (gives(ones, lambda p: p.run(p.value).loss), r"a Reached, .* got float32\[\]"),
        (gives(ones, lambda p: p.run({"a": p.value})), f"{TO_RUN} is like .*got PyTreeDef"),
        (gives(ones, lambda p: p.run(jnp.ones(3))), rf"{TO_RUN} is like .*got float32\[3\]"),
        (
            gives(ones, lambda p: jax.vmap(p.run)(jnp.ones((3, 2)))),
            "returns a Reached that no run of its period has returned",
        ),
        (lambda p, m: (ones(p), p.run(p.value)), "returns .gradient, reached, memory.*tuple of 2"),
        (lambda p, m: p.run(p.value), "returns .gradient, reached, memory.*got a Reached"),
    ],
)  # fmt: skip
def test_what_a_flow_returns_is_refused_by_name(returned, message):
    with pytest.raises(ValueError, match=message):
        nest(own(returned)).init({"begin": jnp.zeros(2)}, jax.random.key(0))


@pytest.mark.parametrize(
    "first, after, message",
    [
        (jnp.zeros(2), lambda m: None, r"from float32\[2\] to None"),
        (jnp.zeros(2), lambda m: m[:1], r"from float32\[2\] to float32\[1\]"),
        ({"n": 0}, lambda m: {"n": m["n"] + 0.5}, r"from {'n': 'int32\[\]'} to {'n': 'float32"),
        ("x", lambda m: m, "init returns a memory of arrays and numbers"),
        (jax.random.key(0), lambda m: m, "keep jax.random.key_data"),
    ],
)
def test_a_memory_keeps_its_shapes(first, after, message):
    with pytest.raises(ValueError, match=f"level 'begin': the flow Own.*{message}"):
        flow = own(gives(ones, after=after), first)
        nest(flow).init({"begin": jnp.zeros(2)}, jax.random.key(0))


def test_numbers_are_a_memory():
    made = nest(own(gives(ones, after=lambda m: {"n": m["n"] + 1}), {"n": 0}))
    state = made.init({"begin": jnp.zeros(2)}, jax.random.key(0))
    assert made.run(state, 3)[0].flows["begin"]["n"] == 3


def test_a_level_stays_where_it_was_run_from_elsewhere():
    """The levels inside go on from where the run took them; the level moves from its own value."""
    made = nest(own(gives(ones, lambda p: p.run(p.value + 1))))
    state = made.run(made.init({"begin": jnp.zeros(2)}, jax.random.key(0)), 3)[0]
    np.testing.assert_allclose(state.values["begin"], [-0.6, -0.6], rtol=1e-6)
    # The third period begins at -0.4 + 1, and each step leaves 4/5 of the distance.
    target = np.array([1.0, -2.0])
    np.testing.assert_allclose(state.values["w"], target + 0.64 * (0.6 - target), rtol=1e-6)


@pytest.mark.parametrize(
    "facts, message",
    [
        ({"follows": False}, "Own defines gradient and does not say that it follows"),
        ({"gradient": nx.Flow.gradient}, "Own follows a period and defines no gradient"),
        ({"follows": False, "gradient": nx.Flow.gradient}, "Own looks at no point"),
        ({"joint": True}, "joint = True and defines no value_and_gradients"),
    ],
)
def test_a_class_of_flows_says_what_it_is(facts, message):
    with pytest.raises(ValueError, match=f"level 'begin': the flow .*{message}"):
        nest(own(gives(ones), **facts))


def test_slips_of_built_in_flows_are_told():
    with pytest.raises(ValueError, match=r"call it: PES\(0.1\)"):
        nest(nx.PES)
    with pytest.raises(ValueError, match=r"ES: sigma must .*; ES is a fixed part"):
        nx.ES(-1)
    flow = nx.ES(np.float32(0.5), clip=np.int32(3))
    assert (type(flow.sigma), flow.clip) == (float, 3) and flow == nx.ES(0.5, clip=3)
    made = nest(nx.Unroll())
    state = made.init({"begin": jnp.zeros(2)}, jax.random.key(0))
    with pytest.raises(ValueError, match=r"check_gradient: flow is one such as.*Unroll\(\)"):
        nx.check_gradient(made, state, "begin", flow="unroll")
    with pytest.raises(ValueError, match="check_gradient: no level is called 'b'"):
        nx.check_gradient(made, state, "b")
    plain = nx.Nest([nx.Level("w", lambda v, b: v["w"] ** 2, optax.sgd(0.1))])
    with pytest.raises(ValueError, match=r"check_gradient: no level of this nest has a flow.*'w'"):
        nx.check_gradient(plain, plain.init({"w": 1.0}, jax.random.key(0)))


def test_nothing_is_measured_against_zero_or_an_estimate():
    """A step function: its exact gradient is 0, unless it is smoothed."""

    class Smoothed(nx.Flow):
        follows: ClassVar[bool] = True

        def gradient(self, period, memory, key):
            return jnp.ones(()), period.run(period.value), memory

    count = lambda v, b: jnp.floor(v["w"])  # noqa: E731
    inner = lambda v, b: (v["w"] - v["d"]) ** 2  # noqa: E731
    w = nx.Level("w", inner, optax.sgd(0.1), start=lambda v, task, key: 0.0)
    made = nx.Nest([w, nx.Level("d", count, optax.sgd(0.1), every=2, flow=nx.ES(0.5))], copies=2)
    state = made.init({"d": 0.3}, jax.random.key(0))
    compare = lambda **more: nx.compare_flows(made, state, [nx.ES(0.5)], draws=1, repeats=1, **more)  # noqa: E731
    with pytest.raises(ValueError, match=r"level 'd': the exact gradient is 0.*; give exact="):
        compare()
    with pytest.raises(ValueError, match=r"exact gradient is 0.*; with updates=1 give exact="):
        compare(updates=2)
    with pytest.raises(ValueError, match=r"exact=ES\(0.5\) draws an estimate"):
        compare(exact=nx.ES(0.5))
    with pytest.warns(UserWarning, match=r"Smoothed\(\) is off by .*name another flow"):
        assert np.isfinite(compare(exact=Smoothed()).rows[0].error).all()
