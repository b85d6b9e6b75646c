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
    """Any `lineax` solver, for instance `Lineax(lineax.GMRES(rtol=1e-6, atol=1e-6))`.

    For systems that the solvers here do not cover. lineax differentiates products in forward mode
    where it needs the matrix itself (`lineax.LU` and the other direct ones), which a product that
    contains an implicit derivative does not have: use `Dense` there. Its operators do not work
    within `jax.shard_map`, and its CG answers NaN in float32 for large matrices of small scale.

    Attributes:
        solver: a `lineax.AbstractLinearSolver`.
        tags: lineax's tags of the matrix, such as `lineax.positive_semidefinite_tag`, where the
            solver asks for them. A tagged system counts as symmetric.

    Raises:
        ImportError: at the first solve, where lineax is not installed.
    """

    solver: Any
    tags: Any = ()

    @property
    def symmetric(self) -> bool:
        return self.tags != () and self.tags != frozenset()

    def attempt(self, product: Product, vector: PyTree) -> Attempt:
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
