"""What a Jacobian and its eigenvalues say about a game: blocks of players, two parts, kinds."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .checks import is_finite


class Kinds(NamedTuple):
    """Which eigenvalues are of which kind: masks, of which exactly one is true for each eigenvalue.

    Attributes:
        cooperative: real. Descent does not rotate in this direction.
        adversarial: imaginary. Descent only rotates in this plane.
        mixed: neither real nor imaginary.
        zero: zero up to rounding.
    """

    cooperative: jax.Array
    adversarial: jax.Array
    mixed: jax.Array
    zero: jax.Array


def kinds(eigenvalues: Any, tolerance: Any = None) -> Kinds:
    """Which eigenvalues of a field's Jacobian are cooperative, adversarial, or mixed.

    Real eigenvalues come from players whose interests agree (or who do not interact), imaginary
    ones from zero-sum interaction.

    Example:
        ```python
        found = nx.games.kinds(jnp.array([2.0, 1j, -1j, 1 + 1j, 0.0]))
        print(found.adversarial.tolist())  # [False, True, True, False, False]
        ```

    Args:
        eigenvalues: complex or real, shape (n,), from `spectrum`. NaN and infinity are
            of no kind.
        tolerance: lambda is real where |Im lambda| is at most this times |lambda|, imaginary where
            |Re lambda| is, and zero where |lambda| is at most this times the largest |lambda|.
            None: the root of the rounding error, 3e-4 in single and 1.5e-8 in double precision.

    Returns:
        A `Kinds`.

    Raises:
        ValueError: eigenvalues that are no vector of numbers; a tolerance outside [0, 1/2].

    Source: Lorraine et al., "Complex Momentum for Optimization in Games" (2022), Section 3.
    """
    eigenvalues = jnp.asarray(eigenvalues)
    if eigenvalues.ndim != 1 or not jnp.issubdtype(eigenvalues.dtype, jnp.inexact):
        raise ValueError(
            "kinds: the eigenvalues are a vector of real or complex numbers, got "
            f"{eigenvalues.dtype}{list(eigenvalues.shape)}"
        )
    if tolerance is None:
        tolerance = float(jnp.finfo(eigenvalues.dtype).eps) ** 0.5
    elif not isinstance(tolerance, Tracer) and not 0 <= tolerance <= 0.5:
        raise ValueError(f"kinds: tolerance is a number from 0 to 1/2, got {tolerance}")
    size = jnp.abs(eigenvalues)
    known = jnp.isfinite(size)
    zero = known & (size <= tolerance * jnp.max(jnp.where(known, size, 0), initial=0))
    real = known & ~zero & (jnp.abs(jnp.imag(eigenvalues)) <= tolerance * size)
    imaginary = known & ~zero & ~real & (jnp.abs(jnp.real(eigenvalues)) <= tolerance * size)
    return Kinds(real, imaginary, known & ~zero & ~real & ~imaginary, zero)


def potential_and_hamiltonian(jacobian: Any) -> tuple[jax.Array, jax.Array]:
    """The symmetric and the antisymmetric part of a Jacobian, S = (J + J^T)/2 and A = (J - J^T)/2.

    A game with A = 0 everywhere is a potential game: descent follows the gradient of a function.
    A game with S = 0 everywhere is Hamiltonian: descent circles its equilibria.

    Example:
        ```python
        s, a = nx.games.potential_and_hamiltonian(jnp.array([[1.0, 3.0], [-1.0, 1.0]]))
        print(s.tolist(), a.tolist())  # [[1.0, 1.0], [1.0, 1.0]] [[0.0, 2.0], [-2.0, 0.0]]
        ```

    Args:
        jacobian: shape (n, n), from `jacobian`.

    Returns:
        S and A, of shape (n, n) each; J is their sum.

    Raises:
        ValueError: not a square matrix.

    Source: Balduzzi et al., "The Mechanics of n-Player Differentiable Games" (2018), Lemma 1.
    """
    matrix = square("potential_and_hamiltonian", jacobian)
    return (matrix + matrix.T) / 2, (matrix - matrix.T) / 2


def player_blocks(jacobian: Any, players: Any) -> dict[Any, dict[Any, jax.Array]]:
    """The blocks of a Jacobian by player.

    Example:
        ```python
        values = {"x": jnp.ones(2), "y": jnp.ones(1)}
        losses = {"x": lambda v: v["x"] @ v["x"], "y": lambda v: v["x"].sum() * v["y"].sum()}
        matrix = nx.games.jacobian(nx.games.joint_field(losses), values)
        blocks = nx.games.player_blocks(matrix, nx.games.player_slices(values))
        print(blocks["y"]["x"].tolist())  # [[1.0, 1.0]]
        ```

    Args:
        jacobian: shape (n, n), from `jacobian`.
        players: player -> slice, from `player_slices`.

    Returns:
        `blocks[p][q]`, the derivative of p's component of the field with respect to q's value:
        `blocks[p][p]` is the Hessian of p's loss in p's own value, and `jnp.linalg.eigvalsh` of it
        says what p's training does while the others hold still.

    Raises:
        ValueError: not a square matrix, or slices that are not those of all n components.

    Source: Balduzzi et al., "The Mechanics of n-Player Differentiable Games" (2018), Section 2.
    """
    matrix = square("player_blocks", jacobian)
    check_players("player_blocks", players, matrix.shape[0])
    return {p: {q: matrix[a, b] for q, b in players.items()} for p, a in players.items()}


def square(name: str, matrix: Any) -> jax.Array:
    """A square matrix of real or complex numbers.

    Raises:
        ValueError: something else, or known numbers that are not finite.
    """
    found = jnp.asarray(matrix)
    if found.ndim != 2 or found.shape[0] != found.shape[1] or not found.size:
        raise ValueError(f"{name}: a Jacobian has the shape (n, n), got {list(found.shape)}")
    if not jnp.issubdtype(found.dtype, jnp.inexact):
        found = found.astype(float)
    if not is_finite(found):
        raise ValueError(f"{name}: the Jacobian has entries that are not finite")
    return found


def eigenvalues(matrix: jax.Array) -> jax.Array:
    """All eigenvalues of a square matrix of any precision and scale, in no order.

    LAPACK has none for 16 bits. Where the largest entry is beyond about 1e12 or 1e-12 in 32 bits,
    or 1e138 in 64, it scales the matrix, and what it returns is not scaled back.
    """
    matrix = matrix.astype(jnp.promote_types(matrix.dtype, jnp.float32))
    largest = jnp.max(jnp.abs(matrix))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return scale * jnp.linalg.eigvals(matrix / scale)


def check_players(name: str, players: Any, size: int) -> None:
    """Refuses slices that do not divide the components among players.

    Raises:
        ValueError: not a mapping to slices; components of nobody, or of two players.
    """
    expected = f"{name}: players is a dict player -> slice, as player_slices(values) returns it"
    if not isinstance(players, Mapping) or not players:
        raise ValueError(f"{expected}; got {players!r:.60}")
    if not all(isinstance(part, slice) for part in players.values()):
        raise ValueError(f"{expected}; got {dict(players)!r:.80}")
    owners = np.zeros(size, int)
    for part in players.values():
        owners[part] += 1
    if not (owners == 1).all() or max(part.stop or 0 for part in players.values()) > size:
        raise ValueError(
            f"{name}: each of the {size} components belongs to exactly one player; got "
            f"{dict(players)!r:.120}"
        )
