"""The books that the bodies of a program are entered into."""

import dataclasses
from fractions import Fraction

from .flow import Flows
from .graph import Key, Loop, Run


@dataclasses.dataclass(slots=True)
class Writes:
    """Of all components: those of the state first, then the loop carries found on the way.

    Attributes:
        hidden: paths of the loop carries that are not part of the state.
        times: how often each was written.
        needs: whose new state each needs for its own, as sets of bits.
        made_of: whose old or new state each is made of anywhere, as sets of bits; bit 0 stands for
            the step's arguments, bit n + 1 for component n.
        unknown: those written in a body that runs as often as the data says, if not measured.
        idle: those written in a body that never ran.
    """

    hidden: list[str]
    times: list[Fraction]
    needs: list[int]
    made_of: list[int]
    unknown: int = 0
    idle: int = 0


class Ledger:
    """What is known of a whole program while its bodies are gone through one after another."""

    def __init__(self, leaves: int, counts: dict[Key, int] | None) -> None:
        self.flows = Flows()
        self.counts = counts
        self.leaves = leaves
        self.met: dict[tuple[str, int | None, tuple[int, ...]], list[int]] = {}
        self.writes = Writes([], [Fraction(0)] * leaves, [0] * leaves, [0] * leaves)

    def add(self, component: int, times: Fraction | None, share: Fraction = Fraction(1)) -> None:
        """Writes so many of so much of a component; None: nobody knows how many."""
        if times is None:
            self.writes.unknown |= 1 << component
        else:
            self.writes.times[component] += times * share
            self.writes.idle |= (times == 0) << component

    def hide(self, loop: Loop, taken: dict[int, int], name: str) -> tuple[dict[int, int], Fraction]:
        """Components for the carries of a loop that no component of the state has taken.

        Also how much a round writes of them: nothing, if the loop repeats one met before.
        """
        changing = [
            j for j in range(loop.carries) if loop.inexact[j] and not self.flows.steady(loop, j)
        ]
        sizes = tuple(loop.body.sizes[loop.closed_over + j] for j in changing)
        known = self.met.get((loop.kind, loop.length, sizes))
        free = [j for j in changing if j not in taken]
        if loop.run is Run.BACKWARD:
            return {}, Fraction(0)
        if loop.run is Run.AGAIN and known is not None:
            found = dict(zip(changing, known, strict=True))
            return {j: found[j] for j in free}, Fraction(0)
        first, writes = len(self.writes.times), self.writes
        writes.hidden += [f"{name}.carry[{j}]" for j in free]
        for more in (writes.times, writes.needs, writes.made_of):
            more += [0] * len(free)
        found = {j: first + k for k, j in enumerate(free)}
        self.met[loop.kind, loop.length, sizes] = [(taken | found)[j] for j in changing]
        return found, Fraction(1)

    def counted(self, key: Key) -> Fraction | None:
        """How often a body ran whose runs depend on data; None where nobody counted."""
        found = None if self.counts is None else self.counts.get(key)
        return None if found is None else Fraction(found)
