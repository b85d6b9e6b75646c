"""Settings of studies: fields that know their presets, their bounds and what they may name.

    @dataclass(frozen=True)
    class Settings(Options):
        arms: tuple[str, ...] = names(ARMS)
        seeds: int = option(3, least=1)
        steps: int | None = option(small=1500, full=10000, least=20, multiple=20)

A field with presets is None, or empty, until the settings are made; then it has the value of the
preset that `preset` names.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from nestax.runs import SettingsError

Preset = Literal["small", "full"]
_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "least": ("at least", operator.ge),
    "most": ("at most", operator.le),
    "multiple": ("a multiple of", lambda value, limit: value % limit == 0),
    "above": ("above", operator.gt),
    "below": ("below", operator.lt),
}
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    NoneType: "None",
}


def option(
    default: Any = None,
    *,
    least: int | float | None = None,
    most: int | float | None = None,
    multiple: int | None = None,
    above: int | float | None = None,
    below: int | float | None = None,
    **presets: Any,
) -> Any:
    """A field of `Options`.

    Args:
        default: its value if it is not given; leave it out where presets are given.
        least: smallest value.
        most: largest value.
        multiple: of what it must be a multiple.
        above: what it must exceed.
        below: what it must stay under.
        presets: its value under each preset, by the preset's name.
    """
    bounds = {"least": least, "most": most, "multiple": multiple, "above": above, "below": below}
    told = {name: bound for name, bound in bounds.items() if bound is not None}
    return dataclasses.field(default=default, metadata={"presets": presets, "bounds": told})


def names(
    known: Iterable[str],
    default: tuple[str, ...] = ("all",),
    families: Mapping[str, Iterable[str]] | None = None,
    **presets: tuple[str, ...],
) -> Any:
    """A field that names some of what is known, separated by commas; `all` is every one.

    Args:
        known: the names there are, in the order in which they are kept.
        default: the names if none are given.
        families: further names, each of which stands for several.
        presets: the names under each preset; then the default is empty.
    """
    meant = {"all": tuple(known), **{name: tuple(some) for name, some in (families or {}).items()}}
    metadata = {"presets": presets, "known": tuple(meant["all"]), "families": meant}
    return dataclasses.field(default=() if presets else default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings with presets and bounds; a frozen dataclass whose fields are made by `option`,
    `names`, or have a plain default.

    Raises:
        SettingsError: a value that is not of its annotation, or out of bounds, a preset that there
            is not, a name that is unknown or given twice; by the setting's name.
    """

    def __post_init__(self) -> None:
        hints, usual = _hints(type(self)), presets(type(self))
        # Those that choose the preset come first.
        for field in sorted(dataclasses.fields(self), key=lambda field: field.name in usual):
            name, value = field.name, getattr(self, field.name)
            if isinstance(value, list):
                value = tuple(value)
            if name in usual and (value is None or value == ()):
                _within_presets(self._preset_key, usual[name])
                value = usual[name][self._preset_key]
            if not _is(hints[name], value):
                raise SettingsError(f"{name} must be {_expected(hints[name])}, got {value!r}")
            if "known" in field.metadata:
                value = _chosen(field, value)
            object.__setattr__(self, name, value)
            for one in value if isinstance(value, tuple) else (value,):
                _within(name, one, field.metadata.get("bounds", {}))
        if usual:
            _within_presets(self._preset_key, [one for values in usual.values() for one in values])

    @property
    def _preset_key(self) -> Any:
        """The preset that is looked up for what is not given."""
        return getattr(self, "preset", None)

    def require(self, holds: bool, message: str) -> None:
        """Refuses settings for which something does not hold.

        Raises:
            SettingsError: with this message.
        """
        if not holds:
            raise SettingsError(message)


def presets(settings: type) -> dict[str, dict[str, Any]]:
    """Field -> preset -> value, of those fields that have presets."""
    found = {f.name: dict(f.metadata.get("presets", {})) for f in dataclasses.fields(settings)}
    return {name: values for name, values in found.items() if values}


def question(settings: type) -> str:
    """What a study asks: the first line of its settings' docstring."""
    return (settings.__doc__ or "").strip().partition("\n")[0]


@cache
def _hints(settings: type) -> dict[str, Any]:
    return get_type_hints(settings)


def _is(kind: Any, value: Any) -> bool:
    """Whether a value is of an annotation; of one that is none of settings', anything is."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_is(one, value) for one in inner)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin is tuple and inner[1:] == (...,):
        return isinstance(value, tuple) and all(_is(inner[0], one) for one in value)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return kind not in _WORDS or isinstance(value, kind)


def _expected(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return f"a tuple, each {_expected(get_args(kind)[0])}"
    return _WORDS.get(kind) or " or ".join(map(_expected, get_args(kind)))


def _within_presets(key: Any, known: Iterable[str]) -> None:
    if key not in known:
        raise SettingsError(f"preset must be one of {', '.join(dict.fromkeys(known))}, got {key}")


def _chosen(field: Any, given: tuple[str, ...]) -> tuple[str, ...]:
    families, known = field.metadata["families"], field.metadata["known"]
    unknown = [name for name in given if name not in known and name not in families]
    if unknown or not given or len(set(given)) < len(given):
        others = ", ".join((*families, *known))
        got = ", ".join(unknown or given) or "none"
        raise SettingsError(f"{field.name} must be named once each, of {others}; got {got}")
    wanted = {name for one in given for name in families.get(one, (one,))}
    ordered = [name for name in known if name in wanted]
    # Names alone keep the order in which they were given.
    return tuple(ordered) if set(given) & set(families) else tuple(given)


def _within(name: str, value: Any, bounds: Mapping[str, Any]) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{name} must be finite, got {value}")
    for bound, limit in bounds.items():
        words, holds = _BOUNDS[bound]
        if value is not None and not holds(value, limit):
            raise SettingsError(f"{name} must be {words} {limit}, got {value}")
