"""nestax: nested learning in JAX.

A learning system is a set of optimization problems, each with its own objective, data, update
rule and update frequency. `import nestax as nx`.
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from . import flows as flows
from . import information as information
from . import levels as levels
from . import optim as optim
from .flows import CG as CG
from .flows import ES as ES
from .flows import GMRES as GMRES
from .flows import NRES as NRES
from .flows import PES as PES
from .flows import Dense as Dense
from .flows import Direct as Direct
from .flows import FiniteDifference as FiniteDifference
from .flows import Flow as Flow
from .flows import Forward as Forward
from .flows import Identity as Identity
from .flows import Implicit as Implicit
from .flows import Lineax as Lineax
from .flows import Neumann as Neumann
from .flows import Nystrom as Nystrom
from .flows import OneStep as OneStep
from .flows import Unroll as Unroll
from .flows import best_response as best_response
from .flows import evolution_gradient as evolution_gradient
from .flows import hypergradient as hypergradient
from .levels import DivergenceError as DivergenceError
from .levels import Field as Field
from .levels import Held as Held
from .levels import Level as Level
from .levels import LevelInfo as LevelInfo
from .levels import Nest as Nest
from .levels import Peers as Peers
from .levels import Process as Process
from .levels import State as State
from .levels import Stream as Stream
from .levels import StreamEnded as StreamEnded
from .levels import check_gradient as check_gradient
from .levels import compare_flows as compare_flows
from .levels import f2sa as f2sa
from .levels import level_table as level_table
from .levels import saba as saba
from .levels import soba as soba

if _TYPE_CHECKING:
    from . import games as games
    from . import learned as learned
    from . import memory as memory
    from . import plots as plots
    from . import runs as runs
    from . import torch as torch

__version__ = _version("nestax")


def __getattr__(name: str) -> _Any:
    # equinox, which the layers of `memory` need, would more than double the time that importing
    # nestax takes; `runs` and `plots` are for those who watch or draw something, `torch` for users
    # of PyTorch.
    if name in ("games", "learned", "memory", "plots", "runs", "torch"):
        return _import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
