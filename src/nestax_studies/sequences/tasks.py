"""What a sequence model may be asked to learn: examples drawn on the device, and tests."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Int


class Example(NamedTuple):
    """A sequence; `mask` says where there is anything to answer. Answers are tokens too."""

    tokens: Int[Array, " time"]
    targets: Int[Array, " time"]
    mask: Bool[Array, " time"]


Draw = Callable[[Any, Array, Array], Example]
"""(world, key, place) -> example. Place is a number in [0, 1) by which whatever is to be spread
evenly over examples (a length, a depth) is chosen: drawn in training, on a grid in tests."""


def read(model: Any, tokens: Int[Array, " time"], piece: int | None = None) -> Array:
    """The scores at every token, (time, vocabulary).

    Args:
        model: `(tokens, state) -> (scores, state)`.
        tokens: a sequence.
        piece: tokens read at a time, the state carried from piece to piece; must divide their
            number. All at once if not given.
    """
    if piece is None:
        return model(tokens)[0]

    def go_on(state: Any, part: Array) -> tuple[Any, Array]:
        scores, state = model(part, state)
        return state, scores

    scores = jax.lax.scan(go_on, model.init_state(), tokens.reshape(-1, piece))[1]
    return scores.reshape(len(tokens), -1)


@dataclasses.dataclass(frozen=True)
class Exam:
    """What a trained model is judged on.

    Attributes:
        draw: as in training.
        count: sequences.
        piece: tokens read at a time; all at once if not given.
        together: sequences side by side, for memory's sake.
        groups: of places, smallest first, whose accuracy is recorded; divides `count`.
    """

    draw: Draw
    count: int = 256
    piece: int | None = None
    together: int = 64
    groups: int = 1


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learned, and how it is looked at.

    Attributes:
        vocabulary: number of tokens, answers included.
        train: draws an example to learn from.
        tests: by name.
        window: tokens of the longest sequence.
        tune: name of the test by which, on seeds of their own, rates are chosen.
        world: key -> what all examples of a run share.
        wrap: (model, key) -> what is trained, if it is more than the model.
        answer: (what is trained, tokens, piece) -> scores, (time, vocabulary).
        measure: of the test to tune by: "accuracy", or "whole" where most answers are easily right.
    """

    vocabulary: int
    train: Draw
    tests: Mapping[str, Exam]
    tune: str
    window: int
    world: Callable[[Array], Any] = lambda key: None
    wrap: Callable[[Any, Array], Any] = lambda model, key: model
    answer: Callable[[Any, Array, int | None], Array] = read
    measure: str = "accuracy"
