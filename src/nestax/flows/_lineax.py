"""Solvers of lineax under our interface; lineax is imported only when one is used."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from . import _vectors as vectors
from ._solvers import Attempt, Product, Solver


@dataclasses.dataclass(frozen=True, repr=False)
class Lineax(Solver):
    """A solver of the package lineax, such as `Lineax(lineax.GMRES(rtol=1e-6, atol=1e-6))`.

    For systems that the other solvers do not cover. Where lineax needs the matrix itself
    (`lineax.LU` and other direct solvers) it differentiates products in forward mode, which a
    product that contains an implicit derivative does not have: use `Dense` there. Its operators do
    not work within `jax.shard_map`, and its CG returns NaN in float32 for large matrices of small
    scale.

    Attributes:
        solver: a `lineax.AbstractLinearSolver`.
        tags: lineax's tags of the matrix, such as `lineax.positive_semidefinite_tag`, if the solver
            asks for them. A tagged system counts as symmetric.

    Raises:
        ImportError: at the first solve, if lineax is not installed.
    """

    solver: Any
    tags: Any = ()

    @property
    def symmetric(self) -> bool:
        return self.tags != () and self.tags != frozenset()

    def attempt(self, product: Product, vector: PyTree) -> Attempt:
        """See `Solver.attempt`.

        Raises:
            ImportError: lineax is not installed.
        """
        try:
            import lineax  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                "nestax.Lineax needs the package lineax: pip install lineax. "
                "CG, Neumann, Nystrom, Dense and Identity do without it"
            ) from error
        structure = jax.eval_shape(lambda x: x, vector)
        operator = lineax.FunctionLinearOperator(product, structure, tags=self.tags)
        found = lineax.linear_solve(operator, vector, self.solver, throw=False)
        length = vectors.norm(vector)
        products = jnp.asarray(found.stats.get("num_steps", -1), jnp.int32)
        # Running out of steps is what a residual is for, not divergence.
        fine = (found.result == lineax.RESULTS.successful) | (
            found.result == lineax.RESULTS.max_steps_reached
        )
        return Attempt(found.value, products + jnp.zeros_like(length, jnp.int32), ~fine)
