"""`read` turns a jaxpr into the plain graph of `graph`, calls written out in place. What `count`
needs to run one is here too.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from ...flows.internal import called_by, opened, scan_counts, while_parts
from .graph import Body, Branch, Compute, Copy, Key, Loop, Operation, Run, Select

_COPIES = {
    "copy",
    "copy_p",
    "convert_element_type",
    "reshape",
    "squeeze",
    "expand_dims",
    "broadcast_in_dim",
    "name",
    "pvary",
    "pcast",
    "device_put",
    "optimization_barrier",
    "sharding_constraint",
    "reshard",
    "layout_constraint",
}


def bind(eqn: Any, inputs: Sequence[Any]) -> list[Any]:
    """What an equation makes of values."""
    outs = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
    return list(outs) if eqn.primitive.multiple_results else [outs]


def _inexact(variable: Any) -> bool:
    dtype = getattr(variable.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def _copies(eqn: Any) -> bool:
    """Whether each output holds its input's numbers, in the same order."""
    if eqn.primitive.name not in _COPIES or len(eqn.invars) != len(eqn.outvars):
        return False
    return all(
        math.prod(i.aval.shape) == math.prod(o.aval.shape) and _inexact(i) == _inexact(o)
        for i, o in zip(eqn.invars, eqn.outvars, strict=True)
    )


def _run(eqn: Any, around: Run) -> Run:
    """What a derivative runs an equation for: it keeps a stack of names that it was traced under.

    The names are relative to the body around, and those further on are of passes further in.
    """
    stack = str(eqn.source_info.name_stack)
    backward, again = stack.rfind("transpose("), stack.rfind("rematted_computation")
    if backward == again:
        return around
    return Run.BACKWARD if backward > again else Run.AGAIN


def read(jaxpr: Any, key: Key = (), run: Run = Run.FORWARD) -> Body:
    """The graph of a closed jaxpr; `run` is what the body around it is run for."""
    inner, _ = opened(jaxpr)
    builder = _Builder()
    inputs = [builder.value(v) for v in inner.invars]
    outputs = builder.inline(jaxpr, inputs, key, run)
    return Body(len(inputs), tuple(outputs), tuple(builder.operations), tuple(builder.sizes))


class _Builder:
    """Collects the operations of one body."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.sizes: list[int] = []

    def value(self, atom: Any) -> int:
        self.sizes.append(math.prod(getattr(atom.aval, "shape", ())))
        return len(self.sizes) - 1

    def inline(self, jaxpr: Any, inputs: Sequence[int], key: Key, run: Run) -> list[int]:
        inner, _ = opened(jaxpr)
        values = dict(zip(inner.invars, inputs, strict=True))
        values |= {v: self.value(v) for v in inner.constvars}

        def look(atom: Any) -> int:
            # Literals carry their value; everything else is a variable met before.
            return self.value(atom) if hasattr(atom, "val") else values[atom]

        for index, eqn in enumerate(inner.eqns):
            here = (*key, index)
            own = _run(eqn, run)
            ins = tuple(look(atom) for atom in eqn.invars)
            called = called_by(eqn)
            if called is not None:
                outs = self.inline(called, ins, here, own)
            else:
                outs = tuple(self.value(v) for v in eqn.outvars)
                self.operations += _operations(eqn, ins, outs, here, own)
            values |= zip(eqn.outvars, outs, strict=True)
        return [look(atom) for atom in inner.outvars]


def _operations(
    eqn: Any, ins: tuple[int, ...], outs: tuple[int, ...], key: Key, run: Run
) -> list[Operation]:
    name, params = eqn.primitive.name, eqn.params
    if name == "scan":
        closed_over, carries = scan_counts(eqn)
        body, predicate, predicate_inputs = params["jaxpr"], None, ()
        length = int(params["length"])
    elif name == "while":
        test, split, body, closed_over = while_parts(eqn)
        predicate_inputs, ins = ins[:split], ins[split:]
        predicate, carries, length = read(test, (*key, -1), run), len(outs), None
    elif name == "cond":
        bodies = (read(b, (*key, i), run) for i, b in enumerate(params["branches"]))
        return [Branch(ins, outs, tuple(bodies), key)]
    elif name == "select_n":
        return [Select(ins, (outs[0],))]
    elif _copies(eqn):
        return [Copy((i,), (o,)) for i, o in zip(ins, outs, strict=True)]
    else:
        return [Compute(ins, outs)]
    return [
        Loop(
            inputs=ins,
            outputs=outs,
            body=read(body, key, run),
            carries=carries,
            closed_over=closed_over,
            length=length,
            predicate=predicate,
            predicate_inputs=predicate_inputs,
            inexact=tuple(_inexact(v) for v in eqn.outvars[:carries]),
            run=run,
            kind=name,
            key=key,
        )
    ]
