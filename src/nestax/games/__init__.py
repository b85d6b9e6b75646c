"""Games: several players, each with a loss of its own, that move at the same time.

* fields: `joint_field`, `descent`
* adjusted fields: `extragradient`, `consensus`, `symplectic`, `lookahead`, `lola`, `competitive`,
  and `adjusted` for the levels of a nest
* optimizers for players: `lookahead_minmax`; optimistic descent and negative momentum are optax's,
  complex momentum is in `nestax.optim`
"""

from .adjust import adjusted as adjusted
from .adjust import competitive as competitive
from .adjust import consensus as consensus
from .adjust import extragradient as extragradient
from .adjust import lola as lola
from .adjust import lookahead as lookahead
from .adjust import symplectic as symplectic
from .field import descent as descent
from .field import joint_field as joint_field
from .slow_weights import LookaheadState as LookaheadState
from .slow_weights import lookahead_minmax as lookahead_minmax
