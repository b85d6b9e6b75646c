"""What a flow is: an object that knows how it looks at the levels inside, and computes."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
from jaxtyping import PyTree

from ._brief import Brief
from ._hoist import hoist
from ._inner import Inner
from ._point_response import settled


class Flow(Brief, abc.ABC):
    """How the gradient of a level passes through the updates of the levels inside it.

    A flow is a frozen dataclass. Nests ask it for facts, by these attributes, and never for its
    type.

    Attributes:
        partial: whether it takes the levels inside as constants.
        follows: whether it runs the level's own period, or looks at one point.
        reverse: of a flow that follows a period, whether it differentiates in reverse mode.
        last: how many iterations of the loop just inside it differentiates; None for all of them.
        first_order: whether it takes the gradients of the levels inside as constants.
        by_update: of a flow that looks at one point, whether the levels inside rest where their
            updates vanish, instead of their gradients.
        differences: whether it evaluates the objectives inside at other points, so that those must
            be plain losses.
        context: where it takes the batches of the levels inside from; None for their own.
    """

    partial: ClassVar[bool] = False
    follows: ClassVar[bool] = False
    reverse: ClassVar[bool] = False
    differences: ClassVar[bool] = False
    by_update: bool = False
    first_order: bool = False
    last: int | None = None
    context: Any = None

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
