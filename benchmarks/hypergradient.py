"""Hypergradients: nestax against JAX and PyTorch written by hand, and against the libraries.

    python benchmarks/peers.py [--checkout hypertorch=PATH] \
        jaxopt optimistix torch torchopt hypertorch betty
    python benchmarks/hypergradient.py [--problem l2|clean] [--method unrolled|neumann|cg]

A step takes 50 steps of gradient descent on the inner problem and then the hypergradient, through
those steps ("unrolled") or at their end, by 20 terms of the Neumann series or 20 steps of
conjugate gradients. `l2`: logistic regression, 500 samples, a decay for each of the 100 weights.
`clean`: softmax regression 784 -> 10, a trust for each of 1,000 samples, half of them mislabelled,
synthetic. float32; every gradient is compared with the same method in float64 before times are.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import peers
import race
from peers import Environments
from race import Entry, heading, relative_error
from workers.bilevel_jax import by_hand

PROBLEMS, METHODS = ("l2", "clean"), ("unrolled", "neumann", "cg")
TOLERANCE = 1e-4


def entries(problem: str, method: str) -> list[Entry]:
    variant = f"{problem}:{method}"
    listed = [
        Entry("nestax", "", "hypergradient_nestax.py", variant),
        Entry("JAX by hand", "", "hypergradient_jax.py", variant),
        Entry("JAXopt", "jaxopt", "hypergradient_jaxopt.py", variant),
    ]
    if method != "neumann":  # which it does not have
        listed.append(Entry("Optimistix", "optimistix", "hypergradient_optimistix.py", variant))
    return [
        *listed,
        Entry("torch.autograd by hand", "torch", "hypergradient_torch.py", variant),
        Entry("torch.compile by hand", "torch", "hypergradient_torch.py", variant + ":compile"),
        Entry("hypertorch", "hypertorch", "hypergradient_hypertorch.py", variant),
        Entry("TorchOpt", "torchopt", "hypergradient_torchopt.py", variant),
        Entry("Betty", "betty", "hypergradient_betty.py", variant),
    ]


def problem(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    if name == "l2":
        # Scales from 0.3 to 3 would leave float32 errors of up to 1e-4, hand-written JAX's too.
        truth, scale = rng.normal(size=100), np.logspace(-0.25, 0.25, 100)
        x, xv = rng.normal(size=(2, 500, 100)) * scale
        y, yv = (rng.random(500) < 1 / (1 + np.exp(-rows @ truth)) for rows in (x, xv))
        slow = np.log(0.01) + 0.5 * rng.normal(size=100)
        made = {"x": x, "y": y, "xv": xv, "yv": yv, "slow": slow, "start": np.zeros(100)}
        return {key: value.astype(np.float32) for key, value in made.items()}
    means = rng.normal(size=(10, 784))
    y, yv = rng.integers(10, size=(2, 1000))
    x, xv = ((means[labels] + rng.normal(size=(1000, 784))) / 7 for labels in (y, yv))
    y = np.where(rng.random(1000) < 0.5, rng.integers(10, size=1000), y)
    made = {"x": x, "xv": xv, "slow": 0.5 * rng.normal(size=1000), "start": np.zeros((784, 10))}
    wide = {key: value.astype(np.float32) for key, value in made.items()}
    return {**wide, "y": y.astype(np.int32), "yv": yv.astype(np.int32)}


def exact(name: str, method: str, data: dict[str, np.ndarray]) -> np.ndarray:
    """The same method in float64."""

    def double(value: np.ndarray) -> np.ndarray:
        return value.astype(np.float64) if value.dtype == np.float32 else value

    with jax.enable_x64(True):
        gradient, slow = by_hand(name, method, {key: double(a) for key, a in data.items()})
        assert slow.dtype == jnp.float64
        return np.asarray(jax.jit(gradient)(slow))


def main() -> None:
    parser = argparse.ArgumentParser(description="hypergradients: nestax against its peers")
    peers.option(parser)
    race.option(parser)
    parser.add_argument("--problem", choices=PROBLEMS, action="append", help="default: both")
    parser.add_argument("--method", choices=METHODS, action="append", help="default: all")
    options = parser.parse_args()
    heading()
    for name in options.problem or PROBLEMS:
        data = problem(name)
        for method in options.method or METHODS:
            reference = exact(name, method, data)
            print(f"{name}, {method}\n")
            race.race(
                entries(name, method),
                Environments(options.peers),
                data,
                lambda found, reference=reference: relative_error(found["g"], reference),
                TOLERANCE,
                options.without,
                options.rounds,
            )


if __name__ == "__main__":
    main()
