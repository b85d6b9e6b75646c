"""Half-precision parameters, single-precision memories."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from ._checks import check_gradients, check_parameters


def guarded(
    name: str, tx: optax.GradientTransformation, *, complex_numbers: bool = False
) -> optax.GradientTransformationExtraArgs:
    """The transformation computed in float32 at least, on parameters and gradients that it can use.

    Its state is made for widened parameters and keeps its dtypes, whatever the hyperparameters'
    are. Updates have the dtype of the gradients. Python floats are parameters too.

    Args:
        name: the optimizer, for errors.
        tx: what is to be computed; the learning rate belongs into it, so that steps are rounded
            once.
        complex_numbers: whether it is right for complex parameters. Gradients of those are taken
            as optax takes them: `jnp.conj(jax.grad(loss)(z))` points uphill.

    Raises:
        ValueError: at init and at update, see `check_parameters` and `check_gradients`.
    """
    inner = optax.with_extra_args_support(tx)

    def init(params: PyTree) -> Any:
        check_parameters(name, params, complex_numbers=complex_numbers)
        return inner.init(wide(params))

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, Any]:
        check_gradients(name, updates, params, complex_numbers=complex_numbers)
        given = None if params is None else wide(params)
        found, new = inner.update(wide(updates), state, given, **extra)
        said = jax.tree.map(lambda u, g: _like_gradient(name, u, g), found, updates)
        return said, jax.tree.map(as_before, new, state)

    return optax.GradientTransformationExtraArgs(init, update)


def as_before(new: Any, old: Any) -> Any:
    """In the dtype that it had: a hyperparameter of a wider one must not change the state's."""
    if not isinstance(new, jax.Array) or new.dtype == old.dtype:
        return new
    kinds = (jnp.floating, jnp.complexfloating)
    alike = any(all(jnp.issubdtype(a.dtype, kind) for a in (new, old)) for kind in kinds)
    return new.astype(old.dtype) if alike else new


def wide(tree: PyTree) -> PyTree:
    """Floating-point leaves in float32 at least."""
    return jax.tree.map(_wide, tree)


def _wide(a: Any) -> jax.Array:
    dtype = jnp.result_type(a)
    if not jnp.issubdtype(dtype, jnp.inexact):
        return jnp.asarray(a)
    return jnp.asarray(a, jnp.promote_types(dtype, jnp.float32))


def _like_gradient(name: str, update: jax.Array, gradient: Any) -> jax.Array:
    if jnp.iscomplexobj(update) and not jnp.iscomplexobj(gradient):
        raise ValueError(
            f"{name}: the gradient is real, and the state was made for a complex parameter"
        )
    return update.astype(jnp.result_type(gradient))
