"""The run: every arm trained and measured in turn, from wherever its folder says it had come to."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nestax.runs import Progress, RunError, RunFolder
from nestax.runs.machine import machine

from .. import data
from .arms import ARMS, Arm
from .measure import Measurement
from .settings import Settings
from .training import Images, Networks, Training

SWEEP = tuple(float(rate) for rate in 10.0 ** np.arange(-4, 0.25, 0.5))
SWEEP_SEEDS = 2
FACTS = ("rates", "seconds", "images", "ceilings", "machine")
_PIECE_SECONDS = 1.0  # of compiled work between two looks at the clock
_CHECKPOINT_SECONDS = 30.0  # the most that an interruption costs


def run(settings: Settings, folder: RunFolder) -> None:
    """Trains and measures what the folder lacks.

    It may be interrupted at any moment and gone on with; what is measured does not depend on that.

    Raises:
        RunError: a loss is not finite, or the folder cannot be written. Nothing written is lost.
        DataError: the data set cannot be had.
    """
    dataset = data.load(settings.data)
    images = _kept(len(dataset.train)) if settings.tune else len(dataset.train)
    if settings.batch_size > images:
        raise RunError(
            f"a batch of {settings.batch_size} does not fit into the {images} images of "
            f"{settings.data} that are learned from; give a smaller --batch-size"
        )
    with Progress(settings.epochs * len(settings.arms)) as progress:
        _Run(settings, folder, dataset, progress).finish()


class _Run:
    def __init__(
        self, settings: Settings, folder: RunFolder, dataset: data.Dataset, progress: Progress
    ):
        self.settings, self.folder, self.progress = settings, folder, progress
        self.sizes = (dataset.train.images[0].size, *settings.widths, dataset.classes)
        self.measurement = Measurement(dataset, settings.activation, settings.kde_points)
        self.facts = folder.read_json("facts.json", *FACTS) or {
            "rates": {},
            "seconds": {},
            "images": {"train": len(dataset.train), "test": len(dataset.test)},
            "ceilings": self.measurement.ceilings(settings.widths),
            "machine": machine(),
        }
        # Measuring takes a third of a minute to compile; meanwhile the first arm's sweep runs.
        first = Training(ARMS[settings.arms[0]].make, self.sizes, settings.activation, 1)
        zeros = jnp.zeros(settings.seeds)
        parameters = first.init(zeros.astype(jnp.int32), zeros).parameters
        threading.Thread(target=self.measurement, args=(parameters,), daemon=True).start()
        progress.note(
            f"{settings.data}: {len(dataset.train)} training and {len(dataset.test)} test images, "
            f"network {'-'.join(map(str, self.sizes))} ({settings.activation}), "
            f"{settings.seeds} seeds, {settings.epochs} epochs of batches of {settings.batch_size}"
        )

    def finish(self) -> None:
        saved = self.folder.saved()
        if saved is None:
            self.folder.rewind()
        arms = self.settings.arms
        first = saved["arm"] if saved else 0
        for index in range(first, len(arms)):
            self._arm(index, arms[index], resumed=saved is not None and index == first)
        self.progress.update(self.settings.epochs * len(arms), "done")

    def _arm(self, index: int, name: str, resumed: bool) -> None:
        """Trains and measures one arm, from its checkpoint if `resumed`."""
        settings, arm = self.settings, ARMS[name]
        before = index * settings.epochs
        training = Training(arm.make, self.sizes, settings.activation, settings.batch_size)
        choice = self._rate(name, arm, training, before)
        self.progress.note(f"{arm.label}: learning rate {choice['rate']:.3g}, {choice['how']}")
        rates = jnp.full(settings.seeds, choice["rate"], jnp.float32)
        networks = training.init(jnp.arange(settings.seeds), rates)
        if resumed:
            networks = self.folder.restore(networks)
            self.folder.rewind()
            accuracy = float(np.median(self.folder.metrics()[-1]["test"]["accuracy"]))
        else:
            accuracy = self._measure(name, networks)
        saved_at = time.monotonic()
        for target in settings.schedule()[1:]:
            began, first = time.monotonic(), int(networks.epoch)
            for state in _pieces(training, networks, target, self.measurement.train, True):
                networks = state
                epoch, loss = int(networks.epoch), np.asarray(networks.loss)
                if not np.isfinite(loss).all():
                    raise RunError(self._diverged(name, networks))
                self.progress.update(
                    before + epoch,
                    f"{arm.label}  epoch {epoch}/{settings.epochs}  loss {np.median(loss):.4f}  "
                    f"test accuracy {accuracy:.3f}",
                )
                if epoch < target and time.monotonic() - saved_at > _CHECKPOINT_SECONDS:
                    self._save(index, networks)
                    saved_at = time.monotonic()
            self._spent(name, "training", time.monotonic() - began)
            if int(networks.epoch) > first:
                accuracy = self._measure(name, networks)
                self._save(index, networks)
                saved_at = time.monotonic()

    def _measure(self, name: str, networks: Networks) -> float:
        """Adds a measurement to the folder and returns the median test accuracy."""
        began = time.monotonic()
        record = self.measurement(networks.parameters)
        self._spent(name, "measuring", time.monotonic() - began)
        try:
            self.folder.append({"arm": name, "epoch": int(networks.epoch), **record})
        except ValueError as error:  # the loss was finite before the last step, the weights are not
            raise RunError(self._diverged(name, networks)) from error
        return float(np.median(record["test"]["accuracy"]))

    def _save(self, index: int, networks: Networks) -> None:
        self.folder.write_json("facts.json", self.facts)
        epoch = int(networks.epoch)
        step = index * (self.settings.epochs + 1) + epoch
        self.folder.checkpoint(step, networks, {"arm": index, "epoch": epoch})

    def _spent(self, name: str, what: str, seconds: float) -> None:
        ledger = self.facts["seconds"].setdefault(name, {})
        ledger[what] = ledger.get(what, 0.0) + seconds

    def _diverged(self, name: str, networks: Networks) -> str:
        finite = np.isfinite(np.asarray(networks.loss))
        for leaf in jax.tree.leaves(networks.parameters):
            finite &= np.isfinite(np.asarray(leaf)).reshape(len(finite), -1).all(1)
        seeds = ", ".join(map(str, np.flatnonzero(~finite))) or "all"
        saved, path = self.folder.saved(), self.folder.path
        rate = self.facts["rates"][name]["rate"]
        checkpoint = (
            f"the last finite checkpoint, arm {self.settings.arms[saved['arm']]} at epoch "
            f"{saved['epoch']}, and all measurements are in {path}"
            if saved
            else f"no checkpoint had been written yet, all measurements are in {path}"
        )
        return (
            f"the loss of {ARMS[name].label} is not finite in epoch {int(networks.epoch)} "
            f"(seeds {seeds}, learning rate {rate:.3g}); {checkpoint}. "
            "Start again with a smaller --learning-rate or with --tune, or without the arm, in "
            "another folder (--out) or in this one (--overwrite)"
        )

    # The choice of the learning rate

    def _rate(self, name: str, arm: Arm, training: Training, before: int) -> dict[str, Any]:
        rates, settings = self.facts["rates"], self.settings
        if name not in rates:
            began = time.monotonic()
            if arm.fixed_rate is not None:
                rates[name] = {"rate": arm.fixed_rate, "how": "as published"}
            elif settings.tune:
                rates[name] = self._sweep(arm, training, before)
            elif settings.match_step is not None:
                rates[name] = self._match(training, settings.match_step)
            else:
                rates[name] = {"rate": settings.learning_rate, "how": "given"}
            self._spent(name, "choosing the rate", time.monotonic() - began)
            self.folder.write_json("facts.json", self.facts)
        return rates[name]

    def _sweep(self, arm: Arm, training: Training, before: int) -> dict[str, Any]:
        """The rate of lowest mean loss on the last tenth of the training images, held out."""
        images = self.measurement.train
        kept = _kept(len(images.labels))
        learn = Images(images.pixels[:kept], images.labels[:kept], images.scale)
        held_out = Images(images.pixels[kept:], images.labels[kept:], images.scale)
        epochs = self.settings.tune_epochs or max(1, self.settings.epochs // 10)
        seeds = jnp.tile(jnp.arange(SWEEP_SEEDS), len(SWEEP))
        rates = jnp.repeat(jnp.asarray(SWEEP, jnp.float32), SWEEP_SEEDS)
        networks = training.init(seeds, rates)
        for state in _pieces(training, networks, epochs, learn, False):
            networks = state
            self.progress.update(
                before,
                f"{arm.label}  choosing among {len(SWEEP)} learning rates, "
                f"epoch {int(networks.epoch)}/{epochs}",
            )
        losses = self.measurement.evaluate(networks.parameters, held_out)["loss"]
        table = np.mean(np.asarray(losses).reshape(len(SWEEP), SWEEP_SEEDS), axis=1)
        if not np.isfinite(table).any():
            raise RunError(
                f"{arm.label} diverges at every learning rate tried, from {SWEEP[0]:.2g} to "
                f"{SWEEP[-1]:.2g}; leave out --tune and give a smaller --learning-rate"
            )
        best = int(np.nanargmin(np.where(np.isfinite(table), table, np.inf)))
        edge = ", at the end of the sweep" if best in (0, len(SWEEP) - 1) else ""
        return {
            "rate": SWEEP[best],
            "how": f"tuned (held-out loss {table[best]:.3f} after {epochs} epochs{edge})",
            "sweep": [
                {"rate": rate, "held_out_loss": float(loss) if np.isfinite(loss) else None}
                for rate, loss in zip(SWEEP, table, strict=True)
            ],
        }

    def _match(self, training: Training, step: float) -> dict[str, Any]:
        seeds = jnp.arange(self.settings.seeds)
        networks = training.init(seeds, jnp.ones(len(seeds), jnp.float32))
        unit = float(np.median(training.unit_step(networks, self.measurement.train)))
        return {"rate": step / unit, "how": f"matched to a step of {step:.3g} rms"}


def _pieces(
    training: Training, networks: Networks, until: int, images: Images, stop: bool
) -> Iterator[Networks]:
    """Trains up to epoch `until` in pieces of about a second, so that somebody can watch."""
    pace = 0.0
    while (epoch := int(networks.epoch)) < until:
        began = time.monotonic()
        piece = max(1, int(_PIECE_SECONDS / pace)) if pace else 1
        networks = training.advance(networks, min(epoch + piece, until), images, stop)
        yield jax.block_until_ready(networks)
        # An arm's very first piece, one epoch, is mostly compilation and says nothing of the pace.
        pace = (time.monotonic() - began) / (int(networks.epoch) - epoch) if epoch else 0.0


def _kept(images: int) -> int:
    """How many training images a sweep learns from; the rest is held out."""
    return images * 9 // 10
