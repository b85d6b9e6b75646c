"""The iterated prisoner's dilemma: exact discounted losses of strategies that remember one round.

The states are what both players did in the round before, player x first: CC, CD, DC, DD; C is to
cooperate, D to defect. A strategy has five probabilities of C: in the first round, and after each
state. Both players' strategies list the same states, so tit-for-tat is (1, 1, 0, 1, 0) for x and
(1, 1, 1, 0, 0) for y.
"""

from typing import Any

import jax

from .game import Values

YEARS = {"x": (1.0, 3.0, 0.0, 2.0), "y": (1.0, 0.0, 3.0, 2.0)}  # losses of a round, by state


def years(chances: Values, player: str, discount: Any) -> jax.Array:
    """A player's exact discounted loss: `(1 - discount) d'r`, with `(I - discount P)'d = p`.

    P holds the probabilities of the next state, p those of the first one, r the player's losses by
    state; d is the discounted number of visits.

    Args:
        chances: by player, the probabilities of cooperation: an array of shape (5,) or a list.
        player: "x" or "y".
        discount: in [0, 1).

    Returns:
        The mean loss of a round, weighted by the discount.
    """

    def together(p: Any, q: Any) -> list[Any]:
        return [p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)]

    x, y = chances["x"], chances["y"]
    first, *then = [together(x[n], y[n]) for n in range(5)]
    system = [[(i == j) - discount * then[i][j] for i in range(4)] for j in range(4)]
    visits = eliminate(system, first)
    return (1 - discount) * sum(d * r for d, r in zip(visits, YEARS[player], strict=True))


def eliminate(matrix: list[list[Any]], right: list[Any]) -> list[Any]:
    """Solves a small linear system, written out in scalars: many side by side take little time.

    No pivots are needed where, as here, the diagonal of each column outweighs the rest of it.
    """
    rows = [[*row, r] for row, r in zip(matrix, right, strict=True)]
    n = len(rows)
    for k in range(n):
        for below in range(k + 1, n):
            ratio = rows[below][k] / rows[k][k]
            for j in range(k + 1, n + 1):
                rows[below][j] = rows[below][j] - ratio * rows[k][j]
    found = [row[n] for row in rows]
    for k in reversed(range(n)):
        for j in range(k + 1, n):
            found[k] = found[k] - rows[k][j] * found[j]
        found[k] = found[k] / rows[k][k]
    return found
