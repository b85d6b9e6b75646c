"""Calling what users give with the number of the copy, where they ask for it (rules R4 and R7)."""

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

_CATCH_ALL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def with_copy(function: Callable[..., Any], copy: Any, *arguments: Any) -> Any:
    """`function(*arguments)`, with the number of the copy if the function has a parameter `copy`
    after these.

    Args:
        function: a function, bound method, partial or other callable.
        copy: the number, an integer; handed over as an int32 array.
        *arguments: what comes before it.
    """
    parameters = _parameters(function)
    bound = inspect.unwrap(function)
    while isinstance(bound, functools.partial) and "copy" not in bound.keywords:
        bound = bound.func
    one = parameters.get("copy")
    if one is None or one.kind in _CATCH_ALL or isinstance(bound, functools.partial):
        return function(*arguments)
    number, place = jnp.asarray(copy, jnp.int32), list(parameters).index("copy")
    if one.kind is one.KEYWORD_ONLY or place > len(arguments):
        return function(*arguments, copy=number)
    if place == len(arguments):
        return function(*arguments, number)
    return function(*arguments)  # one of these has that name


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """What a call may give, looking through decorators that hand on whatever they are given."""
    try:
        if isinstance(function, types.FunctionType):
            own = inspect.signature(function, follow_wrapped=False).parameters
            if not any(one.kind in _CATCH_ALL for one in own.values()):
                return own
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # builtins have none
        return {}
