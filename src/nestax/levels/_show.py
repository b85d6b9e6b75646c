"""Nests and states for the eye: a few lines on a terminal, a table in a notebook."""

import math
from typing import Any

import jax
import numpy as np

from ._declaration import Declaration, flow_of
from ._level import Level
from ._signatures import is_transformation
from ._text import html_table, shortened, text_table

_MOST = 20  # lines of a table
_WIDE = 40  # characters of a cell


def nest(declaration: Declaration, ticks: int) -> str:
    lines = text_table(_nest_rows(declaration), (1,))
    return "\n".join([_nest_title(declaration, ticks), *shortened(lines, _MOST)])


def nest_html(declaration: Declaration, ticks: int) -> str:
    return html_table(_nest_rows(declaration), (1,), _nest_title(declaration, ticks))


def state(state: Any) -> str:
    lines = text_table(_state_rows(state), (2,))
    return "\n".join([_state_title(state), *shortened(lines, _MOST)])


def state_html(state: Any) -> str:
    return html_table(_state_rows(state), (2,), _state_title(state))


def _nest_title(declaration: Declaration, ticks: int) -> str:
    count = len(declaration.levels)
    said = [f"Nest of {count} {'level' if count == 1 else 'levels'}, innermost first"]
    said.append(f"a step is {ticks} {'tick' if ticks == 1 else 'ticks'}")
    if declaration.copies is not None:
        staggered = ", staggered" if declaration.stagger else ""
        said.append(f"{declaration.copies} copies{staggered}")
    pairs = zip(declaration.groups, declaration.orders, strict=True)
    orders = dict.fromkeys(order for group, order in pairs if len(group) > 1)
    if orders:
        said.append(f"peers move in {' or '.join(orders)} order")
    return "; ".join(said)


def _nest_rows(declaration: Declaration) -> list[tuple[str, ...]]:
    head = ["level", "every", "flow", "optimizer", "copies", "episodes", "accumulate"]
    rows = [
        [
            level.name,
            str(level.every),
            _cut(repr(flow_of(level))),
            _cut(_kind(level)),
            str(declaration.copies) if declaration.copied(level) else "",
            _episodes(declaration, level) if level.start is not None else "",
            str(level.accumulate or ""),
        ]
        for level in declaration.levels
    ]
    used = [i for i in range(len(head)) if i < 4 or any(row[i] for row in rows)]
    return [tuple(row[i] for i in used) for row in (head, *rows)]


def _episodes(declaration: Declaration, level: Level) -> str:
    """How long the episodes of a level are."""
    if callable(level.horizon):
        length = "of a drawn length"
    elif isinstance(level.horizon, tuple):
        length = f"of {level.horizon[0]} to {level.horizon[1]} ticks"
    elif declaration.horizon(level) == math.inf:
        return "until done" if level.done is not None else "without end"
    else:
        length = f"of {declaration.horizon(level)} ticks"
    return length if level.done is None else f"{length}, or until done"


def _cut(text: str) -> str:
    return text if len(text) <= _WIDE else text[: _WIDE - 3] + "..."


def _kind(level: Level) -> str:
    """The names of the transformations that an optimizer is a chain of, as far as they are seen."""
    if not is_transformation(level.optimizer):
        return "made from values"
    return " + ".join(_names(level.optimizer.update)) or "identity"


def _names(update: Any) -> list[str]:
    """Of an update function, by where it is defined: `scale_by_adam.<locals>.update_fn`."""
    name = getattr(update, "__qualname__", type(update).__name__).split(".")[0]
    cells = getattr(update, "__closure__", None) or ()
    names = getattr(getattr(update, "__code__", None), "co_freevars", ())
    held: dict[str, Any] = dict(zip(names, cells, strict=False))
    if name == "chain" and "update_fns" in held:
        parts = held["update_fns"].cell_contents
        return [one for part in parts for one in _names(part)]
    if name == "with_extra_args_support" and "tx" in held:
        return _names(held["tx"].cell_contents.update)
    return [] if name == "identity" else [name]


def _state_title(state: Any) -> str:
    runs = f"; {state.runs} runs side by side" if state.runs is not None else ""
    try:
        return f"State after {int(state.tick)} ticks{runs}"
    except (TypeError, RuntimeError):  # traced, batched, a shape alone, donated
        return "State"


def _state_rows(state: Any) -> list[tuple[str, ...]]:
    rows = [("level", "value", "numbers", "optimizer state")]
    if not isinstance(state.parts, dict) or not isinstance(state.optimizers, dict):
        return rows  # transformations fill pytrees with what they like
    for name, one in state.parts.items():
        leaves = jax.tree_util.tree_leaves_with_path(getattr(one, "arrays", one))
        shown = [(jax.tree_util.keystr(path) + _shape(a)).strip() for path, a in leaves[:3]]
        more = f" and {len(leaves) - 3} more" if len(leaves) > 3 else ""
        size = sum(int(np.size(a)) for _, a in leaves)
        kept = jax.tree.leaves(state.optimizers.get(name))
        numbers = sum(int(np.size(a)) for a in kept)
        rows.append((name, ", ".join(shown) + more, f"{size:,}", f"{numbers:,} numbers"))
    return rows


def _shape(leaf: Any) -> str:
    dtype = getattr(leaf, "dtype", None)
    shape = getattr(leaf, "shape", None)
    if dtype is None or shape is None:
        return f" {type(leaf).__name__}"
    return f" {dtype}[{','.join(map(str, shape))}]"
