"""Peers with an order of their own (rule R2)."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, get_args

from ._level import Level

Order = Literal["simultaneous", "alternating"]


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class Peers:
    """A group of peers with its own order of moves, in place of a tuple in the list of a nest.

    Example:
        ```python
        x = nx.Level("x", lambda v, batch: v["x"] * v["y"], optax.sgd(1.0))
        y = nx.Level("y", lambda v, batch: -v["x"] * v["y"], optax.sgd(1.0))
        nest = nx.Nest([nx.Peers(x, y, order="alternating")])
        state, info = nest.step(nest.init({"x": 1.0, "y": 1.0}, jax.random.key(0)))
        print(state.values["x"], state.values["y"])  # 0.0 1.0
        ```

    Args:
        *levels: the peers, at least one.
        order: how peers of the same period move. "simultaneous": all from one point. "alternating":
            each from where the previous one arrived. None: in the order of the nest.

    Raises:
        ValueError: no levels, an argument that is not a level, or an unknown order.
    """

    levels: tuple[Level, ...]
    order: str | None

    def __init__(self, *levels: Any, order: str | None = None):
        for level in levels:
            if not isinstance(level, Level):
                raise ValueError(
                    f"Peers takes levels, got {type(level).__name__}; a list of levels goes in as "
                    "Peers(*levels)"
                )
        if not levels:
            raise ValueError("Peers needs at least one level, got none; Peers(level, ...)")
        if order is not None:
            check_order("Peers: order", order)
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "order", order)

    def __iter__(self) -> Iterator[Level]:
        return iter(self.levels)


def check_order(whose: str, order: object) -> None:
    """Refuses what is no order of peers."""
    if order not in get_args(Order):
        raise ValueError(f'{whose} is "simultaneous" or "alternating", got {order!r}')
