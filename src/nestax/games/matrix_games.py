"""Games in normal form: a loss for each combination of actions, mixed strategies as logits."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .checks import array, is_known
from .game import Game, Values, known_game


def matrix_game(losses: Any) -> Game:
    """A game in normal form, of any number of players and actions, in mixed strategies.

    A player's value are logits. With two actions it is one number, and its sigmoid is the
    probability of action 0; with more it has a logit for each action, and softmax makes the
    probabilities.

    Example:
        ```python
        game = nx.games.matrix_game({"x": [[2, 0], [3, 1]], "y": [[2, 3], [0, 1]]})
        print(game.exploitability({"x": 0.0, "y": 0.0}))  # 1.0
        ```

    Args:
        losses: player -> array of the player's losses, with an axis of actions for each player in
            the order of the dict: `losses[player][i, j]` if the first player plays i and the
            second one j. A payoff is a negative loss. One array with two axes instead: a zero-sum
            game, in which x loses what y wins.

    Returns:
        A `Game` that starts with a logit of 1 for action 0. `equilibria` has, for two players with
        equally many actions, the equilibrium in which every action is played, if there is exactly
        one; logits of three and more actions sum to 0. It is empty for traced losses. Equilibria in
        which an action is not played have infinite logits and are not in it. Exploitability is the
        minimum over pure strategies, for any number of players.

    Raises:
        ValueError: arrays of different shapes, with another number of axes than there are players,
            with fewer than two actions, or with numbers that are not finite.

    Source: Lanctot et al., "A Unified Game-Theoretic Approach to Multiagent Reinforcement Learning"
    (2017), for the exploitability (NashConv).
    """
    if isinstance(losses, Mapping):
        count = len(losses)
        of = {name: array("matrix_game", f"losses[{name!r}]", losses[name]) for name in losses}
    else:
        count = 2
        a = array("matrix_game", "losses", losses)
        of = {"x": a, "y": -a}
    shapes = {name: a.shape for name, a in of.items()}
    shape = next(iter(shapes.values()), ())
    if set(shapes.values()) != {shape} or len(shape) != count or min(shape, default=0) < 2:
        raise ValueError(
            f"matrix_game: losses must have one axis for each of the {count} players with at least "
            "2 actions, and the same shape for all; got shapes "
            f"{', '.join(map(str, shapes.values())) or 'of no players'}"
        )
    axes = {name: axis for axis, name in enumerate(of)}

    def by_action(values: Values, name: str) -> jax.Array:
        """The player's expected loss for each own action."""
        found = jnp.moveaxis(jnp.asarray(of[name]), axes[name], 0)
        others = [n for n in axes if n != name]
        for other in reversed(others):
            found = found @ probabilities(values[other])
        return found

    def loss_of(name: str) -> Callable[[Values], jax.Array]:
        return lambda values: probabilities(values[name]) @ by_action(values, name)

    def regrets(values: Values) -> Values:
        expected = {name: by_action(values, name) for name in axes}
        return {n: probabilities(values[n]) @ a - jnp.min(a) for n, a in expected.items()}

    sizes = dict(zip(of, shape, strict=True))
    return known_game(
        "matrix_game",
        losses={name: loss_of(name) for name in of},
        start={name: jnp.ones(()) if n == 2 else jnp.eye(n)[0] for name, n in sizes.items()},
        equilibria=_full_support(of) if count == 2 else (),
        regrets=regrets,
        probabilities=lambda values: {name: probabilities(values[name]) for name in axes},
    )


def matching_pennies() -> Game:
    """Matching pennies: x wants different sides, y equal ones; zero-sum.

    The losses are `±(2p - 1)(2q - 1)`, p and q the probabilities of heads. The only equilibrium has
    both at 1/2. Simultaneous descent on the logits circles outwards.

    Example:
        ```python
        game = nx.games.matching_pennies()
        loss = game.losses["x"]({"x": jnp.log(3.0), "y": jnp.log(3.0)})
        print(f"{loss:.2f}")  # 0.25
        ```

    Returns:
        A `matrix_game` of the players "x" and "y", whose values are one logit each.
    """
    return matrix_game([[1, -1], [-1, 1]])


def rock_paper_scissors() -> Game:
    """Rock, paper, scissors: a loss of 1 when beaten, -1 when winning, 0 when equal.

    The only equilibrium plays each action with the probability 1/3.

    Example:
        ```python
        game = nx.games.rock_paper_scissors()
        print(game.losses["x"]({"x": jnp.array([90.0, 0, 0]), "y": jnp.array([0, 90.0, 0])}))  # 1.0
        ```

    Returns:
        A `matrix_game` of the players "x" and "y", whose values are three logits each. Adding a
        number to all three changes nothing.
    """
    return matrix_game([[0, 1, -1], [-1, 0, 1], [1, -1, 0]])


def prisoners_dilemma() -> Game:
    """The prisoner's dilemma, played once: to cooperate (action 0) or to defect (action 1).

    Losses are years in prison: 1 each if both cooperate, 2 each if both defect, 0 for who defects
    alone and 3 for who cooperates alone. To defect is better whatever the other does.

    Example:
        ```python
        game = nx.games.prisoners_dilemma()
        print(game.exploitability({"x": 0.0, "y": 0.0}))  # 1.0
        ```

    Returns:
        A `matrix_game` of the players "x" and "y", whose values are one logit each, of cooperation.
        Its only equilibrium, to defect, is at minus infinity: `equilibria` is empty.
    """
    return matrix_game({"x": [[1, 3], [0, 2]], "y": [[1, 0], [3, 2]]})


def probabilities(logits: Any) -> jax.Array:
    """A mixed strategy: of one number that of two actions, of a vector that of its actions."""
    logits = jnp.asarray(logits)
    if logits.ndim == 0:
        return jax.nn.sigmoid(jnp.stack([logits, -logits]))
    return jax.nn.softmax(logits)


def _full_support(losses: dict[str, Any]) -> tuple[Values, ...]:
    """The equilibrium of two players that plays all actions: each makes the other indifferent."""
    (x, a), (y, b) = losses.items()
    if a.shape[0] != a.shape[1] or not is_known(a, b):
        return ()
    values = {}
    for name, table in {x: b.T, y: a}.items():
        chances = _indifferent(table)
        if chances is None or np.any(chances <= 0):
            return ()
        logits = np.log(chances) - np.mean(np.log(chances))
        values[name] = jnp.asarray(logits[0] - logits[1] if len(logits) == 2 else logits, a.dtype)
    return (values,)


def _indifferent(losses: np.ndarray) -> np.ndarray | None:
    """The mixture of the columns that makes all rows equal, if there is exactly one.

    Returns:
        It, with a sum of 1 and perhaps negative entries, in float64; or None.
    """
    n = len(losses)
    differences = losses.astype(float) - losses.mean(axis=0, dtype=float)  # all that matters
    system = np.ones((n + 1, n + 1))
    system[:n, :n] = differences / (np.max(np.abs(differences)) or 1.0)
    system[n, n] = 0.0
    if np.linalg.matrix_rank(system, tol=1e-6) <= n:
        return None
    return np.linalg.solve(system, np.eye(n + 1)[n])[:n]
