"""Adversarial training: a generator and a discriminator with complex momentum, as a game of peers.

Source: Lorraine, Acuna, Vicol and Duvenaud, "Complex Momentum for Optimization in Games" (2022),
section 4.3, whose grids, networks and sizes these are not.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from .. import images, lab
from . import players, training, worlds
from .findings import draw, find
from .training import ARGUMENTS, Beta

ROUNDS = 3  # how often the last samples are drawn again
SHOWN = 256  # points, or 16 pictures, in a figure of samples
TUNED_BY = tuple(lab.tuning(seed) for seed in range(2))


def _sized(ring: Any, full: Any, *others: Any, **bounds: Any) -> Any:
    """A value for each task, small and full: of the ring, of convolutional, of conditional."""
    names = [f"{task} {size}" for task in ("convolutional", "conditional") for size in _SIZES]
    return lab.option(**bounds, small=ring, full=full, **dict(zip(names, others, strict=True)))


_SIZES = ("small", "full")


@dataclasses.dataclass(frozen=True)
class Settings(lab.Options):
    """Does a complex momentum of the discriminator help a GAN?

    Attributes:
        task: ring, eight normal distributions in the plane; convolutional, pictures by small
            networks with spectral normalization; conditional, pictures by class and residual
            networks, which need a GPU.
        preset: What is not given below; full is for a GPU.
        data: The pictures of the last two tasks.
        order: In which the players move.
        equal: What is the same for every beta, separated by commas: the learning rate, or the step
            that a constant gradient makes, rate Re 1 / (1 - beta).
        moduli: |beta| of the discriminator, beside 0.
        arguments: Of beta, of 0, π/8, π/4, π/2 and π.
        trials: Learning rates tried for each player, on seeds of their own and all combinations, by
            their mean over 0 and the betas of one modulus; the generator's serves all arms.
        seeds: Runs to judge by.
        steps: Of every run.
        batch: Real and as many generated samples in a step.
        width: Channels of networks for pictures.
        samples: To measure by.
        points: How often a run is measured, a multiple of 4.
    """

    task: Literal["ring", "convolutional", "conditional"] = "ring"
    preset: lab.Preset = "small"
    data: images.Data = "fashion-mnist"
    order: players.Order = "simultaneous"
    equal: tuple[str, ...] = lab.names(("rate", "step"))
    moduli: tuple[float, ...] | None = _sized(
        (0.3, 0.5, 0.7, 0.8, 0.9), (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95),
        (0.8,), (0.5, 0.8, 0.9), (0.8,), (0.8,),
    )  # fmt: skip
    arguments: tuple[str, ...] = lab.names(ARGUMENTS)
    trials: int | None = _sized(3, 5, 1, 3, 1, 1, least=1)
    seeds: int | None = _sized(5, 10, 2, 5, 1, 3, least=1)
    steps: int | None = _sized(5000, 20_000, 2000, 20_000, 100, 50_000, least=4)
    batch: int | None = _sized(128, 256, 32, 128, 16, 128, least=2)
    width: int | None = _sized(48, 48, 16, 64, 32, 256, least=4, multiple=4)
    samples: int = lab.option(1000, least=16)
    points: int = lab.option(20, least=4, multiple=4)

    def __post_init__(self) -> None:
        super().__post_init__()
        own: Any = self  # presets are in place
        words = f"steps must be a multiple of points, {own.points}, got {own.steps}"
        self.require(own.steps % own.points == 0, words)
        words = f"moduli must differ and lie between 0 and 1, got {own.moduli}"
        fits = all(0 < modulus < 1 for modulus in own.moduli)
        self.require(fits and len(set(own.moduli)) == len(own.moduli), words)

    @property
    def _preset_key(self) -> str:
        return self.preset if self.task == "ring" else f"{self.task} {self.preset}"


RATES = {"ring": 1e-3, "convolutional": 5e-4, "conditional": 2e-4}  # of the middle trial


def world_of(settings: Any) -> worlds.World:
    if settings.task == "ring":
        return worlds.ring(settings.batch)
    by_class = settings.task == "conditional"
    return worlds.pictures(settings.data, settings.batch, settings.width, by_class)


def betas_of(settings: Any) -> dict[str, Beta]:
    return training.grid(settings.moduli, settings.arguments)


def compared(settings: Any) -> dict[str, Beta]:
    """0, and every argument with the modulus nearest to the paper's 0.8: rates are tuned by these,
    and they are drawn."""
    modulus = min(settings.moduli, key=lambda m: abs(m - 0.8))
    return training.grid((modulus,), settings.arguments)


def stages(settings: Any) -> dict[str, lab.Stage]:
    """A stage for each of the two comparisons."""
    world = functools.cache(lambda: world_of(settings))  # may read files, and trains a classifier

    def compares(equal: str) -> lab.Stage:
        return lambda desk: compare(settings, world(), equal, desk)

    return {f"equal {equal}": compares(equal) for equal in settings.equal}


def score(matched: Any) -> np.ndarray:
    """(runs,): the mean over the last quarter of a run's measurements, (1 + points, runs); 0 where
    it diverged."""
    matched = np.asarray(matched, float)
    return np.nan_to_num(matched[-(len(matched) // 4) :], nan=0.0).mean(0)


def compare(settings: Any, world: worlds.World, equal: str, desk: lab.Desk) -> lab.Record:
    """Rates chosen, then every beta with every seed in one program."""
    nest = players.nest_of(world.game, settings.order)

    def play(betas: Sequence[Beta], rates: Any, seeds: Sequence[int], *, judged: bool) -> Any:
        """Each beta with each seed; `rates` are pairs, one for each beta."""
        generator, rate = np.asarray(rates, float).T
        runs = training.settings_of(betas, generator, rate, equal)
        runs = {name: np.repeat(values, len(seeds)) for name, values in runs.items()}
        shown = SHOWN if judged else 1

        def look(made: Any, key: jax.Array) -> Any:
            samples = world.game.sample(made, key, settings.samples)
            few = samples[: 16 if world.picture else shown]
            return world.fit(samples) | {"samples": few}

        def last(made: Any, key: jax.Array) -> Any:
            measure = lambda key: world.measures(made, key, settings.samples)  # noqa: E731
            return jax.lax.map(measure, jax.random.split(key, ROUNDS)) if judged else ()

        every = list(seeds) * len(betas)
        words = lambda text: desk.say(("judged  " if judged else "rates  ") + text)  # noqa: E731
        return training.played(
            world, nest, runs, every, settings.steps, settings.points, look, last, words
        )

    by = list(compared(settings).values())

    def attempt(pairs: Sequence[Any]) -> list[float]:
        rates = [pair for pair in pairs for _ in by]
        seen, _ = play(by * len(pairs), rates, TUNED_BY, judged=False)
        return score(seen["matched"]).reshape(len(pairs), -1).mean(1).tolist()

    def further(tried: Any, best: Any) -> list[Any]:
        """The neighbours of the best pair that lie beyond those tried."""
        sides = [[b, *lab.beyond([t[i] for t in tried], b, 0.5)] for i, b in enumerate(best)]
        pairs = [(a, b) for a in sides[0] for b in sides[1]]
        return [pair for pair in pairs if pair not in tried]

    rates = lab.rates(RATES[settings.task], 0.5, settings.trials)
    first, tried = [(a, b) for a in rates for b in rates], {}
    best: Any = first[0]
    if settings.trials > 1:
        tried, best = lab.tuned(first, attempt, lambda t: max(t, key=lambda pair: t[pair]), further)

    betas, seeds = betas_of(settings), [*TUNED_BY, *range(settings.seeds)]
    seen, end = play(list(betas.values()), [best] * len(betas), seeds, judged=True)
    shape, own = (len(betas), len(seeds)), len(TUNED_BY)
    curves = seen["matched"].reshape(-1, *shape)
    ends = {name: np.reshape(values, (*shape, ROUNDS))[:, own:] for name, values in end.items()}
    scores = score(seen["matched"]).reshape(shape)
    samples = seen["samples"].reshape(-1, *shape, *seen["samples"].shape[2:])
    times = np.arange(0, settings.points + 1, settings.points // 4)
    drawn = [(name, list(betas).index(name)) for name in compared(settings)]
    record = {
        "generator": best[0],
        "rate": best[1],
        "edge": bool(tried and further(tried, best)),
        "tried": [[*pair, value] for pair, value in tried.items()],
        "chosen by": scores[:, :own],
        "score": scores[:, own:],
        "curve": {name: curves[:, i, own:] for name, i in drawn},
        "end": {name: values.mean(-1) for name, values in ends.items()},
        "redrawn": {name: values.std(-1, ddof=1) for name, values in ends.items()},
        "samples": {name: samples[times, i, own] for name, i in drawn},
    }
    return lab.listed(record, 4)


def example(settings: Any) -> lab.Example:
    """The nest of one run of the ring, before its first step."""
    world = worlds.ring(settings.batch) if settings.task == "ring" else world_of(settings)
    nest = players.nest_of(world.game, settings.order)
    made, judged = world.game.init(jax.random.key(0))
    run = {"generator": 1e-3, "rate": 1e-3, "modulus": 0.8, "argument": np.pi / 8}
    run = {name: jax.numpy.float32(value) for name, value in run.items()}
    values = {"generator": made, "discriminator": judged, "run": run}
    return lab.Example(nest, nest.init(values, jax.random.key(0)))


LEAD = """A generator and a discriminator are two peers of a nest, each with an optimizer of its
own. The discriminator's momentum decays by a complex number, whose modulus and argument are tried
on a grid: at equal learning rates, and at equal steps along a constant gradient. Which beta covers
the data best?"""
STUDY = lab.Study("Adversarial training", LEAD, Settings, stages, find, draw, example)
