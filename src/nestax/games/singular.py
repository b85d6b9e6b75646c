"""Singular values of a product of matrices, whatever their scales.

Neither the product nor its largest entries are formed: they overflow, and round away every singular
value below the precision times the largest. Blocks of orthonormal vectors are carried along the
factors; what a block has grown by stays a triangular matrix, whose rows carry a logarithm each.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Apply = Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Factors:
    """The factors of a product, the first one applied first.

    Attributes:
        data: pytree of arrays whose leading axis counts the factors.
        forward: `(one factor's data, block) -> (J block, noise)`. `noise` has one number for each
            column: below it, rounding is all that is left of the column.
        backward: as `forward`, with the transpose of J.
    """

    data: Any
    forward: Apply
    backward: Apply


def right_singular_vectors(
    factors: Factors, start: jax.Array, wanted: int, sweeps: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The leading right singular vectors of a product, by sweeps of the block through the factors.

    Each sweep is one step of subspace iteration with a Rayleigh-Ritz step. If the block has as many
    columns as rows the second sweep is exact; it stops there.

    Args:
        factors: the factors.
        start: a block of orthonormal columns, shape (n, p).
        wanted: how many vectors must be right; the others help them to converge.
        sweeps: the largest number of sweeps.

    Returns:
        `(vectors, logarithms, residuals)`: shape (n, p), columns of zeros where the product is
        singular; the logarithms of the p singular values, largest first, -inf for those columns;
        by how much each vector turned out of the block in the last sweep.
    """
    eps = jnp.finfo(start.dtype).eps

    def unfinished(carry: Any) -> jax.Array:
        count, *_, residuals = carry
        return (count < 2) | ((count < sweeps) & jnp.any(residuals[:wanted] > eps**0.7))

    def sweep(carry: Any) -> Any:
        count, old, *_ = carry
        image, grown, _ = carried(factors, old)
        image = image[:, jnp.argsort(-grown)]
        new, logarithms, rows = carried_back(factors, image)
        logarithms, turn = row_singular_values(rows, logarithms)
        order = jnp.argsort(-logarithms)
        new = new @ turn[:, order]
        residuals = jnp.linalg.norm(new - old @ (old.T @ new), axis=0)
        return count + 1, new, logarithms[order], residuals

    zeros = jnp.zeros(start.shape[1], start.dtype)
    _, *found = lax.while_loop(unfinished, sweep, (0, start, zeros, zeros))
    return tuple(found)


def carried(factors: Factors, block: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Carries a block through the factors.

    Returns:
        The orthonormal block at the end, shape (n, p), the sum of the logarithms of the diagonals,
        shape (p,), and for each factor which columns are alive: larger than the noise.
    """

    def step(carry: Any, data: Any) -> Any:
        block, logarithms = carry
        block, triangle, scale, alive = orthonormal(*factors.forward(data, block))
        return (block, logarithms + grown(triangle, scale, alive)), alive

    start = (block, jnp.zeros(block.shape[1], block.dtype))
    (block, logarithms), alive = lax.scan(step, start, factors.data)
    return block, logarithms, alive


def carried_back(factors: Factors, block: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Carries a block back through the transposed factors.

    Returns:
        `(block, logarithms, rows)`: the orthonormal block at the start, and the triangular matrix
        `exp(logarithms)[:, None] * rows` by which it grew; the rows have norm 1, or are 0.
    """

    def step(carry: Any, data: Any) -> Any:
        block, logarithms, rows = carry
        block, triangle, scale, _ = orthonormal(*factors.backward(data, block))
        return (block, *_times(triangle, scale, logarithms, rows)), None

    p = block.shape[1]
    start = (block, jnp.zeros(p, block.dtype), jnp.eye(p, dtype=block.dtype))
    (block, logarithms, rows), _ = lax.scan(step, start, factors.data, reverse=True)
    return block, logarithms, rows


def orthonormal(
    columns: jax.Array, noise: jax.Array | None = None, alive: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """`columns = q (triangle * scale)`, by Gram-Schmidt, twice for each column.

    A column that depends on those before it becomes a column of zeros in q, and takes no part in
    what follows: a factor may be singular. Derivatives pass.

    Args:
        columns: shape (n, p).
        noise: shape (p,), how small a column is that counts as zero.
        alive: shape (p,), instead of `noise`: which columns are not zero.

    Returns:
        `(q, triangle, scale, alive)` of shapes (n, p), (p, p), (p,), (p,). `scale` is constant to
        derivatives, which are right for the logarithm of `triangle * scale`.
    """
    scale = lax.stop_gradient(jnp.max(jnp.abs(columns), axis=0))
    scale = jnp.where(scale == 0, 1, scale)
    columns = columns / scale[None, :]
    p = columns.shape[1]
    known = jnp.ones(p, bool) if alive is None else alive
    limit = jnp.zeros(p, columns.dtype) if noise is None else noise / scale

    def add(q: Any, given: Any) -> Any:
        place, column, limit, known = given
        first = q.T @ column
        column = column - q @ first
        second = q.T @ column
        column = column - q @ second
        square = column @ column
        # NaN is alive: it must not pass for a zero.
        alive = known & ~(lax.stop_gradient(square) <= limit**2)
        size = jnp.sqrt(jnp.where(alive, square, 1))
        q = q.at[:, place].set(jnp.where(alive, column / size, 0))
        return q, ((first + second).at[place].set(jnp.where(alive, size, 0)), alive)

    start = jnp.zeros_like(columns)
    q, (triangle, left) = lax.scan(add, start, (jnp.arange(p), columns.T, limit, known))
    return q, triangle.T, scale, left


def grown(triangle: jax.Array, scale: jax.Array, alive: jax.Array) -> jax.Array:
    """The logarithms of a triangle's diagonal, -inf for columns that are not alive."""
    diagonal = jnp.where(alive, jnp.diag(triangle), 1)
    return jnp.where(alive, jnp.log(diagonal) + jnp.log(scale), -jnp.inf)


def row_singular_values(rows: jax.Array, logarithms: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Singular values of `exp(logarithms)[:, None] * rows`, by Jacobi's method on the rows.

    Rows are rotated in pairs until all are orthogonal. Where rows of norm 1 are far from dependent,
    each singular value is right to its own last digits, however small it is beside the others.

    Returns:
        The logarithms of the singular values in no order, and the matrix of left singular vectors.
    """
    p = rows.shape[0]
    rounds = jnp.asarray(_rounds(p))
    tolerance = 4 * p * jnp.finfo(rows.dtype).eps

    def rotate(carry: Any, pairs: jax.Array) -> Any:
        rows, logarithms, turn, largest = carry
        swap = logarithms[pairs[:, 0]] < logarithms[pairs[:, 1]]
        i = jnp.where(swap, pairs[:, 1], pairs[:, 0])
        j = jnp.where(swap, pairs[:, 0], pairs[:, 1])
        a, b, low = rows[i], rows[j], logarithms[j]
        dead = jnp.isneginf(low)
        ratio = jnp.exp(jnp.where(dead, -jnp.inf, low - jnp.where(dead, 0, logarithms[i])))
        cosine = jnp.sum(a * b, axis=1)
        gap = 1 - ratio**2
        below = gap + jnp.sqrt(gap**2 + (2 * cosine * ratio) ** 2)
        tangent = jnp.where(cosine == 0, 0, -2 * cosine / jnp.where(below == 0, 1, below))
        c = lax.rsqrt(1 + (tangent * ratio) ** 2)[:, None]
        t, r = tangent[:, None], ratio[:, None]
        larger, smaller = c * (a - t * r**2 * b), c * (b + t * a)
        u, v = turn[:, i], turn[:, j]
        turn = turn.at[:, i].set((u - v * (t * r).T) * c.T)
        turn = turn.at[:, j].set((v + u * (t * r).T) * c.T)
        for place, row in ((i, larger), (j, smaller)):
            size = jnp.linalg.norm(row, axis=1)
            here = size > 0
            rows = rows.at[place].set(row / jnp.where(here, size, 1)[:, None])
            added = jnp.where(here, jnp.log(jnp.where(here, size, 1)), -jnp.inf)
            logarithms = logarithms.at[place].add(added)
        return (rows, logarithms, turn, jnp.maximum(largest, jnp.max(jnp.abs(cosine)))), None

    def unfinished(carry: Any) -> jax.Array:
        count, (*_, largest) = carry
        return (count < 30) & (largest > tolerance)

    def sweep(carry: Any) -> Any:
        count, (*state, _) = carry
        return count + 1, lax.scan(rotate, (*state, jnp.zeros((), rows.dtype)), rounds)[0]

    state = (rows, logarithms, jnp.eye(p, dtype=rows.dtype), jnp.ones((), rows.dtype))
    if p > 1:
        _, state = lax.while_loop(unfinished, sweep, (0, state))
    return state[1], state[2]


def _times(
    triangle: jax.Array, scale: jax.Array, logarithms: jax.Array, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`(triangle * scale) @ (exp(logarithms)[:, None] * rows)`, in the same form."""
    size = jnp.abs(triangle)
    weights = jnp.where(size > 0, jnp.log(jnp.where(size > 0, size, 1)), -jnp.inf)
    weights = weights + (jnp.log(scale) + logarithms)[None, :]
    top = jnp.max(weights, axis=1)
    top = jnp.where(jnp.isneginf(top), 0, top)
    rows = (jnp.sign(triangle) * jnp.exp(weights - top[:, None])) @ rows
    size = jnp.linalg.norm(rows, axis=1)
    zero = size == 0
    size = jnp.where(zero, 1, size)
    return jnp.where(zero, -jnp.inf, top + jnp.log(size)), rows / size[:, None]


def _rounds(p: int) -> np.ndarray:
    """Every pair of p rows once, in rounds of pairs that have no row in common.

    Shape (rounds, pairs, 2). For an odd p one row rests in each round.
    """
    players = [*range(p + p % 2)]
    rounds = []
    for _ in range(len(players) - 1):
        half = len(players) // 2
        pairs = zip(players[:half], reversed(players[half:]), strict=True)
        rounds.append([pair for pair in pairs if max(pair) < p])
        players = [players[0], players[-1], *players[1:-1]]
    return np.array(rounds, np.int32)
