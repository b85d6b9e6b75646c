"""Optimizers as memories of the gradient stream; every one an optax transformation.

Each tensor has its own state. What optax has is optax's under the field's name.
"""

from ._deep_momentum import DeepMomentumState as DeepMomentumState
from ._deep_momentum import deep_momentum as deep_momentum
from ._descent import (
    ema_sign as ema_sign,
)
from ._descent import (
    gradient_descent as gradient_descent,
)
from ._descent import (
    momentum as momentum,
)
from ._descent import (
    normalized_descent as normalized_descent,
)
from ._descent import (
    sign_descent as sign_descent,
)
