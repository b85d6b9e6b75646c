"""Do slow clocks forget less? Continual learning with several clocks in one optimizer.

Layers of a network, or networks side by side, are each moved at a period of their own. Gathered as
a mean, a part with period C moves once in C steps by its rate: as far as with rate / C at every
step. These rates on one clock are its control. Gathered as a sum it moves as far as with the rate
itself: its control is one clock. What is left between an arm and its control is that gradients are
taken where the part last stood. An arm that learns less has less to forget, so arms are compared
where they have learned as much, interpolated along the rates tried.

Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), section 7.1, eq. (70-71)
and, for blocks side by side, (74).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from nestax.levels import Level, Nest, Process
from nestax.plots import GREY

from .. import lab, models, streams
from ..lab import names, option
from ..lab.figures import Column, Dot, Line, Panel, Sheet, curves, dots
from ..streams import CLASSES, PAIRED
from .arms import ARMS, CLOCKS, FAMILIES, Arm

# Settings

STREAMS = {
    "class": "split by classes, one head",
    "task": "split by classes, task known",
    "permuted": "permuted pixels",
}
_MEMBERS = {family: [a for a in ARMS if ARMS[a].family == family] for family in FAMILIES}
_SMALL = tuple(a for a in ARMS if a.startswith("descent") and "64" not in a and "middle" not in a)
_HIDDEN = {"small": 32, "full": 64}  # units of a hidden layer; half as many in each of three blocks
_SPACING = 0.45  # decades between the rates tried
_CENTRES = {"descent": 0.02, "momentum": 0.002, "adam": 1.5e-4}
_BLOCKS = 0.4  # of these, for blocks side by side, which learn at smaller rates
_LONGEST = max(CLOCKS)


@dataclass(frozen=True)
class Settings(streams.Streams):
    """Do slow clocks forget less, where as much was learned?

    Every arm tries the same number of learning rates, on seeds of their own; those it is judged by
    are run at every rate, so that arms can be compared where they have learned as much.

    Attributes:
        streams: Of class (split by classes, one head), task (the same where the task is known) and
            permuted (all classes, pixels permuted), separated by commas; or all.
        arms: Of those compared, or families of them (first, last, blocks, adaptive,
            others), separated by commas; or all.
        steps: Of each task, a multiple of the longest period, 64.
        trials: Learning rates tried.
    """

    streams: tuple[str, ...] = names(STREAMS)
    arms: tuple[str, ...] = names(ARMS, families=_MEMBERS, small=_SMALL, full=("all",))
    steps: int | None = option(least=_LONGEST, multiple=_LONGEST, small=128, full=448)
    trials: int = option(9, least=2)


def grid(arm: str, trials: int) -> list[float]:
    """The learning rates tried, of the fastest part, smallest first."""
    centre = _CENTRES[ARMS[arm].base] * (_BLOCKS if ARMS[arm].blocks else 1)
    return lab.rates(centre, _SPACING, trials)


# Learning


def network(arm: Arm, pixels: int, hidden: int, key: Array) -> Any:
    """Three layers of one network, or three networks of two layers whose outputs add."""
    if arm.blocks:
        sizes = (pixels, hidden // 2, CLASSES)
        return [models.mlp_init(k, sizes) for k in jax.random.split(key, 3)]
    return models.mlp_init(key, (pixels, hidden, hidden, CLASSES))


def scores(kind: str, arm: Arm, params: Any, x: Array, own: Array) -> Float[Array, "n 10"]:
    """The network's outputs; where the task is known, those of other tasks' classes are out of the
    question."""
    networks = params if arm.blocks else [params]
    outputs: Any = sum(models.mlp(one, x, jax.nn.relu) for one in networks)
    if kind == "task":
        known = jnp.any(jnp.arange(CLASSES)[:, None] == own[None], axis=1)
        outputs = jnp.where(known[None], outputs, -1e9)
    return outputs


def system(settings: Any, kind: str, arm: Arm, scale: int) -> Nest:
    """The network as a level whose optimizer has the arm's clocks."""

    def draw(values: Any, number: Array, task: Any, key: Array) -> Any:
        run = values["run"]
        own = run["classes"][number // settings.steps]
        return (run["rows"][number].astype(float) / scale, run["labels"][number], own), number + 1

    def loss(values: Any, batch: Any) -> Array:
        x, labels, own = batch
        outputs = scores(kind, arm, values["model"], x, own)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, labels))

    def look(values: Any) -> Array:
        params, run = values["model"], values["run"]

        def outputs(shown: Any) -> Array:
            own, rows, _ = shown
            return scores(kind, arm, params, rows.astype(float) / scale, own)

        return streams.accuracies(outputs, (run["classes"], *run["shown"]), params, settings.tasks)

    batches = Process(draw, init=streams.zero)
    model = Level("model", loss, lambda values: arm.make(values["run"]["rate"]), batches)
    return streams.system(model, look, settings.steps)


def first(
    settings: Any, kind: str, arm: Arm, images: Any, key: Array, judged: Any, rate: Any
) -> Any:
    """What a run begins with: its network, and its tasks with every example that it will see."""
    (train, held_out), tasks, pixels = images, settings.tasks, images[0].shape[-1]
    keys, batches = [jax.random.fold_in(key, i) for i in range(3)], tasks * settings.steps
    drawn = streams.draw_tasks(kind == "permuted", tasks, pixels, keys[0])

    def examples(task: Any, key: Array) -> Any:
        draws = [jax.random.fold_in(key, i) for i in range(2)]
        return streams.draw_images(train, task, draws, settings.steps * settings.batch_size)

    rows, labels = jax.vmap(examples)(drawn, jax.random.split(keys[2], tasks))
    run = {
        "rate": rate,
        "classes": drawn[0],
        "rows": rows.reshape(batches, -1, pixels),
        "labels": labels.reshape(batches, -1),
        "shown": jax.vmap(lambda task: streams.held_out_images(held_out, task, judged))(drawn),
    }
    return {"model": network(arm, pixels, _HIDDEN[settings.preset], keys[1]), "run": run}


def parts(settings: Any, kind: str, name: str) -> tuple[Nest, Any, Any]:
    """An arm's nest; what all its runs share; and (shared, key, judged, rate) -> first values."""
    arm, images = ARMS[name], settings.images
    shared = jnp.asarray(images.train), jnp.asarray(images.held_out)
    return system(settings, kind, arm, images.scale), shared, partial(first, settings, kind, arm)


def learn(settings: Settings, kind: str, name: str, desk: lab.Desk) -> lab.Record:
    """One arm on one stream: everything that the report needs of it.

    `matrix` holds the accuracies at the chosen rate, (seeds, tasks, tasks); the measures are
    (rates, seeds).
    """
    run = streams.runner(settings, *parts(settings, kind, name))
    rates, made = grid(name, settings.trials), []
    seeds = [lab.tuning(i) for i in range(settings.tuning_seeds)] + list(range(settings.seeds))
    for rate in rates:
        desk.say(f"rate {rate:.2g}")
        made.append(run(seeds, [rate] * len(seeds)))
    tuned, judged = np.split(np.stack(made), [settings.tuning_seeds], axis=1)
    chosen = streams.measures(tuned)["final"].mean(1)
    place = int(np.argmax(chosen))
    return {
        "rates": rates,
        "rate": rates[place],
        "place": place,
        "edge": place in (0, len(rates) - 1),
        **lab.listed(streams.measures(judged)),
        "scores": lab.listed(chosen),
        "matrix": lab.listed(judged[place]),
    }


def example(settings: Any) -> lab.Example:
    """One run of the first arm, at the middle of its rates."""
    kind, name = settings.streams[0], settings.arms[0]
    return streams.example(*parts(settings, kind, name), grid(name, 1)[0])


# Findings

LEVEL = 0.95  # of the best learning accuracy that both arms have
_EQUAL = f"where learning accuracy is {100 * LEVEL:g} % of the best that both have at any rate"
_FORGET_LESS = (
    f"{_EQUAL}: less forgotten than with one clock, and than with one clock that moves every part "
    f"as far; {PAIRED}"
)
_KNOW_MORE = (
    "average final accuracy of the best arm with several clocks against that of the best with one, "
    f"rates of its parts chosen likewise, both chosen on seeds of their own: {PAIRED}"
)
_AGAINST = {"single": "less forgotten than one clock", "control": "than the same rates"}
"""What an arm is compared with, by its attribute."""


def forgotten_at(learning: np.ndarray, forgetting: np.ndarray, level: float) -> float:
    """What is forgotten where a learning accuracy is first reached, both (rates,), slowest first.

    Between two rates it is interpolated. NaN where the slowest rate learns more, or none as much.
    """
    reached = np.flatnonzero(learning >= level)
    if not len(reached) or reached[0] == 0:
        return float("nan")
    high = reached[0]
    part = (level - learning[high - 1]) / (learning[high] - learning[high - 1])
    return float(forgetting[high - 1] + part * (forgetting[high] - forgetting[high - 1]))


def less_forgotten(one: lab.Record, other: lab.Record) -> np.ndarray:
    """(seeds,): how much less the first of two records forgets at equal learning accuracy."""

    def by_seed(name: str) -> list[np.ndarray]:
        """(seeds, 2, rates)"""
        return list(np.stack([np.asarray(r[name]).T for r in (one, other)], axis=1))

    found = []
    for known, lost in zip(by_seed("learning"), by_seed("forgetting"), strict=True):
        level = LEVEL * known.max(axis=1).min()
        mine, others = (forgotten_at(*arm, level) for arm in zip(known, lost, strict=True))
        found.append(others - mine)
    return np.asarray(found)


def at_tuned(record: lab.Record, name: str) -> np.ndarray:
    """(seeds,): a measure at the rate that was chosen."""
    return np.asarray(record[name][record["place"]])


def gains(name: str, done: lab.Records) -> dict[str, np.ndarray | None]:
    """How much less an arm forgets than "single" and "control"; None where these were not run."""
    others = [done.get(getattr(ARMS[name], key)) for key in _AGAINST]
    less = [None if other is None else less_forgotten(done[name], other) for other in others]
    return dict(zip(_AGAINST, less, strict=True))


def find(settings: Settings, records: lab.Records) -> lab.Findings:
    cases, verdicts = {}, []
    for stream, done in streams.finished(settings, records).items():
        for arm, record in done.items():
            cases[STREAMS[stream], ARMS[arm].label] = record | {"gains": gains(arm, done)}
        verdicts += _verdicts(STREAMS[stream], done)
    measures = streams.remembered(at_tuned)
    for key, head in _AGAINST.items():
        measures.append(lab.Measure(head, lambda r, key=key: r["gains"][key], "points"))
    caption = (
        f"{streams.MEASURED} These are at the rate with the best final accuracy, on seeds of their "
        f"own. The last two columns: {_EQUAL}, points of forgetting less than with one clock, and "
        "than with one clock that moves every part as far, on the same seeds; - where the rates "
        "tried do not reach that far."
    )
    facts = lambda record: {"rate": lab.rate_tuned(record)}  # noqa: E731
    heads, best = ("stream", "arm"), "final accuracy"
    return lab.Findings(lab.numbers(heads, cases, measures, caption, facts, best), verdicts)


def _verdicts(stream: str, done: lab.Records) -> list[lab.Verdict]:
    """The criteria stood here before the long runs, after runs of one seed that showed what rates
    to try and that less than a point must not count: split by classes every arm forgets all it
    learned."""
    found = []
    some = [[name for name in done if ARMS[name].clocks is clocks] for clocks in (True, False)]
    for name in some[0]:
        found_less = gains(name, done).items()
        values = {_label(getattr(ARMS[name], key)): less for key, less in found_less}
        claim = f"Slow clocks forget less at equal learning: {_label(name)} (Nested Learning, 7.1)"
        look: dict[str, Any] = {"of": stream, "unit": " points behind", "shown": _shown}
        found.append(lab.judge(claim, _FORGET_LESS, values, streams.ahead, **look))
    if all(some):
        best = [max(sorted(names), key=lambda name: max(done[name]["scores"])) for names in some]
        claim = "Several clocks know more in the end (Nested Learning, 7.1)"
        ends = {_label(name): at_tuned(done[name], "final") for name in best}
        found.append(lab.judge(claim, _KNOW_MORE, ends, streams.more, of=stream))
    return found


def _label(name: Any) -> str:
    return ARMS[name].label


def _shown(gain: np.ndarray) -> str:
    return lab.spread(gain) if np.isfinite(gain).all() else "-"


# Figures

_ALSO = {"first": "descent", "last": "descent"}  # from another family, to compare with


def draw(settings: Settings, records: lab.Records) -> list[Sheet]:
    done = streams.finished(settings, records)
    families = [_family(done, family, words) for family, words in FAMILIES.items()]
    return [_results(done), *(sheet for sheet in families if sheet)] if done else []


def _results(done: dict[str, lab.Records]) -> Sheet:
    """A row for each arm; for each stream a column of accuracies and one of differences."""
    columns = []
    for stream, some in done.items():
        ends, less = {}, {}
        for arm, record in some.items():
            gained = gains(arm, some)
            if ARMS[arm].control == ARMS[arm].single:
                del gained["control"]
            ends[_label(arm)] = [Dot(100 * at_tuned(record, "final"), 0)]
            less[_label(arm)] = [
                Dot(100 * gain, colour, filled=colour == 1)
                for colour, gain in enumerate(gained.values(), 1)
                if gain is not None and np.isfinite(gain).all()
            ]
        columns.append(Column(f"{stream}: in the end", "accuracy (%)", ends))
        columns.append(Column(f"{stream}: forgets less", "points, at equal\nlearning", less))
    told = "; ".join(f"{stream}: {STREAMS[stream]}" for stream in done)
    caption = (
        "Dots are medians over seeds, bars their range. Left of each pair: accuracy on all tasks "
        "at the end, at the tuned rate. Right: forgetting less than with one clock (filled), and "
        "less than with one clock that moves every part as far (open), where as much was learned. "
        f"{told}."
    )
    sheet = dots("results", columns, "All arms", caption)
    for axes in sheet.figure.axes[1::2]:
        axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
    return sheet


def _family(done: dict[str, lab.Records], family: str, words: str) -> Sheet | None:
    over, against = [], []
    for stream, some in done.items():
        if not any(ARMS[arm].family == family for arm in some):
            continue
        arms = {a: r for a, r in some.items() if ARMS[a].family == family or a == _ALSO.get(family)}
        title, lines = STREAMS[stream], []
        over.append(streams.so_far(title, {_label(a): r["matrix"] for a, r in arms.items()}))
        for arm, record in arms.items():
            learned, lost = (100 * np.median(record[n], 1) for n in ("learning", "forgetting"))
            last = int(np.argmax(learned)) + 1
            lines.append(Line(learned[:last], lost[:last], _label(arm)))
        texts = f"{title}: forgotten", "learning accuracy (%)", "forgetting (points)"
        against.append(Panel(*texts, lines))
    if not over:
        return None
    caption = (
        "First the mean accuracy on the tasks so far, at the tuned rate: medians over seeds, bands "
        "their range. Then forgetting against learning accuracy, medians over seeds, along the "
        "rates from the smallest to the one that learns best: lower is better."
    )
    return curves(family, [*over, *against], f"Clocks: {words}", caption)


LEAD = """Parts of a network that move rarely are said to keep what was learned earlier. Tasks are
learned one after another, with layers or with blocks on three clocks, and everything is compared
with one clock whose rates move every part as far, where as much was learned."""
TITLE = "Several clocks against forgetting"
STUDY = lab.Study(TITLE, LEAD, Settings, partial(streams.stages, learn), find, draw, example)
