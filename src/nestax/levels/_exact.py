"""The exact gradient of a level, in float64, and what confirms it: central differences of the
executed program."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..flows import Flow, GradientCheck
from ..flows import check_gradient as check_function
from ..flows.internal import LADDER
from . import _belongs, _checks, _processes
from ._calls import shown
from ._consistency import flow_repair
from ._declaration import flow_of
from ._executed import executed, executed_sum
from ._float64 import cast, double, widened_state
from ._machine import Machine
from ._nest import Nest
from ._state import State, single_state


def check_gradient(
    nest: Any, state: Any = None, name: Any = None, *arguments: Any, **options: Any
) -> GradientCheck:
    """Compares the gradient of a nest's level, or of a function, with central differences.

    Both are computed in float64.

    `check_gradient(nest, state, name)` takes the gradient that the level hands to its optimizer at
    its next update. The central differences are those of the executed program. Under `Unroll` and
    `Forward` the level's period is run again at other values. Under `Implicit` and
    `FiniteDifference` the levels outside are held, and the period is repeated until the inner
    levels have settled. Under `Direct` only the level's own objective sees the other value.

    `Unroll(last=K)` and `Direct` are compared with the same truncation, so a passed check says
    nothing about what they leave out; `compare_flows` does. Deliberate constants show as an error:
    inner gradients under `first_order=True`, and leaves that `keep` keeps, where a loss reads them.

    `check_gradient(function, point, gradient=None)` is `nestax.flows.check_gradient`. Both forms
    take its options `directions`, `key`, `step`, `tolerance` and `verbose`.

    Example:
        ```python
        w = nx.Level("w", lambda v, batch: (v["w"] - v["goal"]) ** 2, optax.sgd(0.25))
        outer = lambda v, batch: v["w"] ** 2
        nest = nx.Nest([w, nx.Level("goal", outer, optax.sgd(0.1), every=3, flow=nx.Unroll())])
        state = nest.init({"w": 1.0, "goal": 1.0}, jax.random.key(0))
        print(nx.check_gradient(nest, state, "goal", verbose=False).passed)  # True
        ```

    Args:
        nest: a `Nest`, or a function `point -> scalar`.
        state: the state of a single run at the boundary of a step, from which the level makes its
            next update; or the point.
        name: the name of the level; or the gradient of the function.
        *arguments: further positional arguments of the second form.
        **options: the options named above. For a nest also `flow`, another flow for the level, and
            `coordinates`, whether each of up to 20 numbers is a direction of its own, True by
            default.

    Returns:
        A `GradientCheck`, true if the check passed. Its `error` is the largest difference, relative
        to the largest derivative measured.

    Raises:
        ValueError: no such level; a flow that draws estimates; a state of another nest, or of
            several runs.
    """
    if not isinstance(nest, Nest):
        given = (nest, state) if name is None else (nest, state, name)
        return check_function(*given, *arguments, **options)
    single_state(state, "check_gradient")
    level = level_with_flow("check_gradient", nest.machine, name)
    _belongs.structure(nest.machine, state)
    _belongs.moment(nest.machine, state)
    state = _processes.whole(state)
    flow = options.pop("flow", None)
    if flow is None:
        flow = flow_of(nest.machine.problem.levels[level])
    if not isinstance(flow, Flow):
        raise ValueError(
            f"check_gradient: flow is one such as Unroll() or Implicit(CG(20)), got "
            f"{shown(flow)}{flow_repair(flow)}"
        )
    if flow.estimates:
        raise ValueError(
            f"check_gradient: {flow!r} of level {level!r} draws an estimate, which is right in the "
            "mean only; compare_flows(nest, state, [flow]) shows how far its draws are off, and "
            "check_gradient(..., flow=nx.Unroll()) checks the gradient of one period"
        )
    return _checked(nest.machine, state, level, flow, *arguments, **options)


def _checked(
    machine: Machine, state: State, level: str, flow: Any, *arguments: Any, **options: Any
) -> GradientCheck:
    """`check_gradient` of a nest's level under some flow."""
    feed = machine.feed(state)
    with jax.enable_x64(True):
        wide = double(machine, level, flow, drawn=False)
        state, feed = widened_state(wide, state), cast(feed, jnp.float64)
        found = jax.jit(wide.gradient(level))(state, feed)[level]
        point = jax.tree.map(jnp.zeros_like, found)
        if options.get("step") is None:
            options["step"] = _steps(state, level)
        loss = executed(wide, level, state, feed)
        return check_function(loss, point, found, *arguments, **options)


def exact_gradients(
    machine: Machine, name: str, exact: Any, states: list[State]
) -> tuple[list[np.ndarray], GradientCheck]:
    """In float64, one for each state, which differ in their keys; the first is held against central
    differences."""
    feeds = [machine.feed(one) for one in states]
    with jax.enable_x64(True):
        wide = double(machine, name, exact)
        compiled = jax.jit(wide.gradient(name))
        begun = _widened(wide, states)
        feeds = [cast(one, jnp.float64) for one in feeds]
        found = [compiled(one, fed) for one, fed in zip(begun, feeds, strict=True)]
    options = {"directions": 3, "coordinates": False, "verbose": False}
    check = _checked(machine, states[0], name, exact, **options)
    return [flat(one) for one in found], check


def exact_sums(
    machine: Machine, name: str, updates: int, states: list[State]
) -> tuple[list[np.ndarray], GradientCheck]:
    """As `exact_gradients`, of the executed program over some updates."""
    feeds = [machine.feed(one, updates) for one in states]

    def total(by: Any, wide: Machine, state: State, feed: Any) -> Any:
        return executed_sum(wide, name, state, feed, updates)(by)

    with jax.enable_x64(True):
        drawn, straight = (double(machine, name, None, drawn) for drawn in (True, False))
        feeds = [cast(one, jnp.float64) for one in feeds]
        slope = jax.jit(jax.grad(total), static_argnums=1)
        begun = _widened(drawn, states)
        zero = jax.tree.map(jnp.zeros_like, begun[0].parts[name].trained)
        found = [flat(slope(zero, drawn, one, fed)) for one, fed in zip(begun, feeds, strict=True)]
        first = widened_state(straight, states[0])
        check = check_function(
            lambda by: total(by, straight, first, feeds[0]),
            zero,
            slope(zero, straight, first, feeds[0]),
            directions=3,
            step=_steps(first, name),
            coordinates=False,
            verbose=False,
        )
    return found, check


def _widened(machine: Machine, states: list[State]) -> list[State]:
    """States that differ in their keys, in float64."""
    first = widened_state(machine, states[0])
    return [dataclasses.replace(first, key=one.key) for one in states]


def _steps(state: State, name: str) -> list[float]:
    """Steps for central differences in a level's value, tried in turn."""
    leaves = jax.tree.leaves(state.parts[name].trained)
    size = jnp.sqrt(sum(jnp.sum(a**2) for a in leaves) / sum(a.size for a in leaves))
    return [rung * max(1.0, float(size)) for rung in LADDER]


def level_with_flow(function: str, machine: Machine, level: str | None) -> str:
    """The name of a level, by default of the outermost that has a flow."""
    if level is None:
        following = [x for x in machine.declaration.levels if not flow_of(x).partial]
        if not following:
            raise ValueError(
                f"{function}: no level of this nest has a flow; name a level, such as "
                f"{machine.declaration.levels[-1].name!r}"
            )
        return following[-1].name
    _checks.known(machine.declaration, level, function)
    return level


def flat(tree: Any) -> np.ndarray:
    """All numbers of a gradient."""
    return np.concatenate(
        [np.asarray(_processes.on_host(leaf), np.float64).ravel() for leaf in jax.tree.leaves(tree)]
    )
