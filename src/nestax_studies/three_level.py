"""Three levels: a learning rate for each weight, over a decay for each weight, over the weights.

The problem is this project's own; for gradients of learning rates: Maclaurin, Duvenaud and Adams,
"Gradient-based hyperparameter optimization through reversible learning" (2015).
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nestax.flows import Unroll
from nestax.levels import Level, Nest, check_gradient

from . import images, lab, models
from .images import accuracy, cross_entropy
from .lab.figures import Line, Map, Panel, Sheet, curves, maps

LABELS = {
    "each": "a rate for each weight",
    "frozen": "the same, decays taken as constants",
    "common": "one learned rate",
    "tuned": "one tuned rate, two levels",
}
RATE, TRIED = 0.1, (0.01, 10.0)  # the first rate; the range of the grid
DECAY = -2.0  # the first one, of which the decay is the logistic function,
MOST_DECAY = 0.1  # times this: with unbounded ones a rate that grows makes the weights diverge
STRIDE = 0.2  # root mean square by which one update changes what the decays are made of


@dataclasses.dataclass(frozen=True)
class Settings(lab.Options):
    """Does a third level pay?

    Attributes:
        data: Data set; digits needs no download.
        images: Training images.
        validation: Images on which the decays are learned, and as many others for the rates.
        runs: Runs of a hundred updates of the weights: updates of the rates, or rates tried.
        seeds: Drawn images and initial weights, side by side.
    """

    data: images.Data = "digits"
    images: int = lab.option(200, least=1)
    validation: int = lab.option(400, least=1)
    runs: int = lab.option(100, least=2)
    seeds: int = lab.option(5, least=1)
    inner: ClassVar[int] = 10  # updates of the weights for one of the decays
    middle: ClassVar[int] = 10  # updates of the decays for one of the rates

    def __post_init__(self) -> None:
        super().__post_init__()
        images.require(self, self.images + 2 * self.validation)


def descent(rates: Any) -> optax.GradientTransformation:
    """Gradient descent, with a rate (its logarithm) for each weight or one for all."""
    step = partial(jax.tree.map, lambda g, rate: -jnp.exp(rate) * g)
    return optax.stateless(lambda g, params: step(g, jax.tree.broadcast(rates, g)))


def grid_search(tried: jax.Array) -> optax.GradientTransformation:
    """One candidate after another, whatever the gradient."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return tried[jnp.minimum(state + 1, len(tried) - 1)] - params, state + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


def system(settings: Settings, arm: str) -> Nest:
    """Weights inside decays inside rates, one episode of the rates for each seed."""
    held, run = settings.validation, settings.inner * settings.middle
    pool, test = images.pools(settings.data, settings.images + 2 * held)
    held_out, sizes = images.whole(test), (pool.images.shape[1], 10)
    like = models.mlp_init(jax.random.key(0), sizes)
    stride = STRIDE * sum(a.size for a in jax.tree.leaves(like)) ** 0.5
    tried, tuned = jnp.log(jnp.geomspace(*TRIED, settings.runs)), arm == "tuned"
    # Steps of constant length, smooth where Adam's are not; frozen: constants to any gradient.
    cut = optax.stateless(lambda g, _: jax.lax.stop_gradient(g) if arm == "frozen" else g)
    strides = optax.chain(optax.normalize_by_update_norm(-stride), cut)
    common = {"tuned": tried[0], "common": jnp.log(RATE)}
    rates = common.get(arm, optax.tree.full_like(like, jnp.log(RATE)))

    def train(values: dict[str, Any], task: Any) -> jax.Array:
        weights, decays = values["weights"], values["decays"]
        squares = jax.tree.map(lambda w, d: jax.nn.sigmoid(d) * w**2 / 2, weights, decays)
        penalty = MOST_DECAY * sum(map(jnp.sum, jax.tree.leaves(squares)))
        return cross_entropy(weights, task["train"]) + penalty

    def lead(values: dict[str, Any], task: Any) -> Any:
        """The loss, and beside it what no level learns from."""
        weights, seen = values["weights"], {"rates": values["rates"]}
        seen |= {"test": cross_entropy(weights, held_out), "accuracy": accuracy(weights, held_out)}
        return cross_entropy(weights, task["B"]), seen

    levels = [
        images.network_level(train, lambda values: descent(values["rates"]), sizes, run),
        Level(
            "decays", lambda values, task: cross_entropy(values["weights"], task["A"]),
            strides, every=settings.inner, flow=Unroll(),
            start=lambda values, task, key: optax.tree.full_like(like, DECAY),
        ),
        Level(
            "rates", lead, grid_search(tried) if tuned else optax.adam(0.1),
            every=run, flow=None if tuned else Unroll(), horizon=run * settings.runs,
            start=lambda values, task, key: rates,
        ),
    ]  # fmt: skip
    counts = {"train": settings.images, "A": held, "B": held}
    return Nest(levels, lambda key: images.parts(pool, key, **counts), copies=settings.seeds)


def learn(settings: Settings, arm: str, desk: lab.Desk) -> lab.Record:
    """After each run, the one that is best so far by validation images B: (run, seed)."""
    nest, seeds = system(settings, arm), np.arange(settings.seeds)
    desk.say(f"{settings.runs} runs")
    # Rates may become too large, tried or learned: such a run is none, and what was best stays.
    _, info = nest.run(nest.init({}, jax.random.key(0)), settings.runs, check=False)
    seen, finite = info["rates"].user, np.isfinite(info["rates"].loss)
    valid = np.where(finite, info["rates"].loss, np.inf)
    better = valid == np.minimum.accumulate(valid)
    best = np.maximum.accumulate(np.where(better, np.arange(settings.runs)[:, None], 0))
    leaves = [np.exp(a[best[-1], seeds]) for a in jax.tree.leaves(seen["rates"])]
    each = np.concatenate([a.reshape(len(seeds), -1) for a in leaves], axis=1)
    return lab.listed(
        {name: seen[name][best, seeds] for name in ("test", "accuracy")}
        | {"valid": valid[best, seeds], "finite": np.sum(finite, axis=0)}
        | {"rate": np.median(each, axis=1)}
        | ({"rates": np.median(leaves[0], axis=0)} if arm == "each" else {})
    )


def check(settings: Settings, desk: lab.Desk) -> lab.Record:
    """The gradient of the rates in the second run of one seed, against central differences."""
    with jax.enable_x64(True):
        one = dataclasses.replace(settings, seeds=1)
        nests = {arm: system(one, arm) for arm in ("each", "frozen")}
        state, _ = nests["each"].step(nests["each"].init({}, jax.random.key(0)))
        desk.say("central differences")
        options = {"directions": 3, "verbose": False}
        return {a: [check_gradient(nests[a], state, "rates", **options).error] for a in nests}


def stages(settings: Settings) -> dict[str, lab.Stage]:
    return {"check": partial(check, settings)} | {a: partial(learn, settings, a) for a in LABELS}


PAYS = {
    "tuned": "The third level pays: a learned rate for each weight beats one tuned rate",
    "frozen": "It pays to differentiate through the middle level as well",
    "common": "It pays to learn a rate for each weight instead of one for all",
}


def find(settings: Settings, records: lab.Records) -> lab.Findings:
    done = {arm: records[arm] for arm in LABELS if arm in records}
    test = {arm: record["test"][-1] for arm, record in done.items()}
    errors, nats = records.get("check", {}), partial(lab.spread, digits=3, scale=1)
    pays = lambda a, b: np.all(a < b) and np.median(a) <= 0.98 * np.median(b)  # noqa: E731
    verdicts = [lab.judge(
        "The gradient through all three levels is right, and without the middle one is not",
        "relative error to central differences in float64 below 1e-6, above 1e-3 where the "
        "decays are taken as constants",
        {"all levels": errors.get("each"), "decays constant": errors.get("frozen")},
        lab.medians(lambda own, frozen: own < 1e-6 and frozen > 1e-3),
        shown=lambda values: f"{values[0]:.1e}", unit="",
    )]  # fmt: skip
    for other, claim in PAYS.items():
        criterion = f"after as many updates of the weights, lower test loss than {LABELS[other]} "
        criterion += "with every seed, and by 2 % in the median"
        values = {LABELS[arm]: test.get(arm) for arm in ("each", other)}
        verdicts.append(lab.judge(claim, criterion, values, pays, shown=nats, unit=" nats"))
    measures = [
        lab.number("test loss", lambda record: record["test"][-1], "nats", 3),
        lab.share("test accuracy", lambda record: record["accuracy"][-1]),
        lab.number("loss on B", lambda record: record["valid"][-1], "nats", 3),
        lab.number("median rate", lambda record: record["rate"]),
        lab.number("finite runs", lambda record: record["finite"], digits=0),
    ]
    caption = "Median (least to most) over seeds, of the run with the least loss on images B."
    cases = {(LABELS[arm],): record for arm, record in done.items()}
    numbers = lab.numbers(("arm",), cases, measures, caption)
    return lab.Findings(numbers, verdicts, {"errors of the gradient": errors})


def draw(settings: Settings, records: lab.Records) -> list[Sheet]:
    runs, panels = np.arange(1, settings.runs + 1), []
    done = {LABELS[arm]: records[arm] for arm in LABELS if arm in records}
    for name, title in {"test": "Test images", "valid": "Validation images B"}.items():
        lines = [Line(runs, record[name], label) for label, record in done.items()]
        panels.append(Panel(title, "runs", "loss (nats)", lines, log="y"))
    caption = "The best run so far by images B; tried rates rise. Bands: the range over seeds."
    sheets = [curves("losses", panels, "What the third level brings", caption)]
    if "each" in records:
        rates = enumerate(records["each"]["rates"])
        shown = [Map(str(n), np.reshape(rate, (round(len(rate) ** 0.5), -1))) for n, rate in rates]
        caption = "From each pixel to each class, in the best run; medians over seeds."
        look = {"label": "learning rate", "log": True, "columns": 10, "square": True}
        sheets.append(maps("rates", shown, "The learned rates", caption, **look))
    return sheets


def example(settings: Settings) -> lab.Example:
    """The nest of one seed, after two runs."""
    nest = system(dataclasses.replace(settings, seeds=1), "each")
    state, _ = nest.run(nest.init({}, jax.random.key(0)), 2)
    flows = {"Unroll()": Unroll()} | {f"Unroll(last={n})": Unroll(last=n) for n in (1, 3)}
    return lab.Example(nest, state, "rates", flows)


LEAD = """Weights are trained inside, a decay for each of them outside, a learning rate for each
over both: its gradient goes through all updates of the weights and of the decays. Does that pay
against fewer levels, fewer rates, or a gradient that ignores the middle level?"""
STUDY = lab.Study("Three levels", LEAD, Settings, stages, find, draw, example)
