"""The small networks that the experiments share: plain functions on pytrees."""

from ._conv import conv as conv
from ._conv import conv_init as conv_init
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
from ._transformer import Block as Block
from ._transformer import Linear as Linear
from ._transformer import Transformer as Transformer
from ._transformer import apply_linear as apply_linear
from ._transformer import transformer as transformer
from ._transformer import transformer_init as transformer_init
