"""Which flow for which problem: the tables of docs/guides/flows.md, measured by `nx.compare_flows`.

    python benchmarks/flows.py

remakes the tables in place. Errors are those of fixed draws, and a test recomputes them. Times are
of one gradient, relative to a run of the inner levels that differentiates nothing.
"""

import dataclasses
import re
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nestax as nx

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "flows.md"
HEAD = ("flow", "error", "spread", "time", "KiB")
RIGHT = 1e-3  # relative errors below it are shown as 0: rounding in float32


@dataclasses.dataclass(frozen=True)
class Row:
    """A flow on a problem.

    Attributes:
        flow: its name.
        error: of its gradient, relative; of an estimate that of the mean over the draws.
        spread: of an estimate, relative; None for flows that draw nothing.
        milliseconds: of one gradient.
        kibibytes: temporary memory of one gradient.
    """

    flow: str
    error: float
    spread: float | None
    milliseconds: float
    kibibytes: float


@dataclasses.dataclass(frozen=True)
class Case:
    """A nest in a state, and how its flows are compared."""

    nest: nx.Nest
    state: nx.State
    flows: Sequence[Any] | Mapping[str, Any]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def rows(self, repeats: int) -> list[Row]:
        found = nx.compare_flows(self.nest, self.state, self.flows, repeats=repeats, **self.options)
        named = self.flows if isinstance(self.flows, Mapping) else {repr(f): f for f in self.flows}
        return [
            Row(
                row.name,
                row.bias if named[row.name].estimates else float(np.median(row.error)),
                row.spread if named[row.name].estimates else None,
                row.milliseconds,
                1024 * row.mebibytes,
            )
            for row in found.rows
        ]

    def run(self, repeats: int) -> float:
        """Milliseconds of a run of the inner levels over the periods of one gradient."""
        plain = [dataclasses.replace(one, flow=None) for (one,) in self.nest.groups]
        given = {"copies": self.nest.copies, "norms": False}
        nest = nx.Nest([(one,) for one in plain], self.nest.task, **given)
        length = self.options.get("updates", 1)

        @jax.jit
        def through(state: nx.State) -> nx.State:
            return jax.lax.fori_loop(0, length, lambda _, state: nest.map(state), state)

        took = []
        for _ in range(repeats + 1):  # the first compiles
            began = time.perf_counter()
            jax.block_until_ready(through(self.state))
            took.append(time.perf_counter() - began)
        return 1e3 * float(np.median(took[1:]))


@dataclasses.dataclass(frozen=True, repr=False)
class Smoothed(nx.Flow):
    """The derivative in one number of a loss smoothed by a normal distribution, by quadrature."""

    follows: ClassVar[bool] = True
    sigma: float = 0.5

    def gradient(self, period: Any, memory: Any, key: Any) -> tuple[Any, Any, Any]:
        del key
        nodes = jax.scipy.special.ndtri((jnp.arange(100) + 0.5) / 100)
        losses = jax.vmap(lambda x: period.run(period.value + self.sigma * x).loss)(nodes)
        slope = jnp.sum(nodes * losses) / jnp.sum(nodes**2) / self.sigma
        return slope, period.run(period.value), memory


def ridge(size: int, samples: int) -> tuple[dict[str, Any], Any, Any, float]:
    """Data, the inner and the outer objective of ridge regression with penalties exp(d), and the
    rate of gradient descent on the inner one."""
    rng = np.random.default_rng(0)
    scale = np.logspace(-0.2, 0.2, size)
    truth = rng.normal(size=size) * (rng.random(size) < 0.5)
    x, xv = (rng.normal(size=(samples, size)) * scale for _ in range(2))
    y, yv = (rows @ truth + rng.normal(size=samples) for rows in (x, xv))
    data = {k: jnp.asarray(a, jnp.float32) for k, a in {"x": x, "y": y, "xv": xv, "yv": yv}.items()}

    def train(v: Any, task: Any) -> Any:
        fit = jnp.mean((task["x"] @ v["w"] - task["y"]) ** 2) / 2
        return fit + jnp.sum(jnp.exp(v["d"]) * v["w"] ** 2) / 2

    def valid(v: Any, task: Any) -> Any:
        return jnp.mean((task["xv"] @ v["w"] - task["yv"]) ** 2) / 2

    rate = 1 / (np.linalg.norm(x, 2) ** 2 / samples + np.exp(-2))
    return data, train, valid, round(float(rate), 2)


def settled() -> list[Case]:
    data, train, valid, rate = ridge(50, 400)
    w = nx.Level("w", train, optax.sgd(rate))
    d = nx.Level("d", valid, optax.sgd(0.0), every=100, flow=nx.Implicit(nx.CG()))
    nest = nx.Nest([w, d], data)
    state = nest.init({"w": jnp.zeros(50), "d": -2.0}, jax.random.key(0))
    state, _ = nest.run(state, 10)
    flows = {
        "Direct()": nx.Direct(),
        "Unroll()": nx.Unroll(),
        "Unroll(last=10)": nx.Unroll(last=10),
        "Forward()": nx.Forward(),
        "Implicit(CG(10))": nx.Implicit(nx.CG(10)),
        "FiniteDifference(rate)": nx.FiniteDifference(rate),
    }
    return [Case(nest, state, flows, {"draws": 1})]


def many() -> list[Case]:
    data, train, valid, rate = ridge(100, 400)
    values = {"w": jnp.zeros(100), "d": jnp.full(100, -2.0)}
    level = nx.Level("d", valid, optax.sgd(0.0), every=100, flow=nx.Implicit(nx.CG()))
    nest = nx.Nest([nx.Level("w", train, optax.sgd(rate)), level], data)
    state, _ = nest.run(nest.init(values, jax.random.key(0)), 10)
    flows = {
        "Direct()": nx.Direct(),
        "Unroll()": nx.Unroll(),
        "Forward()": nx.Forward(),
        "Implicit(CG(10))": nx.Implicit(nx.CG(10)),
        "Implicit(Neumann(10))": nx.Implicit(nx.Neumann(10)),
        "Implicit(Nystrom(10))": nx.Implicit(nx.Nystrom(10)),
        "Implicit(Dense())": nx.Implicit(nx.Dense()),
        "Implicit(Identity(rate))": nx.Implicit(nx.Identity(rate)),
    }
    # Strategies need copies, which begin anew: at the weights where the others are.
    weights = state.values["w"]
    start = lambda v, task, key: weights  # noqa: E731
    copied = nx.Nest(
        [
            nx.Level("w", train, optax.sgd(rate), start=start),
            dataclasses.replace(level, flow=nx.Unroll()),
        ],
        data,
        copies=32,
    )
    begin = copied.init({"d": values["d"]}, jax.random.key(0))
    return [
        Case(nest, state, flows, {"draws": 1}),
        Case(copied, begin, [nx.ES(0.1)], {"draws": 50}),
    ]


def few_steps() -> list[Case]:
    def draw(key: Any) -> Any:
        keys = jax.random.split(key)
        x = jax.random.normal(keys[0], (200, 8))
        return x, jnp.tanh(x @ (1 + 0.3 * jax.random.normal(keys[1], (8,))))

    def loss(v: Any, task: Any) -> Any:
        x, y = task
        return jnp.mean((jnp.tanh(x @ v["w"]) - y) ** 2)

    w = nx.Level("w", loss, optax.sgd(0.3), start=lambda v, task, key: v["init"])
    outer = nx.Level("init", loss, optax.sgd(0.0), every=5, flow=nx.Unroll())
    nest = nx.Nest([w, outer], draw, copies=32)
    state = nest.init({"init": jnp.full(8, 0.5)}, jax.random.key(0))
    flows = [
        nx.Direct(),
        nx.Unroll(),
        nx.Forward(),
        nx.Unroll(first_order=True),
        nx.ES(0.1),
    ]
    return [Case(nest, state, flows, {"draws": 50})]


class Noise:
    """Batches of noise. What a function draws depends on the name of its module, which is another
    one where this file is run and where it is imported; what an object draws does not."""

    def __call__(self, task: Any, key: Any) -> Any:
        del task
        return jax.random.normal(key, (4,))


def episode() -> list[Case]:
    curvature = jnp.array([1.0, 0.3, 0.1, 0.03])

    def inner(v: Any, noise: Any) -> Any:
        return jnp.sum(curvature * (v["w"] - noise) ** 2) / 2

    def outer(v: Any, _: Any) -> Any:
        return jnp.sum(curvature * v["w"] ** 2) / 2

    w = nx.Level(
        "w",
        inner,
        lambda v: optax.sgd(jnp.exp(v["log_rate"]), momentum=0.5),
        Noise(),
        start=lambda v, task, key: jnp.full(4, 3.0),
        horizon=50,
    )
    rate = nx.Level("log_rate", outer, optax.sgd(0.0), every=5, flow=nx.Unroll())
    nest = nx.Nest([w, rate], copies=32)
    state = nest.init({"log_rate": -1.5}, jax.random.key(0))
    flows = [
        nx.Direct(),
        nx.Unroll(),
        nx.Unroll(last=1),
        nx.ES(0.1),
        nx.PES(0.1),
        nx.NRES(0.1),
    ]
    return [Case(nest, state, flows, {"draws": 50, "updates": 10})]


def steps() -> list[Case]:
    rng = np.random.default_rng(0)

    def drawn(positive: int, negative: int) -> tuple[Any, Any]:
        labels = np.repeat([1.0, 0.0], [positive, negative])
        x = rng.normal(size=(len(labels), 2)) + labels[:, None]
        return jnp.asarray(np.c_[x, np.ones(len(x))], jnp.float32), jnp.asarray(labels, jnp.float32)

    train, valid = drawn(10, 50), drawn(100, 100)

    def inner(v: Any, _: Any) -> Any:
        x, y = train
        weight = jnp.where(y > 0, jnp.exp(v["log_weight"]), 1)
        return jnp.mean(weight * optax.sigmoid_binary_cross_entropy(x @ v["w"], y))

    def errors(v: Any, _: Any) -> Any:
        x, y = valid
        return jnp.mean((x @ v["w"] > 0) != (y > 0), dtype=x.dtype)

    w = nx.Level("w", inner, optax.sgd(2.0), start=lambda v, task, key: jnp.zeros(3))
    level = nx.Level("log_weight", errors, optax.sgd(0.0), every=10, flow=nx.ES(0.5))
    nest = nx.Nest([w, level], copies=32)
    state = nest.init({"log_weight": 0.5}, jax.random.key(0))
    flows = [nx.Direct(), nx.Unroll(), nx.ES(0.5)]
    return [Case(nest, state, flows, {"draws": 20, "exact": Smoothed(0.5)})]


PROBLEMS: dict[str, Callable[[], list[Case]]] = {
    "settled": settled,
    "many": many,
    "few steps": few_steps,
    "episode": episode,
    "steps": steps,
}


def measured(name: str, repeats: int = 1) -> list[Row]:
    """The rows of a problem."""
    with warnings.catch_warnings():
        # What is smoothed is not the derivative of what is executed: that is 0.
        warnings.filterwarnings("ignore", "compare_flows: .*Smoothed" if name == "steps" else "^$")
        return [row for case in PROBLEMS[name]() for row in case.rows(repeats)]


def number(value: float | None) -> str:
    if value is None:
        return ""
    return "0" if value < RIGHT else f"{value:.2g}"


def table(rows: Sequence[Row], run: float) -> str:
    """The rows as a page shows them; `run` is the time of a run of the inner levels."""
    lines = [HEAD, ("---",) * len(HEAD)]
    for row in rows:
        took = f"{row.milliseconds / run:.1f}"
        shown = (number(row.error), number(row.spread), took, f"{row.kibibytes:.0f}")
        lines.append((f"`{row.flow}`", *shown))
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def recorded(name: str) -> list[tuple[str, float, float | None]]:
    """Flow, error and spread of the rows that the page has."""
    text = re.search(rf"<!-- flows: {name} -->\n\n(.*?)\n\n", PAGE.read_text(), re.DOTALL)
    assert text is not None, name
    cells = [line.strip("| ").split("|") for line in text[1].splitlines()[2:]]
    cells = [[cell.strip() for cell in line] for line in cells]
    return [(c[0].strip("`"), float(c[1]), float(c[2]) if c[2] else None) for c in cells]


def remake(name: str) -> None:
    made = table(measured(name, repeats=20), PROBLEMS[name]()[0].run(20))
    print(f"{name}\n{made}\n", flush=True)
    pattern = rf"(<!-- flows: {name} -->\n\n).*?(?=\n\n)"
    page = re.sub(pattern, lambda m: m[1] + made, PAGE.read_text(), flags=re.DOTALL)
    PAGE.write_text(page)


if __name__ == "__main__":
    for name in sys.argv[1:] or PROBLEMS:
        remake(name)
