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
    """A level whose value no optimizer moves: a frozen outer level, a test set's loss along a run.

    Its value is given to `Nest.init` like that of any other level, may be anything, integers and
    functions included, and is in `values` of every objective. It has a place in the list, so that
    flows of levels outside it pass it by, as a constant. `State.replace` changes it.

        look = lambda values, batch: loss(values["w"], batch)
        test = nx.Held("test", every=100, report=look, context=test_data)
        nest = nx.Nest([w, test])
        state = nest.init({"w": jnp.zeros(3)}, key)

    A report is evaluated where the objective of a level at its place in the list would be: after
    the updates of all levels of smaller periods in that tick, and before those of its peers of the
    same period (of those listed after it, if peers alternate). So `every=1` beside a level that
    moves at every tick reports the values before each update. A larger period, or a group of its
    own, `(nx.Held(...),)` in the list, reports those after it.

    Args:
        name: how objectives and `state.values` call the value. A level with a report needs none:
            `init` takes None where it is left out.
        every: the period of the report, in ticks.
        report: (values, batch) -> number or (number, info), evaluated every period and found in
            `LevelInfo.loss`, as a floating-point number, and `.user`. None: nothing, a loss of 0.
        context: where the report takes its batches from, as for `Level`.

    Raises:
        ValueError: see `Level`.
    """
    report = no_report if report is None else report
    return Level(name, report, HOLD, context, every, trained=False)
