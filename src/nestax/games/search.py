"""The best hyperparameters of an optimizer for a game's spectrum."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .checks import whole
from .decompose import square
from .dynamics import complex_eigenvalues, spectral_radius

_SAMPLES, _BEST = 500, 50  # of a round; those that make the next one
_WIDER = 1.5  # against ending early


class Best(NamedTuple):
    """The best hyperparameters that `best` has found.

    Attributes:
        radius: their spectral radius, a float.
        parameters: name -> value, floats.
    """

    radius: float
    parameters: dict[str, float]


def best(
    make: Any,
    jacobian: Any,
    bounds: Any,
    players: Any = None,
    *,
    order: Any = "simultaneous",
    points: Any = 33,
    rounds: Any = 100,
) -> Best:
    """The hyperparameters with the smallest spectral radius: the fastest local convergence.

    A deterministic search: all points of a grid, then samples around the best point so far, whose
    spread follows the best of the previous round. Axes are geometric for bounds that are positive
    and a factor of ten or more apart, else even. The radius is not convex: a valley narrower than a
    cell of the grid may be missed; more `points`, or closer bounds, help.

    Example:
        ```python
        found = nx.games.best(nx.games.Extragradient, jnp.array([1j, -1j]), {"rate": (0.01, 2)})
        print(round(found.radius, 4), round(found.parameters["rate"], 2))  # 0.866 0.71
        ```

    Args:
        make: the hyperparameters, as keywords -> a method, or a dict player -> method:
            `nx.games.GradientDescent`, or
            `lambda rate, modulus: nx.games.Momentum(rate, (modulus, 0.4))`.
        jacobian: shape (n, n), or only its eigenvalues, as in `spectral_radius`.
        bounds: hyperparameter -> (lowest, highest); at most four of them.
        players: as in `augmented`.
        order: as in `augmented`.
        points: of the grid in each direction, at least 2.
        rounds: of samples, at most; the search ends where their best agree to nine digits.

    Returns:
        A `Best`. A radius of 1 or more says that no setting within the bounds converges.

    Raises:
        ValueError: bounds that are not finite and ascending; as `spectral_radius`.

    Source: Lorraine et al., "Complex Momentum for Optimization in Games" (2022), Section 4, for the
    question; the search is plain.
    """
    names, low, high, geometric = _checked(make, bounds, points, rounds)
    if jnp.ndim(jacobian) == 2:
        matrix = square("best", jacobian)
    else:
        matrix = complex_eigenvalues("best", jacobian)
    dtype = jnp.real(matrix).dtype

    @jax.jit
    def radii(settings: jax.Array) -> jax.Array:
        def one(setting: jax.Array) -> jax.Array:
            method = make(**dict(zip(names, setting, strict=True)))
            return spectral_radius(matrix, method, players, order=order)

        found = jax.lax.map(one, settings, batch_size=1024)
        return jnp.where(jnp.isnan(found), jnp.inf, found)

    def evaluated(settings: np.ndarray) -> np.ndarray:
        actual = np.where(geometric, np.exp(np.where(geometric, settings, 0)), settings)
        return np.asarray(radii(jnp.asarray(actual, dtype)), float)

    axes = [np.linspace(a, b, points) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(names))
    smallest, where = _refined(evaluated, grid, (high - low) / (points - 1), rounds)
    found = np.where(geometric, np.exp(np.where(geometric, where, 0)), where)
    return Best(smallest, dict(zip(names, map(float, found), strict=True)))


def _refined(
    evaluated: Callable[[np.ndarray], np.ndarray],
    grid: np.ndarray,
    cell: np.ndarray,
    rounds: int,
) -> tuple[float, np.ndarray]:
    """The best point of a grid, and then of samples around it.

    The radius has kinks along which the best settings lie, so axes are not enough: the samples are
    normal, with the covariance of the best of the previous round, and so stretch along a valley.
    """
    low, high = grid[0], grid[-1]
    values = evaluated(grid)
    smallest, where = float(values.min()), grid[int(values.argmin())]
    root, random = np.diag(cell), np.random.default_rng(0)
    for _ in range(rounds):
        samples = where + random.standard_normal((_SAMPLES, len(low))) @ root.T
        samples = np.clip(samples, low, high)
        values = evaluated(samples)
        order = np.argsort(values, kind="stable")[:_BEST]
        if values[order[0]] < smallest:
            smallest, where = float(values[order[0]]), samples[order[0]]
        spread = samples[order] - where
        sizes, axes = np.linalg.eigh(spread.T @ spread / _BEST)
        root = _WIDER * axes * np.sqrt(np.maximum(sizes, 0))
        if (np.ptp(samples[order], axis=0) <= 1e-9 * (high - low)).all():
            break
    return smallest, where


def _checked(make: Any, bounds: Any, points: Any, rounds: Any) -> tuple:
    """Names, lower and upper ends, and which axes are geometric; those have logarithms as ends.

    Raises:
        ValueError: an argument of `best` that is out of range.
    """
    if not callable(make):
        raise ValueError(f"best: make is a function that returns a method; got {make!r:.60}")
    if not isinstance(bounds, Mapping) or not 1 <= len(bounds) <= 4:
        raise ValueError(f"best: bounds is a dict of one to four (lowest, highest); got {bounds!r}")
    for name, pair in bounds.items():
        fine = isinstance(pair, tuple | list) and len(pair) == 2
        if not fine or not all(math.isfinite(end) for end in pair) or not pair[0] < pair[1]:
            raise ValueError(f"best: bounds[{name!r}] is (lowest, highest), finite; got {pair!r}")
    whole("best", "points", points, 2)
    whole("best", "rounds", rounds, 0)
    ends = np.array([tuple(pair) for pair in bounds.values()], float)
    geometric = (ends[:, 0] > 0) & (ends[:, 1] >= 10 * ends[:, 0])
    ends[geometric] = np.log(ends[geometric])
    return list(bounds), ends[:, 0], ends[:, 1], geometric
