"""Iterative solvers: conjugate gradients, minimal residuals and the Neumann series."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.scipy.sparse.linalg
from jaxtyping import Array, PyTree

from . import _vectors as vectors
from ._solvers import Attempt, Product, Solver, check_count, check_number


@dataclasses.dataclass(frozen=True, repr=False)
class CG(Solver):
    """Conjugate gradients on A + damping I, where A is symmetric and definite, of either sign.

    Exact after as many steps as A has distinct eigenvalues. Stops at a relative residual, or at a
    direction whose curvature is below the rounding error of the largest eigenvalue. A breakdown
    before convergence is reported as divergence.

    Within `jax.shard_map` all steps are always run, and converged iterates no longer change: if the
    product communicates, devices that stop at different steps would wait for each other forever.

    Example:
        ```python
        matrix, b = jnp.array([[2.0, 1.0], [1.0, 3.0]]), jnp.array([3.0, 4.0])
        x, info = nx.flows.solve_linear(nx.CG(5), jnp.matmul, matrix, b)
        print(jnp.round(x, 3), info.products)  # [1. 1.] 2
        ```

    Attributes:
        steps: largest number of products.
        tolerance: relative residual at which to stop. None: 10 units of rounding.
        damping: added to every eigenvalue. The reported residual is that of A itself.

    Raises:
        ValueError: `steps` is not a whole number of at least 1; `tolerance` or `damping` is not a
            finite Python number of at least 0.

    Source: Hestenes and Stiefel, "Methods of conjugate gradients for solving linear systems"
    (1952), equations (3:1a-f).
    """

    steps: int = 20
    tolerance: float | int | None = None
    damping: float | int = 0.0

    def __post_init__(self) -> None:
        check_count("CG", "steps", self.steps)
        if self.tolerance is not None:
            check_number("CG", "tolerance", self.tolerance, least=0)
        check_number("CG", "damping", self.damping, least=0)

    @property
    def symmetric(self) -> bool:
        return True

    def attempt(self, product: Product, vector: PyTree) -> Attempt:
        class Carry(NamedTuple):
            x: PyTree
            r: PyTree  # b - (A + damping I) x
            p: PyTree
            rr: Array  # <r, r>
            largest: Array  # |A p| / |p| met so far
            products: Array
            broken: Array

        rr = vectors.dot(vector, vector)
        eps = jnp.finfo(rr.dtype).eps
        target = (10 * float(eps) if self.tolerance is None else self.tolerance) ** 2
        start = Carry(
            x=jax.tree.map(jnp.zeros_like, vector),
            r=vector,
            p=vector,
            rr=rr,
            largest=jnp.zeros_like(rr),
            products=jnp.zeros_like(rr, jnp.int32),
            broken=jnp.zeros_like(rr, bool),
        )

        def active(c: Carry) -> Array:
            return (c.products < self.steps) & (c.rr > target) & ~c.broken

        def step(c: Carry) -> Carry:
            q = product(c.p)
            if self.damping:
                q = vectors.plus(q, jnp.asarray(self.damping), c.p)
            pq, pp = vectors.dot(c.p, q), vectors.dot(c.p, c.p)
            largest = jnp.maximum(c.largest, jnp.sqrt(vectors.dot(q, q) / pp))
            sound = jnp.abs(pq) > eps * largest * pp
            # A product that is not finite must not pass for an answer.
            alpha = jnp.where(sound, c.rr / jnp.where(sound, pq, 1), 0 * pq)
            r = vectors.where(sound, vectors.plus(c.r, -alpha, q), c.r)
            rr = vectors.dot(r, r)
            return Carry(
                x=vectors.plus(c.x, alpha, c.p),
                r=r,
                p=vectors.plus(r, rr / c.rr, c.p),
                rr=rr,
                largest=largest,
                products=c.products + 1,
                broken=~sound,
            )

        if jax.sharding.get_abstract_mesh().manual_axes:
            frozen = lambda _, c: vectors.where(active(c), step(c), c)  # noqa: E731
            end = jax.lax.fori_loop(0, self.steps, frozen, start)
        else:
            end = jax.lax.while_loop(active, step, start)
        # Where rounding stops an iteration that has converged, nothing went wrong.
        failed = end.broken & ~(end.rr <= max(1e3 * float(eps), target**0.5) ** 2)
        return Attempt(end.x, end.products, failed)


@dataclasses.dataclass(frozen=True, repr=False)
class Neumann(Solver):
    """The first terms of the Neumann series, `rate * sum_{j < terms} (I - rate A)^j b`.

    At a stationary point this equals reverse mode through `terms` steps of gradient descent with
    that rate. The series converges if and only if every eigenvalue of `I - rate A` is inside the
    unit circle; for a Hessian, if and only if `0 < rate < 2 / largest eigenvalue`. A last term
    larger than the one before, or a residual above 1, is reported as divergence. Truncation has the
    effect of a damping of about 1 / (rate terms).

    Example:
        ```python
        matrix, b = jnp.array([[2.0, 1.0], [1.0, 3.0]]), jnp.array([3.0, 4.0])
        x, info = nx.flows.solve_linear(nx.Neumann(20, rate=0.3), jnp.matmul, matrix, b)
        print(jnp.round(x, 3), info.products)  # [1. 1.] 19
        ```

    Attributes:
        terms: number of terms; `terms - 1` products.
        rate: the step size. "auto": 1 / the eigenvalue of largest magnitude, with its sign, which
            10 steps of power iteration (10 products) estimate from below. The series still
            converges if the estimate is too small by up to a half. "auto" needs a symmetric A; a
            number does not.

    Raises:
        ValueError: `terms` is not a whole number of at least 1; `rate` is neither a finite Python
            number nor "auto".

    Source: Lorraine, Vicol and Duvenaud, "Optimizing millions of hyperparameters by implicit
    differentiation" (2020), algorithm 3, whose result lacks the factor `rate` in some versions.
    """

    truncated: ClassVar[bool] = True
    terms: int = 20
    rate: float | int | str = "auto"

    def __post_init__(self) -> None:
        check_count("Neumann", "terms", self.terms)
        if isinstance(self.rate, str):
            if self.rate != "auto":
                raise ValueError(f'Neumann: rate must be a number or "auto", got {self.rate!r}')
        else:
            check_number("Neumann", "rate", self.rate)

    @property
    def symmetric(self) -> bool:
        return self.rate == "auto"

    def attempt(self, product: Product, vector: PyTree) -> Attempt:
        length = vectors.norm(vector)
        if isinstance(self.rate, str):
            rate, products = _reciprocal_of_largest(product, vector), 10
        else:
            rate, products = jnp.full_like(length, self.rate), 0

        def add(_: Any, carry: tuple) -> tuple:
            term, total, _, last = carry
            term = vectors.plus(term, -rate, product(term))
            total = jax.tree.map(jnp.add, total, term)
            return term, total, last, vectors.dot(term, term)

        square = vectors.dot(vector, vector)
        _, total, last, new = jax.lax.fori_loop(
            0, self.terms - 1, add, (vector, vector, square, square)
        )
        # Rounding of a norm must not count as growth.
        slack = 1 + 100 * float(jnp.finfo(length.dtype).eps)
        return Attempt(
            vectors.scaled(rate, total),
            jnp.zeros_like(length, jnp.int32) + (products + self.terms - 1),
            failed=new > slack**2 * last,
            bound=slack,
        )


@dataclasses.dataclass(frozen=True, repr=False)
class GMRES(Solver):
    """Generalized minimal residuals, for systems that are not symmetric.

    Games, levels with a `Field`, and `Implicit(..., condition="update")` have such systems. Exact
    after as many steps as A has distinct eigenvalues.

    Attributes:
        steps: number of products before a restart; as many vectors are stored.
        restarts: number of times that it begins, each time from the present solution.
        tolerance: relative residual at which to stop. None: 10 units of rounding.

    Raises:
        ValueError: `steps` or `restarts` is not a whole number of at least 1; `tolerance` is not a
            finite Python number of at least 0.

    Source: Saad and Schultz, "GMRES: a generalized minimal residual algorithm" (1986), algorithm 4,
    as in `jax.scipy.sparse.linalg.gmres`.
    """

    steps: int = 20
    restarts: int = 1
    tolerance: float | int | None = None

    def __post_init__(self) -> None:
        check_count("GMRES", "steps", self.steps)
        check_count("GMRES", "restarts", self.restarts)
        if self.tolerance is not None:
            check_number("GMRES", "tolerance", self.tolerance, least=0)

    @property
    def symmetric(self) -> bool:
        return False

    def attempt(self, product: Product, vector: PyTree) -> Attempt:
        flat, unravel = jax.flatten_util.ravel_pytree(vector)
        tolerance = 10 * float(jnp.finfo(flat.dtype).eps)
        # More steps than unknowns find nothing but rounding.
        steps = min(self.steps, flat.size)
        solution, _ = jax.scipy.sparse.linalg.gmres(
            lambda x: jax.flatten_util.ravel_pytree(product(unravel(x)))[0],
            flat,
            tol=tolerance if self.tolerance is None else self.tolerance,
            restart=steps,
            maxiter=self.restarts,
            solve_method="batched",
        )
        count = jnp.zeros_like(flat[0], jnp.int32) + steps * self.restarts
        return Attempt(unravel(solution), count)


def _reciprocal_of_largest(product: Product, vector: PyTree) -> Array:
    """1 / the eigenvalue of largest magnitude, by 10 power iterations; 0 where A is 0.

    The start is the right-hand side, whose own eigenvectors matter, plus a wave over all
    coordinates: through rounding the series sees the others too. With 10 steps even a lone
    eigenvalue among a million others, all of half its size, is found to 80 %.
    """

    def wave(a: Array) -> Array:
        phase = jnp.arange(a.size, dtype=a.dtype).reshape(a.shape)
        return jnp.cos(1 + 2.399963 * phase) + jnp.zeros_like(a)

    other = jax.tree.map(wave, vector)
    start = vectors.plus(vector, 1 / vectors.norm(other), other)

    def iterate(_: Any, carry: tuple) -> tuple:
        v, _ = carry
        v = vectors.scaled(1 / _positive(vectors.norm(v)), v)
        q = product(v)
        return q, jnp.copysign(vectors.norm(q), vectors.dot(v, q))

    size = jax.lax.fori_loop(0, 10, iterate, (start, jnp.zeros_like(vectors.norm(start))))[1]
    return jnp.where(size == 0, 0, 1 / jnp.where(size == 0, 1, size))


def _positive(a: Array) -> Array:
    return jnp.where(a == 0, 1, a)
