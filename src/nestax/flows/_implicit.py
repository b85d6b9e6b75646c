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
    """How far to trust a gradient computed at one point; scalars, -1 where nothing was measured.

    Attributes:
        inner_gradient: norm of the stationarity condition, 0 at its root.
        residual: relative residual of the linear system.
        products: number of Hessian-vector products.
        diverged: whether the solver diverged or the gradient is not finite.
    """

    inner_gradient: Array
    residual: Array
    products: Array
    diverged: Array


@dataclasses.dataclass(frozen=True, repr=False)
class Implicit(Flow):
    """Implicit derivative of the inner levels, linearized at their present values.

    It is exact where the inner levels have settled, and costs one linear system instead of a pass
    through the steps. Leaves that an inner optimizer cannot move (`optax.set_to_zero` for a part of
    the leaves) are constants. An inner level that accumulates is linearized on the batches of its
    whole period.

    Example:
        ```python
        inner = lambda goal, w: (w - goal) ** 2
        end = nx.best_response(inner, optax.sgd(0.25), 3, nx.Implicit(nx.CG()))
        print(f"{jax.grad(end)(1.0, jnp.zeros(())):.3f}")  # 1.000
        ```

    Attributes:
        solver: the solver of the linear system, such as `CG(20)`.
        context: the source of the batch for the condition. None: each inner level's own context.
        tolerance: warn once if the norm of the condition or the relative residual of the linear
            system exceeds this. None: warn if the solver diverges, or if a converging solver leaves
            a residual above 0.1.
        condition: what vanishes where the inner levels have settled. "objective": the gradient of
            their objective. "update": the change that their optimizer makes, to the weights and to
            its memory. The second is right for weight decay, projections and proximal steps inside
            an optimizer: weights then settle at other points than the stationary points of the
            objective. Its linear system is not symmetric and includes the optimizer's memory: use
            `GMRES`, `Dense`, or `Neumann(terms, rate=1.0)`, which equals unrolling as many steps.

    Raises:
        TypeError: `solver` is not a solver.
        ValueError: another condition; a solver for symmetric systems with `condition="update"`; a
            tolerance that is not a number of at least 0.

    Source: Lorraine, Vicol and Duvenaud (2020), equation (3), for the objective; for fixed points
    of updates Gilbert, "Automatic differentiation and iterative processes" (1992); for proximal and
    projected steps Bertrand et al., "Implicit differentiation of Lasso-type models" (2020), section
    3.
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
        """Whether the condition is "update"; see `Flow`."""
        return self.condition == "update"

    @property
    def rough(self) -> bool:
        """Whether the solver is truncated by design; see `Flow`."""
        return self.solver.truncated

    @property
    def linear(self) -> Solver:
        """The solver of the linear system."""
        return self.solver

    def response(self, inner: Inner) -> Callable[[PyTree, PyTree], PyTree]:
        """See `Flow.response`."""
        return point_response(self, inner)

    def root(self, condition: Callable, inner: Callable, stays: bool = False) -> Callable:
        """The levels inside as a function of the values outside.

        Args:
            condition: what vanishes where they have settled, `(fast, slow, data) -> pytree`.
            inner: the sum of their objectives, `(fast, slow, data) -> scalar`.
            stays: whether the value is `fast` itself; here it always is.

        Returns:
            `(fast, slow, data) -> fast`, as from `implicit_root`.
        """
        del inner, stays
        return implicit_root(condition, self.solver)

    def value_and_gradient(
        self, loss: Callable, condition: Callable, inner: Callable, slow: PyTree, fast: PyTree
    ) -> tuple[tuple[Array, Any], PyTree, Diagnostics]:
        """The total derivative of a loss at the present point.

        Args:
            loss: `(fast, slow, None) -> (scalar, aux)`.
            condition: what vanishes where the levels inside have settled, `(fast, slow, data) ->
                pytree`.
            inner: the sum of their objectives, `(fast, slow, data) -> scalar`.
            slow: the level's own value.
            fast: the values of the levels inside.

        Returns:
            ((value, aux), gradient, diagnostics), as from `implicit_gradient`.
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
    """The map `(fast, slow, data=None) -> fast` that is differentiated as a root of `stationarity`.

    Its value is `fast` itself, which should be a root of `stationarity(fast, slow, data)`, or near
    it. Its derivative with respect to `slow` is the implicit one, and with respect to `fast` zero;
    all orders exist in reverse mode. Inexact arrays that `stationarity` closes over are
    differentiated like `slow`; `data` is constant.

    Example:
        ```python
        square = lambda w, a, data: w**2 - a  # its root is sqrt(a)
        root = nx.flows.implicit_root(square, nx.Dense())
        print(f"{jax.grad(lambda a: root(jnp.asarray(2.0), a))(4.0):.3f}")  # 0.250
        ```

    Args:
        stationarity: `(fast, slow, data) -> pytree` with an array for each inexact array of `fast`,
            of the same shape. For an inner objective: its gradient.
        solver: solves with the transposed Jacobian. A game needs a solver that is not `symmetric`.

    Returns:
        The map.

    Raises:
        TypeError: `solver` is not a solver. When called: `fast` or `slow` has no inexact array.

    Source: the implicit function theorem; Lorraine, Vicol and Duvenaud, "Optimizing millions of
    hyperparameters by implicit differentiation" (2020), equations (3) and (5).
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
    """The total derivative of `loss(fast(slow), slow)`, where `fast` solves `stationarity`.

    It is `d_slow loss - (d_slow S)' A^(-T) d_fast loss`, with `A = d_fast S`. The result can be
    differentiated again, in reverse mode; `fast` then moves with `slow`.

    Args:
        loss: `(fast, slow, data) -> (scalar, aux)`.
        stationarity: S, as for `implicit_root`.
        solver: as for `implicit_root`.
        slow: a pytree; the gradient is taken with respect to its inexact arrays.
        fast: a pytree; its inexact arrays are the root.
        data: constants of any dtype.
        settled: whether `fast` moves with `slow` in derivatives of the result. False: these are the
            derivatives of the formula at (fast, slow), with respect to both.

    Returns:
        ((value, aux), gradient, diagnostics): the gradient is a pytree like `slow`, with None in
        place of leaves that are not inexact arrays; `diagnostics` is a `Diagnostics`.

    Raises:
        TypeError: `solver` is not a solver; `fast` or `slow` has no inexact array.
        ValueError: the loss is not a real scalar; a stationarity condition of other shapes than
            `fast`.

    Source: Lorraine, Vicol and Duvenaud (2020), equation (3).
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
    """The gradient of `outer(slow, fast(slow))`, where fast(slow) minimizes `inner(slow, fast)`.

    The gradient can be differentiated again, in reverse mode: `fast` counts as the best response
    wherever it occurs. It works under `jit`, which callers should apply, and under `vmap`, on
    sharded arrays, and within `jax.shard_map`. Objectives may close over anything. Any stationary
    point is allowed: also a maximum or, with `Dense`, a saddle.

    Example:
        ```python
        inner = lambda decay, w: 0.5 * jnp.sum((w - 1) ** 2 + jnp.exp(decay) * w**2)
        outer = lambda decay, w: 0.5 * jnp.sum(w**2)
        gradient = nx.hypergradient(outer, inner, nx.CG(20))
        print(jnp.round(gradient(jnp.zeros(2), jnp.full(2, 0.5)), 3))  # [-0.125 -0.125]
        ```

    Args:
        outer: `(slow, fast) -> scalar`.
        inner: `(slow, fast) -> scalar`; `fast` is a stationary point of it, or near one.
        solver: `CG(20)` unless there is a reason. `Neumann` gives the gradient of unrolling,
            `Dense` is exact for small problems, `Nystrom` needs no iterations, `Identity` no
            products.

    Returns:
        A function `(slow, fast, diagnostics=False) -> gradient`, a pytree like `slow` with None in
        place of leaves that are not inexact arrays; with diagnostics, (gradient, `Diagnostics`).

    Raises:
        TypeError: `solver` is not a solver. When called: `slow` or `fast` has no inexact array.
        ValueError: when called: `outer` or `inner` does not return a real scalar.

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
