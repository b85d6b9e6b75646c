"""Data hyper-cleaning: one trust for each training image, learned on a few clean ones.

Source: Franceschi, Donini, Frasconi and Pontil, "Forward and reverse gradient-based hyperparameter
optimization" (2017), section 5.1.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nestax.flows import CG, Direct, Identity, Implicit, Neumann, Unroll, best_response
from nestax.levels import Level, Nest, State

from . import images, lab, models
from .images import Pool, accuracy, cross_entropy, decayed, losses, parts, whole
from .lab.figures import Line, Panel, Sheet, curves

ANY = 1e6  # what a short solve leaves is recorded, not warned of
FLOWS = {
    "cg": Implicit(CG(10), tolerance=ANY),
    "neumann": Implicit(Neumann(10), tolerance=ANY),
    "identity": Implicit(Identity(), tolerance=ANY),
    "unroll": Unroll(),
}
BASELINES = {
    "none": "all labels trusted",
    "oracle": "right labels only (oracle)",
    "validation": "validation images only",
}
LABELS = BASELINES | {
    "cg": "learned trust, CG",
    "neumann": "learned trust, Neumann",
    "identity": "learned trust, identity",
    "unroll": "learned trust, unrolled",
}
DECAYS, DECAY = (1e-3, 1e-2, 1e-1), 1e-2  # that a baseline chooses from; of the learned arms
INNER = 10  # updates of the weights for one of the trusts
POINTS = 10  # of a curve
BINS = 20


@dataclass(frozen=True)
class Settings(lab.Options):
    """Which training labels are wrong?

    Attributes:
        data: Data set; digits needs no download.
        arms: Ways of learning the trusts, separated by commas, of cg, neumann, identity, unroll.
            All labels trusted, the oracle and the validation images alone are always run beside
            them.
        images: Training images.
        validation: Clean images on which the trusts are learned.
        corrupted: Fraction of the training labels that are replaced by another class.
        steps: Updates of the trusts; the weights make ten in each.
        seeds: Drawn images, wrong labels and initial weights, side by side.
    """

    data: images.Data = "mnist"
    arms: tuple[str, ...] = lab.names(FLOWS)
    images: int = lab.option(1000, least=1)
    validation: int = lab.option(200, least=1)
    corrupted: float = lab.option(0.5, above=0, below=1)
    steps: int = lab.option(150, least=POINTS, multiple=POINTS)
    seeds: int = lab.option(3, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        images.require(self, self.images + self.validation)

    def pools(self) -> tuple[Pool, Pool]:
        """Images to train and validate on, and test images."""
        return images.pools(self.data, self.images + self.validation)


def draw_task(settings: Settings, pool: Pool, key: jax.Array) -> dict[str, Any]:
    """Training images, some with wrong labels, and clean images to validate on."""
    order, shift = jax.random.split(key)
    task = parts(pool, order, train=settings.images, valid=settings.validation)
    images, labels = task["train"]
    wrong = jnp.arange(settings.images) < round(settings.corrupted * settings.images)
    others = (labels + jax.random.randint(shift, labels.shape, 1, 10)) % 10
    return task | {"train": (images, jnp.where(wrong, others, labels)), "wrong": wrong}


def system(settings: Settings, pool: Pool, arm: str, decay: float = DECAY) -> Nest:
    """Weights inside trusts, one episode for each seed; a baseline has weights only."""
    sizes, ticks = (pool.images.shape[1], 10), settings.steps * INNER

    def train_loss(values: dict[str, Any], task: Any) -> jax.Array:
        weights = values["weights"]
        if arm == "validation":
            return cross_entropy(weights, task["valid"]) + decayed(weights, decay)
        trust = {"none": jnp.ones(settings.images), "oracle": 1.0 - task["wrong"]}.get(arm)
        trust = jax.nn.sigmoid(values["trust"]) if trust is None else trust
        return jnp.mean(trust * losses(weights, task["train"])) + decayed(weights, decay)

    weights = images.network_level(train_loss, optax.sgd(0.1, momentum=0.9), sizes, ticks)
    trust = Level(
        "trust",
        lambda values, task: cross_entropy(values["weights"], task["valid"]),
        optax.adam(0.1),
        every=INNER,
        flow=FLOWS.get(arm),
        start=lambda values, task, key: jnp.zeros(settings.images),
        horizon=ticks,
    )
    levels = [weights] if arm in BASELINES else [weights, trust]
    return Nest(levels, partial(draw_task, settings, pool), copies=settings.seeds)


def retrained(settings: Settings, task: Any, trusted: jax.Array, decay: float) -> jax.Array:
    """Test accuracies of new weights, trained on the trusted and the clean images together."""
    sizes, ticks = (task["train"][0].shape[-1], 10), settings.steps * INNER
    held_out = whole(settings.pools()[1])

    @jax.jit
    @jax.vmap
    def score(trusted: jax.Array, task: Any, key: jax.Array) -> Any:
        def loss(trusted: jax.Array, weights: Any) -> jax.Array:
            dirty, clean = losses(weights, task["train"]), losses(weights, task["valid"])
            total = jnp.sum(trusted * dirty) + jnp.sum(clean)
            return total / (jnp.sum(trusted) + clean.size) + decayed(weights, decay)

        train = best_response(loss, optax.sgd(0.1, momentum=0.9), ticks, Direct())
        return accuracy(train(trusted, models.mlp_init(key, sizes)), held_out)

    keys = jax.random.split(jax.random.key(1), settings.seeds)
    return score(trusted.astype(float), task, keys)


@jax.jit
@partial(jax.vmap, in_axes=(0, 0, None))
def _look(values: dict[str, Any], task: dict[str, Any], test: images.Batch) -> dict[str, Any]:
    weights = values["weights"]
    seen = {"test": accuracy(weights, test), "valid_loss": cross_entropy(weights, task["valid"])}
    if "trust" in values:
        called, wrong = values["trust"] < 0, task["wrong"]
        seen["f1"] = 2 * jnp.sum(called & wrong) / (jnp.sum(called) + jnp.sum(wrong))
    return seen


def train(
    settings: Settings, arm: str, decay: float, desk: lab.Desk
) -> tuple[dict[str, Any], State]:
    """Accuracies and losses along a run, in the order (point, seed), and where it ends."""
    pool, test = settings.pools()
    nest, held_out = system(settings, pool, arm, decay), whole(test)
    state, _, seen = images.followed(
        nest, settings.steps * INNER, POINTS,
        lambda state: _look(state.values, state.task, held_out),
        lambda text: desk.say(f"decay {decay:g}, {text}"),
    )  # fmt: skip
    return {"decay": decay, **{name: points[1:] for name, points in seen.items()}}, state


def learn(settings: Settings, arm: str, desk: lab.Desk) -> lab.Record:
    """One arm. A baseline's decay is chosen by its validation loss; the learned arms' is not."""
    decays = DECAYS if arm in BASELINES else (DECAY,)
    tried = [train(settings, arm, decay, desk) for decay in decays]
    steps = [(point + 1) * settings.steps // POINTS for point in range(POINTS)]
    if arm == "validation":  # it is trained on what would choose, so it is given its best on test
        record, _ = max(tried, key=lambda run: np.median(run[0]["test"][-1]))
        return lab.listed(record) | {"step": steps}
    record, state = min(tried, key=lambda run: np.median(run[0]["valid_loss"][-1]))
    wrong = state.task["wrong"]
    known = {"none": jnp.ones_like(wrong), "oracle": ~wrong}
    trusted = known[arm] if arm in known else state.values["trust"] >= 0
    desk.say("trains again")
    record["retrained"] = retrained(settings, state.task, trusted, record["decay"])
    if arm not in BASELINES:
        trust, edges = jax.nn.sigmoid(state.values["trust"]), jnp.linspace(0, 1, BINS + 1)
        for name, chosen in (("right", ~wrong), ("wrong", wrong)):
            count = jnp.histogram(trust[chosen], edges)[0]
            record[f"trust_{name}"] = count / jnp.sum(chosen)
    return lab.listed(record) | {"step": steps}


def stages(settings: Settings) -> dict[str, lab.Stage]:
    return {arm: partial(learn, settings, arm) for arm in (*BASELINES, *settings.arms)}


def verdicts(settings: Settings, records: lab.Records) -> list[lab.Verdict]:
    test = {arm: np.asarray(record["test"][-1]) for arm, record in records.items()}
    guess = 2 * settings.corrupted / (1 + settings.corrupted)
    judged = []
    for arm in settings.arms:
        own, none, oracle, alone = (test.get(a) for a in (arm, "none", "oracle", "validation"))
        record, way = records.get(arm, {}), None
        if own is not None and none is not None and oracle is not None:
            way = (own - none) / np.median(oracle - none)
        claims = (
            (
                "The wrong labels are found (Franceschi et al. 2017, section 5.1)",
                f"median F1 at least half way from calling all labels wrong, {100 * guess:.1f} %, "
                "to perfect",
                {"F1": record.get("f1", [None])[-1]},
                lab.medians(lambda f1: f1 >= (1 + guess) / 2),
            ),
            (
                "Most of what the wrong labels cost comes back",
                "more than half of the way in test accuracy from all labels trusted to the oracle, "
                "better than the former with every seed",
                {"test accuracy": own, LABELS["none"]: none, "of the way to the oracle": way},
                lambda own, none, way: np.median(way) > 0.5 and np.all(own > none),
            ),
            (
                "Cleaned images are worth having beside the clean ones",
                "retrained on both, higher test accuracy with every seed than trained on the "
                "clean validation images alone",
                {"retrained": record.get("retrained"), LABELS["validation"]: alone},
                lambda both, alone: np.all(both > alone),
            ),
        )
        judged += [lab.judge(*claim, of=LABELS[arm]) for claim in claims]
    return judged


def find(settings: Settings, records: lab.Records) -> lab.Findings:
    measures = [
        lab.share("test accuracy", lambda record: record["test"][-1]),
        lab.share("after retraining", lambda record: record.get("retrained")),
        lab.share("F1", lambda record: record["f1"][-1] if "f1" in record else None),
    ]
    caption = (
        "Median (least to most) over seeds. A label is called wrong if its trust is below ½; "
        "retraining is on the trusted and the clean images together."
    )
    cases = {(LABELS[arm],): records[arm] for arm in LABELS if arm in records}
    facts = lambda record: {"decay": record["decay"]}  # noqa: E731
    numbers = lab.numbers(("arm",), cases, measures, caption, facts)
    return lab.Findings(numbers, verdicts(settings, records))


def draw(settings: Settings, records: lab.Records) -> list[Sheet]:
    middles, kinds, panels, trusts = (np.arange(BINS) + 0.5) / BINS, ("right", "wrong"), [], []
    done = {LABELS[arm]: records[arm] for arm in LABELS if arm in records}
    for name, *words in (("test", "Test images", "accuracy (%)"), ("f1", "Labels found", "F1 (%)")):
        some = {label: 100 * np.asarray(r[name]) for label, r in done.items() if name in r}
        lines = [Line(done[label]["step"], values, label) for label, values in some.items()]
        panels.append(Panel(words[0], "updates of the trusts", words[1], lines))
    for label, record in done.items():
        if "trust_right" in record:
            lines = [Line(middles, record[f"trust_{kind}"], f"{kind} label") for kind in kinds]
            trusts.append(Panel(label, "trust", "fraction of the labels", lines))
    caption = (
        f"{settings.images} training images, {100 * settings.corrupted:.0f} % of them with a wrong "
        f"label, {settings.validation} clean ones; ten updates of the weights for one of the "
        "trusts in every arm. Bands: the range over seeds."
    )
    return [
        curves("cleaning", panels, "Accuracy and found labels", caption),
        curves("trusts", trusts, "Trusts of right and wrong labels", "All seeds together."),
    ]


def example(settings: Settings) -> lab.Example:
    """The nest of the first arm, and every way of learning the trusts."""
    nest = system(settings, settings.pools()[0], settings.arms[0])
    return lab.Example(nest, nest.init({}, jax.random.key(0)), "trust", FLOWS)


LEAD = """The weights are trained inside on labels of which half are wrong, each weighted by a
trust; the trusts are trained outside on a few clean images. Beside it: no cleaning, an oracle that
knows the right labels, and the clean images alone."""
STUDY = lab.Study("Data hyper-cleaning", LEAD, Settings, stages, find, draw, example)
