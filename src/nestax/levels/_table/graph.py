"""What the level table needs to know of a program, in terms that no JAX release changes.

A `Body` is straight-line code: numbered values, some given from outside, the rest made by its
operations. Loops and branches hold bodies of their own. `jaxpr` makes one from a jaxpr;
`flow` and `writes` read it and know nothing of JAX.
"""

import dataclasses
import enum
from collections.abc import Iterator
from typing import Union

Key = tuple[int, ...]  # where in the program a body stands that runs a measured number of times


class Run(enum.Enum):
    """What a loop is run for."""

    FORWARD = enum.auto()
    BACKWARD = enum.auto()  # for a derivative: its carries are cotangents
    AGAIN = enum.auto()  # a second time, as the backward pass needs what was not kept


@dataclasses.dataclass(frozen=True, slots=True)
class Compute:
    """New values from old ones."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Copy:
    """The same numbers under another name, shape or precision."""

    inputs: tuple[int]
    outputs: tuple[int]


@dataclasses.dataclass(frozen=True, slots=True)
class Select:
    """One of several values, elementwise; `inputs` are the selector and then the cases."""

    inputs: tuple[int, ...]
    outputs: tuple[int]


@dataclasses.dataclass(frozen=True, slots=True)
class Loop:
    """A body run again and again.

    `inputs` are first what the body closes over, then the initial carries, then what is cut into
    slices; `outputs` the final carries, then what is stacked from slices. The body's own inputs
    and outputs stand in the same order.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    body: "Body"
    carries: int
    closed_over: int
    length: int | None  # None: until the predicate says so
    predicate: Union["Body", None]  # of what it closes over, then the carries
    predicate_inputs: tuple[int, ...]
    inexact: tuple[bool, ...]  # which carries are real or complex numbers
    run: Run
    kind: str  # "scan" or "while"
    key: Key

    def carry(self, index: int) -> int:
        """The initial value of a carry."""
        return self.inputs[self.closed_over + index]


@dataclasses.dataclass(frozen=True, slots=True)
class Branch:
    """One of several bodies; `inputs` are the selector and then the operands of every body."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    bodies: tuple["Body", ...]
    key: Key


Operation = Compute | Copy | Select | Loop | Branch


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Body:
    """Values are numbered in the order of `sizes`, the first `inputs` of them given from outside.

    `sizes` are their numbers of elements.
    """

    inputs: int
    outputs: tuple[int, ...]
    operations: tuple[Operation, ...]
    sizes: tuple[int, ...]


def bits(mask: int) -> Iterator[int]:
    """The positions of the ones of a set written as an integer."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def measured(body: Body) -> list[Key]:
    """The bodies whose number of runs depends on data, by their keys."""
    found: list[Key] = []
    for operation in body.operations:
        if isinstance(operation, Loop):
            if operation.length is None:
                found.append(operation.key)
            found += measured(operation.body)
        elif isinstance(operation, Branch):
            for index, branch in enumerate(operation.bodies):
                found.append((*operation.key, index))
                found += measured(branch)
    return found
