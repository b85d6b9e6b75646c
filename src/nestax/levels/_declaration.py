"""What a list of levels declares: groups, clocks, episodes."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from ..flows import Direct
from ._calls import shown
from ._level import Level
from ._peers import Peers, check_order


@dataclasses.dataclass(frozen=True)
class Declaration:
    """A nest's levels, as they were read.

    Attributes:
        groups: peers, innermost first.
        orders: how the peers of each group move.
        copies: number of copies of the groups up to the last one with a start, or None.
        stagger: whether the copies' episodes begin at different ticks.
        draws_task: whether the task is a function key -> task.
        given_tasks: whether every copy was given a task of its own.
        pairs: whether copies are paired though no flow asks for it.
    """

    groups: tuple[tuple[Level, ...], ...]
    orders: tuple[str, ...]
    copies: int | None
    stagger: bool
    draws_task: bool
    given_tasks: bool = False
    pairs: bool = False

    @property
    def levels(self) -> tuple[Level, ...]:
        return tuple(itertools.chain.from_iterable(self.groups))

    @property
    def periods(self) -> tuple[int, ...]:
        """The distinct periods, ascending."""
        return tuple(sorted({level.every for level in self.levels}))

    def group(self, level: Level) -> int:
        return next(i for i, group in enumerate(self.groups) if level in group)

    def alternating(self, level: Level) -> bool:
        """Whether the peers of this level's group move one after another."""
        return self.orders[self.group(level)] == "alternating"

    def inside(self, level: Level) -> tuple[Level, ...]:
        """The levels that this one's flow passes through."""
        return tuple(itertools.chain.from_iterable(self.groups[: self.group(level)]))

    def outside(self, level: Level) -> tuple[Level, ...]:
        return tuple(itertools.chain.from_iterable(self.groups[self.group(level) + 1 :]))

    def restart_period(self, level: Level) -> int:
        """The smallest period of what moves outside a level: its episodes begin at multiples."""
        outside = self.outside(level)  # held levels count where there are no others
        outside = tuple(other for other in outside if not other.held) or outside
        return min((other.every for other in outside), default=level.every)

    def grid(self, level: Level) -> int:
        """The lengths of a level's episodes are multiples of it."""
        return max(self.restart_period(level), level.every)

    def horizon(self, level: Level) -> int | float:
        """The most ticks that an episode of the level may have; `math.inf` if there is no bound."""
        if level.horizon is None:
            return self.restart_period(level) if self.outside(level) else math.inf
        if isinstance(level.horizon, tuple):
            return level.horizon[1]
        return math.inf if callable(level.horizon) else level.horizon

    @property
    def kept_episodes(self) -> bool:
        """Whether the state holds when episodes end. It need not where the tick says so: where all
        of them have fixed lengths, or no end."""
        return any(
            level.done is not None or isinstance(level.horizon, tuple) or callable(level.horizon)
            for level in self.episodic
        )

    def ending(self, level: Level) -> bool:
        """Whether episodes of a level end at all."""
        return self.kept_episodes or self.horizon(level) < math.inf

    @property
    def episodic(self) -> tuple[Level, ...]:
        return tuple(level for level in self.levels if level.start is not None)

    @property
    def longest(self) -> Level | None:
        """The level with the longest episodes, the outermost of those."""
        key = lambda level: (self.horizon(level), self.group(level))  # noqa: E731
        return max(self.episodic, key=key, default=None)

    def copied(self, level: Level) -> bool:
        last = max((self.group(one) for one in self.episodic), default=len(self.groups) - 1)
        return self.copies is not None and self.group(level) <= last

    @property
    def paired(self) -> bool:
        """Whether copies 2i and 2i + 1 are an antithetic pair: they share all draws."""
        return self.pairs or any(flow_of(level).perturbs for level in self.levels)

    @property
    def draws(self) -> int | None:
        """How many different batches, starts and tasks the copies have."""
        return self.copies // 2 if self.paired and self.copies is not None else self.copies

    def number(self, copy: Any) -> Any:
        """The number of a copy in a draw: that of its pair where copies are paired."""
        return copy // 2 if self.paired else copy

    @property
    def task_axis(self) -> int | None:
        """Where the axis of the copies lies in the arrays of the task; None if they share it."""
        own = self.copies is not None and (self.draws_task or self.given_tasks)
        return 0 if own else None

    def flow_group(self, below: int) -> int:
        """The outermost group before `below` in which some level has a flow: what lies before it is
        eliminated by that flow. 0 if there is none."""
        for index in range(below - 1, -1, -1):
            if any(not flow_of(level).partial for level in self.groups[index]):
                return index
        return 0

    def eliminated(self, level: Level) -> tuple[Level, ...]:
        """The levels that a point flow of this level eliminates (rule R6)."""
        end = self.group(level)
        inside = itertools.chain.from_iterable(self.groups[self.flow_group(end) : end])
        return tuple(one for one in inside if not one.held)

    def eliminator(self, group: int) -> Level | None:
        """The level of a group whose flow eliminates what lies before it."""
        for level in self.groups[group]:
            if not flow_of(level).partial and group > 0:
                return level
        return None


def flow_of(level: Level) -> Any:
    return Direct() if level.flow is None else level.flow


def weights_of(level: Level) -> tuple[float, ...]:
    """The weight of each tick of the period of a level that accumulates."""
    if isinstance(level.accumulate, tuple):
        return level.accumulate
    share = 1 / level.every if level.accumulate == "mean" else 1.0
    return (share,) * level.every


def read_groups(
    levels: Iterable[Level | Sequence[Level] | Peers], order: str
) -> tuple[tuple[tuple[Level, ...], ...], tuple[str, ...]]:
    """A list of levels and tuples of peers as groups, and the order of each group, by default
    `order`. Adjacent single levels of one period without a flow are one tuple."""
    check_order("order", order)
    groups: list[tuple[Level, ...]] = []
    orders: list[str] = []
    open_ended = False  # whether the last group consists of single levels without a flow
    if isinstance(levels, Level):
        raise ValueError("a nest takes a list of levels: Nest([level])")
    if isinstance(levels, (str, Mapping, Set)) or not isinstance(levels, Iterable):
        raise ValueError(
            f"a nest takes a list of levels, innermost first, got {shown(levels)}: "
            "Nest([inner, outer])"
        )
    for entry in levels:
        single = isinstance(entry, Level)
        peers = (entry,) if isinstance(entry, Level) else _peers(entry)
        plain = single and peers[0].flow is None
        if plain and open_ended and groups[-1][0].every == peers[0].every:
            groups[-1] += peers
        else:
            groups.append(peers)
            own = entry.order if isinstance(entry, Peers) else None
            orders.append(order if own is None else own)
        open_ended = plain
    return tuple(groups), tuple(orders)


def _peers(entry: Any) -> tuple[Level, ...]:
    peers = tuple(entry) if isinstance(entry, (tuple, list, Peers)) else ()
    if not peers or not all(isinstance(peer, Level) for peer in peers):
        raise ValueError(
            f"a nest's list holds levels and tuples of levels, got {shown(entry)}; soba, saba and "
            "f2sa return lists, which go in as Nest([tuple(...)])"
        )
    return peers
