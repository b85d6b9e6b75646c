"""Half-precision parameters, single-precision memories."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree


def widened(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The transformation computed in float32 at least: its state is made for widened parameters,
    and updates are cast back to the dtype of the gradients."""
    inner = optax.with_extra_args_support(tx)

    def init(params: PyTree) -> Any:
        return inner.init(wide(params))

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, Any]:
        given = None if params is None else wide(params)
        found, new = inner.update(wide(updates), state, given, **extra)
        said = jax.tree.map(lambda u, g: u.astype(jnp.asarray(g).dtype), found, updates)
        return said, jax.tree.map(as_before, new, state)

    return optax.GradientTransformationExtraArgs(init, update)


def as_before(new: Any, old: Any) -> Any:
    """In the dtype that it had: a hyperparameter of a wider one must not change the state's."""
    floats = isinstance(new, jax.Array) and jnp.issubdtype(new.dtype, jnp.floating)
    return new.astype(old.dtype) if floats else new


def wide(tree: PyTree) -> PyTree:
    """Floating-point leaves in float32 at least."""
    return jax.tree.map(_wide, tree)


def _wide(a: Any) -> jax.Array:
    a = jnp.asarray(a)
    inexact = jnp.issubdtype(a.dtype, jnp.inexact)
    return a.astype(jnp.promote_types(a.dtype, jnp.float32)) if inexact else a
