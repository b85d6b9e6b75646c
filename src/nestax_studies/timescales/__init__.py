"""Do slow clocks forget less? Continual learning with several clocks in one optimizer.

Ten classes two at a time, or all of them with their pixels permuted anew for each task; layers of a
network, or networks side by side, each moved at its own period, against one clock, and against one
clock with the rates that the periods amount to.

    nestax run timescales --out runs/timescales
    nestax run timescales --preset full --out runs/timescales-full

Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), section 7.1, eq. (70-71)
and, for blocks side by side, (74).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nestax.levels import Level, Nest
from nestax.runs import SettingsError

from .. import models
from ..options import chosen, positive
from ..study import Example, Study, tuning
from . import streams
from .arms import ARMS, CLOCKS, FAMILIES
from .figures import draw_all
from .findings import Measures, find, measures
from .streams import STREAMS, Images, Stream, draw_tasks, scores

_SPACING = 0.45  # decades between the rates tried
_CENTRES = {"descent": 0.02, "momentum": 0.002, "adam": 1.5e-4}
_BLOCKS = 0.4  # of these, for blocks side by side, which learn at smaller rates
_SMALL = (
    "descent",
    "descent-blocks",
    *(f"descent-{place}-16-{how}"
      for place in ("first", "last", "blocks") for how in ("mean", "rates", "sum")),
)  # fmt: skip
_PRESETS: dict[str, dict[str, Any]] = {
    "small": {"data": "digits", "held_out": 25, "steps": 128, "hidden": 32, "together": 7,
              "arms": _SMALL},
    "full": {"data": "mnist", "held_out": 100, "steps": 448, "hidden": 64, "together": 1,
             "arms": ("all",)},
}  # fmt: skip
_LONGEST = max(CLOCKS)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Do slow clocks forget less, where as much was learned?

    Every arm tries the same number of learning rates, on seeds of their own; those it is judged by
    are run at every rate, so that arms can be compared where they have learned as much.

    Attributes:
        preset: small has digits, and takes minutes; full has MNIST.
        streams: Of class (split by classes, one head), task (the same where the task is known) and
            permuted (all classes, pixels permuted), separated by commas; or all.
        arms: Of those compared, or families of them (first, last, blocks, adaptive,
            others), separated by commas; or all; the preset's if not given.
        data: The preset's if not given.
        tasks: One after another.
        steps: Of each task, a multiple of the longest period, 64; the preset's if not given.
        batch_size: Images in a step.
        seeds: Runs to judge by, at each learning rate.
        tuning_seeds: Runs to choose a learning rate by.
        trials: Learning rates tried.

    Raises:
        SettingsError: a value that makes no sense.
    """

    preset: Literal["small", "full"] = "small"
    streams: tuple[str, ...] = ("class", "task", "permuted")
    arms: tuple[str, ...] = ()
    data: Literal["digits", "mnist", "fashion-mnist"] | None = None
    tasks: int = 5
    steps: int | None = None
    batch_size: int = 16
    seeds: int = 5
    tuning_seeds: int = 2
    trials: int = 9

    def __post_init__(self) -> None:
        families = {f: [a for a in ARMS if ARMS[a].family == f] for f in FAMILIES}
        named = families | {"all": list(ARMS)} | {arm: [arm] for arm in ARMS}
        asked = self.arms or _PRESETS[self.preset]["arms"]
        if unknown := [arm for arm in asked if arm not in named]:
            raise SettingsError(
                f"arms are of all, {', '.join(families)}, {', '.join(ARMS)}; got "
                f"{', '.join(unknown)}"
            )
        wanted = {arm for name in asked for arm in named[name]}
        object.__setattr__(self, "arms", tuple(arm for arm in ARMS if arm in wanted))
        object.__setattr__(self, "streams", chosen("streams", self.streams, STREAMS))
        positive(self, "batch_size", "seeds", "tuning_seeds")
        if self.trials < 2:
            raise SettingsError(f"trials must be at least 2, got {self.trials}")
        split = bool(set(self.streams) - {"permuted"})
        if self.tasks < 2 or (split and self.tasks > 5):
            raise SettingsError(
                f"tasks must be at least 2, and where classes are split at most 5, got {self.tasks}"
            )
        if self.steps is not None and (self.steps < _LONGEST or self.steps % _LONGEST):
            raise SettingsError(f"steps must be a multiple of {_LONGEST}, got {self.steps}")


def stream_of(settings: Settings, kind: str) -> Stream:
    """A stream at the size that the settings ask for."""
    preset = _PRESETS[settings.preset]
    steps = settings.steps if settings.steps is not None else preset["steps"]
    together = preset["together"] if jax.default_backend() == "cpu" else 64
    return Stream(kind, settings.tasks, steps, settings.batch_size, preset["hidden"], together)


def images_of(settings: Settings) -> Images:
    preset = _PRESETS[settings.preset]
    return streams.images(settings.data or preset["data"], preset["held_out"])


def grid(arm: str, trials: int) -> list[float]:
    """The learning rates tried, of the fastest part, smallest first."""
    centre = _CENTRES[ARMS[arm].base] * (_BLOCKS if ARMS[arm].blocks else 1)
    return [centre * 10 ** (_SPACING * (i - (trials - 1) / 2)) for i in range(trials)]


def learn(
    settings: Settings, kind: str, arm: str, load: Callable[[], Images], say: Any
) -> dict[str, Any]:
    """One arm on one stream: everything that the report needs of it.

    `matrix` holds the accuracies at the chosen rate, (seeds, tasks, tasks); the measures are
    (rates, seeds).
    """
    run = streams.runner(stream_of(settings, kind), ARMS[arm], load())
    rates, made = grid(arm, settings.trials), []
    seeds = [tuning(i) for i in range(settings.tuning_seeds)] + list(range(settings.seeds))
    for rate in rates:
        say(f"rate {rate:.2g}")
        made.append(run([rate], seeds)[0])
    matrices = np.stack(made)
    tuned, judged = np.split(matrices, [settings.tuning_seeds], axis=1)
    chosen = measures(tuned).final.mean(1)
    place = int(np.argmax(chosen))
    found: dict[str, Any] = dict(zip(Measures._fields, measures(judged), strict=True))
    found |= {"scores": chosen, "matrix": judged[place]}
    return {
        "rates": rates,
        "place": place,
        "edge": place in (0, len(rates) - 1),
        **{name: np.round(np.asarray(values, float), 5).tolist() for name, values in found.items()},
    }


def stages(settings: Settings) -> dict[str, Any]:
    kept: list[Images] = []

    def load() -> Images:
        if not kept:
            kept.append(images_of(settings))
        return kept[0]

    def stage(kind: str, arm: str) -> Any:
        return lambda say: learn(settings, kind, arm, load, say)

    return {f"{kind} {arm}": stage(kind, arm) for kind in settings.streams for arm in settings.arms}


def example(settings: Settings) -> Example:
    """The network on three clocks as a nest of peers: layers of one model, one loss, one batch."""
    stream, given = stream_of(settings, settings.streams[0]), images_of(settings)
    pixels = given.train.shape[-1]
    classes, places = draw_tasks(stream, pixels, jax.random.key(0))
    periods = dict(zip(("out", "hidden", "in"), CLOCKS[16], strict=True))
    shown = ARMS["descent"]

    def draw(task: Any, key: jax.Array) -> Any:
        keys = jax.random.split(key)
        labels = classes[0, jax.random.randint(keys[0], (stream.batch_size,), 0, classes.shape[1])]
        index = jax.random.randint(keys[1], labels.shape, 0, given.train.shape[1])
        rows = jnp.asarray(given.train)[labels, index][:, places[0]]
        return rows.astype(float) / given.scale, labels

    def loss(values: dict[str, Any], batch: Any) -> jax.Array:
        x, y = batch
        layers = [values[name] for name in ("in", "hidden", "out")]
        found = scores(stream, shown, layers, x, classes[0])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(found, y))

    levels = tuple(
        Level(
            name, loss, shown.make(0.1), draw, every=every, accumulate="mean" if every > 1 else None
        )
        for name, every in periods.items()
    )
    nest = Nest([levels])
    sizes = (pixels, stream.hidden, stream.hidden, 10)
    start: dict[str, Any] = dict(
        zip(("in", "hidden", "out"), models.mlp_init(jax.random.key(1), sizes), strict=True)
    )
    return Example(nest, nest.init(start, jax.random.key(0)), None, {})


STUDY = Study(
    "Several clocks against forgetting",
    "Parts of a network that move rarely are said to keep what was learned earlier. Tasks are "
    "learned one after another, with layers or with blocks on three clocks, and everything is "
    "compared with one clock whose rates move every part as far, where as much was learned.",
    stages,
    find,
    draw_all,
    example,
)
