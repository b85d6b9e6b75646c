"""The gated delta rule in chunks against token by token, and Titans' memory against titans-pytorch.

    python benchmarks/delta_rule.py [--part chunks|peer|gpu] [--devices N] [--peer PYTHON]
        [--peer-slow] [--small]

chunks: `nestax.memory.delta_rule` with decay, float32, 4,096 tokens, 4 heads of 64 under `vmap`:
    the recurrent form against the chunked one with several chunk sizes; all run in turns. The
    gradient is of a weighted sum of outputs and state, by q, k, v, beta and alpha.
peer: a layer of Titans' memory, its projections and gates included, forward and backward by its
    weights and its input: `nestax.memory.TitansMemory` and titans-pytorch's `NeuralMemory` with
    heads, sizes, momentum and decay alike. `--peer` is a Python that has torch and titans_pytorch
    (pip install titans-pytorch). Theirs takes one gradient, one decay and one momentum per chunk,
    by default at the first weights of the whole sequence, which are not what it has learned by
    then; or at the weights of each chunk's beginning, as ours does for an MLP, while a linear
    memory of ours takes each where it then stands. `--peer-slow` adds the setting that is the
    paper's, a gradient, a decay and a momentum for every token, as ours has.
gpu: the same of `delta_rule` in shapes of which flash-linear-attention's times are published, and
    of a language model of Hope's, whose second column is a step of training; float32 and bfloat16.
    The least that must be moved and multiplied is given as shares of what the device copies and
    multiplies in the same run. Only where there is a GPU; `--small` tries it on any machine, at
    sizes whose figures mean nothing.

With `--devices` heads of chunks and peer lie on so many devices, which on a CPU are made of its
cores: loops of a program run on one core for each device.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from race import heading
from workers.serve import temporary_bytes

from nestax.memory import HopeLM, TitansMemory, delta_rule

TIME, HEADS, SIZE = 4096, 4, 64
CHUNKS = (16, 32, 64, 128)
WORKER = Path(__file__).parent / "workers/titans_torch.py"

DTYPES = ("float32", "bfloat16")
GPU_CHUNKS = (32, 64, 128)
# By (batch, tokens, heads, size): what `chunk_gdn` of flash-linear-attention takes in bfloat16, in
# milliseconds, forward and with the backward pass. GB200: by its authors, README of their commit
# 87ff243e (2026-04-05). H100: by Helion's, BENCHMARKS.md of pytorch/helion's commit f881d9bc.
PUBLISHED = {
    (1, 8192, 96, 128): {"GB200": (1.265, 4.738), "H100": (1.623, 6.925)},
    (2, 16384, 16, 128): {"GB200": (1.029, 3.616), "H100": (1.062, 4.595)},
    (4, 2048, 16, 128): {"GB200": (0.753, 2.085), "H100": (0.491, 1.746)},
}


class Sizes(NamedTuple):
    """Of the part for GPUs.

    Attributes:
        shapes: batch, tokens, heads and size of a head.
        model: vocabulary, width, blocks and heads of the language model.
        text: batch and tokens that it reads.
        copied: bytes of the array that is copied; more than caches hold.
        side: of the square matrices that are multiplied.
    """

    shapes: tuple[tuple[int, int, int, int], ...]
    model: tuple[int, int, int, int]
    text: tuple[int, int]
    copied: int
    side: int


LARGE = Sizes(tuple(PUBLISHED), (256, 768, 6, 6), (8, 2048), 2**31, 16384)
SMALL = Sizes(((1, 256, 2, 32), (2, 100, 3, 16)), (64, 32, 2, 2), (2, 128), 2**27, 512)

Program = Callable[[], object]


class Pair(NamedTuple):
    """Two programs, forward alone and with a backward pass; all but `mib` is for one and the other.

    Attributes:
        run: the compiled programs with their arguments.
        moved: bytes of all arguments and results, each moved once: the least there can be.
        operations: of matrix products, a multiplication and an addition each. Forward as traced,
            backward twice as many; what a backward pass computes again is not counted. For the
            delta rule in chunks of C, key and value of size D, that is 8 C D + 6 D^2 + 2/3 C^2 for
            each token and head: four products within the chunk, three with the state, the inverse.
        mib: of temporary memory, with the backward pass.
    """

    run: tuple[Program, Program]
    moved: tuple[int, int]
    operations: tuple[int, int]
    mib: float


def pair(forward: Callable, given: tuple, both: Callable, given_both: tuple) -> Pair:
    first, second = jax.jit(forward).trace(*given), jax.jit(both).trace(*given_both)
    alone, whole = first.lower().compile(), second.lower().compile()
    count, size = products(first.jaxpr), temporary_bytes(whole)
    return Pair(
        (lambda: alone(*given), lambda: whole(*given_both)),
        (moved(given, first.out_info), moved(given_both, second.out_info)),
        (count, 3 * count),
        float("nan") if size is None else size / 2**20,
    )


def moved(*trees: Any) -> int:
    leaves = jax.tree.leaves(trees)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def products(jaxpr: Any) -> int:
    """Operations of the matrix products of a traced program; of a scan's as often as it runs."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            summed = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * summed * equation.outvars[0].aval.size
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(map(products, jaxprs_in_params(equation.params)))
    return total


def inputs(heads: int, time: int, size: int, seed: int = 0) -> tuple:
    """(q, k, v, beta, alpha), unit keys."""
    rng = np.random.default_rng(seed)
    q, k, v = rng.normal(size=(3, heads, time, size))
    q, k = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (q, k))
    beta, alpha = rng.uniform(0, 1, (heads, time)), rng.uniform(0.9, 1, (heads, time))
    return tuple(jnp.asarray(a, jnp.float32) for a in (q, k, v, beta, alpha))


def rule(tokens: tuple, chunk: int | None, implementation: str) -> Pair:
    """The gated delta rule of all heads."""
    v = tokens[2]
    weight = jnp.asarray(np.random.default_rng(1).normal(size=v.shape), v.dtype, device=v.sharding)

    def outputs(*tokens: jax.Array) -> tuple:
        one = lambda *a: delta_rule(*a, chunk=chunk, implementation=implementation)  # noqa: E731
        return jax.vmap(one)(*tokens)

    def total(weight: jax.Array, *tokens: jax.Array) -> jax.Array:
        found, state = outputs(*tokens)
        return jnp.sum(found * weight) + jnp.sum(state)

    gradient = jax.value_and_grad(total, range(1, 6))
    return pair(outputs, tokens, gradient, (weight, *tokens))


def timed(entries: dict[Any, Program], rounds: int) -> dict[Any, float]:
    """Median seconds; every round runs all of them, so that a load falls on all alike."""
    seconds: dict[Any, list[float]] = {name: [] for name in entries}
    for turn in range(rounds + 1):
        for name, run in entries.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in seconds.items()}


def timed_pairs(made: dict[Any, Pair], rounds: int) -> dict[Any, tuple[float, float]]:
    forward, both = (
        timed({name: pair.run[i] for name, pair in made.items()}, rounds) for i in (0, 1)
    )
    return {name: (forward[name], both[name]) for name in made}


def of_heads(path: Any) -> NamedSharding:
    """All devices, each with some of the heads: an array's first axis, or, of a layer's parameter
    with this path, the one that docs/guides/memories.md says."""
    mesh = jax.make_mesh((jax.device_count(),), ("heads",), axis_types=(AxisType.Auto,))
    axes = {".output.out": P(None, "heads"), ".output.scale": P()}
    return NamedSharding(mesh, axes.get(jax.tree_util.keystr(path), P("heads")))


def chunks(rounds: int) -> None:
    devices = jax.device_count()
    where = f", heads on {devices} devices" if devices > 1 else ""
    print(f"gated delta rule, {TIME} tokens, {HEADS} heads of {SIZE}, float32{where}\n")
    settings: dict[str, tuple[int | None, str]] = {"recurrent": (None, "recurrent")}
    settings |= {f"chunks of {size}": (size, "chunked") for size in CHUNKS}
    settings["chunked, default"] = (None, "chunked")
    arguments = inputs(HEADS, TIME, SIZE)
    placed = jax.device_put(arguments, of_heads(()))
    made = {name: rule(placed, *setting) for name, setting in settings.items()}
    if devices > 1:
        made["recurrent, one device"] = rule(arguments, None, "recurrent")
    found = timed_pairs(made, rounds)
    base = found["recurrent"]
    print(
        "| program | ms forward | ms forward and backward | ratio forward | ratio both "
        "| tokens per second, both | MiB temporary |"
    )
    print("| --- " * 7 + "|")
    for name, (forward, both) in found.items():
        print(
            f"| {name} | {1e3 * forward:.3g} | {1e3 * both:.3g} "
            f"| {base[0] / forward:.2f} | {base[1] / both:.2f} "
            f"| {TIME / both:,.0f} | {made[name].mib:.0f} |"
        )
    print(flush=True)


def gpu(rounds: int, small: bool) -> None:
    if jax.default_backend() != "gpu" and not small:
        print("GPU shapes: no GPU here, not run\n")
        return
    sizes = SMALL if small else LARGE
    best = {dtype: ceilings(dtype, sizes, rounds) for dtype in DTYPES}
    print(f"{jax.devices()[0].device_kind}\n")
    for dtype, (copied, multiplied) in best.items():
        print(f"* {dtype}: copies {copied / 1e9:,.0f} GB/s, ", end="")
        print(f"multiplies matrices at {multiplied / 1e12:.3g} TFLOP/s")
    for shape in sizes.shapes:
        batch, length, heads, size = shape
        print(f"\ngated delta rule, batch {batch}, {length} tokens, {heads} heads of {size}\n")
        tokens = inputs(batch * heads, length, size)
        made = {}
        for dtype in DTYPES:
            cast = tuple(a.astype(dtype) for a in tokens)
            for chunk in GPU_CHUNKS:
                made[dtype, f"chunks of {chunk}"] = rule(cast, chunk, "chunked")
        shares(made, best, batch * length, rounds)
        for device, published in PUBLISHED.get(shape, {}).items():
            name = f"bfloat16, flash-linear-attention on {device}, as published"
            print(f"| {name} {row(published, batch * length)} " + "| " * 5 + "|")
    vocabulary, width, depth, heads = sizes.model
    batch, length = sizes.text
    print(f"\nHope, {depth} blocks of width {width}, {heads} heads, {vocabulary} tokens known;")
    print(f"batch {batch}, {length} tokens; backward: a step of training with Adam\n")
    shares({(dtype, "Hope"): hope(dtype, sizes) for dtype in DTYPES}, best, batch * length, rounds)
    print(flush=True)


def ceilings(dtype: str, sizes: Sizes, rounds: int) -> tuple[float, float]:
    """Bytes per second of copying, read and written, and operations per second of multiplying.

    Products are of JAX's default precision, as most are in what is compared with them, though not
    those of a chunk's inverse: for float32 it is a lower one where the device has that.
    """
    draw = lambda *shape: jax.random.normal(jax.random.key(0), shape, dtype)  # noqa: E731
    array, matrix = draw(sizes.copied // jnp.dtype(dtype).itemsize), draw(sizes.side, sizes.side)
    copy, multiply = jax.jit(jnp.copy), jax.jit(jnp.matmul)
    runs = {"copy": lambda: copy(array), "multiply": lambda: multiply(matrix, matrix)}
    seconds = timed(runs, rounds)
    return 2 * array.nbytes / seconds["copy"], 2 * sizes.side**3 / seconds["multiply"]


def shares(
    made: dict[tuple[str, str], Pair],
    best: dict[str, tuple[float, float]],
    tokens: int,
    rounds: int,
) -> None:
    """A table; shares are of what is `best` for the dtype that a name begins with."""
    print(
        "| program | ms forward | both | tokens per second forward | both "
        "| % of copying forward | both | % of multiplying forward | both | MiB temporary |"
    )
    print("| --- " * 10 + "|")
    for name, seconds in timed_pairs(made, rounds).items():
        least = np.array([made[name].moved, made[name].operations], float)
        percent = 100 * least / np.array(seconds) / np.array(best[name[0]])[:, None]
        told = [f"| {share:.3g}" for share in percent.ravel()]
        print(f"| {', '.join(name)}", row([1e3 * s for s in seconds], tokens), *told, end=" ")
        print(f"| {made[name].mib:.0f} |", flush=True)


def row(milliseconds: Any, tokens: int) -> str:
    times = [f"| {ms:.4g}" for ms in milliseconds]
    return " ".join(times + [f"| {1e3 * tokens / ms:,.0f}" for ms in milliseconds])


def hope(dtype: str, sizes: Sizes) -> Pair:
    """Scores of a text, and a step of training: weights are float32 and used in `dtype`."""
    vocabulary, width, depth, heads = sizes.model
    model = HopeLM(vocabulary, width, depth, heads, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    batch, length = sizes.text
    text = jax.random.randint(jax.random.key(1), (batch, length + 1), 0, vocabulary)
    adam = optax.adam(1e-4)

    def scores(params: Any, tokens: jax.Array) -> jax.Array:
        used = eqx.combine(jax.tree.map(lambda a: a.astype(dtype), params), static)
        return jax.vmap(lambda one: used(one)[0])(tokens)

    def loss(params: Any, text: jax.Array) -> jax.Array:
        found = scores(params, text[:, :-1]).astype(jnp.float32)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(found, text[:, 1:]))

    def step(params: Any, state: Any, text: jax.Array) -> tuple:
        updates, state = adam.update(jax.grad(loss)(params, text), state)
        return optax.apply_updates(params, updates), state

    return pair(scores, (params, text[:, :-1]), step, (params, adam.init(params), text))


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


def layer(memory: str, chunk: int | None) -> tuple[Program, int]:
    """Our layer's gradient by weights and input, and the number of its parameters."""
    made = TitansMemory(
        HEADS * SIZE, HEADS, memory=memory, chunk=chunk, conv=None, key=jax.random.key(0)
    )
    rng = np.random.default_rng(0)
    x, weight = (jnp.asarray(a, jnp.float32) for a in rng.normal(size=(2, TIME, HEADS * SIZE)))
    arrays, static = eqx.partition(made, eqx.is_inexact_array)
    arrays = jax.tree_util.tree_map_with_path(
        lambda path, a: jax.device_put(a, of_heads(path)), arrays
    )
    x = jax.device_put(x, NamedSharding(of_heads(()).mesh, P()))

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
        # Of a linear memory chunks are of speed only; of an MLP they are part of what is computed.
        ours = "nestax, a gradient per token" + (", weights of each 64" if memory == "mlp" else "")
        if jax.device_count() > 1:
            ours += f", heads on {jax.device_count()} devices"
        entries = {ours: layer(memory, 64 if memory == "mlp" else None)}
        theirs: dict[str, tuple[int, int | None]] = {
            "titans-pytorch, a gradient per 64 tokens, first weights": (64, None),
            "titans-pytorch, a gradient per 64 tokens, weights of each 64": (64, 64),
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
                time.sleep(0.5)
            for name, worker in peers.items():
                seconds[name] += worker.steps(1)
                time.sleep(0.5)  # their threads wait busily for a while
        base = statistics.median(seconds[ours])
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
    parser.add_argument("--small", action="store_true", help="part gpu anywhere, tiny")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--devices", type=int, default=1, help="of a CPU, of chunks and peer")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices)
    heading()
    if options.part in (None, "chunks"):
        chunks(options.rounds)
    if options.part in (None, "peer"):
        peer(options.peer, options.rounds, options.peer_slow)
    if options.part in (None, "gpu"):
        gpu(options.rounds, options.small)


if __name__ == "__main__":
    main()
