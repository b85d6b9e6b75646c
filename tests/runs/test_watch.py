"""A watched run: measured at fixed steps, gone on with after kill -9, bit for bit."""

import json
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax.runs import RunError, Watch

PROGRAM = """
import sys
import jax, jax.numpy as jnp, optax
import nestax as nx
from nestax.runs import Watch
w = nx.Level("w", lambda v, b: jnp.sum((v["w"] - b) ** 2), optax.adam(0.01),
             lambda task, key: jax.random.normal(key, (50,)))
slow = nx.Level("s", lambda v, b: jnp.sum((v["s"] - v["w"]) ** 2), optax.sgd(0.1), every=20)
nest = nx.Nest([w, slow])
state = nest.init({"w": jnp.zeros(50), "s": jnp.ones(50)}, jax.random.key(0))
state, _ = nest.run(state, 20000, watch=Watch(sys.argv[1], checkpoint_seconds=0))
print(float(jnp.sum(state.values["w"])), float(jnp.sum(state.values["s"])), int(state.tick))
"""


def nest(rate=0.1):
    level = nx.Level(
        "w", lambda v, b: jnp.sum((v["w"] - b) ** 2), optax.sgd(rate),
        lambda task, key: jax.random.normal(key, (2,)),
    )  # fmt: skip
    made = nx.Nest([level])
    return made, made.init({"w": jnp.zeros(2)}, jax.random.key(0))


def same(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in leaves)


def test_a_watched_run_is_the_run(tmp_path, capsys):
    made, begun = nest()
    plain, _ = made.run(begun, 40)
    watched, _ = made.run(begun, 40, watch=Watch(tmp_path / "run"))
    assert same(plain, watched)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 41))
    again, info = made.run(begun, 40, watch=Watch(tmp_path / "run", progress=False))
    assert same(again, plain) and len(info["w"].loss) == 0  # nothing was left to do
    longer, _ = made.run(begun, 60, watch=Watch(tmp_path / "run", progress=False))
    assert same(longer, made.run(begun, 60)[0])


def test_the_run_of_another_nest_is_refused(tmp_path):
    made, begun = nest()
    made.run(begun, 2, watch=Watch(tmp_path, progress=False))
    other = nx.Nest([nx.Level("u", lambda v, b: v["u"] ** 2, optax.sgd(0.1))])
    with pytest.raises(RunError, match="another nest"):
        other.run(other.init({"u": 1.0}, jax.random.key(0)), 2, watch=Watch(tmp_path))


def test_killed_runs_go_on_to_the_same_state(tmp_path):
    def start(folder):
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder)], stdout=subprocess.PIPE, text=True
        )

    def result(process):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        return output.strip().splitlines()[-1]

    process = start(tmp_path / "killed")
    deadline = time.monotonic() + 120
    metrics = tmp_path / "killed" / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_bytes().count(b"\n") > 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert b'"step": 20000' not in metrics.read_bytes()
    resumed = result(start(tmp_path / "killed"))
    assert resumed == result(start(tmp_path / "whole"))
    assert metrics.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
