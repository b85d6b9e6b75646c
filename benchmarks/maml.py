"""MAML on sinusoids: a nest against JAX and PyTorch written by hand, and against the libraries.

    python benchmarks/peers.py [--checkout learn2learn=PATH] torch torchopt higher learn2learn betty
    python benchmarks/maml.py

25 tasks of a table of 1,000, 10 + 10 shots, 10 inner steps of gradient descent with full second
order, a 1-40-40-1 network, Adam outside, float32. A step draws its tasks, takes the meta-gradient
and moves. The meta-gradient of the first step is compared with one in float64 before times are.
"""

import argparse
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import peers
import race
from peers import Environments
from race import Entry, heading, relative_error

SHOTS, STEPS, RATE, TABLE = 10, 10, 0.01, 1000
TOLERANCE = 1e-3  # float32 through ten ReLU steps

ENTRIES = [
    Entry("nestax, step", "", "maml_nestax.py"),
    Entry("nestax, run", "", "maml_nestax.py", "run", "20 steps a call, reports on the host"),
    Entry("nestax, step, no norms", "", "maml_nestax.py", "step bare", "`Nest(norms=False)`"),
    Entry("nestax, run, no norms", "", "maml_nestax.py", "run bare", "`Nest(norms=False)`"),
    Entry("JAX by hand", "", "maml_jax.py"),
    Entry("torch.compile by hand", "torch", "maml_torch.py", "compile"),
    Entry("torch.func by hand", "torch", "maml_torch.py", "eager"),
    Entry("TorchOpt, vmap", "torchopt", "maml_torchopt.py", "vmap"),
    Entry("TorchOpt, MetaSGD", "torchopt", "maml_torchopt.py"),
    Entry("higher", "higher", "maml_higher.py"),
    Entry(
        "learn2learn",
        "learn2learn",
        "maml_learn2learn.py",
        note="its MAML module unchanged; where the whole package does not import, from a shim",
    ),
    Entry("Betty", "betty", "maml_betty.py"),
    Entry("Betty, mended", "betty", "maml_betty.py", "mended", "see the worker for what is mended"),
]


def problem(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-5, 5, (TABLE, 2 * SHOTS, 1))
    y = rng.uniform(0.1, 5, (TABLE, 1, 1)) * np.sin(x - rng.uniform(0, np.pi, (TABLE, 1, 1)))
    weights, sizes = [], (1, 40, 40, 1)
    for inputs, outputs in itertools.pairwise(sizes):
        weights += [rng.normal(size=(inputs, outputs)) / inputs**0.5, np.zeros(outputs)]
    named = {"x": x, "y": y, **{f"w{i}": w for i, w in enumerate(weights)}}
    return {name: value.astype(np.float32) for name, value in named.items()}


def error(w, x, y):
    hidden = jax.nn.relu(x @ w[0] + w[1])
    hidden = jax.nn.relu(hidden @ w[2] + w[3])
    return jnp.mean((hidden @ w[4] + w[5] - y) ** 2)


def exact(data: dict[str, np.ndarray], picks: np.ndarray) -> np.ndarray:
    """The meta-gradient on these tasks in float64, flat."""

    def adapted(w, x, y):
        for _ in range(STEPS):
            gradient = jax.grad(error)(w, x[:SHOTS], y[:SHOTS])
            w = [a - RATE * b for a, b in zip(w, gradient, strict=True)]
        return error(w, x[SHOTS:], y[SHOTS:])

    def meta(w, x, y):
        return jnp.mean(jax.vmap(adapted, (None, 0, 0))(w, x, y))

    with jax.enable_x64(True):
        wide = {name: jnp.asarray(value, jnp.float64) for name, value in data.items()}
        w = [wide[f"w{i}"] for i in range(6)]
        found = jax.jit(jax.grad(meta))(w, wide["x"][picks], wide["y"][picks])
        return np.concatenate([np.ravel(g) for g in found])


def main() -> None:
    parser = argparse.ArgumentParser(description="MAML: nestax against its peers")
    peers.option(parser)
    race.option(parser)
    options = parser.parse_args()
    data = problem()

    def judge(found: dict[str, np.ndarray]) -> float:
        flat = np.concatenate([np.ravel(found[f"g{i}"]) for i in range(6)])
        return relative_error(flat, exact(data, found["picks"]))

    heading()
    environments = Environments(options.peers)
    race.race(ENTRIES, environments, data, judge, TOLERANCE, options.without, options.rounds)


if __name__ == "__main__":
    main()
