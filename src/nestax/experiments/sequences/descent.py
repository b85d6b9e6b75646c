"""How sequence models descend: AdamW behind a clipped gradient, its rate on a schedule."""

import re
from collections.abc import Callable
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


def mean_by_parts(loss: Callable[[Any, Any], jax.Array], params: Any, parts: Any) -> jax.Array:
    """The mean of `loss(params, part)`, the gradient of each part made with its loss.

    So nothing of a part outlives it, and what a small part needs stays in a processor's caches. May
    be differentiated once, in reverse, by `params`.

    Args:
        loss: gives a number.
        params: pytree of floating-point arrays.
        parts: pytree of arrays with a leading axis, the parts.
    """
    count = jax.tree.leaves(parts)[0].shape[0]

    @jax.custom_vjp
    def mean(params: Any, parts: Any) -> jax.Array:
        return jnp.mean(jax.lax.map(lambda part: loss(params, part), parts))

    def forward(params: Any, parts: Any) -> tuple[jax.Array, Any]:
        def add(total: Any, part: Any) -> tuple[Any, jax.Array]:
            value, slope = jax.value_and_grad(loss)(params, part)
            return jax.tree.map(jnp.add, total, slope), value

        total, values = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)
        return jnp.mean(values), jax.tree.map(lambda t: t / count, total)

    def backward(slope: Any, above: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(lambda s: above * s, slope), None

    mean.defvjp(forward, backward)
    return mean(params, parts)


def decayed(params: Any) -> Any:
    """Which of a model's parameters are: matrices, but for those that gates are made by, whose
    eigenvalues would be pulled away from where they must be."""

    def one(path: Any, leaf: Any) -> bool:
        return leaf.ndim > 1 and not _GATES.search(jax.tree_util.keystr(path))

    return jax.tree_util.tree_map_with_path(one, params)
