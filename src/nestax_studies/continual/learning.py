"""How an arm learns a stream: whole runs compiled, several side by side.

After each task a run is looked at on all of them, those to come included. Every arm sees the same
examples of a task, in batches of one size; replay computes on as many again, and a joint run, which
is a reference and no contender, on examples of all tasks so far.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ..study import is_tuning
from .arms import Arm, Network
from .worlds import World

FISHER = 128  # examples of a task that its Fisher information is estimated from


class Size(NamedTuple):
    """How long everything is.

    Attributes:
        tasks, steps, batch_size: of a stream; steps of each task.
        buffer: examples that replay keeps.
        together: runs side by side in one program.
    """

    tasks: int
    steps: int
    batch_size: int
    buffer: int
    together: int


class Elastic(NamedTuple):
    """What elastic weight consolidation keeps.

    Attributes:
        anchor: the weights when the last task was over.
        fisher: the sum over tasks of the diagonals of their Fisher information, estimated there.
    """

    anchor: Any
    fisher: Any


class Carry(NamedTuple):
    params: Any
    optimizer: Any
    memory: Any
    elastic: Elastic
    buffer: Int[Array, " slots"]
    met: Int[Array, ""]


def fisher(scores: Callable[[Any, Array], Array], params: Any, rows: Array, key: Array) -> Any:
    """The diagonal of the Fisher information: the mean over examples of squared gradients of
    log p(y | x), labels y drawn from the network itself.

    Args:
        scores: (parameters, one example) -> (classes,).
        params: where.
        rows: examples, the first axis.

    Source: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks" (2017); why
    labels are to be drawn: Kunstner, Balles and Hennig (2019).
    """

    def add(total: Any, drawn: Any) -> tuple[Any, None]:
        row, key = drawn
        label = jax.random.categorical(key, scores(params, row))
        gradient = jax.grad(lambda p: jax.nn.log_softmax(scores(p, row))[label])(params)
        return jax.tree.map(lambda t, g: t + g**2 / len(rows), total, gradient), None

    keys = jax.random.split(key, len(rows))
    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), (rows, keys))[0]


def reservoir(
    buffer: Int[Array, " slots"], met: Int[Array, ""], numbers: Int[Array, " n"], key: Array
) -> tuple[Int[Array, " slots"], Int[Array, ""]]:
    """Keeps a uniform sample of all that was met.

    Args:
        buffer: numbers of the examples kept.
        met: how many were met before.
        numbers: of those met now, in their order.

    Returns:
        The buffer, and how many were met.

    Source: Vitter, "Random sampling with a reservoir" (1985), Algorithm R; for replay Chaudhry et
    al., "On tiny episodic memories in continual learning" (2019).
    """

    def meet(kept: Any, one: Any) -> tuple[Any, None]:
        buffer, met = kept
        number, key = one
        slot = jnp.where(met < len(buffer), met, jax.random.randint(key, (), 0, met + 1))
        return (buffer.at[slot].set(number, mode="drop"), met + 1), None

    keys = jax.random.split(key, len(numbers))
    return jax.lax.scan(meet, (buffer, met), (numbers, keys))[0]


def drawn_tasks(world: World, key: Array, arrays: Any = None) -> Any:
    """The tasks of the run with this key."""
    return world.draw(world.arrays if arrays is None else arrays, jax.random.fold_in(key, 0))


def runner(
    world: World, arm: Arm, network: Network, size: Size
) -> Callable[[Sequence[tuple[float, float]], Sequence[int]], np.ndarray]:
    """(pairs of a rate and an extra, seeds) -> (pairs, seeds, tasks + 1, tasks).

    Accuracy after i tasks on task j; at first nothing is learned yet. Seeds from `tuning(0)` on are
    looked at on the examples to tune by. A run whose weights are no longer finite has accuracy 0.
    """
    tasks, steps, batch = size.tasks, size.steps, size.batch_size

    def one(arrays: Any, rate: Any, extra: Any, key: Array, judged: Any) -> Float[Array, "_ tasks"]:
        keys = [jax.random.fold_in(key, i) for i in range(6)]
        drawn = drawn_tasks(world, key, arrays)
        numbers = jnp.arange(tasks)
        written = jax.vmap(lambda task, n, k: world.text(arrays, task, n, k, steps * batch))
        rows, labels = written(drawn, numbers, jax.random.split(keys[1], tasks))
        looked_at = jax.vmap(lambda task, n, k: world.shown(arrays, task, n, k, judged))(
            drawn, numbers, jax.random.split(keys[2], tasks)
        )
        flat = rows.reshape(-1, *rows.shape[2:]), labels.reshape(-1)
        params = network.init(keys[3])
        optimizer = arm.make(rate)

        def cross_entropy(params: Any, memory: Any, at: Array) -> tuple[Array, Any]:
            x, y = world.features(flat[0][at]), flat[1][at]
            scores, memory = network.learn(params, memory, x, y, extra)
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, y)), memory

        def loss(params: Any, carry: Carry, at: Array, key: Array) -> tuple[Array, Any]:
            now, memory = cross_entropy(params, carry.memory, at)
            if arm.kind == "ewc":
                apart = jax.tree.map(
                    lambda f, p, a: jnp.sum(f * (p - a) ** 2), carry.elastic.fisher, params,
                    carry.elastic.anchor,
                )  # fmt: skip
                return now + extra / 2 * sum(jax.tree.leaves(apart)), memory
            if arm.kind == "replay":
                kept = jnp.minimum(carry.met, size.buffer)
                again = carry.buffer[jax.random.randint(key, (batch,), 0, jnp.maximum(kept, 1))]
                share = jnp.where(kept > 0, extra, 0.0)
                then = cross_entropy(params, carry.memory, again)[0]
                return (1 - share) * now + share * then, memory
            return now, memory

        def step(carry: Carry, at: Any) -> tuple[Carry, None]:
            at, key = at
            draws = jax.random.split(key)
            gradient, memory = jax.grad(loss, has_aux=True)(carry.params, carry, at, draws[0])
            updates, state = optimizer.update(gradient, carry.optimizer, carry.params)
            params = optax.apply_updates(carry.params, updates)
            buffer, met = carry.buffer, carry.met
            if arm.kind == "replay":
                buffer, met = reservoir(buffer, met, at, draws[1])
            return Carry(params, state, memory, carry.elastic, buffer, met), None

        def learn(carry: Carry, task: Any) -> tuple[Carry, Array]:
            number, key = task
            draws = [jax.random.fold_in(key, i) for i in range(3)]
            at = number * steps * batch + jnp.arange(steps * batch)
            if arm.kind == "joint":  # an example in the same place of a task that was met
                other = jax.random.randint(draws[0], at.shape, 0, number + 1)
                at = (at + (other - number) * steps * batch).astype(at.dtype)
            at = at.reshape(steps, batch), jax.random.split(draws[1], steps)
            carry, _ = jax.lax.scan(step, carry, at)
            if arm.kind == "ewc":
                end = flat[0][(number + 1) * steps * batch - 1 - jnp.arange(FISHER)]
                found = fisher(
                    lambda p, row: network.read(p, carry.memory, world.features(row[None]))[0],
                    carry.params, end, draws[2],
                )  # fmt: skip
                total = jax.tree.map(jnp.add, carry.elastic.fisher, found)
                carry = carry._replace(elastic=Elastic(carry.params, total))
            return carry, look(carry)

        def look(carry: Carry) -> Float[Array, " tasks"]:
            def right(task: Any) -> Array:
                rows, labels = task
                scores = network.read(carry.params, carry.memory, world.features(rows))
                return jnp.mean(jnp.argmax(scores, axis=1) == labels)

            held = jax.tree.leaves((carry.params, carry.memory))
            finite = jnp.stack([jnp.all(jnp.isfinite(a)) for a in held])
            return jnp.where(jnp.all(finite), jax.lax.map(right, looked_at), 0.0)

        start = Carry(
            params,
            optimizer.init(params),
            network.start(params),
            Elastic(params, jax.tree.map(jnp.zeros_like, params)),
            jnp.zeros(size.buffer, jnp.int32),
            jnp.zeros((), jnp.int32),
        )
        found = jax.lax.scan(learn, start, (numbers, jax.random.split(keys[4], tasks)))[1]
        return jnp.concatenate([look(start)[None], found])

    compiled = jax.jit(jax.vmap(one, (None, 0, 0, 0, 0)))

    def run(pairs: Sequence[tuple[float, float]], seeds: Sequence[int]) -> np.ndarray:
        asked = [(*pair, seed) for pair in pairs for seed in seeds]
        found = []
        for begin in range(0, len(asked), size.together):
            # Always as many, so that there is one program.
            some = [asked[min(begin + i, len(asked) - 1)] for i in range(size.together)]
            rates, extras = (jnp.asarray([one[i] for one in some], float) for i in range(2))
            keys = jnp.stack([jax.random.key(one[2]) for one in some])
            judged = jnp.asarray([int(not is_tuning(one[2])) for one in some])
            got = np.asarray(compiled(world.arrays, rates, extras, keys, judged))
            found.append(got[: len(asked) - begin])
        return np.concatenate(found).reshape(len(pairs), len(seeds), tasks + 1, tasks)

    return run
