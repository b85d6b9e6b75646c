"""A race: workers side by side, their gradients judged first, then their steps timed in turns.

Every worker is a process of its own and stays alive, so that each round asks all of them for a few
steps one after another and a load on the machine falls on all alike. PyTorch is given the faster of
one thread and one per core. A gradient that misses the float64 reference gets its error printed and
no claim about speed.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from peers import PEERS, Environments

from nestax.runs.machine import machine

ROUNDS, SECONDS, LEAST = 6, 0.3, 4


@dataclasses.dataclass(frozen=True)
class Entry:
    """One program in the race.

    Attributes:
        name: for the table.
        peer: name of its environment; "" is the one that runs the race.
        script: file in `workers`.
        variant: handed to the script.
        note: what a reader must know, printed under the table.
    """

    name: str
    peer: str
    script: str
    variant: str = "-"
    note: str = ""


class Worker:
    """A live process. Raises RuntimeError with the reason if its program does not run."""

    def __init__(self, entry: Entry, environments: Environments, data: Path, threads: int):
        self.entry, self.threads, self.seconds = entry, threads, []
        self.rounds: list[float] = []
        self.out = data.with_name(f"{entry.name}-{threads}.npz".replace(" ", "_"))
        command, environment = environments.command(entry.peer, entry.script)
        # A fresh cache: otherwise the second run would not compile.
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(self.out) + ".cache"
        self.errors = open(self.out.with_suffix(".log"), "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*command, str(data), str(self.out), entry.variant, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )
        told = self._read()
        if "error" in told:
            self.close()
            raise RuntimeError(told["error"])
        self.first, self.above, self.temporary = told["first"], told["above"], told["temporary"]
        with np.load(self.out) as found:
            self.found = dict(found)

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.errors.seek(0)
        last = [line for line in self.errors.read().splitlines() if line.strip()] or ["no message"]
        return {"error": f"the worker ended: {last[-1][:200]}"}

    def steps(self, count: int) -> list[float]:
        """Seconds of each of so many steps."""
        assert self.process.stdin is not None
        print(count, file=self.process.stdin, flush=True)
        seconds = self._read()
        if isinstance(seconds, dict):
            raise RuntimeError(seconds["error"])
        return seconds

    def round(self) -> None:
        """A few tenths of a second of steps."""
        guess = self.rounds[-1] if self.rounds else statistics.median(self.steps(2))
        found = self.steps(min(max(LEAST, round(SECONDS / guess)), 50))
        self.seconds += found
        self.rounds.append(statistics.median(found))

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def start(entry: Entry, environments: Environments, data: Path) -> Worker:
    """The entry's worker; PyTorch's with the number of threads that is faster here."""
    if entry.peer and (reason := environments.missing(entry.peer)):
        raise RuntimeError(reason)
    cores = os.cpu_count() or 1
    if cores == 1 or not _is_torch(entry):
        return Worker(entry, environments, data, 0)
    one, all_ = (Worker(entry, environments, data, count) for count in (1, cores))
    slow, fast = sorted((one, all_), key=lambda w: -statistics.median(w.steps(5)))
    slow.close()
    return fast


def _is_torch(entry: Entry) -> bool:
    peer = PEERS.get(entry.peer)
    return peer is not None and any(one.startswith("torch==") for one in peer.requires)


def race(
    entries: list[Entry],
    environments: Environments,
    data: dict[str, np.ndarray],
    judge: Callable[[dict[str, np.ndarray]], float],
    tolerance: float,
    without: Sequence[str] = (),
    rounds: int = ROUNDS,
) -> None:
    """Prints a table.

    Args:
        entries: the first is ours: ratios are to it.
        environments: where the peers are.
        data: the problem, the same arrays for all.
        judge: found arrays -> relative error against the reference.
        tolerance: largest error with which a time is compared.
        without: parts of names of entries to leave out, which is said.
        rounds: how often all take turns.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, **data)  # type: ignore[arg-type]
        workers, absent = [], []
        try:
            for entry in entries:
                if any(part in entry.name for part in without):
                    absent.append(f"{entry.name}: left out, as asked.")
                    continue
                try:
                    workers.append(start(entry, environments, path))
                except RuntimeError as error:
                    absent.append(f"{entry.name}: not timed. {error}")
            errors = [judge(worker.found) for worker in workers]
            for _ in range(rounds):
                for worker in workers:
                    worker.round()
        finally:
            for worker in workers:
                worker.close()
    _print(entries, workers, errors, tolerance)
    for line in absent:
        print(f"* {line}")
    for worker in workers:
        if worker.entry.note:
            print(f"* {worker.entry.name}: {worker.entry.note}")
    print(flush=True)


def _print(
    entries: list[Entry], workers: list[Worker], errors: list[float], tolerance: float
) -> None:
    ours = next((w for w in workers if w.entry is entries[0]), None)
    print(
        "| program | error of the gradient | ms per step | ratio to nestax | first step s "
        "| MiB above imports | MiB temporary | threads |"
    )
    print("| --- " * 8 + "|")
    for worker, error in zip(workers, errors, strict=True):
        ratio = "no claim: the gradient is off"
        if ours is None:
            ratio = "nestax did not run"
        elif error <= tolerance:
            pairs = zip(worker.rounds, ours.rounds, strict=True)
            low, high = np.quantile([a / b for a, b in pairs], (0.25, 0.75))
            middle = statistics.median(worker.seconds) / statistics.median(ours.seconds)
            ratio = f"{middle:.3g} ({low:.3g} to {high:.3g})"
        temporary = "" if worker.temporary is None else f"{worker.temporary / 2**20:.2f}"
        print(
            f"| {worker.entry.name} | {error:.1e} | {1e3 * statistics.median(worker.seconds):.3g} "
            f"| {ratio} | {worker.first:.2f} | {worker.above / 2**20:.0f} | {temporary} "
            f"| {worker.threads or ''} |"
        )


def option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--without", action="append", default=[], metavar="PART", help="leave out what is named so"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often all take turns")


def heading() -> None:
    facts = machine()
    print(f"{facts['system']}, {facts['cores']} cores, jax {jax.__version__}\n", flush=True)


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
    """Euclidean norm of the difference over that of `exact`."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
