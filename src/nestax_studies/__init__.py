"""The studies of nested learning that come with nestax, and the command line `nestax`.

Studies are experiments with claims put to the test. The library, `nestax`, never imports them.
"""

from . import interrupts as _interrupts  # noqa: F401  first, for Ctrl-C during the imports
