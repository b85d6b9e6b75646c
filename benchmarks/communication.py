"""What devices send each other in a step of `Nest.run`, counted in the compiled program.

    python benchmarks/communication.py

One process with 2, 4 and 8 devices made of CPUs; between processes the program is the same. Bytes
are those of the arrays that a collective combines, per device: of an all-reduce its operand, of an
all-gather its result. What a network then moves depends on its algorithm; a ring all-reduce over n
devices sends 2 (n - 1) / n of them. Loops count as often as they run.
"""

import argparse
import functools
import re
import subprocess
import sys
from collections import Counter
from typing import Any

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
TASKS, SHOTS, INNER = 16, 10, 10
WIDTHS = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2}
ARRAY = re.compile(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]")
CALLED = re.compile(r"(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
TIMES = re.compile(r"known_trip_count[^0-9]*(\d+)")


def size(text: str) -> int:
    """Bytes of the arrays in a type."""
    total = 0
    for kind, shape in ARRAY.findall(text):
        count = 1
        for length in filter(None, shape.split(",")):
            count *= int(length)
        total += count * WIDTHS.get(kind, 1)
    return total


class Program:
    """A compiled program's computations, by name, as lines."""

    def __init__(self, text: str):
        self.computations: dict[str, list[str]] = {}
        lines: list[str] = []
        for line in text.splitlines():
            begin = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
            if begin and not line.startswith(" "):
                lines = self.computations.setdefault(begin[2], [])
                if begin[1]:
                    self.entry = begin[2]
            elif line.startswith(" "):
                lines.append(line.strip())

    @functools.cache  # noqa: B019
    def moved(self, name: str) -> Counter[str]:
        """Bytes by kind of collective, and their number as "how many", of one call."""
        found: Counter[str] = Counter()
        for line in self.computations[name]:
            for kind in KINDS:
                made = re.match(rf"(?:ROOT )?%?[\w.\-]+ = (.*?) {kind}(?:-start)?\(", line)
                if made:
                    found[kind] += size(made[1])
                    found["how many"] += 1
            branches = BRANCHES.search(line)
            if branches:
                inner = [self.moved(one.strip().lstrip("%")) for one in branches[1].split(",")]
                found.update(max(inner, key=lambda one: sum(one.values())))
                continue
            if any(f" {kind}(" in line for kind in KINDS):
                continue  # `to_apply` is the sum of two numbers
            times = TIMES.search(line)
            for called in CALLED.findall(line):
                for kind, count in self.moved(called).items():
                    # A loop that runs until the data says so is that of steps: counted once.
                    found[kind] += count * (int(times[1]) if times else 1)
        return found

    def of_steps(self) -> tuple[Counter[str], Counter[str]]:
        """What a step moves, and what a call moves beside its steps."""
        bodies = [
            CALLED.findall(line)
            for line in self.computations[self.entry]
            if " while(" in line and not TIMES.search(line)
        ]
        step: Counter[str] = Counter()
        for called in bodies:
            for name in called:
                step.update(self.moved(name))
        call = Counter(self.moved(self.entry))
        call.subtract(step)
        return step, call


def loss(values: Any, batch: Any) -> Any:
    import jax.numpy as jnp

    x, y = batch
    for layer, one in enumerate(values["w"]):
        x = x @ one["kernel"] + one["bias"]
        x = jnp.maximum(x, 0) if layer < 2 else x
    return jnp.mean((x - y) ** 2)


def network(key: Any) -> Any:
    import itertools

    import jax
    import jax.numpy as jnp

    sizes = (1, 40, 40, 1)
    keys = jax.random.split(key, 3)
    return [
        {"kernel": jax.random.normal(key, (a, b)) / a**0.5, "bias": jnp.zeros(b)}
        for key, (a, b) in zip(keys, itertools.pairwise(sizes), strict=True)
    ]


def points(task: Any, key: Any) -> Any:
    import jax
    import jax.numpy as jnp

    x = jax.random.uniform(key, (SHOTS, 1), minval=-5.0, maxval=5.0)
    return x, jnp.sin(x - task)


def maml(mesh: Any) -> Any:
    """16 tasks over the mesh."""
    import jax
    import optax

    import nestax as nx

    start = lambda v, task, key: v["init"]  # noqa: E731
    w = nx.Level("w", loss, optax.sgd(0.01), points, start=start)
    init = nx.Level("init", loss, optax.adam(1e-3), points, every=INNER, flow=nx.Unroll())
    nest = nx.Nest([w, init], jax.random.uniform, TASKS, mesh=mesh)
    return nest, {"init": network(jax.random.key(0))}, "init"


def pes(mesh: Any) -> Any:
    """32 particles over the mesh: the meta-parameters are log rates of every weight."""
    import jax
    import jax.numpy as jnp
    import optax

    import nestax as nx

    def descent(values: Any) -> Any:
        return optax.stateless(
            lambda g, _: jax.tree.map(lambda a, r: -jnp.exp(r) * a, g, values["rates"])
        )

    w = nx.Level(
        "w", loss, descent, points, start=lambda v, task, key: network(key), horizon=5 * INNER
    )
    rates = nx.Level(
        "rates", loss, optax.adam(1e-2), points, every=INNER, flow=nx.PES(0.01), accumulate="mean"
    )
    nest = nx.Nest([w, rates], jax.random.uniform, 2 * TASKS, stagger=True, mesh=mesh)
    begin = jax.tree.map(lambda a: jnp.full(a.shape, -4.0), network(jax.random.key(0)))
    return nest, {"rates": begin}, "rates"


def sharded(mesh: Any) -> Any:
    """An outer level of 64 x 4096 features, of which every device holds some; inside it the
    read-out, sharded alike. No copies."""
    import jax
    import jax.numpy as jnp
    import optax
    from jax.sharding import NamedSharding, PartitionSpec

    import nestax as nx

    def loss(values: Any, batch: Any) -> Any:
        x, y = batch
        return jnp.mean((jnp.tanh(x @ values["features"]) @ values["w"] - y) ** 2)

    def data(task: Any, key: Any) -> Any:
        x = jax.random.normal(key, (SHOTS, 64))
        return x, jnp.sin(x[:, 0])

    w = nx.Level("w", loss, optax.sgd(1e-3), data)
    outer = nx.Level("features", loss, optax.adam(1e-3), data, every=INNER, flow=nx.Unroll())
    features = jax.random.normal(jax.random.key(0), (64, 4096)) / 8
    values = {
        "w": jax.device_put(jnp.zeros(4096), NamedSharding(mesh, PartitionSpec("devices"))),
        "features": jax.device_put(features, NamedSharding(mesh, PartitionSpec(None, "devices"))),
    }
    return nx.Nest([w, outer]), values, "features"


CASES = {"MAML": maml, "PES": pes, "sharded outer level": sharded}


def count(case: str, devices: int, show: bool) -> None:
    """Prints a row of the table."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    import jax.numpy as jnp

    axes = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((devices,), ("devices",), axis_types=axes)
    nest, values, outer = CASES[case](mesh)
    state = nest.init(values, jax.random.key(1))
    nest.run(state, 1)
    _, chunk = nest.machine.compiled[None]
    text = chunk.lower(state, jnp.asarray(1, jnp.int32), {}).compile().as_text()
    if show:
        print(text)
    step, call = Program(text).of_steps()
    own = sum(a.nbytes for a in jax.tree.leaves(values[outer]))
    moved = " | ".join(f"{step[kind]:,}" for kind in KINDS)
    rest = sum(call[kind] for kind in KINDS)
    print(f"| {case} | {devices} | {own:,} | {step['how many']} | {moved} | {rest:,} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="bytes that devices send each other in a step")
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--show", action="store_true", help="print the compiled program")
    given = parser.parse_args()
    if given.case:
        return count(given.case, given.devices, given.show)
    heads = ["nest", "devices", "bytes of the outer value", "collectives a step"]
    heads += [f"{kind} bytes a step" for kind in KINDS] + ["bytes a call besides"]
    print("| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads), flush=True)
    for case in CASES:
        for devices in (2, 4, 8):
            one = [sys.executable, __file__, "--case", case, "--devices", str(devices)]
            subprocess.run(one, check=True)


if __name__ == "__main__":
    main()
