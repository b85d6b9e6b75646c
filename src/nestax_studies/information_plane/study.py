"""The study: settings, an arm from its learning rate to its last measurement, and the findings."""

import functools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from nestax.runs import Details, RunError, RunFolder, Section, Table, Text

from .. import data, lab
from ..images import MOST, Data
from ..lab import names, option
from . import claims, figures
from .arms import ARMS
from .measure import Curves, Measurement
from .training import Images, Networks, Training

SWEEP = tuple(float(rate) for rate in 10.0 ** np.arange(-4, 0.25, 0.5))
SWEEP_SEEDS = 2


@dataclass(frozen=True)
class Settings(lab.Options):
    """Do nested optimizers compress representations?

    Attributes:
        data: Data set; digits needs no download.
        arms: Optimizers, separated by commas, of sgd, gdm, adamw, dmgd, dmgd-l2, dmgd-normalized,
            frozen, sign, normalized, ema-sign, rmsprop, published; or all.
        widths: Units of the hidden layers, first to last, separated by commas.
        activation: Of the hidden layers. The fixed bins lie on [-1, 1] for both.
        epochs: Passes over the training images.
        batch_size: Images per step; the incomplete last batch of an epoch is left out.
        seeds: Networks per arm, trained side by side, which differ in their initial weights.
        learning_rate: Of every arm, unless --tune or --match-step chooses it. The default is the
            published setting.
        tune: Choose each arm's learning rate, but that of published, by its loss on a held-out
            tenth of the training images. All arms get the same nine rates, two seeds and epochs.
        tune_epochs: Epochs of the sweep; a tenth of --epochs if not given.
        match_step: Choose each arm's learning rate so that its steps over the first epoch, taken
            at the initial weights, have this root mean square per coordinate. The steps of
            published have 0.00316.
        measurements: Number of epochs (log-spaced, the initial weights among them) at which
            everything is measured.
        kde_points: Images used by the kernel-density bounds, whose cost is quadratic in them.
    """

    data: Data = "digits"
    arms: tuple[str, ...] = names(ARMS, ("sgd", "gdm", "adamw", "dmgd", "published"))
    widths: tuple[int, ...] = (12, 10, 8, 6, 4)
    activation: Literal["tanh", "relu"] = "tanh"
    epochs: int = option(3999, least=1)
    batch_size: int = option(128, least=1)
    seeds: int = option(5, least=1)
    learning_rate: float = option(1e-3, above=0)
    tune: bool = False
    tune_epochs: int | None = option(least=1)
    match_step: float | None = option(above=0)
    measurements: int = option(25, least=2)
    kde_points: int = option(500, least=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.batch_size <= self.learned,
            f"a batch of {self.batch_size} does not fit into the {self.learned} images of "
            f"{self.data} that are learned from; give a smaller batch_size",
        )
        positive = min(self.widths, default=0) >= 1
        self.require(positive, f"widths must be positive numbers, got {self.widths}")
        words = "tune_epochs is the length of a sweep; give --tune as well"
        self.require(self.tune or self.tune_epochs is None, words)
        words = "tune and match_step both choose the learning rates; give one of them"
        self.require(not self.tune or self.match_step is None, words)

    @property
    def learned(self) -> int:
        """Images that are learned from; a sweep holds a tenth out."""
        return MOST[self.data] * 9 // 10 if self.tune else MOST[self.data]

    def schedule(self) -> tuple[int, ...]:
        """The epochs of measurement: 0, then log-spaced to the last."""
        spaced = np.geomspace(1, self.epochs, self.measurements - 1).round().astype(int)
        return (0, *sorted(set(spaced.tolist())))


class Bench:
    """What the arms share: the images, and one measuring program.

    Args:
        settings: of the run.
        keep: seconds of training that an interruption may cost, about.

    Raises:
        DataError: the data set cannot be had.
    """

    def __init__(self, settings: Settings, keep: float = 30.0):
        self.settings, self.keep = settings, keep
        dataset = data.load(settings.data)
        self.kept = len(dataset.train) * 9 // 10  # what a sweep learns from; the rest is held out
        self.sizes = (dataset.train.images[0].size, *settings.widths, dataset.classes)
        self.measurement = Measurement(dataset, settings.activation, settings.kde_points)
        # Measuring takes a third of a minute to compile; meanwhile the first arm's sweep runs.
        first = self._fresh(self.training(settings.arms[0]), 0.0).parameters
        self.compiling = threading.Thread(target=self.measurement, args=(first,), daemon=True)
        self.compiling.start()

    def training(self, arm: str) -> Training:
        settings = self.settings
        return Training(ARMS[arm].make, self.sizes, settings.activation, settings.batch_size)

    def _fresh(self, training: Training, rate: float) -> Networks:
        seeds = self.settings.seeds
        return training.init(jnp.arange(seeds), jnp.full(seeds, rate, jnp.float32))

    def arm(self, name: str, desk: lab.Desk) -> lab.Record:
        """An arm's learning rate and measurements, from wherever its folder says that it is.

        It may be interrupted at any moment and gone on with; the record does not depend on that.
        """
        settings, training, path = self.settings, self.training(name), desk.path
        begun = (path / "settings.json").exists()
        with RunFolder(path) if begun else RunFolder.create(path, "arm", {}) as folder:
            choice = folder.read_json("facts.json")
            if not choice:
                choice = self._rate(name, training, desk)
                folder.write_json("facts.json", choice)
            networks = self._fresh(training, choice["rate"])
            if folder.rewind():
                networks = folder.restore(networks)
            measured, saved = folder.metrics(), time.monotonic()
            for target in settings.schedule():
                for state in self._pieces(training, networks, target, self.measurement.train):
                    networks = state
                    epoch, loss = int(networks.epoch), np.asarray(networks.loss)
                    if not np.isfinite(loss).all():
                        raise self._diverged(name, networks, choice["rate"])
                    accuracy = np.median(measured[-1]["test"]["accuracy"])
                    told = f"loss {np.median(loss):.4f}  test accuracy {accuracy:.3f}"
                    desk.say(f"epoch {epoch}/{settings.epochs}  {told}")
                    if epoch < target and time.monotonic() - saved > self.keep:
                        folder.checkpoint(epoch, networks, {})
                        saved = time.monotonic()
                if not measured or measured[-1]["epoch"] < target:
                    self.compiling.join()
                    measured.append({"epoch": target, **self.measurement(networks.parameters)})
                    try:
                        folder.append(measured[-1])
                    except ValueError as error:  # the loss was finite before the last step
                        raise self._diverged(name, networks, choice["rate"]) from error
                    folder.checkpoint(target, networks, {})
                    saved = time.monotonic()
        listed = lambda *values: list(values)  # noqa: E731
        columns = jax.tree.map(listed, *measured, is_leaf=lambda x: isinstance(x, list))
        images, ceilings = len(self.measurement.train.labels), self.measurement.ceilings
        return choice | {"images": images, "ceilings": ceilings(settings.widths)} | columns

    def _pieces(
        self, training: Training, networks: Networks, until: int, images: Images, stop: bool = True
    ) -> Iterator[Networks]:
        """Trains up to epoch `until` in pieces of a second at most, as far as epochs allow, so that
        somebody can watch and interrupt."""
        piece = 1
        while (epoch := int(networks.epoch)) < until:
            began = time.monotonic()
            networks = training.advance(networks, min(epoch + piece, until), images, stop)
            jax.block_until_ready(networks)
            piece *= 2 if time.monotonic() - began < 0.5 else 1
            yield networks

    def _diverged(self, name: str, networks: Networks, rate: float) -> RunError:
        finite = np.isfinite(np.asarray(networks.loss))
        for leaf in jax.tree.leaves(networks.parameters):
            finite &= np.isfinite(np.asarray(leaf)).reshape(len(finite), -1).all(1)
        seeds = ", ".join(map(str, np.flatnonzero(~finite))) or "all"
        return RunError(
            f"the loss of {ARMS[name].label} is not finite in epoch {int(networks.epoch)} (seeds "
            f"{seeds}, learning rate {rate:.3g}). Start again with a smaller --learning-rate or "
            "with --tune, or without the arm, in another folder (--out) or in this one "
            "(--overwrite)"
        )

    # The choice of the learning rate

    def _rate(self, name: str, training: Training, desk: lab.Desk) -> dict[str, Any]:
        """The rate, how it was chosen, and the rates tried with their held-out losses."""
        settings, fixed = self.settings, ARMS[name].fixed_rate
        if settings.tune and fixed is None:
            return self._sweep(name, training, desk)
        rate, how = settings.learning_rate, "given"
        if fixed is not None:
            rate, how = fixed, "as published"
        elif settings.match_step is not None:
            networks = self._fresh(training, 1.0)
            unit = np.median(training.unit_step(networks, self.measurement.train))
            rate = settings.match_step / float(unit)
            how = f"matched to a step of {settings.match_step:.3g} rms"
        return {"rate": rate, "how": how, "rates": [], "scores": []}

    def _sweep(self, name: str, training: Training, desk: lab.Desk) -> dict[str, Any]:
        """The rate of lowest mean loss on the last tenth of the training images, held out."""
        (pixels, labels, scale), kept = self.measurement.train, self.kept
        learn = Images(pixels[:kept], labels[:kept], scale)
        held_out = Images(pixels[kept:], labels[kept:], scale)
        epochs = self.settings.tune_epochs or max(1, self.settings.epochs // 10)
        seeds = jnp.tile(jnp.arange(SWEEP_SEEDS), len(SWEEP))
        rates = jnp.repeat(jnp.asarray(SWEEP, jnp.float32), SWEEP_SEEDS)
        networks = training.init(seeds, rates)
        for state in self._pieces(training, networks, epochs, learn, stop=False):
            networks, epoch = state, int(state.epoch)
            desk.say(f"choosing among {len(SWEEP)} learning rates, epoch {epoch}/{epochs}")
        losses = self.measurement.evaluate(networks.parameters, held_out)["loss"]
        table = np.mean(np.asarray(losses).reshape(len(SWEEP), SWEEP_SEEDS), axis=1)
        if not np.isfinite(table).any():
            raise RunError(
                f"{ARMS[name].label} diverges at every learning rate tried, from {SWEEP[0]:.2g} "
                f"to {SWEEP[-1]:.2g}; leave out --tune and give a smaller --learning-rate"
            )
        best = int(np.nanargmin(np.where(np.isfinite(table), table, np.inf)))
        edge = ", at the end of the sweep" if best in (0, len(SWEEP) - 1) else ""
        return {
            "rate": SWEEP[best],
            "how": f"tuned (held-out loss {table[best]:.3f} after {epochs} epochs{edge})",
            "rates": list(SWEEP),
            "scores": [float(loss) if np.isfinite(loss) else None for loss in table],
        }


def stages(settings: Settings) -> dict[str, lab.Stage]:
    bench = functools.cache(lambda: Bench(settings))  # made by the first arm that is not finished
    return {name: lambda desk, name=name: bench().arm(name, desk) for name in settings.arms}


def find(settings: Settings, records: lab.Records) -> lab.Findings:
    finished = {arm: records[arm] for arm in settings.arms if arm in records}
    curves = {arm: Curves(record) for arm, record in finished.items()}
    ceilings = next(iter(finished.values()))["ceilings"]
    rulings = claims.rulings(curves, ceilings)
    losses, gaps = claims.generalization(curves)

    def end(part: str, what: str) -> Any:
        return lambda record: record[part][what][-1]

    numbers = lab.numbers(
        ("arm",),
        {(ARMS[arm].label,): record for arm, record in finished.items()},
        [
            lab.share("train accuracy", end("train", "accuracy")),
            lab.share("test accuracy", end("test", "accuracy")),
            lab.number("train loss", end("train", "loss"), "nats", 4),
            lab.number("test loss", end("test", "loss"), "nats", 4),
        ],
        "Median over seeds (least to most), at the last measurement.",
        lambda record: {"learning rate": f"{record['rate']:.3g}, {record['how']}"},
    )
    said = [r for r in rulings if r.said]
    last = {arm: {k: r[k] for k in ("information", "controls")} for arm, r in finished.items()}
    more = {
        "ceilings": ceilings,
        "sweeps": {
            arm: dict(zip(map(str, record["rates"]), record["scores"], strict=True))
            for arm, record in finished.items()
        },
        "last": jax.tree.map(lambda v: v[-1], last, is_leaf=lambda x: isinstance(x, list)),
        "generalization": lab.listed({"losses": losses, "gaps": gaps}, 9),
        "estimators": [
            {"claim": r.claim, "of": r.of, "unit": r.unit}
            | {n: e._asdict() | {"seeds": [*map(float, e.seeds)]} for n, e in r.said.items()}
            for r in said
        ],
    }
    sections = [
        Section("What each estimator said", [_details(r) for r in said]),
        Section("How it was measured", [Text(_method(settings, finished)), *_sweeps(finished)]),
    ]
    return lab.Findings(numbers, rulings, more, sections)


def _details(ruling: claims.Ruling) -> Details:
    heads = [f"judged ({ruling.unit})", "least", "most", "met", "decides", "at its ceiling"]
    yes = {None: "", True: "yes", False: "no"}
    rows = [
        [name, *(f"{v:.2f}" for v in (e.judged, min(e.seeds), max(e.seeds))),
         yes[e.met], yes[e.decides], yes[e.at_ceiling]]
        for name, e in ruling.said.items()
    ]  # fmt: skip
    caption = f"{ruling.criterion}. Judged is the median curve; least and most are over seeds."
    table = Table(["estimator", *heads], rows, caption)
    return Details(f"{ruling.claim} ({ruling.of}: {ruling.word})", [table])


def _sweeps(finished: lab.Records) -> list[Details]:
    swept = {ARMS[arm].label: record for arm, record in finished.items() if record["rates"]}
    if not swept:
        return []
    rows = [
        [label, *("not finite" if loss is None else f"{loss:.3f}" for loss in record["scores"])]
        for label, record in swept.items()
    ]
    heads, caption = [f"{rate:.2g}" for rate in SWEEP], "Held-out loss (nats) by learning rate."
    return [Details("The sweeps of the learning rate", [Table(["arm", *heads], rows, caption)])]


def _method(settings: Settings, finished: lab.Records) -> str:
    images = next(iter(finished.values()))["images"]
    arms = "\n".join(f"- {ARMS[arm].label}: {ARMS[arm].description}" for arm in finished)
    return f"""{arms}

Data {settings.data}, hidden layers {"-".join(map(str, settings.widths))} ({settings.activation}),
{settings.seeds} seeds, {settings.epochs} epochs of batches of {settings.batch_size}. Seeds differ
in their initial weights; the order of the data is shared. Information is estimated on all training
images by cells, on {min(settings.kde_points, images)} by kernel density (noise variance 0.1) and on
500 by the published Gaussian log-determinant (noise 0.1); I(T;Y) always on the channel of I(T;X).

{claims.RULE}"""


LEAD = """Small networks were trained with several optimizers, and the information that their
hidden layers carry about inputs and labels was estimated in several ways, beside controls that tell
compression from a change of scale. The claims are those of D. Goh, "An Information-Theoretic
Investigation of Nested Learning" (2025). Nothing was tuned toward or against the published figure.
"""
STUDY = lab.Study(
    "The information plane of nested optimizers", LEAD, Settings, stages, find, figures.draw
)
