"""How a trained sequence model is looked at: right answers, all over, in places, to the last."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from .tasks import Exam, Example, Task

_BLOCKS = 25  # pieces of a sequence in which accuracy is recorded, at most


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
