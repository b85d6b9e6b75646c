"""The experiments: each a dataclass of settings and what to do with them, one CLI subcommand."""

import dataclasses
from collections.abc import Callable
from typing import Any

from nestax.runs import RunFolder

from . import cleaning as _cleaning
from . import continual as _continual
from . import distillation as _distillation
from . import formal_languages as _formal_languages
from . import implicit_bias as _implicit_bias
from . import information_plane as _information_plane
from . import lab
from . import language_model as _language_model
from . import maml as _maml
from . import needle as _needle
from . import optimizers as _optimizers
from . import recall as _recall
from . import three_level as _three_level
from . import timescales as _timescales
from . import weight_decay as _weight_decay
from .lab import Example, page
from .study import Study


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


def _made(summary: str, study: lab.Study) -> Experiment:
    """A study that is made of the lab's pieces."""

    def report(settings: Any, folder: RunFolder) -> list[str]:
        return page.lines(study.report(settings, folder))

    return Experiment(summary, study.settings, study.run, report, study.example)


EXPERIMENTS = {
    "information-plane": Experiment(
        "Do nested optimizers compress representations? Verdicts on the information plane.",
        _information_plane.Settings,
        _information_plane.run,
        _information_plane.report,
    ),
    "maml": _made(
        "Does it pay to differentiate through the learning of a task? MAML and two approximations.",
        _maml.STUDY,
    ),
    "weight-decay": _study(
        "Can 50 images choose one weight decay for each weight? And by which inverse Hessian?",
        _weight_decay.Settings,
        _weight_decay.STUDY,
    ),
    "distillation": _study(
        "Can one learned image per class stand for a data set, for networks it has never seen?",
        _distillation.Settings,
        _distillation.STUDY,
    ),
    "cleaning": _study(
        "Which training labels are wrong? One trust for each image, learned on a few clean ones.",
        _cleaning.Settings,
        _cleaning.STUDY,
    ),
    "three-level": _study(
        "Does a third level pay? A rate for each weight, over decays, over weights.",
        _three_level.Settings,
        _three_level.STUDY,
    ),
    "implicit-bias": _study(
        "Warm or cold starts: where does an overparameterised inner problem end?",
        _implicit_bias.Settings,
        _implicit_bias.STUDY,
    ),
    "optimizers": _study(
        "Are optimizers that are memories better ones? All tuned alike, on four tasks.",
        _optimizers.Settings,
        _optimizers.STUDY,
    ),
    "timescales": _made(
        "Do slow clocks forget less? Parts of a network on several clocks, task after task.",
        _timescales.STUDY,
    ),
    "formal-languages": _made(
        "Which models keep a state? Formal languages, learned short, tested long.",
        _formal_languages.STUDY,
    ),
    "recall": _made(
        "Which models recall? Multi-query recall and six more tasks.",
        _recall.STUDY,
    ),
    "needle": _made(
        "Who finds the needle? Passkeys in haystacks far longer than any learned from.",
        _needle.STUDY,
    ),
    "language-model": _made(
        "Is Hope a better language model? Blocks on one skeleton, and Hope with one thing less.",
        _language_model.STUDY,
    ),
    "continual": _made(
        "Does a continuum memory forget less? Against plain networks, consolidation and replay.",
        _continual.STUDY,
    ),
}
