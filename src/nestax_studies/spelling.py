"""Options that are spelled as another program would have them: what to write instead."""

import dataclasses
import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


def options(settings: type, **more: Any) -> dict[str, Any]:
    """Name -> default of every option of a command that has the fields of a dataclass.

    Args:
        settings: the dataclass.
        more: further options.
    """
    return {field.name: field.default for field in dataclasses.fields(settings)} | more


def last_value(words: Sequence[str], flag: str) -> str | None:
    """The value of an option among words, the last one given."""
    found = None
    for at, word in enumerate(words):
        if word == flag and at + 1 < len(words):
            found = words[at + 1]
        elif word.startswith(f"{flag}="):
            found = word.partition("=")[2]
    return found


def correction(
    known: Mapping[str, Any],
    given: Sequence[str],
    command: str,
    elsewhere: Mapping[str, str] | None = None,
) -> str | None:
    """What to write instead of the first option that is spelled wrong; None if all are right.

    Args:
        known: name -> default. An option whose default is True or False is a switch, one whose
            default is a tuple takes a list.
        given: the words after the command.
        command: as in `nestax run maml`, for the error.
        elsewhere: option -> a command that has it.
    """
    if {"-h", "--help"} & set(given):
        return None
    at = 0
    while at < len(given):
        word = given[at]
        at += 1
        if not word.startswith("--") or word == "--":
            continue
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        switched = name.removeprefix("no_")
        values = [value] if equals else []
        while at < len(given) and not given[at].startswith("-"):
            values.append(given[at])
            at += 1
        if name not in known and not isinstance(known.get(switched), bool):
            return _unknown(known, flag, command, (elsewhere or {}).get(name))
        default = known[name if name in known else switched]
        if isinstance(default, bool):
            found = _switch(switched if name not in known else name, flag, default, values)
        elif isinstance(default, tuple):
            found = _list(flag, values)
        else:
            found = None
        if found:
            return found
    return None


def unnamed(known: Collection[str], word: Sequence[str], before: str) -> str | None:
    """What to write instead of a command's name that there is not; None if it is right or absent.

    Args:
        known: the names; none if anything goes.
        word: the name, in a sequence of none or one.
        before: what stands before it on the command line.
    """
    if not known or not word or word[0].startswith("-") or word[0] in known:
        return None
    near = difflib.get_close_matches(word[0].lower().replace("_", "-"), known, 1)
    hint = f"did you mean: {before} {near[0]}?" if near else f"there are: {', '.join(known)}"
    return f"{before} {word[0]}: nothing has that name; {hint}"


def _unknown(known: Mapping[str, Any], flag: str, command: str, other: str | None) -> str:
    names = [_flag(name, default) for name, default in known.items()]
    near = difflib.get_close_matches(flag, names, n=2)
    meant = f"; did you mean {' or '.join(near)}?" if near else "."
    if other and not near:
        meant = f"; it is an option of: {other}."
    return f"{command} has no option {flag}{meant} All options: {command} --help"


def _flag(name: str, default: Any) -> str:
    return f"--{'no-' if default is True else ''}{name.replace('_', '-')}"


def _switch(name: str, flag: str, default: bool, values: list[str]) -> str | None:
    """Of a switch only that spelling exists which changes it."""
    right = _flag(name, default)
    if not values and flag.replace("_", "-") == right:
        return None
    asked = not flag.startswith("--no-")
    word = values[0].lower() if values else "true"
    if word not in _TRUE | _FALSE:
        return f"{right} takes no value, and got {' '.join(values)}; write {right} alone"
    if (asked == (word in _TRUE)) == default:
        return f"{name} is {'on' if default else 'off'} by default; leave out {flag}"
    return f"{right} takes no value; write {right} instead of {' '.join([flag, *values])}"


def _list(flag: str, values: list[str]) -> str | None:
    text = ",".join(values)
    parts = [part for part in text.strip("[]()").replace(" ", ",").split(",") if part]
    if len(values) <= 1 and not set("[]()") & set(text):
        return None
    return (
        f"{flag} takes one list, with commas and without spaces; write {flag} {','.join(parts)} "
        f"instead of {flag} {' '.join(values)}"
    )
