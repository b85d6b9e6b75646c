"""Calls of users' functions: an error says in which function of which level it was raised."""

import contextlib
import contextvars
import difflib
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MERGE = (
    "A flax nnx module that lives outside a function cannot change inside it. Put it together in "
    "the function, nnx.merge(graph, params, rest, copy=True), and return what changed beside the "
    "loss."
)
_JITTED: Any = type(jax.jit(lambda: None))
_unjitted: contextvars.ContextVar[bool] = contextvars.ContextVar("unjitted", default=False)


@contextlib.contextmanager
def unjitted() -> Iterator[None]:
    """While tracing inside, a user's function under `jax.jit` runs: JAX remembers its first
    trace."""
    token = _unjitted.set(True)
    try:
        yield
    finally:
        _unjitted.reset(token)


def call(where: str, function: Any, *arguments: Any) -> Any:
    """`function(*arguments)`. What it raises keeps its type, and gets a note that says where.

    Args:
        where: such as "the context of level 'w'".
        function: a user's function.
        arguments: its arguments.
    """
    with noted(where):
        return plain(function)(*arguments)


def plain(function: Any) -> Callable:
    """The function itself, or without its `jax.jit` where the traces of jit would hide it."""
    return function.__wrapped__ if _unjitted.get() and isinstance(function, _JITTED) else function


@contextlib.contextmanager
def noted(where: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        note = f"This was raised in {where}."
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
            if type(error).__name__ == "TraceContextError":  # of flax
                error.add_note(_MERGE)
        raise


def call_with_values(
    level: str,
    what: str,
    function: Callable,
    values: dict[str, Any],
    *rest: Any,
    levels: Iterable[str],
    sees: str = "",
) -> Any:
    """`function(values, *rest)`, where a name that `values` lacks is explained.

    Args:
        level: the level's name.
        what: which of its functions: "objective", "start", "optimizer".
        function: the user's function.
        values: level name -> value, a plain dict, as users may pass it to `jax.tree.map`.
        rest: further arguments.
        levels: names of all levels of the nest.
        sees: which levels such a function sees, if not all of them.

    Raises:
        ValueError: the function reads a name that `values` does not hold.
    """
    try:
        return call(f"the {what} of level {level!r}", function, values, *rest)
    except KeyError as error:
        name = _missing(function, values, rest)
        if name is _NOTHING:
            raise
        reads = f"level {level!r}: its {what} reads values[{name!r}]"
        if name in levels:
            raise ValueError(
                f"{reads}, which it does not see: {sees}; it sees {listed(values)}"
            ) from error
        raise ValueError(f"{reads}, and {no_level(name, values)}") from error


_NOTHING = object()


def _missing(function: Callable, values: dict[str, Any], rest: tuple) -> Any:
    """The name that `function` reads and `values` lacks. It is called again to find out: a KeyError
    alone does not tell whose dict it was."""
    try:
        plain(function)(_Watched(values), *rest)
    except _Missing as missing:
        return missing.name
    except Exception:
        pass
    return _NOTHING


class _Missing(KeyError):
    def __init__(self, name: Any):
        super().__init__(name)
        self.name = name


class _Watched(dict):
    """`values`, reporting the names it lacks."""

    def __missing__(self, name: Any) -> Any:
        raise _Missing(name)


jax.tree_util.register_pytree_node(
    _Watched,
    lambda watched: ([watched[name] for name in sorted(watched)], tuple(sorted(watched))),
    lambda names, children: _Watched(zip(names, children, strict=True)),
)


def loss_of(level: str, returned: Any, role: str = "objective") -> tuple[jax.Array, Any]:
    """What an objective returned, as (loss, info).

    Args:
        level: the level's name.
        returned: by the user's function.
        role: "objective"; "report", whose number may be an integer, which is cast.

    Raises:
        ValueError: it is not a real scalar loss, or (loss, info) with arrays in info.
    """
    pair = isinstance(returned, tuple) and len(returned) == 2
    given, user = returned if pair else (returned, None)
    if not is_data(given):
        got = (
            f"a tuple of {len(given)}" if isinstance(given, tuple) else f"a {type(given).__name__}"
        )
    else:
        loss = jnp.asarray(given)
        if role == "report" and loss.dtype.kind in "biu":
            given = loss = loss.astype(float)
        real = loss.shape == () and jnp.issubdtype(loss.dtype, jnp.floating)
        got = None if real else f"{loss.dtype}{list(loss.shape)}"
    if got is not None:
        kinds = "number, or (number, info)" if role == "report" else "loss, or (loss, info)"
        raise ValueError(f"level {level!r}: the {role} returns a real scalar {kinds}; got {got}")
    arrays_only(f"the info that the {role} of level {level!r} returns", user)
    return jnp.asarray(given), user


def is_data(leaf: Any) -> bool:
    """Whether a leaf is an array or a number."""
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, int, complex))


def arrays_only(what: str, tree: Any) -> None:
    """Refuses a pytree with a leaf that is no array or number."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not is_data(leaf):
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"{what} holds arrays and numbers only; {f'at {where} it' if where else 'it'} is "
                f"{shown(leaf)}"
            )


def no_level(name: Any, names: Iterable[str]) -> str:
    """Such as "no level is called 'x'; did you mean 'y'? There are 'y', 'z'"."""
    known = list(names)
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"did you mean {near[0]!r}? There" if near else "there"
    return f"no level is called {shown(name)}; {hint} are {listed(known)}"


def listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def shown(thing: Any, width: int = 80) -> str:
    """What was given, in one line of an error: its repr where that is short, else its type."""
    if isinstance(thing, type):
        return f"the class {thing.__name__}"
    if isinstance(thing, types.FunctionType):
        return f"the function {thing.__name__}"
    text = repr(thing)
    if len(text) <= width and "\n" not in text:
        return text
    if hasattr(thing, "dtype") and hasattr(thing, "shape"):
        return f"an array {thing.dtype}{list(thing.shape)}"
    kind = type(thing).__name__
    return f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"
