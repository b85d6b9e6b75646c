"""The gated delta rule in chunks against token by token, and Titans' memory against titans-pytorch.

    python benchmarks/delta_rule.py [--part chunks|peer|gpu] [--peer PYTHON] [--peer-slow]

chunks: `nestax.memory.delta_rule` with decay, float32, 4,096 tokens, 4 heads of 64 under `vmap`:
    the recurrent form against the chunked one with several chunk sizes; all run in turns. The
    gradient is of a weighted sum of outputs and state, by q, k, v, beta and alpha.
peer: a layer of Titans' memory, its projections and gates included, forward and backward by its
    weights and its input: `nestax.memory.TitansMemory` and titans-pytorch's `NeuralMemory` with
    heads, sizes, momentum and decay alike. `--peer` is a Python that has torch and titans_pytorch
    (pip install titans-pytorch). Theirs takes one gradient, one decay and one momentum per chunk,
    at the first weights of the whole sequence; `--peer-slow` adds the setting that is closer to
    the paper and to ours, a gradient for every token, at the weights of the beginning of its chunk.
gpu: the shapes of flash-linear-attention's published timings; only where there is a GPU.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from race import heading
from workers.serve import temporary_bytes

from nestax.memory import TitansMemory, delta_rule

TIME, HEADS, SIZE = 4096, 4, 64
CHUNKS = (16, 32, 64, 128)
SHAPES = ((1, 8192, 96, 128), (2, 16384, 16, 128), (4, 2048, 16, 128))
WORKER = Path(__file__).parent / "workers/titans_torch.py"

Program = Callable[[], object]


def inputs(heads: int, time: int, size: int, seed: int = 0) -> tuple:
    """(q, k, v, beta, alpha), unit keys."""
    rng = np.random.default_rng(seed)
    q, k, v = rng.normal(size=(3, heads, time, size))
    q, k = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (q, k))
    beta, alpha = rng.uniform(0, 1, (heads, time)), rng.uniform(0.9, 1, (heads, time))
    return tuple(jnp.asarray(a, jnp.float32) for a in (q, k, v, beta, alpha))


def programs(
    arguments: tuple, chunk: int | None, implementation: str
) -> tuple[Program, Program, float]:
    """Forward, forward and backward, and MiB of temporary memory of the latter."""
    weight = jnp.asarray(np.random.default_rng(1).normal(size=arguments[2].shape), jnp.float32)

    def outputs(*tokens: jax.Array) -> tuple:
        one = lambda *a: delta_rule(*a, chunk=chunk, implementation=implementation)  # noqa: E731
        return jax.vmap(one)(*tokens)

    def total(*tokens: jax.Array) -> jax.Array:
        found, state = outputs(*tokens)
        return jnp.sum(found * weight) + jnp.sum(state)

    forward = jax.jit(outputs).lower(*arguments).compile()
    both = jax.jit(jax.value_and_grad(total, range(5))).lower(*arguments).compile()
    size = temporary_bytes(both)
    mib = float("nan") if size is None else size / 2**20
    return lambda: forward(*arguments), lambda: both(*arguments), mib


def timed(entries: dict[str, Program], rounds: int) -> dict[str, float]:
    """Median seconds; every round runs all of them, so that a load falls on all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in entries}
    for turn in range(rounds + 1):
        for name, run in entries.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in seconds.items()}


def table(
    arguments: tuple, tokens: int, chunks: tuple, rounds: int, recurrent: bool = True
) -> None:
    settings: dict[str, tuple[int | None, str]] = {}
    if recurrent:
        settings["recurrent"] = (None, "recurrent")
    settings |= {f"chunks of {size}": (size, "chunked") for size in chunks}
    settings["chunked, default"] = (None, "chunked")
    made = {name: programs(arguments, *setting) for name, setting in settings.items()}
    forward = timed({name: program[0] for name, program in made.items()}, rounds)
    both = timed({name: program[1] for name, program in made.items()}, rounds)
    base = "recurrent" if recurrent else "chunked, default"
    print(
        "| program | ms forward | ms forward and backward | ratio forward | ratio both "
        "| tokens per second, both | MiB temporary |"
    )
    print("| --- " * 7 + "|")
    for name in made:
        print(
            f"| {name} | {1e3 * forward[name]:.3g} | {1e3 * both[name]:.3g} "
            f"| {forward[base] / forward[name]:.2f} | {both[base] / both[name]:.2f} "
            f"| {tokens / both[name]:,.0f} | {made[name][2]:.0f} |"
        )
    print(flush=True)


def chunks(rounds: int) -> None:
    print(f"gated delta rule, {TIME} tokens, {HEADS} heads of {SIZE}, float32\n")
    table(inputs(HEADS, TIME, SIZE), TIME, CHUNKS, rounds)


def gpu(rounds: int) -> None:
    if jax.default_backend() != "gpu":
        print("GPU shapes: no GPU here, not run\n")
        return
    for batch, length, heads, size in SHAPES:
        print(f"gated delta rule, batch {batch}, {length} tokens, {heads} heads of {size}\n")
        arguments = inputs(batch * heads, length, size)
        table(arguments, batch * length, (32, 64, 128), rounds, recurrent=False)


class Peer:
    """titans-pytorch in its own interpreter, alive, with the faster number of threads."""

    def __init__(self, python: str, **asked: object):
        self.process = subprocess.Popen(
            [python, str(WORKER), json.dumps(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.told = self._read()
        found = {}
        for threads in {1, len(os.sched_getaffinity(0))}:
            self._say(f"threads {threads}")
            found[threads] = statistics.median(self.steps(2))
        self.threads = min(found, key=lambda threads: found[threads])
        self._say(f"threads {self.threads}")

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def _read(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the peer ended; does its Python have torch and titans_pytorch?")
        return json.loads(line)

    def steps(self, count: int) -> list[float]:
        self._say(str(count))
        return self._read()  # type: ignore

    def close(self) -> None:
        self.process.communicate()


def layer(memory: str, chunk: int) -> tuple[Program, int]:
    """Our layer's gradient by weights and input, and the number of its parameters."""
    made = TitansMemory(
        HEADS * SIZE, HEADS, memory=memory, chunk=chunk, conv=None, key=jax.random.key(0)
    )
    rng = np.random.default_rng(0)
    x, weight = (jnp.asarray(a, jnp.float32) for a in rng.normal(size=(2, TIME, HEADS * SIZE)))
    arrays, static = eqx.partition(made, eqx.is_inexact_array)

    def total(arrays: TitansMemory, x: jax.Array) -> jax.Array:
        return jnp.sum(eqx.combine(arrays, static)(x)[0] * weight)

    compiled = jax.jit(jax.value_and_grad(total, (0, 1))).lower(arrays, x).compile()
    return lambda: compiled(arrays, x), sum(a.size for a in jax.tree.leaves(arrays))


def peer(python: str | None, rounds: int, slow: bool) -> None:
    if python is None:
        print("titans-pytorch: not run, no --peer\n")
        return
    for memory in ("linear", "mlp"):
        print(f"a layer of Titans' memory ({memory}), {TIME} tokens, {HEADS} heads of {SIZE}\n")
        entries = {"nestax, chunks of 64": layer(memory, 64)}
        theirs: dict[str, tuple[int, int | None]] = {
            "titans-pytorch, a gradient per 64 tokens": (64, None)
        }
        if slow:
            theirs["titans-pytorch, a gradient per token, weights of each 64"] = (1, 64)
        peers = {}
        for name, (chunk, batch) in theirs.items():
            asked = {"time": TIME, "heads": HEADS, "size": SIZE, "memory": memory}
            peers[name] = Peer(python, chunk=chunk, batch=batch, **asked)
        seconds: dict[str, list[float]] = {name: [] for name in (*entries, *peers)}
        for turn in range(rounds + 1):
            for name, (run, _) in entries.items():
                began = time.perf_counter()
                jax.block_until_ready(run())
                if turn:
                    seconds[name].append(time.perf_counter() - began)
            for name, worker in peers.items():
                seconds[name] += worker.steps(1)
        base = statistics.median(seconds["nestax, chunks of 64"])
        print("| layer | ms forward and backward | tokens per second | ratio | threads | weights |")
        print("| --- " * 6 + "|")
        for name, found in seconds.items():
            middle = statistics.median(found)
            threads = peers[name].threads if name in peers else ""
            weights = peers[name].told["parameters"] if name in peers else entries[name][1]
            print(
                f"| {name} | {1e3 * middle:.4g} | {TIME / middle:,.0f} | {middle / base:.2f} "
                f"| {threads} | {weights:,} |"
            )
        for name, worker in peers.items():
            if not worker.told["finite"]:
                print(f"* {name}: its gradient is not finite")
            worker.close()
        print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="chunked against recurrent memories")
    parser.add_argument("--part", choices=("chunks", "peer", "gpu"), help="default: all")
    parser.add_argument("--peer", metavar="PYTHON", help="interpreter with titans_pytorch")
    parser.add_argument("--peer-slow", action="store_true", help="its per-token setting as well")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    heading()
    if options.part in (None, "chunks"):
        chunks(options.rounds)
    if options.part in (None, "peer"):
        peer(options.peer, options.rounds, options.peer_slow)
    if options.part in (None, "gpu"):
        gpu(options.rounds)


if __name__ == "__main__":
    main()
