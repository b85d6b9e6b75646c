"""Maps of complex momentum over learning rate, modulus and argument: one program for all cells."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from .dynamics import check_order, complex_eigenvalues, momentum_radii
from .flat import flat
from .known import holds
from .products import check_point

_FAR = 1e6  # a field that has grown by this factor has diverged


def convergence_map(eigenvalues: Any, rates: Any, moduli: Any, phases: Any) -> jax.Array:
    """The spectral radius of complex momentum for each learning rate, modulus and argument of beta.

    All players have the same beta and move at once. Where the radius is below 1, they converge from
    nearby starts at this rate.

    Example:
        ```python
        rates, moduli = jnp.linspace(0.02, 1, 50), jnp.linspace(0, 0.98, 50)
        radius = nx.games.convergence_map([1j, -1j], rates, moduli, [0.0, jnp.pi / 8])
        print((radius.min((1, 2)) < 1).tolist())  # [False, True]
        ```

    Args:
        eigenvalues: of the joint field's Jacobian, from `spectrum`; shape (n,).
        rates: learning rates, shape (rates,).
        moduli: |beta|, from 0 to 1, shape (moduli,).
        phases: arg beta in radians, shape (phases,).

    Returns:
        Shape (phases, moduli, rates), real.

    Raises:
        ValueError: a known number out of its range or not finite, an axis that is no vector.

    Source: Lorraine et al., "Complex Momentum for Optimization in Games" (2022), Section 3.
    """
    name = "convergence_map"
    eigenvalues = complex_eigenvalues(name, jnp.asarray(eigenvalues))
    axes = _axes(name, rates, moduli, phases, jnp.real(eigenvalues).dtype)
    return _radius_map(eigenvalues, *axes)


def steps_to_converge(
    field: Any,
    values: Any,
    rates: Any,
    moduli: Any,
    phases: Any,
    *,
    tolerance: Any = 1e-3,
    limit: Any = 1000,
    order: Any = "simultaneous",
) -> jax.Array:
    """Runs a game with complex momentum on a grid, and counts the steps until it has converged.

    A run has converged when the norm of its field is at most `tolerance` times the norm at the
    start. It ends early there, or where the norm has grown by 10^6. Rows of the grid (one phase and
    modulus) end when all their runs have ended.

    Example:
        ```python
        field = nx.games.joint_field((lambda x, y: x * y, lambda x, y: -x * y))
        steps = nx.games.steps_to_converge(field, (1.0, 1.0), [0.5], [0.8], [0.0, 0.9])
        print(jnp.isfinite(steps).ravel().tolist())  # [False, True]
        ```

    Args:
        field: values -> pytree like values.
        values: where all runs start, a pytree.
        rates: learning rates of all players, shape (rates,).
        moduli: |beta|, from 0 to 1, shape (moduli,).
        phases: arg beta in radians, shape (phases,).
        tolerance: of the field's norm, relative to the start.
        limit: steps at most.
        order: "simultaneous", or "alternating": each player's gradient is computed where the
            previous players arrived, in the order of `player_slices`; a step then evaluates the
            field once for each player.

    Returns:
        Steps, a float array of shape (phases, moduli, rates); inf where a run has not converged in
        `limit` steps. One compiled program; wrap the call in `jax.jit` to keep it.

    Raises:
        ValueError: as `convergence_map` and `jacobian`; a tolerance or limit out of range.

    Source: Lorraine et al., "Complex Momentum for Optimization in Games" (2022), SimCM and AltCM.
    """
    name = "steps_to_converge"
    check_point(field, values, name)
    if not isinstance(limit, int) or limit < 1:
        raise ValueError(f"{name}: limit is a whole number from 1, got {limit!r:.40}")
    if not isinstance(tolerance, Tracer) and not 0 < tolerance < 1:
        raise ValueError(f"{name}: tolerance is a number between 0 and 1, got {tolerance}")
    function = flat(field, values, f"{name}: the field")
    check_order(name, order, function.players)
    axes = _axes(name, rates, moduli, phases, function.point.dtype)
    moves = list(function.players.values()) if order == "alternating" else [slice(None)]

    @jax.jit
    def program(point: jax.Array, rates: Any, moduli: Any, phases: Any) -> jax.Array:
        def row(cell: tuple[jax.Array, jax.Array]) -> jax.Array:
            beta = cell[0] * jnp.cos(cell[1]), cell[0] * jnp.sin(cell[1])
            return _row(function.function, point, rates, beta, moves, tolerance, limit)

        return _over_rows(row, moduli, phases)

    return program(function.point, *axes)


def _row(
    function: Callable[[jax.Array], jax.Array],
    point: jax.Array,
    rates: jax.Array,
    beta: tuple[jax.Array, jax.Array],
    moves: list[slice],
    tolerance: Any,
    limit: int,
) -> jax.Array:
    """Steps until runs with one beta and several learning rates have converged."""
    re, im = beta
    field = jax.vmap(function)
    first = jnp.linalg.norm(function(point))
    x = jnp.broadcast_to(point, (rates.size, point.size))
    inf = jnp.full(rates.size, jnp.inf, point.dtype)
    rate = rates[:, None]

    def running(carry: tuple) -> jax.Array:
        return (carry[0] <= limit) & carry[-1].any()

    def step(carry: tuple) -> tuple:
        count, x, real, imaginary, steps, active = carry
        gradient = field(x)
        norm = jnp.linalg.norm(gradient, axis=-1)
        there = active & (norm <= tolerance * first)
        steps = jnp.where(there, count.astype(steps.dtype), steps)
        active = active & ~there & (norm <= _FAR * first)
        for number, move in enumerate(moves):
            g = gradient if number == 0 else field(x)
            a, b = real[:, move], imaginary[:, move]
            forward = re * a - im * b + g[:, move]
            real = real.at[:, move].set(forward)
            imaginary = imaginary.at[:, move].set(im * a + re * b)
            x = x.at[:, move].add(-rate * forward)
        return count + 1, x, real, imaginary, steps, active

    zero, everywhere = jnp.zeros_like(x), jnp.ones(rates.size, bool)
    begin = (jnp.array(0), x, zero, zero, inf, everywhere)
    return jax.lax.while_loop(running, step, begin)[-2]


@jax.jit
def _radius_map(eigenvalues: jax.Array, rates: Any, moduli: Any, phases: Any) -> jax.Array:
    def row(cell: tuple[jax.Array, jax.Array]) -> jax.Array:
        re, im = cell[0] * jnp.cos(cell[1]), cell[0] * jnp.sin(cell[1])
        return momentum_radii(eigenvalues[None], rates[:, None], re, im).max(-1)

    return _over_rows(row, moduli, phases)


def _over_rows(row: Callable, moduli: jax.Array, phases: jax.Array) -> jax.Array:
    """row((modulus, phase)) for all pairs, in a loop, so that memory grows with a row only."""
    shape = (phases.size, moduli.size)
    pairs = jnp.broadcast_to(moduli[None, :], shape), jnp.broadcast_to(phases[:, None], shape)
    found = jax.lax.map(row, jax.tree.map(jnp.ravel, pairs))
    return found.reshape(*shape, -1)


def _axes(name: str, rates: Any, moduli: Any, phases: Any, dtype: Any) -> tuple:
    """The axes of a grid.

    Raises:
        ValueError: not a vector of numbers, or a known number out of its range.
    """
    ranges = {"rates": (0, math.inf), "moduli": (0, 1 + 1e-6), "phases": (-math.inf, math.inf)}
    found = []
    for (axis, (low, high)), given in zip(ranges.items(), (rates, moduli, phases), strict=True):
        values = jnp.asarray(given)
        if values.ndim != 1 or not values.size or jnp.iscomplexobj(values):
            raise ValueError(
                f"{name}: {axis} is a vector of real numbers, got {values.dtype}"
                f"{list(values.shape)}"
            )
        inside = lambda v=values, low=low, high=high: (  # noqa: E731
            (jnp.isfinite(v) & (v >= low) & (v <= high)).all()
        )
        if not holds(inside, values):
            most = "" if high == math.inf else f" to {int(high)}"
            least = "" if low == -math.inf else f" from {low}{most}"
            raise ValueError(f"{name}: {axis} are finite numbers{least}; got {given!r:.80}")
        found.append(values.astype(dtype))
    return tuple(found)
