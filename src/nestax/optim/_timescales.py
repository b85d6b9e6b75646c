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
    """Of a partition whose period is longer than 1."""

    tick: Array  # since the period began
    gathered: PyTree  # the sum of its gradients, float32 at least
    optimizer: PyTree


def multi_timescale(
    optimizer: Any,
    periods: Mapping[Any, int],
    labels: Any = None,
    accumulate: str = "mean",
) -> optax.GradientTransformationExtraArgs:
    """Each partition of the parameters moves at its own period, by what it gathered since.

    With period C a partition's gradients are gathered for C ticks. At the C-th, 2C-th, ... its
    optimizer sees their mean (or sum) once, and the partition moves; at other ticks its update is
    zero and its optimizer's state rests. So schedules and counters of a partition's optimizer count
    its own updates, and weight decay acts once a period. With period 1 a partition's optimizer is
    used as it is. `multi_timescale(0.1, {"fast": 1, "slow": 16})` is a continuum memory: blocks of
    one model, one loss, two clocks. With the sum, gradient descent moves a partition as far in a
    period as it would tick by tick, if the gradients did not change.

    Args:
        optimizer: a transformation for every partition (each has its own state), a learning rate
            (float or schedule) of gradient descent, or a dict from each label to either.
        periods: label -> number of ticks, at least 1. Periods need not divide one another. Labels
            that no parameter bears are without effect.
        labels: which label each parameter bears: a pytree of labels, shaped like the parameters or
            a prefix of them, or a function `(path, leaf) -> label`, which is also asked with the
            gradients for leaves. None: labels are regular expressions, searched for in the leaf's
            path in the order of `periods`; the first that is found counts. A path is
            `jax.tree_util.keystr(path, simple=True, separator="/")`, as in "blocks/0/w".
        accumulate: "mean" or "sum".

    Returns:
        A transformation; state: optax's `PartitionState`, with a `GatheredState` for each partition
        of a period above 1. Extra arguments reach the optimizers, at the ticks at which these run.

    Raises:
        ValueError: a period that is no positive int, an optimizer or a label without a period, a
            period without an optimizer, no regular expression, a path that none matches, labels of
            another structure; another `accumulate`; parameters or gradients that are no
            floating-point or complex arrays.

    Source: Nested Learning (2025), eq. (70-71), with the sum over one period.
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
