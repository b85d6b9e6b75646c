"""Settings that the experiments check alike."""

from collections.abc import Iterable
from typing import Any

from nestax.runs import SettingsError


def chosen(name: str, given: tuple[str, ...], known: Iterable[str]) -> tuple[str, ...]:
    """The names that a setting asks for, `all` being every one that is known.

    Raises:
        SettingsError: none, one that is unknown, or one that is named twice.
    """
    known = tuple(known)
    given = known if given == ("all",) else given
    if not given or set(given) - set(known) or len(set(given)) < len(given):
        raise SettingsError(
            f"{name} must be named once each, of {', '.join(known)}; got "
            f"{', '.join(given) or 'none'}"
        )
    return given


def positive(settings: Any, *names: str) -> None:
    """Refuses numbers below 1; None is a setting that was not given.

    Raises:
        SettingsError: by the setting's name.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise SettingsError(f"{name} must be at least 1, got {value}")
