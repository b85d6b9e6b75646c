"""Do optimizers that are themselves trained beat tuned ones, and where does what they learned end?

Sources: Andrychowicz et al., "Learning to learn by gradient descent by gradient descent" (2016);
Metz et al., "Practical tradeoffs between memory, compute, and performance in learned optimizers"
(2022); Moudgil et al., "Celo2" (2602.19142); Vicol et al. (2021) for the estimator.
"""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nestax as nx
from nestax import learned
from nestax.learned import Family, Rule

from . import data, lab
from .lab import names, option
from .lab.figures import Line, Panel, Sheet, curves

PAIRS, TRUNCATION, SIGMA, BATCH = 8, 20, 0.01, 128  # of meta-training, and of tasks
CHUNK = 25  # outer steps between two looks
CEILING = 2.2  # of the loss over that of a guess
DECADES = 0.25  # between two learning rates


class Phase(NamedTuple):
    """A part of meta-training.

    Attributes:
        steps: outer steps.
        horizon: steps of an episode, or the range from which they are drawn.
        flow: how the gradient gets through an episode.
        rate: of Adam, which moves theta; it falls along a cosine to zero over the phase.
    """

    steps: int
    horizon: int | tuple[int, int]
    flow: Any
    rate: float


@dataclass(frozen=True)
class Arm:
    """A rule, and how it is trained.

    Attributes:
        rule: the rule.
        phases: of its training.
        rate: its learning rate; the largest one of a cosine where `cosine` is set.
        cosine: whether rates fall along a cosine, while it is trained and where it is judged.
    """

    rule: Rule
    phases: tuple[Phase, ...]
    rate: float = 0.02
    cosine: bool = True


SHORT = Phase(600, 100, nx.PES(SIGMA), 3e-3)
DRAWN = Phase(600, (100, 2000), nx.NRES(SIGMA), 1e-3)
# With these steps all take about the same time, a minute for each seed on two cores.
TRAINED = {
    "normalized": Arm(learned.normalized(), (DRAWN._replace(steps=1900),)),
    "normalized, 100 steps": Arm(learned.normalized(), (SHORT._replace(steps=1900),)),
    "small_fc": Arm(learned.small_fc(step=0.01), (SHORT._replace(steps=2100),), 1.0, cosine=False),
    "deep_momentum": Arm(learned.deep_momentum(), (DRAWN,), 0.04),
    "delta_momentum": Arm(learned.delta_momentum(), (DRAWN._replace(steps=750),), 0.04),
}
TUNED: dict[str, tuple[float, Callable[[Any], optax.GradientTransformation]]] = {
    "sgd": (0.5, optax.sgd),
    "momentum": (0.1, lambda rate: optax.sgd(rate, 0.9)),
    "adam": (0.03, optax.adam),
    "adamw": (0.03, lambda rate: optax.adamw(rate, weight_decay=1e-2)),
    "muon": (0.03, optax.contrib.muon),
}
FAMILY = "trained on"
LONGER = {"4 times as long": 400, "10 times": 1000, "16 times": 1600}
FAR = {  # how much above Adam's loss a rule may be where it was not trained
    "4 times as long": 0.03, "10 times": 0.1, "16 times": 0.1, "wider": 0.03, "deeper": 0.03,
    "convolutions": 0.03, "characters": 0.03,
}  # fmt: skip
WORLDS = (FAMILY, "other data", *LONGER, "wider", "deeper", "convolutions", "characters")


@dataclass(frozen=True)
class Settings(lab.Options):
    """Do optimizers that are themselves trained beat tuned ones, and where does it end?

    Attributes:
        arms: Rules that are meta-trained.
        worlds: What they are judged on.
        seeds: Meta-seeds.
        training: Factor of the outer steps of each rule.
        tasks: Tasks of each world, for tuning and again for judging.
        trials: Learning rates that each optimizer is tuned over, rules included.
        outer: Outer steps of the LSTM on least squares.
        problems: Least-squares problems for tuning and again for judging.
    """

    arms: tuple[str, ...] = names(TRAINED)
    worlds: tuple[str, ...] = names(WORLDS)
    seeds: int = option(3, least=1)
    training: float = option(1.0, above=0)
    tasks: int = option(8, least=1)
    trials: int = option(11, least=3)
    outer: int = option(1300, least=1)
    problems: int = option(2048, least=1)


@functools.cache
def images(name: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Training and test images of 8 x 8 as rows, and their labels."""

    def small(split: Any) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.asarray(split.images, np.float32) / split.scale
        if pixels.shape[1] == 28:
            pixels = np.pad(pixels, ((0, 0), (2, 2), (2, 2)))
            pixels = pixels.reshape(-1, 8, 4, 8, 4).mean((2, 4))
        return pixels.reshape(len(pixels), -1), np.asarray(split.labels)

    found = data.load(name)
    return small(found.train), small(found.test)


def perceptrons(*sets: str, part: int = 0, hidden: tuple[int, ...] = (32,)) -> Family:
    """Networks on the training (0) or test (1) images of these data sets."""
    return learned.mlps([images(name)[part] for name in sets], hidden=hidden, batch=BATCH)


def training_family() -> Family:
    """What rules are trained on."""
    return perceptrons("digits", "fashion-mnist")


def world(name: str) -> tuple[Family, int]:
    """The tasks of a world, none of whose batches a rule was trained on; and their steps."""
    if name in LONGER:
        return perceptrons("mnist"), LONGER[name]
    makers: dict[str, tuple[Callable[[], Family], int]] = {
        FAMILY: (lambda: perceptrons("digits", "fashion-mnist", part=1), 100),
        "other data": (lambda: perceptrons("mnist"), 100),
        "wider": (lambda: perceptrons("fashion-mnist", part=1, hidden=(128,)), 400),
        "deeper": (lambda: perceptrons("mnist", hidden=(32, 32, 32)), 100),
        "convolutions": (lambda: learned.convnets(squares("mnist"), batch=64), 100),
        "characters": (lambda: learned.characters(text()), 400),
    }
    make, steps = makers[name]
    return make(), steps


def squares(name: str) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = images(name)[0]
    return pixels.reshape(-1, 8, 8, 1), labels


def text() -> np.ndarray:
    return np.asarray(data.tiny_shakespeare().train)


def falling(rate: Any, steps: int) -> Callable[[Any], Any]:
    """A cosine from the rate, which may be traced, to zero."""
    return lambda count: learned.cosine(1.0)(count, steps) * rate


def train(settings: Settings, name: str, desk: lab.Desk) -> lab.Record:
    """Meta-trains a rule from several seeds side by side."""
    arm, seeds = TRAINED[name], settings.seeds
    thetas = jax.vmap(arm.rule.init)(jax.random.split(jax.random.key(0), seeds))
    record: dict[str, Any] = {"steps": [], "losses": [], "bad": [], "seconds": 0.0}
    for number, phase in enumerate(arm.phases):
        chunks = max(1, round(phase.steps * settings.training / CHUNK))
        rate = optax.cosine_decay_schedule(phase.rate, chunks * CHUNK)
        nest = learned.meta_nest(
            arm.rule, training_family(), tasks=PAIRS, horizon=phase.horizon,
            truncation=TRUNCATION, flow=phase.flow, ceiling=CEILING,
            learning_rate=learned.cosine(arm.rate) if arm.cosine else arm.rate,
            optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
        )  # fmt: skip
        keys = jax.random.split(jax.random.key(1 + number), seeds)
        state = nest.init({}, keys, each={"rule": thetas})
        for done in range(chunks):
            began = time.monotonic()
            state, info = nest.run(state, CHUNK, check=False)
            record["seconds"] += (time.monotonic() - began) / seeds if done else 0  # compiled first
            told = info["params"].user
            shape = (CHUNK * TRUNCATION, seeds, -1)
            for key, what in (("losses", "meta_loss"), ("bad", "lost")):
                means = np.nanmean(np.asarray(told[what]).reshape(shape), (0, 2))
                record[key].append(means)
            words = f"{CHUNK * (done + 1)} of {chunks * CHUNK}, loss"
            desk.say(f"phase {number + 1}, step {words} {np.mean(record['losses'][-1]):.3f}")
        thetas = state.values["rule"]
        record["steps"].append(chunks * CHUNK)
    return record | {
        "theta": [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(thetas)],
        "losses": np.array(record["losses"]), "bad": np.array(record["bad"]),
    }  # fmt: skip


def weights(record: Mapping[str, Any], rule: Rule) -> Any:
    """theta of all seeds, with a leading axis, as a record holds it."""
    structure = jax.tree.structure(jax.eval_shape(rule.init, jax.random.key(0)))
    return structure.unflatten([jnp.asarray(leaf, jnp.float32) for leaf in record["theta"]])


def judged(settings: Settings, name: str, desk: lab.Desk) -> lab.Record:
    """Every optimizer on one world: tuned on tasks of its own, judged on others."""
    family, steps = world(name)
    record: dict[str, Any] = {"steps": steps}
    for arm in TUNED:
        desk.say(arm)
        centre, make = TUNED[arm]
        program = partial(measured, settings, family, steps, partial(tuned, make, steps))
        record[arm] = tried(settings, program, centre, {})
    for arm in settings.arms:
        if f"train {arm}" not in desk.done:
            continue
        desk.say(arm)
        kind = TRAINED[arm]
        thetas = weights(desk.done[f"train {arm}"], kind.rule)

        program = partial(measured, settings, family, steps, partial(trained, kind, steps))
        record[arm] = tried(settings, program, kind.rate, thetas)
    return record


def tuned(make: Any, steps: int, setting: Any) -> optax.GradientTransformation:
    """An optimizer at a rate that is traced."""
    return make(falling(setting["rate"], steps))


def trained(kind: Arm, steps: int, setting: Any) -> optax.GradientTransformation:
    """A rule at a rate and with weights that are traced."""
    rate = falling(setting["rate"], steps) if kind.cosine else lambda _: setting["rate"]
    return kind.rule(setting["theta"], rate, steps)


def measured(settings: Settings, family: Family, steps: int, make: Any) -> Callable[..., Any]:
    """A compiled program (settings, key) -> losses (settings, tasks, steps)."""
    return jax.jit(
        lambda given, key: learned.curves(
            make, family, key, steps=steps, tasks=settings.tasks, settings=given
        )
    )


def tried(
    settings: Settings, program: Callable[[], Callable[..., Any]], centre: float, thetas: Any
) -> lab.Record:
    """Tunes the rate on one seed of a rule, then judges all seeds at it, and at the rate of their
    training. The same program does both, so that it is compiled once."""
    run, lanes = program(), max(settings.trials, 2 * settings.seeds)
    rates = np.array(lab.sweep.rates(centre, DECADES, settings.trials), np.float32)
    place = np.minimum(np.arange(lanes), settings.trials - 1)
    leaves = jax.tree.leaves(thetas)
    seeds = len(leaves[0]) if leaves else 1

    def lanes_of(rate: np.ndarray, seed: np.ndarray) -> dict[str, Any]:
        found = {"rate": jnp.asarray(rate, jnp.float32)}
        return found | {"theta": jax.tree.map(lambda a: a[seed], thetas)} if leaves else found

    first = np.asarray(run(lanes_of(rates[place], np.zeros(lanes, int)), jax.random.key(10)))
    scores = np.mean(first, (1, 2))[: settings.trials]
    best = int(np.argmin(np.where(np.isfinite(scores), scores, np.inf)))
    seed = np.arange(lanes) % seeds
    fixed = (np.arange(lanes) // seeds) % 2 == 1  # every second round: the rate of training
    rate = np.where(fixed, np.float32(centre), rates[best])
    began = time.monotonic()
    losses = np.asarray(run(lanes_of(rate, seed), jax.random.key(11)))
    seconds = time.monotonic() - began
    curve = np.mean(losses, 1)
    return {
        "rate": rates[best], "edge": best in (0, settings.trials - 1), "scores": scores,
        "loss": np.mean(curve[:seeds], -1), "curve": thinned(curve[:seeds]),
        "last": np.mean(curve[:seeds, -max(1, curve.shape[1] // 10):], -1),
        "untuned": np.mean(curve[seeds : 2 * seeds], -1) if leaves else None,
        "milliseconds": 1e3 * seconds / losses.size,
    }  # fmt: skip


def thinned(curve: np.ndarray, points: int = 50) -> np.ndarray:
    """Means over at most 50 stretches, (seeds, stretches)."""
    parts = np.array_split(curve, min(points, curve.shape[-1]), axis=-1)
    return np.stack([np.mean(part, -1) for part in parts], -1)


LSTM = learned.lstm(scale=0.1, preprocess=None, forget=3.0)
BASELINES: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, 0.9),
    "rmsprop": optax.rmsprop,
    "adam": optax.adam,
}


def least_squares(settings: Settings, desk: lab.Desk) -> lab.Record:
    """The LSTM of Andrychowicz et al. on their quadratics, by gradients through truncations."""
    family = learned.least_squares(10)
    record: dict[str, Any] = {}
    rates = jnp.asarray(10 ** np.arange(-4.0, 0.5, 0.25), jnp.float32)
    for name, make in BASELINES.items():
        desk.say(name)
        tune, judge = (
            np.asarray(
                learned.curves(
                    make, family, jax.random.key(seed), steps=100, tasks=settings.problems,
                    settings=rates,
                )
            )
            for seed in (20, 21)
        )  # fmt: skip
        last = np.mean(tune[..., -1], 1)
        # One rate below the edge of divergence, which other problems may have lower.
        safe = np.isfinite(last) & np.isfinite(np.append(last[1:], 0.0))
        best = int(np.argmin(np.where(safe, last, np.inf)))
        record[name] = {"rate": rates[best], "curve": np.mean(judge[best], 0)}
    desk.say("lstm")
    began = time.monotonic()
    rate = optax.cosine_decay_schedule(1e-2, 2 * settings.outer)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    found = learned.meta_train(
        LSTM, family, settings.outer, jax.random.key(2), tasks=128, horizon=100, truncation=20,
        flow=nx.Unroll(), optimizer=optimizer, meta_loss="log", ceiling=None,
        watch=desk.watch("lstm"),
    )  # fmt: skip
    seconds = time.monotonic() - began
    curve = learned.curves(
        LSTM(found.theta), family, jax.random.key(21), steps=100, tasks=settings.problems
    )
    record["lstm"] = {"curve": np.mean(curve, 0), "seconds": seconds}
    return record


def inside(settings: Settings, desk: lab.Desk) -> lab.Record:
    """What trained rules do with a stream of gradients, parameters held."""
    stream = gradients()
    record: dict[str, Any] = {}
    for arm in settings.arms:
        if f"train {arm}" not in desk.done:
            continue
        desk.say(arm)
        kind = TRAINED[arm]
        thetas = weights(desk.done[f"train {arm}"], kind.rule)
        found = [
            responses(kind.rule(jax.tree.map(lambda a, s=s: a[s], thetas)), stream)
            for s in range(settings.seeds)
        ]
        record[arm] = {key: np.stack([one[key] for one in found]) for key in found[0]}
    for name, tx in {"momentum": optax.sgd(1.0, 0.9), "adam": optax.adam(1.0)}.items():
        record[name] = {key: value[None] for key, value in responses(tx, stream).items()}
    return record


def gradients(length: int = 40) -> Any:
    """The gradients along a run of Adam on the training family; (length, ...)."""
    family, tx = training_family(), optax.adam(0.01)
    task = family.sample(jax.random.key(30))
    params = family.init(task, jax.random.key(31))

    def step(carry: Any, key: jax.Array) -> Any:
        params, state = carry
        gradient = jax.grad(family.loss)(params, family.batch(task, key))
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), (gradient, params)

    keys = jax.random.split(jax.random.key(32), length)
    (last, _), (found, _) = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), keys))()
    return found, last


def responses(tx: optax.GradientTransformation, stream: Any) -> dict[str, np.ndarray]:
    """The share of the last update that older gradients make; its size when all gradients are ten
    times as large; and the size of updates along the stream."""
    found, params = stream
    gains = np.asarray(nx.optim.influence(tx, found, params, "removal"), float)[::-1]

    @jax.jit
    def sizes(scale: Any) -> jax.Array:
        def step(state: Any, gradient: Any) -> Any:
            scaled = jax.tree.map(lambda g: scale * g, gradient)
            updates, state = tx.update(scaled, state, params)
            return state, optax.tree.norm(updates)

        return jax.lax.scan(step, tx.init(params), found)[1]

    plain, louder = np.asarray(sizes(1.0), float), np.asarray(sizes(10.0), float)
    return {
        "past": gains / max(np.sum(gains), 1e-30), "size": plain / plain[0],
        "louder": np.asarray(louder[-1] / plain[-1]),
    }  # fmt: skip


def stages(settings: Settings) -> dict[str, lab.Stage]:
    found: dict[str, lab.Stage] = {
        f"train {name}": partial(train, settings, name) for name in settings.arms
    }
    found |= {name: partial(judged, settings, name) for name in settings.worlds}
    return found | {
        "least squares": partial(least_squares, settings), "inside": partial(inside, settings)
    }  # fmt: skip


def find(settings: Settings, records: lab.Records) -> lab.Findings:
    cases = {}
    for name in settings.worlds:
        record = records.get(name, {})
        for arm in (*TUNED, *settings.arms):
            if arm in record:
                steps = record["steps"]
                cases[f"{name}, {steps} steps" if name != FAMILY else name, arm] = record[arm]
    measures = [
        lab.number("mean loss", lambda r: r["loss"], "nats", 3),
        lab.number("last tenth", lambda r: r["last"], "nats", 3),
        lab.number("untuned", lambda r: r.get("untuned"), "nats", 3),
        lab.number("time", lambda r: r["milliseconds"], "ms", 3),
    ]
    caption = (
        "Cross entropy on batches not yet learned from, over all steps and over the last tenth; "
        "median (least to most) over meta-seeds. Every optimizer has a cosine to zero (small_fc: "
        "none) and its rate is tuned over equally many trials on tasks of its own; untuned: at the "
        "rate of its meta-training. Time: of one step of one task, tasks side by side."
    )
    table = lab.numbers(
        ("world", "optimizer"), cases, measures, caption,
        lambda r: {"rate": lab.rate_tuned(r)}, best="-mean loss",
    )  # fmt: skip
    verdicts = []
    for arm in settings.arms:
        verdicts += on_arm(arm, records)
    verdicts += between(records) + on_least_squares(records.get("least squares"))
    return lab.Findings(table, verdicts, summary(settings, records))


def arms_of(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a record holds of arms, without its other entries."""
    return {name: one for name, one in record.items() if isinstance(one, Mapping)}


def loss(records: lab.Records, name: str, arm: str, key: str = "loss") -> Any:
    return records.get(name, {}).get(arm, {}).get(key)


LOOK: dict[str, Any] = {"shown": lab.significant, "unit": ""}


def on_arm(arm: str, records: lab.Records) -> list[lab.Verdict]:
    """Whether a rule beats Adam where it was trained, and where else it keeps up."""

    def against(name: str, key: str = "loss") -> dict[str, Any]:
        return {arm: loss(records, name, arm, key), "adam": loss(records, name, "adam")}

    def within(part: float) -> Callable[..., bool | None]:
        return lab.medians(lambda mine, adam: mine <= (1 + part) * adam)

    claims = [
        ("Learned optimizers beat tuned Adam on the tasks they were trained on (Metz et al. 2022)",
         "mean loss below Adam's with every meta-seed", against(FAMILY),
         lambda mine, adam: np.all(mine < np.min(adam)), "trained on"),
        ("They need no tuning (after Metz et al. 2022)",
         "at the rate of their training below tuned Adam, in the median",
         against(FAMILY, "untuned"), within(0.0), "trained on"),
        ("They carry over to other data (this project)",
         "below tuned Adam on MNIST, in the median", against("other data"), within(0.0),
         "other data"),
    ]  # fmt: skip
    for name, part in FAR.items():
        claims.append(
            ("They carry over to longer training and other networks (after Metz et al. 2022)",
             f"at most {part:.0%} above tuned Adam, in the median", against(name), within(part),
             name)
        )  # fmt: skip
    return [
        lab.judge(claim, criterion, values, holds, of=f"{arm}: {of}", **LOOK)
        for claim, criterion, values, holds, of in claims
    ]


def between(records: lab.Records) -> list[lab.Verdict]:
    """Claims about rules against each other, and about what is inside of them."""

    def pair(name: str, *arms: str) -> dict[str, Any]:
        return {arm: loss(records, name, arm) for arm in arms}

    less = lab.medians(lambda one, other: one < other)
    found = [
        lab.judge(
            "Episodes of drawn length make a rule last longer (Metz et al. 2022)",
            "mean loss over 1,600 steps lower with horizons from 100 to 2,000 than with 100, in "
            "the median",
            pair("16 times", "normalized", "normalized, 100 steps"), less, of="16 times", **LOOK,
        ),
    ]  # fmt: skip
    for name in (FAMILY, "4 times as long"):
        for memory in ("deep_momentum", "delta_momentum"):
            found.append(
                lab.judge(
                    "A memory that is meta-trained is a better optimizer than a perceptron "
                    "(this project, after Nested Learning, section 4)",
                    "mean loss below that of small_fc at equal meta-training time, in the median",
                    pair(name, memory, "small_fc"), less, of=f"{memory}: {name}", **LOOK,
                )
            )  # fmt: skip
    told = records.get("inside", {})
    for arm in TRAINED:
        record = told.get(arm)
        past = None if record is None else 100 * (1 - np.asarray(record["past"])[:, 0])
        louder = None if record is None else np.asarray(record["louder"])
        size = None if record is None else np.asarray(record["size"])[:, -1]
        found += [
            lab.judge(
                "Learned rules contain momentum (after Maheswaranathan et al. 2021)",
                "older gradients make at least a fifth of an update, with every meta-seed",
                {arm: past}, lambda share: np.all(share >= 20), of=f"{arm}: momentum",
                shown=partial(lab.spread, digits=0, scale=1),
            ),
            lab.judge(
                "Learned rules adapt to the scale of gradients (after Maheswaranathan et al. 2021)",
                "gradients ten times as large change the size of an update by less than a fifth, "
                "with every meta-seed",
                {arm: louder}, lambda ratio: np.all(np.abs(np.log(ratio)) < np.log(1.2)),
                of=f"{arm}: adaptation", **LOOK,
            ),
        ]  # fmt: skip
        if arm == "small_fc":
            found.append(
                lab.judge(
                    "Learned rules anneal their steps (after Maheswaranathan et al. 2021)",
                    "the 40th update is at most half as large as the first, with every meta-seed",
                    {arm: size}, lambda ratio: np.all(ratio <= 0.5), of=f"{arm}: annealing", **LOOK,
                )
            )  # fmt: skip
    return found


def on_least_squares(record: Any) -> list[lab.Verdict]:
    last = {
        name: None if record is None else [np.asarray(record[name]["curve"])[-1]]
        for name in ("lstm", *BASELINES)
    }
    return [
        lab.judge(
            "An LSTM learns to minimize quadratics faster than tuned optimizers (Andrychowicz et "
            "al. 2016)",
            "mean loss at step 99 below each tuned optimizer's",
            last, lambda lstm, *others: lstm[0] < min(one[0] for one in others),
            of="least squares", **LOOK,
        ),
        lab.judge(
            "The same, as a number to reach (this project)",
            "mean loss at step 99 of at most 0.2",
            {"lstm": last["lstm"]}, lambda lstm: lstm[0] <= 0.2, of="least squares", **LOOK,
        ),
    ]  # fmt: skip


def summary(settings: Settings, records: lab.Records) -> dict[str, Any]:
    """What meta-training cost, and the numbers that belong to no world."""
    found: dict[str, Any] = {}
    for arm in settings.arms:
        record = records.get(f"train {arm}")
        if record is not None:
            found[f"train {arm}"] = {
                "outer steps": np.sum(record["steps"]), "seconds": record["seconds"],
                "bad": np.mean(record["bad"], 0),
                "meta-loss": np.asarray(record["losses"])[-1],
            }  # fmt: skip
    if "least squares" in records:
        found["least squares"] = {
            name: {"last": np.asarray(one["curve"])[-1], **{k: one[k] for k in ("rate", "seconds")
                                                            if k in one}}
            for name, one in arms_of(records["least squares"]).items()
        }  # fmt: skip
    if "inside" in records:
        found["inside"] = {
            arm: {"older gradients": 1 - np.asarray(one["past"])[:, 0],
                  "ten times as large": one["louder"],
                  "last update": np.asarray(one["size"])[:, -1]}
            for arm, one in arms_of(records["inside"]).items()
        }  # fmt: skip
    return found


def draw(settings: Settings, records: lab.Records) -> list[Sheet]:
    panels = []
    for name in settings.worlds:
        record = records.get(name)
        if record is None:
            continue
        lines = []
        for arm in ("adam", "muon", *settings.arms):
            if arm in record:
                curve = np.asarray(record[arm]["curve"]).T
                x = record["steps"] * (np.arange(len(curve)) + 0.5) / len(curve)
                lines.append(Line(x, np.minimum(curve, 4.0), arm))
        panels.append(Panel(name, "step", "loss (nats)", lines, log="y"))
    caption = "Tuned optimizers and rules at their tuned rates; medians and ranges over meta-seeds."
    sheets = [curves("worlds", panels, "Training by trained rules", caption)]
    lines = []
    for arm in settings.arms:
        record = records.get(f"train {arm}")
        if record is not None:
            losses = np.asarray(record["losses"])
            seconds = record["seconds"] * (np.arange(len(losses)) + 1) / len(losses)
            lines.append(Line(seconds, losses, arm))
    caption = (
        "Meta-loss along meta-training: the loss over that of a guess, over all steps of all "
        "episodes. Episodes of drawn length are longer, so that their losses are others."
    )
    panel = Panel("meta-training", "seconds for each seed", "meta-loss", lines, log="y")
    sheets.append(curves("training", [panel], "Meta-training", caption))
    told = records.get("inside")
    if told is not None:
        past = [
            Line(np.arange(20), 100 * np.asarray(one["past"])[:, :20].T, arm)
            for arm, one in arms_of(told).items()
        ]
        sizes = [
            Line(np.arange(1, 1 + np.shape(one["size"])[1]), np.asarray(one["size"]).T, arm)
            for arm, one in arms_of(told).items()
        ]
        sheets.append(
            curves(
                "inside",
                [Panel("momentum", "age of a gradient (steps)", "share of the update (%)", past),
                 Panel("annealing", "update", "size, relative to the first", sizes, log="y")],
                "What rules do with gradients",
                "Gradients along a run of Adam, parameters held. Left: how much of the last update "
                "each gradient makes, by removal. Right: sizes of the updates at a constant rate.",
            )
        )  # fmt: skip
    record = records.get("least squares")
    if record is not None:
        lines = [
            Line(np.arange(len(one["curve"])), np.asarray(one["curve"]), name)
            for name, one in arms_of(record).items()
        ]
        panel = Panel("least squares", "step", "mean loss", lines, log="y")
        sheets.append(
            curves("quadratics", [panel], "Learning to learn quadratics",
                   "Ten weights, ten equations; rates tuned for the last step.")
        )  # fmt: skip
    return sheets


def example(settings: Settings) -> lab.Example:
    """A small nest of a rule over quadratics."""
    rule = learned.adam_like()
    nest = learned.meta_nest(
        rule, learned.quadratics(3), tasks=2, horizon=20, truncation=10, learning_rate=0.1
    )
    state = nest.init({"rule": rule.init(jax.random.key(0))}, jax.random.key(1))
    return lab.Example(nest, state, "rule", {"PES": nx.PES(SIGMA)})


LEAD = """Rules with a few hundred weights are trained on small networks for digits and clothes, by
persistent evolution strategies, each for the same time. They are judged on tasks that they have not
seen: other images, longer training, wider, deeper and convolutional networks, a character model;
against optimizers whose learning rate is tuned over as many trials."""
STUDY = lab.Study("Learned optimizers", LEAD, Settings, stages, find, draw, example)
