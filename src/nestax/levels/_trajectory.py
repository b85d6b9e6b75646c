"""Gradients along a run of a level's own period (rule R6): derivatives, or estimates from runs."""

from collections.abc import Callable
from typing import Any

import jax

from ..flows import Period, Reached
from ..flows.internal import estimated as run_flow
from ..flows.internal import first_memory, same_memory
from . import _draws, _episodes
from ._calls import noted
from ._carry import Carry, Found, View
from ._declaration import flow_of
from ._level import Level
from ._problem import Problem
from ._values import Parts

Reach = Callable[[tuple, bool], tuple[Carry, dict, Carry]]
"""`(values, spread) -> (reached, infos, seen)`: where the period comes to with other values of the
levels that follow it, its reports, and what their objectives see there. `spread`: each copy has a
value of its own."""


def differentiated(
    problem: Problem, followers: list[Level], variables: dict[str, Parts], reach: Reach, view: View
) -> tuple[Carry, dict, dict[str, Found]]:
    """The gradients of peers whose flow takes them all at once."""

    def losses(trained: tuple[Any, ...]) -> tuple[tuple[jax.Array, ...], Any]:
        reached, infos, seen = reach(trained, False)
        computed: dict[Any, Any] = {}  # peers often share a loss: it is pulled back once
        totals, reports = [], []
        for level in followers:
            alike = (level.objective, id(level.context), level.accumulate)
            alike = (
                *alike,
                problem.copied[level.name],
                level.name if level.accumulate else None,
            )
            if alike not in computed:
                losses, user = followed(problem, level, seen, view)
                computed[alike] = problem.total(level, losses), losses, user
            total, losses, user = computed[alike]
            totals.append(total)
            reports.append((losses, user))
        return tuple(totals), (narrowed(followers, reached), infos, reports)

    trained = tuple(variables[level.name].trained for level in followers)
    flow = flow_of(followers[0])
    _, gradients, (reached, infos, reports) = flow.value_and_gradients(losses, trained)
    found = {
        level.name: Found(losses, user, gradient, None)
        for level, gradient, (losses, user) in zip(followers, gradients, reports, strict=True)
    }
    return reached, infos, found


def estimated(
    problem: Problem,
    level: Level,
    variables: dict[str, Parts],
    reach: Reach,
    carry: Carry,
    view: View,
) -> tuple[Carry, dict, dict[str, Found]]:
    """The gradient of a level whose flow runs the period for itself."""
    name, flow = level.name, flow_of(level)

    def own(kept: Carry) -> dict[str, Any]:
        return {
            "values": {**kept.values, name: carry.values[name]},
            "optimizers": {**kept.optimizers, name: carry.optimizers[name]},
        }

    def ran(trained: Any, spread: bool) -> Reached:
        reached, infos, seen = reach((trained,), spread)
        seen_by = problem.spread(name) if spread else problem
        losses, user = followed(seen_by, level, seen, view)
        # The level is moved from its own value, not from the one it was run with; nor may
        # periods that began in this one be run again with that.
        began = {n for n in reached.before if problem.levels[n].every < level.every}
        before = {n: one._replace(**own(one)) for n, one in reached.before.items() if n in began}
        before = {**reached.before, **before}
        end = (reached._replace(before=before, **own(reached)), infos, user)
        return Reached(problem.total(level, losses), losses, end)

    def run(trained: Any) -> Reached:
        return ran(trained, False)

    def run_each(trained: Any) -> Reached:
        if not flow.perturbs:
            raise ValueError(
                f"level {name!r}: run_each gives every copy a value of its own, which "
                f"{type(flow).__name__} must announce by the attribute perturbs = True"
            )
        return ran(trained, True)

    memory = carry.flows.get(name, ())
    if jax.tree.leaves(memory) and problem.nest.longest is not None:
        cleared = flow.restarted(memory, _episodes.began(problem, carry, view))
        who = f"level {name!r}: restarted of the flow {type(flow).__name__}"
        memory = same_memory(who, memory, cleared)
    period = Period(variables[name].trained, view.copies, run, run_each)
    key = _draws.flow_key(carry.key, name, carry.tick)
    with noted(f"the flow of level {name!r}"):
        gradient, came, memory = run_flow(f"level {name!r}", flow, period, memory, key)
    reached, infos, user = came.end
    if jax.tree.leaves(memory):
        reached = reached._replace(flows={**reached.flows, name: memory})
    return reached, infos, {name: Found(came.losses, user, gradient, None)}


def memory(problem: Problem, level: Level, values: dict[str, Parts]) -> Any:
    """What the level's flow remembers at first."""
    if not flow_of(level).follows:
        return ()
    value, flow = values[level.name].wide().trained, flow_of(level)
    who = f"level {level.name!r}: the flow {type(flow).__name__}"
    return first_memory(who, flow.init(value, problem.nest.copies))


def narrowed(levels: Any, carry: Carry) -> Carry:
    """The carry with the values of some levels in the dtypes that they were given in."""
    given = {one.name: carry.values[one.name].narrow() for one in levels}
    before = {name: narrowed(levels, one) for name, one in carry.before.items()}
    return carry._replace(values={**carry.values, **given}, before=before)


def followed(problem: Problem, level: Level, carry: Carry, view: View) -> tuple[jax.Array, Any]:
    """The loss that a trajectory flow differentiates, where the period has come to."""
    if level.accumulate and level.every > 1:
        (losses,) = carry.gathered[level.name]
        return losses / (level.every if level.accumulate == "mean" else 1), None
    batch, axis = problem.batch(level.context, carry, view)
    return problem.losses(level, carry.values, batch, axis, view)
