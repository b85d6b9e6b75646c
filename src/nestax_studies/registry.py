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
    "bifurcations": Entry(
        "bifurcations",
        "Does branching at the largest exponent find more modes of a game than random starts?",
        6,
    ),
    "ridges": Entry(
        "ridges",
        "Does ridge rider find more minima than gradient descent from random starts?",
        2,
        ("digits",),
