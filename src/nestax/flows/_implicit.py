"""Implicit differentiation: derivatives of a root that nobody differentiated the search for.

Let S(fast, slow) = 0 define fast as a function of slow, A = dS/dfast. Then

    dfast/dslow = -A^(-1) dS/dslow,      v' dfast/dslow = -(dS/dslow' A^(-T) v)'.

Source: the implicit function theorem; Lorraine, Vicol and Duvenaud, "Optimizing millions of
hyperparameters by implicit differentiation" (2020), equations (3) and (5).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from . import _vectors as vectors
from ._flow import Flow
from ._hoist import is_inexact
from ._inner import Inner
from ._linear import System, close, solve_rule
from ._point_response import point_response
from ._solvers import Solver, check_number, check_solver

DIVERGED = "its solver diverged; choose a lower rate, more damping or another solver"
_MOVING = 1e-4  # relative change of weights above which they are at no fixed point


class Diagnostics(NamedTuple):
    """How far to trust a gradient found at one point: scalars; -1 where nothing was measured."""

    inner_gradient: Array  # norm of the stationarity condition, 0 at its root
    residual: Array  # relative, of the linear system
    products: Array  # Hessian-vector products spent
    diverged: Array  # the solver went astray, or the gradient is not finite


@dataclasses.dataclass(frozen=True, repr=False)
class Implicit(Flow):
    """Implicit derivative of the inner levels, linearized at their present values.

    Leaves that an inner optimizer cannot move (`optax.set_to_zero` for a part of the leaves) are
    constants. An inner level that accumulates is linearized on the batches of its whole period.

    Attributes:
        solver: how the linear system is solved.
        context: where the condition takes its batch from; None: each inner level's own context.
        tolerance: warn once if the norm of the condition or the relative residual of the linear
            system exceeds this. None: warn if the solver diverges, or if a converging solver leaves
            a residual above 0.1.
        condition: what vanishes where the inner levels have settled. "objective": the gradient of
            their objective. "update": the change that their optimizer makes, to the weights and to
            its memory. The second is right for weight decay, projections and proximal steps inside
            an optimizer, under which weights come to rest at other points than the objective's
            stationary ones. Its linear system is not symmetric and holds the optimizer's memory
            too: use `GMRES`, `Dense`, or `Neumann(terms, rate=1.0)`, which equals unrolling as many
            steps.

    Raises:
        TypeError: `solver` is not a solver.
        ValueError: another condition; a solver for symmetric systems with `condition="update"`.

    Source: Lorraine et al. (2020) for the objective; for fixed points of updates Gilbert,
    "Automatic differentiation and iterative processes" (1992); for proximal and projected steps
    Bertrand et al., "Implicit differentiation of Lasso-type models" (2020), section 3.
    """

    solver: Solver
    context: Any = None
    tolerance: float | int | None = None
    condition: Literal["objective", "update"] = "objective"

    def __post_init__(self) -> None:
        check_solver("Implicit", self.solver)
        if self.condition not in ("objective", "update"):
            raise ValueError(
                f'Implicit: condition is "objective" or "update", got {self.condition!r}'
            )
        if self.condition == "update" and self.solver.symmetric:
            raise ValueError(
                f'Implicit: condition="update" has a linear system that is not symmetric, and '
                f"{self.solver!r} needs a symmetric one; use GMRES(), Dense() or "
                "Neumann(terms, rate=1.0)"
            )
        if self.tolerance is not None:
            check_number("Implicit", "tolerance", self.tolerance, least=0)

    @property
    def by_update(self) -> bool:
        """See `Flow`."""
        return self.condition == "update"

    @property
    def rough(self) -> bool:
        """See `Flow`."""
        return self.solver.truncated

    @property
    def linear(self) -> Solver:
        """The solver of the linear system."""
        return self.solver

    def response(self, inner: Inner) -> Callable[[PyTree, PyTree], PyTree]:
        """See `Flow.response`."""
        return point_response(self, inner)

    def root(self, condition: Callable, inner: Callable, stays: bool = False) -> Callable:
        """The levels inside as a function (fast, slow, data) -> fast of what lies outside.

        Args:
            condition: what vanishes where they have settled, (fast, slow, data).
            inner: the sum of their objectives, (fast, slow, data).
            stays: whether its value is `fast` itself, as it always is here.
        """
        del inner, stays
        return implicit_root(condition, self.solver)

    def value_and_gradient(
        self, loss: Callable, condition: Callable, inner: Callable, slow: PyTree, fast: PyTree
    ) -> tuple[tuple[Array, Any], PyTree, Diagnostics]:
        """The total derivative of loss(fast, slow, None) -> (scalar, aux) at the present point.

        Args:
            loss: as for `implicit_gradient`.
            condition: what vanishes where the levels inside have settled, (fast, slow, data).
            inner: the sum of their objectives, (fast, slow, data).
            slow: the level's own value.
            fast: the levels inside.
        """
        del inner
        return implicit_gradient(loss, condition, self.solver, slow, fast, settled=False)

    def doubt(self, report: Any) -> str | None:
        """See `Flow.doubt`."""
        worst = {
            name: float(np.max(getattr(report, name)))
            for name in ("inner_gradient", "residual", "at_rest", "moving")
        }
        residual, limit = worst["residual"], self.tolerance
        if worst["at_rest"] > 0.1:
            return (
                "the optimizer of the levels inside leaves weights where they are although the "
                "gradient of their objective is not zero (a projection, a mask, or gradients "
                'gathered over several steps); use Implicit(GMRES(), condition="update"), which '
                'differentiates the fixed point of the update, or gather with accumulate="mean"'
            )
        if np.any(report.diverged) and (limit is None or not residual <= limit):
            return DIVERGED
        if limit is not None and worst["inner_gradient"] > limit:
            return (
                f"the gradient of the levels inside has norm {worst['inner_gradient']:.2g}, above "
                f"{limit:g}; give them more steps or a better rate, or raise the flow's tolerance"
            )
        judged = limit is not None or not self.solver.truncated
        if judged and residual > (0.1 if limit is None else limit):
            return (
                f"its linear system is solved to a relative residual of {residual:.2g} only; give "
                "the solver more steps, or raise the flow's tolerance"
            )
        if limit is None and worst["moving"] > _MOVING:
            return (
                f"the next update would still change the weights inside by {worst['moving']:.1g} "
                "of their norm, so they are not at its fixed point; give them more steps or a "
                "rate that decays, or set the flow's tolerance"
            )
        return None


def implicit_root(stationarity: Callable, solver: Solver) -> Callable:
    """The map (fast, slow, data=None) -> fast that differentiates as a root of `stationarity`.

    Its value is `fast` itself, which should be (near) the root of stationarity(fast, slow, data);
    its derivative with respect to `slow` is the implicit one, with respect to `fast` zero, of every
    order in reverse mode. Inexact arrays that `stationarity` closes over are differentiated like
    `slow`; `data` is constant.

    Args:
        stationarity: (fast, slow, data) -> pytree with an array for each inexact array of `fast`,
            of its shape: for an inner objective its gradient.
        solver: solves with the transposed Jacobian; a game needs one that is not `symmetric`.
    """
    check_solver("implicit_root", solver)

    def root(fast: PyTree, slow: PyTree, data: Any = None) -> PyTree:
        problem = _Problem(stationarity, fast, slow, data)
        return problem.join_fast(problem.root(solver))

    return root


def implicit_gradient(
    loss: Callable,
    stationarity: Callable,
    solver: Solver,
    slow: PyTree,
    fast: PyTree,
    data: Any = None,
    settled: bool = True,
) -> tuple[tuple[Array, Any], PyTree, Diagnostics]:
    """The total derivative of loss(fast(slow), slow) where `fast` solves `stationarity`.

    d_slow loss - (d_slow S)' A^(-T) d_fast loss, with A = d_fast S. The result can be
    differentiated again, in reverse mode, and then counts that `fast` moves with `slow`.

    Args:
        loss: (fast, slow, data) -> (scalar, aux).
        stationarity: as for `implicit_root`.
        solver: as for `implicit_root`.
        slow: pytree; its inexact arrays are differentiated with respect to.
        fast: pytree; its inexact arrays are the root.
        data: constants of any dtype.
        settled: whether derivatives of the result count that `fast` moves with `slow`; if not they
            are those of the formula at (fast, slow) as it stands, with respect to both.

    Returns:
        ((value, aux), gradient, diagnostics): the gradient is a pytree like `slow`, None in place
        of leaves that are not inexact arrays.
    """
    check_solver("implicit_gradient", solver)
    problem = _Problem(stationarity, fast, slow, data)
    at = problem.root(solver) if settled else problem.fast

    def total(fast: list, slow: list) -> tuple[Array, Any]:
        value, aux = loss(problem.join_fast(fast), problem.join_slow(slow), problem.data)
        check_scalar("loss", value)
        return value, aux

    value, pullback, aux = jax.vjp(total, at, problem.slow, has_aux=True)
    pull, direct = pullback(jnp.ones_like(value))
    adjoint, info = solve_rule(solver, problem.system, transposed=True)(
        at, (problem.slow, problem.hoisted), problem.constants, pull
    )
    here, back = jax.vjp(
        lambda slow: problem.system(at, (slow, problem.hoisted), problem.constants), problem.slow
    )
    found = [a - b for a, b in zip(direct, back(adjoint)[0], strict=True)]
    diagnostics = Diagnostics(
        inner_gradient=vectors.norm(here),
        residual=info.residual,
        products=info.products,
        diverged=info.diverged | ~jnp.isfinite(vectors.norm(found)),
    )
    return (value, aux), vectors.as_gradient(slow, found), diagnostics


def hypergradient(outer: Callable, inner: Callable, solver: Solver) -> Callable:
    """The gradient of outer(slow, fast(slow)) with respect to slow, fast(slow) = argmin inner.

    Differentiable itself, in reverse mode: `fast` counts as the best response wherever it occurs.
    Works under `jit`, which callers should apply, and under `vmap`, on sharded arrays, and within
    `jax.shard_map`; objectives may close over anything. Any stationary point will do, a maximum
    or, with `Dense`, a saddle too.

    Args:
        outer: (slow, fast) -> scalar.
        inner: (slow, fast) -> scalar; `fast` is (near) a stationary point of it.
        solver: `CG(20)` unless there is a reason: `Neumann` gives what unrolling would, `Dense` is
            exact for small problems, `Nystrom` needs no iterations, `Identity` no products.

    Returns:
        A function (slow, fast, diagnostics=False) -> gradient, a pytree like `slow` with None in
        place of what is no inexact array; with diagnostics, (gradient, `Diagnostics`).

    Example:
        >>> import jax.numpy as jnp, nestax as nx
        >>> inner = lambda decay, w: 0.5 * jnp.sum((w - 1) ** 2 + jnp.exp(decay) * w**2)
        >>> outer = lambda decay, w: 0.5 * jnp.sum(w**2)
        >>> nx.hypergradient(outer, inner, nx.CG(20))(jnp.zeros(2), jnp.full(2, 0.5))
        Array([-0.125, -0.125], dtype=float32)

    Source: Lorraine, Vicol and Duvenaud (2020), equation (3).
    """
    check_solver("hypergradient", solver)

    def loss(fast: PyTree, slow: PyTree, data: Any) -> tuple[Array, None]:
        del data
        value = outer(slow, fast)
        check_scalar("outer", value)
        return value, None

    def stationarity(fast: PyTree, slow: PyTree, data: Any) -> PyTree:
        del data
        return partial_gradient(lambda fast: inner(slow, fast), fast)

    def gradient(slow: PyTree, fast: PyTree, diagnostics: bool = False) -> Any:
        _, found, report = implicit_gradient(loss, stationarity, solver, slow, fast)
        return (found, report) if diagnostics else found

    return gradient


def partial_gradient(objective: Callable, value: PyTree) -> PyTree:
    """`jax.grad` in the inexact arrays of a pytree; None in place of everything else."""
    coordinates, join = vectors.split(value)

    def scalar(coordinates: list) -> Array:
        result = objective(join(coordinates))
        check_scalar("inner", result)
        return result

    return vectors.as_gradient(value, jax.grad(scalar)(coordinates))


class _Problem:
    """A stationarity condition in real coordinates, with all that it depends on as arguments."""

    def __init__(self, stationarity: Callable, fast: PyTree, slow: PyTree, data: Any):
        self.fast, self.join_fast = vectors.split(fast)
        self.slow, self.join_slow = vectors.split(slow)
        if not self.fast or not self.slow:
            raise TypeError(
                f"the {'slow' if self.fast else 'fast'} value has no inexact array to "
                "differentiate; integers and functions are constants, pass numbers as floats"
            )
        self.data = jax.tree.map(lambda a: jax.lax.stop_gradient(a) if is_inexact(a) else a, data)

        def residual(fast: list, slow: list) -> list:
            out = stationarity(self.join_fast(fast), self.join_slow(slow), self.data)
            return vectors.from_gradient(out, fast, "the stationarity condition")

        self.system, self.hoisted, self.constants = close(residual, self.fast, self.slow)

    def root(self, solver: Solver) -> list:
        rule = _root_rule(solver, self.system)
        return rule(self.fast, (self.slow, self.hoisted), self.constants)


def _root_rule(solver: Solver, system: System) -> Callable:
    """(point, parameters, constants) -> point, a root of the system as far as derivatives go."""

    @jax.custom_vjp
    def root(point: list, parameters: tuple, constants: list) -> list:
        return point

    def forward(point: list, parameters: tuple, constants: list) -> tuple[list, tuple]:
        at = root(point, parameters, constants)
        return at, (at, parameters, constants)

    def backward(kept: tuple, cotangent: Sequence) -> tuple:
        at, parameters, constants = kept
        adjoint, _ = solve_rule(solver, system, transposed=True)(
            at, parameters, constants, list(cotangent)
        )
        back = jax.vjp(lambda parameters: system(at, parameters, constants), parameters)[1]
        return None, back([-a for a in adjoint])[0], None

    root.defvjp(forward, backward)
    return root


def check_scalar(name: str, value: Any) -> None:
    if isinstance(value, tuple) or jnp.shape(value) != ():
        got = "a tuple" if isinstance(value, tuple) else f"shape {jnp.shape(value)}"
        raise ValueError(f"{name} must return a scalar loss and nothing else, got {got}")
    if jnp.issubdtype(jnp.result_type(value), jnp.complexfloating):
        raise ValueError(f"{name} must return a real loss, got {jnp.result_type(value)}")
