"""Maps of complex momentum over learning rate, modulus and argument: one program for all cells."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from .checks import holds, whole
from .dynamics import check_order, complex_eigenvalues, momentum_radii
from .flat import flat
from .products import check_point

_FAR = 1e6  # a field that has grown by this factor has diverged
_LANES, _BLOCK = 256, 8  # runs side by side; steps until those that have ended are replaced


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
    start. It ends there, or where the norm has grown by 10^6, and makes room for the next one.

    Example:
        ```python
        field = nx.games.joint_field((lambda x, y: x * y, lambda x, y: -x * y))
        steps = nx.games.steps_to_converge(field, (1.0, 1.0), [0.5], [0.7], [0.0, 1.1])
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
        Steps, float32 at least, of shape (phases, moduli, rates); inf where a run has not
        converged in `limit` steps. One compiled program; wrap the call in `jax.jit` to keep it.

    Raises:
        ValueError: as `convergence_map` and `jacobian`; a tolerance or limit out of range.

    Source: Lorraine et al., "Complex Momentum for Optimization in Games" (2022), SimCM and AltCM.
    """
    name = "steps_to_converge"
    check_point(field, values, name)
    limit = whole(name, "limit", limit)
    if not isinstance(tolerance, Tracer) and not 0 < tolerance < 1:
        raise ValueError(f"{name}: tolerance is a number between 0 and 1, got {tolerance}")
    function = flat(field, values, f"{name}: the field")
    check_order(name, order, function.players)
    axes = _axes(name, rates, moduli, phases, function.point.dtype)
    moves = list(function.players.values()) if order == "alternating" else [slice(None)]

    @jax.jit
    def program(point: jax.Array, rates: Any, moduli: Any, phases: Any) -> jax.Array:
        phase, modulus, rate = jnp.meshgrid(phases, moduli, rates, indexing="ij")
        re, im = modulus * jnp.cos(phase), modulus * jnp.sin(phase)
        settings = rate.ravel(), re.ravel(), im.ravel()
        found = _all_steps(function.function, point, settings, moves, tolerance, limit)
        return found.reshape(rate.shape)

    return program(function.point, *axes)


class _Lanes(NamedTuple):
    """Runs side by side: the cell each of them computes, and where it stands."""

    cell: jax.Array  # beyond the last cell where there are none left
    count: jax.Array
    x: jax.Array
    real: jax.Array
    imaginary: jax.Array
    steps: jax.Array
    active: jax.Array


def _all_steps(
    function: Callable[[jax.Array], jax.Array],
    point: jax.Array,
    settings: tuple[jax.Array, jax.Array, jax.Array],
    moves: list[slice],
    tolerance: Any,
    limit: int,
) -> jax.Array:
    """Steps until convergence for each cell of a flat grid.

    A lane whose run has ended goes on with the next cell, so that nothing waits for the slowest.

    Args:
        function: the field of a vector.
        point: where all runs start.
        settings: learning rates, real and imaginary parts of beta, for each cell.
        moves: the components that move together, in order.
        tolerance: of the field's norm, relative to the start.
        limit: steps at most.
    """
    cells, field = settings[0].size, jax.vmap(function)
    width, first = min(_LANES, cells), jnp.linalg.norm(function(point))
    start, whole = jnp.tile(point, (width, 1)), jnp.result_type(point.dtype, jnp.float32)
    inf = jnp.full(width, jnp.inf, whole)  # 16 bits would round the counts

    def step(lanes: _Lanes, rate: jax.Array, re: jax.Array, im: jax.Array) -> _Lanes:
        _, count, x, real, imaginary, steps, active = lanes
        gradient = field(x)
        norm = jnp.linalg.norm(gradient, axis=-1)
        there = active & (norm <= tolerance * first)
        steps = jnp.where(there, count.astype(steps.dtype), steps)
        active = active & ~there & (norm <= _FAR * first) & (count < limit)
        for number, move in enumerate(moves):
            g = gradient if number == 0 else field(x)
            a, b = real[:, move], imaginary[:, move]
            forward = re * a - im * b + g[:, move]
            real = real.at[:, move].set(forward)
            imaginary = imaginary.at[:, move].set(im * a + re * b)
            x = x.at[:, move].add(-rate * forward)
        return _Lanes(lanes.cell, count + 1, x, real, imaginary, steps, active)

    def work(carry: tuple[_Lanes, jax.Array, jax.Array]) -> tuple[_Lanes, jax.Array, jax.Array]:
        lanes, following, found = carry
        here = [jnp.take(a, lanes.cell, mode="clip")[:, None] for a in settings]
        lanes = jax.lax.fori_loop(0, _BLOCK, lambda _, lanes: step(lanes, *here), lanes)
        ended = ~lanes.active
        found = found.at[jnp.where(ended, lanes.cell, cells)].set(lanes.steps, mode="drop")
        given = jnp.minimum(following + jnp.cumsum(ended) - 1, cells)
        cell = jnp.where(ended, given, lanes.cell).astype(lanes.cell.dtype)
        anew = ended[:, None]
        lanes = _Lanes(
            cell,
            jnp.where(ended, 0, lanes.count),
            jnp.where(anew, start, lanes.x),
            jnp.where(anew, 0, lanes.real),
            jnp.where(anew, 0, lanes.imaginary),
            jnp.where(ended, inf, lanes.steps),
            cell < cells,
        )
        return lanes, following + ended.sum().astype(following.dtype), found

    zero, none = jnp.zeros_like(start), jnp.zeros(width, int)
    lanes = _Lanes(jnp.arange(width), none, start, zero, zero, inf, jnp.ones(width, bool))
    begin = lanes, jnp.array(width), jnp.full(cells, jnp.inf, whole)
    return jax.lax.while_loop(lambda carry: carry[0].active.any(), work, begin)[-1]


@jax.jit
def _radius_map(eigenvalues: jax.Array, rates: Any, moduli: Any, phases: Any) -> jax.Array:
    """In a loop over pairs of modulus and phase, so that memory does not grow with their number."""
    shape = (phases.size, moduli.size)
    pairs = jnp.broadcast_to(moduli[None, :], shape), jnp.broadcast_to(phases[:, None], shape)

    def row(cell: tuple[jax.Array, jax.Array]) -> jax.Array:
        re, im = cell[0] * jnp.cos(cell[1]), cell[0] * jnp.sin(cell[1])
        return momentum_radii(eigenvalues[None], rates[:, None], re, im).max(-1)

    return jax.lax.map(row, jax.tree.map(jnp.ravel, pairs)).reshape(*shape, -1)


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
