"""What a run reports of each level: returned, never carried."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LevelInfo:
    """A level's updates over a call; `info["name"].loss` or `info["name"]["loss"]`.

    Arrays have a leading axis, the level's updates in time order, and for copied levels a second
    one, the copies.

    Attributes:
        loss: the loss that was differentiated; for a level shared by copies the mean over them, for
            an accumulating level the mean or (weighted) sum over its period.
        gradient_norm: Euclidean norm of the gradient handed to the optimizer; None if the nest was
            made with `norms=False`.
        user: what the objective returned beside its loss; None for accumulating levels, and in
            place of what the level's `keep` has put into its value.
        inner_gradient: under Implicit, the norm of the inner levels' gradients, 0 where the
            implicit function theorem holds.
        residual: under Implicit, the linear system's relative residual.
        products: under Implicit, how often the solver applied its operator.
        diverged: under Implicit, whether the solver diverged.
        at_rest: under Implicit, the share of the inner gradient's norm in weights that their
            optimizer leaves exactly where they are; -1 if it is not measured.
    """

    loss: Any
    gradient_norm: Any = None
    user: Any = None
    inner_gradient: Any = None
    residual: Any = None
    products: Any = None
    diverged: Any = None
    at_rest: Any = None
    gradient: Any = None

    def __getitem__(self, field: str) -> Any:
        return getattr(self, field)
