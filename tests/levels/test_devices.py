"""Copies spread over devices and processes give the numbers of one device."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = """
import json, sys
import jax
devices, processes, rank, port = map(int, sys.argv[1:])
jax.config.update("jax_num_cpu_devices", devices)
if processes > 1:
    jax.distributed.initialize(
        f"127.0.0.1:{port}", num_processes=processes, process_id=rank,
        heartbeat_timeout_seconds=20,
    )
import jax.numpy as jnp
import numpy as np
import optax
import nestax as nx

count = jax.device_count()
mesh = jax.make_mesh((count,), ("copies",), axis_types=(jax.sharding.AxisType.Auto,))
w = nx.Level(
    "w", lambda v, b: jnp.sum(jnp.tanh(v["w"] - b) ** 2), optax.adam(0.1, eps_root=1e-8),
    lambda task, key: task + 0.1 * jax.random.normal(key, (3,)),
    start=lambda v, task, key: v["init"],
)
init = nx.Level(
    "init", lambda v, b: jnp.sum((v["w"] - b) ** 2), optax.sgd(0.1), every=4, flow=nx.Unroll()
)
nest = nx.Nest(
    [w, init], task=lambda key: jax.random.normal(key, (3,)), copies=8,
    mesh=mesh if count > 1 else None,
)
state = nest.init({"init": jnp.zeros(3)}, jax.random.key(0))
state, info = nest.run(state, 5)
if rank == 0:
    print(json.dumps([np.asarray(state.values["init"]).tolist(), info["w"].loss.tolist()]))
if processes > 1:
    jax.distributed.shutdown()
"""


def launch(devices, processes):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, (devices, processes, rank, port))],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for rank in range(processes)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=300) for process in running]
    for process, (_, errors) in zip(running, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [np.array(part) for part in json.loads(outputs[0][0].strip().splitlines()[-1])]


@pytest.fixture(scope="module")
def one_device():
    return launch(1, 1)


@pytest.mark.parametrize(("devices", "processes"), [(8, 1), (1, 2)])
def test_copies_give_the_numbers_of_one_device(devices, processes, one_device):
    for found, expected in zip(launch(devices, processes), one_device, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
