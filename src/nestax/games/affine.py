"""Games with affine fields: zeros of the field, and the regrets of quadratic losses."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .checks import array, is_known
from .field import own_gradient
from .game import Game, Values, known_game, refusing


def rounding(matrix: Any) -> float:
    """What rounding may change in a known matrix, relative to its largest entry."""
    return 64 * max(matrix.shape) * float(jnp.finfo(matrix.dtype).eps)


def vector(function: str, argument: str, given: Any, shape: tuple[int, ...]) -> Any:
    """The coefficients of a linear term, zeros for None.

    Raises:
        ValueError: another shape, or numbers that are not finite.
    """
    found = array(function, argument, np.zeros(shape) if given is None else given)
    if found.shape != shape:
        raise ValueError(f"{function}: {argument} must have shape {shape}, got {found.shape}")
    return found


def solve(matrix: Any, right: Any) -> jax.Array | None:
    """The solution of a linear system; of several, the one with the least norm.

    Returns:
        None if there is none, or if the numbers are traced and the matrix is not square. A traced
        square matrix is taken as regular.
    """
    if not is_known(matrix, right):
        square = matrix.shape[0] == matrix.shape[1]
        return jnp.linalg.solve(matrix, right) if square else None
    a, b = matrix.astype(float), right.astype(float)
    found = np.linalg.lstsq(a, b, rcond=rounding(matrix))[0]
    # The residual is compared with the terms that cancel in it.
    if np.any(np.abs(a @ found - b) > rounding(matrix) * (np.abs(a) @ np.abs(found) + np.abs(b))):
        return None
    return jnp.asarray(found, right.dtype)


def symmetric(matrix: Any) -> bool:
    """Whether a known matrix is symmetric; a traced one is taken as such."""
    if not is_known(matrix):
        return True
    return bool(np.all(np.abs(matrix - matrix.T) <= rounding(matrix) * np.max(np.abs(matrix))))


def definite(matrix: Any, *, semi: bool = False) -> bool:
    """Whether a known matrix is positive (semi)definite; a traced one is taken as such."""
    if not is_known(matrix):
        return True
    least = np.linalg.eigvalsh((matrix + matrix.T).astype(float) / 2)[0]
    edge = rounding(matrix) * np.max(np.abs(matrix))
    return bool(least >= -edge if semi else least > edge)


def affine_game(
    function: str,
    losses: dict[str, Callable[[Values], jax.Array]],
    own: dict[str, Any],
    zero: jax.Array | None,
    parts: dict[str, slice],
    stackelberg: Values | None = None,
) -> Game:
    """A game of losses that are quadratic in every value.

    Args:
        function: the public function that makes the game, for messages.
        losses: by player.
        own: by player, the second derivative in the player's own value.
        zero: a zero of the field, all values in one vector; None: there is none.
        parts: by player, the components of that vector.
        stackelberg: as `Game` takes it.
    """
    convex = all(definite(block, semi=True) for block in own.values())
    equilibria = ()
    if zero is not None and convex:
        equilibria = ({name: zero[part] for name, part in parts.items()},)
    bad = [name for name, block in own.items() if not definite(block)]

    def regrets(values: Values) -> Values:
        found = {}
        for name, block in own.items():
            slope = own_gradient(losses, name, values)
            factor = jax.scipy.linalg.cho_factor(jnp.asarray(block))
            found[name] = slope @ jax.scipy.linalg.cho_solve(factor, slope) / 2
        return found

    refused = refusing(
        f"the second derivative of the loss of player {bad[0] if bad else None!r} in the player's "
        "own value must be positive definite; without that the loss has no lower bound, or no "
        "unique best response"
    )
    start = {name: jnp.ones(part.stop - part.start) for name, part in parts.items()}
    return known_game(
        function,
        losses,
        start,
        equilibria=equilibria,
        stackelberg=stackelberg,
        regrets=refused if bad else regrets,
    )
