"""What an update by a learned rule costs, beside AdamW's, in one process and in turns.

    python benchmarks/learned.py [--rounds 5] [--tokens 1024] [--copies 16]

Three situations: an update of ten million parameters, a training step of a residual model of as
many on some tokens, and what meta-training runs, twenty steps of many copies of a 64-32-10
perceptron side by side, each with its own theta. Printed are medians and, of the ratios to AdamW in
the same round, the median with quartiles; and the ratio of the processors' time, which other
programs on the machine disturb less. State and parameters are donated.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nestax as nx
from nestax.runs.machine import machine

WIDTH, STEPS = 1024, 20
RULES = {
    "small_fc": nx.learned.small_fc(),
    "normalized": nx.learned.normalized(),
    "delta": nx.learned.delta_momentum(),
    "deep": nx.learned.deep_momentum(),
}


def optimizers() -> dict[str, Any]:
    learned = {name: rule(rule.init(jax.random.key(0)), 1e-3) for name, rule in RULES.items()}
    return {"adamw": optax.adamw(1e-3), **learned}


def parameters() -> dict[str, jax.Array]:
    """Of one residual block, an embedding and a read-out: ten million."""
    shapes = {
        "in": (512, WIDTH), "up": (WIDTH, 4 * WIDTH), "bias": (4 * WIDTH,),
        "down": (4 * WIDTH, WIDTH), "scale": (WIDTH,), "out": (WIDTH, 512),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    return {k: jnp.asarray(0.02 * rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


def loss(p: Any, x: jax.Array) -> jax.Array:
    h = x @ p["in"]
    h = h + jax.nn.gelu(h @ p["up"] + p["bias"][None]) @ p["down"]
    return jnp.mean(jnp.square((h * (1 + p["scale"][None])) @ p["out"] - x))


def updated(tx: Any, p: Any, s: Any, g: Any) -> Any:
    updates, s = tx.update(g, s, p)
    return optax.apply_updates(p, updates), s


def trained(tx: Any, p: Any, s: Any, x: Any) -> Any:
    return updated(tx, p, s, jax.grad(loss)(p, x))


def side_by_side(name: str, copies: int) -> Callable[[], Any]:
    """Twenty steps of each copy, from its own start and with its own theta."""
    rng = np.random.default_rng(0)
    shapes = {"a": (64, 32), "b": (32,), "c": (32, 10), "d": (10,)}
    p = {
        k: jnp.asarray(0.2 * rng.normal(size=(copies, *s)), jnp.float32) for k, s in shapes.items()
    }
    x = jnp.asarray(rng.normal(size=(copies, 64, 64)), jnp.float32)
    labels = jnp.asarray(rng.integers(10, size=(copies, 64)))
    thetas = None
    if name in RULES:
        thetas = jax.vmap(RULES[name].init)(jax.random.split(jax.random.key(0), copies))

    def of(p: Any, x: Any, labels: Any) -> Any:
        logits = jax.nn.relu(x @ p["a"] + p["b"][None]) @ p["c"] + p["d"][None]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    @jax.jit
    @jax.vmap
    def run(theta: Any, p: Any, x: Any, labels: Any) -> Any:
        tx: Any = optax.adamw(1e-3) if theta is None else RULES[name](theta)

        def step(carry: Any, _: Any) -> Any:
            value, g = jax.value_and_grad(of)(carry[0], x, labels)
            return updated(tx, carry[0], carry[1], g), value

        return jax.lax.scan(step, (p, tx.init(p)), length=STEPS)[1]

    return functools.partial(run, thetas, p, x, labels)


def table(title: str, calls: dict[str, Callable[[], Any]], rounds: int) -> None:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            ended = time.perf_counter(), time.process_time()
            if turn:
                wall, cores = (1e3 * (b - a) for a, b in zip(began, ended, strict=True))
                times[name].append((wall, cores))
    print(f"\n{title}\n{'':12} {'ms':>8}   times AdamW's (quartiles)   of cores")
    for name, mine in times.items():
        ratios = np.divide(mine, times["adamw"])
        low, middle, high = np.percentile(ratios[:, 0], [25, 50, 75])
        print(
            f"{name:12} {np.median(np.asarray(mine)[:, 0]):8.1f}   "
            f"{middle:5.2f} ({low:.2f} to {high:.2f})       {np.median(ratios[:, 1]):.2f}",
            flush=True,
        )


def looped(function: Callable[..., Any], tx: Any, data: Any) -> Callable[[], Any]:
    """A call that continues from where the last one ended."""
    step = jax.jit(functools.partial(function, tx), donate_argnums=(0, 1))
    p = jax.tree.map(jnp.copy, parameters())
    carry = [p, jax.tree.map(jnp.copy, tx.init(p))]

    def call() -> Any:
        carry[:] = step(*carry, data)
        return carry

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description="What learned updates cost")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--copies", type=int, default=16)
    options = parser.parse_args()
    print(machine())
    p = parameters()
    total = sum(x.size for x in p.values())
    gradient = jax.tree.map(lambda x: 0.1 * x[::-1], p)
    calls = {name: looped(updated, tx, gradient) for name, tx in optimizers().items()}
    table(f"update of {total:,} parameters", calls, options.rounds)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(options.tokens, 512)), jnp.float32)
    calls = {name: looped(trained, tx, x) for name, tx in optimizers().items()}
    table(f"training step on {options.tokens} tokens", calls, options.rounds)
    calls = {name: side_by_side(name, options.copies) for name in ("adamw", *RULES)}
    table(f"{STEPS} steps of {options.copies} perceptrons 64-32-10", calls, options.rounds)


if __name__ == "__main__":
    main()
