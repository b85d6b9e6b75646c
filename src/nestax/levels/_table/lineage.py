"""Where in a body each component is written: the program has values, a component is a place.

A component enters a body as one of its inputs and leaves it as one of its outputs; its *lineage*
is what happens in between, followed from the output back. The rules are those of storage:

* a loop's carry that ends as the component's new value **is** the component;
* so is one that begins as the component, or as what was made of it, and which the new value is
  made of, if the old value is not needed beside it. If it is (Reptile: `w + (adapted - w)`; a
  meta-gradient step: `w - g`), two values are alive at once: the carry is its own component;
* any other new value is one write; so is a value computed from the old one before a loop takes it
  over. A loop that starts afresh (zeros, the meta-parameters) is not a write: nothing is updated;
* `where(flag, new, old)` is a write of `new`.
"""

import dataclasses
from fractions import Fraction
from functools import cached_property

from .flow import Flow, Flows, begin
from .graph import Body, Branch, Loop, Select, bits


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A component that passes through a body, by the places of its value in and out.

    `input` is None where the body does not see the old value; `share` is how much of the
    component one round of the body writes: less than all in a loop over slices of it.
    """

    component: int
    input: int | None
    output: int
    share: Fraction = Fraction(1)


@dataclasses.dataclass(frozen=True, slots=True)
class Write:
    """A new value of a component; who uses `marks` uses it."""

    value: int
    marks: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
    """A component that passes through a loop or branch: places among its inputs and outputs."""

    place: int
    input: int | None
    output: int


Steps = list[Write | Passage]


class Lineages:
    """Of all components that pass through one body."""

    def __init__(self, flows: Flows, body: Body, lines: list[Line]) -> None:
        self._flows, self._body, self._lines = flows, body, lines
        self._flow: Flow = flows.of(body)
        self._owner: dict[int, int] = {}  # of values: the component that ends as it
        self._origins: dict[int, int] = {}

    def follow(self) -> dict[int, Steps]:
        """The steps of each component, first one first; none where it stays as it is."""
        ends: dict[int, list[tuple[Line, tuple[int, ...]]]] = {}
        for line in self._lines:
            value = self._flow.roots[self._body.outputs[line.output]]
            root, marks = self._past_selects(value, line.input)
            if root != line.input:
                ends.setdefault(root, []).append((line, marks))
        owners = {root: self._choose(root, [line for line, _ in ends[root]]) for root in ends}
        # What a component ends as is its own before anyone may claim it for an earlier step.
        for root, owner in owners.items():
            self._owner[root] = (owner or ends[root][0][0]).component
        return {
            line.component: self._back(line, root, marks, owners[root] not in (None, line))
            for root, claims in ends.items()
            for line, marks in claims
        }

    def _past_selects(self, value: int, old: int | None) -> tuple[int, tuple[int, ...]]:
        """What is stored where `where(flag, new, old)` is, and the values that hold it."""
        flow, marks = self._flow, []
        while old is not None and value in flow.made_by:
            operation = self._body.operations[flow.made_by[value][0]]
            if not isinstance(operation, Select):
                break
            cases = {flow.roots[v] for v in operation.inputs[1:]}
            if old not in cases or len(cases) != 2:
                break
            marks.append(value)
            (value,) = cases - {old}
        return value, tuple(marks)

    def _choose(self, root: int, lines: list[Line]) -> Line | None:
        """The component that a value belongs to which several end as; None: to all alike."""
        if len(lines) == 1:
            return lines[0]
        origin = self._origin(root)
        for line in lines:
            if line.input == origin:
                return line
        needs = self._flow.needs[root]
        own = [x for x in lines if x.input is not None and needs >> x.input & 1]
        if len(own) == 1:
            return own[0]
        return lines[0] if self._region(root) else None

    def _back(self, line: Line, root: int, marks: tuple[int, ...], copied: bool) -> Steps:
        """From the new value back to the old one; `copied`: the new value is another's."""
        steps: Steps = []
        flow, old = self._flow, line.input
        while root != old:
            region = None if copied else self._region(root)
            if region is None:
                given = copied or root not in flow.made_by
                steps.append(Write(root, marks if given else (root,)))
                beneath = self._carry_beneath(root, old)
                if beneath is None:
                    break
                root = beneath
                region = self._region(root)
                assert region is not None
            self._owner[root] = line.component
            place, position = flow.made_by[root]
            entrance = self._entrance(root, old)
            steps.append(Passage(place, entrance, position))
            if entrance is None:
                break
            root, marks = self._past_selects(flow.roots[region.inputs[entrance]], old)
            copied = False
            if root == old or self._owner.get(root, line.component) != line.component:
                break
            if not self._region(root) and not self._grown(root, old):
                break
        return steps[::-1]

    def _region(self, value: int) -> Loop | Branch | None:
        """The loop or branch that a value comes out of."""
        made = self._flow.made_by.get(value)
        operation = None if made is None else self._body.operations[made[0]]
        return operation if isinstance(operation, Loop | Branch) else None

    def _entrance(self, value: int, old: int | None = None) -> int | None:
        """The input of a loop or branch that a component goes in as which comes out as `value`.

        A carry has its place; a slice, or what a branch makes, is known by what it began as.
        """
        region = self._region(value)
        assert region is not None
        position = self._flow.made_by[value][1]
        if isinstance(region, Loop):
            if position < region.carries:
                return region.closed_over + position
            first, handed_on = region.closed_over + region.carries, set()
        else:
            first, handed_on = 1, set(self._flows.cases(region, position)) - {None}
        rest = list(enumerate(region.inputs))[first:]
        known = [p for p, _ in rest if p in handed_on]
        if old is not None:
            own = [p for p, v in rest if self._origin(v) == old]
            for p in own:
                if p in known:
                    return p
            if own:
                return own[0]
        return known[0] if len(known) == 1 else None

    def _origin(self, value: int) -> int:
        """What a value began as, before the loops and branches that it was carried through."""
        value = self._flow.roots[value]
        if value not in self._origins:
            region = self._region(value)
            place = None if region is None else self._entrance(value)
            if region is None or place is None:
                self._origins[value] = value
            else:
                self._origins[value] = self._origin(region.inputs[place])
        return self._origins[value]

    def _carry_beneath(self, root: int, old: int | None) -> int | None:
        """What a loop made of the component, if all of the component's part in `root` is in it."""
        if old is None or not self._carried:
            return None
        mask = self._beside[root]
        if mask >> old & 1:
            return None
        found = [self._carried[k] for k in bits(mask >> self._body.inputs)]
        found = [value for value in found if self._grown(self._origin(value), old)]
        for value in found:
            if all(self._descends(other, value) for other in found):
                return None if value in self._owner else value
        return None

    def _descends(self, value: int, ancestor: int) -> bool:
        while value != ancestor:
            region = self._region(value)
            place = None if region is None else self._entrance(value)
            if region is None or place is None:
                return False
            value = self._flow.roots[region.inputs[place]]
        return True

    def _grown(self, value: int, old: int | None) -> bool:
        """Whether a value may be a component that was changed: as large, and made of it."""
        if old is None or not self._flow.needs[value] >> old & 1:
            return False
        return self._body.sizes[value] == self._body.sizes[old]

    @cached_property
    def _carried(self) -> list[int]:
        """What comes out of loops and branches and began as a component, or as it was changed."""
        flow, sizes = self._flow, self._body.sizes
        entering = sum(1 << line.input for line in self._lines if line.input is not None)
        found = []
        for value in flow.made_by:
            if flow.roots[value] == value and self._region(value):
                origin = self._origin(value)
                components = bits(flow.needs[origin] & entering)
                if any(sizes[i] == sizes[origin] for i in components):
                    found.append(value)
        return found

    @cached_property
    def _beside(self) -> list[int]:
        """For each value the inputs that it is made of, and then the `_carried`, as bits.

        What a value has from an input through one of the carried counts as that one's.
        """
        body, flow = self._body, self._flow
        number = {value: body.inputs + k for k, value in enumerate(self._carried)}
        sets = begin(body)
        for place, operation in enumerate(body.operations):
            instead: dict[int, int] = {}
            for value in operation.outputs:
                entrance = self._entrance(value) if value in number else None
                if entrance is not None:
                    instead[entrance] = 1 << number[value]
            made = self._flows.carry_over(operation, place, flow, sets, instead)
            for position, value in enumerate(operation.outputs):
                same = flow.roots[value]
                sets[value] = made[position] if same == value else sets[same]
        return sets
