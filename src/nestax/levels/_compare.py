"""Which flow for this problem? Bias, spread, time and memory of each, against an exact gradient."""

import dataclasses
import functools
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..flows import Dense, Flow, GradientCheck, Implicit, Unroll
from ..flows import check_gradient as check_function
from . import _belongs, _checks, _draws
from ._calls import shown
from ._consistency import flow_repair
from ._declaration import flow_of
from ._executed import executed, with_flow
from ._level import Level
from ._machine import Machine
from ._nest import Nest
from ._process import Process
from ._state import State, single_state
from ._stream import Stream
from ._text import html_table, text_table

_CONFIRMED = 0.01  # relative error above which the flow compared with is doubted


@dataclasses.dataclass(frozen=True)
class FlowRow:
    """What was measured of one flow; arrays have one entry for each draw of data.

    Attributes:
        name: of the flow.
        cosine: between its gradient and the exact one.
        error: Euclidean norm of the difference, relative to the exact gradient's norm.
        milliseconds: of one gradient, compiled, the median of several.
        mebibytes: temporary memory of the compiled gradient.
    """

    name: str
    cosine: np.ndarray
    error: np.ndarray
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
        return "\n".join((self._title(), *text_table(self._rows(), range(1, 5)), self._checked()))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_table(self._rows(), range(1, 5), f"{self._title()}; {self._checked()}")

    def _title(self) -> str:
        draws = len(self.rows[0].cosine) if self.rows else 0
        return f"gradient of {self.level!r} against {self.exact}; median (range) of {draws} draws"

    def _checked(self) -> str:
        return f"central differences of the executed program: off by {self.check.error:.1e}"

    def _rows(self) -> list[tuple[str, ...]]:
        head = ("flow", "cosine", "relative error", "ms", "MiB")
        body = [
            (
                r.name,
                _spread(r.cosine),
                _spread(r.error),
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
) -> FlowComparison:
    """Compares flows on a user's own nest: the gradient of one level at its next update.

    Args:
        nest, state: the problem, and where in it. Implicit flows are exact only where the inner
            levels have settled; compare after some steps.
        flows: name -> flow, or a list of flows.
        level: name of the level; by default the outermost that has a flow.
        exact: the flow that is computed in float64 to compare with. By default `Unroll()` where the
            level follows a trajectory, else `Implicit(Dense())`.
        draws: how many draws of the data (of contexts and tasks; the keys differ).
        repeats: how many timings.

    Returns:
        A `FlowComparison`, printable. The flow compared with is not taken for exact unseen: it is
        held against central differences of the executed program (`check_gradient`), and a warning
        says so if it is off by more than 1 %: inner levels have not settled, their data are drawn
        anew, or their optimizer settles elsewhere.

    Raises:
        ValueError: no such level, a state of another nest, or a flow that the nest refuses.
    """
    if not isinstance(nest, Nest):
        raise ValueError(f"compare_flows(nest, state, flows) takes a nest first, got {shown(nest)}")
    single_state(state, "compare_flows")
    for count, what in ((draws, "draws"), (repeats, "repeats")):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{what} is a whole number of at least 1, got {shown(count)}")
    named = _named(flows)
    name = _level(nest, level)
    _belongs.structure(nest.machine, state)
    _belongs.moment(nest.machine, state)
    target = next(one for one in nest.declaration.levels if one.name == name)
    if exact is None:
        condition: Any = "update" if flow_of(target).by_update else "objective"
        implicit = Implicit(Dense(), condition=condition)
        exact = Unroll() if flow_of(target).follows else implicit
    keys = [_draws.start_key(state.key, "compare", i, 0) for i in range(draws)]
    states = [dataclasses.replace(state, key=jax.random.key_data(key)) for key in keys]
    truth, check = _exact_gradients(nest, name, exact, states)
    if not check.error <= _CONFIRMED:
        warnings.warn(
            f"compare_flows: {exact!r} is off by {check.error:.1e} from central differences of the "
            f"executed program, so it is no measure of the other flows here. Inner levels have not "
            "settled, draw other data at every tick, or have an optimizer that settles elsewhere "
            "than where their objective is stationary; name another flow with exact=",
            stacklevel=2,
        )
    rows = []
    for label, flow in named.items():
        compiled = jax.jit(with_flow(nest.machine, name, flow).gradient(name))
        feeds = [nest.feed(one) for one in states]
        memory: Any = compiled.lower(states[0], feeds[0]).compile().memory_analysis()
        found = [_flat(compiled(one, fed)) for one, fed in zip(states, feeds, strict=True)]
        took = []
        for _ in range(repeats):
            began = time.perf_counter()
            jax.block_until_ready(compiled(states[0], feeds[0]))
            took.append(time.perf_counter() - began)
        pairs = list(zip(found, truth, strict=True))
        rows.append(
            FlowRow(
                label,
                np.array([_cosine(a, b) for a, b in pairs]),
                np.array([_ratio(np.linalg.norm(a - b), np.linalg.norm(b)) for a, b in pairs]),
                1e3 * float(np.median(took)),
                memory.temp_size_in_bytes / 2**20,
            )
        )
    return FlowComparison(name, f"{exact!r} in float64", tuple(rows), check)


def _level(nest: Nest, level: str | None) -> str:
    if level is None:
        following = [x for x in nest.declaration.levels if not flow_of(x).partial]
        if not following:
            raise ValueError(
                "no level of this nest has a flow; name the level to compare flows for"
            )
        return following[-1].name
    _checks.known(nest.declaration, level)
    return level


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


def double(machine: Machine, name: str, flow: Any, drawn: bool = True) -> Machine:
    """The machine in float64 with another flow for one level; to be made, and used, under x64. With
    `drawn`, starts draw what they draw in float32, of outer values that are rounded to it."""
    known: dict[int, Any] = {}

    def process(given: Process) -> Process:
        init = given.init and _Wide(given.init)
        return dataclasses.replace(given, draw=_Wide(given.draw), init=init) if drawn else given

    def wide(function: Any) -> Any:
        if isinstance(function, Process):
            return known.setdefault(id(function), process(function))
        return known.setdefault(id(function), _Wide(function)) if callable(function) else function

    def change(level: Level) -> Level:
        context = level.context if isinstance(level.context, Stream) else None
        return dataclasses.replace(
            level,
            context=context or wide(level.context),
            start=wide(level.start) if drawn else level.start,
        )

    other = with_flow(machine, name, flow, change)
    if machine.declaration.draws_task:
        other.problem.draw = wide(machine.task)
    return other


def _exact_gradients(
    nest: Nest, name: str, exact: Any, states: list[State]
) -> tuple[list[np.ndarray], GradientCheck]:
    """In float64, one for each state; the first is held against central differences."""
    feeds = [nest.feed(one) for one in states]
    with jax.enable_x64(True):
        wide = double(nest.machine, name, exact)
        compiled = jax.jit(wide.gradient(name))
        pairs = [
            (widened_state(wide, a), cast(b, jnp.float64))
            for a, b in zip(states, feeds, strict=True)
        ]
        found = [compiled(one, fed) for one, fed in pairs]
    check = check_gradient(
        nest, states[0], name, flow=exact, directions=3, coordinates=False, verbose=False
    )
    return [_flat(one) for one in found], check


def check_gradient(
    nest: Any, state: Any = None, name: Any = None, *arguments: Any, **options: Any
) -> GradientCheck:
    """Compares a gradient with central differences, both in float64: of a nest's level, or of any
    function.

    `check_gradient(nest, state, name)` takes the gradient that the level hands to its optimizer at
    its next update, and central differences of the executed program: under `Unroll` and `Forward`
    its period is run again at other values; under `Implicit` and `FiniteDifference` the levels
    outside are held and the period is repeated until the inner levels have settled; under `Direct`
    only the level's own objective sees the other value. `Unroll(last=K)` and `Direct` are held
    against the same truncation, so that a pass says nothing of what they leave out (`compare_flows`
    does). What is a constant to derivatives on purpose shows as an error: inner gradients under
    `first_order=True`, and what `keep` keeps where a loss reads it.

    `check_gradient(function, point, gradient=None)` is `nestax.flows.check_gradient`, whose options
    (`directions`, `key`, `step`, `tolerance`, `verbose`) both forms take.

    Args:
        nest: a `Nest`, or a function point -> scalar.
        state: the state from which the level makes its next update, at the boundary of a step; or
            the point.
        name: of the level; or the function's gradient.
        arguments: further positional arguments of the second form.
        options: for a nest also `flow`, another flow for the level, and `coordinates`, whether each
            of up to 20 numbers is a direction of its own, True by default.

    Returns:
        A `GradientCheck`, true if the check passed; `.error` is the largest difference relative to
        the largest derivative measured.

    Raises:
        ValueError: no such level; a flow that draws estimates.

    Example:
        >>> import jax, nestax as nx, optax
        >>> w = nx.Level("w", lambda v, batch: (v["w"] - v["d"]) ** 2, optax.sgd(0.3))
        >>> flow = nx.Unroll()
        >>> d = nx.Level("d", lambda v, batch: v["w"] ** 2, optax.sgd(0.1), every=9, flow=flow)
        >>> nest = nx.Nest([w, d])
        >>> state = nest.init({"w": 0.0, "d": 1.0}, jax.random.key(0))
        >>> bool(nx.check_gradient(nest, state, "d", verbose=False))
        True
    """
    if not isinstance(nest, Nest):
        given = (nest, state) if name is None else (nest, state, name)
        return check_function(*given, *arguments, **options)
    single_state(state, "check_gradient")
    level = _level(nest, name)
    _belongs.structure(nest.machine, state)
    _belongs.moment(nest.machine, state)
    flow = options.pop("flow", flow_of(nest.machine.problem.levels[level]))
    if flow.estimates:
        raise ValueError(
            f"check_gradient: {flow!r} of level {level!r} draws an estimate, which is right in the "
            "mean only; compare_flows(nest, state, [flow]) shows how far its draws are off, and "
            "check_gradient(..., flow=nx.Unroll()) checks the gradient of one period"
        )
    feed = nest.feed(state)
    with jax.enable_x64(True):
        wide = double(nest.machine, level, flow, drawn=False)
        state, feed = widened_state(wide, state), cast(feed, jnp.float64)
        found = jax.jit(wide.gradient(level))(state, feed)[level]
        point = jax.tree.map(jnp.zeros_like, found)
        if options.get("step") is None:
            leaves = jax.tree.leaves(state.parts[level].trained)
            size = jnp.sqrt(sum(jnp.sum(a**2) for a in leaves) / sum(a.size for a in leaves))
            options["step"] = 1e-3 * max(1.0, float(size))
        loss = executed(wide, level, state, feed)
        return check_function(loss, point, found, *arguments, **options)


def widened_state(machine: Machine, state: State) -> State:
    """A state in float64, optimizer states in the dtypes that their optimizers give them there."""
    wide = cast(state, jnp.float64)
    optimizers = {}
    for level in machine.declaration.levels:
        begin = functools.partial(machine.optimizer, level)
        shapes = jax.eval_shape(begin, wide.parts)
        given = (jax.tree.leaves(one) for one in (shapes, wide.optimizers[level.name]))
        leaves = [
            jnp.asarray(leaf, like.dtype) if jnp.issubdtype(like.dtype, jnp.inexact) else leaf
            for like, leaf in zip(*given, strict=True)
        ]
        structure = jax.tree.structure(wide.optimizers[level.name])
        optimizers[level.name] = structure.unflatten(leaves)
    return dataclasses.replace(wide, optimizers=optimizers)


class _Wide:
    """A context, start or task that draws what it draws in single precision, as doubles.

    Under x64 JAX's random functions draw other numbers; the data must be the same.
    """

    def __init__(self, function: Any):
        self.__wrapped__ = function

    def __eq__(self, other: object) -> bool:
        # Contexts that are one stay one.
        return isinstance(other, _Wide) and _draws.same(self.__wrapped__, other.__wrapped__)

    def __hash__(self) -> int:
        return hash(_draws.definition(self))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        narrow = cast(arguments, jnp.float32)
        with jax.enable_x64(False):
            drawn = self.__wrapped__(*narrow, **named)
        return cast(drawn, jnp.float64)


def cast(tree: Any, dtype: Any) -> Any:
    def one(leaf: Any) -> Any:
        inexact = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, dtype) if inexact else leaf

    return jax.tree.map(one, tree)


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return _ratio(float(a @ b), float(np.linalg.norm(a) * np.linalg.norm(b)))


def _ratio(above: Any, below: Any) -> float:
    return float(above / below) if below else float("nan")


def _spread(values: np.ndarray) -> str:
    return f"{np.median(values):.3g} ({values.min():.2g} to {values.max():.2g})"
