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
    """The end of a run of a period.

    Attributes:
        loss: the level's loss, which is differentiated, shape (); with copies their mean.
        losses: the loss of each copy, shape (copies,); shape () without copies.
        end: what a nest needs to go on from there.
    """

    loss: Array
    losses: Array
    end: Any


class Period(NamedTuple):
    """A level's period, which its flow may run from the beginning with any value.

    Attributes:
        value: the trained leaves of the level's present value, in float32 at least; None in place
            of other leaves.
        copies: number of copies, or None.
        run: `value -> Reached`, for any value like `value`. A pure function that can be
            differentiated in any mode.
        run_each: `values -> Reached`, where values have a leading axis of copies: a value for each
            copy. For flows that set `perturbs = True`.
    """

    value: PyTree
    copies: int | None
    run: Callable[[PyTree], Reached]
    run_each: Callable[[PyTree], Reached]


class Flow(Brief, abc.ABC):
    """How the gradient of a level passes through the updates of the levels inside it.

    A flow is a frozen dataclass. Nests read its attributes and never test its type. To write one,
    set `follows = True` and define `gradient`, which may run the level's period any number of
    times. The guide [Which flow?](../guides/flows.md) has an example of fifteen lines.

    Attributes:
        partial: whether the levels inside are constants.
        follows: whether it runs the level's own period; False: it evaluates derivatives at one
            point.
        joint: of a flow that follows a period, whether it computes the gradients of several peers
            at once, by `value_and_gradients`. False: `gradient` is called for each level.
        estimates: whether its gradient is right in the mean only, so that a single draw cannot be
            compared with differences.
        perturbs: whether every copy runs the period with a value of its own. Copies 2i and 2i + 1
            are then an antithetic pair: they share tasks, starts and batches.
        reverse: of a flow that follows a period, whether it differentiates in reverse mode.
        last: number of iterations of the loop just inside that it differentiates; None for all.
        first_order: whether the gradients of the levels inside are constants.
        by_update: of a flow that uses one point, whether the levels inside have settled where their
            updates vanish, instead of their gradients.
        differences: whether it evaluates the objectives inside at other points. These must then be
            plain losses.
        rough: whether it approximates by design, so that the derivative of its gradient is not the
            derivative of what it computes. `Nest.map` refuses it.
        context: source of the batches of the levels inside; None for their own.
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
        """The first memory of the flow: arrays and numbers.

        Later memories must have the same structure, shapes and dtypes.

        Args:
            value: the trained leaves of the level's value, None in place of other leaves.
            copies: number of copies of the nest, or None.

        Returns:
            A pytree; () for no memory.
        """
        del value, copies
        return ()

    def restarted(self, memory: PyTree, due: Array) -> PyTree:
        """The memory at the moment when episodes begin.

        Args:
            memory: the memory of the flow.
            due: which copies begin anew, bool, shape (copies,); shape () without copies.

        Returns:
            A memory like `memory`.
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
            key: for noise; a new one for every update.

        Returns:
            (gradient, reached, memory): the gradient is a pytree like `period.value`; `reached` was
            returned by one of the runs; the memory is like the one given. The nest goes on from the
            state that this run has reached inside. The level's own value stays as it was, whatever
            value it was run with, and its optimizer moves it.
        """
        raise NotImplementedError(f"{type(self).__name__} follows a period and defines no gradient")

    def loop(self, make_body: Callable[[bool], Callable], carry: Any, length: int) -> Any:
        """Runs the loop of a period that this flow differentiates.

        Args:
            make_body: `lean -> body`, one iteration, as `unrolled` takes it.
            carry: the carry at the beginning.
            length: number of iterations.

        Returns:
            (carry, outputs) as from `jax.lax.scan`.
        """
        return jax.lax.scan(make_body(False), carry, None, length)

    def response(self, inner: Inner) -> Callable[[PyTree, PyTree], PyTree]:
        """The map from slow values to the end of an inner problem, with this flow's derivatives.

        `best_response` calls it.

        Args:
            inner: the inner problem: `loss(point, values)`, `transformation(values)` and `steps`.

        Returns:
            `(values, start) -> end`, where `values` is the slow value and `end` is like `start`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no response to differentiate")

    def doubt(self, report: Any) -> str | None:
        """The reason why the gradients of some updates should not be trusted.

        Args:
            report: the `LevelInfo` of these updates.

        Returns:
            The reason, to be completed to a warning; None if there is none.
        """
        del report
        return None


@dataclasses.dataclass(frozen=True, repr=False)
class Direct(Flow):
    """Partial derivative. Inner levels are treated as constants.

    Example:
        ```python
        inner = lambda goal, w: (w - goal) ** 2
        end = nx.best_response(inner, optax.sgd(0.25), 3, nx.Direct())
        print(jax.grad(end)(1.0, jnp.zeros(())))  # 0.0
        ```
    """

    partial: ClassVar[bool] = True

    def response(self, inner: Inner) -> Callable[[PyTree, PyTree], PyTree]:
        """See `Flow.response`: the end is a constant."""

        def respond(values: PyTree, point: PyTree) -> PyTree:
            pure, constants, _ = hoist(inner.loss, point, values)
            return settled(inner, pure, constants, values, point)[0]

        return respond
