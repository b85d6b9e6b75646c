"""Step time and state memory of nestax's optimizers beside optax's AdamW and Muon.

    python benchmarks/optimizers.py                  # the update alone
    python benchmarks/optimizers.py --tokens 1024    # a whole training step

A transformer of about 10 M parameters (width 512, three blocks). "Update" is the compiled update of
state and weights for a given gradient; with `--tokens` the forward and backward pass of so many
tokens come first. State and weights are donated. Optimizers take turns; ratios are medians over
rounds, with quartiles, and those with a slow clock are timed over whole periods of it.
"""

import argparse
import cmath
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nestax import optim
from nestax.runs.machine import machine
from nestax_studies import models

WIDTH, DEPTH, HEADS, VOCABULARY, LENGTH = 512, 3, 8, 256, 256
PERIOD, SECONDS = 32, 0.5
TURNED = cmath.rect(0.9, cmath.pi / 8)
CONTROLS = ("optax.adamw", "optax.contrib.muon")
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "optax.adamw": lambda: optax.adamw(1e-3),
    "optax.contrib.muon": lambda: optax.contrib.muon(1e-3),
    "gradient_descent": lambda: optim.gradient_descent(1e-3),
    "momentum": lambda: optim.momentum(1e-3),
    "preconditioned_momentum": lambda: optim.preconditioned_momentum(1e-3),
    "preconditioned_momentum, kronecker": lambda: optim.preconditioned_momentum(
        1e-3, preconditioner="kronecker", period=PERIOD
    ),
    "delta_momentum, block=1": lambda: optim.delta_momentum(1e-3, block=1),
    "delta_momentum": lambda: optim.delta_momentum(1e-3),
    "delta_momentum, block=None": lambda: optim.delta_momentum(1e-3, block=None),
    "deep_momentum": lambda: optim.deep_momentum(1e-3),
    "deep_momentum, rows": lambda: optim.deep_momentum(1e-3, memory="rows"),
    "delta_gradient_descent": lambda: optim.delta_gradient_descent(1e-3),
    "generalized_gradient_descent, window of 3": lambda: optim.generalized_gradient_descent(
        1e-3, (1.0, 0.5, 0.25)
    ),
    "m3": lambda: optim.m3(1e-3, period=PERIOD),
    "complex_momentum": lambda: optim.complex_momentum(1e-3, TURNED),
    "complex_adam": lambda: optim.complex_adam(1e-3, TURNED),
    "multi_timescale": lambda: optim.multi_timescale(1e-3, {"blocks/0": 1, "": PERIOD}),
}
CLOCKED = ("preconditioned_momentum, kronecker", "m3", "multi_timescale")


def loss(weights: Any, tokens: jax.Array, linear: Any) -> jax.Array:
    scores = models.transformer(weights, tokens[:, :-1], HEADS, linear)
    labels = optax.losses.softmax_cross_entropy_with_integer_labels
    return jnp.mean(labels(scores, tokens[:, 1:]))


def delta(weight: jax.Array, x: jax.Array) -> jax.Array:
    return optim.delta_linear(weight, x, 1e-3, 0.01)


class Runner:
    """An optimizer, its compiled step, and what it holds."""

    def __init__(self, name: str, weights: Any, given: Any, training: bool):
        tx = OPTIMIZERS[name]()
        linear = delta if name == "delta_gradient_descent" else models.apply_linear

        def step(state: Any, weights: Any, given: Any) -> Any:
            gradient = jax.grad(loss)(weights, given, linear) if training else given
            update, state = tx.update(gradient, state, weights)
            return state, optax.apply_updates(weights, update)

        self.given, self.step = given, jax.jit(step, donate_argnums=(0, 1))
        self.held = (tx.init(weights), jax.tree.map(jnp.copy, weights))
        size = sum(a.nbytes for a in jax.tree.leaves(self.held[0]))
        self.copies = size / sum(a.nbytes for a in jax.tree.leaves(weights))
        self.steps = 1
        self.first = self.turn()
        one = self.turn()
        self.steps = PERIOD if name in CLOCKED else max(2, min(PERIOD, int(SECONDS / one)))

    def turn(self) -> float:
        begin = time.perf_counter()
        for _ in range(self.steps):
            self.held = self.step(*self.held, self.given)
        jax.block_until_ready(self.held)
        return (time.perf_counter() - begin) / self.steps


def main() -> None:
    parser = argparse.ArgumentParser(description="Step time and memory of optimizers")
    parser.add_argument("--tokens", type=int, default=0, help="a training step on so many tokens")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", nargs="*", default=list(OPTIMIZERS), choices=list(OPTIMIZERS))
    options = parser.parse_args()
    key = jax.random.key(0)
    weights = models.transformer_init(key, VOCABULARY, WIDTH, DEPTH)
    given: Any = jax.tree.map(lambda a: 0.1 * a[::-1], weights)
    if options.tokens:
        shape = (max(1, options.tokens // LENGTH), LENGTH + 1)
        given = jax.random.randint(key, shape, 0, VOCABULARY)
    for name, value in machine().items():
        print(f"- {name}: {value}")
    print(f"- parameters: {sum(a.size for a in jax.tree.leaves(weights)):,}")
    print(f"- step: {f'training on {options.tokens} tokens' if options.tokens else 'update'}\n")
    names = [name for name in options.only if options.tokens or name != "delta_gradient_descent"]
    runners = {name: Runner(name, weights, given, options.tokens > 0) for name in names}
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(options.rounds):
        for name, runner in runners.items():
            times[name].append(runner.turn())
    print(
        "| optimizer | ms per step | to AdamW | to Muon | state, copies of the weights | first s |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for name, runner in runners.items():
        ratios = []
        for control in CONTROLS:
            if control not in times:
                ratios.append("")
                continue
            each = np.array(times[name]) / np.array(times[control])
            low, middle, high = np.quantile(each, (0.25, 0.5, 0.75))
            ratios.append(f"{middle:.3g} ({low:.3g} to {high:.3g})")
        print(
            f"| {name} | {1e3 * np.median(times[name]):.1f} | {ratios[0]} | {ratios[1]} | "
            f"{runner.copies:.2f} | {runner.first:.1f} |"
        )


if __name__ == "__main__":
    main()
