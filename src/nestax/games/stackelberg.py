"""A leader and a follower with quadratic losses."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .affine import affine_game, definite, solve, symmetric, vector
from .checks import array, is_known
from .game import Game, Values


def leader_follower(
    leader: Any,
    follower: Any,
    leader_linear: Any = None,
    follower_linear: Any = None,
    size: int = 1,
) -> Game:
    """A quadratic game with its Nash and its Stackelberg equilibrium.

    Both losses are `w'Hw / 2 + h'w`, with H and h of their own; w is the leader's value followed by
    the follower's. The leader knows how the follower responds: at the Stackelberg equilibrium the
    total derivative of the leader's loss is zero, at the Nash equilibrium the partial one.

    Example:
        ```python
        game = nx.games.leader_follower([[2, 1], [1, 0]], [[0, 1], [1, 2]], [-1, 0], [0, -1])
        print(game.stackelberg["leader"], game.stackelberg["follower"])  # [0.5] [0.25]
        ```

    Args:
        leader: H of the leader, shape (n, n), symmetric.
        follower: H of the follower, shape (n, n), symmetric, positive definite in the follower's
            own value.
        leader_linear: h of the leader, shape (n,). None: zeros.
        follower_linear: h of the follower, shape (n,). None: zeros.
        size: how many of the n numbers are the leader's.

    Returns:
        A `Game` of the players "leader" and "follower", with values of one axis that start at ones.
        `equilibria` has the Nash equilibrium, if there is one: as for `quadratic`. `stackelberg` is
        None if the leader's loss along the follower's responses is not strictly convex; if arrays
        are traced it is taken as such. `Game.levels` plays it simultaneously, `Game.led_by` with a
        leader.

    Raises:
        ValueError: arrays of other shapes, numbers that are not finite, a matrix that is not
            symmetric, a size that leaves a player nothing, or a follower without a best response.

    Source: Fiez, Chasnov and Ratliff, "Implicit Learning Dynamics in Stackelberg Games" (2020).
    """
    f = array("leader_follower", "leader", leader, 2)
    g = array("leader_follower", "follower", follower, 2)
    n = f.shape[0]
    for name, h in {"leader": f, "follower": g}.items():
        if h.shape != (n, n):
            raise ValueError(
                f"leader_follower: leader and follower must be square and of one size, got shapes "
                f"{f.shape} and {g.shape}"
            )
        if not symmetric(h):
            raise ValueError(
                f"leader_follower: {name} must be symmetric; (H + H') / 2 has the same loss"
            )
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size < n:
        raise ValueError(
            f"leader_follower: size, the leader's share of {n} numbers, must be from 1 to {n - 1}, "
            f"got {size!r}"
        )
    x, y = slice(0, size), slice(size, n)
    a = vector("leader_follower", "leader_linear", leader_linear, (n,))
    b = vector("leader_follower", "follower_linear", follower_linear, (n,))
    if not definite(g[y, y]):
        raise ValueError(
            "leader_follower: the block of follower for the follower's own value must be positive "
            "definite; without that the follower has no best response"
        )

    def loss_of(h: Any, linear: Any) -> Callable[[Values], jax.Array]:
        def loss(values: Values) -> jax.Array:
            w = jnp.concatenate([values["leader"], values["follower"]])
            return w @ (h @ w) / 2 + linear @ w

        return loss

    xp = np if is_known(f, g, a, b) else jnp
    jacobian, linear = xp.concatenate([f[x], g[y]]), xp.concatenate([a[x], b[y]])
    return affine_game(
        "leader_follower",
        losses={"leader": loss_of(f, a), "follower": loss_of(g, b)},
        own={"leader": f[x, x], "follower": g[y, y]},
        zero=solve(jacobian, -linear),
        parts={"leader": x, "follower": y},
        stackelberg=_stackelberg(f, g, a, b, size),
    )


def duopoly() -> Game:
    """Two firms without costs at the price `1 - x - y`, the smallest leader-follower game.

    Each firm loses `-x (1 - x - y)` with its own production x. At the Nash equilibrium (Cournot)
    both produce 1/3. At the Stackelberg equilibrium the leader produces 1/2, the follower 1/4.

    Example:
        ```python
        game = nx.games.duopoly()
        nest = nx.Nest(game.led_by("leader", optax.sgd(0.4), flow=nx.Unroll()))
        state, info = nest.run(nest.init(game.start, jax.random.key(0)), steps=50)
        print(f"{state.values['leader'][0]:.3f}")  # 0.500
        ```

    Returns:
        A `Game` of the players "leader" and "follower", with values of shape (1,).
    """
    return leader_follower([[2, 1], [1, 0]], [[0, 1], [1, 2]], [-1, 0], [0, -1])


def _stackelberg(f: Any, g: Any, a: Any, b: Any, size: int) -> Values | None:
    """Where the leader's loss along the follower's responses is least."""
    xp, dtype, y = jnp, f.dtype, slice(size, None)
    if is_known(f, g, a, b):
        xp, (f, g, a, b) = np, (part.astype(float) for part in (f, g, a, b))
    # The follower responds to x with y = R x + r, so w = slope x + offset.
    response = -xp.linalg.solve(g[y, y], xp.concatenate([g[y, :size], b[y, None]], axis=1))
    slope = xp.concatenate([xp.eye(size, dtype=response.dtype), response[:, :-1]])
    offset = xp.concatenate([xp.zeros(size, response.dtype), response[:, -1]])
    curvature = slope.T @ f @ slope
    if not definite(curvature):
        return None
    best = xp.linalg.solve(curvature, -slope.T @ (f @ offset + a))
    w = jnp.asarray(slope @ best + offset, dtype)
    return {"leader": w[:size], "follower": w[y]}
