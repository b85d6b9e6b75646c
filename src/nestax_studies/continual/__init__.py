"""Does a continuum memory forget less than plain networks, consolidation and replay?

Ten classes two at a time, or all of them with their pixels permuted anew for each task, or Markov
languages one after another; a chain of MLPs on clocks of optimizer steps, or written in context on
clocks of examples, against a plain MLP, elastic weight consolidation and replay.

    nestax run continual --out runs/continual
    nestax run continual --preset full --out runs/continual-full

The first took an hour on a core that was shared with other work.

Sources: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), sections 7.1 and 9, for
the memory and the claim; Kirkpatrick et al., "Overcoming catastrophic forgetting in neural
networks" (2017), and Schwarz et al., "Progress & compress" (2018), for consolidation; Chaudhry et
al., "On tiny episodic memories in continual learning" (2019), for replay; Lopez-Paz and Ranzato,
"Gradient episodic memory" (2017), for backward and forward transfer.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nestax.levels import Level, Nest
from nestax.runs import SettingsError

from ..options import chosen, positive
from ..study import Example, Study, beyond, parameters, tuned, tuning
from ..timescales import streams
from . import worlds
from .arms import ARMS, PARTS, STEPS, network
from .figures import draw_all
from .findings import Measures, find, measures
from .learning import FISHER, Size, drawn_tasks, runner
from .worlds import STREAMS, World

_DECADES = 2.0  # that the rates tried cover
_CENTRES = {"class": 0.03, "permuted": 0.3, "languages": 0.2}
_PRESETS: dict[str, dict[str, Any]] = {
    "small": {"data": "digits", "held_out": 25, "steps": 128, "hidden": 64, "buffer": 100,
              "together": 7},
    "full": {"data": "mnist", "held_out": 100, "steps": 448, "hidden": 64, "buffer": 200,
             "together": 1},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """Does a continuum memory forget less than plain networks, consolidation and replay?

    Every arm tries settings by the same rule, of its learning rate alone or with a second thing
    that it tunes, on seeds of their own; it is judged by fresh ones at the best.

    Attributes:
        preset: small has digits, and takes minutes; full has MNIST.
        streams: Of class (classes split between tasks, one head), permuted (all classes, pixels
            permuted) and languages (Markov chains, named), separated by commas; or all.
        arms: Of those compared, separated by commas; or all.
        data: Images; the preset's if not given.
        tasks: One after another.
        steps: Of each task; the preset's if not given.
        batch_size: Examples in a step, a multiple of 8.
        hidden: Units of the MLP's layers; the preset's if not given.
        buffer: Examples that replay keeps; the preset's if not given.
        letters: Of a language.
        order: Letters that the next one depends on, 1 or 2.
        seeds: Runs to judge by.
        tuning_seeds: Runs to choose settings by.
        trials: Learning rates tried for each of three values of the second thing that is tuned;
            three times as many where there is none; and up to two more where the best is the
            smallest or largest.

    Raises:
        SettingsError: a value that makes no sense.
    """

    preset: Literal["small", "full"] = "small"
    streams: tuple[str, ...] = ("class", "permuted", "languages")
    arms: tuple[str, ...] = ("all",)
    data: Literal["digits", "mnist", "fashion-mnist"] | None = None
    tasks: int = 5
    steps: int | None = None
    batch_size: int = 16
    hidden: int | None = None
    buffer: int | None = None
    letters: int = 8
    order: int = 1
    seeds: int = 5
    tuning_seeds: int = 2
    trials: int = 5

    def __post_init__(self) -> None:
        for name, known in (("arms", ARMS), ("streams", STREAMS)):
            object.__setattr__(self, name, chosen(name, getattr(self, name), known))
        object.__setattr__(self, "arms", tuple(arm for arm in ARMS if arm in self.arms))
        for name in ("steps", "hidden", "buffer"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, _PRESETS[self.preset][name])
        positive(self, "steps", "batch_size", "hidden", "buffer", "seeds", "tuning_seeds")
        if self.batch_size % max(PARTS):
            raise SettingsError(
                f"batch_size must be a multiple of {max(PARTS)}, got {self.batch_size}"
            )
        assert self.steps is not None
        if self.steps * self.batch_size < FISHER:
            raise SettingsError(
                f"a task must have at least {FISHER} examples, to estimate Fisher information; "
                f"got {self.steps} steps of {self.batch_size}"
            )
        if self.trials < 2:
            raise SettingsError(f"trials must be at least 2, got {self.trials}")
        if self.tasks < 2 or ("class" in self.streams and self.tasks > 5):
            raise SettingsError(
                f"tasks must be at least 2, and where classes are split at most 5, got {self.tasks}"
            )
        if self.letters < 2 or self.order not in (1, 2):
            raise SettingsError(
                "a language has at least 2 letters and order 1 or 2, got "
                f"{self.letters} and {self.order}"
            )


def world_of(settings: Any, kind: str, load: Callable[[], streams.Images]) -> World:
    """A stream at the size that the settings ask for."""
    if kind == "languages":
        return worlds.languages(settings.tasks, settings.letters, settings.order)
    return worlds.images(kind, settings.tasks, load())


def size_of(settings: Any) -> Size:
    together = _PRESETS[settings.preset]["together"] if jax.default_backend() == "cpu" else 64
    return Size(settings.tasks, settings.steps, settings.batch_size, settings.buffer, together)


def grid(kind: str, name: str, trials: int) -> list[tuple[float, float]]:
    """The pairs of a learning rate and a second value that an arm tries on a stream."""
    extras = ARMS[name].extras
    count = trials if len(extras) > 1 else 3 * trials
    places = _DECADES * (np.arange(count) / (count - 1) - 0.5)
    rates = [float(rate) for rate in _CENTRES[kind] * 10**places]
    return [(rate, extra) for extra in extras for rate in rates]


def learn(
    settings: Any, kind: str, world: World, name: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """One arm on one stream: what it is tuned to, and its accuracies (seeds, tasks + 1, tasks)."""
    arm = ARMS[name]
    classifier = network(arm, world.inputs, settings.hidden, world.classes, settings.batch_size)
    run = runner(world, arm, classifier, size_of(settings))

    def attempt(pairs: Any) -> list[float]:
        say(f"tries {len(pairs)} settings")
        found = run(pairs, [tuning(i) for i in range(settings.tuning_seeds)])
        return measures(found).final.mean(1).tolist()

    def rates_beside(scores: Any, extra: float) -> list[float]:
        return [rate for rate, other in scores if other == extra]

    def further(scores: Any, best: tuple[float, float]) -> list[tuple[float, float]]:
        spacing = _DECADES / (settings.trials - 1)  # of all arms, whatever the grid's own
        return [(rate, best[1]) for rate in beyond(rates_beside(scores, best[1]), best[0], spacing)]

    scores, (rate, extra) = tuned(
        grid(kind, name, settings.trials),
        attempt,
        lambda scores: max(scores, key=scores.__getitem__),
        further,
    )
    rates = rates_beside(scores, extra)
    say(f"runs {settings.seeds} seeds at rate {rate:.2g}")
    matrix = run([(rate, extra)], range(settings.seeds))[0]
    shapes = jax.eval_shape(classifier.init, jax.random.key(0))
    found = measures(matrix)
    return {
        "rate": rate,
        "extra": extra,
        "edge": rate in (min(rates), max(rates)),
        "pairs": list(scores),
        "scores": np.round(list(scores.values()), 5).tolist(),
        "parameters": parameters(shapes),
        "ceiling": _ceiling(world, settings.seeds),
        "matrix": np.round(matrix.astype(float), 5).tolist(),
        **{
            key: np.round(getattr(found, key).astype(float), 5).tolist() for key in Measures._fields
        },
    }


def _ceiling(world: World, seeds: int) -> float | None:
    """The accuracy of somebody who knows the tasks, mean over the seeds' own."""
    if world.ceiling is None:
        return None
    drawn = [drawn_tasks(world, jax.random.key(seed)) for seed in range(seeds)]
    return round(float(np.mean([world.ceiling(tasks) for tasks in drawn])), 5)


def stages(settings: Any) -> dict[str, Any]:
    @functools.cache
    def load() -> streams.Images:
        preset = _PRESETS[settings.preset]
        return streams.images(settings.data or preset["data"], preset["held_out"])

    def stage(kind: str, arm: str) -> Any:
        return lambda say: learn(settings, kind, world_of(settings, kind, load), arm, say)

    return {f"{kind} {arm}": stage(kind, arm) for kind in settings.streams for arm in settings.arms}


def example(settings: Any) -> Example:
    """The chain as a nest of peers: what stands around the memory, and its levels, each a level of
    the nest on a clock of its own."""
    world = worlds.languages(settings.tasks, settings.letters, settings.order)
    shown = ARMS["continuum-steps"]
    chain = network(shown, world.inputs, 16, world.classes, settings.batch_size)
    tables = world.draw((), jax.random.key(0))

    def held(memory: Any, levels: Any) -> Any:
        import equinox as eqx

        return eqx.tree_at(lambda m: m.levels, memory, levels)

    def draw(task: Any, key: jax.Array) -> Any:
        rows, labels = world.text((), tables[0], 0, key, settings.batch_size)
        return world.features(rows), labels

    def loss(values: dict[str, Any], batch: Any) -> jax.Array:
        x, y = batch
        levels = tuple(values[f"level {i}"] for i in range(len(STEPS)))
        params = values["around"] | {"memory": held(values["around"]["memory"], levels)}
        found = chain.read(params, chain.start(params), x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(found, y))

    params = chain.init(jax.random.key(1))
    start: dict[str, Any] = {f"level {i}": level for i, level in enumerate(params["memory"].levels)}
    start["around"] = params | {"memory": held(params["memory"], ())}
    every = dict.fromkeys(start, 1) | {f"level {i}": period for i, period in enumerate(STEPS)}
    levels = tuple(
        Level(name, loss, optax.sgd(0.1), draw, period, accumulate="mean" if period > 1 else None)
        for name, period in every.items()
    )
    nest = Nest([levels])
    return Example(nest, nest.init(start, jax.random.key(0)), None, {})


STUDY = Study(
    "A continuum memory against forgetting",
    "Memories on several clocks are said to keep what was learned earlier, without the help of "
    "stored examples. Tasks are learned one after another by a chain of MLPs whose starts move at "
    "several clocks of optimizer steps, or which is written in context at several clocks of "
    "examples, and by a plain network, elastic weight consolidation, and replay; all see the same "
    "examples and are tuned by the same rule.",
    stages,
    find,
    draw_all,
    example,
)
