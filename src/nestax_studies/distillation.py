"""Dataset distillation: one image for each class, from which a network learns all of them.

Sources: Lorraine, Vicol and Duvenaud, "Optimizing millions of hyperparameters by implicit
differentiation" (2020), section 5.3, for one image a class through the implicit function theorem
and logistic regression; Wang, Zhu, Torralba and Efros, "Dataset distillation" (2018), for unrolling
from random initial weights.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nestax.flows import CG, Direct, Identity, Implicit, Unroll, best_response
from nestax.levels import Level, Nest

from . import lab, models
from .images import MOST, Batch, Pool, accuracy, cross_entropy, decayed, network_level, pools, whole
from .lab.figures import Line, Panel, Sheet, curves, images
from .lab.train import stretches

CLASSES = 10
ARMS = {
    "implicit": "distilled, implicit",
    "identity": "distilled, identity",
    "unroll": "distilled, unrolled",
}
LABELS = ARMS | {
    "means": "class means",
    "random": "random images",
    "best": "random images, best of 20",
}
ANY = 1e6  # what a short solve leaves is of no interest here
FLOWS = {
    "implicit": Implicit(CG(20), tolerance=ANY),
    "identity": Implicit(Identity(), tolerance=ANY),
    "unroll": Unroll(),
}
NETWORKS = {"linear": (), "mlp": (100,)}  # hidden layers of what is trained afresh
DECAY = 1e-2  # of the network inside the nest
INNER = 20  # updates of the weights for one of the images
POINTS = 20  # of a curve


@dataclass(frozen=True)
class Settings(lab.Options):
    """What do ten learned images teach?

    Attributes:
        data: Data sets, separated by commas, of digits (which needs no download), mnist and
            fashion-mnist.
        steps: Updates of the images; the weights make twenty in each.
        batch_size: Real images to judge by at each update.
        images: Real images in all, a sixth of which choose the rates of fresh networks.
        seeds: Runs of each way of distilling.
    """

    data: tuple[str, ...] = lab.names(MOST, ("mnist",))
    steps: int = lab.option(2000, least=POINTS, multiple=POINTS)
    batch_size: int = lab.option(500, least=1)
    images: int = 12000
    seeds: int = lab.option(3, least=1)
    draws: ClassVar[int] = 20  # sets of real images
    fresh: ClassVar[int] = 3  # initial weights for each set of images
    fit: ClassVar[int] = 300  # updates of a fresh network
    tried: ClassVar[Any] = list(itertools.product((0.01, 0.1), (1e-3, 1e-2, 1e-1)))  # rates, decays

    def __post_init__(self) -> None:
        super().__post_init__()
        most = min(MOST[data] for data in self.data)
        message = f"images must lie between 600 and {most}, got {self.images}"
        self.require(600 <= self.images <= most, message)


def fit_loss(values: dict[str, Any], decay: Any = DECAY) -> jax.Array:
    """Of weights on the ten images."""
    own = values["images"], jnp.arange(CLASSES)
    return cross_entropy(values["weights"], own) + decayed(values["weights"], decay)


def system(settings: Settings, pool: Pool, arm: str) -> Nest:
    """Weights inside images, one episode for each seed. Implicit: the weights persist and are
    nearly solved. Unrolled: they begin anew, with others, for every update of the images."""
    pixels, ticks = pool.images.shape[1], settings.steps * INNER

    def real(task: Any, key: jax.Array) -> Batch:
        images, labels = task
        index = jax.random.randint(key, (settings.batch_size,), 0, len(labels))
        return images[index].astype(float) / pool.scale, labels[index]

    inner = network_level(
        lambda values, task: fit_loss(values), optax.sgd(0.2), (pixels, CLASSES),
        INNER if arm == "unroll" else ticks,
    )  # fmt: skip
    outer = Level(
        "images",
        lambda values, batch: cross_entropy(values["weights"], batch),
        optax.adam(0.02),
        context=real,
        every=INNER,
        flow=FLOWS[arm],
        start=lambda values, task, key: 0.1 * jax.random.normal(key, (CLASSES, pixels)),
        horizon=ticks,
    )
    task = jnp.asarray(pool.images), jnp.asarray(pool.labels)
    return Nest([inner, outer], task, copies=settings.seeds)


def parts(settings: Settings, data: str) -> tuple[Pool, Pool, Pool]:
    """Images to distil or draw from, images that choose rates, and test images."""
    pool, test = pools(data, settings.images)
    count = settings.images * 5 // 6
    train = Pool(pool.images[:count], pool.labels[:count], pool.scale)
    return train, Pool(pool.images[count:], pool.labels[count:], pool.scale), test


def distil(settings: Settings, data: str, arm: str, desk: lab.Desk) -> lab.Record:
    """The images of each seed, and what fresh networks learn from them."""
    nest = system(settings, parts(settings, data)[0], arm)
    desk.say(f"{settings.steps} updates")
    state, info = nest.run(nest.init({}, jax.random.key(0)), settings.steps)
    steps = [(point + 1) * settings.steps // POINTS for point in range(POINTS)]
    curve = {"step": steps, "loss": lab.listed(stretches(info["images"].loss, POINTS))}
    return curve | taught(settings, data, state.values["images"], desk)


def real_images(settings: Settings, data: str, arm: str, desk: lab.Desk) -> lab.Record:
    """Sets of ten real images, or the classes' means, and what fresh networks learn from them."""
    images, labels = whole(parts(settings, data)[0])
    if arm == "means":
        chosen = jax.nn.one_hot(labels, CLASSES).T
        sets = (chosen @ images / jnp.sum(chosen, 1, keepdims=True))[None]
    else:
        noise = jax.random.uniform(jax.random.key(0), (settings.draws, CLASSES, len(labels)))
        own = labels[None] == jnp.arange(CLASSES)[:, None]
        sets = images[jnp.argmax(jnp.where(own, noise, -1.0), axis=-1)]
    return taught(settings, data, sets, desk)


def taught(settings: Settings, data: str, sets: jax.Array, desk: lab.Desk) -> lab.Record:
    """What fresh networks learn from each set of images, in the order (set, initial weights)."""
    record: lab.Record = {"images": lab.listed(sets[0], 4)}
    for network, hidden in NETWORKS.items():
        desk.say(f"fresh {network}")
        sizes = (sets.shape[-1], *hidden, CLASSES)
        scores = fresh(settings, sizes, *parts(settings, data)[1:])
        each = [scores(images) for images in sets]
        record[network] = lab.listed(jax.tree.map(lambda *some: np.stack(some), *each))
    return record


def fresh(
    settings: Settings, sizes: tuple[int, ...], valid: Pool, test: Pool
) -> Callable[[jax.Array], Any]:
    """Images -> accuracies, one for each draw of initial weights, of networks that are trained on
    them at the rate and decay that are best on the validation images."""
    rates, decays = jnp.asarray(settings.tried, jnp.float32).T
    keys = jax.random.split(jax.random.key(7), settings.fresh)
    right = jax.vmap(accuracy, (0, None))
    chosen, tested = whole(valid), whole(test)
    train = best_response(
        lambda slow, weights: fit_loss({**slow, "weights": weights}, slow["decay"]),
        lambda slow: optax.sgd(slow["rate"]), settings.fit, Direct(),
    )  # fmt: skip

    @jax.jit
    def scores(images: jax.Array) -> dict[str, jax.Array]:
        def fitted(rate: jax.Array, decay: jax.Array, key: jax.Array) -> Any:
            slow = {"images": images, "rate": rate, "decay": decay}
            return train(slow, models.mlp_init(key, sizes))

        tried = jax.vmap(jax.vmap(fitted, (None, None, 0)), (0, 0, None))(rates, decays, keys)
        valids = jax.vmap(right, (0, None))(tried, chosen)
        best = jnp.argmax(jnp.mean(valids, axis=1))
        seen = {"rate": rates[best], "decay": decays[best], "valid": valids[best]}
        return seen | {"test": right(jax.tree.map(lambda a: a[best], tried), tested)}

    return scores


def stages(settings: Settings) -> dict[str, lab.Stage]:
    makers = dict.fromkeys(ARMS, distil) | dict.fromkeys(("means", "random"), real_images)
    return {
        f"{data} {arm}": partial(make, settings, data, arm)
        for data in settings.data
        for arm, make in makers.items()
    }


def tested(records: lab.Records, data: str) -> dict[str, dict[str, np.ndarray]]:
    """Arm -> network -> test accuracies of all sets and initial weights; "best": of the draw that
    is best by validation."""
    every = {
        arm: {network: np.ravel(record[network]["test"]) for network in NETWORKS}
        for arm, record in lab.of_subject(records, data, LABELS).items()
    }
    if (random := records.get(f"{data} random")) is not None:
        every["best"] = {
            n: np.asarray(random[n]["test"])[np.mean(random[n]["valid"], axis=1).argmax()]
            for n in NETWORKS
        }
    return every


def find(settings: Settings, records: lab.Records) -> lab.Findings:
    cases, verdicts = {}, []
    criterion = (
        "all fresh networks above the median of the class means, the median 10 points above the "
        "best of 20 random draws"
    )
    fresh = {"linear": "the network they were made for", "mlp": "a fresh MLP"}
    for data, (network, words) in itertools.product(settings.data, fresh.items()):
        ends = tested(records, data)
        cases |= {(data, LABELS[arm]): end for arm, end in ends.items()}
        verdicts += [
            lab.judge(
                f"Ten learned images teach {words} more than ten real ones or the means (Lorraine "
                "et al. 2020, section 5.3)",
                criterion,
                {LABELS[a]: ends.get(a, {}).get(network) for a in (arm, "means", "best")},
                lambda own, means, best: (
                    own.min() > np.median(means) and np.median(own) >= np.median(best) + 0.1
                ),
                of=f"{data}, {arm}",
            )
            for arm in ARMS
        ]
    caption = (
        "Test accuracy of fresh networks trained on the ten images alone: median (least to most) "
        "over sets and initial weights. Rate and decay were chosen for every set by accuracy on "
        "real images."
    )
    measures = [lab.share(name, lambda end, n=name: end[n.lower()]) for name in ("linear", "MLP")]
    return lab.Findings(lab.numbers(("data", "ten images"), cases, measures, caption), verdicts)


def draw(settings: Settings, records: lab.Records) -> list[Sheet]:
    sheets, panels = [], []
    caption = (
        "One image for each class, of the first seed or draw. White is 0, dark grey positive, red "
        "negative; each row has its own scale."
    )
    for data in settings.data:
        done = lab.of_subject(records, data, LABELS)
        rows = {LABELS[arm]: record["images"] for arm, record in done.items()}
        sheets += [images(data, rows, f"The ten images: {data}", caption)] if rows else []
        lines = [Line(done[a]["step"], done[a]["loss"], LABELS[a]) for a in ARMS if a in done]
        panels.append(Panel(data, "updates of the images", "loss on real images (nats)", lines))
    caption = (
        "Cross entropy, on batches of real images, of the network that is trained on the ten "
        "images inside the nest; means over a twentieth of the run, bands: the range over seeds."
    )
    return [*sheets, curves("losses", panels, "Distillation", caption)]


def example(settings: Settings) -> lab.Example:
    """The nest with persisting weights."""
    nest = system(settings, parts(settings, settings.data[0])[0], "implicit")
    return lab.Example(nest, nest.init({}, jax.random.key(0)), "images", FLOWS)


LEAD = """Ten images, one for each class, are trained outside a network that is trained on them
alone inside. Judged are networks with fresh initial weights, trained on the ten images, against
random real images and the classes' means."""
STUDY = lab.Study("Dataset distillation", LEAD, Settings, stages, find, draw, example)
