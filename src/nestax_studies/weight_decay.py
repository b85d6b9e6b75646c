"""One weight decay for each weight, by implicit differentiation.

Source: Lorraine, Vicol and Duvenaud, "Optimizing millions of hyperparameters by implicit
differentiation" (2020), section 5.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from nestax import flows
from nestax.flows import CG, Direct, Identity, Implicit, Neumann, Nystrom
from nestax.levels import Level, Nest

from . import lab, models
from .images import (
    Batch,
    Data,
    Pool,
    accuracy,
    cross_entropy,
    followed,
    network_level,
    parts,
    pools,
    whole,
)
from .lab import option
from .lab.figures import Line, Panel, Sheet, curves

POOL = 5000
MODELS = ("linear", "mlp")
ARMS = {
    "fixed": "fixed decay",
    "one": "one decay",
    "each-identity": "one for each weight, identity",
    "each": "one for each weight, Neumann",
}
SOLVERS = {
    "cg": "CG",
    "neumann": "Neumann, best rate",
    "slow": "Neumann, inner rate",
    "nystrom": "Nyström",
    "identity": "identity",
}
PLACES = {
    "settled": "full batch, inner problem solved",
    "noisy": "minibatch, inner problem not solved",
}
NAMES = {"train": "training", "valid": "validation", "test": "test"}
POINTS = 20  # of a curve
INNER = 10  # updates of the weights for one of the decays
RATE = 1e-3  # of the weights' Adam
ANY = 1e6  # what a short solve leaves is recorded, not warned of


@dataclass(frozen=True)
class Settings(lab.Options):
    """Can 50 images choose one weight decay for each weight?

    Attributes:
        data: Data set; digits needs no download.
        images: Training images, and as many validation images, of the overfitting part.
        hidden: Units of the hidden layer of the network that is not linear.
        seeds: Drawn images and initial weights, side by side.
        steps: Updates of the decays; the weights make ten in each.
        log_decay: Where every decay's logarithm starts.
        compared_images: Training images, and as many validation images, on which solvers are
            compared.
        batch_size: Training images in a batch of the noisy comparison.
        products: Hessian-vector products at which solvers are compared, separated by commas.
    """

    data: Data = "mnist"
    images: int = option(50, least=1, most=700)
    hidden: int = option(20, least=1)
    seeds: int = option(5, least=1)
    steps: int = option(500, least=POINTS, multiple=POINTS)
    log_decay: float = -4.0
    compared_images: int = option(100, least=1, most=700)
    batch_size: int = option(20, least=1)
    products: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    noisy: ClassVar[int] = 100  # updates of the weights to where the problem is not solved,
    settled: ClassVar[int] = 5000  # and from there to where it is

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.batch_size <= self.compared_images
        self.require(fits, "batch_size must not exceed compared_images")
        some = bool(self.products) and min(self.products) >= 1
        self.require(some, f"products must be numbers of at least 1, got {self.products}")

    def sizes(self, pool: Pool, model: str) -> tuple[int, ...]:
        """Of the network's layers."""
        return pool.images.shape[1], *((self.hidden,) if model == "mlp" else ()), 10

    def decays(self, sizes: tuple[int, ...]) -> Any:
        """The first logarithms of one decay for each weight."""
        shapes = jax.eval_shape(lambda key: models.mlp_init(key, sizes), jax.random.key(0))
        return jax.tree.map(lambda a: jnp.full(a.shape, self.log_decay), shapes)


def penalized(decay: Any, weights: Any, batch: Batch) -> jax.Array:
    """The cross entropy, and beside it each square times its decay, or times one for all."""
    decays = jax.tree.broadcast(decay, weights)
    squares = jax.tree.map(lambda w, d: jnp.sum(jnp.exp(d) * w**2) / 2, weights, decays)
    return cross_entropy(weights, batch) + sum(jax.tree.leaves(squares))


def system(settings: Settings, pool: Pool, model: str, arm: str, solver: flows.Solver) -> Nest:
    """Weights inside decays, one episode for each seed."""
    sizes, count = settings.sizes(pool, model), settings.images
    ticks, first = settings.steps * INNER, jnp.full((), settings.log_decay)
    weights = network_level(
        lambda values, batch: penalized(values.get("decay", first), values["weights"], batch),
        optax.adam(RATE), sizes, ticks, context=lambda task, key: task["train"],
    )  # fmt: skip
    decay = Level(
        "decay",
        lambda values, batch: cross_entropy(values["weights"], batch),
        optax.rmsprop(0.03),
        context=lambda task, key: task["valid"],
        every=INNER,
        flow=Implicit(solver, tolerance=ANY),
        start=lambda values, task, key: first if arm == "one" else settings.decays(sizes),
        horizon=ticks,
    )
    return Nest(
        [weights] if arm == "fixed" else [weights, decay],
        lambda key: parts(pool, key, train=count, valid=count),
        copies=settings.seeds,
    )


def overfit(settings: Settings, model: str, arm: str, desk: lab.Desk) -> lab.Record:
    """The accuracies along a run, in the order (point, seed)."""
    pool, test = pools(settings.data, POOL)
    solver = Identity() if arm == "each-identity" else Neumann(20)
    nest, held_out = system(settings, pool, model, arm, solver), whole(test)

    @jax.jit
    def accuracies(weights: Any, task: Any, test: Batch) -> dict[str, jax.Array]:
        seen = {name: jax.vmap(accuracy)(weights, task[name]) for name in ("train", "valid")}
        return seen | {"test": jax.vmap(accuracy, (0, None))(weights, test)}

    state, info, record = followed(
        nest, settings.steps * INNER, POINTS,
        lambda state: accuracies(state.values["weights"], state.task, held_out), desk.say,
    )  # fmt: skip
    decays = jax.tree.leaves(state.values.get("decay", []))
    if decays:
        last = info["decay"]
        record |= {"inner_gradient": last.inner_gradient[-1], "residual": last.residual[-1]}
        record["diverged"] = np.mean(last.diverged, axis=0)
    steps = [point * settings.steps // POINTS for point in range(POINTS + 1)]
    return lab.listed(record) | {"step": steps, "hyperparameters": sum(a[0].size for a in decays)}


@jax.enable_x64(True)
def compare(settings: Settings, model: str, desk: lab.Desk) -> lab.Record:
    """Cosines of approximate hypergradients with the exact one, (products, seed), in float64. The
    noisy point lies on the way to the settled one, whose exact hypergradient is the truth for
    both.
    """
    pool, _ = pools(settings.data, POOL)
    sizes, images = settings.sizes(pool, model), settings.compared_images
    decay, batch_size = settings.decays(sizes), settings.batch_size

    # A draw follows from the names in it and what it closes over: other names, other numbers.
    def some(task: Any, key: jax.Array) -> Any:
        index = jax.random.choice(key, images, (batch_size,), replace=False)
        return jax.tree.map(lambda a: a[index], task["train"])

    level = network_level(
        lambda values, batch: penalized(decay, values["weights"], batch),
        optax.adam(0.01), sizes, settings.noisy, context=some,
    )  # fmt: skip
    drawn = partial(parts, pool, train=images, valid=images)
    nest = Nest([level], lambda key: drawn(key=key), copies=settings.seeds)
    desk.say("trains")
    state, _ = nest.run(nest.init({}, jax.random.key(1)), settings.noisy)
    task, noisy = state.task, state.values["weights"]

    @jax.jit
    @jax.vmap
    def settle(start: Any, task: Any) -> Any:
        full = partial(penalized, batch=task["train"])
        descent = optax.sgd(0.03, momentum=0.99, nesterov=True)
        end = flows.best_response(full, descent, settings.settled, Direct())(decay, start)
        return end, optax.tree.norm(jax.grad(full, 1)(decay, end))

    def towards(solver: flows.Solver, weights: Any, batches: Any) -> Any:
        @jax.jit
        @jax.vmap
        def each(weights: Any, valid: Any, batch: Any) -> Any:
            gradient = flows.hypergradient(
                lambda decay, weights: cross_entropy(weights, valid),
                partial(penalized, batch=batch),
                solver,
            )
            flow, report = gradient(decay, weights, diagnostics=True)
            return jax.flatten_util.ravel_pytree(flow)[0], report.residual

        return each(weights, task["valid"], batches)

    settled, left = settle(noisy, task)
    seen = {
        "settled": (settled, task["train"]),
        "noisy": (noisy, jax.vmap(some)(task, jax.random.split(jax.random.key(2), settings.seeds))),
    }
    desk.say("finds the exact hypergradient")
    exact, residual = towards(CG(2000, tolerance=1e-8), *seen["settled"])
    record: dict[str, Any] = {"gradient": left, "exact_residual": residual}
    for place, at in seen.items():
        best = 1 / float(jnp.max(jax.jit(jax.vmap(curvature))(*at)))
        makers: dict[str, Callable[[int], flows.Solver]] = {
            "cg": CG,
            "neumann": lambda k, best=best: Neumann(k + 1, best),
            "slow": lambda k: Neumann(k + 1, RATE),
            "nystrom": Nystrom,
            "identity": lambda k: Identity(),
        }
        record[place] = {"rate": best}
        for name, make in makers.items():
            desk.say(f"{place}, {SOLVERS[name]}")
            counts = settings.products if name != "identity" else settings.products[:1]
            record[place][name] = [cosine(towards(make(k), *at)[0], exact) for k in counts]
    return {"products": list(settings.products), **lab.listed(record, 9)}


def curvature(weights: Any, batch: Batch) -> jax.Array:
    """The largest eigenvalue of the cross entropy's Hessian, by power iteration."""
    slope = jax.grad(lambda w: cross_entropy(w, batch))

    def iterate(_: Any, v: Any) -> Any:
        v = jax.tree.map(lambda a: a / optax.tree.norm(v), v)
        return jax.jvp(slope, (weights,), (v,))[1]

    return optax.tree.norm(jax.lax.fori_loop(0, 50, iterate, weights))


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(a * b, 1) / jnp.linalg.norm(a, axis=1) / jnp.linalg.norm(b, axis=1)


def stages(settings: Settings) -> dict[str, lab.Stage]:
    runs = {f"{m} {arm}": partial(overfit, settings, m, arm) for m in MODELS for arm in ARMS}
    return runs | {f"{m} solvers": partial(compare, settings, m) for m in MODELS}


def verdicts(settings: Settings, model: str, records: lab.Records) -> list[lab.Verdict]:
    def accuracies(arm: str) -> dict[str, Any]:
        record, parts = records.get(f"{model} {arm}", {}), ("valid", "test")
        return {f"{NAMES[p]}, {ARMS[arm]}": record.get(p, [None])[-1] for p in parts}

    judged = [
        lab.judge(
            f"{settings.images} validation images are overfitted through one decay for each "
            f"weight, {words} (Lorraine et al. 2020, section 5)",
            "median validation accuracy at least 99 %, median test accuracy at least 20 points "
            "below",
            accuracies(arm),
            lab.medians(lambda valid, test: valid >= 0.99 and valid - test >= 0.2),
            of=model,
        )
        for arm, words in (("each-identity", "identity for the inverse"), ("each", "Neumann"))
    ]
    many = lab.judge(
        "It takes many hyperparameters to overfit them",
        "with one decay for all weights, tuned alike, validation and test differ by less than half "
        "as much",
        accuracies("one") | accuracies("each"),
        lab.medians(lambda valid, test, each, each_test: valid - test < (each - each_test) / 2),
        of=model,
    )
    solvers = records.get(f"{model} solvers", {})
    return [*judged, many, *(few_terms(model, place, solvers) for place in PLACES)]


def few_terms(model: str, place: str, record: lab.Record) -> lab.Verdict:
    """Lorraine et al.'s claim about Neumann and CG, judged at one place; {} is no record."""
    values: dict[str, Any] = {}
    for number, k in enumerate(record.get("products", ())):
        for name in ("neumann", "cg") if 2 <= k <= 10 else ():
            values[f"{SOLVERS[name]}, {k} products"] = record[place][name][number]

    def closer(*medians: float) -> bool | None:
        """Neumann's and CG's in turns."""
        pairs = zip(medians[::2], medians[1::2], strict=True)
        return all(neumann >= cg for neumann, cg in pairs) if medians else None

    return lab.judge(
        "A few Neumann terms point closer to the exact hypergradient than as many steps of CG, "
        f"{PLACES[place]} (Lorraine et al. 2020, comparison of inverses)",
        "median cosine, at Neumann's best rate, at least CG's at every number of products from 2 "
        "to 10",
        values if record else {f"the solvers of {model}": None},
        lab.medians(closer),
        of=model,
        shown=partial(lab.spread, digits=3, scale=1),
        unit="",
    )


def find(settings: Settings, records: lab.Records) -> lab.Findings:
    names = NAMES | {"train": "training accuracy"}
    measures = [lab.share(name, lambda record, k=k: record[k][-1]) for k, name in names.items()]
    cases = {
        (model, ARMS[arm]): record
        for model in MODELS
        for arm, record in lab.of_subject(records, model, ARMS).items()
    }
    count = lambda record: {"hyperparameters": record["hyperparameters"]}  # noqa: E731
    caption = "Median (least to most) over seeds."
    numbers = lab.numbers(("model", "arm"), cases, measures, caption, count)
    solvers = {m: records[f"{m} solvers"] for m in MODELS if f"{m} solvers" in records}
    judged = [verdict for m in MODELS for verdict in verdicts(settings, m, records)]
    return lab.Findings(numbers, judged, {"cosines": solvers})


def draw(settings: Settings, records: lab.Records) -> list[Sheet]:
    accuracies, cosines = [], []
    for model in MODELS:
        for arm, record in lab.of_subject(records, model, list(ARMS)[1:]).items():
            lines = [Line(record["step"], 100 * np.asarray(record[p]), n) for p, n in NAMES.items()]
            words = f"{model}: {ARMS[arm]}", "updates of the decays", "accuracy (%)"
            accuracies.append(Panel(*words, lines))
        record = records.get(f"{model} solvers", {})
        for place, words in PLACES.items() if record else ():
            few = len(record["products"])
            lines = [
                Line(record["products"], record[place][n] * (few if n == "identity" else 1), label)
                for n, label in SOLVERS.items()
            ]
            axes = "Hessian-vector products", "cosine with the exact one"
            cosines.append(Panel(f"{model}: {words}", *axes, lines, log="x"))
    count = settings.images
    caption = f"{count} training and {count} validation images; bands: the range over seeds."
    about = (
        "Cosine with the hypergradient of the solved problem, found by CG to a residual of 1e-8 in "
        "float64. Neumann's best rate, 1 / the largest eigenvalue, was found beforehand and is not "
        "counted; the inner rate is that of the weights' Adam, as in the authors' code. Bands: the "
        "range over seeds."
    )
    return [
        curves("overfitting", accuracies, "Overfitting the validation images", caption),
        curves("solvers", cosines, "Direction of approximate hypergradients", about),
    ]


def example(settings: Settings) -> lab.Example:
    """The linear network's nest with one decay for each weight."""
    nest = system(settings, pools(settings.data, POOL)[0], "linear", "each", Neumann(20))
    tried: dict[str, Any] = {f"{make.__name__}(20)": make(20) for make in (CG, Neumann, Nystrom)}
    tried = {n: Implicit(s, tolerance=ANY) for n, s in (tried | {"Identity()": Identity()}).items()}
    state = nest.init({}, jax.random.key(0))
    return lab.Example(nest, state, "decay", {**tried, "Unroll()": flows.Unroll()})


LEAD = """Weights are trained inside, their decays outside, through the implicit function theorem.
With one decay for each weight a validation set can be overfitted like a training set; how well that
works depends on the approximation of the inverse Hessian, whose direction is compared with the
exact one."""
STUDY = lab.Study("One weight decay for each weight", LEAD, Settings, stages, find, draw, example)
