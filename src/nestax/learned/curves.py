"""The losses of an optimizer along training, on drawn tasks of a family."""

from typing import Any

import jax
import optax
from jaxtyping import Array

from ..optim.internal import whole
from .family import Family


def curves(
    optimizer: Any,
    family: Any,
    key: Array,
    *,
    steps: Any,
    tasks: Any = 16,
    settings: Any = None,
) -> Array:
    """Losses at every step of an optimizer on tasks of a family, in one compiled program.

    All optimizers and settings that get the same key, family and number of tasks see the same
    tasks, starts and batches.

    Args:
        optimizer: an optax transformation, such as `rule(theta)`; with `settings` a function
            `setting -> transformation`.
        family: the family.
        key: of `jax.random.key`.
        steps: number of updates.
        tasks: number of tasks.
        settings: a pytree of arrays with a leading axis, such as learning rates, or weights of a
            rule from several seeds. All are tried side by side.

    Returns:
        Losses of shape (tasks, steps); with settings of shape (settings, tasks, steps). Each is
        the loss of a batch before the update that learns from it.

    Raises:
        ValueError: `steps` or `tasks` is no whole number of at least 1; no transformation; no
            family.
    """
    who = "curves"
    count, length = whole(who, "tasks", tasks), whole(who, "steps", steps)
    if not isinstance(family, Family):
        raise ValueError(f"{who}: family is a nestax.learned.Family, got {type(family).__name__}")

    def one(setting: Any, key: Array) -> Array:
        given = optimizer if settings is None else optimizer(setting)
        if not isinstance(given, optax.GradientTransformation):
            raise ValueError(
                f"{who}: the optimizer is an optax transformation, got {type(given).__name__}"
                + ("" if settings is not None else "; a function of a setting needs settings=")
            )
        tx = optax.with_extra_args_support(given)
        draw, begin, along = jax.random.split(key, 3)
        task = family.sample(draw)
        params = family.init(task, begin)

        def step(carry: Any, key: Array) -> Any:
            params, state = carry
            batch = family.batch(task, key)
            loss, gradient = jax.value_and_grad(family.loss)(params, batch)
            updates, state = tx.update(gradient, state, params, value=loss)
            return (optax.apply_updates(params, updates), state), loss

        _, losses = jax.lax.scan(step, (params, tx.init(params)), jax.random.split(along, length))
        return losses

    keys = jax.random.split(key, count)
    over_tasks = jax.vmap(one, (None, 0))
    if settings is None:
        return jax.jit(lambda keys: over_tasks(None, keys))(keys)
    return jax.jit(jax.vmap(over_tasks, (0, None)))(settings, keys)
