"""Do nested optimizers compress representations on the information plane?

Tests the claims of D. Goh, "An Information-Theoretic Investigation of Nested Learning" (2025),
with several optimizers, estimators and controls for their artefacts.
"""

from .experiment import run as run
from .settings import Settings as Settings
from .summary import report as report
