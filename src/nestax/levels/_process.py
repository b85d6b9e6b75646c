"""Data that depend on values, and that may be carried on: contexts with a memory."""

import dataclasses
from collections.abc import Callable
from typing import Any

from ._calls import shown
from ._signatures import check_arguments


@dataclasses.dataclass(frozen=True, eq=False)
class Process:
    """A context that sees the levels' values and may remember.

    Drawn at the beginning of every `every` ticks, before any update, and held until the next draw:
    once for all levels that are given the same object, and for each copy. Roll-outs of an
    environment that goes on over truncations, replay buffers, target networks, running statistics:

        def draw(values, memory, task, key):         # how the environment goes on
            memory, rollout = roll(values["policy"], memory, key)
            return rollout, memory

        experience = nx.Process(draw, every=10, init=lambda values, task, key: reset(key))
        policy = nx.Level("policy", loss, optax.adam(1e-3), experience, every=10)

    What it remembers begins anew with the episode where there is one, the longest if there are
    several. It lies in `State.contexts`, and checkpoints hold it. Batches and memory are pytrees of
    arrays. Their floating-point parts are differentiated under `Unroll` and `Forward`, as they
    depend on values, and constants to `Implicit` and `FiniteDifference`.

    Under `Direct`, the default, a batch is a constant: store actions, and compute their
    log-probabilities in the objective. Log-probabilities computed in `draw` have no derivative.

    Attributes:
        draw: (values, task, key) -> batch; with `init` (values, memory, task, key) -> (batch,
            memory). A parameter named `copy` gets the number of the copy.
        every: ticks from one draw to the next, the period of some level.
        init: (values, task, key) -> memory, at the beginning of an episode, or of the run.

    Raises:
        ValueError: something that is no function, or takes other arguments.
    """

    draw: Any  # Callable[..., Any]
    every: int = 1
    init: Callable[..., Any] | None = None

    def __post_init__(self):
        remembers = self.init is not None
        needed = ("values", "memory", "task", "key") if remembers else ("values", "task", "key")
        for field, function, names in (
            ("draw", self.draw, needed),
            ("init", self.init, ("values", "task", "key")),
        ):
            if function is None and field == "init":
                continue
            if not callable(function):
                raise ValueError(
                    f"Process: {field} is a function ({', '.join(names)}) -> "
                    f"{'batch' if field == 'draw' else 'memory'}, got {shown(function)}"
                )
            check_arguments("Process", field, function, names, ("copy",))
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ValueError(
                f"Process: every is a number of ticks, at least 1, got {shown(self.every)}"
            )

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """What tells this process from others: how it draws."""
        return self.draw
