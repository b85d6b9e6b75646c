"""Eight runs side by side against one: the sinusoid MAML nest of `maml.py`, `Nest.run` in turns.

    python benchmarks/side_by_side.py [--runs 8] [--copies 25] [--devices 2]

Both states belong to one nest and one process, and calls of twenty steps alternate, so that a load
on the machine falls on both alike. Printed are medians, their ratio with the least and the largest
of five blocks of rounds, the floating point operations of a step and at which rate XLA multiplies
matrices of the nest's shapes, which bounds what runs side by side can save, and how far the
gradients of the runs are from those of separate runs.

`--devices` makes so many devices of the CPU and spreads the runs over them.
"""

import argparse
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from maml import RATE, SHOTS, STEPS, error, problem

import nestax as nx
from nestax.runs.machine import machine

CALL, BLOCKS, WIDTH = 20, 5, 40  # steps in a call; blocks of rounds; units of a layer


def make(data: dict[str, np.ndarray], copies: int, norms: bool = True) -> nx.Nest:
    x, y = jnp.asarray(data["x"]), jnp.asarray(data["y"])

    def draw(key):
        row = jax.random.randint(key, (), 0, len(x))
        return x[row], y[row]

    def loss(values, batch):
        return error(values["w"], *batch)

    w = nx.Level(
        "w", loss, optax.sgd(RATE), lambda task, key: jax.tree.map(lambda a: a[:SHOTS], task),
        start=lambda values, task, key: values["init"],
    )  # fmt: skip
    init = nx.Level(
        "init", loss, optax.adam(1e-3), lambda task, key: jax.tree.map(lambda a: a[SHOTS:], task),
        every=STEPS, flow=nx.Unroll(),
    )  # fmt: skip
    return nx.Nest([w, init], task=draw, copies=copies, norms=norms)


def timed(nest: nx.Nest, state: nx.State) -> float:
    """Milliseconds of a step."""
    began = time.perf_counter()
    jax.block_until_ready(nest.run(state, CALL))
    return 1e3 * (time.perf_counter() - began) / CALL


def spread(state: nx.State, devices: int) -> nx.State:
    """The state with its runs spread over devices."""
    mesh = jax.make_mesh((devices,), ("runs",), axis_types=(jax.sharding.AxisType.Auto,))
    over = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("runs"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.tree.map(lambda a: jax.device_put(a, over if a.ndim else everywhere), state)


def multiplications(batch: int) -> float:
    """1e9 floating point operations a second of the hidden layer's product, `batch` at once."""
    x, w = jnp.ones((batch, SHOTS, WIDTH)), jnp.ones((batch, WIDTH, WIDTH))

    @jax.jit
    def repeated(x: Any, w: Any) -> Any:
        return jax.lax.fori_loop(0, 200, lambda i, x: 0.01 * jnp.matmul(x, w), x)

    times = []
    for _ in range(12):
        began = time.perf_counter()
        repeated(x, w).block_until_ready()
        times.append(time.perf_counter() - began)
    return 200 * 2 * batch * SHOTS * WIDTH**2 / min(times) / 1e9


def difference(nest: nx.Nest, together: nx.State, apart: list[nx.State]) -> float:
    """The largest of an entry of the gradients, relative to the largest entry."""
    flat = lambda tree: np.concatenate([np.ravel(a) for a in tree])  # noqa: E731
    found, worst = nest.gradient(together, "init"), 0.0
    for run, state in enumerate(apart):
        a, b = flat([a[run] for a in found]), flat(nest.gradient(state, "init"))
        worst = max(worst, float(np.max(np.abs(a - b)) / np.max(np.abs(b))))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs side by side: what they cost")
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--copies", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=9, help="in each of five blocks")
    parser.add_argument("--devices", type=int, default=1, help="over which runs are spread")
    options = parser.parse_args()
    if options.devices > 1:
        jax.config.update("jax_num_cpu_devices", options.devices)
    data = problem()
    values = {"init": [jnp.asarray(data[f"w{i}"]) for i in range(6)]}
    keys = jax.random.split(jax.random.key(0), options.runs)
    print(machine())
    for norms in (True, False):
        nest = make(data, options.copies, norms)
        one, together = nest.init(values, keys[0]), nest.init(values, keys)
        if options.devices > 1:
            together = spread(together, options.devices)
        for state in (one, together):
            timed(nest, state)
        blocks = []
        for _ in range(BLOCKS):
            pairs = [(timed(nest, one), timed(nest, together)) for _ in range(options.rounds)]
            a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
            blocks.append((b / a, a, b))
        ratios = sorted(ratio for ratio, _, _ in blocks)
        a, b = (statistics.median(block[i] for block in blocks) for i in (1, 2))
        print(
            f"norms={norms}: one run {a:.2f} ms a step, {options.runs} side by side {b:.2f} ms: "
            f"{ratios[BLOCKS // 2]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) times one run",
            flush=True,
        )
    for batch in (options.copies, options.copies * options.runs):
        print(f"{batch} products (10, 40) x (40, 40) at once: {multiplications(batch):.0f} GFLOP/s")
    apart = [nest.init(values, key) for key in keys]
    print(
        f"gradients differ from those of separate runs by {difference(nest, together, apart):.1e}"
    )


if __name__ == "__main__":
    main()
