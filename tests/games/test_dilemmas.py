"""Matrix games and (iterated) dilemmas: exact losses, equilibria and best responses."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import games_closed_form as reference

import nestax as nx
from nestax.games.iterated import eliminate


def central_differences(function: Any, values: dict[str, np.ndarray], step: float = 1e-5) -> Any:
    found = {name: np.zeros(np.shape(v)) for name, v in values.items()}
    for name, value in values.items():
        for index in np.ndindex(np.shape(value)):
            sides = []
            for sign in (1, -1):
                moved = np.array(value, float)
                moved[index] += sign * step
                sides.append(float(function({**values, name: moved})))
            found[name][index] = (sides[0] - sides[1]) / (2 * step)
    return found


def checked(game: Any, values: dict[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """Losses and exploitability, after a comparison of their gradients with differences."""

    @jax.jit
    def run(values: Any) -> Any:
        losses = [loss(values) for loss in game.losses.values()]
        gap, slope = jax.value_and_grad(game.exploitability)(values)
        return jnp.stack(losses), gap, slope

    losses, gap, slope = run(values)
    expected = central_differences(lambda v: run(v)[1], values)
    for name in values:
        np.testing.assert_allclose(slope[name], expected[name], atol=1e-8)
    return np.asarray(losses), float(gap)


def test_matrix_games_of_two_and_three_players(x64):
    """Losses and gains by enumeration of all combinations of actions."""
    rng = np.random.default_rng(1)
    for shape in ((2, 3), (3, 2, 4)):
        names = "abc"[: len(shape)]
        tables = rng.normal(size=(len(shape), *shape))
        game = nx.games.matrix_game(dict(zip(names, tables, strict=True)))
        values = {
            n: rng.normal(size=() if k == 2 else k) for n, k in zip(names, shape, strict=True)
        }
        strategies = [
            np.array([reference.sigmoid(v), reference.sigmoid(-v)])
            if v.ndim == 0
            else reference.softmax(v)
            for v in map(np.asarray, values.values())
        ]
        losses, gains = reference.normal_form(tables, strategies)
        found, gap = checked(game, values)
        np.testing.assert_allclose(found, losses, rtol=1e-12)
        np.testing.assert_allclose(gap, gains.sum(), rtol=1e-12)
        for policy, strategy in zip(game.policies(values).values(), strategies, strict=True):
            np.testing.assert_allclose(policy, strategy, rtol=1e-12)
        assert game.equilibria == ()  # not as many actions, or not two players


@pytest.mark.parametrize("name", ["matching_pennies", "rock_paper_scissors", "drawn"])
def test_equilibria_with_all_actions(x64, name):
    """Nobody gains there and the field is zero, at any offset and scale of the losses."""
    rng = np.random.default_rng(2)
    if name == "drawn":
        # y's table is made for x's mixture and x's for y's; offsets that do not matter are large.
        mixtures = {"x": np.array([0.2, 0.5, 0.3]), "y": np.array([0.6, 0.3, 0.1])}
        a, b = rng.normal(size=(2, 3, 3))
        a = 1e-3 * (a - np.outer(a @ mixtures["y"], np.ones(3))) + 1e3 * rng.normal(size=3)
        b = 1e3 * (b - np.outer(np.ones(3), mixtures["x"] @ b)) + rng.normal(size=(3, 1))
        game = nx.games.matrix_game({"x": a, "y": b})
    else:
        game = getattr(nx.games, name)()
        n = 2 if name == "matching_pennies" else 3
        mixtures = dict.fromkeys("xy", np.full(n, 1 / n))
    (values,) = game.equilibria
    for player, mixture in mixtures.items():
        np.testing.assert_allclose(game.policies(values)[player], mixture, rtol=1e-9)
    assert float(jax.jit(game.exploitability)(values)) == pytest.approx(0, abs=1e-9)
    for slope in game.field(values).values():
        np.testing.assert_allclose(slope, 0, atol=1e-9)


def test_games_without_such_an_equilibrium():
    assert nx.games.prisoners_dilemma().equilibria == ()
    assert nx.games.matrix_game(np.zeros((2, 2))).equilibria == ()  # all mixtures are equilibria
    assert nx.games.matrix_game([[0, 0, 1], [0, 0, -1], [1, 1, 0]]).equilibria == ()
    far = {"x": jnp.array(-50.0), "y": jnp.array(-50.0)}
    game = nx.games.prisoners_dilemma()
    assert game.exploitability(far) < 1e-6
    np.testing.assert_allclose([loss(far) for loss in game.losses.values()], 2)


def test_matching_pennies_stretches_all_directions_alike(x64):
    """The Jacobian of a descent step at the equilibrium: J J' = (1 + rate²/16) I."""
    game = nx.games.matching_pennies()
    for rate in (0.3, 5.0):
        step = nx.games.descent(game.field, rate)
        order = lambda w, step=step: jnp.stack([*step({"x": w[0], "y": w[1]}).values()])  # noqa: E731
        jacobian = np.asarray(jax.jacfwd(order)(jnp.zeros(2)))
        np.testing.assert_allclose(
            jacobian @ jacobian.T, (1 + rate**2 / 16) * np.eye(2), rtol=1e-12
        )
        np.testing.assert_allclose(jacobian[0, 1], -rate / 4, rtol=1e-12)


def test_iterated_dilemma_by_summing_rounds(x64):
    """Losses, and the best response of any memory by value iteration."""
    rng = np.random.default_rng(3)
    for discount in (0.0, 0.96):
        game = nx.games.iterated_prisoners_dilemma(discount)
        values = {name: rng.normal(size=5) * 2 for name in "xy"}
        x, y = (reference.memory_one(reference.sigmoid(v)) for v in values.values())
        rounds = 1000 if discount else 1
        losses = reference.iterated_losses(x, y, discount, rounds)
        best = [
            reference.best_response(n, opponent, discount, rounds)
            for n, opponent in ((0, y), (1, x))
        ]
        found, gap = checked(game, values)
        np.testing.assert_allclose(found, losses, rtol=1e-12)
        np.testing.assert_allclose(gap, losses.sum() - sum(best), atol=1e-12)


def test_known_strategies(x64):
    """What the states mean: the losses of famous pairs, and who may gain against whom."""
    game = nx.games.iterated_prisoners_dilemma(0.96)
    run = jax.jit(lambda v: ([loss(v) for loss in game.losses.values()], game.exploitability(v)))
    big = 40.0
    always = {"C": [1, 1, 1, 1, 1], "D": [-1, -1, -1, -1, -1]}
    tit = {"x": [1, 1, -1, 1, -1], "y": [1, 1, 1, -1, -1]}

    def played(x: Any, y: Any) -> Any:
        return run({"x": big * jnp.array(x, float), "y": big * jnp.array(y, float)})

    (first, second), gap = played(tit["x"], always["D"])  # betrayed in the first round only
    np.testing.assert_allclose([first, second], [0.04 * 3 + 0.96 * 2, 0.96 * 2], rtol=1e-12)
    (first, second), gap = played(always["D"], tit["y"])
    np.testing.assert_allclose([first, second], [0.96 * 2, 0.04 * 3 + 0.96 * 2], rtol=1e-12)
    losses, gap = played(tit["x"], tit["y"])
    np.testing.assert_allclose([*losses, gap], [1, 1, 0], atol=1e-12)  # an equilibrium
    losses, gap = played(always["D"], always["D"])
    np.testing.assert_allclose([*losses, gap], [2, 2, 0], atol=1e-12)  # another one
    losses, gap = played(always["C"], always["C"])
    np.testing.assert_allclose([*losses, gap], [1, 1, 2], atol=1e-12)  # both would defect


@pytest.mark.parametrize("weight", [None, 0.25])
def test_one_number_for_each_player(x64, weight):
    """The small dilemma and its mixture with pennies; best numbers by a fine grid."""
    game = nx.games.small_ipd() if weight is None else nx.games.pennies_dilemma(weight)
    w, f = weight or 0.0, float(reference.sigmoid(-3.0))

    def losses(p: Any, q: Any) -> np.ndarray:
        x, y = reference.memory_one([p, p, f, p, f]), reference.memory_one([q, q, q, f, f])
        pennies = (p - (1 - p)) * (q - (1 - q))
        alone = reference.iterated_losses(x, y, 0.9, 350)
        return w * np.array([pennies, -pennies]) + (1 - w) * alone

    inside = []
    for values in (
        {"x": np.array(0.4), "y": np.array(-1.2)},
        {"x": np.array(2.0), "y": np.array(-0.25)},
    ):
        p, q = (float(reference.sigmoid(v)) for v in values.values())
        best = [
            reference.least_on_unit(lambda own, q=q: losses(own, q)[0]),
            reference.least_on_unit(lambda own, p=p: losses(p, own)[1]),
        ]
        inside += [0 < where < 1 for _, where in best]
        found, gap = checked(game, values)
        np.testing.assert_allclose(found, losses(p, q), rtol=1e-12)
        expected = losses(p, q).sum() - best[0][0] - best[1][0]
        np.testing.assert_allclose(gap, expected, atol=1e-12)
        policies = game.policies(values)
        np.testing.assert_allclose(policies["x"], [p, p, f, p, f], rtol=1e-12)
        np.testing.assert_allclose(policies["y"], [q, q, q, f, f], rtol=1e-12)
    assert any(inside) == (weight == 0.25)  # a best reply that is neither end


def test_random_subspaces_side_by_side(x64):
    """200 keys in one program; each line by its own logits, the losses by summing rounds."""

    @jax.jit
    @jax.vmap
    def run(key: Any, t: Any) -> Any:
        game = nx.games.subspace_ipd(key)
        values = {"x": t[0], "y": t[1]}
        middle = {name: jnp.zeros(()) for name in "xy"}
        return (
            [loss(values) for loss in game.losses.values()],
            game.policies(values),
            game.policies(middle),
            game.field(values),
        )

    keys = jax.random.split(jax.random.key(0), 200)
    t = np.random.default_rng(4).normal(size=(200, 2))
    losses, policies, middle, field = jax.tree.map(np.asarray, run(keys, t))
    logit = lambda p: np.log(p / (1 - p))  # noqa: E731
    directions = {
        n: (logit(policies[n]) - logit(middle[n])) / t[:, i, None] for i, n in enumerate("xy")
    }
    both = np.concatenate([*directions.values()])
    assert -2 <= both.min() < -1.98 and 1.98 < both.max() <= 2
    assert np.ptp(directions["x"] - directions["y"]) > 1  # two directions, not one
    np.testing.assert_allclose(middle["x"][7], [0.5, 0.75, 0.25, 0.75, 0.25], rtol=1e-12)
    np.testing.assert_allclose(middle["y"][7], [0.5, 0.75, 0.75, 0.25, 0.25], rtol=1e-12)
    assert np.all(np.isfinite(field["x"])) and field["x"].shape == (200,)
    for n in (0, 199):
        x, y = (reference.memory_one(policies[name][n]) for name in "xy")
        expected = reference.iterated_losses(x, y, 0.96, 1000)
        np.testing.assert_allclose([losses[0][n], losses[1][n]], expected, rtol=1e-12)
    game = nx.games.subspace_ipd(keys[0])
    with pytest.raises(ValueError, match="call iterated_prisoners_dilemma"):
        game.exploitability(game.start)
    logits = jax.tree.map(jax.scipy.special.logit, game.policies(game.start))
    assert nx.games.iterated_prisoners_dilemma().exploitability(logits) > 0


def test_elimination_needs_no_pivots(x64):
    """Deterministic strategies and a discount next to 1: the worst conditioned cases."""
    discount = 1 - 1e-9
    cases = list(itertools.product((0.0, 1.0), repeat=4))
    run = jax.jit(jax.vmap(lambda p, q: eliminate(*map(jnp.array, system(p, q)))))

    def system(p: Any, q: Any) -> Any:
        chance = [
            [p[i] * q[i], p[i] * (1 - q[i]), (1 - p[i]) * q[i], (1 - p[i]) * (1 - q[i])]
            for i in range(4)
        ]
        rows = [[(i == j) - discount * chance[i][j] for i in range(4)] for j in range(4)]
        return rows, [0.25] * 4

    p, q = (np.array(side) for side in zip(*itertools.product(cases, cases), strict=True))
    found = np.asarray(run(p, q))
    for n in range(0, len(p), 5):
        rows, right = system(p[n], q[n])
        np.testing.assert_allclose(found[n], np.linalg.solve(rows, right), rtol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1) * (1 - discount), 1, rtol=1e-6)
    assert found.min() >= 0


@pytest.mark.parametrize(
    ("game", "shape"),
    [
        (nx.games.iterated_prisoners_dilemma(), (4,)),  # would be read past its end
        (nx.games.mixture(0.5), (1,)),  # would broadcast
        (nx.games.bilinear(), (3,)),
        (nx.games.matching_pennies(), (2,)),
        (nx.games.small_ipd(), (1,)),
        (nx.games.dirac_gan(), (1,)),
        (nx.games.quadratic(np.eye(4)), (3,)),
    ],
)
def test_values_of_another_shape_are_refused(game, shape):
    first, *others = game.players
    values = {**game.start, first: jnp.ones(shape)}
    for function in (*game.losses.values(), game.field, game.regrets, game.probabilities):
        if function is not None:
            with pytest.raises(ValueError, match=rf"the value of player '{first}' must have shape"):
                function(values)
    with pytest.raises(ValueError, match=f"{others[0]!r} must have shape .*, got none"):
        game.losses[first]({first: game.start[first]})


refused: Any = [
    (partial(nx.games.matrix_game, [[1, 2]]), r"at least 2 actions, .*; got shapes \(1, 2\)"),
    (partial(nx.games.matrix_game, np.ones(3)), "one axis for each of the 2 players"),
    (partial(nx.games.matrix_game, {}), "of the 0 players"),
    (partial(nx.games.matrix_game, {"x": np.ones((2, 2))}), "one axis for each of the 1 players"),
    (
        partial(nx.games.matrix_game, {"x": np.ones((2, 3)), "y": np.ones((3, 2))}),
        r"the same shape for all; got shapes \(2, 3\), \(3, 2\)",
    ),
    (partial(nx.games.matrix_game, [[0, np.nan], [1, 2]]), "losses must have finite numbers only"),
    (partial(nx.games.matrix_game, [["a", "b"]]), "losses must have real numbers"),
    (partial(nx.games.iterated_prisoners_dilemma, 1), r"discount is in \[0, 1\), got 1"),
    (partial(nx.games.small_ipd, -0.1), r"small_ipd: discount is in \[0, 1\), got -0.1"),
    (partial(nx.games.small_ipd, np.ones(2)), "discount is one finite number"),
    (partial(nx.games.pennies_dilemma, 1.5), r"weight is in \[0, 1\], got 1.5"),
    (partial(nx.games.pennies_dilemma, 0.5, None), "discount is one finite number, got None"),
    (partial(nx.games.subspace_ipd, jax.random.key(0), spread=-1), r"spread is at least 0"),
]


@pytest.mark.parametrize(("make", "message"), refused)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
