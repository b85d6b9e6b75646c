"""The one place that knows the insides of jaxprs, which change between JAX releases; and which
outputs of a program depend on which inputs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

# A primitive that runs the one jaxpr in its parameters once, on exactly its operands. By name, for
# others (`reduce`, `pallas_call`) hold a jaxpr that runs otherwise.
_CALLS = {
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "call",
    "eval_jaxpr",
    "remat",
    "remat2",
    "checkpoint",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "custom_vmap_call",
    "shard_map",
}


# Primitives whose derivative is zero.
_FLAT = {"stop_gradient", "sign", "floor", "ceil", "round"}
_CASES = {"select_n", "max", "min", "clamp", "cond", "while"}


def opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """A closed or an open jaxpr as the open one and its constants; some releases have one kind."""
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def called_by(eqn: Any) -> Any | None:
    """The jaxpr that an equation runs once, or None."""
    if eqn.primitive.name not in _CALLS:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call"):
        jaxpr = eqn.params.get(name)
        if jaxpr is not None:
            inner, _ = opened(jaxpr)
            fits = len(inner.invars) == len(eqn.invars)
            return jaxpr if fits and len(inner.outvars) == len(eqn.outvars) else None
    return None


def scan_counts(eqn: Any) -> tuple[int, int]:
    """How much a scan closes over and carries: read off the shapes, as its parameters move about.

    What is cut into slices has one axis more outside than inside.
    """
    inner, _ = opened(eqn.params["jaxpr"])

    def sliced(outer: Sequence[Any], inside: Sequence[Any]) -> int:
        return sum(o.aval.ndim > i.aval.ndim for o, i in zip(outer, inside, strict=True))

    carries = len(eqn.outvars) - sliced(eqn.outvars, inner.outvars)
    return len(eqn.invars) - sliced(eqn.invars, inner.invars) - carries, carries


def while_parts(eqn: Any) -> tuple[Any, int, Any, int]:
    """A while loop's predicate and body, each with how much it closes over."""
    p = eqn.params
    return p["cond_jaxpr"], p["cond_nconsts"], p["body_jaxpr"], p["body_nconsts"]


def dependence(function: Callable, *args: Any, differentiable: bool = False) -> list[set[int]]:
    """For each output leaf of a function, the argument leaves that it depends on, by number.

    Args:
        function: from pytrees of arrays to a pytree of arrays; traced, not run.
        args: example arguments; shapes will do.
        differentiable: count only paths that a derivative follows: none through `stop_gradient`,
            through integers, or through the choice of a branch.
    """
    closed = jax.make_jaxpr(function)(*args)
    count = len(jax.tree.leaves(args))
    masks = _reach(closed, [1 << i for i in range(count)], differentiable)
    return [{i for i in range(count) if mask >> i & 1} for mask in masks]


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a jaxpr, those of the jaxprs inside it included."""
    inner, _ = opened(jaxpr)
    yield from inner.eqns
    for other in jex.subjaxprs(inner):
        yield from equations(other)


def has_cases(function: Callable, *args: Any) -> bool:
    """Whether a function of arrays has cases (a projection, a clip, a mask that is an array), so
    that parts of its output may stand still; traced, not run."""
    closed = jax.make_jaxpr(function)(*args)
    if any(_inexact(a) and jnp.ndim(a) > 0 for a in opened(closed)[1]):
        return True
    return any(
        eqn.primitive.name in _CASES and any(_inexact(v.aval) for v in eqn.outvars)
        for eqn in equations(closed)
    )


def _inexact(a: Any) -> bool:
    dtype = getattr(a, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def _reach(jaxpr: Any, given: Sequence[int], cut: bool) -> list[int]:
    """Sets of inputs, as bits, carried from the inputs of a jaxpr to its outputs."""
    inner, _ = opened(jaxpr)
    sets = dict(zip(inner.invars, given, strict=True))

    def looked(atoms: Sequence[Any]) -> list[int]:
        return [0 if hasattr(atom, "val") else sets.get(atom, 0) for atom in atoms]

    for eqn in inner.eqns:
        ins = looked(eqn.invars)
        if not any(ins):
            continue  # it depends on nothing, as do most equations of a nest
        for variable, mask in zip(eqn.outvars, _carried(eqn, ins, cut), strict=True):
            if mask and (not cut or _inexact(variable.aval)):
                sets[variable] = mask
    return looked(inner.outvars)


def _carried(eqn: Any, ins: list[int], cut: bool) -> list[int]:
    name, everything = eqn.primitive.name, 0
    for mask in ins:
        everything |= mask
    if cut and name in _FLAT:
        return [0] * len(eqn.outvars)
    if cut and name.startswith("custom_vjp_call"):
        return [everything] * len(eqn.outvars)  # its derivative is not that of what it runs
    if name == "cond":
        found = [0] * len(eqn.outvars)
        for branch in eqn.params["branches"]:
            found = [a | b for a, b in zip(found, _reach(branch, ins[1:], cut), strict=True)]
        # Which branch is taken matters only to outputs that some branch computes from something.
        return [mask | ins[0] if mask and not cut else mask for mask in found]
    if name == "scan":
        closed_over, carries = scan_counts(eqn)
        return _rounds(eqn.params["jaxpr"], ins, closed_over, carries, cut)
    if name == "while":
        test, split, body, closed_over = while_parts(eqn)
        carries = len(eqn.outvars)
        found = _rounds(body, ins[split:], closed_over, carries, cut)
        steering = 0 if cut else _reach(test, ins[:split] + found, cut)[0]
        return [mask | steering for mask in found]
    called = called_by(eqn)
    return [everything] * len(eqn.outvars) if called is None else _reach(called, ins, cut)


def _rounds(body: Any, ins: list[int], closed_over: int, carries: int, cut: bool) -> list[int]:
    """A loop's outputs, whatever the number of its rounds."""
    ins = list(ins)
    while True:
        outs = _reach(body, ins, cut)
        grown = [a | b for a, b in zip(ins[closed_over:], outs[:carries], strict=False)]
        if grown == ins[closed_over : closed_over + carries]:
            return grown + outs[carries:]
        ins[closed_over : closed_over + carries] = grown
