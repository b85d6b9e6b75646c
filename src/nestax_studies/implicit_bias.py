"""Warm against cold starts where many weights solve the inner problem.

Source: Vicol, Lorraine, Pedregosa, Duvenaud and Grosse, "On implicit bias in overparameterized
bilevel optimization" (2022), sections 3 and 4.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nestax.flows import Direct, Implicit, Neumann, Unroll, best_response
from nestax.levels import Level, Nest

from . import data, lab, models
from .lab import option
from .lab.figures import Line, Panel, Sheet, curves

Pairs = tuple[jax.Array, jax.Array]  # inputs and targets
STARTS, FLOWS = ("warm", "cold"), ("unrolled", "implicit")
INNER = 20  # updates of the weights for one of the example
POINTS = 200  # of a curve


@dataclass(frozen=True)
class Settings(lab.Options):
    """Where does what was learned outside end up, in the example or in the weights?

    Attributes:
        steps: Updates of the example; the weights make twenty in each.
        batch_size: Outer data by which an update of the example is judged; 0: all.
        features: Weights of the model that fits a curve.
        hidden: Units of the hidden layer of the network that reads digits.
        seeds: Initial weights and examples, side by side.
    """

    steps: int = option(2000, least=POINTS, multiple=POINTS)
    batch_size: int = option(10, least=0)
    features: int = option(300, least=1)
    hidden: int = option(100, least=1)
    seeds: int = option(5, least=1)
    again: ClassVar[int] = 2000  # updates of weights that are trained anew on the final example


class Problem(NamedTuple):
    """A model with many weights and an example of few numbers."""

    task: Callable[[jax.Array], Any]  # key -> initial weights "start", and what the model needs
    predict: Callable[[Any, Any, jax.Array], jax.Array]  # (weights, task, inputs) -> outputs
    example: Callable[[jax.Array], Pairs]  # key -> a first one, of shapes (1, ...); see `shown`
    real: Pairs  # the outer data
    test: Pairs  # what judges at the end
    rate: float  # of the weights' gradient descent, large enough to solve the inner problem

    def error(self, weights: Any, task: Any, batch: Pairs) -> jax.Array:
        """Half the mean squared error, summed over outputs."""
        return jnp.mean(jnp.sum((self.predict(weights, task, batch[0]) - batch[1]) ** 2, 1)) / 2


def curve(settings: Settings) -> Problem:
    """A sine, by random Fourier features: linear in the weights, so everything is known."""

    def task(key: jax.Array) -> dict[str, Any]:
        keys = jax.random.split(key)
        return {
            "start": jnp.zeros((settings.features, 1)),
            "frequency": 8 * jax.random.normal(keys[0], (1, settings.features)),
            "phase": jax.random.uniform(keys[1], (settings.features,), maxval=2 * jnp.pi),
        }

    def predict(weights: Any, task: Any, x: jax.Array) -> jax.Array:
        return features(task, x) @ weights

    def example(key: jax.Array) -> Pairs:
        return jax.random.normal(key, (1, 1)), jnp.zeros((1, 1))

    x = jnp.linspace(0, 1, 101)[:, None]
    real = x, jnp.sin(2 * jnp.pi * x)
    return Problem(task, predict, example, real, real, rate=0.5)


def features(task: Any, x: jax.Array) -> jax.Array:
    size = (2 / task["phase"].size) ** 0.5
    return size * jnp.cos(x @ task["frequency"] + task["phase"][None])


def digits(settings: Settings) -> Problem:
    """Digits, by a network with one hidden layer and the squared error on one-hot labels."""
    split = data.load("digits")
    real, test = (
        (jnp.asarray(part.inputs), jax.nn.one_hot(part.labels, 10))
        for part in (split.train, split.test)
    )

    def task(key: jax.Array) -> dict[str, Any]:
        return {"start": models.mlp_init(key, (64, settings.hidden, 10))}

    def predict(weights: Any, task: Any, x: jax.Array) -> jax.Array:
        return models.mlp(weights, x)

    def example(key: jax.Array) -> Pairs:
        return jax.random.normal(key, (1, 64)), jnp.full((1, 10), 0.1)

    return Problem(task, predict, example, real, test, rate=0.05)


PROBLEMS: dict[str, Callable[[Settings], Problem]] = {"curve": curve, "digits": digits}


def shown(example: Pairs) -> Pairs:
    """The example as the weights see it: its inputs lie between 0 and 1, as those of the data."""
    return jax.nn.sigmoid(example[0]), example[1]


def flows(problem: Problem) -> dict[str, Any]:
    # As many terms as steps: at a solution the two flows agree. Flat directions are the point here,
    # so what is left of the solve is not warned of.
    neumann = Implicit(Neumann(INNER, problem.rate), tolerance=1e6)
    return {"unrolled": Unroll(), "implicit": neumann}


def system(settings: Settings, problem: Problem, flow: str, start: str) -> Nest:
    """Weights inside one example. Warm and cold differ in the length of the weights' episodes."""
    ticks = settings.steps * INNER

    # A draw follows from the names in it and what it closes over: other names, other numbers.
    def batch(task: Any, key: jax.Array) -> Any:
        count = len(problem.real[0])
        index = jax.random.randint(key, (settings.batch_size or count,), 0, count)
        drawn = jax.tree.map(lambda a: a[index], problem.real)
        return task, drawn if settings.batch_size else problem.real

    def inner(values: dict[str, Any], task: Any) -> jax.Array:
        return problem.error(values["weights"], task, shown(values["example"]))

    def outer(values: dict[str, Any], batch: Any) -> Any:
        error = partial(problem.error, values["weights"], batch[0])
        return error(batch[1]), (error(problem.real), shown(values["example"]))

    weights = Level(
        "weights", inner, optax.sgd(problem.rate), start=lambda values, task, key: task["start"],
        horizon=ticks if start == "warm" else INNER,
    )  # fmt: skip
    example = Level(
        "example", outer, optax.adam(0.02), context=batch, every=INNER, flow=flows(problem)[flow],
        start=lambda values, task, key: problem.example(key), horizon=ticks,
    )  # fmt: skip
    return Nest([weights, example], problem.task, copies=settings.seeds)


def learn(settings: Settings, name: str, flow: str, start: str, desk: lab.Desk) -> lab.Record:
    """A run, and what becomes of its final example; in the order (point, seed)."""
    problem, every = PROBLEMS[name](settings), settings.steps // POINTS
    nest = system(settings, problem, flow, start)
    desk.say("trains")
    state, info = nest.run(nest.init({}, jax.random.key(0)), settings.steps)
    weights, task, (outer, path) = state.values["weights"], state.task, info["example"].user
    # What the weights were trained on: the example before its last update.
    example = jax.tree.map(lambda a: jnp.asarray(a[-1]), path)

    @jax.jit
    @jax.vmap
    def again(example: Pairs, task: Any) -> Any:
        fit = lambda example, weights: problem.error(weights, task, example)  # noqa: E731
        train = best_response(fit, optax.sgd(problem.rate), settings.again, Direct())
        return train(example, task["start"])

    @jax.vmap
    def judged(weights: Any, task: Any) -> dict[str, jax.Array]:
        outputs, targets = problem.predict(weights, task, problem.test[0]), problem.test[1]
        hits = jnp.argmax(outputs, 1) == jnp.argmax(targets, 1)
        return {"test": problem.error(weights, task, problem.test), "accuracy": jnp.mean(hits)}

    desk.say("trains anew on the final example")
    anew, kept = again(example, task), slice(every - 1, None, every)
    record = {"outer": outer[kept], "inner": info["weights"].loss[INNER - 1 :: INNER][kept]}
    record |= {"end": judged(weights, task), "anew": judged(anew, task)}
    if name == "curve":
        first = jax.tree.map(lambda a: a[0], task)
        fits = [problem.predict(w[0], first, problem.real[0])[:, 0] for w in (weights, anew)]
        record |= {"fits": fits, "path": [np.asarray(a)[kept, 0, 0, 0] for a in path]}
        record["from_nearest"] = jax.vmap(from_nearest)(task, example, weights)
    return {"step": list(range(every, settings.steps + 1, every)), **lab.listed(record)}


def from_nearest(task: Any, example: Pairs, weights: jax.Array) -> jax.Array:
    """The distance of the curve's weights from the solution nearest to the initial ones, relative
    to how far that one is from them."""
    phi = features(task, example[0])
    way = phi.T @ jnp.linalg.solve(phi @ phi.T, example[1] - phi @ task["start"])
    return jnp.linalg.norm(weights - task["start"] - way) / jnp.linalg.norm(way)


def stages(settings: Settings) -> dict[str, lab.Stage]:
    choices = product(PROBLEMS, FLOWS, STARTS)
    return {" ".join(choice): partial(learn, settings, *choice) for choice in choices}


def verdicts(of: str, warm: lab.Record, cold: lab.Record) -> list[lab.Verdict]:
    """On one problem, with one flow; a record that is missing is empty."""
    judge = partial(lab.judge, of=of, shown=lab.significant, unit="")
    known, unknown, anew = (
        record[when]["test"] if record else None
        for record, when in ((warm, "end"), (cold, "end"), (warm, "anew"))
    )
    inner = {f"inner, {start}": record["inner"][-1] if record else None
             for start, record in zip(STARTS, (warm, cold), strict=True)}  # fmt: skip
    found = [
        judge(
            "Warm starts carry the outer data into the weights, cold starts cannot (Vicol et al. "
            "2022, section 4)",
            "both solve the inner problem (median error below 0.001) and the warm test error is "
            "less than half of the cold one with every seed",
            {"warm": known, "cold": unknown, **inner},
            lambda warm, cold, *inner: max(map(np.median, inner)) < 1e-3 and all(warm < cold / 2),
        ),
        judge(
            "What was learned with warm starts is not in the example (section 4)",
            "trained anew on the final example, the test error at least doubles with every seed",
            {"warm": known, "trained anew": anew},
            lambda known, anew: all(anew >= 2 * known),
        ),
    ]
    if of.startswith("curve"):
        nearest = judge(
            "Cold starts find the solution nearest to the initial weights, warm starts another "
            "(section 3)",
            "distance from that solution, relative to its own from the initial weights, below 0.05 "
            "with every seed cold and above 0.5 with every seed warm",
            {"cold": cold.get("from_nearest"), "warm": warm.get("from_nearest")},
            lambda cold, warm: all(cold < 0.05) and all(warm > 0.5),
        )
        found.append(nearest)
    return found


def find(settings: Settings, records: lab.Records) -> lab.Findings:
    measures = [lab.number("inner error", lambda record: record["inner"][-1])]
    for when, words in {"end": "", "anew": "trained anew: "}.items():
        error = lambda record, when=when: record[when]["test"]  # noqa: E731
        right = lambda r, when=when: None if "fits" in r else r[when]["accuracy"]  # noqa: E731
        measures += [lab.number(f"{words}test error", error), lab.share(f"{words}accuracy", right)]
    measures.append(lab.number("from the nearest solution", lambda r: r.get("from_nearest")))
    caption = (
        "Median (least to most) over seeds. Error: half the mean square; of the curve, on the "
        "outer data itself. Trained anew: from the initial weights on the final example."
    )
    cases = {tuple(stage.split()): record for stage, record in records.items()}
    numbers = lab.numbers(("problem", "flow", "start"), cases, measures, caption)
    judged = []
    for case in product(PROBLEMS, FLOWS):
        pair = [records.get(" ".join((*case, start)), {}) for start in STARTS]
        judged += verdicts(", ".join(case), *pair)
    return lab.Findings(numbers, judged)


def draw(settings: Settings, records: lab.Records) -> list[Sheet]:
    errors, fits = [], []
    grid = np.linspace(0, 1, 101)
    for name, flow in product(PROBLEMS, FLOWS):
        done = lab.of_subject(records, f"{name} {flow}", STARTS)
        lines = [Line(record["step"], record["outer"], f"{s} start") for s, record in done.items()]
        words = f"{name}, {flow}", "updates of the example", "error on outer data"
        errors += [Panel(*words, lines, log="y")] if lines else []
        for start, record in done.items() if name == "curve" else ():
            (end, anew), (x, y) = record["fits"], record["path"]
            lines = [
                Line(grid, np.sin(2 * np.pi * grid), "outer data"),
                Line(grid, end, "end of the run"),
                Line(grid, anew, "trained anew"),
                Line(x, y, "the example's path"),
                Line(x[-1:], y[-1:], "its end"),
            ]
            fits.append(Panel(f"{start} start, {flow}", "input", "output", lines))
    caption = "Half the mean squared error of the inner solutions; bands: the range over seeds."
    first = "First seed: the one example that the weights are trained on, and what they fit."
    return [
        curves("errors", errors, "Warm and cold starts", caption),
        curves("fits", fits, "What one example teaches", first),
    ]


def example(settings: Settings) -> lab.Example:
    """The curve, with warm starts."""
    problem = curve(settings)
    nest = system(settings, problem, "unrolled", "warm")
    return lab.Example(nest, nest.init({}, jax.random.key(0)), "example", flows(problem))


LEAD = """One synthetic example is learned outside, a model with many more weights is trained on it
inside. Starting the inner problem anew for every update, or from where it was, leads to different
solutions; only the warm one remembers the outer data that shaped all the examples before."""
STUDY = lab.Study("Warm and cold starts", LEAD, Settings, stages, find, draw, example)
