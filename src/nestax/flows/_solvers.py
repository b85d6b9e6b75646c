"""Linear solvers: how an inverse-Hessian-vector product is approximated, and how well it was.

A solver sees its matrix A only through products with vectors. None of them is differentiated
through: `solve_linear` and the implicit rules give their derivatives.
"""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from . import _vectors as vectors
from ._brief import Brief

Product = Callable[[PyTree], PyTree]


class SolveInfo(NamedTuple):
    """The quality of a solve; scalars.

    Attributes:
        residual: `|b - A x| / |b|` of the undamped system; 0 where b is 0.
        products: number of products with A that were needed for x; -1 if unknown. The product for
            the residual is not counted.
        diverged: whether x is not finite, or the solver broke down or moved away from the solution.
    """

    residual: Array
    products: Array
    diverged: Array


class Attempt(NamedTuple):
    """The result of `Solver.attempt`, for a right-hand side of norm 1.

    Attributes:
        solution: a pytree like the right-hand side.
        products: number of products with A; -1 if unknown.
        failed: whether the method broke down or moved away from the solution.
        bound: a relative residual above this counts as divergence.
    """

    solution: PyTree
    products: Array | int
    failed: Array | bool = False
    bound: Array | float = math.inf


@dataclasses.dataclass(frozen=True, repr=False)
class Solver(Brief, abc.ABC):
    """Approximates the solution x of A x = b from products with A alone.

    To write a solver, derive a frozen dataclass that defines `symmetric` and `attempt`.

    Attributes:
        truncated: whether it stops early by design, so that a residual is no reason for doubt.
    """

    truncated: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def symmetric(self) -> bool:
        """Whether A must be symmetric.

        The Hessian of one inner objective is symmetric; the Jacobian of a game's field is not.
        """

    @abc.abstractmethod
    def attempt(self, product: Product, vector: PyTree) -> Attempt:
        """One solve, without scaling and checks; called by `solve`.

        Args:
            product: `x -> A x` on pytrees like `vector`.
            vector: b, of norm 1 (or 0), in float32 or wider.

        Returns:
            An `Attempt`.
        """

    def solve(self, product: Product, vector: PyTree) -> tuple[PyTree, SolveInfo]:
        """Solves A x = b.

        b is scaled to norm 1 first, and low precisions are computed in float32, so that neither the
        scale nor the dtype of b matters. If b is zero, so is x.

        Args:
            product: `x -> A x` on pytrees like `vector`; must be linear.
            vector: b, a pytree of real floating arrays.

        Returns:
            (x, info): x has the structure, shapes and dtypes of `vector`; info is a `SolveInfo`.

        Raises:
            TypeError: `vector` contains other leaves than real floating arrays.
            ValueError: `product` changes structure or shapes.
        """
        vector = jax.tree.map(jnp.asarray, vector)
        _check_vector(vector)

        def wide(x: PyTree) -> PyTree:
            narrow = jax.tree.map(lambda a, b: a.astype(b.dtype), x, vector)
            out = product(narrow)
            _check_product(narrow, out)
            return jax.tree.map(lambda a, b: jnp.asarray(a).astype(b.dtype), out, x)

        length = vectors.norm(vector)
        zero = length == 0
        divisor = jnp.where(zero, 1, length)
        unit = [vectors.widen(a) for a in jax.tree.leaves(vector)]
        unit = [a / divisor.astype(a.dtype) for a in unit]
        unit = jax.tree.unflatten(jax.tree.structure(vector), unit)
        solution, products, failed, bound = self.attempt(wide, unit)
        # Outside of every loop, so that a compiler drops it where nobody asks for the residual.
        residual = vectors.norm(jax.tree.map(jnp.subtract, unit, wide(solution)))
        solution = vectors.where(
            zero, jax.tree.map(jnp.zeros_like, unit), vectors.scaled(length, solution)
        )
        finite = jnp.isfinite(residual) & jnp.isfinite(vectors.norm(solution))
        info = SolveInfo(
            residual=jnp.where(zero, 0, residual),
            products=jnp.asarray(products, jnp.int32),
            diverged=~zero & (~finite | failed | (residual > bound)),
        )
        return jax.tree.map(lambda a, b: a.astype(b.dtype), solution, vector), info


@dataclasses.dataclass(frozen=True, repr=False)
class Dense(Solver):
    """Computes all of A, by one batch of products with the unit vectors, and factorizes it (LU).

    Exact for every regular A, symmetric or not. Memory is (numbers in b)^2, plus (numbers in b)
    times the memory of one product.
    """

    @property
    def symmetric(self) -> bool:
        return False

    def attempt(self, product: Product, vector: PyTree) -> Attempt:
        flat, unravel = jax.flatten_util.ravel_pytree(vector)

        def column(basis: Array) -> Array:
            return jax.flatten_util.ravel_pytree(product(unravel(basis)))[0]

        basis = jnp.eye(flat.size, dtype=flat.dtype) + jnp.zeros_like(flat)[:, None]
        matrix = jax.vmap(column, out_axes=1)(basis)
        solution = jnp.linalg.solve(matrix, flat)
        return Attempt(unravel(solution), jnp.zeros_like(flat[0], jnp.int32) + flat.size)


@dataclasses.dataclass(frozen=True, repr=False)
class Identity(Solver):
    """x = scale b: A is replaced by I / scale, and no product is needed.

    With the inner step size as scale it equals `Neumann(1, rate)` and one-step differentiation.
    Another scale changes the direction of the gradient too, if there is a direct term.

    Attributes:
        scale: the factor.

    Raises:
        ValueError: `scale` is not a finite Python number.

    Source: the T1-T2 method of Luketina, Berglund, Greff and Raiko, "Scalable gradient-based tuning
    of continuous regularization hyperparameters" (2016).
    """

    truncated: ClassVar[bool] = True
    scale: float | int = 1.0

    def __post_init__(self) -> None:
        check_number("Identity", "scale", self.scale)

    @property
    def symmetric(self) -> bool:
        return False

    def attempt(self, product: Product, vector: PyTree) -> Attempt:
        del product
        length = vectors.norm(vector)
        solution = vectors.scaled(jnp.full_like(length, self.scale), vector)
        return Attempt(solution, jnp.zeros_like(length, jnp.int32))


def check_count(owner: str, name: str, value: Any) -> None:
    """Refuses what is not a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{owner}: {name} must be an integer of at least 1, got {value!r}")


def check_number(owner: str, name: str, value: Any, least: float | int | None = None) -> None:
    """Refuses what is not a finite Python number: solvers and flows are static, they cannot hold
    arrays."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not known or not math.isfinite(value) or (least is not None and value < least):
        bound = "" if least is None else f" of at least {least}"
        raise ValueError(
            f"{owner}: {name} must be a finite Python number{bound}, got {value!r}; "
            f"{owner} is a fixed part of the program and cannot hold traced arrays"
        )


def check_solver(owner: str, solver: Any) -> None:
    """Refuses what is no solver, with a hint for the usual slip of passing the class."""
    if not isinstance(solver, Solver):
        hint = f"; call it: {solver.__name__}(...)" if isinstance(solver, type) else ""
        raise TypeError(
            f"{owner}: solver must be CG, Neumann, Nystrom, Dense, Identity, GMRES, Lineax or "
            f"another Solver, got {solver!r}{hint}"
        )


def _check_vector(vector: PyTree) -> None:
    leaves = jax.tree.leaves(vector)
    bad = [a.dtype for a in leaves if not jnp.issubdtype(a.dtype, jnp.floating)]
    if bad or not leaves:
        raise TypeError(
            "the right-hand side of a linear system must be a pytree of real floating arrays, "
            f"got {'no arrays' if not leaves else bad}"
        )


def _check_product(x: PyTree, out: PyTree) -> None:
    same = jax.tree.structure(x) == jax.tree.structure(out)
    if not same or [a.shape for a in jax.tree.leaves(x)] != [
        jnp.shape(a) for a in jax.tree.leaves(out)
    ]:
        raise ValueError(
            "a product must return a pytree with the structure and shapes of its argument; got "
            f"{jax.tree.map(jnp.shape, out)} for {jax.tree.map(jnp.shape, x)}"
        )
