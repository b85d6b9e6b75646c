"""Values that nothing moves (rule R6)."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from ._level import HOLD, Level


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

    Args:
        name: how objectives and `state.values` call the value; a report without a value of its own
            gets None, `init({..., "test": None}, key)`.
        every: the period of the report, in ticks.
        report: (values, batch) -> number or (number, info), evaluated every period and found in
            `LevelInfo.loss` and `.user`. None: nothing, a loss of 0.
        context: where the report takes its batches from, as for `Level`.

    Raises:
        ValueError: see `Level`.
    """
    return Level(name, _nothing if report is None else report, HOLD, context, every, trained=False)


def _nothing(values: dict[str, Any], batch: Any) -> Any:
    del values, batch
    return jnp.zeros(())
