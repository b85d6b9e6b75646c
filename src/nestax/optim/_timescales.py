"""One optimizer, several clocks: the continuum memory as a transformation of gradients.

Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), equation (71),

    theta_{i+1} = theta_i - sum_{t = i - C}^{i} eta_t f(theta_t; x_t)  if C divides i, else theta_i,

for the parameters of one level, C its period. Printed so the sum has C + 1 terms and counts the
gradient on each boundary twice; here every gradient is counted once, in the period it falls in.

Why not `optax.MultiSteps`: it runs the optimizer at every tick and throws the result away by
multiplication with zero, so that slow levels cost as much as fast ones, and one gradient that is
not finite stays in the accumulator for ever; and it has one dtype for all accumulators. Here the
end of a period is a branch, and `nx.level_table` finds the slow clock of what is written in it. The
parameters it finds written at every tick: between periods zero is added to them.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ._checks import check_gradients, check_parameters, check_prefix, described, option, rate
from ._descent import gradient_descent
from ._precision import wide


class GatheredState(NamedTuple):
    """State that `multi_timescale` keeps for a partition with a period above 1.

    Attributes:
        tick: ticks since the period began, int32.
        gathered: the sum of the partition's gradients in this period, float32 at least.
        optimizer: the state of the partition's optimizer.
    """

    tick: Array
    gathered: PyTree
    optimizer: PyTree


def multi_timescale(
    optimizer: Any,
    periods: Mapping[Any, int],
    labels: Any = None,
    accumulate: str = "mean",
) -> optax.GradientTransformationExtraArgs:
    """One optimizer with several clocks: each partition of the parameters has a period of its own.

    A partition with period C gathers its gradients for C ticks. At the ticks C, 2C, ... its
    optimizer gets their mean (or sum), and the partition moves; at all other ticks its update is
    zero and the state of its optimizer does not change. Schedules and counters of that optimizer
    therefore count its own updates, and weight decay acts once a period. With
    `accumulate="sum"`, gradient descent moves a partition as far in a period as it would tick by
    tick if the gradients did not change.

    Unlike `optax.MultiSteps`, this runs an optimizer only when its period ends, so that slow
    partitions cost less than fast ones.

    Args:
        optimizer: a transformation for every partition (each has its own state), a learning rate
            (float or schedule) of gradient descent, or a dict from each label to one of these.
        periods: label -> number of ticks, at least 1. Periods need not divide each other. Labels
            that no parameter has are without effect.
        labels: the label of each parameter: a pytree of labels, shaped like the parameters or a
            prefix of them; or a function `(path, leaf) -> label`, which is called for the
            parameters and for the gradients. None: labels are regular expressions, searched for in
            the leaf's path in the order of `periods`; the first match counts. A path is
            `jax.tree_util.keystr(path, simple=True, separator="/")`, such as "blocks/0/w".
        accumulate: "mean" or "sum" of a period's gradients.

    Returns:
        An optax transformation. Its state is optax's `PartitionState`, with a `GatheredState` for
        each partition with a period above 1. Extra arguments reach an optimizer at the ticks at
        which it runs.

    Raises:
        ValueError: a period that is not a positive int; an optimizer or a label without a period; a
            period without an optimizer; an invalid regular expression; a path that no expression
            matches; labels of another structure; another `accumulate`; parameters or gradients
            that are not floating-point or complex arrays.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (70-71),
    with every gradient counted once (the printed sum has C + 1 terms).

    Example:
        ```python
        optimizer = nx.optim.multi_timescale(0.1, {"fast": 1, "slow": 2})
        weights = {"fast": jnp.array(1.0), "slow": jnp.array(1.0)}
        gradients = {"fast": jnp.array(1.0), "slow": jnp.array(1.0)}
        state = optimizer.init(weights)
        for _ in range(2):
            updates, state = optimizer.update(gradients, state, weights)
        print(updates["fast"], updates["slow"])  # -0.1 -0.1
        ```
    """
    option("multi_timescale", "accumulate", accumulate, ("mean", "sum"))
    if not isinstance(periods, Mapping) or not periods:
        raise ValueError(
            "multi_timescale: periods must be a dict that gives at least one label its period, "
            f"got {described(periods)}"
        )
    for label, period in periods.items():
        if isinstance(period, bool) or not isinstance(period, (int, np.integer)) or period < 1:
            raise ValueError(
                f"multi_timescale: the period of {label!r} must be a number of ticks, an int of at "
                f"least 1, got {described(period)}"
            )
    given = optimizer if isinstance(optimizer, Mapping) else dict.fromkeys(periods, optimizer)
    if set(given) != set(periods):
        raise ValueError(
            "multi_timescale: optimizer and periods must have the same labels, got "
            f"{list(given)} and {list(periods)}"
        )
    clocked = {
        label: _clocked(
            _transformation(label, given[label]), operator.index(period), accumulate == "mean"
        )
        for label, period in periods.items()
    }
    inner = optax.partition(clocked, _labelling(labels, periods))

    def init(params: PyTree) -> Any:
        check_parameters("multi_timescale", params, complex_numbers=True)
        return inner.init(params)

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, Any]:
        check_gradients("multi_timescale", updates, params, complex_numbers=True)
        return inner.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, update)


def _transformation(label: Any, given: Any) -> optax.GradientTransformationExtraArgs:
    if isinstance(given, optax.GradientTransformation):
        return optax.with_extra_args_support(given)
    if given is None or isinstance(given, (str, Sequence)):
        raise ValueError(
            f"multi_timescale: the optimizer of {label!r} must be an optax transformation, or a "
            f"learning rate (a float or a schedule), got {given!r}"
        )
    return gradient_descent(rate("multi_timescale", given, f"the rate of {label!r}"))


def _clocked(
    tx: optax.GradientTransformationExtraArgs, period: int, mean: bool
) -> optax.GradientTransformationExtraArgs:
    if period == 1:
        return tx

    def init(params: PyTree) -> GatheredState:
        gathered = jax.tree.map(jnp.zeros_like, wide(params))
        return GatheredState(jnp.zeros((), jnp.int32), gathered, tx.init(params))

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, GatheredState]:
        updates = jax.tree.map(jnp.asarray, updates)
        gathered = jax.tree.map(lambda a, g: a + g.astype(a.dtype), state.gathered, updates)

        def move(gathered: PyTree, optimizer: PyTree) -> tuple[PyTree, PyTree, PyTree]:
            gradient = jax.tree.map(
                lambda a, g: (a / period if mean else a).astype(g.dtype), gathered, updates
            )
            said, new = tx.update(gradient, optimizer, params, **extra)
            # Both branches return the same types, whatever the optimizer makes of them.
            said = jax.tree.map(lambda u, g: u.astype(g.dtype), said, updates)
            new = jax.tree.map(lambda n, o: jnp.asarray(n, o.dtype), new, optimizer)
            return said, jax.tree.map(jnp.zeros_like, gathered), new

        def rest(gathered: PyTree, optimizer: PyTree) -> tuple[PyTree, PyTree, PyTree]:
            return jax.tree.map(jnp.zeros_like, updates), gathered, optimizer

        due = state.tick == period - 1
        said, gathered, inner = jax.lax.cond(due, move, rest, gathered, state.optimizer)
        return said, GatheredState((state.tick + 1) % period, gathered, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _labelling(labels: Any, periods: Mapping[Any, int]) -> Callable[[PyTree], PyTree]:
    """Parameters -> the label of each leaf, or of whole subtrees where `labels` is a prefix."""
    if labels is None:
        choose = _by_pattern(periods)
    elif callable(labels):
        choose = labels
    else:
        _check_labels(labels, periods)

        def fixed(params: PyTree) -> PyTree:
            check_prefix("multi_timescale", "labels", labels, params)
            return labels

        return fixed

    def of(params: PyTree) -> PyTree:
        def chosen(path: Any, leaf: Any) -> Any:
            return choose(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)

        found = jax.tree_util.tree_map_with_path(chosen, params)
        _check_labels(found, periods)
        return found

    return of


def _by_pattern(periods: Mapping[Any, int]) -> Callable[[str, Any], Any]:
    patterns = {}
    for label in periods:
        try:
            patterns[label] = re.compile(label)
        except (re.error, TypeError) as error:
            raise ValueError(
                f"multi_timescale: without labels, {label!r} in periods must be a regular "
                f"expression to be found in a parameter's path: {error}"
            ) from error

    def choose(path: str, leaf: Any) -> Any:
        for label, pattern in patterns.items():
            if pattern.search(path):
                return label
        raise ValueError(
            f"multi_timescale: no period for {path!r}: none of the patterns {list(periods)} is "
            'found in it; add one, or "" last for all that is left'
        )

    return choose


def _check_labels(labels: PyTree, periods: Mapping[Any, int]) -> None:
    for path, label in jax.tree_util.tree_leaves_with_path(labels):
        try:
            known = label in periods
        except TypeError:  # it has no hash, as an array
            known = False
        if not known:
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"multi_timescale: {where!r} bears the label {described(label)}, which has no "
                f"period; periods are given for {list(periods)}"
            )
