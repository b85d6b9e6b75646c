"""Commands as functions: their words parsed, the help of their options made."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_type_hints

import tyro

from .lab.options import presets

_CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
_METAVARS = {int | None: "INT", float | None: "FLOAT"}
_LONG = 40  # characters of a preset's value in the help


def parse(function: Callable[..., Any], given: Sequence[str], prog: str) -> Any:
    """Calls a function with what was written behind its command.

    Raises:
        SystemExit: the words were not understood, or help was asked for.
    """
    with _comma_separated():
        return tyro.cli(function, args=list(given), prog=prog, config=_CONFIG)


def shown(settings: type) -> Any:
    """A class of settings whose help shows the presets' values where it would show the default."""
    hints = get_type_hints(settings, include_extras=True)
    told = {
        name: Annotated[
            hints[name],
            tyro.conf.arg(
                metavar=_METAVARS.get(hints[name]), help_behavior_hint=f"({_values(values)})"
            ),
        ]
        for name, values in presets(settings).items()
    }
    if not told:
        return settings
    return type(
        settings.__name__, (settings,), {"__annotations__": told, "__doc__": settings.__doc__}
    )


def plain(settings: type, made: Any) -> Any:
    """What `shown` has made, as an instance of the class itself."""
    return settings(**{f.name: getattr(made, f.name) for f in dataclasses.fields(settings)})


def _values(values: dict[str, Any]) -> str:
    """As in "small 48, full 256"."""
    return ", ".join(f"{preset} {_value(value)}" for preset, value in values.items())


def _value(value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    text = ",".join(map(str, value))
    return text if len(text) <= _LONG else f"{len(value)} of them"


def _comma_separated() -> tyro.constructors.ConstructorRegistry:
    """Lists are written 12,10,8 on this command line."""
    registry = tyro.constructors.ConstructorRegistry()

    def make(kind: type, metavar: str) -> Any:
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar=metavar,
            instance_from_str=lambda args: tuple(
                kind(part.strip()) for part in args[0].split(",") if part.strip()
            ),
            is_instance=lambda x: isinstance(x, tuple),
            str_from_instance=lambda x: [",".join(map(str, x))],
        )

    @registry.primitive_rule
    def _(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
        if info.type == tuple[str, ...]:
            return make(str, "A,B,...")
        if info.type == tuple[int, ...]:
            return make(int, "N,N,...")
        return None

    return registry
