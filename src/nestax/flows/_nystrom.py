"""The Nyström approximation: a low-rank Hessian from one batch of products, inverted exactly."""

import dataclasses
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from . import _vectors as vectors
from ._solvers import Attempt, Product, Solver, check_count, check_number


@dataclasses.dataclass(frozen=True, repr=False)
class Nystrom(Solver):
    """Low-rank approximation of a symmetric positive semi-definite A, inverted in closed form.

    With an orthonormal random W of `rank` directions and Y = A W,

    ```text
    A_W = Y (W' Y)^-1 Y' = U diag(l_1 >= ... >= l_rank) U',
    x   = U (diag(l) + damping)^-1 U' b + (b - U U' b) / (tail + damping),
    ```

    computed from one batched product and small eigenvalue problems only. There is no step size and
    no iteration. If rank >= the number of coordinates, W is the identity, and x is exact up to
    damping.

    Hataya and Yamada treat directions outside the sketch as flat: tail = 0, their formula (6) up to
    the choice of W. The default, tail = l_rank, treats them like the least curved direction of the
    sketch. That is about right for a matrix of lower rank plus a multiple of I (weight decay), and
    the part of x outside the sketch is never larger than the part inside.

    Example:
        ```python
        matrix, b = jnp.array([[2.0, 1.0], [1.0, 3.0]]), jnp.array([3.0, 4.0])
        x, info = nx.flows.solve_linear(nx.Nystrom(rank=2), jnp.matmul, matrix, b)
        print(jnp.round(x, 3), info.products)  # [1. 1.] 2
        ```

    Attributes:
        rank: number of directions in the sketch, and of products.
        damping: added to every eigenvalue. None: `(rounding unit)^(2/3)` times the largest
            eigenvalue (2e-5 of it in float32), about the smallest that keeps rounding harmless. The
            solution then does not depend on the scale of A.
        tail: "captured" or "zero", see above. "zero" needs a positive damping, 0.1 in the paper.
        seed: seed of W, the same for every solve.

    Raises:
        ValueError: `rank` is not a whole number of at least 1; a damping below 0; another tail, or
            "zero" without a damping; a seed outside [0, 2^32).

    Source: Hataya and Yamada, "Nyström method for accurate and scalable implicit differentiation"
    (2023), formula (6); Frangella, Tropp and Udell, "Randomized Nyström preconditioning" (2023),
    equation (1.3) and algorithm 2.1, for `tail="captured"` and the stable form.
    """

    rank: int = 10
    damping: float | int | None = None
    tail: str = "captured"
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("Nystrom", "rank", self.rank)
        if self.damping is not None:
            check_number("Nystrom", "damping", self.damping, least=0)
        if isinstance(self.seed, bool) or not 0 <= self.seed < 2**32:
            raise ValueError(f"Nystrom: seed must be in [0, 2^32), got {self.seed!r}")
        if self.tail not in ("captured", "zero"):
            raise ValueError(f'Nystrom: tail must be "captured" or "zero", got {self.tail!r}')
        if self.tail == "zero" and not self.damping:
            raise ValueError(
                'Nystrom: tail="zero" divides by the damping; pass a positive one, such as 0.1'
            )

    @property
    def symmetric(self) -> bool:
        return True

    def attempt(self, product: Product, vector: PyTree) -> Attempt:
        size = sum(a.size for a in jax.tree.leaves(vector))
        rank = min(self.rank, size)
        sketch = _unit_vectors(vector) if rank == size else _random(vector, rank, self.seed)
        image = jax.vmap(product)(sketch)
        core = _gram(sketch, image)
        # A_W = F F' with F = Y core^(-1/2); its small twin F' F has the same eigenvalues.
        half, _ = _inverse_root((core + core.T) / 2)
        factor = _combine(half, image)
        inverse, values = _inverse_root(_gram(factor, factor))
        basis = _combine(inverse, factor)
        largest, captured = values[-1], values > 0
        if self.damping is None:
            damping = float(jnp.finfo(values.dtype).eps) ** (2 / 3) * largest
        else:
            damping = jnp.full_like(largest, self.damping)
        tail = jnp.zeros_like(largest)
        if self.tail == "captured":
            tail = jnp.min(jnp.where(captured, values, largest))
        inside = _coefficients(basis, vector)
        # Nothing captured, nothing known: A = 0 as far as we can see.
        safe = lambda a: jnp.where(a > 0, 1 / jnp.where(a > 0, a, 1), 0)  # noqa: E731
        outside = safe(tail + damping)
        weights = jnp.where(captured, safe(values + damping) - outside, 0) * inside
        correction = _expand(basis, weights)
        solution = vectors.plus(correction, outside, vector)
        return Attempt(solution, jnp.zeros_like(largest, jnp.int32) + rank)


def _unit_vectors(vector: PyTree) -> PyTree:
    flat, unravel = jax.flatten_util.ravel_pytree(vector)
    return jax.vmap(unravel)(jnp.eye(flat.size, dtype=flat.dtype) + jnp.zeros_like(flat)[:, None])


def _random(vector: PyTree, rank: int, seed: int) -> PyTree:
    """`rank` orthonormal directions; a leading axis on every leaf."""
    leaves, treedef = jax.tree.flatten(vector)
    # In one draw: compiling a generator takes seconds on a CPU, for each leaf if each has its own.
    size, dtype = sum(a.size for a in leaves), jnp.result_type(*leaves)
    drawn = jax.random.normal(jax.random.key(seed), (rank, size), dtype)
    columns, start = [], 0
    for a in leaves:
        part = jax.lax.slice_in_dim(drawn, start, start + a.size, axis=1)
        columns.append(part.reshape(rank, *a.shape).astype(a.dtype) + jnp.zeros_like(a)[None])
        start += a.size
    sketch = treedef.unflatten(columns)
    for _ in range(2):  # once leaves what the condition of the Gram matrix spoils
        sketch = _combine(_inverse_root(_gram(sketch, sketch))[0], sketch)
    return sketch


def _inverse_root(matrix: Array) -> tuple[Array, Array]:
    """V diag(l)^(-1/2) and l, ascending; what rounding makes of zero is 0 in both."""
    values, axes = jnp.linalg.eigh(matrix)
    floor = matrix.shape[0] * float(jnp.finfo(matrix.dtype).eps) * jnp.max(jnp.abs(values))
    kept = values > floor
    root = jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, values, 1)), 0)
    # NaN must stay one.
    values = jnp.where(kept | jnp.isnan(values), values, 0)
    return axes * root[None, :], values


def _gram(x: PyTree, y: PyTree) -> Array:
    return _sum(jax.tree.map(lambda a, b: _matmul(_flat(a), _flat(b).T), x, y))


def _coefficients(x: PyTree, vector: PyTree) -> Array:
    return _sum(jax.tree.map(lambda a, b: _matmul(_flat(a), b.reshape(-1)), x, vector))


def _combine(matrix: Array, x: PyTree) -> PyTree:
    """Column j of the result: sum_i matrix[i, j] x[i]."""
    return jax.tree.map(lambda a: _matmul(matrix.T, _flat(a)).reshape(a.shape), x)


def _expand(x: PyTree, weights: Array) -> PyTree:
    return jax.tree.map(lambda a: _matmul(weights, _flat(a)).reshape(a.shape[1:]), x)


def _flat(a: Array) -> Array:
    return a.reshape(a.shape[0], -1)


def _matmul(a: Array, b: Array) -> Array:
    # Matmul units that round to 10 bits would spoil small eigenvalues.
    return jnp.matmul(a.astype(b.dtype), b, precision=jax.lax.Precision.HIGHEST)


def _sum(tree: PyTree) -> Any:
    return sum(jax.tree.leaves(tree))
