"""What a sequence model may be asked to learn: examples drawn on the device, and tests; and how its
answers are judged: all over, in places, to the last."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

_BLOCKS = 25  # pieces of a sequence in which accuracy is recorded, at most


class Example(NamedTuple):
    """A sequence; `mask` says where there is anything to answer. Answers are tokens too."""

    tokens: Int[Array, " time"]
    targets: Int[Array, " time"]
    mask: Bool[Array, " time"]


Draw = Callable[[Any, Array, Array], Example]
"""(world, key, place) -> example. Place is a number in [0, 1) by which whatever is to be spread
evenly over examples (a length, a depth) is chosen: drawn in training, on a grid in tests."""


def read(model: Any, tokens: Int[Array, " time"], piece: int | None = None) -> Array:
    """The scores at every token, (time, vocabulary), of a model `(tokens, state) -> (scores,
    state)`. So many tokens are read at a time as `piece` says, which must divide their number, the
    state carried from piece to piece; all at once if not given."""
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


def graded(scores: Float[Array, "*batch time vocabulary"], examples: Example) -> Any:
    """Loss (nats) and correctness at every token, 0 where there is nothing to answer. Scores that
    are not finite are wrong answers."""
    each = optax.softmax_cross_entropy_with_integer_labels(scores, examples.targets)
    finite = jnp.all(jnp.isfinite(scores), axis=-1)
    right = (jnp.argmax(scores, axis=-1) == examples.targets) & finite & examples.mask
    return jnp.where(examples.mask, each, 0.0), right


def judge(task: Task, test: Exam, trained: Any, world: Any, key: Array) -> dict[str, Array]:
    """Means over all answers of a test: `loss` (nats) and `accuracy`; over sequences: `whole`, all
    answers right, and `last`, the last one right; `by_position`, accuracy along the sequence in
    blocks, NaN where nothing is asked; `by_place` and `whole_by_place`, accuracy and `whole` in
    each group of places."""
    keys = jax.random.split(key, test.count)
    places = jnp.arange(test.count) / test.count

    def one(drawn: Any) -> Any:
        example = test.draw(world, *drawn)
        each, right = graded(task.answer(trained, example.tokens, test.piece), example)
        final = len(right) - 1 - jnp.argmax(jnp.flip(example.mask))
        return jnp.sum(each), right, example.mask, right[final]

    losses, right, asked, last = jax.lax.map(
        one, (keys, places), batch_size=min(test.together, test.count)
    )
    whole = jnp.all(right == asked, axis=1).astype(float)
    time = right.shape[1]
    block = -(-time // _BLOCKS)

    def blocks(of: Array) -> Array:
        total = jnp.pad(jnp.sum(of, axis=0), (0, -time % block))
        return jnp.sum(total.reshape(-1, block), axis=1)

    def grouped(of: Array) -> Array:
        return jnp.sum(of.reshape(test.groups, -1), axis=1)

    count = jnp.sum(asked)
    return {
        "loss": jnp.sum(losses) / count,
        "accuracy": jnp.sum(right) / count,
        "whole": jnp.mean(whole),
        "last": jnp.mean(last.astype(float)),
        "by_position": blocks(right) / blocks(asked),
        "by_place": grouped(jnp.sum(right, axis=1)) / grouped(jnp.sum(asked, axis=1)),
        "whole_by_place": grouped(whole) / (test.count // test.groups),
    }
