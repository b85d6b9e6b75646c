"""Do nested optimizers compress representations on the information plane?

Tests the claims of D. Goh, "An Information-Theoretic Investigation of Nested Learning" (2025),
with several optimizers, estimators and controls for their artefacts.
"""

from .study import STUDY as STUDY
from .study import Settings as Settings
