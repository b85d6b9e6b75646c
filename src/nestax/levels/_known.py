"""What is known of a level's optimizer from its update: what it can move, and what it follows."""

from typing import Any

import jax
import jax.numpy as jnp

from ..flows.internal import dependence, has_cases
from ._carry import Carry, View
from ._level import Level
from ._problem import Problem


def moves(problem: Problem, level: Level, carry: Carry, view: View) -> Any:
    """Which trained leaves the level's optimizer can move: a pytree of bools like them.

    An update that depends on nothing at all (`optax.set_to_zero` for a part of the leaves)
    leaves its leaf alone.
    """
    if level.name not in problem.moves:
        trained = carry.values[level.name].trained
        found = dependence(*_alone(problem, level, carry, view), trained)
        structure = jax.tree.structure(trained)
        problem.moves[level.name] = structure.unflatten([bool(needs) for needs in found])
    return problem.moves[level.name]


def unmoved(problem: Problem, level: Level, carry: Carry, view: View, moved: list[bool]) -> None:
    """Notes leaves that stayed where they are when the optimizer was tried: a zero need not be
    one by structure. Where nothing moved (gradients are gathered first), nothing is known."""
    known = moves(problem, level, carry, view)
    leaves, structure = jax.tree.flatten(known)
    if any(moved):
        leaves = [a and b for a, b in zip(leaves, moved, strict=True)]
    problem.moves[level.name] = structure.unflatten(leaves)


def follows(problem: Problem, level: Level, carry: Carry, view: View, differentiably: bool) -> bool:
    """Whether the level's update depends on its gradient, which a search does not; and whether
    it has a derivative with respect to it, which one that takes signs has not."""
    proposed, carry = _alone(problem, level, carry, view)
    gradient = carry.values[level.name].trained
    count = len(jax.tree.leaves(carry))
    found = dependence(proposed, carry, gradient, differentiable=differentiably)
    return any(leaf >= count for needs in found for leaf in needs)


def may_rest(problem: Problem, level: Level, carry: Carry, view: View) -> bool:
    """Whether the level's optimizer may leave weights exactly where they are although their
    gradient is not zero, as projections and masks do."""
    if level.name not in problem.may_rest:
        trained = carry.values[level.name].trained
        problem.may_rest[level.name] = has_cases(*_alone(problem, level, carry, view), trained)
    return problem.may_rest[level.name]


def _alone(problem: Problem, level: Level, carry: Carry, view: View) -> tuple[Any, Carry]:
    """The optimizer's proposal as a function of (carry, gradient), and the carry."""

    def proposed(carry: Carry, gradient: Any) -> Any:
        shape = () if view.copies is None else (view.copies,)
        return problem.proposed(level, carry, gradient, jnp.zeros(shape), view)[0]

    return proposed, carry._replace(gathered={}, before={})
