"""Arnoldi's iteration: a few eigenvalues of a large matrix that is known by its products only.

Vectors are lists of arrays, which stay as they are spread over devices. One program: the basis
has a place for every product allowed, and the loop ends where the wanted eigenvalues have
converged. A Krylov space that is exhausted early (an invariant subspace: repeated eigenvalues, an
unlucky start) is continued with a random direction, or eigenvalues outside of it would be missed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Leaves = list[jax.Array]

CHECK, AGAIN = 5, 20  # products between two checks; at least as many after an exhausted space
ORDERS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "magnitude": jnp.abs,
    "largest real": jnp.real,
    "smallest real": lambda values: -jnp.real(values),
    "imaginary": lambda values: jnp.abs(jnp.imag(values)),
}


class Found(NamedTuple):
    """Approximate eigenvalues, best first; relative residuals; products; what has converged."""

    values: jax.Array
    residuals: jax.Array
    products: jax.Array
    converged: jax.Array


class _Loop(NamedTuple):
    basis: Leaves  # orthonormal, one row for each product and one more; zero where not made yet
    projected: jax.Array  # Hessenberg, (limit + 1, limit)
    step: jax.Array
    scale: jax.Array  # the longest product so far, a lower bound of the matrix's norm
    renewed: jax.Array  # the step before which the space was last exhausted
    found: Found


def sorted_eigenvalues(values: jax.Array, which: str, hidden: Any = None) -> jax.Array:
    """Places of eigenvalues in descending order; ties by real part, then by imaginary part."""
    score = ORDERS[which](values)
    if hidden is not None:
        score = jnp.where(hidden, -jnp.inf, score)
    return jnp.lexsort((-jnp.imag(values), -jnp.real(values), -score))


def arnoldi_iteration(
    product: Callable[[Leaves], Leaves],
    start: Leaves,
    key: jax.Array,
    leading: int,
    which: str,
    limit: int,
    tolerance: Any,
) -> Found:
    """Leading eigenvalues of a real matrix.

    Args:
        product: v -> J v.
        start: the first direction, not zero, real, in the dtype of the computation.
        key: of the directions that continue an exhausted space.
        leading: how many eigenvalues, at most `limit`.
        which: a key of `ORDERS`.
        limit: products at most, at most the size of the matrix.
        tolerance: largest |J v - lambda v| / (|lambda| |v|) that counts as converged.
    """
    size, dtype = sum(leaf.size for leaf in start), start[0].dtype
    tiny = jnp.finfo(dtype).eps
    complex_dtype = jnp.result_type(dtype, jnp.complex64)

    def dots(basis: Leaves, v: Leaves) -> jax.Array:
        parts = [jnp.tensordot(b, a, a.ndim) for b, a in zip(basis, v, strict=True)]
        return sum(parts[1:], parts[0])

    def without(basis: Leaves, v: Leaves, weights: jax.Array) -> Leaves:
        return [a - jnp.tensordot(weights, b, 1) for b, a in zip(basis, v, strict=True)]

    def orthogonal(basis: Leaves, v: Leaves) -> tuple[Leaves, jax.Array]:
        """Classical Gram-Schmidt, twice."""
        first = dots(basis, v)
        v = without(basis, v, first)
        second = dots(basis, v)
        return without(basis, v, second), first + second

    def unit(v: Leaves) -> Leaves:
        length = _norm(v)
        return [a / jnp.where(length > 0, length, 1) for a in v]

    def fresh(basis: Leaves, step: jax.Array) -> Leaves:
        direction = draw(jax.random.fold_in(key, step), start)
        return unit(orthogonal(basis, unit(orthogonal(basis, direction)[0]))[0])

    def ritz(projected: jax.Array, last: jax.Array, scale: jax.Array) -> Found:
        """Eigenvalues of the projection, whose places after `last` are not filled yet."""
        scale = jnp.where(scale > 0, scale, 1)
        projected = projected / scale
        square, filled = projected[:limit], jnp.arange(limit) <= last
        outside = 4 * jnp.linalg.norm(square) + 1  # larger than every eigenvalue
        square = square + jnp.diag(jnp.where(filled, 0, outside))
        values, vectors = jnp.linalg.eig(square)
        weights = jnp.abs(vectors) ** 2
        hidden = jnp.sum(jnp.where(filled[:, None], 0, weights), 0) > 0.5
        order = sorted_eigenvalues(values, which, hidden)[:leading]
        size = jnp.maximum(jnp.abs(values[order]), 10 * tiny)
        residuals = jnp.abs(projected[last + 1, last] * vectors[last, order]) / size
        residuals = jnp.where(last + 1 >= leading, residuals, jnp.inf)
        found = (scale * values[order]).astype(complex_dtype)
        # Far from normal, rounding alone may move an eigenvalue by its condition number times the
        # size of the matrix, though its residual is small.
        lengths = jnp.linalg.norm(vectors, axis=0) * jnp.linalg.norm(
            jnp.linalg.inv(vectors), axis=1
        )
        moved = lengths[order] * tiny * jnp.linalg.norm(projected) / size
        converged = (residuals <= tolerance) & (moved <= 10 * jnp.sqrt(tiny))
        return Found(found, residuals, last + 1, converged)

    def extend(loop: _Loop) -> _Loop:
        step = loop.step
        direction = [jax.lax.dynamic_index_in_dim(b, step, keepdims=False) for b in loop.basis]
        image = [a.astype(dtype) for a in product(direction)]
        scale = jnp.maximum(loop.scale, _norm(image))
        rest, weights = orthogonal(loop.basis, image)
        length = _norm(rest)
        exhausted = (length <= 100 * tiny * scale) | (step + 1 >= size)
        following = jax.lax.cond(exhausted, lambda: fresh(loop.basis, step), lambda: unit(rest))
        basis = [
            jax.lax.dynamic_update_index_in_dim(b, a, step + 1, 0)
            for b, a in zip(loop.basis, following, strict=True)
        ]
        column = weights.at[step + 1].set(jnp.where(exhausted, 0, length))
        projected = loop.projected.at[:, step].set(column)
        renewed = jnp.where(exhausted, step + 1, loop.renewed)
        due = (((step + 1) % CHECK == 0) | (step + 1 >= limit)) & jnp.isfinite(scale)
        found = jax.lax.cond(due, lambda: ritz(projected, step, scale), lambda: loop.found)
        return _Loop(basis, projected, step + 1, scale, renewed, found)

    def unfinished(loop: _Loop) -> jax.Array:
        least = min(limit, max(2 * CHECK, 2 * leading))
        settled = (loop.step >= least) & ((loop.renewed == 0) | (loop.step >= loop.renewed + AGAIN))
        done = loop.found.converged.all() & settled
        return (loop.step < limit) & jnp.isfinite(loop.scale) & ~done

    nothing = Found(
        jnp.full(leading, jnp.nan, complex_dtype),
        jnp.full(leading, jnp.inf, dtype),
        jnp.array(0),
        jnp.zeros(leading, bool),
    )
    basis = [jnp.zeros((limit + 1, *a.shape), dtype).at[0].set(a) for a in unit(start)]
    zero = jnp.array(0)
    begin = _Loop(
        basis, jnp.zeros((limit + 1, limit), dtype), zero, jnp.zeros((), dtype), zero, nothing
    )
    end = jax.lax.while_loop(unfinished, extend, begin)
    values = jnp.where(jnp.isfinite(end.scale), end.found.values, jnp.nan)
    return end.found._replace(values=values, products=end.step)


def draw(key: jax.Array, like: Leaves) -> Leaves:
    """A random direction. One draw for all leaves: each takes half a second to compile."""
    drawn = jax.random.normal(key, (sum(a.size for a in like),), like[0].dtype)
    found, place = [], 0
    for leaf in like:
        found.append(drawn[place : place + leaf.size].reshape(leaf.shape))
        place += leaf.size
    return found


def _norm(v: Leaves) -> jax.Array:
    """The Euclidean norm, which neither overflows nor underflows where its square would."""
    sizes = [jnp.max(jnp.abs(a), initial=0) for a in v]
    top = jnp.max(jnp.stack(sizes))
    unit = jnp.where(top > 0, top, 1)
    return unit * jnp.sqrt(sum(jnp.sum(jnp.square(a / unit)) for a in v))
