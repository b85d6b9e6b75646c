"""The iterated prisoner's dilemma: exact discounted losses of strategies that remember one round.

The states are what both players did in the round before, player x first: CC, CD, DC, DD; C is to
cooperate, D to defect. A strategy has five probabilities of C: in the first round, and after each
state. Both players' strategies list the same states, so tit-for-tat is (1, 1, 0, 1, 0) for x and
(1, 1, 1, 0, 0) for y.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
    p, q = (jnp.stack([jnp.asarray(c) for c in chances[name]]) for name in ("x", "y"))
    together = jnp.stack([p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)])  # (to, from)
    visits = eliminate(
        jnp.eye(4, dtype=together.dtype) - discount * together[:, 1:], together[:, 0]
    )
    return (1 - discount) * visits @ jnp.asarray(YEARS[player], visits.dtype)


def eliminate(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """Solves a small linear system by elimination, which many side by side do in little time.

    No pivots are needed where, as here, the diagonal of each column outweighs the rest of it.
    """
    n = len(matrix)
    rows = jnp.concatenate([matrix, right[:, None]], axis=1)
    unit = np.eye(n, dtype=rows.dtype)
    for k in range(n):
        pivot = rows[k] / rows[k, k]
        rows = rows - jnp.outer(rows[:, k] - unit[k], pivot)
    return rows[:, n]
