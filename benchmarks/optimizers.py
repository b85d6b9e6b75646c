"""Step time and state memory of nestax's optimizers beside optax's AdamW and Muon.

    python benchmarks/optimizers.py [--width 512] [--parameters 10e6]

The parameters are those of a transformer of the given width, four square matrices and two to and
from four times the width for each block, with biases. A step is the compiled update of state and
weights for a given gradient, state and weights donated; steps are taken in turns, and ratios are of
medians, with quartiles over rounds. An optimizer with a slow clock is timed over whole periods.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nestax import optim
from nestax.runs.machine import machine

PERIOD = 32
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "optax.adamw": lambda: optax.adamw(1e-3),
    "optax.contrib.muon": lambda: optax.contrib.muon(1e-3),
    "gradient_descent": lambda: optim.gradient_descent(1e-3),
    "momentum": lambda: optim.momentum(1e-3),
    "preconditioned_momentum": lambda: optim.preconditioned_momentum(1e-3),
    "delta_momentum, block=1": lambda: optim.delta_momentum(1e-3, block=1),
    "delta_momentum": lambda: optim.delta_momentum(1e-3),
    "delta_momentum, block=None": lambda: optim.delta_momentum(1e-3, block=None),
    "deep_momentum": lambda: optim.deep_momentum(1e-3),
    "m3": lambda: optim.m3(1e-3, period=PERIOD),
    "complex_momentum": lambda: optim.complex_momentum(1e-3, 0.9 * np.exp(0.4j)),
    "complex_adam": lambda: optim.complex_adam(1e-3, 0.8 * np.exp(0.4j)),
    "multi_timescale": lambda: optim.multi_timescale(1e-3, {"^block0": 1, ".": PERIOD}),
}


def transformer(width: int, parameters: float) -> dict[str, Any]:
    def block(rng: np.random.Generator) -> dict[str, Any]:
        shapes = {f"a{i}": (width, width) for i in range(4)}
        shapes |= {"up": (4 * width, width), "down": (width, 4 * width), "b": (4 * width,)}
        return {k: jnp.asarray(rng.normal(size=s) / width, jnp.float32) for k, s in shapes.items()}

    rng, each = np.random.default_rng(0), 12 * width**2 + 4 * width
    return {f"block{i}": block(rng) for i in range(max(1, round(parameters / each)))}


class Runner:
    """An optimizer, its compiled step, and what it holds."""

    def __init__(self, make: Callable[[], Any], weights: Any, gradient: Any):
        tx = make()

        def step(state: Any, weights: Any, gradient: Any) -> Any:
            update, state = tx.update(gradient, state, weights)
            return state, optax.apply_updates(weights, update)

        self.gradient, self.step = gradient, jax.jit(step, donate_argnums=(0, 1))
        self.held = (tx.init(weights), jax.tree.map(jnp.copy, weights))
        size = sum(a.nbytes for a in jax.tree.leaves(self.held[0]))
        self.copies = size / sum(a.nbytes for a in jax.tree.leaves(weights))
        begin = time.perf_counter()
        self.turn(1)
        self.first = time.perf_counter() - begin

    def turn(self, steps: int) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            self.held = self.step(*self.held, self.gradient)
        jax.block_until_ready(self.held)
        return (time.perf_counter() - begin) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description="Step time and memory of optimizers")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--parameters", type=float, default=10e6)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", nargs="*", default=list(OPTIMIZERS))
    options = parser.parse_args()
    weights = transformer(options.width, options.parameters)
    gradient = jax.tree.map(lambda a: a[::-1] * 0.1, weights)
    count = sum(a.size for a in jax.tree.leaves(weights))
    for key, value in machine().items():
        print(f"- {key}: {value}")
    print(f"- parameters: {count:,}, width {options.width}\n")
    runners = {name: Runner(OPTIMIZERS[name], weights, gradient) for name in options.only}
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(options.rounds):
        for name, runner in runners.items():
            times[name].append(runner.turn(PERIOD))
    print(
        "| optimizer | ms per step | to AdamW | to Muon | state, copies of the weights | first s |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for name, runner in runners.items():
        ratios = []
        for control in ("optax.adamw", "optax.contrib.muon"):
            if control in times:
                low, middle, high = np.quantile(
                    np.array(times[name]) / np.array(times[control]), (0.25, 0.5, 0.75)
                )
                ratios.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
            else:
                ratios.append("")
        print(
            f"| {name} | {1e3 * np.median(times[name]):.1f} | {ratios[0]} | {ratios[1]} | "
            f"{runner.copies:.2f} | {runner.first:.1f} |"
        )


if __name__ == "__main__":
    main()
