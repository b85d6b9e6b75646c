"""Calls of flows that run a period for themselves: what they hand to the period and what they
return is checked while they are traced, so that nothing is broadcast or dropped without a word."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from ._flow import Flow, Period, Reached
from ._memory import DATA, described, same_memory, shapes


def estimated(
    who: str, flow: Flow, period: Period, memory: PyTree, key: PRNGKeyArray
) -> tuple[PyTree, Reached, PyTree]:
    """`flow.gradient(period, memory, key)`, checked.

    Args:
        who: begins an error, such as "level 'd'".
        flow: a flow that follows a period.
        period: as the flow shall see it; the values that it is run with are checked as well.
        memory: of the flow.
        key: for its noise.

    Returns:
        (gradient, reached, memory), the gradient in the dtypes of `period.value`.

    Raises:
        ValueError: the flow returns something else, or runs the period with another kind of value.
    """
    kind, runs = type(flow).__name__, []

    def watched(name: str, run: Callable, copies: int | None) -> Callable:
        def shape(a: Any) -> Any:
            return jax.ShapeDtypeStruct((copies, *a.shape), a.dtype)

        like = period.value if copies is None else jax.tree.map(shape, period.value)
        expected = "period.value" if copies is None else "period.value with a first axis of copies"

        def watching(value: PyTree) -> Reached:
            what = f"{who}: the value that the flow {kind} gives to period.{name}"
            reached = run(_fitted(what, expected, like, value))
            runs.append(shapes(reached))
            return reached

        return watching

    each = period.run_each
    if period.copies is not None and flow.perturbs:
        each = watched("run_each", each, period.copies)
    seen = period._replace(run=watched("run", period.run, None), run_each=each)
    returned = flow.gradient(seen, memory, key)
    whole = isinstance(returned, tuple) and not isinstance(returned, Reached)
    if not whole or len(returned) != 3:
        got = f"a tuple of {len(returned)}" if whole else described(returned)
        raise ValueError(
            f"{who}: the gradient method of the flow {kind} returns (gradient, reached, memory), "
            f"the memory as it came if there is none; got {got}"
        )
    gradient, reached, after = returned
    what = f"{who}: the gradient of the flow {kind}"
    gradient = _fitted(what, "period.value", period.value, gradient)
    if not isinstance(reached, Reached):
        raise ValueError(
            f"{who}: the flow {kind} returns as its second what period.run(value) has returned, a "
            "Reached, from which the nest goes on, and not a part of it such as its loss; got "
            f"{described(reached)}"
        )
    if shapes(reached) not in runs:
        raise ValueError(
            f"{who}: the flow {kind} returns a Reached that no run of its period has returned; "
            "return one as it came from period.run(value). Under jax.vmap there are several: take "
            "one of them, jax.tree.map(lambda a: a[0], reached)"
        )
    return gradient, reached, same_memory(f"{who}: the flow {kind}", memory, after)


def _fitted(what: str, expected: str, like: PyTree, given: PyTree) -> PyTree:
    """`given` in the dtypes of `like`, whose structure and shapes it must have."""
    if jax.tree.structure(given) != jax.tree.structure(like):
        raise ValueError(f"{what} is like {expected}, {described(like)}; got {described(given)}")

    def fitted(path: Any, wanted: Any, leaf: Any) -> jax.Array:
        same = isinstance(leaf, DATA) and jnp.shape(leaf) == wanted.shape
        if not same or _kind(jnp.result_type(leaf)) != _kind(wanted.dtype):
            at = f" at {jax.tree_util.keystr(path)}" if path else ""
            raise ValueError(
                f"{what} is like {expected}, {described(wanted)}{at}; got {described(leaf)}"
            )
        return jnp.asarray(leaf, wanted.dtype)

    return jax.tree_util.tree_map_with_path(fitted, like, given)


def _kind(dtype: Any) -> Any:
    """Dtypes of one kind may stand for one another: the real ones, the complex ones."""
    kinds = (jnp.floating, jnp.complexfloating)
    return next((kind for kind in kinds if jnp.issubdtype(dtype, kind)), dtype)
