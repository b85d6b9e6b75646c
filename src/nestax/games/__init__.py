"""Games: several players, each with a loss of its own, that move at the same time.

* fields: `joint_field`, `descent`
* games with closed forms: `Game`, `bilinear`, `matching_pennies`, ...
"""

from .field import descent as descent
from .field import joint_field as joint_field
