"""A nest and its states in float64, on the data of float32."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from . import _draws
from ._executed import with_flow
from ._level import Level
from ._machine import Machine
from ._process import Process
from ._state import State
from ._stream import Stream


def double(machine: Machine, name: str, flow: Any, drawn: bool = True) -> Machine:
    """The nest in float64 with another flow for one level; to be made, and used, under x64. With
    `drawn`, starts and processes draw what they draw in float32, of outer values that are rounded
    to it; else they compute in float64."""
    known: dict[int, Any] = {}

    def process(given: Process) -> Process:
        init = given.init and _Wide(given.init, drawn)
        return dataclasses.replace(given, draw=_Wide(given.draw, drawn), init=init)

    def wide(function: Any) -> Any:
        if isinstance(function, Process):
            return known.setdefault(id(function), process(function))
        return known.setdefault(id(function), _Wide(function)) if callable(function) else function

    def change(level: Level) -> Level:
        context = level.context if isinstance(level.context, Stream) else None
        return dataclasses.replace(
            level,
            context=context or wide(level.context),
            start=level.start and _Wide(level.start, drawn),
        )

    other = with_flow(machine, name, flow, change)
    if machine.declaration.draws_task:
        other.problem.draw = wide(machine.task)
    return other


def widened_state(machine: Machine, state: State) -> State:
    """A state in float64, optimizer states in the dtypes that their optimizers give them there."""
    wide = cast(state, jnp.float64)
    optimizers = {}
    for level in machine.declaration.levels:
        begin = functools.partial(machine.optimizer, level)
        shapes = jax.eval_shape(begin, wide.parts)
        given = (jax.tree.leaves(one) for one in (shapes, wide.optimizers[level.name]))
        leaves = [
            jnp.asarray(leaf, like.dtype) if jnp.issubdtype(like.dtype, jnp.inexact) else leaf
            for like, leaf in zip(*given, strict=True)
        ]
        structure = jax.tree.structure(wide.optimizers[level.name])
        optimizers[level.name] = structure.unflatten(leaves)
    return dataclasses.replace(wide, optimizers=optimizers)


class _Wide:
    """A context, start or task that gives doubles; with `drawn`, those that it draws in single
    precision.

    Under x64 JAX's random functions draw other numbers; the data must be the same.
    """

    def __init__(self, function: Any, drawn: bool = True):
        self.__wrapped__, self._drawn = function, drawn

    def __eq__(self, other: object) -> bool:
        # Contexts that are one stay one.
        return isinstance(other, _Wide) and _draws.same(self.__wrapped__, other.__wrapped__)

    def __hash__(self) -> int:
        return hash(_draws.definition(self))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if not self._drawn:
            return cast(self.__wrapped__(*arguments, **named), jnp.float64)
        narrow = cast(arguments, jnp.float32)
        with jax.enable_x64(False):
            drawn = self.__wrapped__(*narrow, **named)
        return cast(drawn, jnp.float64)


def cast(tree: Any, dtype: Any) -> Any:
    """The tree with its floating-point arrays in another dtype."""

    def one(leaf: Any) -> Any:
        inexact = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, dtype) if inexact else leaf

    return jax.tree.map(one, tree)
