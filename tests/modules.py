"""Modules in tests: drawn by numpy, as each first value of their own is a small program to compile,
and derived once for several tests."""

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


def redrawn(module, spread, seed=0, scale=1.0):
    """The module with numbers of this spread added to all arrays, so that none is zero, and all
    multiplied by a scale."""
    leaves, treedef = jax.tree.flatten(module)
    rng = np.random.default_rng(seed)
    noise = [spread * rng.normal(size=a.shape) for a in leaves]
    pairs = zip(leaves, noise, strict=True)
    return treedef.unflatten([jnp.asarray(scale * (np.asarray(a) + b), a.dtype) for a, b in pairs])


run = jax.jit(lambda layer, x, state=None: layer(x, state))


@jax.jit
def slopes(layer, x):
    """Outputs, the state, and slopes of every output by all parameters and by the tokens."""
    y, pull, state = jax.vjp(lambda layer, x: layer(x), layer, x, has_aux=True)
    return y, state, jax.vmap(pull)(jnp.eye(y.size).reshape(-1, *y.shape))
