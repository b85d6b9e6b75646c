"""What an optimizer remembers, measured: how much a past gradient still moves the weights.

An optimizer is a memory of its gradient stream (Nested Learning, 2025, section 4). Momentum's
memory is written in its decay, which forgets all but 1 % of a gradient within 44 steps at 0.9. What
others remember is not to be read off their hyperparameters, but can be asked of any of them.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from ._checks import array, check_gradients, option, whole
from ._descent import root_mean_square


def influence(
    tx: optax.GradientTransformation,
    gradients: PyTree,
    params: PyTree | None = None,
    method: str = "derivative",
    *,
    per_leaf: bool = False,
    batch_size: int = 32,
) -> PyTree:
    r"""How much each gradient of a stream still moves the last update.

    The optimizer reads the stream g_1, ..., g_T with the parameters held fixed; u_T is its last
    update. For each s in 1, ..., T, with Euclidean norms over all parameters together,

        |(d u_T / d g_s) g_s| / |g_s|                       (`method="derivative"`)
        |u_T - (u_T where g_s is zero)| / |g_s|             (`method="removal"`)

    This is the gain along the gradient itself, in units of the learning rate: `beta^(T - s)` for
    `optax.sgd(1.0, momentum=beta)`, whatever the stream. Divide it by its sum to compare optimizers
    of different learning rates. Both methods agree if the update is linear in the stream. Take
    "removal" for optimizers whose derivative along the gradient vanishes although the gradient
    matters: signs, normalized steps, Adam's first step.

    Args:
        tx: an optax transformation. One whose update needs further arguments (`value_fn`) is not
            supported.
        gradients: the stream, shaped like the parameters with a leading axis T in every leaf.
        params: the parameters for `tx.init` and `tx.update`; None: zeros.
        method: "derivative" or "removal".
        per_leaf: whether both norms are taken within each leaf.
        batch_size: how many s are computed side by side; memory grows with it, by one state of the
            optimizer each. The cost is T runs over the stream.

    Returns:
        Array (T,), float32 at least; with `per_leaf` a pytree of such arrays, shaped like the
        parameters. Zero if g_s is zero, NaN if a number in g_s is not finite. The derivative is not
        finite if that of `tx` is not: Adam's is not for a coordinate that has always been zero, so
        use `eps_root` or "removal" there.

    Raises:
        ValueError: `tx` is not a transformation; `gradients` have no leaves, leaves that are not
            floating-point arrays, or leaves of different lengths; `params` do not fit them; another
            `method`; a `batch_size` that is not an int of at least 1.

    Source: the question is that of "Nested Learning" (2025), section 4; the measure is ours.

    Example:
        ```python
        stream = jnp.ones((3, 2))  # three gradients of a parameter of shape (2,)
        print(nx.optim.influence(optax.sgd(1.0, momentum=0.5), stream))  # [0.25 0.5  1.  ]
        ```
    """
    method = option("influence", "method", method, ("derivative", "removal"))
    if not isinstance(tx, optax.GradientTransformation):
        raise ValueError(f"influence: tx must be an optax transformation, got {tx!r:.60}")
    batch_size = whole("influence", "batch_size", batch_size)
    leaves = jax.tree_util.tree_leaves_with_path(gradients)
    lengths = {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        array("influence", f"gradients{jax.tree_util.keystr(path)}", leaf)
        lengths[name] = np.shape(leaf)[0] if np.ndim(leaf) else 0
    if len(set(lengths.values())) != 1 or not all(lengths.values()):
        raise ValueError(
            "influence: every leaf of gradients must have the same leading axis, one entry per "
            f"step and at least one, got {lengths or 'no leaves'}"
        )
    gradients = jax.tree.map(jnp.asarray, gradients)
    if params is None:
        params = jax.tree.map(lambda g: jnp.zeros_like(g[0]), gradients)
    first = jax.tree.map(lambda g: jax.ShapeDtypeStruct(g.shape[1:], g.dtype), gradients)
    check_gradients("influence", first, params, complex_numbers=True, at="[t]")
    return _influence(tx, gradients, params, method, per_leaf, batch_size)


# Compiled once for each optimizer and shape of the stream, not for each stream.
@partial(jax.jit, static_argnums=(0, 3, 4, 5))
def _influence(
    tx: Any, gradients: PyTree, params: PyTree, method: str, per_leaf: bool, batch_size: int
) -> PyTree:
    steps = len(jax.tree.leaves(gradients)[0])
    dtype = jnp.promote_types(jnp.result_type(*jax.tree.leaves(gradients)), jnp.float32)

    def norm(x: Array) -> Array:
        x = x.astype(dtype)
        return root_mean_square(x) * math.sqrt(x.size)

    def last(amounts: Float[Array, " T"]) -> PyTree:
        """u_T where every g_t is (1 + amount_t) g_t: all that is varied is one number a step."""

        def step(carry: Any, at: Any) -> Any:
            state, _ = carry
            g, amount = at
            g = jax.tree.map(lambda x: x * (1 + amount).astype(x.dtype), g)
            updates, state = tx.update(g, state, params)
            return (state, updates), None

        state = tx.init(params)
        first = jax.tree.map(lambda g: g[0], gradients)
        shapes = jax.eval_shape(lambda: tx.update(first, state, params)[0])
        nothing = jax.tree.map(lambda u: jnp.zeros(u.shape, u.dtype), shapes)
        (_, updates), _ = jax.lax.scan(step, (state, nothing), (gradients, amounts))
        return updates

    def moved(s: Array) -> PyTree:
        """The norm of each leaf's change."""
        chosen = (jnp.arange(steps) == s).astype(dtype)
        still = jnp.zeros(steps, dtype)
        if method == "derivative":
            change = jax.jvp(last, (still,), (chosen,))[1]
        else:
            change = jax.tree.map(jnp.subtract, last(still), last(-chosen))
        return jax.tree.map(norm, change)

    changes = jax.lax.map(moved, jnp.arange(steps), batch_size=min(batch_size, steps))
    sizes = jax.tree.map(jax.vmap(norm), gradients)
    if not per_leaf:  # the norm of the leaves' norms
        changes, sizes = (
            jax.vmap(norm)(jnp.stack(jax.tree.leaves(tree), axis=1)) for tree in (changes, sizes)
        )

    def ratio(change: Array, size: Array) -> Array:
        return jnp.where(size == 0, 0, change / jnp.where(size == 0, 1, size))

    return jax.tree.map(ratio, changes, sizes)
