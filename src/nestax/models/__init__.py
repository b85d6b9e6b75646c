"""The small networks that the experiments share: plain functions on pytrees."""

from ._mlp import (
    Layer as Layer,
)
from ._mlp import (
    mlp as mlp,
)
from ._mlp import (
    mlp_init as mlp_init,
)
from ._mlp import (
    mlp_layers as mlp_layers,
)
