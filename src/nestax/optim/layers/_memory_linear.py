r"""Momentum indexed by what a layer saw: a memory of its output errors, keyed by its inputs.

Nested Learning's deep momentum, W+ = W + m(.) (eq. 50), leaves open what the memory m is asked.
Here it is keyed by the layer's input x and valued by its output error delta = dL/dy,
m_phi(x) ~ -delta, and W moves by the outer product m_phi(x) x' where gradient descent moves it by
-delta x'. Unlike memories of the gradient tensor, it generalizes over *inputs*: what was learned
from one example's errors answers for similar ones.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._checks import array, is_array, option
from ._local_gradient import Params, local_linear


def memory_linear(
    weight: Array | np.ndarray,
    memory: PyTree,
    apply: Callable[[PyTree, Any], Any],
    x: Array | np.ndarray,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    r"""A linear layer, y = x W', whose gradient by W comes from a memory of its output errors.

    With n rows x_i that the layer sees, errors delta_i = dL/dy_i and d_i = n delta_i
    (`reduction="mean"`, for losses that are means over the rows) or delta_i (`"sum"`),

        W is given      -(1/n) sum_i m_phi(x_i) x_i'      ("sum": -sum_i m_phi(x_i) x_i')
        phi is given    grad_phi (1/n) sum_i 1/2 |m_phi(x_i) + d_i|^2,

    so that descent moves W by +learning_rate m x'. `optax.partition` gives the memory an inner
    optimizer of its own. A memory with m(x_i) = -d_i is gradient descent. The memory is read before
    it is written. The gradient by x is the true one.

    Rows, `vmap`, copies and higher derivatives are as in `delta_linear`. A memory that starts at
    zero moves W only after its own first step. The system is stable if the memory learns faster
    than W moves; a memory much slower than W overshoots as any momentum does.

    Args:
        weight: W, (out, in).
        memory: phi, a pytree of floating-point arrays.
        apply: `(phi, (in,)) -> (out,)`; pure, closing over no traced values.
        x: inputs, (..., in).
        reduction: `"mean"` or `"sum"`.

    Returns:
        y, (..., out).

    Raises:
        ValueError: shapes that do not fit, a weight or x that is not a floating-point array, an
            unknown reduction, leaves of the memory that are not floating-point arrays, an
            `apply` that is not a function or does not return an array (out,).

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (50), with the
    layer's inputs as keys and its output errors as values.
    """
    option("memory_linear", "reduction", reduction, ("mean", "sum"))
    if not callable(apply):
        raise ValueError(
            f"memory_linear: apply must be a function (memory, x) -> (out,), got {apply!r:.60}"
        )
    weight, x = array("memory_linear", "weight", weight), array("memory_linear", "x", x)
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            "memory_linear: a weight (out, in) and inputs (..., in) are expected, got "
            f"{weight.shape} and {x.shape}"
        )
    leaves, treedef = jax.tree.flatten(memory)
    for leaf in leaves:
        if not is_array(leaf, "float"):
            raise ValueError(
                "memory_linear: the memory must be a pytree of inexact arrays of real numbers, got "
                f"a leaf {leaf!r:.80}; close `apply` over what is not trained"
            )
    try:
        said = jax.eval_shape(apply, memory, jax.ShapeDtypeStruct(x.shape[-1:], x.dtype))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"memory_linear: apply(memory, x) failed for this memory and an x of shape "
            f"{x.shape[-1:]}, a row of the inputs: {error}"
        ) from error
    if getattr(said, "shape", None) != (weight.shape[0],):
        raise ValueError(
            f"memory_linear: apply(memory, x) must answer with an array of shape "
            f"{(weight.shape[0],)} to x of shape {x.shape[-1:]}, got {said}"
        )
    rule = MemoryRule(apply, treedef, reduction)
    y = local_linear(rule, [weight, *leaves], x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], weight.shape[0])


@dataclasses.dataclass(frozen=True)
class MemoryRule:
    """Parameters: weight, the memory's leaves."""

    memory: Callable
    treedef: Any
    reduction: str

    @property
    def trainable(self) -> int:
        """All of them."""
        return 1 + self.treedef.num_leaves

    def apply(self, params: Params, x: Array) -> Array:
        """x W'."""
        return x @ params[0].T

    def gradients(self, params: Params, x: Array, errors: Array) -> list[Array]:
        """The memory's answer for the weight, the inner loss's gradient for the memory."""
        weight, *leaves = params
        rows = max(x.shape[0], 1)
        count = rows if self.reduction == "mean" else 1

        def inner(leaves: list[Array]) -> tuple[Array, Array]:
            said = jax.vmap(self.memory, (None, 0))(self.treedef.unflatten(leaves), x)
            return jnp.sum(jnp.square(said + count * errors)) / (2 * rows), said

        found, said = jax.grad(inner, has_aux=True)(leaves)
        return [(-(said.T @ x) / count).astype(weight.dtype), *found]
