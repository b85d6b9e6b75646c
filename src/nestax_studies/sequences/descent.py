"""How sequence models descend: AdamW behind a clipped gradient, its rate on a schedule."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import optax
from optax import microbatching

from ..lab.train import warmed

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

    adam = optax.adamw(warmed(rate, steps), b2=0.95, eps=eps, weight_decay=decay, mask=decayed)
    return optax.chain(optax.clip_by_global_norm(_CLIP), adam)


def mean_by_parts(
    loss: Callable[[Any, Any], jax.Array], params: Any, batch: Any, size: int
) -> jax.Array:
    """The mean of `loss` over the parts of a batch, the gradient of each part made with its loss.

    So nothing of a part outlives it, and what a small part needs stays in a processor's caches. May
    be differentiated once, in reverse, by `params`.

    Args:
        loss: (params, part) -> number, a mean over the part.
        params: pytree of floating-point arrays.
        batch: pytree of arrays with a leading axis.
        size: of a part; divides the batch.
    """
    over_parts = functools.partial(
        microbatching.microbatch,
        argnums=1,
        microbatch_size=size,
        accumulator=microbatching.AccumulationType.MEAN,
    )

    @jax.custom_vjp
    def mean(params: Any, batch: Any) -> jax.Array:
        return over_parts(loss)(params, batch)

    def forward(params: Any, batch: Any) -> tuple[jax.Array, Any]:
        return over_parts(jax.value_and_grad(loss))(params, batch)

    def backward(slope: Any, above: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(lambda s: above * s, slope), None

    mean.defvjp(forward, backward)
    return mean(params, batch)


def decayed(params: Any) -> Any:
    """Which of a model's parameters are: matrices, but for those that gates are made by, whose
    eigenvalues would be pulled away from where they must be."""

    def one(path: Any, leaf: Any) -> bool:
        return leaf.ndim > 1 and not _GATES.search(jax.tree_util.keystr(path))

    return jax.tree_util.tree_map_with_path(one, params)
