"""What can be chosen in the information-plane experiment; every flag of its command."""

import dataclasses
from typing import Literal

import numpy as np

from nestax.runs import SettingsError

from .arms import ARMS


@dataclasses.dataclass(frozen=True)
class Settings:
    """Do nested optimizers compress representations?

    Trains one small network per seed and optimizer, measures the information plane of its hidden
    layers with several estimators beside the controls that expose artefacts, and gives a verdict
    on every claim.

    Attributes:
        data: Data set; digits needs no download.
        arms: Optimizers, separated by commas, of sgd, gdm, adamw, dmgd, dmgd-l2, dmgd-normalized,
            frozen, sign, normalized, ema-sign, rmsprop, published; or all.
        widths: Units of the hidden layers, first to last, separated by commas.
        activation: Of the hidden layers. The fixed bins lie on [-1, 1] for both.
        epochs: Passes over the training images.
        batch_size: Images per step; the incomplete last batch of an epoch is left out.
        seeds: Networks per arm, trained side by side. Seeds differ in their initial weights; the
            order of the data, drawn anew every epoch, is shared by all networks of all arms.
        learning_rate: Of every arm, unless --tune or --match-step chooses it. The default is the
            published setting.
        tune: Choose each arm's learning rate by its loss on a held-out tenth of the training
            images. All arms get the same nine rates, two seeds and epochs; only the arm published
            keeps its rate.
        tune_epochs: Epochs of the sweep; a tenth of --epochs if not given.
        match_step: Choose each arm's learning rate so that its steps over the first epoch, taken
            at the initial weights, have this root mean square per coordinate. The steps of
            published have 0.00316.
        measurements: Number of epochs (log-spaced, the initial weights among them) at which
            everything is measured.
        kde_points: Images used by the kernel-density bounds, whose cost is quadratic in them.

    Raises:
        SettingsError: a combination or value that makes no sense.
    """

    data: Literal["digits", "mnist", "fashion-mnist"] = "digits"
    arms: tuple[str, ...] = ("sgd", "gdm", "adamw", "dmgd", "published")
    widths: tuple[int, ...] = (12, 10, 8, 6, 4)
    activation: Literal["tanh", "relu"] = "tanh"
    epochs: int = 3999
    batch_size: int = 128
    seeds: int = 5
    learning_rate: float = 1e-3
    tune: bool = False
    tune_epochs: int | None = None
    match_step: float | None = None
    measurements: int = 25
    kde_points: int = 500

    def __post_init__(self) -> None:
        if self.arms == ("all",):
            object.__setattr__(self, "arms", tuple(ARMS))
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown:
            raise SettingsError(f"unknown arms {', '.join(unknown)}; there are: {', '.join(ARMS)}")
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise SettingsError(
                f"arms must be named once each, got {', '.join(self.arms) or 'none'}"
            )
        if not self.widths or min(self.widths) < 1:
            raise SettingsError(f"widths must be positive numbers, got {self.widths}")
        for name in ("epochs", "batch_size", "seeds"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, least in (("tune_epochs", 1), ("measurements", 2), ("kde_points", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise SettingsError(f"{name} must be at least {least}, got {value}")
        for name in ("learning_rate", "match_step"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise SettingsError(f"{name} must be positive and finite, got {value}")
        if self.tune_epochs is not None and not self.tune:
            raise SettingsError("tune_epochs is the length of a sweep; give --tune as well")
        if self.tune and self.match_step is not None:
            raise SettingsError(
                "tune and match_step both choose the learning rates; give one of them"
            )

    def schedule(self) -> tuple[int, ...]:
        """The epochs of measurement: 0, then log-spaced to the last."""
        spaced = np.geomspace(1, self.epochs, self.measurements - 1).round().astype(int)
        return (0, *sorted(set(spaced.tolist())))
