"""PES of a learned update rule: a nest against JAX by hand and google's learned_optimization.

    python benchmarks/peers.py learned_optimization
    python benchmarks/peers.py --checkout learned_optimization_head=PATH learned_optimization_head
    python benchmarks/evolution.py

16 quadratic tasks of 10 weights, an antithetic pair of unrolls for each; truncations of 20 steps of
episodes of 100, staggered; an MLP of 1,762 weights as the rule (19 features, 32-32-2), sigma 0.01,
Adam outside, float32. A step makes 32 unrolls of 20 steps, estimates the gradient and moves. Every
program says what its gradient was made of; it is computed again in NumPy and float64 before times
are.
"""

import argparse
import itertools

import numpy as np
import peers
import race
from peers import Environments
from race import Entry, heading, relative_error

# A difference of two losses of about 20 whose relative distance is some 1e-4, in float32.
TOLERANCE = 1e-2
DECAYS = np.array([0.1, 0.5, 0.9, 0.99, 0.999, 0.9999])
SCALES = np.array([1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000])
STEPS, SIGMA, RATE = 20, 0.01, 1e-3
SIZES = (19, 32, 32, 2)

UPDATE = "`SingleMachineGradientLearner.update`, its fastest settings here"
LIBRARY = "the library's `mlp` and `meta_nest`, which watches for losses that are not finite"
ENTRIES = [
    Entry("nestax, step", "", "evolution_nestax.py", "step"),
    Entry("nestax, run", "", "evolution_nestax.py", "run", "100 steps a call, reports on the host"),
    Entry("nestax, step, no norms", "", "evolution_nestax.py", "step bare", "`Nest(norms=False)`"),
    Entry("nestax, run, no norms", "", "evolution_nestax.py", "run bare", "`Nest(norms=False)`"),
    Entry("nestax.learned, step", "", "evolution_nestax.py", "learned step", LIBRARY),
    Entry("nestax.learned, run", "", "evolution_nestax.py", "learned run", LIBRARY),
    Entry("JAX by hand, step", "", "evolution_jax.py", "step"),
    Entry("JAX by hand, run", "", "evolution_jax.py", "run", "100 steps in a scan"),
    Entry(
        "learned_optimization 0.0.1",
        "learned_optimization",
        "evolution_learned_optimization.py",
        note=f"{UPDATE}; names that JAX has removed are put back",
    ),
    Entry(
        "learned_optimization, repository",
        "learned_optimization_head",
        "evolution_learned_optimization.py",
        note=UPDATE,
    ),
    Entry(
        "learned_optimization, repository, jit",
        "learned_optimization_head",
        "evolution_learned_optimization.py",
        "jit",
        "its estimate and its Adam made one program by us, which its examples do not show",
    ),
]


def problem(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = []
    for inputs, outputs in itertools.pairwise(SIZES):
        weights += [rng.normal(size=(inputs, outputs)) / inputs**0.5, np.zeros(outputs)]
    return {f"t{i}": w.astype(np.float32) for i, w in enumerate(weights)}


def losses(
    theta: list[np.ndarray],
    w: np.ndarray,
    momenta: np.ndarray,
    count: np.ndarray,
    target: np.ndarray,
    late: bool,
) -> np.ndarray:
    """The mean of each copy's losses over the period, after (`late`) or before the updates."""
    total = np.zeros(len(w))
    for step in range(STEPS):
        if not late:
            total += np.sum((w - target) ** 2, axis=1)
        gradient = 2 * (w - target)
        momenta = DECAYS * momenta + (1 - DECAYS) * gradient[..., None]
        seen = np.concatenate([gradient[..., None], w[..., None], momenta], axis=-1)
        seen = seen / np.sqrt(1e-5 + np.mean(seen**2, axis=1, keepdims=True))
        clock = np.tanh((count + step)[:, None] / SCALES - 1)
        clock = np.repeat(clock[:, None], w.shape[1], axis=1)
        hidden = np.concatenate([seen, clock], axis=-1)
        for layer in range(3):
            hidden = hidden @ theta[2 * layer] + theta[2 * layer + 1][:, None]
            hidden = hidden if layer == 2 else np.maximum(hidden, 0)
        w = w - RATE * hidden[..., 0] * np.exp(RATE * hidden[..., 1])
        if late:
            total += np.sum((w - target) ** 2, axis=1)
    return total / STEPS


def exact(found: dict[str, np.ndarray]) -> np.ndarray:
    """The estimate in float64, flat, from what a step began with and drew."""
    wide = {name: value.astype(np.float64) for name, value in found.items()}
    theta = [wide[f"t{i}"] for i in range(6)]
    pairs = len(wide["perturbation"])
    parts = np.split(wide["perturbation"], np.cumsum([a.size for a in theta])[:-1], axis=1)
    mean = {}
    for sign in (1, -1):
        moved = [a + sign * e.reshape(-1, *a.shape) for a, e in zip(theta, parts, strict=True)]
        begun = (wide[n][(1 - sign) // 2 :: 2] for n in ("w", "momenta", "count", "target"))
        mean[sign] = losses(moved, *begun, late=bool(wide["late"]))
    slope = (mean[1] - mean[-1]) / (2 * SIGMA**2)
    return slope @ (wide["total"] + wide["perturbation"]) / pairs


def judge(found: dict[str, np.ndarray]) -> float:
    flat = np.concatenate([np.ravel(found[f"g{i}"]) for i in range(6)])
    return relative_error(flat, exact(found))


def main() -> None:
    parser = argparse.ArgumentParser(description="PES of a learned rule: nestax against its peers")
    peers.option(parser)
    race.option(parser)
    options = parser.parse_args()
    heading()
    environments = Environments(options.peers)
    race.race(ENTRIES, environments, problem(), judge, TOLERANCE, options.without, options.rounds)


if __name__ == "__main__":
    main()
