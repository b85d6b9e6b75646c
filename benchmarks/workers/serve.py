"""What every worker of a race does: one first step, a gradient to be judged, then steps on request.

    python WORKER DATA OUT VARIANT THREADS

`DATA` is the problem (npz), `OUT` where the gradient goes (npz), `THREADS` a number for PyTorch, 0
for its own default. One line of JSON is written after the first steps; then every number read on
stdin is answered by the seconds of so many steps. What libraries print goes to stderr.
"""

import dataclasses
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

WARM = 3
LIMIT = 3.0  # seconds after which a request ends early, with one step at least


@dataclasses.dataclass
class Work:
    """A worker's program.

    Attributes:
        step: one whole step, finished when it returns; returns `gradient()`'s value or anything.
        gradient: the arrays to be judged; None: those that the first step returned.
        temporary: bytes of temporary memory of the compiled program, if it says so.
        per_call: steps that one call of `step` makes.
    """

    step: Callable[[], Any]
    gradient: Callable[[], dict[str, np.ndarray]] | None = None
    temporary: Callable[[], int | None] | None = None
    per_call: int = 1


def peak() -> int:
    """High water of this process's memory, in bytes.

    Of this process alone: `getrusage` on Linux counts what its parent held when it began.
    """
    try:
        with open("/proc/self/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        return int(fields["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def temporary_bytes(compiled: Any) -> int | None:
    """Temporary memory of a program that JAX compiled, where the backend tells."""
    analysis = compiled.memory_analysis()
    return None if analysis is None else analysis.temp_size_in_bytes


def serve(make: Callable[[dict[str, np.ndarray], str], Work]) -> None:
    """Runs `make(data, variant)`'s program; to be called after all imports."""
    path, out, variant, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch = sys.modules.get("torch")
    if torch is not None and int(threads):
        torch.set_num_threads(int(threads))

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    with np.load(path) as stored:
        data = dict(stored)
    before = peak()
    try:
        began = time.perf_counter()
        work = make(data, variant)
        returned = work.step()
        first = time.perf_counter() - began
        found = returned
        began = time.perf_counter()
        for _ in range(WARM):
            if time.perf_counter() - began < LIMIT:
                work.step()
        above = peak() - before
        if work.gradient is not None:
            found = work.gradient()
        np.savez(out, **found)  # type: ignore[arg-type]
        temporary = work.temporary() if work.temporary is not None else None
        answer({"first": first, "above": above, "temporary": temporary})
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        # Errors from inside a compiled program begin with a traceback; the reason is further down.
        telling = [line for line in lines if "Error: " in line and "INTERNAL" not in line]
        answer({"error": f"{type(error).__name__}: {(telling or lines)[0][:200]}"})
        raise
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            began = time.perf_counter()
            work.step()
            seconds.append((time.perf_counter() - began) / work.per_call)
            if sum(seconds) * work.per_call > LIMIT:
                break
        answer(seconds)
