"""Copies spread over devices give the numbers of one device; several processes: tests/runs."""

import json
import os
import re
import subprocess
import sys

import numpy as np

PROGRAM = """
import json, re, sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
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
text = jax.jit(nest.step).lower(state).compile().as_text() if count > 1 else ""
kinds = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
sent = re.findall(rf"= (.*?) ({kinds})(?:-start)?\\(", text)
print(json.dumps([np.asarray(state.values["init"]).tolist(), info["w"].loss.tolist(), sent]))
"""


def launch(devices):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(devices)],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def numbers(shapes):
    """How many an HLO type holds."""
    found = re.findall(r"\w+\[([\d,]*)\]", shapes)
    return sum(np.prod([int(n) for n in shape.split(",") if n], dtype=int) for shape in found)


def test_copies_give_the_numbers_of_one_device_and_send_one_gradient_a_step():
    *spread, sent = launch(8)
    for found, expected in zip(spread, launch(1), strict=False):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # The gradient of three numbers and the loss; of 8 copies and 4 ticks the losses and norms.
    assert sum(numbers(shapes) for shapes, kind in sent if kind == "all-reduce") == 3 + 1
    assert {kind for _, kind in sent} == {"all-reduce", "all-gather"}
    assert sum(numbers(shapes) for shapes, kind in sent if kind == "all-gather") == 2 * 8 * 4
