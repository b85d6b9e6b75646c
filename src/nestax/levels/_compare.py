"""Which flow for this problem? Bias, spread, time and memory of each, against an exact gradient."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..flows import Dense, Direct, Implicit, Unroll
from . import _draws
from ._declaration import TRAJECTORY, flow_of
from ._level import Level
from ._nest import Nest, State


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
        exact: how the exact gradient was computed.
        rows: one for each flow, in the order given.
    """

    level: str
    exact: str
    rows: tuple[FlowRow, ...]

    def __str__(self) -> str:
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
        widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(cells)
            )
            for cells in (tuple(zip(row, widths, strict=True)) for row in (head, *body))
        ]
        draws = len(self.rows[0].cosine)
        title = f"gradient of {self.level!r} against {self.exact}; median (range) of {draws} draws"
        return "\n".join((title, *(line.rstrip() for line in lines)))


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
        A `FlowComparison`, printable.

    Raises:
        ValueError: no such level, or a flow that the nest refuses.
    """
    name = _level(nest, level)
    target = next(one for one in nest.declaration.levels if one.name == name)
    if exact is None:
        exact = Unroll() if isinstance(flow_of(target), TRAJECTORY) else Implicit(Dense())
    named = flows if isinstance(flows, Mapping) else {repr(flow): flow for flow in flows}
    keys = [_draws.start_key(state.key, "compare", i, 0) for i in range(draws)]
    states = [dataclasses.replace(state, key=jax.random.key_data(key)) for key in keys]
    truth = _exact_gradients(nest, name, exact, states)
    rows = []
    for label, flow in named.items():
        compiled = _with_flow(nest, name, flow)._gradient(name)
        feeds = [nest.feed(one) for one in states]
        memory = compiled.lower(states[0], feeds[0]).compile().memory_analysis()  # type: ignore
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
    return FlowComparison(name, f"{exact!r} in float64", tuple(rows))


def _level(nest: Nest, level: str | None) -> str:
    if level is None:
        following = [x for x in nest.declaration.levels if not isinstance(flow_of(x), Direct)]
        if not following:
            raise ValueError(
                "no level of this nest has a flow; name the level to compare flows for"
            )
        return following[-1].name
    names = [one.name for one in nest.declaration.levels]
    if level not in names:
        raise ValueError(f"no level is called {level!r}; there are {', '.join(map(repr, names))}")
    return level


def _with_flow(nest: Nest, name: str, flow: Any, change: Any = lambda level: level) -> Nest:
    """The same nest with another flow for one level; `change` is applied to every level."""
    groups = [
        tuple(
            change(dataclasses.replace(one, flow=flow) if one.name == name else one)
            for one in group
        )
        for group in nest.groups
    ]
    options = (nest.copies, nest.order, nest.stagger, nest.mesh, nest.norms)
    return Nest(groups, nest.task, *options)  # type: ignore


def _exact_gradients(nest: Nest, name: str, exact: Any, states: list[State]) -> list[np.ndarray]:
    feeds = [nest.feed(one) for one in states]
    with jax.enable_x64(True):
        known: dict[int, _Wide] = {}

        def wide(function: Any) -> Any:
            return (
                known.setdefault(id(function), _Wide(function)) if callable(function) else function
            )

        def change(level: Level) -> Level:
            context = level.context if level.context in nest._program.streams.values() else None
            return dataclasses.replace(
                level, context=context or wide(level.context), start=wide(level.start)
            )

        double = _with_flow(nest, name, exact, change)
        if nest.declaration.draws_task:
            double._program.draw = wide(nest.task)
        compiled = double._gradient(name)
        pairs = zip(states, feeds, strict=True)
        return [
            _flat(compiled(_cast(one, jnp.float64), _cast(fed, jnp.float64))) for one, fed in pairs
        ]


class _Wide:
    """A context, start or task that draws what it draws in single precision, as doubles.

    Under x64 JAX's random functions draw other numbers; the data must be the same.
    """

    def __init__(self, function: Any):
        self.__wrapped__ = function

    def __call__(self, *arguments: Any) -> Any:
        narrow = _cast(arguments, jnp.float32)
        with jax.enable_x64(False):
            drawn = self.__wrapped__(*narrow)
        return _cast(drawn, jnp.float64)


def _cast(tree: Any, dtype: Any) -> Any:
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
