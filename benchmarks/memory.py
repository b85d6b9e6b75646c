"""Memory of long unrolls, and conjugate gradients past convergence.

    python benchmarks/memory.py [--part short|long|cg]

short: 256 steps of Adam on a network of three layers of 128, batch 256; meta-parameters: where it
    begins and a weight for every sample. nestax's own arrangement against `grad(scan)`.
long: 10,000 and 20,000 steps of Adam on a network of about 100,000 parameters, batch 8, each in a
    process of its own; its high water above imports.
cg: float32 on s I, a million unknowns, 100 iterations where the first one solves the system.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from race import heading, relative_error
from workers.serve import peak, temporary_bytes

import nestax as nx

PARTS = ("short", "long", "cg")
ROUNDS, MIB = 7, 2**20


def network(sizes: tuple[int, ...], batch: int, seed: int = 0) -> tuple[dict, list, dict]:
    """(slow, start, data) of a regression: weights of samples and an addition to the start."""
    rng = np.random.default_rng(seed)
    start = []
    for inputs, outputs in itertools.pairwise(sizes):
        start.append((rng.normal(size=(inputs, outputs)) / inputs**0.5, np.zeros(outputs)))
    x, xv = rng.normal(size=(2, batch, sizes[0]))
    data = {"x": x, "y": np.sin(x[:, :1]), "xv": xv, "yv": np.sin(xv[:, :1])}
    narrow = lambda tree: jax.tree.map(lambda a: np.asarray(a, np.float32), tree)  # noqa: E731
    return narrow({"init": start, "sample": np.zeros(batch)}), narrow(start), narrow(data)


def errors(w, x, y):
    for weight, bias in w[:-1]:
        x = jnp.tanh(x @ weight + bias)
    weight, bias = w[-1]
    return jnp.sum((x @ weight + bias - y) ** 2, axis=1)


def objectives(data):
    def inner(slow, fast):
        return jnp.mean(jax.nn.softplus(slow["sample"]) * errors(fast, data["x"], data["y"]))

    def outer(fast):
        return jnp.mean(errors(fast, data["xv"], data["yv"]))

    return inner, outer


def ours(data, steps, eps=1e-8):
    inner, outer = objectives(data)
    response = nx.best_response(inner, optax.adam(1e-3, eps=eps, eps_root=1e-8), steps)
    return jax.jit(jax.grad(lambda slow: outer(response(slow, slow["init"]))))


def by_hand(data, steps):
    inner, outer = objectives(data)
    rule = optax.adam(1e-3, eps_root=1e-8)

    def end(slow):
        def step(carry, _):
            w, state = carry
            update, state = rule.update(jax.grad(inner, 1)(slow, w), state, w)
            return (optax.apply_updates(w, update), state), None

        begin = (slow["init"], rule.init(slow["init"]))
        return jax.lax.scan(step, begin, None, steps)[0][0]

    return jax.jit(jax.grad(lambda slow: outer(end(slow))))


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def temporary(compiled) -> float:
    size = temporary_bytes(compiled)
    return float("nan") if size is None else size / MIB


def short() -> None:
    slow, _, data = network((128, 128, 128, 128, 1), 256)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (slow, data))
        exact = flat(by_hand(wide[1], 256)(wide[0]))
    programs = {"nestax": ours(data, 256), "grad(scan)": by_hand(data, 256)}
    compiled = {name: program.lower(slow).compile() for name, program in programs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    wrong = {name: relative_error(flat(run(slow)), exact) for name, run in compiled.items()}
    for _ in range(ROUNDS):
        for name, run in compiled.items():
            began = time.perf_counter()
            jax.block_until_ready(run(slow))
            seconds[name].append(time.perf_counter() - began)
    print("| program | error of the gradient | MiB temporary | ms | ratio to nestax |")
    print("| --- " * 5 + "|")
    base = statistics.median(seconds["nestax"])
    for name, run in compiled.items():
        middle = statistics.median(seconds[name])
        print(
            f"| {name} | {wrong[name]:.1e} | {temporary(run):.1f} | {1e3 * middle:.0f} "
            f"| {middle / base:.2f} |"
        )


def unroll(steps: int) -> None:
    """The worker of `long`: prints its measurements."""
    slow, _, data = network((128, 256, 256, 1), 8)
    before = peak()
    # With its usual eps Adam never settles on so few samples, and the gradient overflows.
    compiled = ours(data, steps, eps=0.1).lower(slow).compile()
    began = time.perf_counter()
    found = flat(compiled(slow))
    print(
        json.dumps(
            {
                "steps": steps,
                "parameters": sum(a.size for a in jax.tree.leaves(slow["init"])),
                "peak": peak() / MIB,
                "above": (peak() - before) / MIB,
                "temporary": temporary(compiled),
                "seconds": time.perf_counter() - began,
                "norm": float(np.linalg.norm(found)),
            }
        )
    )


def long() -> None:
    print("| steps | parameters | MiB peak | above imports | MiB temporary | s | gradient's norm |")
    print("| --- " * 7 + "|")
    peaks = []
    for steps in (10_000, 20_000):
        command = [sys.executable, __file__, "--unroll", str(steps)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SystemExit(f"{steps} steps: the process ended with {done.returncode}: {last}")
        told = json.loads(done.stdout)
        peaks.append(told["peak"])
        print(
            f"| {steps} | {told['parameters']} | {told['peak']:.0f} | {told['above']:.0f} "
            f"| {told['temporary']:.0f} | {told['seconds']:.0f} | {told['norm']:.2g} |",
            flush=True,
        )
    print(f"\nTwice the steps: {peaks[1] / peaks[0]:.2f} times the peak.")


def cg() -> None:
    b = jnp.asarray(np.random.default_rng(0).normal(size=1_000_000), jnp.float32)
    print("| s | error, own tolerance | products | error, tolerance 0 | products | all finite |")
    print("| --- " * 6 + "|")
    for s in 10.0 ** np.arange(-3, 4):
        row = [f"{s:g}"]
        finite = True
        for tolerance in (None, 0.0):
            solver = nx.CG(100, tolerance=tolerance)
            x, info = jax.jit(lambda b, s=s, c=solver: c.solve(lambda v: s * v, b))(b)
            finite = finite and bool(jnp.all(jnp.isfinite(x)))
            row += [f"{relative_error(np.asarray(x), np.asarray(b) / s):.1e}", f"{info.products}"]
        print(f"| {' | '.join(row)} | {'yes' if finite else 'NO'} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="memory of long unrolls")
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--unroll", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.unroll:
        return unroll(options.unroll)
    heading()
    for part in options.part or PARTS:
        print(f"{part}\n")
        {"short": short, "long": long, "cg": cg}[part]()
        print(flush=True)


if __name__ == "__main__":
    main()
