"""Runs a step with counters threaded through the loops and branches that depend on data."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .graph import Key
from .jaxpr import bind, called_by, opened, scan_counts, while_parts

_SAYS = re.compile("callback|debug")


def count(
    jaxpr: Any, leaves: Sequence[Any], carried: int, keys: Sequence[Key], calls: int
) -> dict[Key, int]:
    """How often each body of `keys` ran in `calls` calls; those inside a shard_map are left out.

    Args:
        jaxpr: of the step; its outputs replace its first `carried` inputs from call to call.
        leaves: concrete inputs.
        carried: how many inputs are the state.
        keys: as `graph.measured` gives them.
        calls: at least 1.
    """
    meter = _Meter(keys)

    def call(carry: Any, _: None) -> tuple[Any, None]:
        state, counts = carry
        new, counts = meter.run(jaxpr, [*state, *leaves[carried:]], (), counts)
        return ([_as(o, n) for n, o in zip(new, state, strict=True)], counts), None

    def run(state: list[Any]) -> jax.Array:
        counts = jnp.zeros(len(keys), jnp.int32)
        return jax.lax.scan(call, (state, counts), None, length=calls)[0][1]

    numbers = np.asarray(jax.jit(run)([jnp.asarray(leaf) for leaf in leaves[:carried]]))
    return {k: int(n) for k, n in zip(keys, numbers, strict=True) if k in meter.met}


def _as(like: Any, value: Any) -> jax.Array:
    """The value in another's precision; keys have only one."""
    value = jnp.asarray(value)
    return value if value.dtype == like.dtype else value.astype(like.dtype)


class _Meter:
    """Evaluates a jaxpr, one equation after another, and counts the runs of some bodies."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.index = {key: i for i, key in enumerate(keys)}
        self.within = {key[:n] for key in keys for n in range(len(key) + 1)}
        self.met: set[Key] = set()

    def tick(self, key: Key, counts: jax.Array) -> jax.Array:
        self.met.add(key)
        return counts.at[self.index[key]].add(1)

    def run(
        self, jaxpr: Any, inputs: Sequence[Any], key: Key, counts: jax.Array
    ) -> tuple[list[Any], jax.Array]:
        inner, consts = opened(jaxpr)
        values = dict(zip(inner.invars, inputs, strict=True))
        values |= zip(inner.constvars, consts, strict=True)

        def look(atom: Any) -> Any:
            # A bare number would take the default precision and upset a loop's carry.
            return _as(atom.aval, atom.val) if hasattr(atom, "val") else values[atom]

        for index, eqn in enumerate(inner.eqns):
            here = (*key, index)
            ins = [look(atom) for atom in eqn.invars]
            if not eqn.outvars and _SAYS.search(eqn.primitive.name):
                continue  # said to the outside, which this run is not meant for
            with eqn.ctx.manager:
                outs, counts = self.equation(eqn, ins, here, counts)
            values |= zip(eqn.outvars, outs, strict=True)
        return [look(atom) for atom in inner.outvars], counts

    def equation(
        self, eqn: Any, ins: list[Any], key: Key, counts: jax.Array
    ) -> tuple[list[Any], jax.Array]:
        name = eqn.primitive.name
        if key in self.within:
            called = called_by(eqn)
            if called is not None and name != "shard_map":
                return self.run(called, ins, key, counts)
            if name in ("scan", "while", "cond"):
                return getattr(self, f"_{name}")(eqn, ins, key, counts)
        return bind(eqn, ins), counts

    def _scan(self, eqn: Any, ins: list[Any], key: Key, counts: jax.Array) -> Any:
        closed_over, carries = scan_counts(eqn)
        split = closed_over + carries

        def body(carry: Any, xs: Any) -> Any:
            old, counts = carry
            new, counts = self.run(
                eqn.params["jaxpr"], [*ins[:closed_over], *old, *xs], key, counts
            )
            return (new[:carries], counts), new[carries:]

        (final, counts), stacked = jax.lax.scan(
            body,
            (ins[closed_over:split], counts),
            ins[split:],
            length=eqn.params["length"],
            reverse=eqn.params["reverse"],
        )
        return [*final, *stacked], counts

    def _while(self, eqn: Any, ins: list[Any], key: Key, counts: jax.Array) -> Any:
        test, first, inside, closed_over = while_parts(eqn)
        second = first + closed_over

        def goes_on(carry: Any) -> jax.Array:
            # Nothing is counted inside a predicate: no component lives there.
            inputs = [*ins[:first], *carry[0]]
            return _Meter(()).run(test, inputs, (), carry[1])[0][0]

        def body(carry: Any) -> Any:
            old, counts = carry
            inputs = [*ins[first:second], *old]
            new, counts = self.run(inside, inputs, key, self.tick(key, counts))
            going = goes_on(carry)
            if going.ndim:  # loops side by side, by vmap: those that have ended wait for the rest
                ahead = [range(going.ndim, n.ndim) for n in new]
                masks = [jnp.expand_dims(going, tuple(axes)) for axes in ahead]
                new = [jnp.where(m, n, o) for m, n, o in zip(masks, new, old, strict=True)]
            return new, counts

        start = ins[second:], counts
        return jax.lax.while_loop(lambda carry: jnp.any(goes_on(carry)), body, start)

    def _cond(self, eqn: Any, ins: list[Any], key: Key, counts: jax.Array) -> Any:
        selector, *operands = ins

        def branch(index: int) -> Any:
            jaxpr, here = eqn.params["branches"][index], (*key, index)
            return lambda counts: self.run(jaxpr, operands, here, self.tick(here, counts))

        branches = [branch(i) for i in range(len(eqn.params["branches"]))]
        return jax.lax.switch(jnp.asarray(selector, jnp.int32), branches, counts)
