"""Whether the gradient that a flow computes can be the one that its level is meant to follow.

At init: a gradient that is zero whatever the values, a solver that does not fit, and optimizers
whose weights settle elsewhere than where an implicit flow takes them to settle.
"""

import dataclasses
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..flows.internal import Motion, dependence, motion, widened
from . import _executed, _known, _point
from ._carry import Carry, View
from ._declaration import flow_of
from ._field import Field
from ._level import Level
from ._machine import Machine
from ._noise import noise
from ._process import Process
from ._state import State

UPDATE = 'condition="update"'


def check(machine: Machine, begun: State) -> None:
    """Refuses or warns, by level.

    Raises:
        ValueError: a gradient that is zero by structure; a flow that returns something else; a
            solver for symmetric systems over a system that is not symmetric; a condition that the
            update does not have.
    """
    feed = machine.example(begun)
    tried: dict[str, Motion] = {}
    flows = [flow_of(level) for level in machine.declaration.levels]
    if any(flow.follows and not flow.joint for flow in flows):
        jax.eval_shape(machine.step, begun, feed)  # what such a flow returns is checked there
    for level in machine.declaration.levels:
        if flow_of(level).partial or flow_of(level).follows:
            _reached(machine, level, begun, feed)
        else:
            _settled(machine, level, begun, feed, tried)


def _reached(machine: Machine, level: Level, begun: State, feed: Any) -> None:
    """Refuses a level whose loss does not depend on its value, as far as its flow looks."""
    carry, view = machine.carry(begun, feed), View(machine.copies)
    if not _known.follows(machine.problem, level, carry, view, False):
        return  # held, or moved by a search: nobody follows its gradient
    if isinstance(level.objective, Field) and flow_of(level).partial:
        return  # it gives the direction itself, which need not depend on the value
    if flow_of(level).partial:
        directly, through = _seen(machine, level, level.name, carry), False
    else:
        directly, through = _depends(machine, level, begun, feed)
    if directly or through:
        if not (flow_of(level).partial or through):
            _warn_of_partial(machine, level, carry)
        return
    flow, label = flow_of(level), f"level {level.name!r}: its gradient would always be zero"
    drawn = (
        ". Its context is a Process, whose batch is a constant under Direct(): draw actions there, "
        "and compute their log-probabilities in the objective"
        if isinstance(level.context, Process)
        else ""
    )
    if flow.partial and machine.declaration.inside(level):
        raise ValueError(
            f"{label}. Its objective does not contain its value, and Direct() treats the inner "
            "levels as constants; let the gradient pass through them with flow=Unroll(), or "
            f"flow=Unroll(first_order=True), or Implicit(...) if their objectives contain it{drawn}"
        )
    if flow.partial:
        raise ValueError(
            f"{label}. Its objective does not contain its value, values[{level.name!r}], on a "
            f"path that a derivative follows{drawn}"
        )
    cut = [
        f"{field}={value!r}"
        for field, value in (("last", flow.last), ("first_order", flow.first_order))
        if value
    ]
    if cut:
        raise ValueError(
            f"{label}. Its value occurs neither in its objective nor on the path that "
            f"{type(flow).__name__}({', '.join(cut)}) follows; use Unroll(). A starting point is "
            "reached only through all steps of its episode, a penalty or a rate of the inner "
            "problem only through inner gradients that are differentiated"
        )
    raise ValueError(
        f"{label}. Its value occurs neither in its objective nor in what the levels inside do. A "
        "hyperparameter of an inner optimizer is connected by a function, optimizer=lambda values: "
        f"optax.sgd(values[{level.name!r}]); one that lies in the optimizer's state, as with "
        "optax.inject_hyperparams, is copied once and does not follow its level"
    )


def _seen(machine: Machine, level: Level, name: str, carry: Carry) -> bool:
    """Whether the level's objective depends on what is trained of a level's value; for a flow that
    differentiates, on a path that a derivative follows."""
    problem, view = machine.problem, View(machine.copies)

    def loss(trained: Any) -> Any:
        batch, axis = problem.batch(level.context, carry, view)  # here it is traced, not drawn
        parts = {**carry.values, name: carry.values[name].but(trained)}
        return problem.losses(level, parts, batch, axis, view)[0]

    differentiable = not flow_of(level).estimates
    (needs,) = dependence(loss, carry.values[name].trained, differentiable=differentiable)
    return bool(needs)


def _depends(machine: Machine, level: Level, begun: State, feed: Any) -> tuple[bool, bool]:
    """Whether the loss of a level whose flow follows its period depends on its value as its
    objective sees it, and as the levels inside see it; as in `_seen`.

    Only shapes are looked at: values stand for displacements, and constants for values.
    """
    own, flow = begun.parts[level.name].trained, flow_of(level)

    def loss(by: Any, weight: jax.Array) -> Any:
        def apart(values: dict[str, Any], batch: Any) -> Any:
            parts = machine.problem.taken_apart(level, values[level.name])
            seen = jax.tree.map(lambda a: weight.astype(a.dtype) * jnp.ones_like(a), parts.trained)
            return level.objective({**values, level.name: parts.but(seen).whole()}, batch)

        def changed(one: Level) -> Level:
            if one.name == level.name:
                return dataclasses.replace(one, objective=apart)
            return dataclasses.replace(one, flow=None) if one.name in bystanders else one

        other = _executed.with_flow(machine, level.name, flow, changed)
        return _executed.executed(other, level.name, begun, feed)(by)

    bystanders = _bystanders(machine, level)
    (needs,) = dependence(loss, own, jnp.zeros(()), differentiable=not flow.estimates)
    count = len(jax.tree.leaves(own))
    return count in needs, bool(needs - {count})


def _bystanders(machine: Machine, level: Level) -> set[str]:
    """Levels whose gradients can be taken for anything as far as this one's period is concerned:
    none that is not inside it moves within the period, and these have flows that read no data."""
    inside = machine.declaration.inside(level)
    others = [one for one in machine.declaration.levels if one not in (level, *inside)]
    if any(one.every < level.every for one in others):
        return set()
    plain = lambda flow: not (flow.partial or flow.context)  # noqa: E731
    return {one.name for one in others if plain(flow_of(one))}


def _warn_of_partial(machine: Machine, level: Level, carry: Carry) -> None:
    """Warns where a trajectory flow finds nothing but the partial derivative, though the level's
    objective has a derivative with respect to inner values."""
    if any(_seen(machine, level, one.name, carry) for one in machine.declaration.inside(level)):
        warnings.warn(
            f"level {level.name!r}: {flow_of(level)!r} finds nothing but the partial derivative. "
            "The level's value does not occur in what the levels inside do, as far as the flow "
            "looks: a starting point is reached only through all steps of its episode, use "
            "Unroll(); a rate only if a function of the values makes the optimizer",
            stacklevel=6,
        )


def _settled(
    machine: Machine, level: Level, begun: State, feed: Any, tried: dict[str, Motion]
) -> None:
    """Checks an implicit flow; `tried` keeps how optimizers move weights, by level name.

    Judged from products with random vectors at a random point near the values, where nothing that
    depends on anything is exactly zero.
    """
    problem, solver, flow = machine.problem, flow_of(level).linear, flow_of(level)
    inner = machine.declaration.eliminated(level)
    given_by_field = any(isinstance(one.objective, Field) for one in inner)
    game = getattr(solver, "symmetric", False) and (len(inner) > 1 or given_by_field)
    names = " and ".join(repr(one.name) for one in inner)
    by_update = flow.by_update
    view = View(None, 0) if machine.copies is not None else View()
    carry = machine.carry(begun, feed)
    tried |= {one.name: _tried(machine, one, begun) for one in inner if one.name not in tried}
    for one in inner:
        _known.unmoved(problem, one, carry, View(machine.copies), tried[one.name].moves)
        _movable(machine, one, carry)
        if by_update and not _known.follows(problem, one, carry, View(machine.copies), True):
            raise ValueError(
                f"level {level.name!r}: the update of {one.name!r} has no derivative with respect "
                "to its gradient (it takes signs), so its fixed point has none; use "
                'condition="objective"'
            )

    def products(begun: State, feed: Any, key: jax.Array) -> Any:
        carry = single(machine, begun, feed)
        point = _point.Point(problem, machine.program.again, carry, view)
        group = machine.declaration.group(level)
        slow = point.current(
            o for o in machine.declaration.levels if machine.declaration.group(o) >= group
        )
        fast = point.unknowns(level)
        leaves, structure = jax.tree.flatten((fast.values, slow, fast, fast))
        pairs = zip(leaves, noise(key, leaves), strict=True)
        values, slow, u, w = structure.unflatten([a + 0.1 * b for a, b in pairs])
        fast = fast._replace(values=values)

        def condition(fast: Any, own: Any) -> Any:
            return point.stationarity(level, fast, {**slow, level.name: own})

        _, back = jax.vjp(condition, fast, slow[level.name])
        au, cross = back(u)
        if not game:
            return _dot(cross, cross), None
        aw, _ = back(w)
        return _dot(cross, cross), (_dot(au, w), _dot(aw, u), _dot(au, au), _dot(w, w))

    try:
        fast = {"xla_backend_optimization_level": 0}  # it runs once
        compiled = jax.jit(products, compiler_options=fast)
        cross, others = compiled(begun, feed, jax.random.key(0))
    except ValueError as error:
        if by_update and "while_loop" in str(error):
            raise ValueError(
                f"level {level.name!r}: the update of {names} holds a loop, as line searches do, "
                f'which reverse mode cannot differentiate; use condition="objective"'
            ) from error
        raise
    if cross == 0:
        where = "update" if by_update else "objective"
        what = "fixed point" if by_update else "stationary point"
        raise ValueError(
            f"level {level.name!r}: its value does not occur in the {where} of {names}, whose "
            f"{what} its implicit flow differentiates: the gradient would be zero. A "
            "starting "
            "point or learning rate is differentiated by Unroll()"
        )
    if others is not None and _asymmetric(others, inner, begun):
        why = (
            f"{names} follow a Field, whose Jacobian is not symmetric"
            if given_by_field
            else f"{names} are coupled by objectives of their own"
        )
        raise ValueError(
            f"level {level.name!r}: {type(solver).__name__} needs a symmetric system, and {why}; "
            "use GMRES(), Dense() or another general solver"
        )
    for one in inner:
        by_objective = getattr(flow, "condition", None) == "objective"
        _warn_of(level, one, begun, by_objective and tried[one.name].drifts)


def _asymmetric(products: Any, inner: tuple[Level, ...], begun: State) -> bool:
    """Whether a matrix A is not symmetric: (Au)·w, (Aw)·u, (Au)·(Au), w·w of random vectors."""
    left, right, image, size = (float(np.asarray(a)) for a in products)
    asymmetry = abs(left - right) / max((image * size) ** 0.5, 1e-30)
    leaves = [a for one in inner for a in jax.tree.leaves(begun.parts[one.name].trained)]
    rounding = max(float(jnp.finfo(a.dtype).eps) for a in leaves)
    return asymmetry > max(1e-3, 16 * rounding)


def _warn_of(level: Level, inner: Level, begun: State, drifts: bool) -> None:
    """Warns where an inner optimizer does not settle where its objective is stationary."""
    label = (
        f"level {level.name!r}: {flow_of(level)!r} takes {inner.name!r} to settle where its "
        "objective is"
    )
    repair = (
        f"put that term into the objective, or use Implicit(GMRES(), {UPDATE}), which "
        "differentiates the fixed point of the update"
    )
    if drifts:
        warnings.warn(
            f"{label} stationary, but its optimizer moves weights where the gradient is zero "
            f"(weight decay, a projection or noise inside the optimizer); {repair}",
            stacklevel=6,
        )
    states = jax.tree.leaves(
        begun.optimizers[inner.name], is_leaf=lambda x: isinstance(x, _GATHERING)
    )
    if any(isinstance(state, _GATHERING) for state in states):
        warnings.warn(
            f"{label} stationary on the batch of one tick, but its optimizer gathers gradients of "
            "several (optax.MultiSteps or apply_every); let the level gather them instead: "
            'accumulate="mean" and every=the number of steps',
            stacklevel=6,
        )


_GATHERING = (optax.MultiStepsState, optax.ApplyEvery)


def _movable(machine: Machine, level: Level, carry: Carry) -> None:
    moves = jax.tree.leaves(_known.moves(machine.problem, level, carry, View(machine.copies)))
    if not any(moves):
        raise ValueError(
            f"level {level.name!r}: its optimizer cannot move any leaf, and a flow outside "
            "differentiates where it settles; give it an optimizer that moves it, or make its "
            "value a part of the task"
        )


def _tried(machine: Machine, level: Level, begun: State) -> Motion:
    """How the level's optimizer moves its weights, in float64."""
    problem = machine.problem
    view = View(None, 0) if machine.copies is not None else View()
    with jax.enable_x64(True):
        carry = single(machine, widened(begun), widened(machine.example(begun)))
        parts = carry.values[level.name]

        def begin(point: Any) -> Any:
            values = {**carry.values, level.name: parts.but(point)}
            return problem.transformation(level, values).init(point)

        def update(gradient: Any, state: Any, point: Any) -> Any:
            values = {**carry.values, level.name: parts.but(point)}
            optimizers = {**carry.optimizers, level.name: state}
            here = carry._replace(values=values, optimizers=optimizers)
            return problem.proposed(level, here, gradient, jnp.zeros(()), view)

        return motion(begin, update, parts.trained)


def single(machine: Machine, state: State, feed: Any) -> Carry:
    """The carry of the first copy, or of all there is, at the beginning of a period."""
    program = machine.program
    carry = machine.carry(state, feed)
    carry = carry._replace(before={n: program.kept(carry) for n in program.rerun})
    return program.problem.single(carry, View(machine.copies))


def _dot(a: Any, b: Any) -> Any:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum(jnp.vdot(x, y).real for x, y in pairs)
