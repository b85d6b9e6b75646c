"""How sequence models descend: AdamW behind a clipped gradient, its rate on a schedule."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

_WARMUP = 0.05  # of a run; then the rate falls along a cosine
_CLIP = 1.0  # norm of a gradient, at most
_GATES = re.compile(r"\b(rate|retain|forget|mu)\b|bias")  # names of parameters


def optimizer(
    rate: Any, steps: Any, decay: float = 0.0, eps: float = 1e-8
) -> optax.GradientTransformation:
    """The rate warms up, then falls to zero along a cosine; what is `decayed` is pulled towards 0.

    Args:
        rate: at its highest; it and `steps` may be traced.
        steps: of the whole run.
        decay: of weights, in units of the rate.
        eps: Adam's.
    """

    def at(count: Any) -> Any:
        done = jnp.minimum((count + 0.5) / steps, 1.0)
        fall = 0.5 * (1 + jnp.cos(jnp.pi * (done - _WARMUP) / (1 - _WARMUP)))
        return rate * jnp.where(done < _WARMUP, done / _WARMUP, fall)

    adam = optax.adamw(at, b2=0.95, eps=eps, weight_decay=decay, mask=decayed)
    return optax.chain(optax.clip_by_global_norm(_CLIP), adam)


def decayed(params: Any) -> Any:
    """Which of a model's parameters are: matrices, but for those that gates are made by, whose
    eigenvalues would be pulled away from where they must be."""

    def one(path: Any, leaf: Any) -> bool:
        return leaf.ndim > 1 and not _GATES.search(jax.tree_util.keystr(path))

    return jax.tree_util.tree_map_with_path(one, params)
