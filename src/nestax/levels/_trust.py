"""Whether the gradients of point flows can be trusted, as far as their reports tell."""

import warnings
from typing import Any

from ._declaration import flow_of
from ._lost_runs import of_run
from ._machine import Machine


def warn(machine: Machine, infos: Any, runs: int | None, gone: set[int]) -> None:
    """Warns, once for each level, where a point flow's gradient should not be trusted. Of runs side
    by side those that are lost do not count."""
    for level in machine.declaration.levels:
        info, flow = infos[level.name], flow_of(level)
        looks = not (flow.partial or flow.follows)
        if not looks or level.name in machine.warned or not info.residual.size:
            continue
        each = [("", info)]
        if runs is not None:
            left = [run for run in range(runs) if run not in gone]
            each = [(f"in run {run} ", of_run(info, run)) for run in left]
        for where, one in each:
            wrong = flow.doubt(one)
            if wrong is not None:
                machine.warned.add(level.name)
                warnings.warn(
                    f"level {level.name!r}: its implicit gradient is off, {where}{wrong}",
                    stacklevel=5,
                )
                break
