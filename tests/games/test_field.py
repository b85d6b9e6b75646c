"""The joint field of losses and of nests."""

from typing import Any

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
        ({"x": lambda v: v["x"]}, (1.0,), r"are a dict of \[\"'x'\"\], got \(1.0,\)"),
        ({"x": lambda v: v["x"]}, {"x": 1}, "player 'x': the value has no real floating-point"),
        ((lambda v: v[0],), (jnp.ones(2),), r"returns one floating-point number, got float32\[2\]"),
        ((lambda v: None,), (1.0,), "player 0: a loss returns one number, got None"),
    ],
)
def test_no_games(losses, values, message):
    with pytest.raises(ValueError, match=message):
        nx.games.joint_field(losses)(values)


def test_a_nest_comes_with_its_state():
    nest = nx.Nest([nx.Level("x", lambda v, batch: v["x"] ** 2, optax.sgd(0.1))])
    with pytest.raises(ValueError, match=r"joint_field\(nest, state\); got None"):
        nx.games.joint_field(nest)
    state = nest.init({"x": 1.0}, jax.random.key(0))
    with pytest.raises(ValueError, match="a state belongs to a nest"):
        nx.games.joint_field((lambda x: x,), state)
