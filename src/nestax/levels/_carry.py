"""What a nest's program passes around: the carry, the view of its copies, how gradients are
taken."""

import dataclasses
from typing import Any, NamedTuple

import jax

from ._values import Parts

NEVER = 2**31 - 1  # the end of an episode that has none


class Carry(NamedTuple):
    """What moves. `tick` is the number of the tick being executed, from 0. `gathered` and `before`
    live within a call only: what accumulating levels have gathered in their period so far, and the
    carry at the beginning of a period that an outer Implicit must run again."""

    values: dict[str, Parts]
    optimizers: dict[str, Any]
    task: Any
    tick: jax.Array
    key: Any
    gathered: dict[str, Any]
    before: dict[str, Any]
    feed: dict[int, Any]
    flows: dict[str, Any]
    contexts: dict[str, Any]
    episodes: dict[str, "Episode"]


class Episode(NamedTuple):
    """The ticks at which a level's present episode began and at which it will end, int32; of each
    copy, if there are any."""

    began: Any
    ends: Any


@dataclasses.dataclass(frozen=True)
class View:
    """All copies at once (`copy` is None; copied arrays have a leading axis) or a single one.

    Attributes:
        copies: length of that axis; None if nothing is copied or a single copy is looked at.
        copy: number of the copy looked at.
    """

    copies: int | None = None
    copy: Any = 0


@dataclasses.dataclass(frozen=True)
class Mode:
    """How gradients are taken while a period is differentiated.

    Attributes:
        under: the flow that differentiates the loop, if any.
        lean: inner gradients keep no second-order residuals.
        forward: some flow outside differentiates forward, which the lean gradient does not allow.
        first_order: some flow outside takes inner gradients for constants.
    """

    under: Any = None
    lean: bool = False
    forward: bool = False
    first_order: bool = False


class Found(NamedTuple):
    """What a level's flow found: losses (of each copy, if there are any), what the objective
    returned besides, the gradient, and the fields of `LevelInfo` that the flow fills."""

    losses: jax.Array
    user: Any
    gradient: Any
    diagnostics: dict[str, Any] | None
