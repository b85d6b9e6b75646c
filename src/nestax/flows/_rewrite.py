"""A function with some of its operations replaced, loops and branches included.

The function's jaxpr is run equation by equation. Functions with a derivative rule of their own
(`jax.custom_jvp`, `jax.custom_vjp`) stay as their authors wrote them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jex

Rule = Callable[[Any, list], list]
"""(equation, inputs) -> outputs."""

# Primitives that run the jaxpr in their parameters once, on exactly their operands.
CALLS = ("jit", "pjit", "closed_call", "core_call")


def opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """A closed or an open jaxpr as the open one and its constants."""
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def any_equation(jaxpr: Any, wanted: Callable[[Any], bool]) -> bool:
    """Whether an equation is wanted, here or in a jaxpr inside; not in hand-written derivatives."""
    return any(
        wanted(equation) or any(any_equation(inner, wanted) for inner in inside(equation))
        for equation in opened(jaxpr)[0].eqns
    )


def evaluate(jaxpr: Any, inputs: Sequence[Any], rules: Mapping[str, Rule]) -> list:
    """What a closed jaxpr makes of the inputs.

    Args:
        jaxpr: closed.
        inputs: one array for each of its variables.
        rules: primitive's name -> what is done instead of it.
    """
    inner, constants = opened(jaxpr)
    values = dict(zip(inner.constvars, constants, strict=True))
    values |= zip(inner.invars, inputs, strict=True)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex.Literal) else values[atom]

    for equation in inner.eqns:
        operands = [read(atom) for atom in equation.invars]
        name = equation.primitive.name
        if name in rules:
            outputs = rules[name](equation, operands)
        elif any(
            any_equation(one, lambda e: e.primitive.name in rules) for one in inside(equation)
        ):
            outputs = _rebuilt(equation, operands, rules)
        else:
            outputs = bind(equation, operands)
        values |= zip(equation.outvars, outputs, strict=True)

    def output(atom: Any) -> Any:
        # Literals may be plain numbers, to which loops would give another type.
        if hasattr(atom, "val"):
            return jax.lax.convert_element_type(atom.val, atom.aval.dtype)
        return values[atom]

    return list(map(output, inner.outvars))


def bind(equation: Any, inputs: Sequence[Any]) -> list:
    """What an equation makes of its inputs as it stands."""
    primitive, params = equation.primitive, equation.params
    outputs = primitive.bind(*inputs, **primitive.get_bind_params(params))
    return list(outputs) if primitive.multiple_results else [outputs]


def branches(equation: Any, rules: Mapping[str, Rule]) -> list[Callable[..., list]]:
    """The branches of a `cond` equation as functions of its operands but the first."""
    return [
        lambda *operands, branch=branch: evaluate(branch, operands, rules)
        for branch in equation.params["branches"]
    ]


def inside(equation: Any) -> list[Any]:
    """The jaxprs inside an equation, as far as it can be rebuilt from them."""
    name, params = equation.primitive.name, equation.params
    if name == "cond":
        return list(params["branches"])
    if name == "while":
        return [params["cond_jaxpr"], params["body_jaxpr"]]
    if name in (*CALLS, "scan", "checkpoint", "remat2"):
        return [params.get("jaxpr", params.get("call_jaxpr"))]
    return []


def _rebuilt(equation: Any, inputs: list, rules: Mapping[str, Rule]) -> list:
    """A loop, branch or call whose body is evaluated with the rules."""
    name, params = equation.primitive.name, equation.params

    if name == "cond":
        return jax.lax.switch(inputs[0], branches(equation, rules), *inputs[1:])
    if name == "while":
        test, body = params["cond_jaxpr"], params["body_jaxpr"]
        split, end = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        of_test, of_body = inputs[:split], inputs[split:end]
        return jax.lax.while_loop(
            lambda carry: evaluate(test, [*of_test, *carry], rules)[0],
            lambda carry: evaluate(body, [*of_body, *carry], rules),
            inputs[end:],
        )
    (inner,) = inside(equation)
    if name == "scan":
        closed_over, carries = _scan_counts(equation)
        constants, moving = inputs[:closed_over], inputs[closed_over:]

        def step(carry: list, x: list) -> tuple[list, list]:
            outputs = evaluate(inner, [*constants, *carry, *x], rules)
            return outputs[:carries], outputs[carries:]

        carry, stacked = jax.lax.scan(
            step,
            moving[:carries],
            moving[carries:],
            params["length"],
            reverse=params["reverse"],
            unroll=params["unroll"],
        )
        return [*carry, *stacked]
    if name in ("checkpoint", "remat2"):
        again = jax.checkpoint(
            lambda *operands: evaluate(inner, operands, rules),
            prevent_cse=params["prevent_cse"],
            policy=params["policy"],
        )
        return again(*inputs)
    return evaluate(inner, inputs, rules)


def _scan_counts(equation: Any) -> tuple[int, int]:
    """How much a scan closes over and carries: read off the shapes, as its parameters move about
    between releases of JAX. What is cut into slices has one axis more outside than inside."""
    inner, _ = opened(equation.params["jaxpr"])

    def sliced(outer: Sequence[Any], inside: Sequence[Any]) -> int:
        return sum(o.aval.ndim > i.aval.ndim for o, i in zip(outer, inside, strict=True))

    carries = len(equation.outvars) - sliced(equation.outvars, inner.outvars)
    return len(equation.invars) - sliced(equation.invars, inner.invars) - carries, carries
