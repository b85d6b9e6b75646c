"""Optimizer updates that stay differentiable at gradients of zero and where a step is rejected.

Two things make the derivative of an update NaN although what it computes is finite. A root of a sum
of squares has no derivative at 0; 0 belongs to its subdifferential. And a branch that was not taken
receives a cotangent of zero, which is still multiplied by the derivative of that branch: 0 * inf
and 0 * NaN are NaN. Both end here as zero; values and all other derivatives are as they were.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jaxtyping import Array

from . import _rewrite as rewrite
from ._hoist import hoist, is_inexact, is_pushing_forward


def safe_update(update: Callable, *args: Any, rejecting: bool = False) -> Any:
    """`update(*args)`, to be differentiated.

    The derivative of a root, logarithm, quotient or negative power is taken as 0 at exactly the
    point where it is not finite. Functions with a derivative rule of their own keep it.

    Args:
        update: from pytrees of arrays to a pytree of arrays; traced at `args`.
        args: what it is called with.
        rejecting: whether it may reject a gradient that is not finite, see `rejects`: a branch of a
            `jax.lax.cond` is then left alone by the backward pass where it was not taken.
    """
    closed, shape = jax.make_jaxpr(update, return_shape=True)(*args)
    singular = _Reading(closed).singular
    rejecting = rejecting and not is_pushing_forward()
    if not singular and not rejecting:
        return update(*args)  # exactly the program that it was

    def guarded(equation: Any, inputs: list) -> list:
        take = _guarded if id(equation) in singular else rewrite.bind
        return take(equation, inputs)

    def quiet_branches(equation: Any, inputs: list) -> list:
        branches = [quiet(branch) for branch in rewrite.branches(equation, rules)]
        return jax.lax.switch(inputs[0], branches, *inputs[1:])

    rules = dict.fromkeys(_SINGULAR, guarded)
    if rejecting:
        rules["cond"] = quiet_branches
    outputs = rewrite.evaluate(closed, jax.tree.leaves(args), rules)
    return jax.tree.unflatten(jax.tree.structure(shape), outputs)


def rejects(update: Callable, *args: Any) -> bool:
    """Whether an update looks at a gradient, or at what depends on it, before it accepts it: it
    tests for numbers that are not finite, or branches on an inexact input."""
    return _Reading(jax.make_jaxpr(update)(*args)).decides


def quiet(function: Callable) -> Callable:
    """The function, whose pullback of zero is zero even where its derivative is NaN.

    In a trace to be pushed forward it is the function itself: forward mode selects between tangents
    and multiplies none by zero.
    """

    def quieted(*args: Any) -> Any:
        if is_pushing_forward():
            return function(*args)
        pure, constants, _ = hoist(function, *args)
        leaves, treedef = jax.tree.flatten((constants, args))
        inexact = [is_inexact(leaf) for leaf in leaves]

        def of(moving: list, fixed: list) -> Any:
            moves, stays = iter(moving), iter(fixed)
            constants, args = treedef.unflatten(
                [next(moves) if moved else next(stays) for moved in inexact]
            )
            return _tied(pure(constants, *args), [*moving, *fixed])

        # Both passes are quiet themselves, for derivatives of derivatives.
        def forward(moving: list, fixed: list) -> tuple[Any, Any]:
            return quiet(lambda moving: jax.vjp(lambda m: of(m, fixed), moving))(moving)

        def backward(pullback: Any, cotangents: Any) -> tuple[list, None]:
            heard = [jnp.any(u != 0) for u in jax.tree.leaves(cotangents) if is_inexact(u)]
            loud = functools.reduce(jnp.logical_or, heard, False)
            (pulled,) = quiet(lambda pullback, u: pullback(u))(pullback, cotangents)
            return [jnp.where(loud, u, jnp.zeros_like(u)) for u in pulled], None

        rule = jax.custom_vjp(of)
        rule.defvjp(forward, backward)
        moving = [leaf for leaf, moved in zip(leaves, inexact, strict=True) if moved]
        fixed = [leaf for leaf, moved in zip(leaves, inexact, strict=True) if not moved]
        return rule(moving, fixed)

    return quieted


def _tied(outputs: Any, inputs: list) -> Any:
    """The same outputs, each batched under `vmap` as soon as some input is: a rule that looks at
    cotangents together must be given those of one copy."""

    def odd(leaf: Any) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        first = jnp.ravel(leaf)[0]
        return first != first

    arrays = [leaf for leaf in inputs if isinstance(leaf, jax.Array) and leaf.size]
    seen = [leaf for leaf in arrays if leaf.dtype != jax.dtypes.float0]
    flag = functools.reduce(jnp.logical_or, map(odd, seen), False)
    # Either way it is x, which compilers know; the derivatives are those of x.
    return jax.tree.map(lambda x: jnp.where(flag, x, x) if is_inexact(x) else x, outputs)


# Operations without a finite derivative at some point.


def _guarded(equation: Any, inputs: list) -> list:
    """What an equation makes of its inputs, with derivatives of 0 where they are not finite.

    By selections: JAX drops a `jax.custom_jvp` rule where the derivative of a loop is taken again.
    """
    name, inputs = equation.primitive.name, list(map(jnp.asarray, inputs))
    singular = _SINGULAR[name](*inputs)
    away = [jnp.where(singular, jnp.ones_like(x), x) for x in inputs]
    (elsewhere,) = rewrite.bind(equation, away)
    # A root of 0 is 0: it need not be taken twice.
    there = inputs[0] if name in ("sqrt", "cbrt") else rewrite.bind(equation, inputs)[0]
    return [jnp.where(singular, jax.lax.stop_gradient(there), elsewhere)]


# Where an operation's derivative is not finite.
_SINGULAR = {
    "sqrt": lambda x: x == 0,
    "rsqrt": lambda x: x == 0,
    "cbrt": lambda x: x == 0,
    "log": lambda x: x == 0,
    "integer_pow": lambda x: x == 0,
    "pow": lambda x, y: (x == 0) & (y < 1),
    "div": lambda x, y: y == 0,
}
_MOVES = ("broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "copy", "stop_gradient")


class _Reading:
    """What an update's jaxpr says about its derivatives.

    Attributes:
        singular: ids of the equations whose derivative may not be finite where an inexact input of
            the update is zero. What has a positive number added to it is not taken for zero: with
            `eps_root` there is nothing to guard in Adam.
        decides: whether it tests for numbers that are not finite, or branches on an inexact input.
    """

    def __init__(self, closed: Any):
        self.singular: set[int] = set()
        self.decides = False
        self._read(closed, [is_inexact(v.aval) for v in closed.jaxpr.invars])

    def _read(self, jaxpr: Any, moving: list[bool]) -> list[bool]:
        """Reads a jaxpr some of whose inputs depend on inexact inputs; which outputs do."""
        inner, _ = rewrite.opened(jaxpr)
        marked = {v for v, moves in zip(inner.invars, moving, strict=True) if moves}
        marked |= {v for v in inner.constvars if is_inexact(v.aval)}
        made: dict[Any, Any] = {}  # variable -> the equation that it comes from

        def moves(atom: Any) -> bool:
            return not isinstance(atom, jex.Literal) and atom in marked

        def may_vanish(atom: Any) -> bool:
            """Whether it moves, and through zero as far as one can see."""
            while moves(atom) and atom in made and made[atom].primitive.name in _MOVES:
                atom = made[atom].invars[0]
            if not moves(atom):
                return False
            if atom not in made or made[atom].primitive.name not in ("add", "add_any", "max"):
                return True
            return not any(map(_is_positive, made[atom].invars))

        for equation in inner.eqns:
            name, operands = equation.primitive.name, equation.invars
            ins = list(map(moves, operands))
            outs = [any(ins)] * len(equation.outvars)
            if _tests_finite(equation) or (name == "cond" and ins[0]):
                self.decides = True
            if _is_irregular(equation) and may_vanish(operands[1 if name == "div" else 0]):
                self.singular.add(id(equation))
            for one in rewrite.inside(equation):
                if name in rewrite.CALLS:
                    outs = self._read(one, ins)
                else:
                    self._read(one, [is_inexact(v.aval) for v in rewrite.opened(one)[0].invars])
            marked |= {v for v, moved in zip(equation.outvars, outs, strict=True) if moved}
            made |= dict.fromkeys(equation.outvars, equation)
        return list(map(moves, inner.outvars))


def _is_positive(atom: Any) -> bool:
    return isinstance(atom, jex.Literal) and bool(atom.val > 0)


def _tests_finite(equation: Any) -> bool:
    """`isfinite(x)`, or `x != x`."""
    name, operands = equation.primitive.name, equation.invars
    return name == "is_finite" or (name == "ne" and operands[0] is operands[1])


def _is_irregular(equation: Any) -> bool:
    """Whether this operation's derivative is not finite where an operand is zero."""
    name, operands = equation.primitive.name, equation.invars
    if name not in _SINGULAR or not all(is_inexact(atom.aval) for atom in operands):
        return False
    if name == "pow":
        base, exponent = operands
        regular = isinstance(exponent, jex.Literal) and exponent.val >= 1
        return not regular and not jnp.issubdtype(base.aval.dtype, jnp.complexfloating)
    return name != "integer_pow" or equation.params["y"] < 0
