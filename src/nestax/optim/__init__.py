"""Optimizers as memories of the gradient stream; every one an optax transformation.

Each tensor has its own state. What optax has is optax's under the field's name.
"""

from ._associative import AssociativeState as AssociativeState
from ._associative import associative_momentum as associative_momentum
from ._complex import ComplexAdamState as ComplexAdamState
from ._complex import ComplexMomentumState as ComplexMomentumState
from ._complex import complex_adam as complex_adam
from ._complex import complex_momentum as complex_momentum
from ._deep_momentum import DeepMomentumState as DeepMomentumState
from ._deep_momentum import deep_momentum as deep_momentum
from ._descent import ema_sign as ema_sign
from ._descent import gradient_descent as gradient_descent
from ._descent import momentum as momentum
from ._descent import normalized_descent as normalized_descent
from ._descent import sign_descent as sign_descent
from ._generalized import GeneralizedState as GeneralizedState
from ._generalized import generalized_gradient_descent as generalized_gradient_descent
from ._influence import influence as influence
from ._kronecker import KroneckerState as KroneckerState
from ._m3 import M3State as M3State
from ._m3 import m3 as m3
from ._matrices import newton_schulz as newton_schulz
from ._momenta import delta_momentum as delta_momentum
from ._momenta import preconditioned_momentum as preconditioned_momentum
from ._muon import MuonState as MuonState
from ._muon import muon as muon
from ._timescales import GatheredState as GatheredState
from ._timescales import multi_timescale as multi_timescale
from .layers import delta_gradient as delta_gradient
from .layers import delta_gradient_descent as delta_gradient_descent
from .layers import delta_layers as delta_layers
from .layers import delta_linear as delta_linear
from .layers import memory_linear as memory_linear
