"""Lookahead for games: fast weights make several steps, slow weights move a part of the way."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .checks import number, whole


class LookaheadState(NamedTuple):
    """State of `lookahead_minmax`.

    Attributes:
        count: updates so far, int32.
        slow: the slow weights, like the parameters.
        inner: the state of the optimizer inside.
    """

    count: Array
    slow: PyTree
    inner: Any


def lookahead_minmax(
    optimizer: Any, sync_period: int = 5, slow_step_size: Any = 0.5
) -> optax.GradientTransformationExtraArgs:
    """An optimizer whose weights are drawn back to a slow average every few steps.

        every `sync_period` updates:  slow+ = slow + slow_step_size (w - slow),  w+ = slow+

    For players who circle around an equilibrium: all of them use it with the same period, so that
    they return at the same time. Players who move the same number of steps in between may circle a
    whole turn; then it does nothing.

    Example:
        ```python
        optimizer = nx.games.lookahead_minmax(optax.sgd(1.0), sync_period=2)
        w, state = jnp.array(8.0), optimizer.init(jnp.array(8.0))
        for _ in range(2):
            updates, state = optimizer.update(jnp.array(1.0), state, w)
            w = optax.apply_updates(w, updates)
        print(w)  # 7.0
        ```

    Args:
        optimizer: optax transformation that moves the fast weights; its state is kept.
        sync_period: updates between two moves of the slow weights, at least 1.
        slow_step_size: the part of the way that the slow weights go; a number, may be traced.

    Returns:
        An optax transformation, whose `update` needs the parameters.

    Raises:
        ValueError: not an optimizer, a period below 1, a step size that is not a finite number; in
            `update`: parameters that are missing.

    Source: Chavdarova et al., "Taming GANs with Lookahead-Minmax" (2021), Algorithm 1; for a single
    objective Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back" (2019).
    """
    name = "lookahead_minmax"
    period = whole(name, "sync_period", sync_period)
    part = number(name, "slow_step_size", slow_step_size)
    if not hasattr(optimizer, "update"):
        raise ValueError(
            f"{name}: optimizer is an optax transformation such as optax.sgd(0.1), got "
            f"{optimizer!r:.60}"
        )
    fast = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> LookaheadState:
        slow = jax.tree.map(jnp.array, params)  # a copy: both may be donated
        return LookaheadState(jnp.zeros((), jnp.int32), slow, fast.init(params))

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, LookaheadState]:
        if params is None:
            raise ValueError(f"{name}: give the parameters, update(gradients, state, params)")
        updates, inner = fast.update(updates, state.inner, params, **extra)
        count = jnp.asarray(optax.safe_increment(state.count))
        meet = count % period == 0

        def moved(slow: Array, w: Array, u: Array) -> Array:
            return jnp.where(meet, slow + part * (w + u - slow), slow).astype(slow.dtype)

        slow = jax.tree.map(moved, state.slow, params, updates)
        updates = jax.tree.map(
            lambda s, w, u: jnp.where(meet, s - w, u).astype(u.dtype), slow, params, updates
        )
        return updates, LookaheadState(count, slow, inner)

    return optax.GradientTransformationExtraArgs(init, update)
