"""The studies by name, as a table that imports none of them."""

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from . import interrupts

if TYPE_CHECKING:
    from nestax.runs import RunFolder

    from .lab import Example


class Entry(NamedTuple):
    """What is known of a study before it is imported.

    Attributes:
        module: its file or folder in this package.
        question: one line; it begins with the first line of the settings' docstring.
        minutes: of a run with the default settings on two cores, roughly.
        data: data sets that the default settings need.
        needs: value of a setting -> data set that it needs, or the setting that names it; only
            such values need data then.
    """

    module: str
    question: str
    minutes: int
    data: tuple[str, ...] = ()
    needs: Mapping[str, str] = {}


STUDIES = {
    "information-plane": Entry(
        "information_plane",
        "Do nested optimizers compress representations? Verdicts on the information plane.",
        2,
        ("digits",),
    ),
    "maml": Entry(
        "maml",
        "Does it pay to differentiate through the learning of a task? MAML and two approximations.",
        8,
    ),
    "weight-decay": Entry(
        "weight_decay",
        "Can 50 images choose one weight decay for each weight? And by which inverse Hessian?",
        8,
        ("mnist",),
    ),
    "distillation": Entry(
        "distillation",
        "What do ten learned images teach? One image per class, for networks never seen.",
        2,
        ("mnist",),
    ),
    "games": Entry(
        "games",
        "Which optimizers converge in which games, and does the spectrum tell beforehand?",
        3,
    ),
    "bifurcations": Entry(
        "bifurcations",
        "Does branching at the largest exponent find more modes of a game than random starts?",
        8,
    ),
    "ridges": Entry(
        "ridges",
        "Does ridge rider find more minima than gradient descent from random starts?",
        2,
        ("digits",),
    ),
    "estimators": Entry(
        "estimators",
        "Which estimates of a gradient through learning are biased, and which vary too much?",
        3,
    ),
    "cleaning": Entry(
        "cleaning",
        "Which training labels are wrong? One trust for each image, learned on a few clean ones.",
        5,
        ("mnist",),
    ),
    "three-level": Entry(
        "three_level",
        "Does a third level pay? A rate for each weight, over decays, over weights.",
        2,
        ("digits",),
    ),
    "implicit-bias": Entry(
        "implicit_bias",
        "Where does what was learned outside end up, in the example or in the weights?",
        3,
        ("digits",),
    ),
    "optimizers": Entry(
        "optimizers",
        "Are optimizers that are memories better ones? All tuned alike, on four tasks.",
        200,
        ("digits", "tinyshakespeare"),
        {"language": "tinyshakespeare", "network": "data"},
    ),
    "timescales": Entry(
        "timescales",
        "Do slow clocks forget less, where as much was learned? A network on several clocks.",
        2,
        ("digits",),
    ),
    "formal-languages": Entry(
        "formal_languages",
        "Which models keep a state? Formal languages, learned short, tested long.",
        150,
    ),
    "recall": Entry("recall", "Which models recall? Multi-query recall and six more tasks.", 200),
    "needle": Entry(
        "needle",
        "Who finds the needle? Passkeys in haystacks far longer than any learned from.",
        90,
    ),
    "language-model": Entry(
        "language_model",
        "Is Hope a better language model, and what of it helps? Thirteen models on one skeleton.",
        60,
        ("tinyshakespeare",),
    ),
    "continual": Entry(
        "continual",
        "Does a continuum memory forget less than plain networks, consolidation and replay?",
        60,
        ("digits",),
        {"class": "data", "permuted": "data"},
    ),
    "learned-optimizers": Entry(
        "learned_optimizers",
        "Do optimizers that are themselves trained beat tuned ones, and where does it end?",
        30,
        ("digits", "mnist", "fashion-mnist", "tinyshakespeare"),
    ),
    "gan": Entry(
        "gan",
        "Does a complex momentum of the discriminator help a GAN? Eight modes, a grid of betas.",
        8,
        (),
        {"convolutional": "data", "conditional": "data"},
    ),
}

DATA = ("digits", "mnist", "fashion-mnist", "omniglot", "tinyshakespeare", "wikitext2")
"""Names of the data sets."""
SHIPPED = ("digits",)
"""Those that need no download."""


class Experiment(NamedTuple):
    """What the command line knows of a study that is imported.

    Attributes:
        summary: one line.
        settings: a frozen dataclass; raises SettingsError for settings that make no sense.
        run: (settings, folder, log or None) does, or goes on with, the work and leaves measurements
            in the folder; see `lab.log`.
        report: makes summary.json, figures and report.html from them, without computing anew;
            returns the summary.
        example: settings -> its nest, for `nestax levels` and `nestax flows`; None if it has none.
    """

    summary: str
    settings: type
    run: "Callable[..., None]"
    report: "Callable[[Any, RunFolder], Any]"
    example: "Callable[[Any], Example] | None" = None


class _Experiments(dict[str, Experiment]):
    """Imports a study when it is first asked for."""

    def __missing__(self, name: str) -> Experiment:
        entry, module = STUDIES[name], imported(STUDIES[name].module)
        self[name] = found = _experiment(entry.question, module)
        return found


EXPERIMENTS = _Experiments()
"""The studies that were used, by name; an index imports the study."""


def imported(module: str) -> ModuleType:
    """A module of this package. Ctrl-C during the import ends the process: packages may drop an
    exception.

    Raises:
        ImportError: a package of the command line is not installed.
    """
    try:
        with interrupts.at_once():
            return import_module(f".{module}", __package__)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("nestax"):
            raise
        raise ImportError(
            f"the command line needs the package {error.name}; "
            'install it with: pip install "nestax[studies]"'
        ) from error


def _experiment(question: str, module: Any) -> Experiment:
    study = module.STUDY
    return Experiment(question, study.settings, study.run, study.report, study.example)
