"""What goes wrong with data, and how it is told: `DataError`, and imports of optional packages."""

import importlib
from types import ModuleType


class DataError(ValueError):
    """A data set is unknown, cannot be had, or is not what it should be.

    The message says what was expected, what was found and how to mend it.
    """


def optional(module: str, purpose: str) -> ModuleType:
    """Imports a module of an optional dependency.

    Args:
        module: Dotted name of the module.
        purpose: What it is needed for, as the subject of a sentence.

    Raises:
        ImportError: If it cannot be imported; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        packages = {"sklearn": "scikit-learn", "PIL": "pillow"}
        package = packages.get(root := module.split(".")[0], root)
        raise ImportError(
            f"{purpose} needs {package}, which cannot be imported ({error}). "
            'Install it with: pip install "nestax[studies]"'
        ) from error
