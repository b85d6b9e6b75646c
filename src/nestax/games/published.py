"""The exponents that generalized Ridge Rider was published with."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .checks import whole
from .jacobians import Jacobians, Map, vector_map


def published_exponent(
    f: Map,
    x: Any,
    steps: int,
    direction: str = "first",
    *,
    matrix: str = "J^T J",
    iterations: int = 10,
) -> jax.Array:
    """The exponent of the publication: mean logarithm of squared growth along one direction.

    It is `mean_t log(d^T M_t d)` over the steps t, where M_t is J_t^T J_t or J_t J_t^T, and d a
    unit vector that power iteration finds. It differs from the true exponent of
    `lyapunov_exponents` in three ways:

    * It counts squared growth, so where nothing else differs it is twice the true one.
    * d is not carried along by the Jacobians. "first": d is found at step 0 and then held, which
      gives no bound in general. "each": d is improved at every step; once it has converged this is
      an upper bound of twice the true largest exponent.
    * Power iteration stops after `iterations`, converged or not, from a fixed random start.

    Derivatives pass through the power iteration, to any order.

    Args:
        f: as in `lyapunov_exponents`.
        x: as in `lyapunov_exponents`.
        steps: number of steps, at least 1.
        direction: "first" or "each", see above.
        matrix: "J^T J" as in the article's formula, or "J J^T" as in its published code. With
            "each" both have the same largest eigenvalue, with "first" they differ.
        iterations: of the power method, at least 1.

    Returns:
        A scalar, per step. -inf where a step takes the direction to zero; NaN where the run from x
        becomes infinite or NaN.

    Raises:
        ValueError: as in `lyapunov_exponents`; an unknown direction or matrix; iterations below 1.

    Source: Lorraine et al., "Lyapunov Exponents for Diversity in Differentiable Games" (2022),
        equations of section 3 and the code published with it.
    """
    name = "published_exponent"
    given = vector_map(f, x, name)
    whole(name, "steps", steps, 1)
    whole(name, "iterations", iterations, 1)
    if direction not in ("first", "each"):
        raise ValueError(f"{name}: direction is 'first' or 'each', got {direction!r:.60}")
    if matrix not in ("J^T J", "J J^T"):
        raise ValueError(f"{name}: matrix is 'J^T J' or 'J J^T', got {matrix!r:.60}")
    jacobians = Jacobians.of(given)

    def program(constants: Any, point: jax.Array) -> jax.Array:
        one = jacobians.at(constants)

        def applied(x: jax.Array, d: jax.Array, forth: bool) -> jax.Array:
            """J d, or its transpose's product."""
            block = one.push(x, d[:, None])[1] if forth else one.pull(x, d[:, None])
            return block[:, 0]

        forth = matrix == "J^T J"

        def half(x: jax.Array, d: jax.Array) -> jax.Array:
            """A vector whose squared norm is d^T M d."""
            return applied(x, d, forth)

        def improve(x: jax.Array, d: jax.Array) -> jax.Array:
            def again(d: jax.Array, _: Any) -> Any:
                return _unit(applied(x, _unit(half(x, d)), not forth)), None

            return lax.scan(again, d, length=iterations)[0]

        def step(carry: Any, _: Any) -> Any:
            x, d = carry
            d = improve(x, d) if direction == "each" else d
            return (one.step(x), d), 2 * _log_norm(half(x, d))

        d = _unit(jax.random.normal(jax.random.key(0), point.shape, point.dtype))
        d = improve(point, d) if direction == "first" else d
        return jnp.mean(lax.scan(step, (point, d), length=steps)[1])

    return jax.jit(program)(jacobians.constants, given.point)


def _scaled(vector: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The vector over its largest entry, that entry, and the norm of the former; 1 for zeros."""
    largest = lax.stop_gradient(jnp.max(jnp.abs(vector)))
    largest = jnp.where(largest == 0, 1, largest)
    vector = vector / largest
    square = vector @ vector
    return vector, largest, jnp.sqrt(jnp.where(square == 0, 1, square))


def _unit(vector: jax.Array) -> jax.Array:
    vector, _, norm = _scaled(vector)
    return vector / norm


def _log_norm(vector: jax.Array) -> jax.Array:
    """The logarithm of the norm, -inf with derivative 0 at zero."""
    scaled, largest, norm = _scaled(vector)
    return jnp.where(jnp.any(scaled != 0), jnp.log(norm) + jnp.log(largest), -jnp.inf)
