"""A JAX function of a flat list, and the compiled functions that are derived from it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

_ORDERS = ("first", "second", "third")


class Program:
    """A function from a list of arrays to a pytree of arrays, compiled once for each shape.

    Compiled programs return memory of their own, never that of an argument, a constant or another
    output. So tensors that share it may be written to.

    Attributes:
        function: list of leaves -> pytree of arrays.
        name: for errors.
        order: how many times `name` was differentiated already.
    """

    def __init__(self, function: Callable[[list], Any], name: str, order: int = 0):
        self.function, self.name, self.order = function, name, order
        self._derived: dict[Any, Any] = {}
        self.forward = jax.jit(lambda leaves: _fresh(function(leaves)))
        self.pull = jax.jit(self._pull)

    def keeping(self, needs: tuple[int, ...]) -> Callable[[list], tuple[Any, Any, Any]]:
        """leaves -> (outputs, gradients, residuals) of which the last or the last but one is None.

        Of a real scalar the gradients with respect to `needs` are computed together with it, as one
        program, which is faster than two and keeps nothing. Otherwise `pull` takes the residuals.
        """

        def run(leaves: list) -> tuple[Any, Any, Any]:
            out, pull = self._vjp(leaves, needs)
            inexact = [leaf for leaf in jax.tree.leaves(out) if _inexact(leaf)]
            # In 16 bits a gradient may vanish that a scaled loss (torch.amp.GradScaler) keeps.
            short = any(leaves[index].dtype == jnp.float16 for index in needs)
            short = short or any(leaf.dtype == jnp.float16 for leaf in inexact)
            if [leaf.ndim for leaf in inexact] == [0] and jnp.isrealobj(inexact[0]) and not short:
                return _fresh(out), self._pull(pull, [jnp.ones_like(inexact[0])]), None
            return _fresh(out), None, pull

        return self._once(("keeping", needs), lambda: jax.jit(run))

    def gradient(self, needs: tuple[int, ...], outputs: int) -> "Program":
        """The program from leaves and cotangents of the outputs to cotangents of `needs`."""

        def run(leaves: list) -> list:
            given, cotangents = leaves[:-outputs], leaves[-outputs:]
            return self._pull(self._vjp(given, needs)[1], cotangents)

        made = functools.partial(Program, run, self.name, self.order + 1)
        return self._once(("gradient", needs, outputs), made)

    def batched(self, axes: tuple[int | None, ...]) -> "Program":
        """The program of many calls at once, whose outputs have the batch in front."""
        mapped = jax.vmap(self.function, in_axes=(list(axes),))
        made = functools.partial(Program, mapped, self.name, self.order)
        return self._once(("batched", axes), made)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._derived:
            self._derived[key] = make()
        return self._derived[key]

    def _vjp(self, leaves: list, needs: tuple[int, ...]) -> tuple[Any, Callable]:
        def part(values: list) -> tuple[list, Any]:
            full = list(leaves)
            for index, value in zip(needs, values, strict=True):
                full[index] = value
            out = jax.tree.map(jnp.asarray, self.function(full))
            return [leaf for leaf in jax.tree.leaves(out) if _inexact(leaf)], out

        values = [leaves[index] for index in needs]
        try:
            _, pull, out = jax.vjp(part, values, has_aux=True)
        except Exception as error:
            part(values)  # its own errors are raised as they are
            raise self._refusal(error) from error
        return out, pull

    def _pull(self, pull: Callable, cotangents: Sequence[Any]) -> list:
        # For complex numbers torch's gradients are the conjugates of JAX's.
        try:
            found = pull([jnp.conj(one) for one in cotangents])[0]
        except Exception as error:
            raise self._refusal(error) from error
        return _fresh([jnp.conj(one) for one in found])

    def _refusal(self, error: Exception) -> ValueError:
        order = _ORDERS[self.order] if self.order < len(_ORDERS) else f"{self.order + 1}th"
        first = str(error).strip().split("\n", 1)[0]
        return ValueError(
            f"torch_function({self.name}): JAX has no {order} derivative of it in reverse mode: "
            f"{type(error).__name__}: {first} If none is needed, call it under torch.no_grad() or "
            "with tensors that require no gradient"
            + ("; leave create_graph=True out" if self.order else "")
        )


def _fresh(tree: Any) -> Any:
    """Within a compiled function: outputs that alias nothing."""
    return jax.tree.map(jnp.copy, tree)


def _inexact(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)
