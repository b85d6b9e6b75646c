"""The experiments: each a dataclass of settings and what to do with them, one CLI subcommand."""

import dataclasses
from collections.abc import Callable
from typing import Any

from ..runs import RunFolder
from . import information_plane as _information_plane
from . import maml as _maml
from . import weight_decay as _weight_decay
from .study import Example, Study


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What the command line knows of an experiment.

    Attributes:
        summary: one line.
        settings: a frozen dataclass; raises SettingsError for settings that make no sense.
        run: does, or goes on with, the work and leaves measurements in the folder.
        report: makes summary.json, figures and report.html from them, without computing anew;
            returns the lines worth printing.
        example: settings -> its nest, for `nestax levels` and `nestax flows`; None if it has none.
    """

    summary: str
    settings: type
    run: Callable[[Any, RunFolder], None]
    report: Callable[[Any, RunFolder], list[str]]
    example: Callable[[Any], Example] | None = None


def _study(summary: str, settings: type, study: Study) -> Experiment:
    return Experiment(summary, settings, study.run, study.report, study.example)


EXPERIMENTS = {
    "information-plane": Experiment(
        "Do nested optimizers compress representations? Verdicts on the information plane.",
        _information_plane.Settings,
        _information_plane.run,
        _information_plane.report,
    ),
    "maml": Experiment(
        "Does it pay to differentiate through the learning of a task? MAML and two approximations.",
        _maml.Settings,
        _maml.run,
        _maml.STUDY.report,
        _maml.STUDY.example,
    ),
    "weight-decay": _study(
        "Can 50 images choose one weight decay for each weight? And by which inverse Hessian?",
        _weight_decay.Settings,
        _weight_decay.STUDY,
    ),
}
