"""Peers with an order of their own (rule R2)."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, get_args

from ._level import Level

Order = Literal["simultaneous", "alternating"]


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class Peers:
    """A group of peers, in the list of a nest in place of a tuple, with its own order of moves.

        nest = nx.Nest([nx.Peers(weights, critic, order="alternating"), (x, y), outer])

    Args:
        *levels: the peers.
        order: how peers of the same period move: "simultaneous", all from one point, or
            "alternating", each from where the previous one arrived. None: the nest's order.

    Raises:
        ValueError: no levels, something else than a level, or an unknown order.
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
