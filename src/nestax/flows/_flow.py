"""What a flow is: an object that knows how it looks at the levels inside, and computes."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
from jaxtyping import Array, PRNGKeyArray, PyTree

from ._brief import Brief
from ._hoist import hoist
from ._inner import Inner
from ._point_response import settled


class Reached(NamedTuple):
    """Where a run of a period has come to.

    Attributes:
        loss: what is differentiated: the level's loss, over copies their mean.
        losses: (copies,), each copy's own; a scalar without copies.
        end: what a nest needs to go on from there.
    """

    loss: Array
    losses: Array
    end: Any


class Period(NamedTuple):
    """A level's period, which its flow may run from the beginning with any value.

    Attributes:
        value: the level's present value, what is trained of it, in float32 at least; None in place
            of other leaves.
        copies: how many there are, or None.
        run: value -> `Reached`, for any value like `value`; pure, and to be differentiated in any
            mode.
        run_each: values with a leading axis of copies -> `Reached`: a value for each copy, which a
            flow announces by `perturbs = True`.
    """

    value: PyTree
    copies: int | None
    run: Callable[[PyTree], Reached]
    run_each: Callable[[PyTree], Reached]


class Flow(Brief, abc.ABC):
    """How the gradient of a level passes through the updates of the levels inside it.

    A flow is a frozen dataclass. Nests ask it for facts, by these attributes, and never for its
    type. A flow of your own sets `follows = True` and defines `gradient`, which may run the level's
    period as often as it likes; docs/guides/flows.md has one of fifteen lines.

    Attributes:
        partial: whether it takes the levels inside as constants.
        follows: whether it runs the level's own period, or looks at one point.
        joint: of a flow that follows a period, whether it takes the gradients of several peers at
            once, by `value_and_gradients`; else `gradient` is called for each level.
        estimates: whether its gradient is right in the mean only, so that one draw of it cannot be
            checked against differences.
        perturbs: whether every copy runs the period with a value of its own. Copies 2i and 2i + 1
            are then an antithetic pair: they share tasks, starts and batches.
        reverse: of a flow that follows a period, whether it differentiates in reverse mode.
        last: how many iterations of the loop just inside it differentiates; None for all of them.
        first_order: whether it takes the gradients of the levels inside as constants.
        by_update: of a flow that looks at one point, whether the levels inside rest where their
            updates vanish, instead of their gradients.
        differences: whether it evaluates the objectives inside at other points, so that those must
            be plain losses.
        rough: whether it approximates by design, so that the derivative of its gradient is not that
            of what it computes: `Nest.map` refuses it.
        context: where it takes the batches of the levels inside from; None for their own.
    """

    partial: ClassVar[bool] = False
    follows: ClassVar[bool] = False
    joint: ClassVar[bool] = False
    estimates: ClassVar[bool] = False
    perturbs: ClassVar[bool] = False
    reverse: ClassVar[bool] = False
    differences: ClassVar[bool] = False
    rough: bool = False
    by_update: bool = False
    first_order: bool = False
    last: int | None = None
    context: Any = None

    def init(self, value: PyTree, copies: int | None) -> PyTree:
        """What the flow remembers, at first: arrays and numbers, whose structure, shapes and dtypes
        it keeps.

        Args:
            value: what is trained of the level's value, None in place of other leaves.
            copies: of the nest, or None.
        """
        del value, copies
        return ()

    def restarted(self, memory: PyTree, due: Array) -> PyTree:
        """The memory when episodes begin.

        Args:
            memory: of the flow.
            due: (copies,), which copies begin anew; a scalar without copies.
        """
        del due
        return memory

    def gradient(
        self, period: Period, memory: PyTree, key: PRNGKeyArray
    ) -> tuple[PyTree, Reached, PyTree]:
        """Estimates the gradient of the level's loss at the end of its period.

        Args:
            period: the level's period, to be run.
            memory: from `init` or the last call.
            key: for noise, another one for every update.

        Returns:
            (gradient, reached, memory): the gradient is a pytree like `period.value`; `reached` is
            what one of the runs returned; the memory is like the one that came. The nest goes on
            from where that run has taken the levels inside. The level's own value stays where it
            was, whatever value it was run with, and its optimizer moves it.
        """
        raise NotImplementedError(f"{type(self).__name__} follows a period and defines no gradient")

    def loop(self, make_body: Callable[[bool], Callable], carry: Any, length: int) -> Any:
        """The loop of a period that this flow differentiates; `make_body(lean)` is one iteration,
        as `unrolled` takes it."""
        return jax.lax.scan(make_body(False), carry, None, length)

    def response(self, inner: Inner) -> Callable[[PyTree, PyTree], PyTree]:
        """(values, start) -> where an inner problem ends, with this flow's derivatives, as
        `best_response` hands it out."""
        raise NotImplementedError(f"{type(self).__name__} has no response to differentiate")

    def doubt(self, report: Any) -> str | None:
        """Why the gradients of some updates should not be trusted, from their `LevelInfo`; None
        where nothing speaks against them."""
        del report
        return None


@dataclasses.dataclass(frozen=True, repr=False)
class Direct(Flow):
    """Partial derivative. Inner levels are treated as constants."""

    partial: ClassVar[bool] = True

    def response(self, inner: Inner) -> Callable[[PyTree, PyTree], PyTree]:
        """See `Flow.response`: a constant."""

        def respond(values: PyTree, point: PyTree) -> PyTree:
            pure, constants, _ = hoist(inner.loss, point, values)
            return settled(inner, pure, constants, values, point)[0]

        return respond
