"""A level: one optimization problem of a learning system.

Its objective, its own data, its update rule, its clock, and how gradients reach it through the
levels inside it (Nested Learning, Definition 3; elsewhere: an inner or outer problem, a player).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..flows.internal import is_function
from ._calls import shown
from ._field import Field
from ._process import Process
from ._signatures import check_arguments, check_optimizer
from ._stream import Stream

HOLD = optax.set_to_zero()  # the optimizer of levels that nothing moves


def no_report(values: dict[str, Any], batch: Any) -> Any:
    """The objective of levels that nothing moves and that report nothing."""
    del values, batch
    return jnp.zeros(())


Objective = Callable[[dict[str, Any], Any], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Level:
    """One optimization problem: an objective, data, an optimizer, a period, and a flow.

    A level is a declaration. It computes nothing until a `Nest` runs it.

    Example:
        ```python
        loss = lambda values, batch: (values["w"] - values["goal"]) ** 2
        outer = lambda values, batch: values["w"] ** 2
        w = nx.Level("w", loss, optax.sgd(0.1))
        goal = nx.Level("goal", outer, optax.sgd(0.1), every=5, flow=nx.Unroll())
        print(nx.Nest([w, goal]).ticks_per_step)  # 5
        ```

    Attributes:
        name: the name of its value in objectives, starts and `state.values`.
        objective: `objective(values, batch) -> loss` or `(loss, info)`. `values` maps the name of
            every level to its value, which is any pytree. Its inexact arrays are trained unless
            `trained` says otherwise. The objective is a pure function: randomness comes with the
            batch. A `Field` gives the vector that the optimizer follows, for a level that minimizes
            no loss.
        optimizer: an optax transformation; or a function `values -> transformation` where other
            levels own its hyperparameters or are its update rule. The function is called while JAX
            traces the program, and its optimizer state must always have the same structure.
            `update` receives those of the extra arguments `value`, `grad`, `value_fn`, `grad_fn`,
            `obj_fn` (the last three are functions of the trained value) and `batch` that it has
            parameters for.
        context: the data of the level. A function `(task, key) -> batch`; a `Stream` of host data;
            or a `Process`, whose batches depend on values or on a memory. None: the batch is the
            task itself. Levels with the same object, or with equal objects such as bound methods of
            one object, see the same batch at the same tick. With a third parameter named `copy` the
            function gets the number of the copy too: from 0, and 0 without copies. Batches are
            constants under `Direct`.
        every: its period in ticks, at least 1: the level updates at every tick that this divides.
            The fastest level has 1.
        flow: how its gradient passes through the updates of the levels inside it. None: `Direct()`,
            a partial derivative.
        start: `start(values, task, key) -> value` makes a fresh value at the beginning of each
            episode. `values` contains all outer levels, and those peers whose value persists. None:
            the value of this level persists. With a fourth parameter named `copy` it gets the
            number of the copy too.
        horizon: ticks in an episode, at most `2**31 - 2`; or `math.inf`: episodes do not end. A
            pair `(least, most)`: each episode's length is drawn log-uniformly. A function `(task,
            key) -> ticks` or `(task, key, copy) -> ticks`: each episode's length is computed by it.
            Drawn and computed lengths are rounded up to whole restart periods. None: the smallest
            period of the levels outside; `math.inf` if there are none.
        accumulate: None evaluates the objective at the due tick only. "mean" and "sum" gather it
            over every tick of the period: gradients under `Direct`, losses under `Unroll` and
            `Forward`. A sequence of `every` finite numbers gathers a weighted sum, with one weight
            for each tick of the period in order. Weights that change during training, or are
            learned, belong into a level whose value the objective multiplies its loss by.
        reset_optimizer: True: the optimizer state begins anew with each episode, as the value does.
            False keeps it over episodes: moments, counts and schedules go on. An optimizer whose
            state holds weights (lookahead, schedule-free, L-BFGS, averages of weights) then goes on
            from weights of the previous episode.
        trained: which leaves of the value are trained. A pytree of bools with the value's structure
            or a prefix of it, such as `{"params": True, "stats": False}`; or a function `value ->
            such a pytree` (the two forms of optax's masks). Of the leaves marked True the inexact
            arrays are trained; Python floats inside an equinox module never are, as in equinox. The
            other leaves stay in the value and in the state, but no optimizer sees them, and no
            gradient with respect to the level's value has a part for them. Where `start` computes
            them from outer values, those are differentiated through `start` as usual. None: all
            inexact arrays are trained; `Nest.init` then refuses statistics, random state and
            modules of flax, equinox and haiku.
        keep: `keep(value, info) -> value` is called after each update with the new value and with
            the info that the objective returned beside its loss, at the point where the gradient
            was taken (None if it returned a loss only). Leaves that are not trained become what it
            returns, as constants to every derivative. Trained leaves must be returned unchanged.
            With copies it sees one copy. A level that copies share gets an info whose arrays have a
            leading axis of copies, to be averaged as the statistic demands. Leaves of the info that
            are kept unchanged do not appear in `LevelInfo.user`. None: leaves that are not trained
            never change within an episode.
        done: `done(value, info) -> bool` is called after each update with the same arguments as
            `keep`: whether the episode is over. The next episode begins with the next restart
            period. With copies it sees one copy. Under evolution strategies the episodes of a pair
            end together, as soon as one of them is over. None: episodes end by their horizon alone.

    Raises:
        ValueError: a field that makes no sense by itself; the message names the level and the
            repair.

    Source: Nested Learning (Behrouz et al., 2025), Definition 3.
    """

    name: str
    objective: Objective
    optimizer: Any
    context: Any = None
    every: int = 1
    flow: Any = None
    start: Callable[..., Any] | None = None
    horizon: Any = None
    accumulate: Any = None
    reset_optimizer: bool = True
    trained: Any = None
    keep: Callable[[Any, Any], Any] | None = None
    done: Any = None

    @property
    def held(self) -> bool:
        """Whether no optimizer moves its value; see `Held`."""
        return self.optimizer is HOLD

    @property
    def reports(self) -> bool:
        """Whether it exists for its report. Its value is None unless `Nest.init` is given one."""
        return self.held and self.objective is not no_report

    @property
    def role(self) -> str:
        """The name of its objective in error messages: "report" if it is held, else "objective"."""
        return "report" if self.held else "objective"

    def __post_init__(self):
        def refuse(what: str) -> None:
            raise ValueError(f"level {self.name!r}: {what}")

        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"a level's name is a non-empty string, got {shown(self.name)}")
        owner = f"level {self.name!r}"
        if not callable(self.objective):
            refuse(
                f"the {self.role} is a function (values, batch) -> "
                f"{'number' if self.held else 'loss'}, got {shown(self.objective)}"
            )
        objective: Any = self.objective
        if isinstance(objective, Field):
            if self.flow is not None and not getattr(self.flow, "partial", False):
                refuse(
                    f"a flow such as {type(self.flow).__name__} computes the gradient of a loss, "
                    "and the level is given by its Field; leave the flow out, or give a loss"
                )
            objective = objective.function
        check_arguments(owner, self.role, objective, ("values", "batch"))
        check_optimizer(owner, self.optimizer)
        process = isinstance(self.context, Process)
        if not (self.context is None or callable(self.context) or process):
            refuse(
                "the context is a function (task, key) -> batch, a Stream or a Process, got "
                f"{type(self.context).__name__}; give fixed data as the nest's task, or a list "
                "of batches or a data loader as nx.Stream.of(loader)"
            )
        # Who samples from an implicit flow's own context is this level.
        for context in (self.context, getattr(self.flow, "context", None)):
            if callable(context) and not isinstance(context, Stream):
                check_arguments(owner, "context", context, ("task", "key"), ("copy",))
        if not _whole(self.every):
            refuse(
                f"every is a number of ticks, a whole number of at least 1, got {shown(self.every)}"
            )
        self._check_horizon(owner, refuse)
        if self.start is not None and not callable(self.start):
            refuse(f"start is a function (values, task, key) -> value, got {shown(self.start)}")
        if self.start is not None:
            check_arguments(owner, "start", self.start, ("values", "task", "key"), ("copy",))
        if self.horizon is not None and self.start is None:
            refuse("a horizon is the length of an episode; give start as well, or no horizon")
        if not isinstance(self.reset_optimizer, bool):
            refuse(f"reset_optimizer is True or False, got {self.reset_optimizer!r}")
        if not self.reset_optimizer and self.start is None:
            refuse(
                "reset_optimizer=False keeps the optimizer's state when an episode begins, and "
                "without a start there are no episodes; give start as well, or leave it out"
            )
        if self.accumulate is not None and not isinstance(self.accumulate, str):
            weights = _weights(self.accumulate)
            if weights is None:
                refuse(
                    'accumulate is None, "mean", "sum" or a sequence of finite numbers, got '
                    f"{self.accumulate!r}"
                )
            elif len(weights) != self.every:
                refuse(
                    f"accumulate has {len(weights)} weights, but its period has {self.every} "
                    f"ticks (every={self.every}); give one weight for each tick"
                )
            elif self.every == 1:
                refuse(
                    "accumulate weighs the ticks of a period, and with every=1 there is only one; "
                    "leave accumulate out and multiply the loss in the objective"
                )
            object.__setattr__(self, "accumulate", weights)
        elif self.accumulate not in (None, "mean", "sum"):
            refuse(f'accumulate is None, "mean", "sum" or weights, got {self.accumulate!r}')
        if self.trained is not None and not is_function(self.trained):
            for leaf in jax.tree.leaves(self.trained):
                if not isinstance(leaf, (bool, np.bool_)):
                    refuse(
                        "trained is a pytree of bools, a prefix of the value, or a function "
                        f"value -> such a pytree; got {leaf!r} in it"
                    )
        if self.keep is not None and not callable(self.keep):
            refuse(f"keep is a function (value, info) -> value, got {self.keep!r}")
        if self.done is not None and self.start is None:
            refuse("done ends an episode, and a level without a start has none; give start as well")
        if self.done is not None and not callable(self.done):
            refuse(f"done is a function (value, info) -> bool, got {shown(self.done)}")
        if self.done is not None:
            check_arguments(owner, "done", self.done, ("value", "info"))
        if self.done is not None and self.accumulate and self.every > 1:
            refuse(
                "done is called with the info of one objective, and a level that accumulates has "
                "many; leave accumulate out"
            )
        if self.keep is not None and self.accumulate and self.every > 1:
            refuse(
                "keep is called with the info of one objective, and a level that accumulates has "
                f"many; leave accumulate out and gather in the optimizer, with every=1 and "
                f"optax.MultiSteps(optimizer, {self.every}).gradient_transformation()"
            )

    def _check_horizon(self, owner: str, refuse: Callable[[str], None]) -> None:
        horizon = self.horizon
        if isinstance(horizon, list):
            horizon = tuple(horizon)
        if callable(horizon):
            check_arguments(owner, "horizon", horizon, ("task", "key"), ("copy",))
        elif isinstance(horizon, tuple):
            if len(horizon) != 2 or not all(map(_whole, horizon)) or horizon[0] >= horizon[1]:
                refuse(
                    "a horizon that is drawn is (least, most), two whole numbers of ticks, the "
                    f"first smaller, got {horizon}"
                )
            object.__setattr__(self, "horizon", horizon)
        elif isinstance(horizon, int) and horizon >= 2**31 - 1:
            refuse(
                f"a horizon has at most 2**31 - 2 ticks, got {horizon}; math.inf is one without end"
            )
        elif not (horizon is None or horizon == math.inf or _whole(horizon)):
            refuse(
                "horizon is a number of ticks, a whole number of at least 1, math.inf, a range "
                f"(least, most) or a function (task, key) -> ticks, got {shown(horizon)}"
            )


def _whole(ticks: Any) -> bool:
    return isinstance(ticks, int) and not isinstance(ticks, bool) and ticks >= 1


def _weights(given: Any) -> tuple[float, ...] | None:
    """Finite Python numbers, or None if these are none."""
    try:
        array = np.asarray(given)
    except ValueError:  # lists within lists
        return None
    if array.ndim != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        return None
    return tuple(map(float, array))
