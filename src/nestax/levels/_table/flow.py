"""Which values a value is made of, and which are the same under another name.

Both are local to a `Body` and know nothing of the state: `writes` asks them who wrote what.
"""

import dataclasses
from collections.abc import Sequence

from .graph import Body, Branch, Compute, Copy, Loop, Operation, Select, bits


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """Of one body, for each of its values.

    Attributes:
        roots: the value it is a copy of; itself where it is new.
        needs: the inputs of the body it is made of, as a set of bits.
        made_by: the operation that made it and the place among that operation's outputs.
        reaches: for each loop, by its place among the operations: for each of its outputs the
            inputs of its body that it is made of after any number of rounds, as a set of bits.
    """

    roots: list[int]
    needs: list[int]
    made_by: dict[int, tuple[int, int]]
    reaches: dict[int, list[int]]


class Flows:
    """The flow of every body of a program, each worked out once."""

    def __init__(self) -> None:
        self._known: dict[int, Flow] = {}

    def of(self, body: Body) -> Flow:
        if id(body) not in self._known:
            self._known[id(body)] = self._work_out(body)
        return self._known[id(body)]

    def _work_out(self, body: Body) -> Flow:
        needs = begin(body)
        flow = Flow(list(range(len(needs))), needs, {}, {})
        for place, operation in enumerate(body.operations):
            if isinstance(operation, Loop):
                flow.reaches[place] = self._reaches(operation)
            made = self.carry_over(operation, place, flow, flow.needs)
            for position, value in enumerate(operation.outputs):
                same = self._same(operation, position, flow.roots)
                flow.roots[value] = value if same is None else same
                flow.needs[value] = made[position] if same is None else flow.needs[same]
                flow.made_by[value] = place, position
        return flow

    def carry_over(
        self,
        operation: Operation,
        place: int,
        flow: Flow,
        sets: list[int],
        instead: dict[int, int] | None = None,
    ) -> list[int]:
        """Sets of bits, one per value, carried from an operation's inputs to its outputs.

        `instead` holds other sets for some of the inputs, by their places.
        """
        given = [sets[value] for value in operation.inputs]
        for position, other in (instead or {}).items():
            given[position] = other
        if isinstance(operation, Loop):
            union, steering = Union(given), self.steering(operation, sets)
            return [union(mask) | steering for mask in flow.reaches[place]]
        if isinstance(operation, Branch):
            union, made = Union(given), [given[0]] * len(operation.outputs)
            for branch in operation.bodies:
                inside = self.of(branch)
                for i, value in enumerate(branch.outputs):
                    made[i] |= union(inside.needs[value] << 1)
            return made
        every = 0
        for mask in given:
            every |= mask
        return [every] * len(operation.outputs)

    def steering(self, loop: Loop, sets: list[int]) -> int:
        """What the number of rounds depends on, apart from the carries."""
        if loop.predicate is None:
            return 0
        mask = self.of(loop.predicate).needs[loop.predicate.outputs[0]]
        own = len(loop.predicate_inputs)
        return Union([sets[v] for v in loop.predicate_inputs])(mask & ((1 << own) - 1))

    def steered_by(self, loop: Loop) -> int:
        """The carries that the number of rounds depends on, as inputs of the loop's body."""
        if loop.predicate is None:
            return 0
        mask = self.of(loop.predicate).needs[loop.predicate.outputs[0]]
        return mask >> len(loop.predicate_inputs) << loop.closed_over

    def steady(self, loop: Loop, carry: int) -> bool:
        """Whether a carry merely passes through."""
        roots = self.of(loop.body).roots
        return roots[loop.body.outputs[carry]] == loop.closed_over + carry

    def _reaches(self, loop: Loop) -> list[int]:
        inside, body, first = self.of(loop.body), loop.body, loop.closed_over
        reach = [inside.needs[value] for value in body.outputs]
        if loop.predicate is not None:
            steered = self.steered_by(loop)
            for j in range(loop.carries):
                if not self.steady(loop, j):  # and it may run no round at all
                    reach[j] |= steered | 1 << (first + j)
        for k in range(loop.carries):  # the transitive closure of the carries, by Warshall
            bit, row = 1 << (first + k), reach[k]
            for j in range(loop.carries):
                if reach[j] & bit:
                    reach[j] |= row
        closed = Closure(loop, reach)
        return reach[: loop.carries] + [closed(mask) for mask in reach[loop.carries :]]

    def _same(self, operation: Operation, position: int, roots: list[int]) -> int | None:
        """The value that an output is a copy of, if it is one."""
        if isinstance(operation, Compute):
            return None
        if isinstance(operation, Copy):
            return roots[operation.inputs[0]]
        if isinstance(operation, Select):
            cases = {roots[value] for value in operation.inputs[1:]}
            return cases.pop() if len(cases) == 1 else None
        if isinstance(operation, Branch):
            cases = {
                None if place is None else roots[operation.inputs[place]]
                for place in self.cases(operation, position)
            }
            return cases.pop() if len(cases) == 1 else None
        root = self.of(operation.body).roots[operation.body.outputs[position]]
        slices = operation.closed_over + operation.carries
        stays = self.steady(operation, position) if position < operation.carries else None
        if stays or (stays is None and slices <= root < operation.body.inputs):
            return roots[operation.inputs[root]]
        return None

    def cases(self, branch: Branch, position: int) -> list[int | None]:
        """For each body, the place of the input that it hands on as this output, if it does."""
        found: list[int | None] = []
        for body in branch.bodies:
            root = self.of(body).roots[body.outputs[position]]
            found.append(1 + root if root < body.inputs else None)
        return found


def begin(body: Body) -> list[int]:
    """For each value of a body a set of bits: its own for each input, none for the others."""
    return [1 << i for i in range(body.inputs)] + [0] * (len(body.sizes) - body.inputs)


class Union:
    """Of sets at the places that a mask names; few masks are different, so each is done once."""

    def __init__(self, sets: Sequence[int]) -> None:
        self._sets = sets
        self._known: dict[int, int] = {}

    def __call__(self, mask: int) -> int:
        if mask not in self._known:
            together = 0
            for i in bits(mask):
                together |= self._sets[i]
            self._known[mask] = together
        return self._known[mask]


class Closure:
    """Inputs of a loop's body, with all that its carries among them are made of in some rounds."""

    def __init__(self, loop: Loop, reach: Sequence[int]) -> None:
        self._first, self._carries = loop.closed_over, (1 << loop.carries) - 1
        self._union = Union(reach)

    def __call__(self, mask: int) -> int:
        return mask | self._union(mask >> self._first & self._carries)
