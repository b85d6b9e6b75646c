"""Learned optimizers: update rules that are themselves trained.

* rules: `Rule`, `PerTensor`; `small_fc`, `normalized`, `mlp`; `lstm`, `velo`; `delta_momentum`,
  `deep_momentum`; `adam_like`, `lion_like`
* trained weights: `load`, `shipped`, `names`
* meta-training: `meta_train`, `meta_nest`, `cosine`; `curves` judges any optimizer
* families of tasks: `Family`, `rescaled`, `quadratics`, `least_squares`, `logistic`, `mlps`,
  `mlp_families`, `convnets`, `characters`, `associative`
"""

from .curves import curves as curves
from .deep import deep_momentum as deep_momentum
from .delta import delta_momentum as delta_momentum
from .family import Family as Family
from .family import rescaled as rescaled
from .fixed import adam_like as adam_like
from .fixed import lion_like as lion_like
from .loading import Shipped as Shipped
from .loading import load as load
from .loading import names as names
from .loading import shipped as shipped
from .lstm import lstm as lstm
from .meta_training import MetaTraining as MetaTraining
from .meta_training import cosine as cosine
from .meta_training import meta_nest as meta_nest
from .meta_training import meta_train as meta_train
from .mlp import mlp as mlp
from .normalized import normalized as normalized
from .rule import Moment as Moment
from .rule import PerTensor as PerTensor
from .rule import Rule as Rule
from .rule import RuleState as RuleState
from .small_fc import small_fc as small_fc
from .tasks import associative as associative
from .tasks import characters as characters
from .tasks import convnets as convnets
from .tasks import least_squares as least_squares
from .tasks import logistic as logistic
from .tasks import mlp_families as mlp_families
from .tasks import mlps as mlps
from .tasks import quadratics as quadratics
from .velo import velo as velo
