"""Spectra and maps of games: one compiled program against NumPy loops, and Arnoldi's products.

    python benchmarks/games.py [--blocks 5] [--sample 200]

The mixture game: 14 parameters, of which pairs rotate or descend: `(1 - gamma) diag` on the
diagonal and `±gamma diag` beside it, diag from 1/4 to 4, gamma from 0 to 1. Two maps over 50
learning rates, 50 moduli and 4 arguments of beta: the spectral radius, and the steps until the
game, run from a random start, has converged. Loops in NumPy visit one cell after the other:
`numpy.roots` for each eigenvalue, and steps of vectors of 14. They run on a sample of the cells,
drawn anew in each block, and their time is scaled up to all; both sides' results on the sample are
compared. `vectorised` is NumPy with all cells in one array.

Then the leading eigenvalues of GANs' Jacobians: products until convergence, against the dense
spectrum where there is room for it.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nestax as nx
from nestax.runs.machine import machine

RATES, MODULI = np.linspace(0.02, 1, 50), np.linspace(0, 0.98, 50)
PHASES = np.array([0, np.pi / 8, np.pi / 4, np.pi / 2])
TOLERANCE, LIMIT, FAR = 1e-3, 1000, 1e6


def mixture(most: float = 1.0, seed: int = 0) -> np.ndarray:
    """The Jacobian of the mixture game's joint field."""
    diagonal = np.linspace(0.25, 4, 7)
    gamma = np.random.default_rng(seed).uniform(0, most, 7)
    gamma[0], gamma[-1] = 0, most
    found = np.diag(np.tile((1 - gamma) * diagonal, 2))
    found[:7, 7:], found[7:, :7] = np.diag(gamma * diagonal), -np.diag(gamma * diagonal)
    return found


def radius(eigenvalues: np.ndarray, rate: float, modulus: float, phase: float) -> float:
    """One cell of the map of radii."""
    re, square = modulus * np.cos(phase), modulus**2
    worst = 0.0
    for value in rate * eigenvalues:
        roots = np.roots([1, value - 2 * re - 1, square + 2 * re - value * re, -square])
        worst = max(worst, np.abs(roots).max())
    return worst


def steps(game: np.ndarray, start: np.ndarray, rate: float, modulus: float, phase: float) -> float:
    """One cell of the map of steps."""
    beta = modulus * np.exp(1j * phase)
    x, momentum = start.copy(), np.zeros(len(start), complex)
    first = np.linalg.norm(game @ x)
    for step in range(LIMIT + 1):
        gradient = game @ x
        norm = np.linalg.norm(gradient)
        if norm <= TOLERANCE * first:
            return step
        if not norm <= FAR * first:
            return np.inf
        momentum = beta * momentum - gradient
        x = x + rate * np.real(momentum)
    return np.inf


def all_steps(game: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The map of steps in NumPy, with all cells that still run in one array."""
    phase, modulus, rate = (a.ravel() for a in np.meshgrid(PHASES, MODULI, RATES, indexing="ij"))
    beta, rate = (modulus * np.exp(1j * phase))[:, None], rate[:, None]
    found, cells = np.full(len(rate), np.inf), np.arange(len(rate))
    x, momentum = np.tile(start, (len(rate), 1)), np.zeros((len(rate), len(start)), complex)
    first = np.linalg.norm(game @ start)
    for step in range(LIMIT + 1):
        gradient = x @ game.T
        norm = np.linalg.norm(gradient, axis=1)
        found[cells[norm <= TOLERANCE * first]] = step
        runs = (norm > TOLERANCE * first) & (norm <= FAR * first)
        if not runs.any():
            break
        cells, beta, rate, x = cells[runs], beta[runs], rate[runs], x[runs]
        momentum = beta * momentum[runs] - gradient[runs]
        x = x + rate * np.real(momentum)
    return found.reshape(len(PHASES), len(MODULI), len(RATES))


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = jax.block_until_ready(call())
    return time.perf_counter() - began, found


def compare(
    name: str, program: Callable[[], Any], cell: Callable[..., float], blocks: int, sample: int,
    vectorised: Callable[[], Any] | None = None,
) -> None:  # fmt: skip
    """Prints medians and the ratio's least and largest value over the blocks."""
    compiling, _ = seconds(program)
    ratios, ours, loops, arrays, differences = [], [], [], [], []
    size = len(PHASES) * len(MODULI) * len(RATES)
    for block in range(blocks):
        mine, found = seconds(program)
        chosen = np.random.default_rng(block).choice(size, sample, replace=False)
        p, m, r = np.unravel_index(chosen, (len(PHASES), len(MODULI), len(RATES)))
        loop, expected = seconds(
            lambda p=p, m=m, r=r: np.array(
                [cell(RATES[k], MODULI[j], PHASES[i]) for i, j, k in zip(p, m, r, strict=True)]
            )
        )
        mine = min(mine, seconds(program)[0])
        loop *= size / sample
        ours.append(mine)
        loops.append(loop)
        ratios.append(loop / mine)
        with np.errstate(invalid="ignore"):
            gap = np.abs(np.asarray(found)[p, m, r] - expected)
        differences.append(np.nanmax(np.append(gap, 0)))  # inf - inf: neither has converged
        if vectorised is not None:
            arrays.append(seconds(vectorised)[0])
    print(
        f"{name}, {size} cells: {statistics.median(ours):.3f} s (compiled in {compiling:.1f} s); "
        f"loop in NumPy {statistics.median(loops):.1f} s, {statistics.median(ratios):.0f} "
        f"({min(ratios):.0f} to {max(ratios):.0f}) times as long; largest difference "
        f"{max(differences):.1e}"
        + (f"; vectorised NumPy {statistics.median(arrays):.2f} s" if arrays else ""),
        flush=True,
    )


def network(sizes: list[int], key: Any) -> list:
    keys = jax.random.split(key, len(sizes))
    return [
        (jax.random.normal(k, (a, b)) / a**0.5, jnp.zeros(b))
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=False)
    ]


def apply(weights: list, x: jax.Array) -> jax.Array:
    for w, b in weights[:-1]:
        x = jax.nn.relu(x @ w + b)
    return x @ weights[-1][0] + weights[-1][1]


def gan(width: int, trained: int, batch: int = 128) -> tuple[Callable, dict]:
    """The field of a GAN on eight Gaussians, and values after some steps of descent."""
    keys = jax.random.split(jax.random.key(0), 5)
    angles = jax.random.randint(keys[0], (batch,), 0, 8) * jnp.pi / 4
    real = 2 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], 1)
    real = real + 0.1 * jax.random.normal(keys[1], (batch, 2))
    noise = jax.random.normal(keys[2], (batch, 16))
    scores = lambda v: (apply(v["d"], real), apply(v["d"], apply(v["g"], noise)))  # noqa: E731
    losses = {
        "d": lambda v: jax.nn.softplus(-scores(v)[0]).mean() + jax.nn.softplus(scores(v)[1]).mean(),
        "g": lambda v: jax.nn.softplus(-scores(v)[1]).mean(),
    }
    field = nx.games.joint_field(losses)
    values = {
        "g": network([16, width, width, 2], keys[3]),
        "d": network([2, width, width, 1], keys[4]),
    }
    descend = nx.games.descent(field, 0.05)
    values = jax.jit(lambda v: jax.lax.fori_loop(0, trained, lambda i, v: descend(v), v))(values)
    return field, values


def arnoldi(width: int, trained: int, dense: bool) -> None:
    field, values = gan(width, trained)
    size = sum(leaf.size for leaf in jax.tree.leaves(values))
    program = jax.jit(lambda v: nx.games.leading_eigenvalues(field, v))
    compiling, _ = seconds(lambda: program(values))
    taken, found = seconds(lambda: program(values))
    value = complex(found.eigenvalues[0])
    text = (
        f"GAN of {size} parameters after {trained} steps: {value:.5f}, "
        f"{int(found.products)} products, relative residual {float(found.residuals[0]):.1e}, "
        f"{taken:.2f} s (compiled in {compiling - taken:.1f} s)"
    )
    if dense:
        exact = complex(nx.games.spectrum(field, values)[0])
        text += f"; from the dense matrix {exact:.5f}"
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Spectra and maps of games: what they cost")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--sample", type=int, default=200, help="cells of the NumPy loops")
    options = parser.parse_args()
    print(machine())
    for width, trained, dense in ((16, 500, True), (216, 0, False), (216, 500, False)):
        arnoldi(width, trained, dense)
    jax.config.update("jax_enable_x64", True)  # as NumPy computes
    for most in (0.2, 1.0):
        game = mixture(most)
        start = np.random.default_rng(1).normal(size=14)
        eigenvalues = np.linalg.eigvals(game)
        print(f"mixture game, gamma up to {most}")
        compare(
            "radii",
            lambda e=eigenvalues: nx.games.convergence_map(e, RATES, MODULI, PHASES),
            lambda r, m, p, e=eigenvalues: radius(e, r, m, p),
            options.blocks, options.sample,
        )  # fmt: skip
        program = jax.jit(
            lambda v, game=game: nx.games.steps_to_converge(
                lambda v: game @ v, v, RATES, MODULI, PHASES, tolerance=TOLERANCE, limit=LIMIT
            )
        )
        compare(
            "steps to convergence",
            lambda program=program, start=start: program(start),
            lambda r, m, p, g=game, s=start: steps(g, s, r, m, p),
            options.blocks, options.sample, lambda g=game, s=start: all_steps(g, s),
        )  # fmt: skip


if __name__ == "__main__":
    main()
