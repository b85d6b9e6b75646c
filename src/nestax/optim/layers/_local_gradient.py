"""Linear layers whose weights are given something else than their gradient.

Rules such as delta gradient descent need, for every layer, its inputs and its output errors, which
an optimizer never sees: they exist only inside backpropagation. A layer here computes y = W x
forward, gives its input the true cotangent, and hands weights what its *rule* makes of the pairs
(x_i, delta_i) of the whole batch.

`jax.custom_vjp` cannot express this. Such rules are not sums over examples, so `grad(vmap(layer))`
must show the rule all examples at once, whereas `vmap(grad(layer))` (per-example gradients, tasks
adapted side by side from shared weights) must keep them apart; a backward pass that is batched
cannot know which of the two it is in. A primitive knows: it is batched before it is differentiated
in the first case and after in the second. So here:

* batching over examples alone makes them rows of one call; batching over weights (or anything
  else) makes copies of the layer;
* the *first* differentiation turns the layer into ordinary operations and a tangent that is the
  true one forward and the rule backward. What is differentiated a second time is therefore the
  program with the rule in it, exactly.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

Params = Sequence[Any]


@runtime_checkable
class Rule(Protocol):
    """What a layer computes and what its parameters are given; hashable, without arrays in it."""

    @property
    def trainable(self) -> int:
        """How many of the parameters, from the first on, are given something."""
        ...

    def apply(self, params: Params, x: Any) -> Array:
        """y from x with a leading axis of examples; linear in `params[0]` and in x."""
        ...

    def gradients(self, params: Params, x: Any, errors: Any) -> list[Array]:
        """For the trainable parameters, in their shapes and dtypes, from errors = dL/dy."""
        ...


def local_linear(rule: Rule, params: Params, x: Any) -> Array:
    """`rule.apply(params, x)`, differentiated as the module's docstring says."""
    args = [*params, x]
    # Inside shard_map what is replicated must be said to vary, or its cotangent is not summed up.
    axes = frozenset().union(*(_varying(a) for a in args))
    args = [
        jax.lax.pcast(a, tuple(axes - _varying(a)), to="varying") if axes - _varying(a) else a
        for a in args
    ]
    return _layer.bind(*args, rule=rule, copies=0)


def _varying(a: Any) -> frozenset:
    kind = getattr(jax.typeof(a), "manual_axis_type", None)
    return frozenset() if kind is None else frozenset(kind.varying)


_layer = Primitive("nestax_local_linear")
_tangent = Primitive("nestax_local_tangent")  # of the weights' tangents; the others' say nothing


def _copied(function: Callable, copies: int) -> Callable:
    for _ in range(copies):
        function = jax.vmap(function)
    return function


def _applied(*args: Any, rule: Rule, copies: int) -> Any:
    *params, x = args
    return _copied(rule.apply, copies)([jnp.asarray(p) for p in params], jnp.asarray(x))


def _split(rule: Rule, args: Sequence[Any]) -> tuple[list, list, Any]:
    """(tangents, params, x) of a tangent's arguments."""
    *rest, x = args
    return list(rest[: rule.trainable]), list(rest[rule.trainable :]), x


def _tangent_applied(*args: Any, rule: Rule, copies: int) -> Any:
    dots, params, x = _split(rule, args)
    return _applied(dots[0], *params[1:], x, rule=rule, copies=copies)


def _jvp(primals: Any, tangents: Any, *, rule: Rule, copies: int) -> Any:
    *params, x = primals
    dots, x_dot = tangents[: rule.trainable], tangents[-1]
    # Ordinary operations from here on: only the first differentiation applies the rule.
    y = _applied(*primals, rule=rule, copies=copies)
    return y, _summed(y, dots, params, x, params[0], x_dot, rule, copies)


def _tangent_jvp(primals: Any, tangents: Any, *, rule: Rule, copies: int) -> Any:
    dots, params, x = _split(rule, primals)
    y = _tangent.bind(*primals, rule=rule, copies=copies)
    second, x_dot = tangents[: len(dots)], tangents[-1]
    return y, _summed(y, second, params, x, dots[0], x_dot, rule, copies)


def _summed(
    y: Any, dots: Any, params: list, x: Any, weight: Any, x_dot: Any, rule: Rule, copies: int
) -> Any:
    """The rule's tangent in the parameters and `weight` applied to the tangent of x."""
    parts = []
    if not all(isinstance(dot, ad.Zero) for dot in dots):
        given = [ad.instantiate_zeros(dot) for dot in dots]
        parts.append(_tangent.bind(*given, *params, x, rule=rule, copies=copies))
    if not isinstance(x_dot, ad.Zero):
        parts.append(_applied(weight, *params[1:], x_dot, rule=rule, copies=copies))
    return sum(parts[1:], parts[0]) if parts else jnp.zeros_like(y)


def _transpose(ct: Any, *args: Any, rule: Rule, copies: int) -> list:
    dots, params, x = _split(rule, args)
    wanted = [ad.is_undefined_primal(dot) for dot in dots]
    nothing = [None] * (len(args) - len(dots))
    if isinstance(ct, ad.Zero):
        zeros = [
            ad.Zero(dot.aval) if want else None for dot, want in zip(dots, wanted, strict=True)
        ]
        return [*zeros, *nothing]
    # Constants of a program may come as NumPy arrays.
    params, x, ct = jax.tree.map(jnp.asarray, (params, x, ct))
    found = _copied(rule.gradients, copies)(params, x, ct)
    return [g if want else None for g, want in zip(found, wanted, strict=True)] + nothing


def _batched(primitive: Primitive) -> Callable:
    def batch(args: Any, dims: Any, *, rule: Rule, copies: int) -> Any:
        size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
        if all(d is None for d in dims[:-1]):
            *params, x = args
            x = jnp.moveaxis(x, dims[-1], copies)
            lead, rows, rest = x.shape[:copies], x.shape[copies + 1], x.shape[copies + 2 :]
            x = x.reshape(*lead, size * rows, *rest)
            y = primitive.bind(*params, x, rule=rule, copies=copies)
            return y.reshape(*lead, size, rows, *y.shape[copies + 1 :]), copies
        moved = [
            jnp.broadcast_to(a, (size, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
            for a, d in zip(args, dims, strict=True)
        ]
        return primitive.bind(*moved, rule=rule, copies=copies + 1), 0

    return batch


def _define(primitive: Primitive, apply: Callable, jvp: Callable) -> None:
    def abstract(*avals: Any, **params: Any) -> Any:
        closed = jax.make_jaxpr(lambda *args: apply(*args, **params))(*avals)
        return closed.out_avals[0]

    primitive.def_impl(apply)
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(apply, multiple_results=False))
    batching.primitive_batchers[primitive] = _batched(primitive)
    ad.primitive_jvps[primitive] = jvp


_define(_layer, _applied, _jvp)
_define(_tangent, _tangent_applied, _tangent_jvp)
ad.primitive_transposes[_tangent] = _transpose
