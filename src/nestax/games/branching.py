"""Branching points, where nearby runs part: found by ascent on Lyapunov exponents."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer

from .checks import number, whole
from .exponents import with_directions
from .jacobians import Jacobians, Map, VectorMap, vector_map

SWEEPS = 100
OBJECTIVES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "max": lambda exponents: exponents[0],
    "min": lambda exponents: exponents[-1],
    "sum": jnp.sum,
    "entropy": lambda exponents: jnp.sum(jnp.maximum(exponents, 0)),
}


class BranchPoint(NamedTuple):
    """Where runs part most, found by `branch_point`.

    Attributes:
        point: a pytree like the start.
        value: the objective there, a scalar.
        exponents: the n largest exponents there, shape (n,).
        history: the objective before each iteration of the ascent and after the last one, shape
            (iterations + 1,).
    """

    point: Any
    value: jax.Array
    exponents: jax.Array
    history: jax.Array


def branch_point(
    f: Map,
    x: Any,
    steps: int,
    objective: str = "max",
    *,
    n: int = 1,
    optimizer: optax.GradientTransformation | None = None,
    iterations: int = 50,
) -> BranchPoint:
    """Climbs the Lyapunov exponents of a map, to a point where nearby runs part.

    Between the basins of two solutions the exponent has a ridge: runs that begin on its two sides
    end in different ones. The ascent follows the exact gradient of the true exponents. It may run
    under `jax.vmap` over x and under `jax.jit`.

    Example:
        ```python
        f = nx.games.descent(lambda x: x**3 - x, 0.1)  # x moves to -1 or to 1
        found = nx.games.branch_point(f, 0.3, steps=10)
        print(f"{abs(found.point):.2f} {found.value:.4f}")  # 0.00 0.0953
        ```

    Args:
        f: as in `lyapunov_exponents`.
        x: where the ascent begins.
        steps: number of steps of f whose growth counts.
        objective: "max", the largest exponent; of the n largest, "min", the smallest of them,
            "sum", or "entropy", the sum of those above 0.
        n: how many exponents, and how many directions are meant to part.
        optimizer: of the ascent; None: `optax.adam(0.1)`.
        iterations: steps of the ascent, at least 1.

    Returns:
        The best point of the ascent. Where an objective or a gradient is not finite the ascent goes
        back to the best point so far.

    Raises:
        ValueError: as `lyapunov_exponents`; an unknown objective; an objective that is not finite
            at x.
    """
    name = "branch_point"
    given = vector_map(f, x, name)
    steps, n, iterations = check(given, name, steps, objective, n, iterations)
    ascent = Ascent(
        Jacobians.of(given), steps, objective, n, optimizer or optax.adam(0.1), iterations
    )
    vector, value, exponents, history = jax.jit(ascent.climb)(ascent.one.constants, given.point)
    if not isinstance(value, Tracer) and not np.isfinite(value):
        raise ValueError(not_finite(name, objective, history[0]))
    return BranchPoint(given.unravel(vector), value, exponents, history)


def branches(f: Map, x: Any, steps: int, *, n: int = 1, size: Any = 1.0) -> Any:
    """Points on both sides of x along the directions in which runs part most.

    The directions are the leading right singular vectors of the product of the Jacobians: a
    difference along the first grows most within `steps`.

    Args:
        f: as in `lyapunov_exponents`.
        x: a branching point, such as that of `branch_point`.
        steps: number of steps of f whose growth counts.
        n: number of directions.
        size: distance of the points from x, in the units of x; may be traced.

    Returns:
        A pytree like x with a leading axis of 2n: x + size d_1, x - size d_1, x + size d_2, ...
        Leaves that do not move are repeated. `jax.vmap` runs all side by side. A direction whose
        exponent is -inf is not known: both of its points are x.

    Raises:
        ValueError: as `lyapunov_exponents`; a size that is not one finite number.
    """
    name = "branches"
    given = vector_map(f, x, name)
    steps, n, _ = check(given, name, steps, "max", n, 1)
    size = number(name, "size", size)
    one = Jacobians.of(given)
    program = jax.jit(lambda constants, point: split(one.at(constants), point, steps, n, size)[0])
    starts = program(one.constants, given.point)
    return jax.vmap(given.unravel)(starts)


@dataclasses.dataclass(frozen=True)
class Ascent:
    """Gradient ascent on an objective of the exponents."""

    one: Jacobians
    steps: int
    objective: str
    n: int
    optimizer: optax.GradientTransformation
    iterations: int

    def climb(self, constants: Any, point: jax.Array) -> Any:
        """The best point, its objective and exponents, and the objective along the way."""
        one = self.one.at(constants)

        def objective(x: jax.Array) -> Any:
            exponents, _ = with_directions(one, x, self.steps, self.n, SWEEPS)
            return OBJECTIVES[self.objective](exponents), exponents

        def step(carry: Any, _: Any) -> Any:
            x, memory, best = carry
            (value, exponents), slope = jax.value_and_grad(objective, has_aux=True)(x)
            better = jnp.isfinite(value) & ~(value <= best[1])
            best = jax.tree.map(
                lambda new, old: jnp.where(better, new, old), (x, value, exponents), best
            )
            sound = jnp.isfinite(value) & jnp.all(jnp.isfinite(slope))
            down = jnp.where(sound, -slope, 0)
            update, memory = self.optimizer.update(down, memory, x)
            moved: Any = optax.apply_updates(x, update)
            x = jnp.where(sound, moved, best[0])
            return (x, memory, best), value

        none = jnp.full((), -jnp.inf, point.dtype)
        start = (point, none, jnp.full(self.n, jnp.nan, point.dtype))
        (_, _, best), history = lax.scan(
            step, (point, self.optimizer.init(point), start), length=self.iterations + 1
        )
        return *best, history


def split(one: Jacobians, point: jax.Array, steps: int, n: int, size: Any) -> Any:
    """The 2n points beside a point, their unit directions, and the exponents along them."""
    exponents, block = with_directions(one, point, steps, n, SWEEPS)
    largest = jnp.argmax(jnp.abs(block), axis=0)  # a singular vector has no sign of its own
    block = block * jnp.where(jnp.take_along_axis(block, largest[None], 0) < 0, -1, 1)
    directions = jnp.stack([block.T, -block.T], axis=1).reshape(2 * n, -1)
    return point[None] + size * directions, directions, jnp.repeat(exponents, 2)


def check(
    given: VectorMap, name: str, steps: int, objective: str, n: int, iterations: int
) -> tuple[int, int, int]:
    """The numbers `steps`, `n` and `iterations` as Python's."""
    steps, iterations = whole(name, "steps", steps), whole(name, "iterations", iterations)
    n = whole(name, "n", n)
    if n > given.point.size:
        raise ValueError(
            f"{name}: n is at most the {given.point.size} numbers that move in x, got {n}"
        )
    if objective not in OBJECTIVES:
        raise ValueError(
            f"{name}: objective is {' or '.join(map(repr, OBJECTIVES))}, got {objective!r:.60}"
        )
    return steps, n, iterations


def not_finite(name: str, objective: str, value: Any) -> str:
    return (
        f"{name}: the objective {objective!r} is not finite at x, got {float(value)}; begin "
        "elsewhere, or take fewer steps or exponents"
    )
