"""The level table: Nested Learning's Definition 2, computed from a program instead of declared.

Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), Definition 2: the frequency of
a component is its number of updates per unit of time; A is faster than B if its frequency is
higher, or if it is equal and B's state at a time needs A's state at that time; otherwise they are
equal. Being equal is not transitive, so levels are a layering and not classes: the relation itself
is kept (`LevelTable.compare`), and a component stands in the first level after all it must wait
for.
"""

import dataclasses
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cached_property
from typing import Any

from .graph import bits, measured
from .jaxpr import read
from .ledger import Writes
from .rows import Component, Row, html_of, rows_of, text_of
from .trace import Traced
from .writes import find_writes


@dataclasses.dataclass(frozen=True, eq=False)
class LevelTable:
    """How often each part of a step's state is written, and which parts it needs; print it.

    A component is a leaf of the state, by its path as `jax.tree_util.keystr` gives it. With
    `level_table(..., hidden=True)` a loop's carry is a component too, by a path like
    `scan[0].carry[1]`: loops of a kind are numbered in program order in the body around them,
    carries in the order of the loop.

    Attributes:
        levels: the components that learn, fastest level first, each level in the order of the
            state. Clocks and components that are never written are left out.
        frequencies: writes per call of every component; 0 if it is never written.
        depends: for every component, the components whose new state its own new state needs in the
            same write, at any frequency.
        kinds: the kind of every component: "state", "hidden", "constant" (not written) or "clock"
            (written, but an integer, a flag or a key, or computed from such alone: the learning
            rate of a schedule, a batch drawn from a key).
        rows: the rows as printed; see below.

    Source: Nested Learning (Behrouz et al., 2025), Definition 2.
    """

    levels: tuple[tuple[str, ...], ...]
    frequencies: Mapping[str, int | float]
    depends: Mapping[str, frozenset[str]]
    kinds: Mapping[str, str]
    _keys: Mapping[str, tuple[Any, ...]] = dataclasses.field(repr=False)
    _notes: tuple[str, ...] = dataclasses.field(repr=False)

    def compare(self, a: str, b: str) -> str:
        """Whether component a is faster than component b.

        Args:
            a: path of a component that is written.
            b: path of another one.

        Returns:
            `">"` if a is faster than b, `"<"` if it is slower, `"="` if neither.

        Raises:
            KeyError: one of them is not a component that is ever written.
        """
        for path in (a, b):
            if not self.frequencies.get(path):
                written = [p for p, f in self.frequencies.items() if f]
                raise KeyError(
                    f"LevelTable.compare: {path!r} is not a component that is written; these are: "
                    f"{written}"
                )
        difference = self.frequencies[a] - self.frequencies[b]
        if difference == 0:
            difference = (a in self.depends[b]) - (b in self.depends[a])
        return "=" if difference == 0 else ">" if difference > 0 else "<"

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The rows of the table, as printed.

        A row holds components of one part of the state that share level, frequency and kind.

        A row has the fields `label` (the common part of the paths), `paths`, `level` (from 0, the
        fastest; None for clocks and constants), `frequency` (writes per call), `relative` (to the
        fastest component that learns), `kind`, and `needs` (labels of the rows whose new state it
        needs).
        """
        level = {path: n for n, group in enumerate(self.levels) for path in group}
        return rows_of(
            [
                Component(
                    path,
                    self._keys[path],
                    level.get(path),
                    self.frequencies[path],
                    self.kinds[path],
                    self.depends[path],
                )
                for path in self.frequencies
            ]
        )

    def __str__(self) -> str:
        return text_of(self.rows, self._notes)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_of(self.rows, self._notes)


def level_table(
    step: Callable[..., Any], state: Any, *args: Any, hidden: bool = False, calls: int = 1
) -> LevelTable:
    """How often each part of a step's state is written, and which parts need which.

    The step is traced by JAX. The number of writes to each leaf of the state in one call is read
    from loops (`scan`, `fori_loop`, `while_loop`) and branches; the dependence between new values
    is read from the operations. Everything that JAX can trace is covered: `jit`, `vmap`, `grad`,
    `checkpoint`, custom derivatives, `shard_map`. If a component is written inside a `while_loop`
    or a `cond`, the step is also run on the arguments given, to count.

    * Writing is a property of the program, changing is one of the data: `w + 0 * g` writes, and so
      does `where(flag, new, old)`, whatever the flag. `cond(flag, ...)` writes if its branch runs.
    * Steps written out one after another in Python count as one write: only loops can be told
      apart.
    * A loop's carry that becomes a leaf of the state is that leaf. Other carries (a memory that
      begins with zeros in every call, MAML's inner weights) are *hidden* components. Carries in the
      backward pass of a derivative, and integer carries, are bookkeeping and not components.
    * Setting a value at the beginning of a loop is not a write.

    Example:
        ```python
        def step(state):
            move = lambda i, fast: fast - 0.1 * (fast - state["slow"])
            fast = jax.lax.fori_loop(0, 5, move, state["fast"])
            return {"fast": fast, "slow": state["slow"] - 0.1 * fast}

        table = nx.level_table(step, {"fast": 1.0, "slow": 2.0})
        print(table.frequencies["['fast']"], table.compare("['fast']", "['slow']"))  # 5 >
        ```

    Args:
        step: `state, *args -> state` or `-> (state, aux)`.
        state: a pytree; its arrays and numbers are the components.
        *args: pytrees. Shapes (`jax.ShapeDtypeStruct`) are enough unless the step must be run to
            count. Python numbers are constants to the step, as they would be in a closure.
        hidden: whether hidden components are listed in the table and among the levels.
        calls: number of calls over which branches are counted, each with the state that the last
            one returned; frequencies are then means. A write every 100 calls shows only over 100.

    Returns:
        The `LevelTable`; print it.

    Raises:
        TypeError: the step cannot be called.
        ValueError: the state has no array; the step does not return such a state; `calls` is below
            1; writes must be counted and the arguments have no values, or cannot be counted because
            they are inside a `shard_map`.

    Source: Nested Learning (Behrouz et al., 2025), Definition 2.
    """
    if not callable(step):
        raise TypeError(f"level_table: the step must be a function, got {type(step).__name__}")
    if calls < 1:
        raise ValueError(f"level_table: calls must be at least 1, got {calls}")
    traced = Traced(step, state, args)
    program = read(traced.jaxpr)
    keys = measured(program)
    found = find_writes(program, len(traced.paths))
    names = [*traced.paths, *found.hidden]
    shown = len(names) if hidden else len(traced.paths)
    if found.unknown & ((1 << shown) - 1):
        counts = traced.count(keys, calls)
        found = find_writes(program, len(traced.paths), counts, calls)
        # A branch that never ran holds no component.
        names = [*traced.paths, *found.hidden]
        shown = len(names) if hidden else len(traced.paths)
        lost = [names[i] for i in bits(found.unknown) if i < shown]
        if lost:
            raise ValueError(
                f"level_table: {lost} are written inside a shard_map as often as the data says, "
                "which cannot be counted there; give the table the step of one shard"
            )
    return _table(traced, found, names, shown)


def _table(traced: Traced, found: Writes, names: list[str], shown: int) -> LevelTable:
    own, total = len(traced.paths), len(names)
    learning = _learning(found, [i for i in range(total) if i >= own or traced.inexact[i]])
    kinds: dict[str, str] = {}
    for i, name in enumerate(names[:shown]):
        if not found.times[i]:
            kinds[name] = "constant"
        elif i not in learning:
            kinds[name] = "clock"
        else:
            kinds[name] = "state" if i < own else "hidden"
    learn = [i for i, name in enumerate(names[:shown]) if kinds[name] in ("state", "hidden")]
    everyone = (1 << shown) - 1
    notes: list[str] = []
    if shown < total:
        notes.append(f"{total - shown} of the loops' carries are not in the state; see hidden=True")
    if any(found.idle >> i & 1 and not found.times[i] for i in range(shown)):
        notes.append("some stand in a branch or loop that did not run; calls=n counts over n calls")
    keypaths = dict(zip(traced.paths, traced.keys, strict=True))
    for name in names[own:shown]:
        loop, dot, carry = name.rpartition(".")
        keypaths[name] = (loop, dot + carry)
    return LevelTable(
        levels=tuple(tuple(names[i] for i in level) for level in _layers(found, learn)),
        frequencies={
            name: int(t) if t.denominator == 1 else float(t)
            for name, t in zip(names[:shown], found.times[:shown], strict=True)
        },
        depends={
            name: frozenset(names[k] for k in bits(found.needs[i] & everyone))
            for i, name in enumerate(names[:shown])
        },
        kinds=kinds,
        _keys=keypaths,
        _notes=tuple(notes),
    )


def _learning(found: Writes, candidates: list[int]) -> set[int]:
    """Those of the candidates that are written from arguments, or from one that learns."""
    learning = {i for i in candidates if found.times[i] or found.unknown >> i & 1}
    while True:
        sources = 1 | sum(2 << i for i in learning)
        left = {i for i in learning if found.made_of[i] & sources}
        if left == learning:
            return learning
        learning = left


def _layers(found: Writes, learn: list[int]) -> list[list[int]]:
    """Fastest first; at one frequency, each as soon as all it needs have been."""
    groups: dict[Fraction, list[int]] = {}
    for i in learn:
        groups.setdefault(found.times[i], []).append(i)
    layers: list[list[int]] = []
    for frequency in sorted(groups, reverse=True):
        left = groups[frequency]
        while left:
            waiting = sum(1 << i for i in left)
            ready = [i for i in left if not found.needs[i] & waiting & ~(1 << i)]
            ready = ready or _knot(found, left)
            layers.append(ready)
            left = [i for i in left if i not in set(ready)]
    return layers


def _knot(found: Writes, left: list[int]) -> list[int]:
    """Of components that all wait for one another, those that wait for nobody else.

    Two that are written in turns, now one first and now the other, are neither faster.
    """
    waiting = sum(1 << i for i in left)
    reach = {i: found.needs[i] & waiting for i in left}
    for k in left:
        for i in left:
            if reach[i] >> k & 1:
                reach[i] |= reach[k]
    return [i for i in left if all(reach[k] >> i & 1 for k in bits(reach[i]))]
