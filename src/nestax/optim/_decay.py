"""The end of an optimizer: decoupled weight decay, then the learning rate."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from ._checks import check_prefix, number, rate
from ._precision import guarded

Mask = PyTree | Callable[[PyTree], PyTree]  # of bools, a prefix of the parameters; or a function


def finished(
    name: str,
    core: optax.GradientTransformation,
    learning_rate: Any,
    weight_decay: Any = 0.0,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer W <- W - learning_rate (core(g) + weight_decay W), for real and complex W.

    Without decay, which is the number 0, the state has no part for it and no parameters are needed.

    Args:
        name: the optimizer, for errors.
        core: gradients to directions, which are uphill as gradients are.
        learning_rate: a number or a schedule.
        weight_decay: a number, at least 0.
        mask: which parameters decay, see `check_mask`; None: all.
    """
    parts = [core, *decayed(name, weight_decay, mask)]
    parts.append(optax.scale_by_learning_rate(rate(name, learning_rate)))
    return guarded(name, optax.chain(*parts), complex_numbers=True)


def decayed(name: str, weight_decay: Any, mask: Any) -> list[optax.GradientTransformation]:
    """optax.add_decayed_weights, or nothing where the decay is the number 0."""
    # Of an array not even a known value counts: inject_hyperparams knows it at init only.
    given = isinstance(weight_decay, jax.Array)
    weight_decay = number(name, "weight_decay", weight_decay)
    check_mask(name, mask)
    if not given and weight_decay == 0:
        return []

    def masked(params: PyTree) -> PyTree:
        chosen = mask(params) if callable(mask) else mask
        check_mask(name, chosen)
        check_prefix(name, "mask", chosen, params)
        return chosen

    inner = optax.add_decayed_weights(weight_decay, None if mask is None else masked)

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> Any:
        if params is None:
            raise ValueError(
                f"{name}: weight_decay needs the parameters; call update(gradients, state, params)"
            )
        return inner.update(updates, state, params)

    return [optax.GradientTransformation(inner.init, update)]


def check_mask(name: str, mask: Any) -> None:
    """Refuses masks other than None, functions, and trees of bools."""
    if mask is None or callable(mask):
        return
    for path, leaf in jax.tree_util.tree_leaves_with_path(mask):
        if not isinstance(leaf, (bool, np.bool_)):
            raise ValueError(
                f"{name}: mask{jax.tree_util.keystr(path)} must be True or False "
                f"(does it decay), or mask a function of the parameters; got {leaf!r:.60}"
            )
