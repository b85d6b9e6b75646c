"""What can go wrong with a run that the person running it can mend; the messages say how."""

from importlib import import_module
from typing import Any


class RunError(Exception):
    """A run cannot begin or continue; the message says how to repair that."""


class SettingsError(ValueError):
    """The settings of a run contradict each other or are out of range; the message says how."""


def needed(module: str, package: str, what: str) -> Any:
    """Imports a module that the library itself does without.

    Raises:
        RunError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise RunError(
            f'{what} need the package {package}; install it with: pip install "nestax[studies]"'
        ) from error
