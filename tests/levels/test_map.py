"""The step as a differentiable map of the state."""

import functools
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx


def maml():
    loss = lambda v, batch: jnp.sum(jnp.cosh(v["w"] - batch))  # noqa: E731
    start = lambda v, task, key: v["init"]  # noqa: E731
    w = nx.Level("w", loss, optax.sgd(0.1), start=start)
    outer = nx.Level("init", loss, optax.sgd(0.1, momentum=0.5), every=3, flow=nx.Unroll())
    return nx.Nest([w, outer], jnp.array([0.4, -0.1])), {"init": jnp.array([1.0, 2.0])}


def game(optimizer, order="simultaneous"):
    x = nx.Level("x", lambda v, b: jnp.sum(v["x"] * v["y"]) + jnp.sum(v["x"] ** 4), optimizer)
    y = nx.Level("y", lambda v, b: -jnp.sum(v["x"] * v["y"]), optax.sgd(0.2))
    values = {"x": jnp.array([0.3, -0.2]), "y": jnp.array([1.0, 0.5])}
    return nx.Nest([(x, y)], order=order), values


NESTS = {
    "sgd": functools.partial(game, optax.sgd(0.1)),
    "momentum": functools.partial(game, optax.sgd(0.1, momentum=0.9), "alternating"),
    "maml": maml,
}


@pytest.mark.parametrize("name", NESTS)
def test_both_modes_equal_differences(x64, name):
    """With respect to values and what optimizers remember, after a few steps."""
    nest, values = NESTS[name]()
    state = nest.run(nest.init(values, jax.random.key(0)), 3)[0]
    f, point = nest.map(state)
    expected = {"values": state.values, "optimizers": state.optimizers}
    assert [a.shape for a in jax.tree.leaves(point)] == [
        a.shape for a in jax.tree.leaves(expected) if jnp.issubdtype(a.dtype, jnp.inexact)
    ]
    after = nest.step(state)[0]
    jax.tree.map(np.testing.assert_array_equal, f(point)["values"], dict(after.values))

    rng = np.random.default_rng(0)
    random = lambda a: jnp.asarray(rng.normal(size=a.shape))  # noqa: E731
    along, back = jax.tree.map(random, point), jax.tree.map(random, point)
    shifted = lambda s: f(jax.tree.map(lambda a, b: a + s * 1e-5 * b, point, along))  # noqa: E731
    slope = jax.tree.map(lambda a, b: (a - b) / 2e-5, shifted(1), shifted(-1))
    pairs = lambda *trees: zip(*map(jax.tree.leaves, trees), strict=True)  # noqa: E731
    dot = lambda one, two: sum(jnp.vdot(a, b) for a, b in pairs(one, two))  # noqa: E731

    pushed = jax.jvp(f, (point,), (along,))[1]
    linear = jax.linearize(f, point)[1](along)
    pulled = jax.vjp(f, point)[1](back)[0]
    for a, b, c in pairs(pushed, linear, slope):
        np.testing.assert_allclose(a, c, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(dot(pulled, along), dot(back, pushed), rtol=1e-10)


def test_a_point_is_what_moves(x64):
    """Memories of processes and flows move too; held values, counts, what is not trained and data
    do not. Draws are those of the state's tick."""
    walk = nx.Process(
        lambda values, memory, task, key: (memory, 0.5 * memory + values["w"]["m"]),
        init=lambda values, task, key: jnp.zeros(()),
    )
    w = nx.Level(
        "w",
        lambda v, b: (v["w"]["m"] - b) ** 2 * v["rate"],
        optax.adam(0.1),
        walk,
        trained={"m": True, "seen": False},
    )
    noisy = nx.Level(
        "z", lambda v, b: v["z"] * b, optax.sgd(1.0), lambda t, k: jax.random.normal(k)
    )
    nest = nx.Nest([w, noisy, nx.Held("rate")])
    values = {"w": {"m": 1.0, "seen": 0.0}, "z": 0.0, "rate": 0.5}
    state = nest.init(values, jax.random.key(0))
    f, x = nest.map(state)
    assert x["values"] == {"w": {"m": 1.0, "seen": None}, "z": 0.0}
    assert x["contexts"] == {"w": 0.0} and set(x) == {"values", "optimizers", "contexts"}
    assert len(jax.tree.leaves(x["optimizers"])) == 2  # Adam's moments, not its count
    once, twice = f(x)["values"]["z"], f(f(x))["values"]["z"]
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-12)
    with pytest.raises(ValueError, match="takes a point like the one that came with it"):
        f(x | {"flows": {"w": 1.0}})
    with pytest.raises(
        ValueError, match=r"at \['values'\]\['z'\] it has the shape \[2\], expected"
    ):
        f(x | {"values": x["values"] | {"z": jnp.ones(2)}})
    slips: list[Any] = [state, jax.flatten_util.ravel_pytree(x)[0]]
    for wrong, got in zip(slips, ("a state", r"Array\("), strict=True):
        with pytest.raises(ValueError, match=f"; got {got}.*give x, or a pytree like it"):
            f(wrong)


@pytest.mark.parametrize(
    ("flow", "keep", "message"),
    [
        (
            nx.FiniteDifference(),
            None,
            r"'d' has the flow FiniteDifference\(\), whose gradient is an",
        ),
        (nx.Implicit(nx.Identity(0.2)), None, r"'d' has the flow Implicit\(Identity"),
        (nx.Implicit(nx.Neumann(3)), None, r"'d' has the flow Implicit\(Neumann"),
        (
            nx.Unroll(first_order=True),
            None,
            "'d' has the flow Unroll.first_order=True., which takes",
        ),
        (nx.Unroll(), lambda value, info: value, "'w' keeps what its objective returns"),
    ],
)
@pytest.mark.filterwarnings("ignore:level 'd'")
def test_updates_that_count_as_constant_what_moves_are_refused(flow, keep, message):
    coupled = lambda v, b: (jnp.sum((v["w"]["m"] - v["d"]) ** 2), None)  # noqa: E731
    trained = {"m": True, "n": False}
    w = nx.Level("w", coupled, optax.sgd(0.1), trained=trained, keep=keep)
    outer = nx.Level("d", coupled, optax.sgd(0.1), every=3, flow=flow)
    nest = nx.Nest([w, outer])
    state = nest.init({"w": {"m": jnp.ones(2), "n": 0.0}, "d": jnp.zeros(2)}, jax.random.key(0))
    with pytest.raises(ValueError, match=f"map: level {message}"):
        nest.map(state)


def test_streams_need_their_batches():
    stream = nx.Stream(lambda index: np.ones(2))
    nest = nx.Nest([nx.Level("w", lambda v, b: jnp.sum((v["w"] - b) ** 2), optax.sgd(0.1), stream)])
    state = nest.init({"w": jnp.ones(2)}, jax.random.key(0))
    with pytest.raises(ValueError, match=r"give feed=nest.feed\(state\)"):
        nest.map(state)
    f, point = nest.map(state, nest.feed(state))
    np.testing.assert_allclose(f(f(point))["values"]["w"], 1.0)
