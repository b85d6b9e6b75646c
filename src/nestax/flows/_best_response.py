"""The map (slow, start) -> fast: where an inner optimizer ends, differentiable by a named rule.

A level of a nested system as a plain function. Levels nest by calling one such function inside the
objective of another, to any depth, under `jit`, `vmap` and `grad`. The identities behind the rules
are those of Lorraine, Vicol and Duvenaud, "Optimizing millions of hyperparameters by implicit
differentiation" (2020): from a stationary point, K unrolled steps of gradient descent are the
K-term Neumann series, and K -> infinity is the implicit function theorem.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from . import _vectors as vectors
from ._flow import Flow
from ._hoist import partition
from ._inner import Inner
from ._unroll import Unroll
from ._weights import check_arrays, trained_leaves


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
        TypeError: optimizer, steps or flow of the wrong type; an objective that is not scalar; an
            evolution strategy, whose plain function is `evolution_gradient`.
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

        end = flow.response(Inner(loss, transformation, steps))(values, point)
        if not diagnostics:
            return fast_of(end)
        frozen = jax.lax.stop_gradient((end, values))
        value, gradient = jax.lax.stop_gradient(jax.value_and_grad(loss)(*frozen))
        return fast_of(end), ResponseInfo(value, vectors.norm(gradient))

    return response


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
    if flow.perturbs:
        raise TypeError(
            f"best_response: {flow!r} estimates the gradient of a scalar loss, and gives no "
            "derivative of where an inner problem ends. Estimate that of the whole loss:\n"
            "    loss = lambda slow: outer(nx.best_response(objective, optimizer, steps)(slow, "
            f"start))\n    value, gradient = nx.evolution_gradient(loss, slow, key, {flow!r})"
        )
    if type(flow).response is Flow.response:
        raise TypeError(
            f"best_response: {flow!r} runs a level's period in a nest, and gives no derivative of "
            "where an inner problem ends; use Unroll(), or a nest"
        )
    if flow.last is not None and flow.last > steps:
        raise ValueError(
            f"best_response: {flow!r} asks for more than the {steps} steps taken; "
            "lower last or leave it out"
        )
    if flow.context is not None:
        raise ValueError(
            "best_response: Implicit's context belongs to nests; here the objective chooses its "
            "own data, so leave context out"
        )
