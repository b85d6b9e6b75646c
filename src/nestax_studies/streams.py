"""Streams of tasks, learned one after another: how they are drawn and learned, what is remembered
of them, and when an arm remembers more than another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nestax.levels import Held, Level, Nest

from . import data, lab
from .lab import option
from .lab.figures import Line, Panel
from .lab.options import Preset
from .lab.sweep import is_tuning

CLASSES = 10
LEAST = 0.01  # accuracy; a smaller difference does not count
PAIRED = (
    f"over paired seeds the median difference is at least {100 * LEAST:g} point in its favour, and "
    "the sign of at least nine in ten"
)
MEASURED = (
    "Median (least to most) over seeds; the best at the end first. Learning: accuracy on a task "
    "when it is over; forgetting: the most ever known of it less what is known at the end, without "
    "the last task; final: accuracy on all tasks at the end."
)
_HELD_OUT = {"small": 25, "full": 100}  # images of each class to tune by, and to judge by
_TOGETHER = {"small": 7, "full": 1}  # runs in one program, on a CPU


@dataclass(frozen=True)
class Streams(lab.Options):
    """Settings of every study of streams.

    Attributes:
        preset: small has digits, and takes minutes; full has MNIST.
        data: Images of the streams that have images.
        tasks: One after another; at most 5 where classes are split.
        batch_size: Examples in a step.
        seeds: Runs to judge by.
        tuning_seeds: Runs to choose settings by.
    """

    preset: Preset = "small"
    data: Literal["digits", "mnist", "fashion-mnist"] | None = option(small="digits", full="mnist")
    tasks: int = option(5, least=2)
    batch_size: int = option(16, least=1)
    seeds: int = option(5, least=1)
    tuning_seeds: int = option(2, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        split = {"class", "task"} & set(getattr(self, "streams", ()))
        self.require(
            not split or self.tasks <= CLASSES // 2,
            f"tasks must be at most {CLASSES // 2} where classes are split, got {self.tasks}",
        )

    @cached_property
    def images(self) -> "Images":
        """Loaded once, when first needed."""
        assert self.data is not None
        return images(self.data, _HELD_OUT[self.preset])

    @property
    def together(self) -> int:
        """Runs side by side in one program: that saves time where a step is too small to fill the
        machine."""
        return _TOGETHER[self.preset] if jax.default_backend() == "cpu" else 64


# Where examples come from


@dataclass(frozen=True)
class Images:
    """As many of each class, uint8.

    Attributes:
        train: (classes, images, pixels).
        held_out: (2, classes, images, pixels): those to tune by, those to judge by.
        scale: the largest grey level.
    """

    train: np.ndarray
    held_out: np.ndarray
    scale: int


def images(name: str, held_out: int) -> Images:
    """The training images of a data set without the `held_out` last of each class, and as many of
    each class to tune by and to judge by."""
    found = data.load(name)

    def by_class(split: data.Split) -> list[np.ndarray]:
        rows = split.images.reshape(len(split), -1)
        # Drawn once: files may be sorted by writer.
        order = np.random.default_rng(0).permutation(len(split))
        return [rows[order][split.labels[order] == label] for label in range(CLASSES)]

    train, test = by_class(found.train), by_class(found.test)
    count = min(map(len, train))
    tune = np.stack([rows[count - held_out : count] for rows in train])
    judge = np.stack([rows[:held_out] for rows in test])
    rest = np.stack([rows[: count - held_out] for rows in train])
    return Images(rest, np.stack([tune, judge]), found.scale)


def draw_tasks(permuted: bool, tasks: int, pixels: int, key: Array) -> tuple[Array, Array]:
    """One run's tasks: the classes of each, (tasks, own classes), and the place that each of its
    pixels is taken from, (tasks, pixels). Either classes are shared out evenly, or each task has
    all of them with its pixels permuted, those of the first task excepted."""
    if permuted:
        classes = jnp.tile(jnp.arange(CLASSES), (tasks, 1))
        keys = jax.random.split(key, tasks - 1)
        moved = jax.vmap(lambda k: jax.random.permutation(k, pixels))(keys)
        return classes, jnp.concatenate([jnp.arange(pixels)[None], moved])
    classes = jax.random.permutation(key, CLASSES)[: CLASSES // tasks * tasks]
    return classes.reshape(tasks, -1), jnp.tile(jnp.arange(pixels), (tasks, 1))


def draw_images(train: Array, task: tuple[Array, Array], keys: Any, count: int) -> Any:
    """`count` images of a task and their labels, from two keys."""
    own, places = task
    labels = own[jax.random.randint(keys[0], (count,), 0, len(own))]
    index = jax.random.randint(keys[1], (count,), 0, train.shape[1])
    return train[labels, index][:, places], labels


def held_out_images(held_out: Array, task: tuple[Array, Array], judged: Any) -> tuple[Array, Array]:
    """A task's images to tune by (0) or to judge by (1), and their labels."""
    own, places = task
    rows = held_out[judged, own]
    labels = jnp.repeat(own, rows.shape[1])
    return rows.reshape(-1, rows.shape[-1])[:, places], labels


# How they are learned


def system(
    model: Level, look: Callable[[dict[str, Any]], Any], steps: int, slow: Sequence[Level] = ()
) -> Nest:
    """A level "model" that learns at every step of a task, and is looked at when a task is over:
    values -> accuracy on every task, (tasks,). Slow levels move then. So a step of the nest is a
    task. What tells runs apart (a rate, their examples) is the value of a level "run"."""

    def report(values: dict[str, Any], batch: Any) -> tuple[Array, Any]:
        return jnp.zeros(()), look(values)

    return Nest([model, Held("run"), *slow, Held("look", steps, report)], norms=False)


def accuracies(
    scores: Callable[[Any], Array], shown: Any, held: Any, tasks: int
) -> Float[Array, " tasks"]:
    """Accuracy on every task; 0 if what is held is not finite: weights, and what else the scores
    depend on. `scores` makes (n, classes) of what is shown of a task, the parts of a pytree with a
    leading axis of tasks, of which the labels are the last."""

    def right(one: Any) -> Array:
        return jnp.mean(jnp.argmax(scores(one), axis=1) == one[-1])

    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves(held)]))
    return jnp.where(finite, jax.lax.map(right, shown), jnp.zeros(tasks))


def zero(values: Any, task: Any, key: Array) -> Array:
    """The number that a process begins to count with."""
    return jnp.zeros((), jnp.int32)


def example(nest: Nest, shared: Any, first: Callable[..., Any], *rates: Any) -> lab.Example:
    """One run; see `runner`."""
    key = jax.random.key(0)
    return lab.Example(nest, nest.init(first(shared, key, 1, *rates), key))


def stages(learn: Callable[..., lab.Record], settings: Any) -> dict[str, lab.Stage]:
    """(settings, stream, arm, desk) -> record, for every arm on every stream."""
    return {
        f"{kind} {arm}": partial(learn, settings, kind, arm)
        for kind in settings.streams
        for arm in settings.arms
    }


def runner(
    settings: Any,
    nest: Nest,
    shared: Any,
    first: Callable[..., dict[str, Any]],
    before: Callable[[dict[str, Any]], Any] | None = None,
) -> Callable[..., np.ndarray]:
    """(seeds, rates, ...), one of each for every run -> accuracy after task i on task j, with a
    leading axis of runs. Seeds from `lab.tuning(0)` on are looked at on examples to tune by.

    Args:
        settings: how many tasks, and runs in one call.
        nest: of `system`.
        shared: what all runs share, such as images.
        first: (shared, key, judged, rate, ...) -> the values that a run begins with.
        before: values -> accuracies before anything is learned, which then come first.
    """
    import equinox as eqx  # would double the time that the command line takes

    @eqx.filter_jit
    def start(shared: Any, *each: Any) -> tuple[Any, Any]:
        values = eqx.filter_vmap(partial(first, shared))(*each)
        return values, None if before is None else eqx.filter_vmap(before)(values)

    def program(seeds: Sequence[int], *columns: Sequence[float]) -> dict[str, Any]:
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        judged = jnp.asarray([int(not is_tuning(seed)) for seed in seeds])
        rates = [jnp.asarray(column, float) for column in columns]
        values, unlearned = start(shared, keys, judged, *rates)
        # Rates may be too large: such a run knows nothing.
        info = nest.run(nest.init({}, keys, each=values), settings.tasks, check=False)[1]
        known = [] if unlearned is None else [np.asarray(unlearned)[:, None]]
        return {"known": np.concatenate([*known, np.swapaxes(info["look"].user, 0, 1)], axis=1)}

    together = settings.together
    return lambda *columns: lab.side_by_side(program, together, *columns)["known"]


# What is remembered of them


def measures(matrix: np.ndarray) -> dict[str, Any]:
    """Of accuracies (..., tasks, tasks), after task i on task j; each of shape (...).

    `learning` is accuracy on a task when it is over, mean over tasks; `forgetting` the most that
    was ever known of a task from then on, less what is known at the end, mean over all tasks but
    the last; `final` accuracy at the end, mean over tasks.
    """
    learned = np.diagonal(matrix, axis1=-2, axis2=-1).mean(-1)
    end = matrix[..., -1, :]
    most = np.stack([matrix[..., j:, j].max(-1) for j in range(matrix.shape[-1])], axis=-1)
    lost = (most - end)[..., :-1].mean(-1)
    return {"learning": learned, "forgetting": lost, "final": end.mean(-1)}


def remembered(value: Callable[[lab.Record, str], Any]) -> list[lab.Measure]:
    """What is reported of every arm: (record, a name of `measures`) -> (seeds,)."""
    return [
        lab.share("final accuracy", lambda record: value(record, "final")),
        lab.share("learning accuracy", lambda record: value(record, "learning")),
        lab.Measure("forgetting", lambda record: value(record, "forgetting"), "points"),
    ]


def finished(settings: Any, records: lab.Records) -> dict[str, lab.Records]:
    """Stream -> arm -> record, of the streams of which there is any."""
    found = {one: lab.of_subject(records, one, settings.arms) for one in settings.streams}
    return {stream: some for stream, some in found.items() if some}


def seen(matrix: np.ndarray) -> np.ndarray:
    """(..., tasks, tasks) -> (..., tasks): mean accuracy on the tasks so far, after each."""
    tasks = matrix.shape[-1]
    return (matrix * np.tri(tasks)).sum(-1) / np.arange(1, tasks + 1)


def more(own: np.ndarray, other: np.ndarray) -> bool | None:
    """Whether an arm knows more than another, (seeds,) each."""
    return ahead(own - other)


def ahead(*differences: np.ndarray) -> bool | None:
    """Whether all of these differences, paired over seeds, count; None if one cannot be told."""
    told = [lab.clearly(difference, LEAST) for difference in differences]
    return None if None in told else all(told)


def so_far(title: str, matrices: Mapping[str, Any], levels: Any = None) -> Panel:
    """Accuracy on the tasks so far: label -> accuracies (seeds, tasks, tasks)."""
    lines = []
    for label, matrix in matrices.items():
        known = 100 * seen(np.asarray(matrix))
        lines.append(Line(np.arange(1, known.shape[1] + 1), known.T, label))
    return Panel(title, "tasks so far", "accuracy on them (%)", lines, levels)
