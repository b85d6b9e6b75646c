"""The joint field of losses and of nests."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx


def test_forms_of_losses_have_one_field(x64):
    """A dict, a tuple of losses of all values, a tuple of losses of one argument each, and a nest;
    by the closed form of x'Ay + |x|²/2 and -x'Ay."""
    rng = np.random.default_rng(0)
    a, x, y = rng.normal(size=(2, 3)), rng.normal(size=2), rng.normal(size=3)
    first = lambda x, y: x @ a @ y + x @ x / 2  # noqa: E731
    second = lambda x, y: -x @ a @ y  # noqa: E731
    expected = [a @ y + x, -x @ a]
    by_name: Any = {"x": lambda v: first(v["x"], v["y"]), "y": lambda v: second(v["x"], v["y"])}
    of_values: Any = (lambda v: first(*v), lambda v: second(*v))

    levels = [
        nx.Level(name, lambda v, batch, loss=loss: loss(v), optax.sgd(0.1))
        for name, loss in by_name.items()
    ]
    nest = nx.Nest([tuple(levels)])
    state = nest.init({"x": x, "y": y}, jax.random.key(0))
    fields = [
        (nx.games.joint_field(by_name), {"x": x, "y": y}),
        (nx.games.joint_field(of_values), (x, y)),
        (nx.games.joint_field([first, second]), (x, y)),
        (nx.games.joint_field(nest, state), state.values),
    ]
    for field, values in fields:
        for found, wanted in zip(jax.tree.leaves(field(values)), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-12)
    step = nx.games.descent(fields[0][0], 0.1)({"x": x, "y": y})
    np.testing.assert_allclose(step["x"], nest.step(state)[0].values["x"], rtol=1e-12)


@pytest.mark.parametrize(
    ("losses", "values", "message"),
    [
        (3, None, "takes the losses of the players, .*; got 3"),
        ((), None, "got no players"),
        ({"x": 1}, None, "player 'x' has 1"),
        ((lambda v: v[0], lambda v: v[0]), (1.0, 2.0), r"player 1: the loss does not depend on"),
        ((lambda v: v[0],), {"x": 1.0}, "are a tuple of 1, one for each loss; got dict"),
        ((lambda x, y: x * y,) * 2, (1.0,), "are a tuple of 2, .*; got tuple of 1"),
        ({"x": lambda v: v["x"]}, (1.0,), r"are a dict of 'x'; got \(1.0,\)"),
        ({"x": lambda v: v["x"]}, {"x": 1}, "player 'x': the value has no real floating-point"),
        ((lambda v: v[0],), (jnp.ones(2),), r"returns one floating-point number, got float32\[2\]"),
        ({"x": lambda v, b: v["x"]}, None, r"'x': a loss takes all values as one .*takes \(v, b\)"),
        ({"x": lambda v: v["z"]}, {"x": 1.0}, "the loss asks for 'z', and the values are .* 'x'"),
        ((lambda v: None,), (1.0,), "player 0: a loss returns one number, got None"),
    ],
)
def test_no_games(losses, values, message):
    with pytest.raises(ValueError, match=message):
        nx.games.joint_field(losses)(values)


class Pair(NamedTuple):
    x: Any
    y: Any


@pytest.mark.parametrize("kind", [list, lambda parts: Pair(*parts)])
def test_values_of_many_kinds_come_back_as_they_were(kind):
    """A list or a named tuple too, and in the values' precision whatever that of the rate."""
    losses = (lambda x, y: x * y, lambda x, y: -x * y)
    values = kind([jnp.float32(1.0), jnp.bfloat16(3.0)])
    for make in (nx.games.extragradient, nx.games.consensus, nx.games.symplectic):
        field = make(jnp.float32(0.5))(losses)
        step = jax.jit(lambda v, r, field=field: nx.games.descent(field, r)(v))(values, 0.5)
        assert type(step) is type(values) and [a.dtype for a in step] == [a.dtype for a in values]
        np.testing.assert_allclose(np.array(step, float), [-0.75, 2.75])


def test_what_a_nest_does_not_train_is_left_out():
    """Held levels and leaves; the field is 2 a h b and a² h, with a and b of level x and y."""
    x = nx.Level(
        "x", lambda v, _: v["x"]["a"] ** 2 * v["h"] * v["y"], optax.sgd(0.1),
        trained={"a": True, "c": False},
    )  # fmt: skip
    y = nx.Level("y", lambda v, _: v["x"]["a"] ** 2 * v["h"] * v["y"], optax.sgd(0.1))
    nest = nx.Nest([(x, y), nx.Held("h")])
    state = nest.init({"x": {"a": 1.0, "c": 5.0}, "y": 3.0, "h": 2.0}, jax.random.key(0))
    field = nx.games.joint_field(nest, state)
    values = {"x": {"a": jnp.array(1.0), "c": None}, "y": jnp.array(3.0)}
    np.testing.assert_allclose(nx.games.jacobian(field, values), [[12, 4], [4, 0]])
    step = nx.games.descent(field, 0.5)(values)
    np.testing.assert_allclose([step["x"]["a"], step["y"]], [-5, 2])
    for call in (nx.games.jacobian, lambda field, v: nx.games.descent(field, 0.5)(v)):
        with pytest.raises(ValueError, match="of a nest leave out held levels, and give None"):
            call(field, state.values)


def test_a_nest_comes_with_its_state():
    nest = nx.Nest([nx.Level("x", lambda v, batch: v["x"] ** 2, optax.sgd(0.1))])
    with pytest.raises(ValueError, match=r"joint_field\(nest, state\); got None"):
        nx.games.joint_field(nest)
    state = nest.init({"x": 1.0}, jax.random.key(0))
    with pytest.raises(ValueError, match="a state belongs to a nest"):
        nx.games.joint_field((lambda x: x,), state)
