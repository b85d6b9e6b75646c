"""A linear solve with a derivative of its own, by reverse mode only, nested to any depth.

For A x = b the pullback of c to b is y = A^(-T) c, that to the parameters of A is -d(y' A x).

Design. A is the Jacobian of a system at a point, linearised once, by `jax.vjp`; the pullback is the
product with A' in every iteration of a solver, so nothing is computed anew from the primal. Forward
over reverse is as fast (measured on regression, an MLP, an RNN and a CNN) but cannot pass through a
`custom_vjp`, and then implicit functions of implicit functions have no derivative. For the same
reason the derivative of a solve is such a rule, made of reverse-mode products and another solve.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from . import _vectors as vectors
from ._hoist import hoist, is_inexact
from ._solvers import SolveInfo, Solver, check_solver

# (point, (coordinates, hoisted), constants) -> residual coordinates, one for each of the point's.
System = Callable[[list, tuple, list], list]


def solve_linear(
    solver: Solver, operator: Callable, parameters: PyTree, vector: PyTree
) -> tuple[PyTree, SolveInfo]:
    """Solves operator(parameters, x) = vector; differentiable in reverse mode, repeatedly.

    The derivative is that of the exact solution; its linear systems are solved by the same solver.
    It is taken with respect to `parameters`, to `vector`, and to all inexact arrays that `operator`
    closes over.

    Example:
        ```python
        matrix, b = jnp.array([[2.0, 1.0], [1.0, 3.0]]), jnp.array([3.0, 4.0])
        x, info = nx.flows.solve_linear(nx.Dense(), jnp.matmul, matrix, b)
        print(jnp.round(x, 3))  # [1. 1.]
        ```

    Args:
        solver: the solver. If it is `symmetric`, the operator must be so too.
        operator: `(parameters, x) -> A x`, linear in x, returning a pytree like x.
        parameters: a pytree.
        vector: the right-hand side, a pytree of real floating arrays.

    Returns:
        (x, info): x is a pytree like `vector`; info is a `SolveInfo` without derivatives.

    Raises:
        TypeError: `solver` is not a solver; `vector` contains other leaves than real floating
            arrays.
        ValueError: the operator changes structure or shapes.
    """
    check_solver("solve_linear", solver)
    b, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, vector))
    coordinates, join = vectors.split(parameters)

    def residual(x: list, coordinates: list) -> list:
        out = jax.tree.leaves(operator(join(coordinates), treedef.unflatten(x)))
        if [jnp.shape(a) for a in out] != [a.shape for a in x]:
            raise ValueError(
                "solve_linear: operator(parameters, x) must have the shapes of x, "
                f"{[a.shape for a in x]}; got {[jnp.shape(a) for a in out]}"
            )
        return [a.astype(c.dtype) for a, c in zip(out, x, strict=True)]

    zeros = [jnp.zeros_like(a) for a in b]
    # Inside shard_map a solution varies over devices wherever the operator does: so must b.
    b = [a + jnp.zeros_like(c) for a, c in zip(b, residual(zeros, coordinates), strict=True)]
    zeros = [jnp.zeros_like(a) for a in b]
    system, hoisted, constants = close(residual, zeros, coordinates)
    rule = solve_rule(solver, system, transposed=False)
    x, info = rule(zeros, (coordinates, hoisted), constants, b)
    return treedef.unflatten(x), info


def close(function: Callable, point: list, coordinates: list) -> tuple[System, list, list]:
    """`function(point, coordinates)` with its closure as arguments: inexact arrays, other arrays.

    Plain arrays too: who traces this program again may turn them into variables, and a rule of ours
    has no derivative with respect to what it closes over.
    """
    pure, closed, _ = hoist(function, point, coordinates)
    inexact = [is_inexact(a) for a in closed]
    hoisted = [a for a, moves in zip(closed, inexact, strict=True) if moves]
    constants = [a for a, moves in zip(closed, inexact, strict=True) if not moves]

    def system(point: list, parameters: tuple, constants: list) -> list:
        coordinates, hoisted = parameters
        first, second = iter(hoisted), iter(constants)
        whole = [next(first) if moves else next(second) for moves in inexact]
        return pure(whole, point, coordinates)

    return system, hoisted, constants


def _pullback(system: System, point: list, parameters: tuple, constants: list) -> Callable:
    """u -> A' u, linearised once."""
    pull = jax.vjp(lambda point: system(point, parameters, constants), point)[1]
    return lambda u: pull(u)[0]


def solve_rule(solver: Solver, system: System, transposed: bool) -> Callable:
    """(point, parameters, constants, b) -> (x, info), A x = b or A' x = b, with its derivative.

    b -> A^(-1) b has the pullback c -> A^(-T) c =: y; that to the parameters of A is -d(y' A x).
    """

    @jax.custom_vjp
    def solve(point: list, parameters: tuple, constants: list, b: list) -> tuple[list, SolveInfo]:
        product = _pullback(system, point, parameters, constants)
        if not transposed and not solver.symmetric:
            pull, like = product, [jnp.zeros_like(a) for a in point]
            push = jax.vjp(pull, like)[1]
            product = lambda x: push(x)[0]  # noqa: E731
        return solver.solve(product, b)

    def forward(point: list, parameters: tuple, constants: list, b: list) -> tuple[Any, tuple]:
        # Through the rule again: the solution kept for the backward pass has derivatives too.
        x, info = solve(point, parameters, constants, b)
        return (x, info), (point, parameters, constants, x)

    def backward(kept: tuple, cotangent: tuple) -> tuple:
        point, parameters, constants, x = kept
        rule = solve_rule(solver, system, transposed=not transposed)
        y, _ = rule(point, parameters, constants, cotangent[0])
        left, right = (x, y) if transposed else (y, x)

        def product(point: list, parameters: tuple) -> list:
            return _pullback(system, point, parameters, constants)(left)

        back = jax.vjp(product, point, parameters)[1]
        return *back([-a for a in right]), None, y

    solve.defvjp(forward, backward)
    return solve
