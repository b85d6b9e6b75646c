"""Estimators of the mutual information between a network's inputs, labels and activations.

The N evaluation inputs are distinct and each has probability 1/N; T = f(X) is the
deterministic activation of one layer. The true I(T;X) is then log2 N whatever the network
does, so every estimator here first makes the layer noisy or coarse, and says how: by cells
(`binned`), by Gaussian noise (`kde_bounds`, `gaussian_upper_bound`), or not at all for two
continuous variables (`ksg`). All results are in bits, and I(T;Y) is always taken on the
same channel as I(T;X).
"""

from ._result import BinnedInformation as BinnedInformation
from ._result import GaussianInformation as GaussianInformation
from ._result import KDEInformation as KDEInformation
from ._result import KSGInformation as KSGInformation
from .binning import binned as binned
from .gaussian import gaussian_upper_bound as gaussian_upper_bound
from .kde import kde_bounds as kde_bounds
from .labels import label_entropy as label_entropy
from .neighbours import ksg as ksg
from .scale import standardize as standardize
