"""Functions whose derivative is carried along with their value, in either mode."""

from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ._hoist import has_reverse_only_rule, hoist, is_inexact, pushing_forward
from ._lean import is_zero


def pushed_forward(function: Callable) -> Callable:
    """The same function, whose whole Jacobian is computed by forward mode.

    One jvp for each number that moves, vmapped; reverse mode is a product with the Jacobian and
    stores nothing else. Where something inside has a rule for reverse mode only, `function` itself.

    Args:
        function: of pytrees; whatever it closes over is differentiated too.
    """

    def pushed(*arguments: PyTree) -> PyTree:
        with pushing_forward():
            pure, constants, jaxpr = hoist(function, *arguments)
        if has_reverse_only_rule(jaxpr):
            return function(*arguments)
        leaves, treedef = jax.tree.flatten((constants, *arguments))

        @jax.custom_jvp
        def value(*leaves: Any) -> PyTree:
            return pure(*treedef.unflatten(leaves))

        def push(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
            """The whole Jacobian first, so that transposing the product stores nothing else."""
            moved = [
                i
                for i, (leaf, tangent) in enumerate(zip(primals, tangents, strict=True))
                if is_inexact(leaf) and not is_zero(tangent)
            ]
            flat, unravel = jax.flatten_util.ravel_pytree([primals[i] for i in moved])
            direction, _ = jax.flatten_util.ravel_pytree([tangents[i] for i in moved])

            def of_moved(flat: Array) -> PyTree:
                leaves = list(primals)
                for i, leaf in zip(moved, unravel(flat), strict=True):
                    leaves[i] = leaf
                return pure(*treedef.unflatten(leaves))

            def column(unit: Array) -> tuple[PyTree, PyTree]:
                return jax.jvp(of_moved, (flat,), (unit,))

            def along(rows: Any) -> Any:
                if rows.dtype == jax.dtypes.float0:
                    return np.zeros(rows.shape[1:], jax.dtypes.float0)
                return jnp.tensordot(direction, rows, 1).astype(rows.dtype)

            basis = jnp.eye(flat.size, dtype=flat.dtype)
            output, jacobian = jax.vmap(column, out_axes=(None, 0))(basis)
            return output, jax.tree.map(along, jacobian)

        value.defjvp(push, symbolic_zeros=True)
        return value(*leaves)

    return pushed
