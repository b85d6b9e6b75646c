"""Which flow for this problem? Bias, spread, time and memory of each, against an exact gradient."""

import copy
import dataclasses
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..flows import Dense, Flow, GradientCheck, Implicit, Unroll
from . import _belongs, _draws
from ._calls import shown
from ._consistency import flow_repair
from ._declaration import flow_of
from ._exact import exact_gradients, exact_sums, flat, level_with_flow
from ._executed import fresh, held_state, with_flow, with_held
from ._level import Level
from ._machine import Machine
from ._nest import Nest
from ._state import State, single_state
from ._text import html_table, text_table

_CONFIRMED = 0.01  # relative error above which the flow compared with is doubted


@dataclasses.dataclass(frozen=True)
class FlowRow:
    """What was measured of one flow; arrays have one entry for each draw of data.

    Attributes:
        name: of the flow.
        cosine: between its gradient and the exact one; nan where one of them is 0.
        error: Euclidean norm of the difference, relative to the exact gradient's norm; nan where
            that is 0.
        bias: norm of the mean difference over the draws, relative to the root mean square of the
            exact gradients' norms. Of an estimate it is known to `spread / sqrt(draws)`.
        spread: root mean square distance of the differences from their mean, relative likewise;
            nan for a single draw. Of a flow that draws nothing only the data differ.
        milliseconds: of one gradient, compiled, the median of several.
        mebibytes: temporary memory of the compiled gradient.
    """

    name: str
    cosine: np.ndarray
    error: np.ndarray
    bias: float
    spread: float
    milliseconds: float
    mebibytes: float


@dataclasses.dataclass(frozen=True)
class FlowComparison:
    """A table of flows; `print` it.

    Attributes:
        level: name of the level whose gradient it is.
        exact: how the gradient to compare with was computed.
        rows: one for each flow, in the order given.
        check: that gradient against central differences of the executed program, in float64, along
            three random directions of the first draw.
    """

    level: str
    exact: str
    rows: tuple[FlowRow, ...]
    check: GradientCheck

    def __str__(self) -> str:
        return "\n".join((self._title(), *text_table(self._rows(), range(1, 7)), self._checked()))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_table(self._rows(), range(1, 7), f"{self._title()}; {self._checked()}")

    def _title(self) -> str:
        draws = len(self.rows[0].cosine) if self.rows else 0
        return f"gradient of {self.level!r} against {self.exact}; median (range) of {draws} draws"

    def _checked(self) -> str:
        return f"central differences of the executed program: off by {self.check.error:.1e}"

    def _rows(self) -> list[tuple[str, ...]]:
        head = ("flow", "cosine", "relative error", "bias", "spread", "ms", "MiB")
        body = [
            (
                r.name,
                _spread(r.cosine),
                _spread(r.error),
                f"{r.bias:.2g}",
                f"{r.spread:.2g}",
                f"{r.milliseconds:.2f}",
                f"{r.mebibytes:.2f}",
            )
            for r in self.rows
        ]
        return [head, *body]


def compare_flows(
    nest: Nest,
    state: State,
    flows: Mapping[str, Any] | Sequence[Any],
    level: str | None = None,
    *,
    exact: Any = None,
    draws: int = 8,
    repeats: int = 5,
    updates: int = 1,
) -> FlowComparison:
    """Compares flows on a user's own nest: the gradient of one level at its next update.

    Evolution strategies may be among the flows. Of these the bias and the spread over the draws
    say more than the error of single ones. The bias is what is left of the error in the mean over
    the draws, the spread how far single draws scatter around that mean, both relative to the size
    of the exact gradient. The bias of an estimate is known to spread / sqrt(draws): a bias that is
    not well above it may be 0, and more draws tell. All flows see the data of paired copies then,
    and a flow that remembers has nothing to remember yet, as where an episode begins.

    Args:
        nest, state: the problem, and where in it. Implicit flows are exact only where the inner
            levels have settled; compare after some steps.
        flows: name -> flow, or a list of flows.
        level: name of the level; by default the outermost that has a flow.
        exact: the flow that is computed in float64 to compare with. By default `Unroll()` where the
            level follows a trajectory, else `Implicit(Dense())`. For a loss that is a step
            function, whose gradient is 0, a flow of your own that computes the gradient of the
            smoothed loss: docs/guides/flows.md has one. It is then off from central differences.
        draws: how many draws of the data (of contexts and tasks; the keys differ).
        repeats: how many timings.
        updates: over how many updates in a row gradients are summed, while the level and those that
            are not inside it are held: the periods that make up an episode. What is exact is then
            the derivative of the sum of the losses of the executed program, which no truncation
            cuts.

    Returns:
        A `FlowComparison`, printable. The flow compared with is not taken for exact unseen: it is
        held against central differences of the executed program (`check_gradient`), and a warning
        says so if it is off by more than 1 %: inner levels have not settled, their data are drawn
        anew, or their optimizer settles elsewhere.

    Raises:
        ValueError: no such level, a state of another nest, a flow that the nest refuses, `exact`
            for more than one update or an estimate, or an exact gradient of 0.
    """
    if not isinstance(nest, Nest):
        raise ValueError(f"compare_flows(nest, state, flows) takes a nest first, got {shown(nest)}")
    single_state(state, "compare_flows")
    for count, what in ((draws, "draws"), (repeats, "repeats"), (updates, "updates")):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{what} is a whole number of at least 1, got {shown(count)}")
    named = _named(flows)
    machine = nest.machine
    name = level_with_flow("compare_flows", machine, level)
    _belongs.structure(machine, state)
    _belongs.moment(machine, state)
    target = machine.problem.levels[name]
    if updates > 1:
        _within(machine, target)
    if updates > 1 and exact is not None:
        raise ValueError(
            f"compare_flows: exact={exact!r} is a flow of one update, and updates={updates} asks "
            "for the sum over several, whose exact gradient is computed; leave out one of them"
        )
    if isinstance(exact, Flow) and exact.estimates:
        raise ValueError(
            f"compare_flows: exact={exact!r} draws an estimate, and what is compared with must be "
            "exact. Leave it out, or give a flow that computes the gradient of the smoothed loss, "
            'such as Smoothed in docs/guides/flows.md under "A flow of your own"'
        )
    if exact is None:
        condition: Any = "update" if flow_of(target).by_update else "objective"
        implicit = Implicit(Dense(), condition=condition)
        exact = Unroll() if flow_of(target).follows else implicit
    keys = [_draws.start_key(state.key, "compare", i, 0) for i in range(draws)]
    states = [dataclasses.replace(state, key=jax.random.key_data(key)) for key in keys]
    for flow in named.values():
        if isinstance(flow, Flow) and flow.perturbs:  # pairs of copies draw the same, for all flows
            machine = with_flow(machine, name, flow)
    if updates == 1:
        truth, check = exact_gradients(machine, name, exact, states)
    else:
        exact = f"the executed program, summed over {updates} updates,"
        truth, check = exact_sums(machine, name, updates, states)
    _check_size(name, truth, updates)
    if not check.error <= _CONFIRMED:
        what = exact if isinstance(exact, str) else repr(exact)
        if updates == 1:
            why = (
                "Inner levels have not settled, draw other data at every tick, or have an "
                "optimizer that settles elsewhere than where their objective is stationary; name "
                "another flow with exact="
            )
        else:
            why = (
                "Its losses jump or bend sharply within a small step, or round in float32; compare "
                "over fewer updates"
            )
        warnings.warn(
            f"compare_flows: {what} is off by {check.error:.1e} from central differences of the "
            f"executed program, so it is no measure of the other flows here. {why}",
            stacklevel=2,
        )
    rows = []
    for label, flow in named.items():
        if updates == 1:
            other = with_flow(machine, name, flow)
            compiled = jax.jit(other.gradient(name))
            begun = [fresh(other, name, one) for one in states]
        else:
            other = with_held(machine, name, flow)
            compiled = _summed(other, name, updates)
            begun = [held_state(other, name, one) for one in states]
        feeds = [machine.feed(one, updates) for one in states]
        memory: Any = compiled.lower(begun[0], feeds[0]).compile().memory_analysis()
        found = [flat(compiled(one, fed)) for one, fed in zip(begun, feeds, strict=True)]
        took = []
        for _ in range(repeats):
            began = time.perf_counter()
            jax.block_until_ready(compiled(begun[0], feeds[0]))
            took.append(time.perf_counter() - began)
        pairs = list(zip(found, truth, strict=True))
        bias, spread = _moments(found, truth)
        rows.append(
            FlowRow(
                label,
                np.array([_cosine(a, b) for a, b in pairs]),
                np.array([_ratio(np.linalg.norm(a - b), np.linalg.norm(b)) for a, b in pairs]),
                bias,
                spread,
                1e3 * float(np.median(took)),
                memory.temp_size_in_bytes / 2**20,
            )
        )
    exact = exact if isinstance(exact, str) else repr(exact)
    return FlowComparison(name, f"{exact} in float64", tuple(rows), check)


def _named(flows: Any) -> dict[str, Any]:
    """Flows by what the table calls them."""
    if isinstance(flows, str) or not isinstance(flows, Iterable):
        repair = "[nx.Unroll(), nx.Implicit(nx.CG(20))]"
        if isinstance(flows, Flow):
            repair = f"in a list: [{flows!r}]"
        raise ValueError(
            f"compare_flows(nest, state, flows, level): flows is a list of flows or a dict name -> "
            f"flow, got {shown(flows)}{flow_repair(flows)}; give them {repair}"
        )
    named = dict(flows) if isinstance(flows, Mapping) else {repr(flow): flow for flow in flows}
    if not named:
        raise ValueError("compare_flows: there is no flow to compare, flows is empty")
    return named


def _within(machine: Machine, target: Level) -> None:
    """Refuses a sum over updates where slower clocks begin something that lasts over several."""
    nest = machine.declaration
    slow = [one.name for one in nest.episodic if nest.restart_period(one) > target.every]
    slow += [
        f"the process {n}" for n, p in machine.problem.processes.items() if p.every > target.every
    ]
    if slow:
        raise ValueError(
            f"compare_flows: updates sums over updates of {target.name!r} in a row, and "
            f"{slow[0]} begins anew with slower clocks only; leave updates out, or the slower "
            "levels"
        )


def _check_size(name: str, truth: list[np.ndarray], updates: int) -> None:
    """Refuses an exact gradient of 0, to which nothing is relative."""
    zero = sum(not np.any(one) for one in truth)
    if zero == len(truth):
        repair = (
            "give exact=, a flow that computes the gradient of the smoothed loss, such as Smoothed "
            'in docs/guides/flows.md under "A flow of your own"'
        )
        raise ValueError(
            f"compare_flows: level {name!r}: the exact gradient is 0, as that of a loss which is a "
            "step function, so nothing can be measured against it; "
            + (repair if updates == 1 else f"with updates=1 {repair}")
        )
    if zero:
        warnings.warn(
            f"compare_flows: level {name!r}: the exact gradient is 0 in {zero} of {len(truth)} "
            "draws, whose errors and cosines are nan",
            stacklevel=3,
        )


def _summed(machine: Machine, name: str, updates: int) -> Any:
    """(state, feed) -> the sum of the gradients that a level finds at some updates in a row."""
    program = copy.copy(machine.program)
    program.captured = frozenset({name})
    k = program.periods.index(program.levels[name].every)

    @jax.jit
    def gradient(state: State, feed: Any) -> Any:
        def one(state: State, _: Any) -> tuple[State, Any]:
            state, info = machine.advance(state, feed, k, program, anew=False)
            return state, info[name].gradient

        found = jax.lax.scan(one, state, None, updates)[1]
        return jax.tree.map(lambda a: jnp.sum(a, axis=(0, 1)), found)

    return gradient


def _moments(found: list[np.ndarray], truth: list[np.ndarray]) -> tuple[float, float]:
    """The bias and the spread of gradients over draws."""
    off, exact = np.array(found) - np.array(truth), np.array(truth)
    size = np.sqrt(np.mean(np.sum(exact**2, axis=1)))
    mean = off.mean(axis=0)
    if len(off) == 1:
        return _ratio(np.linalg.norm(mean), size), float("nan")
    square = np.sum((off - mean) ** 2) / (len(off) - 1)
    return _ratio(np.linalg.norm(mean), size), _ratio(np.sqrt(square), size)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return _ratio(float(a @ b), float(np.linalg.norm(a) * np.linalg.norm(b)))


def _ratio(above: Any, below: Any) -> float:
    return float(above / below) if below else float("nan")


def _spread(values: np.ndarray) -> str:
    return f"{np.median(values):.3g} ({values.min():.2g} to {values.max():.2g})"
