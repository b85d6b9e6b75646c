"""The linear dynamics of optimizers of a game, near a point where its field is zero."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .checks import is_finite, number
from .decompose import check_players, eigenvalues, square
from .methods import Extragradient, Method, Momentum
from .roots import cubic_roots, quadratic_roots

_METHODS = "GradientDescent, Momentum, Nesterov, Optimistic or Extragradient"


def augmented(
    jacobian: Any,
    method: Any,
    players: Any = None,
    *,
    order: Any = "simultaneous",
) -> jax.Array:
    """One step of an optimizer near an equilibrium, as a matrix on memories and values together.

    The state is (memory 1, ..., memory s-1, values), each with n components; the memories are those
    of the method with most of them, and players whose method has fewer leave theirs at zero. Within
    a step a player's memory is updated before its value.

    Example:
        Complex momentum for one player of the game x y; the other player descends:

        ```python
        field = nx.games.joint_field((lambda x, y: x * y, lambda x, y: -x * y))
        players = nx.games.player_slices((0.0, 0.0))
        methods = {0: nx.games.Momentum(0.3, (0.9, 0.8)), 1: nx.games.GradientDescent(0.3)}
        matrix = nx.games.augmented(nx.games.jacobian(field, (0.0, 0.0)), methods, players)
        print(matrix.shape)  # (6, 6)
        ```

    Args:
        jacobian: of the joint field, shape (n, n).
        method: of all players: `GradientDescent`, `Momentum`, `Nesterov`, `Optimistic`,
            `Extragradient`; or player -> method.
        players: player -> slice, from `player_slices`; needed for a dict of methods and for
            alternating moves.
        order: "simultaneous", or "alternating": each player's gradient is computed where the
            previous players arrived, in the order of `players`.

    Returns:
        Shape (s n, s n).

    Raises:
        ValueError: not a finite square matrix, unknown or missing players, something that is no
            method, `Extragradient` for one player only or in alternating moves.

    Source: Lorraine et al., "Complex Momentum for Optimization in Games" (2022), Section 3, with
    m = -mu; Gidel et al., "Negative Momentum for Improved Game Dynamics" (2019), for the orders.
    """
    name = "augmented"
    matrix = square(name, jacobian)
    size = matrix.shape[0]
    check_order(name, order, players)
    if players is None:
        if isinstance(method, Mapping):
            raise ValueError(f"{name}: methods by player need players=player_slices(values)")
        players = {None: slice(0, size)}
    check_players(name, players, size)
    methods = by_player(name, method, players, order)
    if all(isinstance(each, Extragradient) for each in methods.values()):
        first, second = (
            _diagonal(size, [(players[p], m.rates()[half]) for p, m in methods.items()], matrix)
            for half in (0, 1)
        )
        eye = jnp.eye(size, dtype=matrix.dtype)
        return eye - second @ matrix @ (eye - first @ matrix)
    if order == "simultaneous":
        return _moved(matrix, methods, players, list(players))
    found = _moved(matrix, methods, players, list(players)[:1])
    for player in list(players)[1:]:
        found = _moved(matrix, methods, players, [player]) @ found
    return found


def spectral_radius(
    jacobian: Any,
    method: Any,
    players: Any = None,
    *,
    order: Any = "simultaneous",
) -> jax.Array:
    """The largest modulus of an eigenvalue of `augmented`: the rate of local convergence.

    Below 1 the optimizer converges from nearby starts, and its error shrinks by this factor a step
    in the long run; above 1 it leaves almost every start. A zero eigenvalue of the game (a line of
    equilibria) gives 1.

    Example:
        ```python
        eigenvalues = jnp.array([1j, -1j])  # of the game x y
        print(nx.games.spectral_radius(eigenvalues, nx.games.GradientDescent(0.1)) > 1)  # True
        print(nx.games.spectral_radius(eigenvalues, nx.games.Optimistic(0.5)) < 1)  # True
        ```

    Args:
        jacobian: shape (n, n); or only its eigenvalues, shape (n,), which is faster and enough if
            all players have one method and move at once.
        method: as in `augmented`.
        players: as in `augmented`.
        order: as in `augmented`.

    Returns:
        One real number.

    Raises:
        ValueError: as `augmented`; eigenvalues in place of the matrix where they do not suffice.

    Source: Gidel et al., "Negative Momentum for Improved Game Dynamics" (2019), Theorem 1.
    """
    if jnp.ndim(jacobian) == 2:
        matrix = augmented(jacobian, method, players, order=order)
        return jnp.max(jnp.abs(eigenvalues(matrix)))
    name = "spectral_radius"
    given = complex_eigenvalues(name, jacobian)
    if isinstance(method, Mapping) or order != "simultaneous":
        raise ValueError(
            f"{name}: methods by player and alternating moves need the Jacobian and "
            "players=player_slices(values); its eigenvalues alone do not determine the dynamics"
        )
    by_player(name, method, {None: slice(None)}, order)
    return jnp.max(radii(given, method))


def momentum_polynomial(eigenvalue: Any, rate: Any, beta: Any, phase: Any = 0.0) -> jax.Array:
    """The polynomial whose roots are the dynamics' eigenvalues under complex momentum.

        (x - 1) (x^2 - 2 Re(beta) x + |beta|^2)
            + rate lambda x (cos(phase) x - Re(e^{i phase} conj(beta)))

    for simultaneous moves: for each eigenvalue lambda of the field's Jacobian, its three roots are
    eigenvalues of `augmented(jacobian, Momentum(rate, beta, phase))`, and all of them.

    Example:
        ```python
        polynomial = nx.games.momentum_polynomial(1j, 0.5, (0.7, 1.1))
        print(jnp.abs(jnp.roots(polynomial)).max() < 1)  # True
        ```

    Args:
        eigenvalue: lambda, any shape.
        rate: as in `Momentum`; any shape that broadcasts with lambda's if it is traced.
        beta: as in `Momentum`.
        phase: as in `Momentum`.

    Returns:
        Coefficients, the highest power first, on a last axis of four; complex if lambda is.

    Raises:
        ValueError: as `Momentum`; known eigenvalues that are not finite.

    Source: Lorraine et al., "Complex Momentum for Optimization in Games" (2022), Section 3.
    """
    name = "momentum_polynomial"
    rate = rate if isinstance(rate, Tracer) else number(name, "rate", rate, 0)
    re, im = Momentum(1.0, beta, phase).decay()
    found = _finite(name, jnp.asarray(eigenvalue))
    return jnp.stack(_momentum_coefficients(found, rate, re, im, phase), axis=-1)


def radii(eigenvalues: jax.Array, method: Method) -> jax.Array:
    """The spectral radius of a method for each eigenvalue of the game, all players at once."""
    if isinstance(method, Extragradient):
        first, second = method.rates()
        return jnp.abs(1 - second * eigenvalues * (1 - first * eigenvalues))
    if isinstance(method, Momentum) and not method.is_real():
        return momentum_radii(eigenvalues, method.rate, *method.decay(), method.phase)
    m, b = method.recurrence()
    if m.shape == (1, 1):
        return jnp.abs(m[0, 0] + b[0] * eigenvalues)
    last, middle = m[1, 1] + b[1] * eigenvalues, m[0, 0]
    corner = b[0] * eigenvalues  # [[m00, corner], [m10, last]]
    roots = quadratic_roots(-(middle + last), middle * last - m[1, 0] * corner)
    return jnp.max(jnp.abs(roots), axis=-1)


def momentum_radii(eigenvalue: Any, rate: Any, re: Any, im: Any, phase: Any = 0.0) -> jax.Array:
    """The spectral radius of complex momentum with beta = re + i im; arrays that broadcast."""
    _, *rest = _momentum_coefficients(eigenvalue, rate, re, im, phase)
    return jnp.max(jnp.abs(cubic_roots(*rest)), axis=-1)


def complex_eigenvalues(name: str, given: Any) -> jax.Array:
    """A vector of eigenvalues, complex.

    Raises:
        ValueError: not a vector of numbers, or known numbers that are not finite.
    """
    found = jnp.asarray(given)
    if found.ndim != 1 or not found.size:
        raise ValueError(
            f"{name}: a Jacobian of shape (n, n) or its eigenvalues of shape (n,), got "
            f"{list(found.shape)}"
        )
    return _finite(name, found).astype(jnp.result_type(found.dtype, jnp.complex64))


def by_player(name: str, method: Any, players: Mapping, order: str) -> dict[Any, Any]:
    """The method of each player.

    Raises:
        ValueError: no method; unknown or missing players; methods that do not go together.
    """
    methods = dict(method) if isinstance(method, Mapping) else dict.fromkeys(players, method)
    if set(methods) != set(players):
        raise ValueError(
            f"{name}: methods for the players {sorted(map(repr, players))}, got them for "
            f"{sorted(map(repr, methods))}"
        )
    for player, each in methods.items():
        if not isinstance(each, Method):
            whose = "" if player is None else f" of player {player!r}"
            raise ValueError(f"{name}: the method{whose} is {_METHODS}, got {each!r:.60}")
    two_gradients = [isinstance(each, Extragradient) for each in methods.values()]
    if any(two_gradients) and (order != "simultaneous" or not all(two_gradients)):
        raise ValueError(
            f"{name}: Extragradient looks ahead with all players at once: give it to every player, "
            'with order="simultaneous"'
        )
    return methods


def check_order(name: str, order: Any, players: Any) -> None:
    """Refuses an unknown order, and alternating moves of players that are not known."""
    if order not in ("simultaneous", "alternating"):
        raise ValueError(f'{name}: order is "simultaneous" or "alternating", got {order!r}')
    if order == "alternating" and players is None:
        raise ValueError(f"{name}: alternating moves need players=player_slices(values)")


def _moved(matrix: jax.Array, methods: dict, players: Mapping, moving: list) -> jax.Array:
    """The matrix of a step in which only some players move."""
    recurrences = {player: methods[player].recurrence() for player in players}
    slots = max(len(b) for _, b in recurrences.values())
    size = matrix.shape[0]
    dtype = jnp.result_type(matrix, *[m for m, _ in recurrences.values()])
    of_memory, of_gradient = [], []
    for player, (m, b) in recurrences.items():
        own = np.array([*range(len(b) - 1), slots - 1])  # this player's memories, and the value
        still = player not in moving
        grid = np.ix_(own, own)
        blank, none = jnp.zeros((slots, slots), dtype), jnp.zeros(slots, dtype)
        of_memory.append(jnp.eye(slots, dtype=dtype) if still else blank.at[grid].set(m))
        of_gradient.append(none if still else none.at[own].set(b))
    owner = np.zeros(size, int)
    for place, player in enumerate(players):
        owner[players[player]] = place
    m, b = jnp.stack(of_memory)[owner], jnp.stack(of_gradient)[owner]  # for each component
    eye = jnp.eye(size, dtype=dtype)
    found = m.transpose(1, 0, 2)[..., None] * eye[None, :, None]
    found = found.at[:, :, -1].add(b.T[..., None] * matrix[None].astype(dtype))
    return found.reshape(slots * size, slots * size)


def _diagonal(size: int, parts: list[tuple[slice, Any]], like: jax.Array) -> jax.Array:
    diagonal = jnp.zeros(size, like.dtype)
    for part, rate in parts:
        diagonal = diagonal.at[part].set(rate)
    return jnp.diag(diagonal)


def _momentum_coefficients(eigenvalue: Any, rate: Any, re: Any, im: Any, phase: Any) -> tuple:
    """Coefficients of `momentum_polynomial`, the highest power first."""
    pull = rate * eigenvalue
    cosine, sine = jnp.cos(phase), jnp.sin(phase)
    square, one = re * re + im * im, jnp.ones_like(pull)
    second = pull * cosine - 2 * re - 1
    return one, second, square + 2 * re - pull * (cosine * re + sine * im), -square * one


def _finite(name: str, found: jax.Array) -> jax.Array:
    if not is_finite(found):
        raise ValueError(f"{name}: eigenvalues that are not finite; check the spectrum for NaN")
    return found
