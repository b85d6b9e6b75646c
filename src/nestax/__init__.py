"""nestax: nested learning in JAX.

A learning system is a set of optimization problems, each with its own objective, data, update
rule and update frequency. `import nestax as nx`.
"""

from importlib.metadata import version as _version

from . import (
    data as data,
)
from . import (
    information as information,
)
from . import (
    models as models,
)
from . import (
    optim as optim,
)

__version__ = _version("nestax")
