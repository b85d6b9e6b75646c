"""Data that depend on values, and that may be carried on: contexts with a memory."""

import dataclasses
from collections.abc import Callable
from typing import Any

from ._calls import shown
from ._signatures import check_arguments


@dataclasses.dataclass(frozen=True, eq=False)
class Process:
    """A context that sees the values of the levels and may have a memory.

    For rollouts of an environment that goes on over truncations, replay buffers, target networks
    and running statistics. A batch is drawn at the beginning of every `every` ticks, before any
    update, and is held until the next draw. All levels that are given the same object see the same
    batch; each copy has its own.

    The memory begins anew with the episode, if there is one; with the longest, if there are
    several. It is in `State.contexts`, and checkpoints contain it. Batches and memory are pytrees
    of arrays. Under `Unroll` and `Forward` their floating-point arrays are differentiated as
    functions of the values; under `Implicit` and `FiniteDifference` they are constants.

    Under `Direct`, the default, a batch is a constant. Log-probabilities computed in `draw`
    therefore have no derivative: store the actions, and compute their log-probabilities in the
    objective.

    Example:
        ```python
        def draw(values, memory, task, key):
            return memory, 0.5 * memory + 0.5 * values["w"]  # a running mean

        mean = nx.Process(draw, init=lambda values, task, key: jnp.zeros(()))
        loss = lambda values, batch: (-values["w"], batch)
        nest = nx.Nest([nx.Level("w", loss, optax.sgd(1.0), mean)])
        state, info = nest.run(nest.init({"w": 1.0}, jax.random.key(0)), steps=3)
        print(info["w"].user)  # [0.   0.5  1.25]
        ```

    Attributes:
        draw: `(values, task, key) -> batch`; with `init` `(values, memory, task, key) -> (batch,
            memory)`. A parameter named `copy` gets the number of the copy.
        every: number of ticks from one draw to the next; the period of one of the levels.
        init: `(values, task, key) -> memory`, called at the beginning of an episode, or of the run.
            None: no memory.

    Raises:
        ValueError: `draw` or `init` is not a function or takes other arguments; `every` is not a
            whole number of at least 1.
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
