"""Learned optimizers: update rules that are themselves trained.

* rules: `Rule`, `PerTensor`
* task families: `Family`, `rescaled`
"""

from .family import Family as Family
from .family import rescaled as rescaled
from .rule import Moment as Moment
from .rule import PerTensor as PerTensor
from .rule import Rule as Rule
from .rule import RuleState as RuleState
