"""Is Hope a better language model? Blocks on one skeleton, and Hope with one thing less.

Characters of tiny Shakespeare, or bytes of WikiText-2; every model has about as many parameters,
tries learning rates by the same rule (some, and up to two more where the best lies at an edge), and
is judged after as many steps on text that none has seen; where blocks have an MLP, once more while
that learns from what it reads (a level stacked on a trained model, Nested Learning 7.3).

    nestax run language-model --out runs/language-model
    nestax run language-model --preset hour --out runs/hour
    nestax run language-model --preset full --data wikitext2 --out runs/wikitext2

The second trains one model of 1.8 million parameters. How long they took is recorded with their
results.

Source: the claims are those of Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025),
Tables 2 and 6, made there of models with 760 million parameters and more.
"""

import dataclasses
import functools
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from nestax.runs import RunFolder, SettingsError

from ..options import positive
from ..study import Example, Records, Study, beyond, tuned, tuning
from . import corpora
from .arms import ARMS, FAMILIES, Shape, parameters
from .figures import draw_all
from .findings import find
from .training import Size, discard, judge, judge_in_context, system, train, write

_PRESETS: dict[str, dict[str, Any]] = {
    "small": {"arms": ("all",), "seeds": 3, "trials": 3, "steps": 600, "width": 64, "depth": 2,
              "heads": 4, "length": 128, "batch_size": 8, "rate": 1e-2, "decay": 0.1,
              "dropout": 0.0},
    "hour": {"arms": ("transformer",), "seeds": 1, "trials": 1, "steps": 8000, "width": 192,
             "depth": 4, "heads": 4, "length": 256, "batch_size": 8, "rate": 3e-3, "decay": 0.5,
             "dropout": 0.1},
    "full": {"arms": ("all",), "seeds": 3, "trials": 5, "steps": 5000, "width": 256, "depth": 6,
             "heads": 4, "length": 512, "batch_size": 32, "rate": 2e-3, "decay": 0.1,
             "dropout": 0.0},
}  # fmt: skip
_POINTS = 20
_PATIENCE = {"windows": 1000, "pieces": 16, "sample": 300}
_DECADES = 0.4  # between the rates tried


@dataclasses.dataclass(frozen=True)
class Settings:
    """Is Hope a better language model, and what of it helps?

    Attributes:
        preset: What is not given below. small compares all models at a small size on two cores;
            hour trains one model of 1.8 million parameters in less than one; full is for a GPU.
        data: Tiny Shakespeare by characters, or WikiText-2 by bytes.
        arms: Of those compared, or families of them (blocks, ablations), separated by commas; or
            all.
        seeds: Runs to judge by, of each model.
        trials: Learning rates tried, each with half of the steps, a factor of 2.5 apart, and up to
            two more where the best is the smallest or largest; 1 takes the rate as it is.
        steps: Of every run, a multiple of 40.
        width: Of the residual sum; blocks of all kinds have about as many parameters.
        depth: Blocks.
        heads: Of every block.
        length: Tokens in a window.
        batch_size: Windows in a step.
        rate: The learning rate, or the middle of those tried.
        decay: Of weights, in units of the learning rate.
        dropout: Probability with which a number of an embedding, or one that a block adds, is left
            out in training.

    Raises:
        SettingsError: a value that makes no sense.
    """

    preset: Literal["small", "hour", "full"] = "small"
    data: Literal["tinyshakespeare", "wikitext2"] = "tinyshakespeare"
    arms: tuple[str, ...] = ()
    seeds: int | None = None
    trials: int | None = None
    steps: int | None = None
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    length: int | None = None
    batch_size: int | None = None
    rate: float | None = None
    decay: float | None = None
    dropout: float | None = None

    def __post_init__(self) -> None:
        for name, usual in _PRESETS[self.preset].items():
            if getattr(self, name) in (None, ()):
                object.__setattr__(self, name, usual)
        no_counts = "arms", "rate", "decay", "dropout"
        positive(self, *(name for name in _PRESETS[self.preset] if name not in no_counts))
        families = {f: [a for a in ARMS if ARMS[a].family == f] for f in FAMILIES}
        named = families | {"all": list(ARMS)} | {arm: [arm] for arm in ARMS}
        if unknown := [arm for arm in self.arms if arm not in named]:
            raise SettingsError(
                f"arms are of all, {', '.join(families)}, {', '.join(ARMS)}; got "
                f"{', '.join(unknown)}"
            )
        wanted = {arm for name in self.arms for arm in named[name]}
        object.__setattr__(self, "arms", tuple(arm for arm in ARMS if arm in wanted))
        assert self.rate is not None and self.steps and self.width and self.heads
        assert self.dropout is not None and self.decay is not None
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"dropout must be at least 0 and less than 1, got {self.dropout}")
        if self.decay < 0:
            raise SettingsError(f"decay must be at least 0, got {self.decay}")
        if self.rate <= 0:
            raise SettingsError(f"rate must be positive, got {self.rate}")
        if self.steps % (2 * _POINTS):
            raise SettingsError(f"steps must be a multiple of {2 * _POINTS}, got {self.steps}")
        if self.width % (2 * self.heads):
            raise SettingsError(
                f"width must be a multiple of twice the heads, {2 * self.heads}, got {self.width}"
            )


def rates(settings: Any) -> list[float]:
    """The learning rates tried, smallest first."""
    middle = (settings.trials - 1) / 2
    return [settings.rate * 10 ** (_DECADES * (i - middle)) for i in range(settings.trials)]


def _best(scores: Mapping[float, float | None]) -> float:
    """The rate whose score is least; None is that of a run that diverged."""
    return min((np.inf if score is None else score, rate) for rate, score in scores.items())[1]


class _Work:
    """What the stages share: the text, and for each arm its nest, so that it is compiled once."""

    def __init__(self, settings: Any, path: Path):
        self.settings, self.path = settings, path
        self.size = Size(settings.length, settings.batch_size, **_PATIENCE, decay=settings.decay)
        self.corpus = functools.cache(lambda: corpora.load(settings.data))

    def shape(self) -> Shape:
        asked = self.settings
        vocabulary = self.corpus().vocabulary
        return Shape(vocabulary, asked.width, asked.depth, asked.heads, asked.length)

    @functools.lru_cache(1)  # noqa: B019
    def nest(self, arm: str) -> Any:
        """The arm's nest. Trials take half as many steps between two looks, so that there is one
        period, and one program, for both."""
        return system(self.corpus(), self.size, self.settings.steps // (2 * _POINTS))

    def model(self, arm: str, seed: int) -> Any:
        made = ARMS[arm].given(dropout=self.settings.dropout)
        return made.make(*self.shape(), jax.random.key(seed))

    def run(self, arm: str, rate: float, seed: int, points: int, say: Any) -> Any:
        folder = self.path / f"{arm}-{seed}-{rate:.2g}"
        return train(self.nest(arm), self.model(arm, seed), rate, seed, points, folder, say)

    def tune(self, arm: str, say: Callable[[str], None]) -> dict[str, Any]:
        """The rate that predicts kept text best after half of the steps."""

        def loss(rate: float) -> float | None:
            found = self.run(arm, rate, tuning(0), _POINTS, lambda text: say(f"{rate:.2g} {text}"))
            return found.losses["trial"][-1] if found else None

        scores, best = tuned(
            rates(self.settings),
            lambda fresh: [loss(rate) for rate in fresh],
            _best,
            lambda scores, best: beyond(scores, best, _DECADES),
        )
        tried = sorted(scores)
        for rate in tried:  # not before: an interruption does not repeat those that are done
            discard(self.path / f"{arm}-{tuning(0)}-{rate:.2g}")
        return {
            "rates": tried,
            "scores": [scores[rate] for rate in tried],
            "rate": best,
            "edge": best in (tried[0], tried[-1]),
        }

    def learn(self, arm: str, seed: int, rate: float, say: Callable[[str], None]) -> dict[str, Any]:
        """One seed: its curves, and how its model is judged."""
        record: dict[str, Any] = {"rate": rate, "parameters": parameters(arm, self.shape())}
        found = self.run(arm, rate, seed, 2 * _POINTS, say)
        if found is None:
            discard(self.path / f"{arm}-{seed}-{rate:.2g}")
            return record | {"diverged": True}
        say("is judged")
        record |= {"step": found.step, "curves": found.losses}
        record |= judge(found.model, self.corpus(), self.size)
        record |= judge_in_context(found.model, self.corpus(), self.size)
        if seed == 0:
            record["prompt"], record["sample"] = write(found.model, self.corpus(), self.size, seed)
        discard(self.path / f"{arm}-{seed}-{rate:.2g}")
        return record


def stages(
    settings: Any, path: Path | None = None, records: Callable[[], Records] = dict
) -> dict[str, Any]:
    """An arm's trials, then a stage for each of its seeds.

    Args:
        settings: what to run.
        path: where interrupted runs are kept; None: nothing outlives an interruption.
        records: the stages that are done, among them the arm's trials.
    """
    # Of its own, and made only when something is written.
    kept = path or Path(tempfile.gettempdir()) / f"nestax-{uuid.uuid4().hex}"
    work = _Work(settings, kept)
    made: dict[str, Any] = {}
    for arm in settings.arms:
        if settings.trials > 1:
            made[f"{arm} rates"] = functools.partial(work.tune, arm)

        for seed in range(settings.seeds):

            def stage(say: Any, arm: str = arm, seed: int = seed) -> dict[str, Any]:
                tuned = records().get(f"{arm} rates")
                return work.learn(arm, seed, tuned["rate"] if tuned else settings.rate, say)

            made[f"{arm} seed {seed}"] = stage
    return made


def run(settings: Settings, folder: RunFolder) -> None:
    """Does the stages that the folder lacks, and goes on within the one that was interrupted."""
    kept = folder.path / "checkpoints"

    def records() -> Records:
        return {record["stage"]: record for record in folder.metrics("stage")}

    dataclasses.replace(STUDY, stages=lambda s: stages(s, kept, records)).run(settings, folder)


def example(settings: Any) -> Example:
    """The nest of the first arm."""
    with tempfile.TemporaryDirectory() as directory:
        work = _Work(settings, Path(directory))
        nest, arm = work.nest(settings.arms[0]), settings.arms[0]
        trial = {"rate": np.float32(settings.rate), "steps": np.float32(settings.steps)}
        values = {"model": work.model(arm, 0), "trial": trial}
        return Example(nest, nest.init(values, jax.random.key(0)), None, {})


STUDY = Study(
    "Language models that learn while they read",
    "Hope writes what it reads into memories that also decide how they are written, and passes it "
    "through a chain of layers that are written at several clocks. Here it is compared with other "
    "blocks on the same skeleton, and with itself where one thing is changed: as many parameters "
    "and steps for each, and learning rates tried by the same rule.",
    stages,
    find,
    draw_all,
    example,
)
