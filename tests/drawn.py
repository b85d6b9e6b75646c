"""Modules without their own first values, of which each is a small program to compile."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def drawn(kind, *args, seed=0, **options):
    """`kind(*args, **options, key=...)` with all arrays drawn by numpy, none zero.

    Matrices are such that a unit vector is answered by one of about that length; what is not a
    matrix lies around 0.4.
    """
    build = lambda key: kind(*args, **options, key=key)  # noqa: E731
    shapes, treedef = jax.tree.flatten(eqx.filter_eval_shape(build, jax.random.key(0)))
    rng = np.random.default_rng(seed)
    leaves = []
    for a in shapes:
        draw = rng.normal(size=a.shape)
        draw = draw / a.shape[-1] ** 0.5 if a.ndim > 1 else 0.4 + 0.1 * draw
        leaves.append(jnp.asarray(draw, a.dtype))
    return treedef.unflatten(leaves)
