"""Closures made explicit, and what a function's jaxpr says about how it may be differentiated.

A rule written by hand (`jax.custom_vjp`) sees only its arguments: whatever a user's function closes
over must become an argument first, whatever its dtype, or derivatives with respect to it are lost
and `vmap` over it fails.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

_forward_only: contextvars.ContextVar[bool] = contextvars.ContextVar("forward_only", default=False)


@contextlib.contextmanager
def pushing_forward() -> Iterator[None]:
    """While tracing inside, our own reverse-only rules (`lean_gradient`) are not used."""
    token = _forward_only.set(True)
    try:
        yield
    finally:
        _forward_only.reset(token)


def is_pushing_forward() -> bool:
    """Whether what is traced now will be differentiated in forward mode."""
    return _forward_only.get()


def is_inexact(leaf: Any) -> bool:
    """Whether the leaf is an array (JAX or NumPy) of real or complex numbers."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def hoist(function: Callable, *args: Any) -> tuple[Callable, list, jex.Jaxpr]:
    """The function with its closed-over arrays and tracers as a first argument.

    Args:
        function: from pytrees of arrays to a pytree of arrays; traced once, at the shapes of
            `args`, and valid at these only.
        args: example arguments.

    Returns:
        `(pure, constants, jaxpr)` such that `pure(constants, *args) == function(*args)`.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    treedef = jax.tree.structure(shape)
    jaxpr, constants = closed.jaxpr, list(closed.consts)
    remade: Any = type(closed)  # its public name differs between versions of JAX
    # Newer versions of JAX keep the constants in the jaxpr. Ours may outlive the trace of theirs.
    without = getattr(jaxpr, "with_consts", None)
    jaxpr = jaxpr if without is None else without([])

    def pure(constants: list, *args: Any) -> Any:
        run = jex.jaxpr_as_fun(remade(jaxpr, constants))
        return treedef.unflatten(run(*jax.tree.leaves(args)))

    return pure, constants, jaxpr


def has_reverse_only_rule(jaxpr: jex.Jaxpr) -> bool:
    """Whether a `custom_vjp` is called anywhere inside: such a function has no forward mode."""
    return any(
        equation.primitive.name.startswith("custom_vjp_call") for equation in jaxpr.eqns
    ) or any(has_reverse_only_rule(inner) for inner in jex.subjaxprs(jaxpr))


def partition(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """A pytree's inexact arrays, and the way back.

    Returns:
        `(trainable, combine)`: the tree with None for every other leaf, so optimizers see paths
        as they were; and a function that puts the others back where such a tree has None.
    """
    leaves, treedef = jax.tree.flatten(tree)
    chosen = [is_inexact(leaf) for leaf in leaves]

    def combine(trainable: Any) -> Any:
        values = iter(jax.tree.leaves(trainable))
        both = zip(leaves, chosen, strict=True)
        return treedef.unflatten([next(values) if here else leaf for leaf, here in both])

    return treedef.unflatten(
        [jnp.asarray(leaf) if here else None for leaf, here in zip(leaves, chosen, strict=True)]
    ), combine
