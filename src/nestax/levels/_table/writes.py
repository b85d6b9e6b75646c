"""How often each component of a program is written, and whose new state its own new state needs.

Nested Learning (2025), Definition 2: A is faster than B if it is updated more often, or as often
and B's state at a time needs A's state at that time. "At that time" is the same round of the body
that both are written in: what a round finds in a carry is the state before.
"""

import dataclasses
from fractions import Fraction

from .flow import Closure, Flow, Union
from .graph import Body, Branch, Key, Loop, bits
from .ledger import Ledger, Writes
from .lineage import Line, Lineages, Passage


@dataclasses.dataclass(slots=True)
class _Round:
    """What one round of a body does.

    Attributes:
        made: for each of its outputs, the components whose new state it is made of.
        written: for each component written, the inputs of the body that its new state needs; None
            where it is only written a second time, for a derivative.
    """

    made: list[int]
    written: dict[int, int | None]


def find_writes(
    program: Body, leaves: int, counts: dict[Key, int] | None = None, calls: int = 1
) -> Writes:
    """Follows the state, the first `leaves` inputs and outputs of a program, and every carry.

    Args:
        program: a step.
        leaves: of the state.
        counts: how often the bodies whose runs depend on data ran in `calls` calls, by their keys.
            Without it (or where it has no entry) what they write is marked unknown.
        calls: that `counts` stands for.
    """
    ledger = Ledger(leaves, counts)
    lines = [Line(i, i, i) for i in range(leaves)]
    held = [2 << i if i < leaves else 1 for i in range(program.inputs)]
    _Visit(ledger, program, lines, Fraction(calls), "", held).run()
    ledger.writes.times = [times / calls for times in ledger.writes.times]
    return ledger.writes


class _Visit:
    """One body that runs `times` times (None: nobody knows), and all bodies in it.

    Events are writes in program order: the n-th of a component in one round of the body. A later
    write of A does not make an earlier one of B depend on it, nor does B's second write need A's
    first "at that time": hence the rank.

    `held` are the sources that the body's inputs stand for, if not just the components of its
    lines: what comes from further outside is seen to there.
    """

    def __init__(
        self,
        ledger: Ledger,
        body: Body,
        lines: list[Line],
        times: Fraction | None,
        where: str,
        held: list[int] | None = None,
    ) -> None:
        if held is None:
            held = [0] * body.inputs
            for line in lines:
                if line.input is not None:
                    held[line.input] = 2 << line.component
        self.ledger, self.body, self.times, self.where = ledger, body, times, where
        self.flow: Flow = ledger.flows.of(body)
        self.sources = Union(held)
        self.shares = {line.component: line.share for line in lines}
        self.events: list[tuple[int, int]] = []  # component and rank
        self.marks: dict[int, int] = {}  # events that a value shows
        self.new: dict[int, list[tuple[int, int]]] = {}  # component and rank, by new value
        self.copies: list[tuple[int, int, int]] = []  # component, rank and value
        self.passages: dict[int, dict[int, tuple[Passage, int]]] = {}  # by place and component
        self.made = [0] * len(body.sizes)  # of which events
        self.written: dict[int, int | None] = {}
        self.numbers: dict[str, int] = {}
        self.known: dict[tuple[int, int], int] = {}
        for component, steps in Lineages(ledger.flows, body, lines).follow().items():
            for rank, step in enumerate(steps):
                if isinstance(step, Passage):
                    self.passages.setdefault(step.place, {})[component] = step, rank
                    continue
                event = 1 << self.event(component, rank)
                for value in step.marks:
                    self.marks[value] = self.marks.get(value, 0) | event
                if step.value in step.marks:
                    self.new.setdefault(step.value, []).append((component, rank))
                else:
                    self.copies.append((component, rank, step.value))
                ledger.add(component, self.times, self.shares[component])

    def event(self, component: int, rank: int) -> int:
        self.events.append((component, rank))
        return len(self.events) - 1

    def run(self) -> _Round:
        roots, made = self.flow.roots, self.made
        for place, operation in enumerate(self.body.operations):
            if isinstance(operation, Loop):
                outs = self.loop(operation, place)
            elif isinstance(operation, Branch):
                outs = self.branch(operation, place)
            else:
                outs = self.ledger.flows.carry_over(operation, place, self.flow, made)
            for position, value in enumerate(operation.outputs):
                same = roots[value]
                made[value] = outs[position] if same == value else made[same]
                for component, rank in self.new.get(value, ()):
                    self.write(component, rank, made[value], self.flow.needs[value])
                made[value] |= self.marks.get(value, 0)
        for component, rank, value in self.copies:
            self.write(component, rank, made[value], self.flow.needs[value])
        components = [self.components(made[value]) for value in self.body.outputs]
        return _Round(components, self.written)

    def components(self, events: int, rank: int = 0) -> int:
        """Whose writes they are, those before the given rank left out."""
        if (events, rank) not in self.known:
            found = 0
            for event in bits(events):
                component, own = self.events[event]
                if own >= rank:
                    found |= 1 << component
            self.known[events, rank] = found
        return self.known[events, rank]

    def write(self, component: int, rank: int, events: int, inputs: int | None) -> None:
        before = self.written.setdefault(component, None)
        if inputs is None or self.shares.get(component) == 0:
            return
        needs = self.components(events, rank) & ~(1 << component)
        self.ledger.writes.needs[component] |= needs
        self.ledger.writes.made_of[component] |= needs << 1 | self.sources(inputs)
        self.written[component] = inputs | (before or 0)

    def loop(self, loop: Loop, place: int) -> list[int]:
        flows, body = self.ledger.flows, loop.body
        passing = self.passages.get(place, {})
        taken = {step.output: component for component, (step, _) in passing.items()}
        name = self.name(loop.kind)
        hidden, part = self.ledger.hide(loop, taken, name)
        lines = [Line(c, loop.closed_over + j, j, part) for j, c in hidden.items()]
        for output, component in taken.items():
            share = self.shares.get(component, Fraction(1))
            if output < loop.carries:
                lines.append(Line(component, loop.closed_over + output, output, share))
            else:
                step, _ = passing[component]
                lines.append(Line(component, step.input, output, share / max(loop.length or 1, 1)))
        if loop.length is not None:
            times = None if self.times is None else self.times * loop.length
        else:
            times = self.ledger.counted(loop.key)
        one = _Visit(self.ledger, body, lines, times, f"{name}.").run()
        reach = self.flow.reaches[place]
        steered = flows.steered_by(loop)
        steering = flows.steering(loop, self.made), flows.steering(loop, self.flow.needs)
        closed = Closure(loop, reach)
        inputs = {
            component: None if mask is None else closed(mask | steered)
            for component, mask in one.written.items()
        }
        events = self.enter(loop.inputs, inputs, passing, steering)
        made = Union([self.made[v] for v in loop.inputs])
        shown = Union([0] * loop.closed_over + one.made[: loop.carries] + [0] * len(loop.inputs))
        return [
            made(mask) | steering[0] | events(shown(mask) | own)
            for mask, own in zip(reach, one.made, strict=True)
        ]

    def branch(self, branch: Branch, place: int) -> list[int]:
        passing = self.passages.get(place, {})
        outs = [self.made[branch.inputs[0]]] * len(branch.outputs)
        rounds: list[tuple[Body, _Round]] = []
        inputs: dict[int, int | None] = {}
        name = None
        for index, body in enumerate(branch.bodies):
            times = self.ledger.counted((*branch.key, index))
            if times == 0:
                self.ledger.writes.idle |= sum(1 << component for component in passing)
                continue
            lines = [
                Line(
                    component,
                    None if step.input is None else step.input - 1,
                    step.output,
                    self.shares.get(component, Fraction(1)),
                )
                for component, (step, _) in passing.items()
            ]
            name = name or self.name("cond")
            one = _Visit(self.ledger, body, lines, times, f"{name}[{index}].").run()
            rounds.append((body, one))
            for component, mask in one.written.items():
                before = inputs.setdefault(component, None)
                if mask is not None:
                    inputs[component] = (before or 0) | mask << 1 | 1
        events = self.enter(branch.inputs, inputs, passing, (0, 0))
        made = Union([self.made[v] for v in branch.inputs])
        for body, one in rounds:
            inside = self.ledger.flows.of(body)
            for position, value in enumerate(body.outputs):
                outs[position] |= made(inside.needs[value] << 1) | events(one.made[position])
        return outs

    def enter(
        self,
        operands: tuple[int, ...],
        inputs: dict[int, int | None],
        passing: dict[int, tuple[Passage, int]],
        steering: tuple[int, int],
    ) -> Union:
        """Records what a loop or branch writes as events of this body, by component."""
        made = Union([self.made[value] for value in operands])
        needs = Union([self.flow.needs[value] for value in operands])
        events = [0] * len(self.ledger.writes.times)
        for component, mask in inputs.items():
            rank = passing[component][1] if component in passing else 0
            if mask is None:
                self.write(component, rank, 0, None)
            else:
                self.write(component, rank, made(mask) | steering[0], needs(mask) | steering[1])
            events[component] = 1 << self.event(component, rank)
        return Union(events)

    def name(self, kind: str) -> str:
        """Loops of a kind are numbered in program order within the body around them."""
        number = self.numbers.get(kind, 0)
        self.numbers[kind] = number + 1
        return f"{self.where}{kind}[{number}]"
