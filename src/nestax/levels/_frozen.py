"""Numbers that tracing would freeze: whether a function gives the same program when traced twice.

A function that draws from `numpy.random`, reads a clock or takes the next item of an iterator does
so while it is traced, and its compiled program repeats what it got for ever. A function under
`jax.jit` that such a function calls is not seen: JAX traces it once.
"""

import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._calls import unjitted
from ._table.jaxpr import opened

_AGAIN = 8  # traces of a function that draws: a draw from few numbers may come up the same


def steady(function: Callable, *arguments: Any) -> tuple[Any, Any] | None:
    """The jaxpr of a function, and the shapes of what it returns; None where it differs from trace
    to trace. Nothing is compiled."""
    before = _generators()
    jaxpr, shapes = _traced(function, *arguments)
    for _ in range(1 if _generators() == before else _AGAIN):
        if not same(jaxpr, _traced(function, *arguments)[0]):
            return None
    return jaxpr, shapes


def _generators() -> Any:
    """Where the two global generators are."""
    return random.getstate(), pickle.dumps(np.random.get_state())


def _traced(function: Callable, *arguments: Any) -> tuple[Any, Any]:
    def anew(*arguments: Any) -> Any:  # JAX remembers traces by the function
        return function(*arguments)

    with unjitted():
        return jax.make_jaxpr(anew, return_shape=True)(*arguments)


def same(first: Any, second: Any) -> bool:
    """Whether two jaxprs are one program with the same numbers in it."""
    (one, consts), (other, others) = opened(first), opened(second)
    if len(one.eqns) != len(other.eqns) or not _alike(list(consts), list(others)):
        return False
    names: tuple[dict, dict] = ({}, {})

    def atoms(jaxpr: Any, own: dict) -> Iterator[Any]:
        for variable in (*getattr(jaxpr, "constvars", ()), *jaxpr.invars):
            own.setdefault(variable, len(own))
        for equation in jaxpr.eqns:
            yield equation.primitive.name
            for atom in equation.invars:
                yield _Number(atom.val) if hasattr(atom, "val") else own.get(atom)
            for variable in equation.outvars:
                own.setdefault(variable, len(own))
                yield getattr(variable.aval, "shape", None)
            yield equation.params
        for atom in jaxpr.outvars:
            yield _Number(atom.val) if hasattr(atom, "val") else own.get(atom)

    pairs = zip(atoms(one, names[0]), atoms(other, names[1]), strict=False)
    return all(_alike(a, b) for a, b in pairs)


def holds(jaxpr: Any, primitives: frozenset[str]) -> bool:
    """Whether one of these primitives occurs anywhere in a jaxpr."""
    inner, _ = opened(jaxpr)
    return any(equation.primitive.name in primitives for equation in inner.eqns) or any(
        holds(sub, primitives) for sub in jex.subjaxprs(inner)
    )


class _Number:
    """A constant in a jaxpr."""

    def __init__(self, value: Any):
        self.value = value


def _alike(a: Any, b: Any) -> bool:
    """Whether two pieces of jaxprs are the same. Functions and other objects count as the same:
    each trace makes its own."""
    if a is b:
        return True
    if isinstance(a, _Number) and isinstance(b, _Number):
        return _alike(a.value, b.value)
    if isinstance(a, _Number) or isinstance(b, _Number):
        return False
    if hasattr(a, "eqns") or hasattr(getattr(a, "jaxpr", None), "eqns"):
        return type(a) is type(b) and same(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, (bool, int, float, complex, str)) or isinstance(b, (int, float, complex, str)):
        return type(a) is type(b) and (a == b or a != a)
    if hasattr(a, "dtype") and hasattr(b, "dtype"):
        return _equal(a, b)
    return True


def _equal(a: Any, b: Any) -> bool:
    if (np.shape(a), a.dtype) != (np.shape(b), b.dtype):
        return False
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    if not all(getattr(array, "is_fully_addressable", True) for array in (a, b)):
        return True  # other machines hold what would have to be compared
    if isinstance(a, Tracer) or isinstance(b, Tracer):
        return True
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()
