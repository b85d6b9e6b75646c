"""The lowest eigenpairs of a Hessian along a path, dense or by Hessian-vector products."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Vector = Callable[[jax.Array], jax.Array]


class Pairs(NamedTuple):
    """Eigenpairs of the symmetric part of a gradient's Jacobian, ascending.

    Attributes:
        values: shape (m,).
        vectors: orthonormal columns, shape (n, m).
        bound: at least as large as the modulus of every eigenvalue, a scalar.
    """

    values: Any
    vectors: Any
    bound: Any


@dataclasses.dataclass(frozen=True)
class Curvature(abc.ABC):
    """How eigenpairs are found.

    Attributes:
        reverse_only: whether derivatives of the gradient pass in reverse mode only.
    """

    reverse_only: bool

    @abc.abstractmethod
    def first(self, gradient: Vector, x: jax.Array) -> Pairs:
        """The eigenpairs at a point of which nothing is known."""

    @abc.abstractmethod
    def next(self, gradient: Vector, x: jax.Array, before: Pairs) -> Pairs:
        """The eigenpairs at a point next to one whose pairs are known."""


@dataclasses.dataclass(frozen=True)
class Dense(Curvature):
    """All eigenpairs of the n x n matrix."""

    def first(self, gradient: Vector, x: jax.Array) -> Pairs:
        matrix = (jax.jacrev if self.reverse_only else jax.jacfwd)(gradient)(x)
        values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
        return Pairs(values, vectors, jnp.max(jnp.abs(values)))

    def next(self, gradient: Vector, x: jax.Array, before: Pairs) -> Pairs:
        return self.first(gradient, x)


@dataclasses.dataclass(frozen=True)
class Products(Curvature):
    """The m lowest eigenpairs without a matrix, by subspace iteration with a Chebyshev filter.

    The filter is a polynomial of the matrix that is small between the block's highest eigenvalue
    and the bound, and grows below.

    Attributes:
        size: m.
        degree: of the filter, products per sweep and column.
        sweeps: at a new point.
        again: sweeps at a point next to one whose pairs are known.
    """

    size: int
    degree: int = 8
    sweeps: int = 20
    again: int = 2

    def first(self, gradient: Vector, x: jax.Array) -> Pairs:
        drawn = jax.random.normal(jax.random.key(0), (x.size, self.size + 1), x.dtype)
        block, _ = jnp.linalg.qr(drawn[:, :-1])
        bound = self._bound(gradient, x, drawn[:, -1], 20)
        return self._improved(gradient, x, block, bound, self.sweeps)

    def next(self, gradient: Vector, x: jax.Array, before: Pairs) -> Pairs:
        drawn = jax.random.normal(jax.random.key(1), x.shape, x.dtype)
        bound = jnp.maximum(self._bound(gradient, x, drawn, 4), before.bound / 1.5)
        return self._improved(gradient, x, before.vectors, bound, self.again)

    def _bound(self, gradient: Vector, x: jax.Array, start: jax.Array, times: int) -> jax.Array:
        """A bit more than the largest modulus, from the power method."""

        def again(carry: Any, _: Any) -> Any:
            vector = carry[0] / jnp.linalg.norm(carry[0])
            product = self._product(gradient, x, vector[:, None])[:, 0]
            size = jnp.linalg.norm(product)
            return (jnp.where(size > 0, product, vector), size), None

        (_, size), _ = lax.scan(again, (start, jnp.zeros((), x.dtype)), length=times)
        return 1.5 * size + jnp.finfo(x.dtype).tiny

    def _improved(
        self, gradient: Vector, x: jax.Array, block: jax.Array, bound: jax.Array, sweeps: int
    ) -> Pairs:
        def ritz(block: jax.Array) -> Any:
            small = block.T @ self._product(gradient, x, block)
            values, turn = jnp.linalg.eigh((small + small.T) / 2)
            return values, block @ turn

        def sweep(carry: Any, _: Any) -> Any:
            values, block = carry
            low = jnp.minimum(values[-1], 0.99 * bound)
            middle, half = (bound + low) / 2, (bound - low) / 2

            def rise(pair: Any, _: Any) -> Any:
                before, last = pair
                new = 2 * (self._product(gradient, x, last) - middle * last) / half - before
                return (last, new), None

            first = (self._product(gradient, x, block) - middle * block) / half
            (_, filtered), _ = lax.scan(rise, (block, first), length=self.degree - 1)
            return ritz(jnp.linalg.qr(filtered)[0]), None

        found = ritz(block)
        if self.size < x.size:  # a complete block is exact
            found, _ = lax.scan(sweep, found, length=sweeps)
        return Pairs(found[0], found[1], bound)

    def _product(self, gradient: Vector, x: jax.Array, block: jax.Array) -> jax.Array:
        """The symmetric part of the gradient's Jacobian times a block."""
        _, pull = jax.vjp(gradient, x)
        if self.reverse_only:  # u -> J' u is linear: pulling back once more gives J
            _, push = jax.vjp(lambda u: pull(u)[0], jnp.zeros_like(x))
            forward = jax.vmap(lambda v: push(v)[0], 1, 1)(block)
        else:
            forward = jax.vmap(lambda v: jax.jvp(gradient, (x,), (v,))[1], 1, 1)(block)
        return (forward + jax.vmap(lambda v: pull(v)[0], 1, 1)(block)) / 2
