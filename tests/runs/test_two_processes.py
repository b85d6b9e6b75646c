"""The program of docs/guides/machines.md in two processes: the numbers of one process, a folder
that process 0 alone writes, and what differs between processes is refused."""

import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

GUIDE = Path(__file__).parents[2] / "docs/guides/machines.md"
SECONDS = 120  # a process that takes longer waits for another one

SHOWN = """
import json, runpy, sys
sys.argv.pop(0)
program = runpy.run_path(sys.argv[0])
jax, state = program["jax"], program["state"]
told = {"processes": jax.process_count(), "devices": jax.device_count(),
        "init": jax.tree.map(lambda a: a.tolist(), state.values["init"])}
print("TOLD " + json.dumps(told))
"""

DIFFERENT = """
import sys
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]), initialization_timeout=60)
import jax.numpy as jnp
import numpy as np
import optax
import nestax as nx
me = jax.process_index()
mesh = jax.make_mesh((2,), ("copies",), axis_types=(jax.sharding.AxisType.Auto,))

def begun(seed=0, rate=0.1, shift=0, task=None, sees=()):
    read = nx.Stream(lambda index: np.full(2, index + shift * (index >= 4), np.float32))
    loss = lambda v, b: jnp.sum((v["w"] - b) ** 2)
    w = nx.Level("w", loss, optax.sgd(rate), read, start=lambda v, task, key: v["init"])
    init = nx.Level("init", loss, optax.sgd(0.1), read, every=2, flow=nx.Unroll())
    nest = nx.Nest([w, init], task=task, copies=2, mesh=mesh)
    return nest, nest.init({"init": jnp.zeros(2)}, jax.random.key(seed))

def stops(step, numbers):
    return step == 2

def fails(step, numbers):
    raise OSError("the disk is full")

def told(call):
    try:
        returned = call()
    except (ValueError, RuntimeError, OSError, nx.runs.RunError) as error:
        print(f"TOLD {type(error).__name__}: {error}", flush=True)
    else:
        print("TOLD", returned, flush=True)

told(lambda: begun(seed=me))
told(lambda: begun(rate=0.1 + me))
told(lambda: begun(task=np.full(2, me, np.float32)))
nest, state = begun(shift=me)
told(lambda: nest.run(state, 3))
nest, state = begun()
told(lambda: nest.run(state, 3 + me))
told(lambda: nest.run(state, 3, watch=None if me else stops))
told(lambda: int(nest.run(state, 3, watch=stops)[0].tick))
told(lambda: nest.run(state, 3, watch=fails))

def lost():
    nest, state = begun(rate=1e6)
    try:
        nest.run(state, 9, watch=nx.runs.Watch(f"{sys.argv[3]}/lost{me}", False, 0))
    except nx.DivergenceError as error:
        return error.step > 0 and f"the checkpoint of step {error.step} and" in str(error)

def alone():
    loss = lambda v, b: jnp.sum((v["w"] - 1) ** 2)
    nest = nx.Nest([nx.Level("w", loss, optax.sgd(0.1 * (1 + me)))])
    for steps in (1 + me, 3 + me):
        watch = nx.runs.Watch(f"{sys.argv[3]}/alone{me}", progress=False)
        state = nest.run(nest.init({"w": jnp.zeros(2)}, jax.random.key(me)), steps, watch=watch)[0]
    return int(state.tick)

told(lost)
told(alone)
"""


def free_port(least=0, most=65535):
    """One that nobody listens at now."""
    for candidate in range(least, most) if least else [0]:
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return one.getsockname()[1]
    raise OSError("no free port")


def started(commands):
    """The processes' output and exit codes; all of them are killed if one does not end."""
    running = []
    try:
        for arguments, variables in commands:
            environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
            environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_NUM_CPU_DEVICES": "1"}
            environment |= variables
            running.append(
                subprocess.Popen(
                    [sys.executable, *map(str, arguments)], env=environment, text=True,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                )
            )  # fmt: skip
        return [process.communicate(timeout=SECONDS) for process in running], [
            process.returncode for process in running
        ]
    finally:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


def launched(make, ports):
    """What two processes say, by process; `make(number, port)` -> arguments, variables."""
    for port in ports:
        outputs, codes = started([make(number, port) for number in range(2)])
        if codes == [0, 0]:
            told = [
                [line[5:] for line in out.splitlines() if line.startswith("TOLD ")]
                for out, _ in outputs
            ]
            return told
        errors = "\n".join(error[-3000:] for _, error in outputs)
        assert "already in use" in errors.lower(), errors  # somebody was quicker at the port
    raise AssertionError(errors)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The guide's program as a file."""
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if "jax.distributed.initialize" in block]
    path = tmp_path_factory.mktemp("guide") / "maml.py"
    path.write_text(found)
    return path


@pytest.fixture(scope="module")
def in_two(program, tmp_path_factory):
    """Three steps in two processes of two devices each, then two more in two processes of one
    device each, which SLURM's variables tell of each other."""
    folder = tmp_path_factory.mktemp("runs")

    def by_address(number, port):
        arguments = ["-c", SHOWN, program, "--coordinator", f"127.0.0.1:{port}", "--processes", 2]
        rest = ["--id", number, "--steps", 3, "--folder", folder / str(number)]
        return [*arguments, *rest], {"JAX_NUM_CPU_DEVICES": "2"}

    def by_slurm(number, port):
        variables = {
            "SLURM_JOB_ID": str(port),  # JAX takes the port from it: 61440 + id % 4096
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(number),
            "SLURM_LOCALID": str(number),
            "SLURM_STEP_NODELIST": "127.0.0.1",
            "SLURM_STEP_NUM_NODES": "1",
        }
        rest = ["--steps", 5, "--folder", folder / str(number)]
        return ["-c", SHOWN, program, *rest], variables

    first = launched(by_address, (free_port() for _ in range(2)))
    lines = (folder / "0/metrics.jsonl").read_text().splitlines()
    second = launched(by_slurm, (free_port(61440 + 1000 * i + os.getpid() % 1000) for i in (1, 2)))
    told = [[json.loads(one[0]) for one in launch] for launch in (first, second)]
    return told, [json.loads(line) for line in lines], folder


@pytest.fixture(scope="module")
def in_one(program):
    """Five steps in this process."""
    before, sys.argv = sys.argv, [str(program), "--steps", "5"]
    try:
        return runpy.run_path(str(program))
    finally:
        sys.argv = before


def test_two_processes_give_the_numbers_of_one(in_two, in_one):
    (first, _), lines, _ = in_two
    assert [(one["processes"], one["devices"]) for one in first] == [(2, 4), (2, 4)]
    assert first[0]["init"] == first[1]["init"]
    losses = np.array([line["loss"]["init"] for line in lines])
    np.testing.assert_allclose(losses, in_one["info"]["init"].loss[:3], rtol=1e-5)


def test_a_run_goes_on_with_another_number_of_devices(in_two, in_one):
    (_, second), _, folder = in_two
    assert [(one["processes"], one["devices"]) for one in second] == [(2, 2), (2, 2)]
    for name, value in in_one["state"].values["init"].items():
        np.testing.assert_allclose(second[0]["init"][name], value, rtol=1e-5, atol=1e-6)
    lines = (folder / "0/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]


def test_process_0_alone_writes(in_two):
    *_, folder = in_two
    assert [one.name for one in folder.iterdir()] == ["0"]
    assert [one.name for one in (folder / "0/checkpoints").iterdir()] == ["5"]


@pytest.fixture(scope="module")
def differing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("differing")

    def make(number, port):
        return ["-c", DIFFERENT, f"127.0.0.1:{port}", number, folder], {}

    return launched(make, (free_port() for _ in range(2))), folder


def test_what_differs_between_processes_is_refused(differing):
    told, _ = differing
    assert told[0][:6] == told[1][:6]
    key, program, task, stream, steps, watch, *_ = told[0]
    assert key.startswith("ValueError: Nest.init: the key: the numbers must be equal")
    assert "the optimizer of level 'w': every process runs the same program" in program
    assert task.startswith("ValueError: Nest.init: the task: the numbers must be equal")
    assert "levels 'w' and 'init': every process reads all batches of a Stream" in stream
    assert stream.endswith("not the same in process 0 and in process 1")
    assert steps.startswith("ValueError: Nest.run: steps: all processes make the same call")
    assert watch.startswith("ValueError: Nest.run: watch: all processes make the same call")


def test_process_0_decides_for_all(differing):
    (first, second), folder = differing
    assert first[6] == second[6] == "4"  # ticks: a function in process 0 stopped the run
    assert first[7] == "OSError: the disk is full"
    assert second[7] == "RuntimeError: process 0 ended with OSError: the disk is full"
    assert first[8] == second[8] == "True"
    assert (folder / "lost0/checkpoints").is_dir() and not (folder / "lost1").exists()


def test_process_0_alone_keeps_a_run_of_its_own(differing):
    told, folder = differing
    assert told[0][9] == "3"
    assert (folder / "alone0/checkpoints/3").is_dir()
    assert told[1][9].startswith("RunError: this is process 1 of 2, and checkpoints are written by")
