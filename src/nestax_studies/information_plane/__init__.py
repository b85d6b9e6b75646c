"""The claims of D. Goh, "An Information-Theoretic Investigation of Nested Learning" (2025)."""

from .study import STUDY as STUDY
from .study import Settings as Settings
