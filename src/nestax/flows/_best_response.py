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
    """The quality of the solution of an inner problem; scalars, constants to differentiation.

    Attributes:
        loss: the objective at the end.
        inner_gradient: Euclidean norm of its gradient with respect to fast.
    """

    loss: Array
    inner_gradient: Array


def best_response(
    objective: Callable[[Any, Any], Array],
    optimizer: Any,
    steps: int,
    flow: Flow | None = None,
) -> Callable[..., Any]:
    """The map from slow values to the fast values after `steps` steps of an optimizer.

    `best_response(objective, optimizer, steps, flow)(slow, start)` minimizes `objective(slow, .)`
    from `start` by exactly `steps` updates. Its value is the same under every flow. The flow
    determines its derivatives:

    | flow | d fast / d slow | d fast / d start |
    | --- | --- | --- |
    | `Unroll()` (default), `Forward()` | of all steps | of all steps, as in MAML |
    | `Unroll(first_order=True)` | of all steps, inner gradients constant | the same kind |
    | `Unroll(last=K)`, `OneStep()` | of the last K steps | 0 if K < steps |
    | `Implicit(solver)` | of the stationary point, `-H^-1 d2 objective / d fast d slow` | 0 |
    | `Implicit(solver, condition="update")` | of the fixed point of the optimizer's update | 0 |
    | `FiniteDifference()` | `-rate d2 objective / d fast d slow`, by a central difference | 0 |
    | `Direct()` | 0 | 0 |

    Arrays that the objective closes over count as slow, so that a level deep inside is a function
    of levels further out too. Every flow has derivatives of every order in reverse mode. Forward
    mode (`jax.jvp`) exists for `Direct`, `Forward` and `Unroll(checkpoint=False)`.

    Example:
        ```python
        inner = lambda goal, w: (w - goal) ** 2
        end = nx.best_response(inner, optax.sgd(0.25), steps=3)
        print(end(1.0, jnp.zeros(())), jax.grad(end)(1.0, jnp.zeros(())))  # 0.875 0.875
        ```

    Args:
        objective: `(slow, fast) -> scalar`. `Implicit` and `FiniteDifference` require that it
            depends on slow.
        optimizer: an optax transformation, or `slow -> transformation`: the trajectory flows then
            differentiate its hyperparameters too (the others do not). `update` receives the
            parameters and `value`, `grad`, `value_fn`. The derivative of a root of exactly zero is
            taken as 0, so that Adam can be differentiated at zero gradients. Derivatives as large
            as 1 / eps are possible where a gradient passes through zero; `eps_root > 0` bounds
            them.
        steps: number of updates, at least 0.
        flow: the rule of differentiation; None is `Unroll()`.

    Returns:
        `response(slow, start, diagnostics=False) -> fast`; with diagnostics (fast, `ResponseInfo`).
        Slow and start are any pytrees. Inexact arrays of start are trained, those of slow are
        differentiated; all other leaves are constants.

    Raises:
        TypeError: an optimizer, steps or a flow of the wrong type; an objective that is not scalar;
            an evolution strategy, for which there is `evolution_gradient`.
        ValueError: negative steps; `Unroll(last=K)` with K > steps; an `Implicit` with a context; a
            start without inexact arrays, or with statistics, random state or modules of flax,
            equinox or haiku, which are not weights (let the objective close over them); a point
            flow whose objective does not contain slow.

    Source: Lorraine, Vicol and Duvenaud, "Optimizing millions of hyperparameters by implicit
    differentiation" (2020): from a stationary point, K unrolled steps of gradient descent are the
    K-term Neumann series, and K -> infinity is the implicit function theorem.
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
