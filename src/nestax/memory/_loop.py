"""A scan whose backward pass keeps few of its carries."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_SHORT = 8  # rows of which all carries may be kept


def checkpointed_scan(
    body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, rows: Any
) -> tuple[Any, Any]:
    """`jax.lax.scan(body, carry, rows)`, keeping about 2 sqrt(n) carries for a backward pass.

    The carry of a memory is all its weights, and there is one for every write. What a round makes
    is made again in the backward pass. A single round is run without a loop.

    Args:
        body: `(carry, row) -> (carry, out)`.
        carry: pytree.
        rows: pytree of arrays of one leading axis n >= 1.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    if count == 1:
        carry, out = body(carry, jax.tree.map(lambda r: r[0], rows))
        return carry, jax.tree.map(lambda o: jnp.expand_dims(o, 0), out)
    inner = jax.checkpoint(body, prevent_cse=False)
    if count <= _SHORT:
        return jax.lax.scan(inner, carry, rows)
    # Whole groups in one loop, what is left in another: no round is run in vain.
    size = math.isqrt(count)
    groups = count // size
    first = jax.tree.map(lambda r: r[: groups * size].reshape(groups, size, *r.shape[1:]), rows)

    @jax.checkpoint
    def group(carry: Any, rows: Any) -> tuple[Any, Any]:
        return jax.lax.scan(inner, carry, rows)

    carry, outs = jax.lax.scan(group, carry, first)
    outs = jax.tree.map(lambda o: o.reshape(groups * size, *o.shape[2:]), outs)
    if groups * size == count:
        return carry, outs
    carry, rest = jax.lax.scan(inner, carry, jax.tree.map(lambda r: r[groups * size :], rows))
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), outs, rest)
