"""Iterated prisoner's dilemmas: of five logits for each player, or of one number."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .checks import number
from .game import Game, Values, known_game, refusing
from .iterated import YEARS, years

PURE = np.array(list(itertools.product((0.0, 1.0), repeat=5)))  # all deterministic strategies
CAUTION = -3.0  # logit of cooperation after the other has defected, where it is not chosen
# The middle of the random subspaces: x and y are close to tit-for-tat.
MIDDLE = {"x": (0.5, 0.75, 0.25, 0.75, 0.25), "y": (0.5, 0.75, 0.75, 0.25, 0.25)}


def iterated_prisoners_dilemma(discount: Any = 0.96) -> Game:
    """The iterated prisoner's dilemma between strategies that remember one round, exactly.

    A loss is `(1 - discount)` times the discounted sum of the losses of all rounds, see
    `prisoners_dilemma`: between 0 and 3, 1 if both always cooperate, 2 if both always defect.

    Example:
        ```python
        game = nx.games.iterated_prisoners_dilemma()
        tit_for_tat = {"x": [9, 9, -9, 9, -9], "y": [9, 9, 9, -9, -9]}
        values = {name: jnp.array(logits) * 2.0 for name, logits in tit_for_tat.items()}
        print(game.exploitability(values) < 1e-4)  # True
        ```

    Args:
        discount: weight of each round relative to the one before, in [0, 1).

    Returns:
        A `Game` of the players "x" and "y". A value has shape (5,): the logits of cooperation in
        the first round and after CC, CD, DC, DD, where the first letter is what x did, for both
        players. It starts at zeros, probabilities of 1/2. Equilibria such as always defecting or
        tit-for-tat have infinite logits: `equilibria` is empty. Exploitability is exact over all
        strategies, however long their memory: against a strategy that remembers one round the best
        response is a Markov decision process with 4 states, and one of the 32 deterministic
        strategies with one round of memory solves it.

    Raises:
        ValueError: a discount outside [0, 1).

    Source: Foerster et al., "Learning with Opponent-Learning Awareness" (2018), appendix A.2.
    """
    discount = number("iterated_prisoners_dilemma", "discount", discount, 0, 1, below=True)

    def chances(values: Values) -> Values:
        return {name: jax.nn.sigmoid(jnp.asarray(values[name])) for name in YEARS}

    def regrets(values: Values) -> Values:
        both = chances(values)
        found = {}
        for name, own in both.items():
            pure = jax.vmap(lambda mine, name=name: years({**both, name: mine}, name, discount))
            least = jnp.min(pure(jnp.asarray(PURE, own.dtype)))
            found[name] = years(both, name, discount) - least
        return found

    start = {name: jnp.zeros(5) for name in YEARS}
    return known_game(
        "iterated_prisoners_dilemma",
        _losses(chances, discount),
        start,
        regrets=regrets,
        probabilities=chances,
    )


def subspace_ipd(key: jax.Array, discount: Any = 0.96, spread: Any = 2.0) -> Game:
    """The iterated prisoner's dilemma on a random line of logits for each player.

    A player moves one number t; the five logits of `iterated_prisoners_dilemma` are `b + t a`. The
    middle b is the same for every key and close to tit-for-tat. The direction a is random.

    Example:
        ```python
        def losses(key):
            game = nx.games.subspace_ipd(key)
            return game.losses["x"](game.start)
        print(jax.vmap(losses)(jax.random.split(jax.random.key(0), 3)).shape)  # (3,)
        ```

    Args:
        key: draws the directions. Games of many keys run side by side under `jax.vmap`.
        discount: as for `iterated_prisoners_dilemma`.
        spread: the entries of a are uniform between `-spread` and `spread`.

    Returns:
        A `Game` of the players "x" and "y", whose values are one number each that starts at 0.
        `equilibria` is empty. Best responses on the line have no closed form; those over all
        strategies are found by `nx.games.iterated_prisoners_dilemma(discount).exploitability`, from
        the logits of `policies`.

    Raises:
        ValueError: a discount outside [0, 1), or a negative spread.

    Source: the games of Lorraine et al., "Lyapunov Exponents for Diversity in Differentiable Games"
    (2022).
    """
    discount = number("subspace_ipd", "discount", discount, 0, 1, below=True)
    spread = number("subspace_ipd", "spread", spread, 0)
    directions = spread * jax.random.uniform(key, (2, 5), minval=-1.0, maxval=1.0)
    lines = dict(zip(YEARS, directions, strict=True))
    middle = {name: jax.scipy.special.logit(jnp.array(b)) for name, b in MIDDLE.items()}

    def chances(values: Values) -> Values:
        return {n: jax.nn.sigmoid(middle[n] + values[n] * lines[n]) for n in YEARS}

    refused = refusing(
        "best responses on a random line have no closed form; for best responses over all "
        "strategies call iterated_prisoners_dilemma(discount).exploitability with the logits of "
        "game.policies(values)"
    )
    start = {name: jnp.zeros(()) for name in YEARS}
    return known_game(
        "subspace_ipd", _losses(chances, discount), start, regrets=refused, probabilities=chances
    )


def small_ipd(discount: Any = 0.9) -> Game:
    """The iterated prisoner's dilemma with one number for each player.

    A player's number is the logit of cooperation in the first round and whenever the other has
    cooperated. After the other has defected, the logit is -3. Descent ends in one of two places,
    both at infinite logits: both cooperate, or both defect.

    Example:
        ```python
        game = nx.games.small_ipd()
        print(game.policies({"x": 0.0, "y": 0.0})["y"].round(2))  # [0.5  0.5  0.5  0.05 0.05]
        ```

    Args:
        discount: as for `iterated_prisoners_dilemma`.

    Returns:
        A `Game` of the players "x" and "y", whose values are one number each that starts at 0.
        `equilibria` is empty, since they are at infinity. Exploitability is over the strategies
        that a player's number can reach; `policies` gives all five probabilities.

    Raises:
        ValueError: a discount outside [0, 1).

    Source: Lorraine et al., "Lyapunov Exponents for Diversity in Differentiable Games" (2022).
    """
    return _cautious("small_ipd", 0.0, number("small_ipd", "discount", discount, 0, 1, below=True))


def pennies_dilemma(weight: Any = 0.25, discount: Any = 0.9) -> Game:
    """A mixture of matching pennies and the small iterated prisoner's dilemma.

    The losses are `weight` times those of `matching_pennies` plus `1 - weight` times those of
    `small_ipd`. Heads is to cooperate: both games read the same two numbers.

    Example:
        ```python
        game = nx.games.pennies_dilemma(1.0)
        print(game.exploitability({"x": 0.0, "y": 0.0}))  # 0.0
        ```

    Args:
        weight: of matching pennies, from 0 to 1.
        discount: as for `iterated_prisoners_dilemma`.

    Returns:
        A `Game` of the players "x" and "y", whose values are one number each that starts at 0.
        `equilibria` is empty: no closed form is known. Exploitability and `policies` as in
        `small_ipd`.

    Raises:
        ValueError: a weight outside 0 to 1, or a discount outside [0, 1).

    Source: Lorraine et al., "Lyapunov Exponents for Diversity in Differentiable Games" (2022).
    """
    weight = number("pennies_dilemma", "weight", weight, 0, 1)
    return _cautious(
        "pennies_dilemma", weight, number("pennies_dilemma", "discount", discount, 0, 1, below=True)
    )


def least(loss: Callable[[jax.Array], jax.Array], cells: int = 64, halvings: int = 50) -> jax.Array:
    """Where a smooth function of a number from 0 to 1 is least.

    Every stationary point in a cell of its own is found by bisection of the derivative, and
    compared with the others and the ends.

    Args:
        loss: number -> number; a rational function with at most four stationary points here.
        cells: equal parts of the interval.
        halvings: of every cell.

    Returns:
        The number, a constant to every derivative.
    """
    slope = jax.vmap(jax.grad(loss))
    ends = jnp.linspace(0.0, 1.0, cells + 1)

    def halve(_: Any, cell: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = cell
        middle = (low + high) / 2
        falls = slope(middle) < 0
        return jnp.where(falls, middle, low), jnp.where(falls, high, middle)

    low, _ = jax.lax.fori_loop(0, halvings, halve, (ends[:-1], ends[1:]))
    candidates = jax.lax.stop_gradient(jnp.concatenate([ends, low]))
    return candidates[jnp.argmin(jax.vmap(loss)(candidates))]


def _losses(chances: Callable[[Values], Values], discount: Any) -> dict[str, Callable]:
    return {n: lambda values, n=n: years(chances(values), n, discount) for n in YEARS}


def _cautious(function: str, weight: Any, discount: Any) -> Game:
    """Matching pennies and the dilemma of players who do not trust those who have defected."""
    f = jax.nn.sigmoid(CAUTION)

    def strategies(p: Any, q: Any) -> Values:
        return {"x": [p, p, f, p, f], "y": [q, q, q, f, f]}

    def loss(name: str, both: Values) -> jax.Array:
        p, q = both["x"], both["y"]
        pennies = (2 * p - 1) * (2 * q - 1) * (1 if name == "x" else -1)
        return weight * pennies + (1 - weight) * years(strategies(p, q), name, discount)

    def chances(values: Values) -> Values:
        return {name: jax.nn.sigmoid(jnp.asarray(values[name])) for name in YEARS}

    def regrets(values: Values) -> Values:
        both = chances(values)
        found = {}
        for name in YEARS:
            fixed = jax.lax.stop_gradient(both)
            best = least(lambda p, name=name, fixed=fixed: loss(name, {**fixed, name: p}))
            found[name] = loss(name, both) - loss(name, {**both, name: best})
        return found

    def policies(values: Values) -> Values:
        five = strategies(*chances(values).values())
        return {name: jnp.stack(parts) for name, parts in five.items()}

    return known_game(
        function,
        losses={n: lambda values, n=n: loss(n, chances(values)) for n in YEARS},
        start={name: jnp.zeros(()) for name in YEARS},
        regrets=jax.jit(regrets),  # once for a game: one by one its operations take seconds
        probabilities=policies,
    )
