"""What makes a run this run: numbers for its program and for the state it begins with.

Two processes that do the same get the same numbers, and where two runs differ the numbers say in
what. Programs are compared by what JAX traces of them, constants included, so that a function's
name, its place in a file and its address do not matter.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _draws, _episodes
from ._carry import View
from ._declaration import flow_of
from ._level import Level
from ._machine import Machine
from ._process import Process
from ._state import State
from ._stream import Stream

_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
_PLACING = ("sharding_constraint", "reshard")  # where numbers lie changes none of them
_TRACED = ("name", "objective", "optimizer", "context", "start")  # or compared as they are


def fingerprint(machine: Machine, state: State) -> dict[str, dict[str, Any]]:
    """What is compared: thing -> what it is, JSON-able, in four groups.

    Returns:
        `declaration`: levels, their clocks and flows, copies and orders; `state`: its numbers, by
        what they belong to; `program`: what is traced of each level's objective, data, start and
        optimizer; `versions`: those of the packages, on which the program's numbers depend.
    """
    return {
        "declaration": _declaration(machine, state),
        "state": _state(state),
        "program": program(machine, state if state.runs is None else state.run(0)),
        "versions": {"jax": jax.__version__},
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """In what two fingerprints differ, in words; programs only if the versions are the same."""
    found = []
    same = old.get("versions") == new["versions"]
    for group in ("declaration", "state", "program") if same else ("declaration", "state"):
        a, b = old.get(group, {}), new[group]
        for thing in dict.fromkeys((*a, *b)):
            if a.get(thing) == b.get(thing):
                continue
            if thing not in a or thing not in b:
                found.append(f"{thing} is {'new' if thing in b else 'missing'}")
            elif group == "declaration":
                found.append(f"{thing} differs ({b[thing]}, it was {a[thing]})")
            else:
                found.append(f"{thing} differs")
    return found


def _declaration(machine: Machine, state: State) -> dict[str, str]:
    found = {
        "the list of levels": str(
            [[level.name for level in group] for group in machine.declaration.groups]
        ),
        "copies": str(machine.copies),
        "orders of peers": str(machine.declaration.orders),
        "stagger": str(machine.declaration.stagger),
    }
    if state.runs is not None:
        found["the number of runs side by side"] = str(state.runs)
    for level in machine.declaration.levels:
        for field in dataclasses.fields(level):
            if field.name not in _TRACED:
                value = flow_of(level) if field.name == "flow" else getattr(level, field.name)
                found[f"{field.name} of level {level.name!r}"] = _plain(value)
    return found


def _state(state: State) -> dict[str, str]:
    found = {"the key": state.key, "the tick": state.tick, "the task": state.held}
    found |= {f"the value of level {name!r}": one for name, one in state.parts.items()}
    for name, one in state.optimizers.items():
        found[f"the optimizer state of level {name!r}"] = one
    return {name: _bytes(one) for name, one in found.items()}


def program(machine: Machine, state: State) -> dict[str, str]:
    """What is traced of each level's functions, of a single run."""
    found, digest, feed = {}, Digest(), _fed(machine, state)
    problem = machine.problem
    if machine.declaration.draws_task:
        key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
        found["the function that draws tasks"] = digest.of(jax.make_jaxpr(problem.draw)(key))
    for level in machine.declaration.levels:
        for what, function in _pieces(machine, level, feed).items():
            if function is not None:
                found[f"the {what} of level {level.name!r}"] = digest.of(
                    jax.make_jaxpr(function)(state)
                )
        for context in (level.context, flow_of(level).context):
            if isinstance(context, Process):
                told = [_draws.definition(one) for one in (context.draw, context.init)]
                found[f"the process of level {level.name!r}"] = str(told)
            if isinstance(context, Stream):
                number = _draws.definition(context.batch)
                found[f"the stream of level {level.name!r}"] = str(number)
    return found


def _pieces(machine: Machine, level: Level, feed: Any) -> dict[str, Callable | None]:
    """A level's parts as functions of the state. Small ones, traced once each: what differs gets a
    name, and nothing is compiled."""
    problem, view = machine.problem, View(machine.copies)

    def carry(state: State) -> Any:
        return machine.carry(state, feed)

    def shapes(state: State) -> Any:
        """Zeros like the level's batch, with the axis of their copies."""
        axes = []

        def batch(state: State) -> Any:
            found, axis = problem.batch(level.context, carry(state), view)
            axes.append(axis)
            return found

        shapes = jax.eval_shape(batch, state)
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes), axes[0]

    def objective(state: State) -> Any:
        batch, axis = shapes(state)
        here = carry(state)

        def total(trained: Any) -> Any:
            values = {**here.values, level.name: here.values[level.name].but(trained)}
            losses, user = problem.losses(level, values, batch, axis, view)
            return problem.total(level, losses), (losses, user)

        trained = here.values[level.name].trained
        try:  # rules for derivatives of its own are a part of the objective
            return jax.value_and_grad(total, has_aux=True)(trained)
        except Exception:  # an objective without derivatives, for a flow that asks for none
            return total(trained)

    def optimizer(state: State) -> Any:
        here = carry(state)
        copies = (machine.copies,) if machine.copies is not None else ()
        gradient = here.values[level.name].trained
        return problem.update(level, here, gradient, jnp.zeros(copies), view)

    def context(state: State) -> Any:
        return problem.batch(level.context, carry(state), view)[0]

    def override(state: State) -> Any:
        return problem.batch(flow_of(level).context, carry(state), view)[0]

    def start(state: State) -> Any:
        return _episodes.fresh(problem, level, carry(state), view)

    other = flow_of(level).context
    return {
        "objective": objective,
        "optimizer": optimizer,
        "context": context if _draws_data(level.context) else None,
        "flow's context": override if _draws_data(other) else None,
        "start": start if level.start is not None else None,
    }


def _draws_data(context: Any) -> bool:
    return context is not None and not isinstance(context, (Stream, Process))


def _fed(machine: Machine, state: State) -> Any:
    """Zeros like the host data of one step."""
    if not machine.problem.streams:
        return {}
    feed = machine.shapes[1] if machine.shapes is not None else machine.feed(state)
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), feed)


def _plain(value: Any) -> str:
    """A text without addresses."""
    if callable(value) and not dataclasses.is_dataclass(value):
        return str(_draws.definition(value))
    return _ADDRESS.sub("", repr(value))


def _bytes(tree: Any) -> str:
    """A number for the arrays of a pytree, their paths, shapes and dtypes."""
    hasher = _hasher()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        hasher.update(_ADDRESS.sub("", jax.tree_util.keystr(path)).encode())
        _add_array(hasher, leaf)
    return hasher.hexdigest()


def _hasher() -> Any:
    return hashlib.blake2b(digest_size=12)


def _add_array(hasher: Any, leaf: Any) -> None:
    if isinstance(leaf, jax.Array):
        if not leaf.is_fully_addressable:  # what it holds lies on other machines too
            hasher.update(str((leaf.shape, leaf.dtype)).encode())
            return
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    hasher.update(str((array.shape, str(array.dtype))).encode())
    hasher.update(np.ascontiguousarray(array).tobytes())


class Digest:
    """Numbers for jaxprs, the same in every process: of their equations, parameters and constants,
    not of names, addresses and equations that nothing needs."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, str]] = {}  # the object is kept, so that its id is

    def of(self, jaxpr: Any) -> str:
        """The number of a closed or an open jaxpr."""
        if id(jaxpr) not in self._known:
            self._known[id(jaxpr)] = (jaxpr, self._work_out(jaxpr))
        return self._known[id(jaxpr)][1]

    def _work_out(self, closed: Any) -> str:
        hasher, numbers, aliases = _hasher(), {}, {}
        jaxpr, consts = getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())
        held = dict(zip(jaxpr.constvars, consts, strict=False))

        def add(*things: Any) -> None:
            hasher.update(repr(things).encode())

        def atom(one: Any) -> None:
            while not hasattr(one, "val") and one in aliases:
                one = aliases[one]
            if hasattr(one, "val"):
                add("literal", str(one.aval))
                _add_array(hasher, one.val)
            elif one in numbers:
                add(numbers[one])
            else:
                numbers[one] = len(numbers)
                add(numbers[one], str(one.aval))
                if one in held:
                    hasher.update(self._array(held[one]).encode())

        for one in jaxpr.invars:
            atom(one)
        for eqn in _needed(jaxpr):
            if eqn.primitive.name in _PLACING:
                aliases[eqn.outvars[0]] = eqn.invars[0]
                continue
            add(eqn.primitive.name)
            for name in sorted(eqn.params):
                if name != "name":
                    add(name, self._parameter(eqn.params[name]))
            for one in (*eqn.invars, *eqn.outvars):
                atom(one)
        for one in jaxpr.outvars:
            atom(one)
        return hasher.hexdigest()

    def _array(self, array: Any) -> str:
        if id(array) not in self._known:
            hasher = _hasher()
            _add_array(hasher, array)
            self._known[id(array)] = (array, hasher.hexdigest())
        return self._known[id(array)][1]

    def _parameter(self, value: Any) -> Any:
        if hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns"):
            return self.of(value)
        if isinstance(value, jax.sharding.Sharding):
            return "None"
        if isinstance(value, (np.ndarray, jax.Array)):
            return self._array(value)
        if isinstance(value, Mapping):
            return [(str(k), self._parameter(v)) for k, v in value.items()]
        if isinstance(value, (set, frozenset)):
            return sorted(str(self._parameter(one)) for one in value)
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            return [self._parameter(one) for one in value]
        if callable(value):  # rules for derivatives: what they give is traced where it is used
            return type(value).__name__
        return _ADDRESS.sub("", repr(value))


def _needed(jaxpr: Any) -> list[Any]:
    """The equations that the outputs need."""
    wanted = {id(one) for one in jaxpr.outvars}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(id(one) in wanted for one in eqn.outvars):
            wanted |= {id(one) for one in eqn.invars}
            kept.append(eqn)
    return kept[::-1]
