"""Values that nothing moves (rule R6)."""

from collections.abc import Callable
from typing import Any

from ._level import HOLD, Level, no_report


def Held(
    name: str,
    every: int = 1,
    report: Callable[[dict[str, Any], Any], Any] | None = None,
    context: Any = None,
) -> Level:
    """A level whose value no optimizer moves: a frozen outer value, or a report along a run.

    Its value is given to `Nest.init` as for any other level. It may be any object, including
    integers and functions, and is in the `values` of every objective. `State.replace` changes it.
    The level has a place in the list of the nest; flows of levels outside treat its value as a
    constant.

    Its report is evaluated at the point where the objective of a level in its place would be: after
    the updates of all levels of smaller periods in that tick, and before the updates of its peers
    of the same period (if peers alternate: of those listed after it). So `every=1` beside a level
    that moves at every tick reports values before each update. A larger period, or a group of its
    own, `(nx.Held(...),)`, reports values after the update.

    Example:
        ```python
        w = nx.Level("w", lambda v, batch: (v["w"] - v["goal"]) ** 2, optax.sgd(0.25))
        error = nx.Held("error", every=2, report=lambda v, batch: v["w"] - 3)
        nest = nx.Nest([w, nx.Held("goal"), error])
        state = nest.init({"w": 1.0, "goal": 3.0}, jax.random.key(0))
        print(nest.run(state, steps=2)[1]["error"].loss)  # [-0.5   -0.125]
        ```

    Args:
        name: the name of its value in objectives and `state.values`. A level with a report needs no
            value: without one, its value is None.
        every: the period of the report, in ticks.
        report: `(values, batch) -> number` or `(number, info)`, evaluated every period. The number
            is in `LevelInfo.loss`, as floating point, and the info in `LevelInfo.user`. None: no
            report, and a loss of 0.
        context: the source of the report's batches, as for `Level`.

    Returns:
        A `Level`.

    Raises:
        ValueError: as for `Level`.
    """
    report = no_report if report is None else report
    return Level(name, report, HOLD, context, every, trained=False)
