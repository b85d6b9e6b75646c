"""How an arm learns a stream: consolidation, replay, and memories written while it learns.

Every arm sees the same examples of a task, in batches of one size; replay computes on as many
again, and a joint run, which is a reference and no contender, on examples of all tasks so far.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from nestax.levels import Field, Level, Nest, Process

from .. import streams
from .arms import Arm, Network
from .worlds import World

FISHER = 128  # examples of a task that its Fisher information is estimated from


def fisher(scores: Callable[[Any, Array], Array], params: Any, rows: Array, key: Array) -> Any:
    """The diagonal of the Fisher information of `scores`, (parameters, one example) -> (classes,):
    the mean over examples, (n, ...), of squared gradients of log p(y | x), labels y drawn from the
    network itself.

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
    """Keeps a uniform sample of the numbers of all examples that were met: the buffer, and how many
    were, after those that are met now.

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


def system(settings: Any, world: World, arm: Arm, net: Network) -> tuple[Nest, Any]:
    """The network as a level, its memory beside its weights; and for consolidation a level that
    moves when a task is over."""
    steps, batch = settings.steps, settings.batch_size

    def cross_entropy(values: Any, at: Array) -> tuple[Array, Any]:
        model, run = values["model"], values["run"]
        x, y = world.features(run["rows"][at]), run["labels"][at]
        scores, memory = net.learn(model["params"], model["memory"], x, y, run["extra"])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, y)), memory

    def loss(values: Any, drawn: Any) -> tuple[Array, Any]:
        extra = values["run"]["extra"]
        now, memory = cross_entropy(values, drawn["at"])
        if arm.kind == "ewc":
            params, kept = values["model"]["params"], values["kept"]
            apart = jax.tree.map(
                lambda f, p, a: jnp.sum(f * (p - a) ** 2), kept["fisher"], params, kept["anchor"]
            )
            now = now + extra / 2 * sum(jax.tree.leaves(apart))
        if arm.kind == "replay":
            share = jnp.where(drawn["kept"] > 0, extra, 0.0)
            now = (1 - share) * now + share * cross_entropy(values, drawn["again"])[0]
        return now, {"memory": memory} if arm.writes else {}

    def draw(values: Any, past: Any, task: Any, key: Array) -> tuple[Any, Any]:
        number, run = past["number"], values["run"]
        drawn, past = {"at": run["at"][number]}, past | {"number": number + 1}
        if arm.kind == "replay":
            buffer, met = past["buffer"], past["met"]
            draws = jax.random.split(jax.random.wrap_key_data(run["keys"][number]))
            kept = jnp.minimum(met, settings.buffer)
            places = jax.random.randint(draws[0], (batch,), 0, jnp.maximum(kept, 1))
            drawn |= {"again": buffer[places], "kept": kept}
            buffer, met = reservoir(buffer, met, drawn["at"], draws[1])
            past |= {"buffer": buffer, "met": met}
        return drawn, past

    def past(values: Any, task: Any, key: Array) -> Any:
        zero = jnp.zeros((), jnp.int32)
        return {"number": zero, "met": zero, "buffer": jnp.zeros(settings.buffer, jnp.int32)}

    def look(values: Any) -> Array:
        params, memory = (values["model"][name] for name in ("params", "memory"))
        return streams.accuracies(
            lambda shown: net.read(params, memory, world.features(shown[0])),
            values["run"]["shown"], (params, memory), settings.tasks,
        )  # fmt: skip

    def end(values: Any, number: Array, task: Any, key: Array) -> tuple[Any, Array]:
        """The last examples of the task, and a key."""
        last = (number + 1) * steps * batch - 1
        run = values["run"]
        return (run["rows"][last - jnp.arange(FISHER)], run["ends"][number]), number + 1

    def consolidate(values: Any, ended: Any) -> Any:
        """By which the anchor and the sum of Fisher information differ from what they become."""
        (rows, key), params = ended, values["model"]["params"]
        memory = values["model"]["memory"]
        found = fisher(
            lambda p, row: net.read(p, memory, world.features(row[None]))[0],
            params, rows, jax.random.wrap_key_data(key),
        )  # fmt: skip
        away = jax.tree.map(jnp.subtract, values["kept"]["anchor"], params)
        return {"anchor": away, "fisher": jax.tree.map(jnp.negative, found)}

    model = Level(
        "model", loss, lambda values: arm.make(values["run"]["rate"]), Process(draw, init=past),
        trained={"params": True, "memory": False},
        keep=(lambda value, told: value | told) if arm.writes else None,
    )  # fmt: skip
    ended = Process(end, steps, init=streams.zero)
    kept = Level("kept", Field(consolidate), optax.sgd(1.0), ended, steps)
    return streams.system(model, look, steps, [kept] if arm.kind == "ewc" else []), look


def drawn_tasks(world: World, key: Array, arrays: Any = None) -> Any:
    """The tasks of the run with this key."""
    return world.draw(world.arrays if arrays is None else arrays, jax.random.fold_in(key, 0))


def first(
    settings: Any, world: World, arm: Arm, net: Network,
    arrays: Any, key: Array, judged: Any, rate: Any, extra: Any,
) -> dict[str, Any]:  # fmt: skip
    """What a run begins with: its network, and its tasks with every example that it will see."""
    tasks, steps, batch = settings.tasks, settings.steps, settings.batch_size
    keys, numbers = [jax.random.fold_in(key, i) for i in range(5)], jnp.arange(tasks)
    drawn = drawn_tasks(world, key, arrays)
    text = lambda task, n, k: world.text(arrays, task, n, k, steps * batch)  # noqa: E731
    shown = lambda task, n, k: world.shown(arrays, task, n, k, judged)  # noqa: E731
    rows, labels = jax.vmap(text)(drawn, numbers, jax.random.split(keys[1], tasks))

    def order(number: Array, key: Array) -> tuple[Array, Array, Array]:
        draws = [jax.random.fold_in(key, i) for i in range(3)]
        at = number * steps * batch + jnp.arange(steps * batch)
        if arm.kind == "joint":  # an example in the same place of a task that was met
            other = jax.random.randint(draws[0], at.shape, 0, number + 1)
            at = at + (other - number) * steps * batch
        each = jax.random.key_data(jax.random.split(draws[1], steps))
        return at.astype(jnp.int32), each, jax.random.key_data(draws[2])

    at, each, ends = jax.vmap(order)(numbers, jax.random.split(keys[4], tasks))
    params = net.init(keys[3])
    run = {
        "rate": rate,
        "extra": extra,
        "rows": rows.reshape(-1, *rows.shape[2:]),
        "labels": labels.reshape(-1),
        "at": at.reshape(tasks * steps, batch),
        "keys": each.reshape(tasks * steps, -1),
        "ends": ends,
        "shown": jax.vmap(shown)(drawn, numbers, jax.random.split(keys[2], tasks)),
    }
    values = {"model": {"params": params, "memory": net.start(params)}, "run": run}
    kept = {"anchor": params, "fisher": jax.tree.map(jnp.zeros_like, params)}
    return values | ({"kept": kept} if arm.kind == "ewc" else {})


def parts(settings: Any, world: World, arm: Arm, net: Network) -> tuple[Nest, Any, Any, Any]:
    """An arm's nest; what all its runs share; (shared, key, judged, rate, extra) -> first values;
    and values -> accuracies."""
    nest, look = system(settings, world, arm, net)
    return nest, world.arrays, partial(first, settings, world, arm, net), look
