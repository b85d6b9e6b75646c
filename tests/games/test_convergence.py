"""Who converges where, by theory: each way to play on a bilinear game, a potential game, a point
that repels, and two zero-sum games in logits."""

from typing import Any

import jax
import numpy as np
import optax
import pytest

import nestax as nx

G = nx.games
QUARTER = (0.7, np.pi / 4)


def descent(rate, momentum=0.0):
    return optax.sgd(rate, momentum=momentum)


# Name: (rate -> optimizer, rate -> adjustment, order).
WAYS: dict[str, Any] = {
    "descent": (descent, None, "simultaneous"),
    "alternating": (descent, None, "alternating"),
    "momentum": (lambda r: descent(r, 0.5), None, "simultaneous"),
    "negative momentum": (lambda r: descent(r, -0.5), None, "simultaneous"),
    "negative, alternating": (lambda r: descent(r, -0.5), None, "alternating"),
    "complex momentum": (lambda r: nx.optim.complex_momentum(r, QUARTER), None, "simultaneous"),
    "complex, alternating": (lambda r: nx.optim.complex_momentum(r, QUARTER), None, "alternating"),
    "optimistic": (optax.optimistic_gradient_descent, None, "simultaneous"),
    "lookahead-minmax": (lambda r: G.lookahead_minmax(descent(r)), None, "simultaneous"),
    "extragradient": (descent, G.extragradient, "simultaneous"),
    "consensus": (descent, lambda r: G.consensus(0.5), "simultaneous"),
    "symplectic": (descent, lambda r: G.symplectic(0.5), "simultaneous"),
    "LookAhead": (descent, lambda r: G.lookahead(0.5), "simultaneous"),
    "LOLA": (descent, lambda r: G.lola(0.5), "simultaneous"),
    "competitive": (descent, lambda r: G.competitive(r, nx.Dense()), "simultaneous"),
}
LEAVES = {"descent", "momentum", "negative momentum"}  # those that leave bilinear equilibria
# Three games side by side, a component of each player in each: x y and -x y; one bowl for both; a
# maximum of both.
PARTS = np.array([[[0.0, 1.0], [-1.0, 0.0]], [[1.0, 0.5], [0.5, 0.8]], [[-1.0, 0.5], [0.5, -0.8]]])
JACOBIAN = np.block([[np.diag(PARTS[:, i, j]) for j in range(2)] for i in range(2)])
GAMES = {"pennies": G.matching_pennies, "rock, paper, scissors": G.rock_paper_scissors}


def three():
    return G.quadratic(JACOBIAN, sizes={"x": 3, "y": 3})


def play(way, game, steps, values=None, rate=0.2):
    """The last values, and what they were after a tenth of the steps."""
    optimizer, adjustment, order = WAYS[way]
    levels = game.levels(optimizer(rate))
    levels = levels if adjustment is None else G.adjusted(levels, adjustment(rate))
    nest = nx.Nest([nx.Peers(*levels, order=order)])
    state = nest.init(game.start if values is None else values, jax.random.key(0))
    early, _ = nest.run(state, steps // 10, check=False)
    late, _ = nest.run(early, steps - steps // 10, check=False)
    return dict(state.values), dict(early.values), dict(late.values)


def size(values):
    """In each of the three games."""
    return np.hypot(values["x"], values["y"])


@pytest.mark.parametrize("way", WAYS)
def test_quadratic_games(x64, way):
    begin, _, end = map(size, play(way, three(), 300))
    bilinear, bowl, maximum = end / begin
    if way == "alternating":  # neither: it goes round
        assert 0.5 < bilinear < 2
    else:
        assert bilinear > 1.5 if way in LEAVES else bilinear < 0.2
    assert bowl < 1e-3 and maximum > 10


def test_strong_consensus_is_drawn_to_points_that_repel(x64):
    """To a maximum of both losses."""
    game = three()
    nest = nx.Nest([G.adjusted(game.levels(descent(0.1)), G.consensus(5.0))])
    state = nest.run(nest.init(game.start, jax.random.key(0)), 300)[0]
    assert size(dict(state.values))[2] < 1e-2


@pytest.mark.parametrize("way", ["descent", "optimistic", "extragradient", "competitive"])
@pytest.mark.parametrize("name", ["pennies", "rock, paper, scissors"])
def test_exploitability_falls_unless_players_just_descend(x64, name, way):
    game = GAMES[name]()
    rng = np.random.default_rng(0)
    values = {player: 0.5 * rng.normal(size=a.shape) for player, a in game.start.items()}
    found = play(way, game, 1000, values, rate=1.0)
    begin, early, end = (float(game.exploitability(v)) for v in found)
    assert (end > begin) if way == "descent" else (end < early < begin and end < 0.1 * begin)
