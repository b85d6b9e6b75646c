"""Adjusted fields, on a quadratic game of three players with the joint field J x."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx

SIZES = (1, 2, 2)
CUTS = np.cumsum(SIZES)[:-1]
RNG = np.random.default_rng(0)
J = RNG.normal(size=(5, 5))
for part in np.split(np.arange(5), CUTS):
    own = np.ix_(part, part)
    J[own] = (J[own] + J[own].T) / 2
OTHERS = J.copy()
for part in np.split(np.arange(5), CUTS):
    OTHERS[np.ix_(part, part)] = 0
X = RNG.normal(size=5)
EYE, TURN = np.eye(5), (J.T - J) / 2


def blocks(player):
    part = np.split(np.arange(5), CUTS)[player]
    return part, np.setdiff1d(np.arange(5), part)


def loss(player, x: Any, numbers: Any = np):
    """x_i' (J_ii x_i / 2 + J_io x_o)."""
    own, others = blocks(player)
    x = numbers.concatenate(x) if numbers is jnp else x
    mine = x[own]
    return mine @ (J[np.ix_(own, own)] @ mine / 2 + J[np.ix_(own, others)] @ x[others])


LOSSES: Any = tuple(lambda values, i=i: loss(i, values, jnp) for i in range(3))
VALUES = tuple(np.split(X, CUTS))


def differences(function, player):
    """The gradient by a player's own components; exact for quadratic functions."""
    own, _ = blocks(player)
    step = 0.5 * EYE[own]
    return np.array([function(X + s) - function(X - s) for s in step])


def lola(rate, steps=1, order=1):
    """By writing the steps down; `rate` for each component."""

    def shaped(player, x, order):
        _, others = blocks(player)
        for _ in range(steps):
            found = naive(x) if order == 1 else field(x, order - 1)
            x = np.where(np.isin(np.arange(5), others), x - rate * found, x)
        return loss(player, x)

    def field(x, order):
        found = np.zeros(5)
        for player in range(3):
            for i in blocks(player)[0]:
                step = 0.5 * EYE[i]
                found[i] = shaped(player, x + step, order) - shaped(player, x - step, order)
        return found

    def naive(x):
        return J @ x

    return field(X, order)


def first_order(rate):
    def expanded(player, x):
        own, others = blocks(player)
        cross = np.zeros(5)  # the gradient of this player's loss by the others' values
        cross[others] = x[own] @ J[np.ix_(own, others)]
        return loss(player, x) - rate * (J @ x) @ cross

    return np.concatenate([differences(lambda x, p=p: expanded(p, x), p) for p in range(3)])


RATES = np.array([0.1, 0.2, 0.2, 0.3, 0.3])
GAMES = nx.games
CASES: dict[str, Any] = {
    "extragradient": (GAMES.extragradient(0.3), (EYE - 0.3 * J)),
    "consensus": (GAMES.consensus(0.4), EYE + 0.4 * J.T),
    "symplectic": (GAMES.symplectic(0.4), EYE + 0.4 * TURN),
    "lookahead": (GAMES.lookahead(0.3), EYE - 0.3 * OTHERS),
    "competitive": (GAMES.competitive(0.3, nx.Dense()), np.linalg.inv(EYE + 0.3 * OTHERS)),
    "by CG": (GAMES.competitive(0.3, nx.CG(20)), np.linalg.inv(EYE + 0.3 * OTHERS)),
    "lola": (GAMES.lola(0.3), lambda: lola(0.3)),
    "lola, two steps": (GAMES.lola(0.3, steps=2), lambda: lola(0.3, steps=2)),
    "lola, order 2": (GAMES.lola(0.3, order=2), lambda: lola(0.3, order=2)),
    "lola, rates": (GAMES.lola({0: 0.1, 1: 0.2, 2: 0.3}), lambda: lola(RATES)),
    "lola to first order": (GAMES.lola(0.3, first_order=True), lambda: first_order(0.3)),
}


@pytest.mark.parametrize("name", CASES)
def test_fields_are_those_of_the_papers(x64, name):
    """Linear ones also in their Jacobian, which would show anything held constant."""
    adjustment, expected = CASES[name]
    field = jax.jit(lambda values: jnp.concatenate(adjustment(LOSSES)(values)))
    linear = not callable(expected)
    value: Any = expected @ J @ X if linear else expected()
    np.testing.assert_allclose(field(VALUES), value, rtol=1e-9, atol=1e-11)
    if linear:
        jacobian = np.concatenate(jax.jit(jax.jacrev(field))(VALUES), axis=1)
        np.testing.assert_allclose(jacobian, expected @ J, rtol=1e-9, atol=1e-11)


def test_a_step_that_is_not_solved_for_is_told():
    """One product for two numbers: the best multiple of xi is wrong by the sine of 45 degrees."""
    field = nx.games.competitive(1.0, nx.GMRES(1))((lambda x, y: x * y, lambda x, y: -x * y))
    with pytest.warns(UserWarning, match=r"leaves a relative residual of 7\.1e-01, so this is not"):
        field((1.0, 2.0))


def test_players_may_be_modules(x64):
    """With functions, texts and numbers that are no weights beside the weights."""
    nets = {n: eqx.nn.MLP(2, 2, 3, 1, key=jax.random.key(i)) for i, n in enumerate("xy")}

    class Players:
        def draw(self, task, key):
            return task + 0 * jax.random.normal(key, (2,))

    players = Players()
    levels = [
        nx.Level(n, lambda v, b, s=s: s * v["x"](b) @ v["y"](b), optax.sgd(0.1), players.draw)
        for n, s in (("x", 1.0), ("y", -1.0))
    ]
    values = {"x": nets["x"], "y": nets["y"]}
    batch = jnp.array([0.3, -0.7])
    nest = nx.Nest([GAMES.adjusted(tuple(levels), GAMES.extragradient(0.3))], batch)
    found = nest.gradient(nest.init(values, jax.random.key(0)), "x")
    arrays, static = eqx.partition(values, eqx.is_inexact_array)

    def field(a):
        def loss(a):
            both = eqx.combine(a, static)
            return both["x"](batch) @ both["y"](batch)

        slope = jax.grad(loss)(a)
        return {"x": slope["x"], "y": jax.tree.map(jnp.negative, slope["y"])}

    there = jax.tree.map(lambda a, g: a - 0.3 * g, arrays, field(arrays))
    expected = field(there)["x"]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_alignment_turns_towards_stable_points(x64):
    """On the game of one player with the loss of a saddle s x y the sign follows the formula."""
    signs = []
    for angle in np.linspace(0, 2 * np.pi, 7):
        values = (jnp.array([np.cos(angle)]), jnp.array([np.sin(angle)]))
        matrix = np.array([[-0.5, 1.0], [-1.0, -0.2]])
        losses: Any = (
            lambda x, y: jnp.sum(-0.25 * x * x + x * y),
            lambda x, y: jnp.sum(-x * y - 0.1 * y * y),
        )
        xi = matrix @ np.concatenate(values)
        turned, down = (matrix.T - matrix) / 2 @ xi, matrix.T @ xi
        sign = np.sign((xi @ down) * (turned @ down) / 2 + 0.1)
        field = GAMES.symplectic(0.7, align=True)(losses)(values)
        np.testing.assert_allclose(np.concatenate(field), xi + 0.7 * sign * turned, rtol=1e-9)
        signs.append(sign)
    assert set(signs) == {-1.0, 1.0}


def players(optimizer=None, **options: Any):
    def level(name: str, sign: float, **more: Any):
        def objective(v, batch):
            x, y = v["x"], v["y"]
            return sign * jnp.sum(x["w"] * y * batch), {"size": jnp.sum(x["w"] ** 2)}

        return nx.Level(name, objective, optimizer or optax.sgd(0.1), **{**options, **more})

    return level("x", 1.0, trained={"w": True, "n": False}), level("y", -1.0)


def test_levels_follow_an_adjusted_field(x64):
    """With batches, leaves that are not trained, and an adjustment for one player only."""
    context = lambda task, key: 2.0 + jax.random.normal(key) * 0  # noqa: E731
    begin = {"x": {"w": jnp.array([1.0, 2.0]), "n": 5.0}, "y": jnp.array([3.0, -1.0])}
    xi = np.array([6.0, -2.0, -2.0, -4.0])
    matrix = 2 * np.block([[np.zeros((2, 2)), np.eye(2)], [-np.eye(2), np.zeros((2, 2))]])
    expected = xi + 0.3 * matrix.T @ xi
    levels = players(context=context)
    for change, wanted in (
        (GAMES.consensus(0.3), expected),
        ({"x": GAMES.consensus(0.3)}, [*expected[:2], *xi[2:]]),
        (GAMES.joint_field, xi),  # x's part does not depend on x: a field may do that
    ):
        nest = nx.Nest([nx.Peers(*GAMES.adjusted(levels, change), order="simultaneous")])
        state = nest.init(begin, jax.random.key(0))
        found = nest.gradient(state, ["x", "y"])
        assert found["x"]["n"] is None
        np.testing.assert_allclose([*found["x"]["w"], *found["y"]], wanted, rtol=1e-12)
    _, info = nest.step(state)
    np.testing.assert_allclose(info["x"].user["loss"], [2.0])
    np.testing.assert_allclose(info["x"].user["size"], [5.0])
    peers = GAMES.adjusted(nx.Peers(*levels, order="alternating"), GAMES.consensus(0.3))
    assert isinstance(peers, nx.Peers) and peers.order == "alternating"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GAMES.consensus(jnp.ones(2)), "consensus: strength is one finite number"),
        (lambda: GAMES.extragradient(float("nan")), "extragradient: rate is one finite number"),
        (lambda: GAMES.lola(0.1, steps=0), "lola: steps is a whole number of at least 1, got 0"),
        (lambda: GAMES.lola(0.1, order=True), "lola: order is a whole number"),
        (lambda: GAMES.lola(0.1, steps=2, first_order=True), "goes with steps=1 and order=1"),
        (lambda: GAMES.lola({0: 0.1})(LOSSES), r"players \[0\], and the game has \[0, 1, 2\]"),
        (lambda: GAMES.adjusted((), GAMES.lola(0.1)), "adjusted takes levels"),
        (lambda: GAMES.adjusted((1,), GAMES.lola(0.1)), "takes levels, got 1 among them"),
        (lambda: GAMES.adjusted(players(), GAMES.lola), r"call it .*nx.games.lola\(0.3\)"),
        (lambda: GAMES.adjusted(players(), 0.3), "an adjustment is a function losses -> field"),
        (lambda: GAMES.adjusted(players(), {"z": GAMES.lola(0.1)}), "there is no player 'z'"),
        (
            lambda: GAMES.adjusted(
                (*players(), nx.Level("z", lambda v, b: v["z"], optax.sgd(0.1), every=2)),
                GAMES.lola(0.1),
            ),
            "level 'z' and level 'x' have different contexts or periods",
        ),
        (
            lambda: GAMES.adjusted(players(flow=nx.Unroll()), GAMES.lola(0.1)),
            "level 'x' has the flow Unroll",
        ),
        (
            lambda: GAMES.adjusted(players(accumulate="mean"), GAMES.lola(0.1)),
            "level 'x' accumulates losses",
        ),
        (
            lambda: GAMES.adjusted(
                GAMES.adjusted(players(), GAMES.lola(0.1)), GAMES.consensus(0.1)
            ),
            "level 'x' has no loss to adjust",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_slow_weights(x64):
    """By a loop; a tree with None, an inner optimizer with a state, and a step that is traced."""
    inner = optax.sgd(0.1, momentum=0.9)
    rng = np.random.default_rng(1)
    w = slow = rng.normal(size=2)
    momentum = np.zeros(2)
    gradients = rng.normal(size=(7, 2))
    for count, g in enumerate(gradients, start=1):
        momentum = 0.9 * momentum + g
        w = w - 0.1 * momentum
        if count % 3 == 0:
            slow = w = slow + 0.25 * (w - slow)

    @jax.jit
    def run(part, start):
        optimizer: Any = GAMES.lookahead_minmax(inner, 3, part)

        def step(carry, g):
            w, state = carry
            updates, state = optimizer.update({"a": g, "b": None}, state, w)
            return (optax.apply_updates(w, updates), state), None

        begin = {"a": start, "b": None}
        after: Any = jax.lax.scan(step, (begin, optimizer.init(begin)), gradients)[0]
        return after[0]["a"]

    start = np.random.default_rng(1).normal(size=2)
    np.testing.assert_allclose(run(0.25, start), w, rtol=1e-12)
    w = jnp.ones(2)
    give_away = jax.jit(lambda w, state: (w + 1, state), donate_argnums=(0, 1))
    np.testing.assert_array_equal(
        give_away(w, GAMES.lookahead_minmax(inner).init(w))[1].slow, np.ones(2)
    )  # buffers of its own
    with pytest.raises(ValueError, match="give the parameters"):
        optimizer = GAMES.lookahead_minmax(inner)
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
    wrong: Any = 0.1
    with pytest.raises(ValueError, match="optimizer is an optax transformation"):
        GAMES.lookahead_minmax(wrong)
