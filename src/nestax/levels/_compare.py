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
from . import _belongs, _draws, _processes
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
    """The measurements of one flow; arrays have one entry for each draw of data.

    Attributes:
        name: the name of the flow.
        cosine: cosine between its gradient and the exact one, shape (draws,); nan where one of them
            is 0.
        error: Euclidean norm of the difference, relative to the exact gradient's norm, shape
            (draws,); nan where that norm is 0.
        bias: norm of the mean difference over the draws, relative to the root mean square of the
            exact gradients' norms. The bias of an estimate is known up to `spread / sqrt(draws)`.
        spread: root mean square distance of the differences from their mean, relative to the same
            norm; nan for a single draw. If the flow itself draws nothing, only the data differ.
        milliseconds: time of one compiled gradient, the median of several runs.
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
    """The table of `compare_flows`; print it.

    Attributes:
        level: name of the level whose gradients are compared.
        exact: how the reference gradient was computed.
        rows: one `FlowRow` for each flow, in the order given.
        check: the reference gradient against central differences of the executed program, in
            float64, along three random directions of the first draw.
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
    """Compares flows on your own nest, at one level's next update, with an exact gradient.

    The exact gradient is computed in float64 and is itself checked: it is compared with central
    differences of the executed program (`check_gradient`), and a warning says so if it differs by
    more than 1 %. Possible reasons: the inner levels have not settled, their data are drawn anew,
    or their optimizer settles elsewhere.

    Evolution strategies may be among the flows. Their bias and spread over the draws say more than
    single errors. The bias is the error of the mean over the draws; the spread is the distance of
    single draws from that mean. Both are relative to the size of the exact gradient. The bias of an
    estimate is known up to `spread / sqrt(draws)`. A bias that is not well above that may be 0;
    more draws decide. With evolution strategies all flows see the data of paired copies, and a flow
    with a memory begins with an empty one, as at the beginning of an episode.

    Example:
        ```python
        w = nx.Level("w", lambda v, batch: (v["w"] - v["goal"]) ** 2, optax.sgd(0.25))
        outer = lambda v, batch: v["w"] ** 2
        nest = nx.Nest([w, nx.Level("goal", outer, optax.sgd(0.1), every=3, flow=nx.Unroll())])
        state = nest.init({"w": 1.0, "goal": 1.0}, jax.random.key(0))
        table = nx.compare_flows(nest, state, [nx.Unroll(last=1)], draws=1, repeats=1)
        print(f"{table.rows[0].error[0]:.3f}")  # 0.429
        ```

    Args:
        nest: the nest.
        state: the state of a single run, from which the level makes its next update. Implicit flows
            are exact only where the inner levels have settled; compare after some steps.
        flows: name -> flow, or a list of flows.
        level: name of the level. None: the outermost one with a flow.
        exact: the flow that gives the reference gradient, computed in float64. None: `Unroll()` if
            the level's flow follows a trajectory, else `Implicit(Dense())`. The gradient of a step
            function is 0; for such a loss give a flow of your own that computes the gradient of the
            smoothed loss, as in the guide [Which flow?](../guides/flows.md). It then differs from
            central differences.
        draws: number of draws of the data (contexts and tasks; the keys differ).
        repeats: number of timings.
        updates: number of updates in a row over which gradients are summed, while the level and all
            levels that are not inside it are held: the periods of an episode. The reference is then
            the derivative of the sum of the losses of the executed program, without truncation.

    Returns:
        A `FlowComparison`; print it.

    Raises:
        ValueError: no such level; a state of another nest, or of several runs; a flow that the nest
            refuses; `exact` for more than one update, or one that draws an estimate; an exact
            gradient of 0; counts below 1.
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
    state = _processes.whole(state)
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
        finding = (
            f"is off by {check.error:.1e} from central differences of the executed program, so it "
            f"is no measure of the other flows here. {why}"
        )
        if check.resolution > _CONFIRMED:
            finding = (
                "is not confirmed: central differences of the executed program are uncertain by "
                f"{check.resolution:.1e}. Its losses have kinks within the smallest step, or round "
                "in float32; compare at another state"
            )
        warnings.warn(f"compare_flows: {what} {finding}", stacklevel=2)
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
