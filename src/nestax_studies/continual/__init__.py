"""Does a continuum memory forget less than plain networks, consolidation and replay?

Sources: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), sections 7.1 and 9, for
the memory and the claim; Kirkpatrick et al., "Overcoming catastrophic forgetting in neural
networks" (2017), and Schwarz et al., "Progress & compress" (2018), for consolidation; Chaudhry et
al., "On tiny episodic memories in continual learning" (2019), for replay; Lopez-Paz and Ranzato,
"Gradient episodic memory" (2017), for backward and forward transfer.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from .. import lab, streams
from ..lab import names, option
from ..lab.figures import Column, Dot, Map, Sheet, curves, dots, maps
from ..lab.train import parameters
from ..streams import PAIRED
from . import learning, worlds
from .arms import ARMS, PARTS, Network, network
from .worlds import STREAMS, World

_DECADES = 2.0  # that the rates tried cover
_CENTRES = {"class": 0.03, "permuted": 0.3, "languages": 0.2}


@dataclass(frozen=True)
class Settings(streams.Streams):
    """Does a continuum memory forget less than plain networks, consolidation and replay?

    Every arm tries settings by the same rule, of its learning rate alone or with a second thing
    that it tunes, on seeds of their own; it is judged by fresh ones at the best.

    Attributes:
        streams: Of class (classes split between tasks, one head), permuted (all classes, pixels
            permuted) and languages (Markov chains, named), separated by commas; or all.
        arms: Of those compared, separated by commas; or all.
        steps: Of each task.
        batch_size: Examples in a step, a multiple of 8.
        hidden: Units of the MLP's layers.
        buffer: Examples that replay keeps.
        letters: Of a language.
        order: Letters that the next one depends on, 1 or 2.
        trials: Learning rates tried for each of three values of the arm's second hyperparameter;
            arms without one try three times as many; and up to two more where the best is the
            smallest or largest.
    """

    streams: tuple[str, ...] = names(STREAMS)
    arms: tuple[str, ...] = names(ARMS)
    steps: int | None = option(least=1, small=128, full=448)
    batch_size: int = option(16, least=1, multiple=max(PARTS))
    hidden: int | None = option(least=1, small=64, full=64)
    buffer: int | None = option(least=1, small=100, full=200)
    letters: int = option(8, least=2)
    order: int = option(1, least=1, most=2)
    trials: int = option(5, least=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            (self.steps or 0) * self.batch_size >= learning.FISHER,
            f"a task must have at least {learning.FISHER} examples, to estimate Fisher "
            f"information; got {self.steps} steps of {self.batch_size}",
        )

    def world(self, kind: str) -> World:
        """A stream at the size that is asked for."""
        if kind == "languages":
            return worlds.languages(self.tasks, self.letters, self.order)
        return worlds.images(kind, self.tasks, self.images)

    def network(self, world: World, arm: str) -> Network:
        """An arm's, for a world."""
        assert self.hidden is not None
        return network(ARMS[arm], world.inputs, self.hidden, world.classes, self.batch_size)


def grid(kind: str, name: str, trials: int) -> list[tuple[float, float]]:
    """The pairs of a learning rate and a second value that an arm tries on a stream."""
    extras = ARMS[name].extras
    count = trials if len(extras) > 1 else 3 * trials
    rates = lab.rates(_CENTRES[kind], _DECADES / (count - 1), count)
    return [(rate, extra) for extra in extras for rate in rates]


def learn(settings: Settings, kind: str, name: str, desk: lab.Desk) -> lab.Record:
    """One arm on one stream: what it is tuned to, and its accuracies (seeds, tasks + 1, tasks)."""
    world, seeds = settings.world(kind), settings.seeds
    net = settings.network(world, name)
    run = streams.runner(settings, *learning.parts(settings, world, ARMS[name], net))

    def attempt(pairs: Any) -> list[float]:
        desk.say(f"tries {len(pairs)} settings")
        tuning = [lab.tuning(i) for i in range(settings.tuning_seeds)]
        asked = [(seed, *pair) for pair in pairs for seed in tuning]
        final = measures(run(*zip(*asked, strict=True)))["final"]
        return final.reshape(len(pairs), -1).mean(1).tolist()

    def beside(pairs: Any, extra: float) -> list[float]:
        return [rate for rate, other in pairs if other == extra]

    def further(scores: Any, best: tuple[float, float]) -> list[tuple[float, float]]:
        spacing = _DECADES / (settings.trials - 1)  # of all arms, whatever the grid's own
        rates = lab.beyond(beside(scores, best[1]), best[0], spacing)
        return [(rate, best[1]) for rate in rates]

    first, best_of = grid(kind, name, settings.trials), lambda s: max(s, key=s.__getitem__)
    scores, (rate, extra) = lab.tuned(first, attempt, best_of, further)
    desk.say(f"runs {seeds} seeds at rate {rate:.2g}")
    matrix = run(range(seeds), [rate] * seeds, [extra] * seeds)
    tried = beside(scores, extra)
    return {
        "rate": rate,
        "extra": extra,
        "edge": rate in (min(tried), max(tried)),
        "pairs": list(scores),
        "scores": lab.listed(list(scores.values())),
        "parameters": parameters(jax.eval_shape(net.init, jax.random.key(0))),
        "ceiling": _ceiling(world, seeds),
        "matrix": lab.listed(matrix),
        **lab.listed(measures(matrix)),
    }


def _ceiling(world: World, seeds: int) -> float | None:
    """The accuracy of somebody who knows the tasks, mean over the seeds' own."""
    if world.ceiling is None:
        return None
    drawn = [learning.drawn_tasks(world, jax.random.key(seed)) for seed in range(seeds)]
    return lab.listed(np.mean([world.ceiling(tasks) for tasks in drawn]))


def example(settings: Settings) -> lab.Example:
    """One run of the first arm."""
    kind, name = settings.streams[0], settings.arms[0]
    world = settings.world(kind)
    net = settings.network(world, name)
    nest, shared, first, _ = learning.parts(settings, world, ARMS[name], net)
    return streams.example(nest, shared, first, *grid(kind, name, 2)[0])


# Findings. The criteria stood here before the recorded runs.

_CRITERION = f"average accuracy at the end, {PAIRED}"
_ONE_CLOCK = (
    f"against the same chain on one clock, and with what differs in the clock alone; {_CRITERION}"
)
_SOURCE = "(Nested Learning, section 9)"
_RIVALS = {"mlp": "a plain MLP", "ewc": "elastic weight consolidation", "replay": "replay"}


def measures(matrix: np.ndarray) -> dict[str, Any]:
    """Of accuracies (..., tasks + 1, tasks), after i tasks on task j: those of `streams.measures`,
    and transfer, each of shape (...).

    `backward` is accuracy at the end less that when a task was over, mean over all but the last;
    `forward` accuracy just before a task is learned less that before anything was, mean over all
    but the first.
    """
    learned = matrix[..., 1:, :]
    over = np.diagonal(learned, axis1=-2, axis2=-1)
    ahead = np.diagonal(matrix[..., :-1, :], axis1=-2, axis2=-1)
    return streams.measures(learned) | {
        "backward": (learned[..., -1, :] - over)[..., :-1].mean(-1),
        "forward": (ahead - matrix[..., 0, :])[..., 1:].mean(-1),
    }


def find(settings: Settings, records: lab.Records) -> lab.Findings:
    done = streams.finished(settings, records)
    cases = {
        (STREAMS[stream], ARMS[arm].label): record | {"arm": ARMS[arm]}
        for stream, some in done.items()
        for arm, record in some.items()
    }
    transfer = [
        lab.Measure(f"{name} transfer", lambda r, name=name: r[name], "points")
        for name in ("backward", "forward")
    ]
    caption = (
        f"{streams.MEASURED} Backward transfer: the end less the moment when a task was over; "
        "forward transfer: the moment before a task is learned less the beginning. The arm that "
        "learns all tasks so far at once is a reference, not a contender."
    )

    def facts(record: lab.Record) -> dict[str, Any]:
        extra = record["arm"].extra
        also = f"{extra} {record['extra']:g}" if extra else None
        return {"parameters": record["parameters"], "rate": lab.rate_tuned(record), "also": also}

    of = [*streams.remembered(lambda record, name: record[name]), *transfer]
    table = lab.numbers(("stream", "arm"), cases, of, caption, facts, best="final accuracy")
    judged = [verdict for stream, some in done.items() for verdict in _verdicts(stream, some)]
    return lab.Findings(table, judged)


def _verdicts(stream: str, done: lab.Records) -> list[lab.Verdict]:
    found = []
    final = {name: np.asarray(record["final"]) for name, record in done.items()}
    clocks = [name for name in done if ARMS[name].continuum]
    for name in clocks:
        others = dict.fromkeys(("chain", ARMS[name].control or "chain"))
        gains = {ARMS[o].label: final[name] - final[o] if o in done else None for o in others}
        label = ARMS[name].label
        claim = f"Several clocks know more in the end than one: {label} (Nested Learning, 7.1)"
        look: dict[str, Any] = {"of": STREAMS[stream], "unit": " points behind"}
        found.append(lab.judge(claim, _ONE_CLOCK, gains, streams.ahead, **look))
    for rival in (name for name in _RIVALS if name in done and clocks):
        best = max(clocks, key=lambda name: max(done[name]["scores"]))
        claim = f"A continuum memory knows more in the end than {_RIVALS[rival]} {_SOURCE}"
        criterion = (
            f"the best of {len(clocks)} arms with several clocks, chosen on seeds of its own "
            f"(so about {len(clocks)} times the rival's settings); {_CRITERION}"
        )
        ends = {ARMS[name].label: final[name] for name in (best, rival)}
        found.append(lab.judge(claim, criterion, ends, streams.more, of=STREAMS[stream]))
    return found


# Figures

_GROUPS = {
    "clocks": ("Clocks against one clock", ("chain", "continuum-steps", "continuum-rates",
               "continuum-label", "continuum-local", "continuum-both")),
    "rivals": ("A continuum memory's rivals", ("mlp", "continuum-steps", "continuum-label", "ewc",
               "replay", "joint")),
}  # fmt: skip


def draw(settings: Settings, records: lab.Records) -> list[Sheet]:
    done, sheets = streams.finished(settings, records), []
    caption = (
        "Mean accuracy on the tasks so far, at what was tuned: medians over seeds, bands their "
        "range."
    )
    for name, (title, group) in _GROUPS.items():
        panels = []
        for stream, some in done.items():
            shown = {arm: some[arm] for arm in group if arm in some}
            after = {ARMS[a].label: np.asarray(r["matrix"])[:, 1:] for a, r in shown.items()}
            best = [100 * r["ceiling"] for r in some.values() if r["ceiling"] is not None]
            levels = {"who knows the languages": best[0]} if best else None
            panels.append(streams.so_far(STREAMS[stream], after, levels))
        if sum(len(panel.lines) for panel in panels) > 1:
            sheets.append(curves(name, panels, title, caption))
    tasks = [str(i) for i in range(settings.tasks + 1)]
    look: dict[str, Any] = {"x": tasks[1:], "y": tasks, "label": "accuracy (%)", "columns": 5}
    caption = (
        "Medians over seeds; tasks looked at across, tasks learned down. The first row is before "
        "anything is learned."
    )
    for stream, some in done.items():
        known = [Map(ARMS[a].label, 100 * np.median(r["matrix"], 0)) for a, r in some.items()]
        title = f"Accuracies: {STREAMS[stream]}"
        sheets.append(maps(stream, known, title, caption, limits=(0, 100), **look))
    return [_results(done), *sheets] if done else []


def _results(done: dict[str, lab.Records]) -> Sheet:
    """A row for each arm; for each stream a column of final accuracies and one of forgetting."""
    shown = (("final", "in the end", "accuracy (%)"), ("forgetting", "forgotten", "points"))
    columns = []
    for stream, some in done.items():
        for colour, (name, words, unit) in enumerate(shown):
            dot = {ARMS[a].label: [Dot(100 * np.asarray(r[name]), colour)] for a, r in some.items()}
            columns.append(Column(f"{stream}: {words}", unit, dot))
    caption = (
        "Dots are medians over seeds, bars their range. Accuracy is the mean over all tasks at the "
        "end; forgotten is the most ever known of a task less what is known at the end."
    )
    return dots("results", columns, "All arms", caption)


LEAD = """Memories on several clocks are said to keep what was learned earlier, without the help of
stored examples. Tasks are learned one after another by a chain of MLPs whose starts move at several
clocks of optimizer steps, or which is written in context at several clocks of examples, and by a
plain network, elastic weight consolidation, and replay; all see the same examples and are tuned by
the same rule."""
TITLE = "A continuum memory against forgetting"
STUDY = lab.Study(TITLE, LEAD, Settings, partial(streams.stages, learn), find, draw, example)
