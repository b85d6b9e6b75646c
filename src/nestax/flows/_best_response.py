"""The map (slow, start) -> fast: where an inner optimizer ends, differentiable by a named rule.

A level of a nested system as a plain function. Levels nest by calling one such function inside the
objective of another, to any depth, under `jit`, `vmap` and `grad`. The identities behind the rules
are those of Lorraine, Vicol and Duvenaud, "Optimizing millions of hyperparameters by implicit
differentiation" (2020): from a stationary point, K unrolled steps of gradient descent are the
K-term Neumann series, and K -> infinity is the implicit function theorem.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from . import _vectors as vectors
from ._finite_difference import FiniteDifference
from ._hoist import (
    has_reverse_only_rule,
    hoist,
    is_inexact,
    is_pushing_forward,
    partition,
    pushing_forward,
)
from ._implicit import Direct, Implicit, implicit_root
from ._lean import is_zero, lean_gradient
from ._safe_update import quiet, rejects, safe_update
from ._scan import unrolled
from ._unroll import Forward, Unroll
from ._weights import check_arrays, trained_leaves
from .fixed_point import Motion, difference, memory_of, merge, moved_by, remembering
from .jaxprs import dependence, equations

Flow = Unroll | Forward | Implicit | FiniteDifference | Direct


class ResponseInfo(NamedTuple):
    """How well the inner problem was solved: two scalars, constants to differentiation."""

    loss: Array  # the objective at the end
    inner_gradient: Array  # Euclidean norm of its gradient with respect to fast


def best_response(
    objective: Callable[[Any, Any], Array],
    optimizer: Any,
    steps: int,
    flow: Flow | None = None,
) -> Callable[..., Any]:
    """The map from slow values to where `steps` steps of the optimizer take the fast ones.

    `best_response(objective, optimizer, steps, flow)(slow, start)` minimizes objective(slow, .)
    from `start` by exactly `steps` updates. Its value is the same under every flow; the flow says
    what its derivatives are:

    | flow | d fast / d slow | d fast / d start |
    | --- | --- | --- |
    | `Unroll()` (default), `Forward()` | of the steps as executed | likewise (as in MAML) |
    | `Unroll(first_order=True)` | of the steps, inner gradients being constants | likewise |
    | `Unroll(last=K)`, `OneStep()` | of the last K steps | 0 if K < steps |
    | `Implicit(solver)` | of the stationary point, -H^-1 d2 objective / d fast d slow | 0 |
    | `Implicit(solver, condition="update")` | of the fixed point of the optimizer's update | 0 |
    | `FiniteDifference()` | -rate d2 objective / d fast d slow, by a central difference | 0 |
    | `Direct()` | 0 | 0 |

    What the objective closes over counts as slow, so a level deep inside still sees levels further
    out. Everything has reverse mode, over and over. Forward mode (`jax.jvp`) is there for `Direct`,
    `Forward` and `Unroll(checkpoint=False)`.

    Args:
        objective: (slow, fast) -> scalar. `Implicit` and `FiniteDifference` require that it depends
            on slow.
        optimizer: an optax transformation, or slow -> transformation, whose hyperparameters are
            then differentiated too by the trajectory flows (and not by the others). `update`
            receives the parameters and `value`, `grad`, `value_fn`. Where its update takes a root
            of exactly zero, the derivative of that root is taken as 0, so that Adam may be
            differentiated at zero gradients. It can still be as large as 1 / eps where a gradient
            passes through zero; `eps_root > 0` bounds it.
        steps: number of updates, >= 0.
        flow: the rule of differentiation; None is `Unroll()`.

    Returns:
        response(slow, start, diagnostics=False) -> fast, or (fast, `ResponseInfo`) with
        diagnostics. Slow and start are any pytrees; of start the inexact arrays are trained, of
        slow the inexact arrays are differentiated, and all other leaves are constants.

    Raises:
        TypeError: optimizer, steps or flow of the wrong type; an objective that is not scalar.
        ValueError: negative steps; `Unroll(last=K)` with K > steps; an `Implicit` with a context;
            a start without inexact arrays, or with statistics, random state or modules of flax,
            equinox or haiku, which are no weights: let the objective close over them; a point flow
            whose objective does not contain slow.
    """
    flow = Unroll() if flow is None else flow
    _check(optimizer, steps, flow)

    def response(slow: Any, start: Any, diagnostics: bool = False) -> Any:
        check_arrays("best_response: slow", slow)
        trained_leaves("best_response: start", start)
        values, slow_of = partition(slow)
        point, fast_of = partition(start)
        if not jax.tree.leaves(point):
            raise ValueError(
                "best_response: nothing in start can be trained, since it holds no array of an "
                f"inexact dtype; convert Python numbers with jnp.asarray. Got {start!r}"
            )

        def loss(point: PyTree, values: PyTree) -> Array:
            value = objective(slow_of(values), fast_of(point))
            if jnp.shape(value) != ():
                raise TypeError(
                    "best_response: the objective must return a scalar, got an array of shape "
                    f"{jnp.shape(value)}; average or sum it"
                )
            value = jnp.asarray(value)
            wide = jnp.promote_types(value.dtype, jnp.float32)
            return value if value.dtype == wide else value.astype(wide)

        _check_called(optimizer, slow)

        def transformation(values: PyTree) -> optax.GradientTransformationExtraArgs:
            made = optimizer if _is_transformation(optimizer) else optimizer(slow_of(values))
            return optax.with_extra_args_support(made)

        if isinstance(flow, Unroll):
            end = _unrolled_response(loss, transformation, steps, flow)(values, point)
        elif isinstance(flow, Forward):
            end = _forward_response(loss, transformation, steps)(values, point)
        else:
            end = _point_response(loss, transformation, steps, flow)(values, point)
        if not diagnostics:
            return fast_of(end)
        frozen = jax.lax.stop_gradient((end, values))
        value, gradient = jax.lax.stop_gradient(jax.value_and_grad(loss)(*frozen))
        return fast_of(end), ResponseInfo(value, vectors.norm(gradient))

    return response


def _run(
    loss: Callable,
    transformation: Callable,
    values: PyTree,
    carry: PyTree,
    steps: int,
    checkpoint: int | None,
    first_order: bool = False,
    differentiated: bool = True,
) -> PyTree:
    """`steps` updates of the carry (point, optimizer state).

    Derivatives with respect to slow values are sums over the steps: those of half precision are
    summed in float32, for which every step casts the wide values down by itself.
    """
    wide = jax.tree.map(vectors.widen, values)
    half = any(
        a.dtype != b.dtype for a, b in zip(*map(jax.tree.leaves, (values, wide)), strict=True)
    )
    dtypes = jax.tree.map(lambda leaf: leaf.dtype, values)
    made = None if half else transformation(values)

    def given(wide: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), wide, dtypes)

    def with_aux(point: PyTree, wide: PyTree, _: tuple) -> tuple[Array, tuple]:
        return loss(point, given(wide)), ()

    def update(wide: PyTree, gradient: PyTree, state: PyTree, point: PyTree, value: Array) -> tuple:
        rule = transformation(given(wide)) if made is None else made
        return rule.update(
            gradient,
            state,
            point,
            value=value,
            grad=gradient,
            value_fn=lambda point: loss(point, given(wide)),
        )

    # What stores everything may also be pushed forward, which the rules for rejection cannot.
    rejecting = differentiated and checkpoint is not False and not is_pushing_forward()
    rejecting = rejecting and rejects(update, wide, carry[0], carry[1], carry[0], 0.0)

    def make_body(lean: bool) -> Callable:
        plain = jax.value_and_grad(with_aux, has_aux=True)
        take = lean_gradient(with_aux) if lean else plain
        take = quiet(take) if rejecting else take

        def body(carry: PyTree, _: None) -> tuple[PyTree, None]:
            point, state = carry
            (value, _aux), gradient = take(point, wide, ())
            gradient = jax.lax.stop_gradient(gradient) if first_order else gradient
            step = functools.partial(update, wide)
            if differentiated:
                step = functools.partial(safe_update, step, rejecting=rejecting)
            updates, state = step(gradient, state, point, value)
            return (optax.apply_updates(point, updates), state), None

        return body

    return unrolled(make_body, carry, None, steps, checkpoint)[0]


def _unrolled_response(
    loss: Callable, transformation: Callable, steps: int, flow: Unroll
) -> Callable[[PyTree, PyTree], PyTree]:
    last = steps if flow.last is None else flow.last

    def respond(values: PyTree, point: PyTree) -> PyTree:
        carry = (point, transformation(values).init(point))
        _check_differentiable(loss, transformation(values), values, carry)
        if last < steps:
            frozen, carry = jax.lax.stop_gradient((values, carry))
            carry = _run(loss, transformation, frozen, carry, steps - last, False, False, False)
            carry = jax.lax.stop_gradient(carry)
        options = (flow.checkpoint, flow.first_order)
        return _run(loss, transformation, values, carry, last, *options)[0]

    return respond


def _check_differentiable(loss: Callable, rule: Any, values: PyTree, carry: tuple) -> None:
    """Refuses updates whose derivative is not that of the program."""

    def update(point: PyTree, state: PyTree) -> Any:
        gradient = jax.tree.map(jnp.zeros_like, point)
        value_fn = lambda point, **_: loss(point, values)  # noqa: E731
        extras = {"value": jnp.zeros(()), "grad": gradient, "value_fn": value_fn}
        return rule.update(gradient, state, point, **extras)

    own = {e.primitive.name for e in equations(jax.make_jaxpr(loss)(carry[0], values))}
    names = {e.primitive.name for e in equations(jax.make_jaxpr(update)(*carry))} - own
    repair = "optax.lbfgs(learning_rate, linesearch=None, scale_init_precond=False)"
    if "while" in names and not is_pushing_forward():
        raise ValueError(
            "best_response: Unroll() cannot differentiate the optimizer, whose update is a loop of "
            f"unknown length, as in a line search; use one without, such as {repair}, or the flow "
            "Forward() or Implicit(CG(20))"
        )
    kinds = {type(part).__name__ for part in jax.tree.leaves(carry[1], is_leaf=_is_lbfgs)}
    if "stop_gradient" in names and "ScaleByLBFGSState" in kinds:
        raise ValueError(
            "best_response: optax.lbfgs hides the scale of its first step from derivatives, which "
            f"would be off; use {repair}"
        )


def _is_lbfgs(part: Any) -> bool:
    return type(part).__name__ == "ScaleByLBFGSState"


def _forward_response(
    loss: Callable, transformation: Callable, steps: int
) -> Callable[[PyTree, PyTree], PyTree]:
    in_reverse = _unrolled_response(loss, transformation, steps, Unroll())

    def respond(values: PyTree, point: PyTree) -> PyTree:
        with pushing_forward():
            pure, constants, jaxpr = hoist(in_reverse, values, point)
        if has_reverse_only_rule(jaxpr):
            return in_reverse(values, point)
        moving = (values, point, constants)
        leaves, treedef = jax.tree.flatten(moving)

        @jax.custom_jvp
        def end(*leaves: Any) -> PyTree:
            values, point, constants = treedef.unflatten(leaves)
            return pure(constants, values, point)

        def push(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
            """The whole Jacobian first, so that transposing the product stores nothing else."""
            moved = [
                i
                for i, (leaf, tangent) in enumerate(zip(primals, tangents, strict=True))
                if is_inexact(leaf) and not is_zero(tangent)
            ]
            flat, unravel = jax.flatten_util.ravel_pytree([primals[i] for i in moved])
            direction, _ = jax.flatten_util.ravel_pytree([tangents[i] for i in moved])

            def of_moved(flat: Array) -> PyTree:
                leaves = list(primals)
                for i, leaf in zip(moved, unravel(flat), strict=True):
                    leaves[i] = leaf
                values, point, constants = treedef.unflatten(leaves)
                return pure(constants, values, point)

            def column(unit: Array) -> tuple[PyTree, PyTree]:
                return jax.jvp(of_moved, (flat,), (unit,))

            basis = jnp.eye(flat.size, dtype=flat.dtype)
            value, jacobian = jax.vmap(column, out_axes=(None, 0))(basis)
            return value, jax.tree.map(
                lambda rows: jnp.tensordot(direction, rows, 1).astype(rows.dtype), jacobian
            )

        end.defjvp(push, symbolic_zeros=True)
        return end(*leaves)

    return respond


def _point_response(
    loss: Callable, transformation: Callable, steps: int, flow: Flow
) -> Callable[[PyTree, PyTree], PyTree]:
    def respond(values: PyTree, point: PyTree) -> PyTree:
        pure, constants, jaxpr = hoist(loss, point, values)
        if not isinstance(flow, Direct) and jax.tree.leaves(values):
            first = len(constants_of := jaxpr.invars) - len(jax.tree.leaves(values))
            used = {id(v) for equation in jaxpr.eqns for v in equation.invars}
            if not any(id(v) in used for v in constants_of[first:]):
                raise ValueError(
                    f"best_response: the derivative by {flow} would be zero, since slow does not "
                    "occur in the objective; if it acts through the start or the optimizer, "
                    "differentiate the trajectory: flow=Unroll()"
                )
        frozen, begin, still = jax.lax.stop_gradient((values, point, constants))

        def frozen_loss(point: PyTree, values: PyTree) -> Array:
            return pure(still, point, values)

        rule = transformation(frozen)
        carry = (begin, rule.init(begin))
        end, state = _run(frozen_loss, transformation, frozen, carry, steps, False, False, False)
        end, state = jax.lax.stop_gradient((end, state))
        moving = [leaf for leaf in constants if is_inexact(leaf)]
        if isinstance(flow, Direct) or not jax.tree.leaves((values, moving)):
            return end
        tried = _tried(transformation, frozen, begin)
        if tried is not None and tried.drifts:
            _warn_of_drift(flow)
        fixed = [leaf for leaf in constants if not is_inexact(leaf)]

        def of(point: PyTree, slow: tuple, fixed: list) -> Array:
            values, moving = slow
            moves, stays = iter(moving), iter(fixed)
            leaves = [next(moves) if is_inexact(leaf) else next(stays) for leaf in constants]
            return pure(leaves, point, values)

        def update(point: PyTree, state: Any, slow: tuple, fixed: list) -> tuple[PyTree, Any]:
            value, gradient = jax.value_and_grad(of)(point, slow, fixed)
            return transformation(slow[0]).update(
                gradient,
                state,
                point,
                value=value,
                grad=gradient,
                value_fn=lambda point: of(point, slow, fixed),
            )

        # Leaves that the optimizer cannot move are constants.
        found = dependence(lambda *args: update(*args)[0], end, state, (values, moving), fixed)
        free = [bool(needs) for needs in found]
        if tried is not None and any(tried.moves):
            free = [a and b for a, b in zip(free, tried.moves, strict=True)]
        moves = jax.tree.structure(end).unflatten(free)

        def restricted(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda leaf, free: leaf if free else None, tree, moves)

        def filled(free: PyTree) -> PyTree:
            return merge(free, end)

        movable = restricted(end)
        if isinstance(flow, FiniteDifference):
            root = _difference_root(lambda free, *rest: of(filled(free), *rest), flow)
            return filled(root(movable, (values, moving), fixed))
        assert isinstance(flow, Implicit)
        if flow.condition == "update":

            def change(unknowns: tuple, slow: tuple, fixed: list) -> tuple[PyTree, list]:
                free, memory = unknowns
                updates, after = update(filled(free), remembering(state, memory), slow, fixed)
                moved = jax.tree.map(jnp.negative, restricted(updates))
                return moved, difference(memory, memory_of(after))

            unknowns = (movable, memory_of(state))
            free, _ = implicit_root(change, flow.solver)(unknowns, (values, moving), fixed)
            return filled(free)

        def gradient(free: PyTree, slow: tuple, fixed: list) -> PyTree:
            return jax.grad(lambda free: of(filled(free), slow, fixed))(free)

        free = implicit_root(gradient, flow.solver)(movable, (values, moving), fixed)
        return filled(free)

    return respond


def _tried(transformation: Callable, values: PyTree, point: PyTree) -> Motion | None:
    """How the optimizer moves weights; None if it depends on traced values."""
    try:
        return moved_by(transformation(values), point)
    except (jax.errors.ConcretizationTypeError, jax.errors.UnexpectedTracerError):
        return None


def _warn_of_drift(flow: Flow) -> None:
    if isinstance(flow, Implicit) and flow.condition == "objective":
        warnings.warn(
            "best_response: Implicit takes the weights to settle where the objective is "
            "stationary, but the optimizer moves them where its gradient is zero (weight decay, a "
            "projection or noise inside the optimizer); put that term into the objective, or use "
            'Implicit(GMRES(), condition="update"), which differentiates the fixed point of the '
            "update",
            stacklevel=4,
        )


def _difference_root(objective: Callable, flow: FiniteDifference) -> Callable:
    """Identity on `fast` whose pullback to `slow` is the central difference of DARTS."""
    of_slow = jax.grad(objective, argnums=1)

    @jax.custom_vjp
    def root(fast: PyTree, slow: PyTree, fixed: PyTree) -> PyTree:
        return fast

    def forward(fast: PyTree, slow: PyTree, fixed: PyTree) -> tuple:
        # Through the rule once more, so that higher derivatives see the point move too.
        fast = root(fast, slow, fixed)
        return fast, (fast, slow, fixed)

    def backward(kept: tuple, v: PyTree) -> tuple:
        fast, slow, fixed = kept
        norm = vectors.norm(v)
        # A zero cotangent pulls back to zero whatever the width of the difference.
        width = flow.scale / jnp.where(norm > 0, norm, 1)

        def at(sign: int) -> PyTree:
            moved = jax.tree.map(lambda w, v: w + (sign * width).astype(w.dtype) * v, fast, v)
            return of_slow(moved, slow, fixed)

        pulled = jax.tree.map(
            lambda above, below: (-flow.rate * (above - below) / (2 * width)).astype(above.dtype),
            at(1),
            at(-1),
        )
        return jax.tree.map(jnp.zeros_like, fast), pulled, None

    root.defvjp(forward, backward)
    return root


def _is_transformation(optimizer: Any) -> bool:
    return isinstance(optimizer, optax.GradientTransformation)


def _check_called(optimizer: Any, slow: Any) -> None:
    """A maker of optax' takes a rate: of a slow array it is meant, of anything else it was not."""
    maker = (getattr(optimizer, "__module__", "") or "").split(".")[0]
    alone = jax.tree.structure(slow) == jax.tree.structure(0)
    if maker == "optax" and not _is_transformation(optimizer) and not alone:
        name = getattr(optimizer, "__name__", type(optimizer).__name__)
        raise TypeError(f"best_response: call the optimizer: optax.{name}(learning_rate)")


def _check(optimizer: Any, steps: Any, flow: Any) -> None:
    if not _is_transformation(optimizer) and not callable(optimizer):
        raise TypeError(
            "best_response: the optimizer must be an optax transformation or a function from slow "
            f"to one, got {optimizer!r}"
        )
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise TypeError(f"best_response: steps must be an int, got {steps!r}")
    if steps < 0:
        raise ValueError(f"best_response: steps must not be negative, got {steps}")
    if not isinstance(flow, Flow):
        raise TypeError(
            "best_response: the flow must be Unroll, OneStep, Forward, Implicit, FiniteDifference "
            f"or Direct, or None for Unroll(), got {flow!r}"
        )
    if isinstance(flow, Unroll) and flow.last is not None and flow.last > steps:
        raise ValueError(
            f"best_response: Unroll(last={flow.last}) asks for more than the {steps} steps taken; "
            "lower last or leave it out"
        )
    if isinstance(flow, Implicit) and flow.context is not None:
        raise ValueError(
            "best_response: Implicit's context belongs to nests; here the objective chooses its "
            "own data, so leave context out"
        )
