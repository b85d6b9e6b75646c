"""Games whose losses are quadratic: bilinear, of any Jacobian, and more or less adversarial."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .affine import affine_game, solve, symmetric, vector
from .checks import array, is_known
from .game import Game, Values, known_game, refusing


def bilinear(matrix: Any = 1.0, x_linear: Any = None, y_linear: Any = None) -> Game:
    """The zero-sum game `x'Ay + b'x + c'y`, which x minimizes and y maximizes.

    Simultaneous descent leaves its equilibrium at every rate: the eigenvalues of the field's
    Jacobian are `±i` times the singular values of A, and 0. It has no exploitability: against
    nearly all values, a player's loss has no lower bound.

    Example:
        ```python
        game = nx.games.bilinear()
        values = nx.games.descent(game.field, 0.5)(game.start)
        print(values["x"], values["y"])  # 0.5 1.5
        ```

    Args:
        matrix: A, shape (n, m); or a number, then x and y are numbers.
        x_linear: b, shape (n,); a number where A is one. None: zeros.
        y_linear: c, shape (m,); a number where A is one. None: zeros.

    Returns:
        A `Game` of the players "x" and "y", with values of shapes (n,) and (m,) that start at ones.
        Its equilibrium solves `Ay = -b` and `A'x = -c`; of several, the one with the least norm.
        `equilibria` is empty if there is none, or if A is traced and not square.

    Raises:
        ValueError: arrays of other shapes, or with numbers that are not finite.
    """
    a = array("bilinear", "matrix", matrix, 0, 2)
    x_shape, y_shape = a.shape[:1], a.shape[1:]
    if a.size == 0:
        raise ValueError(f"bilinear: matrix must have entries, got shape {a.shape}")
    b = vector("bilinear", "x_linear", x_linear, x_shape)
    c = vector("bilinear", "y_linear", y_linear, y_shape)
    square = a if a.ndim else a.reshape(1, 1)
    y = solve(square, -b.reshape(-1))
    x = solve(square.T, -c.reshape(-1))

    def loss(values: Values) -> jax.Array:
        x, y = jnp.asarray(values["x"]), jnp.asarray(values["y"])
        return jnp.vdot(x, a @ y if a.ndim else a * y) + jnp.vdot(b, x) + jnp.vdot(c, y)

    zero = None if x is None or y is None else {"x": x.reshape(x_shape), "y": y.reshape(y_shape)}
    return known_game(
        "bilinear",
        losses={"x": loss, "y": lambda values: -loss(values)},
        start={"x": jnp.ones(x_shape), "y": jnp.ones(y_shape)},
        equilibria=() if zero is None else (zero,),
        regrets=refusing(
            "in a bilinear game a player's loss has no lower bound against most values; look at "
            "the norm of the field instead"
        ),
    )


def quadratic(jacobian: Any, linear: Any = None, sizes: Any = None) -> Game:
    """The game whose joint field is `J w + b`, for players of any number and size.

    w holds the players' values one after the other. Player i has the loss `w_i'J_ii w_i / 2 + w_i'
    (sum of J_ij w_j over the others) + b_i'w_i`. A symmetric J is a cooperative game: all descend
    one function. An antisymmetric J is a purely adversarial one. Every J is the sum of both.

    Example:
        ```python
        game = nx.games.quadratic([[1.0, 2.0], [-2.0, 1.0]])
        field = game.field({"x": jnp.array([1.0]), "y": jnp.array([3.0])})
        print(field["x"], field["y"])  # [7.] [1.]
        ```

    Args:
        jacobian: J, shape (n, n), with symmetric blocks J_ii.
        linear: b, shape (n,). None: zeros.
        sizes: player -> size of the value, in the order of the rows of J. None: two players, "x"
            and "y", with n/2 numbers each.

    Returns:
        A `Game` whose values have one axis each and start at ones. Its equilibrium solves `J w =
        -b`; of several, the one with the least norm. `equilibria` is empty if there is none, as
        when some J_ii has a negative eigenvalue. Traced J and b are taken as a regular J with
        positive definite J_ii. Exploitability needs positive definite J_ii; it is nan if a traced
        one is not.

    Raises:
        ValueError: arrays of other shapes, numbers that are not finite, a block J_ii that is not
            symmetric, or sizes that do not sum to n.

    Source: Balduzzi et al., "The Mechanics of n-Player Differentiable Games" (2018).
    """
    j = array("quadratic", "jacobian", jacobian, 2)
    n = j.shape[0]
    if j.shape != (n, n) or n == 0:
        raise ValueError(f"quadratic: jacobian must be square, got shape {j.shape}")
    b = vector("quadratic", "linear", linear, (n,))
    parts = _parts(sizes, n)
    own = {name: j[part, part] for name, part in parts.items()}
    for name, block in own.items():
        if not symmetric(block):
            raise ValueError(
                f"quadratic: jacobian's block of player {name!r} with itself must be symmetric, "
                "because it is a second derivative; give (J + J') / 2 of that block"
            )

    def loss_of(name: str, part: slice) -> Callable[[Values], jax.Array]:
        def loss(values: Values) -> jax.Array:
            mine = jnp.asarray(values[name])
            found = own[name] @ mine / 2 + b[part]
            for other, where in parts.items():
                if other != name:
                    found = found + j[part, where] @ values[other]
            return mine @ found

        return loss

    losses = {name: loss_of(name, part) for name, part in parts.items()}
    return affine_game("quadratic", losses, own, solve(j, -b), parts)


def mixture(adversarial: Any, key: jax.Array | None = None, scales: Any = None) -> Game:
    """A game between cooperative and adversarial, for each dimension by itself.

    With scales s and shares g the losses are `sum of s ((1 - g) x²/2 + g x y)` and `sum of
    s ((1 - g) y²/2 - g x y)`. The eigenvalues of the field's Jacobian are `s (1 - g ± i g)`: at
    0 both players have a bowl of their own, at 1 each dimension is a bilinear game.

    Example:
        ```python
        game = nx.games.mixture(0.5, scales=[2.0])
        field = game.field({"x": jnp.array([1.0]), "y": jnp.array([3.0])})
        print(field["x"], field["y"])  # [4.] [2.]
        ```

    Args:
        adversarial: g, the adversarial share of each dimension, shape (n,), from 0 to 1; a number
            is the share of all. With a key: a number, the largest share.
        key: draws the shares uniformly between 0 and `adversarial`, except that the first one is 0
            and the last one `adversarial`. None: the shares are given.
        scales: s, shape (n,), positive. None: 7 numbers evenly spaced from 1/4 to 4.

    Returns:
        A `Game` of the players "x" and "y", with values of shape (n,) that start at ones. Its
        equilibrium is 0. There is no exploitability if a share is 1; if that is traced it is inf or
        nan.

    Raises:
        ValueError: shares outside 0 to 1, scales that are not positive, other shapes, or a key
            with several shares or fewer than two scales.

    Source: Lorraine et al., "Complex Momentum for Optimization in Games" (2022).
    """
    given = np.linspace(0.25, 4.0, 7) if scales is None else scales
    s = array("mixture", "scales", given, 1)
    if s.size == 0 or (is_known(s) and np.any(s <= 0)):
        raise ValueError(f"mixture: scales must be positive numbers, got {scales!r:.60}")
    g = array("mixture", "adversarial", adversarial, 0, 1)
    if is_known(g) and not np.all((g >= 0) & (g <= 1)):
        raise ValueError(f"mixture: adversarial must be in [0, 1], got {adversarial!r:.60}")
    unbounded = is_known(g) and np.any(g == 1)
    if key is not None:
        if g.ndim or s.size < 2:
            raise ValueError(
                "mixture: with a key adversarial is one number, the largest share, and there are "
                f"at least 2 scales; got shape {g.shape} and {s.size} scales"
            )
        shares = jax.random.uniform(key, s.shape, s.dtype)
        g = g * shares.at[0].set(0.0).at[-1].set(1.0)
    if g.shape not in ((), s.shape):
        raise ValueError(
            f"mixture: adversarial has shape {g.shape} and scales {s.shape}; give one share for "
            "each scale, or one number"
        )
    own, cross = s * (1 - g), s * g

    def loss_of(mine: str, other: str, sign: float) -> Callable[[Values], jax.Array]:
        def loss(values: Values) -> jax.Array:
            v = values[mine]
            return jnp.sum(v * (own * v / 2 + sign * cross * values[other]))

        return loss

    losses = {"x": loss_of("x", "y", 1.0), "y": loss_of("y", "x", -1.0)}

    def regrets(values: Values) -> Values:
        x, y = values["x"], values["y"]
        slopes = {"x": own * x + cross * y, "y": own * y - cross * x}
        return {name: jnp.sum(slope**2 / own) / 2 for name, slope in slopes.items()}

    zeros, ones = jnp.zeros(s.shape), jnp.ones(s.shape)
    refused = refusing(
        "where the adversarial share is 1, a player's loss has no lower bound against most values"
    )
    return known_game(
        "mixture",
        losses=losses,
        start={"x": ones, "y": ones},
        equilibria=({"x": zeros, "y": zeros},),
        regrets=refused if unbounded else regrets,
    )


def _parts(sizes: Any, n: int) -> dict[str, slice]:
    """The components of each player."""
    if sizes is None:
        if n % 2:
            raise ValueError(
                f"quadratic: without sizes there are two players of equal size, and {n} is odd; "
                f"give sizes={{'x': ..., 'y': ...}}"
            )
        sizes = {"x": n // 2, "y": n // 2}
    whole = isinstance(sizes, Mapping) and all(
        isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes.values()
    )
    if not whole or sum(sizes.values()) != n:
        raise ValueError(
            f"quadratic: sizes must be positive whole numbers by player that sum to {n}, the rows "
            f"of jacobian; got {sizes!r}"
        )
    ends = np.cumsum(list(sizes.values())).tolist()
    return {name: slice(end - sizes[name], end) for name, end in zip(sizes, ends, strict=True)}
