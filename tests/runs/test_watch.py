"""A watched run: measured at fixed steps, gone on with after kill -9, bit for bit."""

import dataclasses
import json
import shutil
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
from nestax.runs import RunError, RunFolder, Watch

# A walker whose episodes outlast the truncations of the policy's gradient, and a replay buffer.
PROGRAM = """
import sys, zlib
import jax, jax.numpy as jnp, numpy as np, optax
import nestax as nx
from nestax.runs import Watch

def walk(values, memory, task, key):
    at = 0.9 * memory["at"] + 0.1 * values["policy"] + 0.1 * jax.random.normal(key, (2,))
    return at, {"at": at, "age": memory["age"] + 1}

def replay(values, memory, task, key):
    kept = memory["kept"].at[memory["count"] % 64].set(values["w"])
    count = memory["count"] + 1
    return kept[jax.random.randint(key, (8,), 0, jnp.minimum(count, 64))], {
        "kept": kept, "count": count
    }

walker = nx.Process(walk, init=lambda v, task, key: {"at": jax.random.normal(key, (2,)), "age": 0})
buffer = nx.Process(replay, init=lambda v, task, key: {"kept": jnp.zeros((64, 2)), "count": 0})
w = nx.Level("w", lambda v, b: jnp.sum((v["w"] - b) ** 2), optax.sgd(0.1), walker,
             start=lambda v, task, key: v["policy"], horizon=1000)
critic = nx.Level("critic", lambda v, b: jnp.mean((b @ v["critic"] - 1) ** 2), optax.adam(0.01),
                  buffer)
policy = nx.Level("policy", lambda v, b: jnp.sum((v["w"] - 1) ** 2), optax.sgd(0.01), every=10,
                  flow=nx.NRES(0.1))
nest = nx.Nest([(w, critic), policy], copies=2)
state = nest.init({"critic": jnp.zeros(2), "policy": jnp.zeros(2)}, jax.random.key(0))
state, _ = nest.run(state, 2000, watch=Watch(sys.argv[1], checkpoint_seconds=0))
for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    print(jax.tree_util.keystr(path), zlib.crc32(np.asarray(leaf).tobytes()))
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


def test_a_deleted_line_is_found_before_anything_is_done(tmp_path):
    made, begun = nest()
    made.run(begun, 4, watch=Watch(tmp_path, progress=False))
    path = tmp_path / "metrics.jsonl"
    raw = path.read_bytes()
    lines = raw.splitlines(keepends=True)
    for text, line in ((lines[0] + b"".join(lines[2:]), 2), (raw.replace(b"\n", b"\r\n"), 1)):
        path.write_bytes(text)
        with pytest.raises(RunError, match=rf"metrics\.jsonl, line {line}: not what the run wrote"):
            made.run(begun, 9, watch=Watch(tmp_path, progress=False))
        assert path.read_bytes() == text
    path.write_bytes(raw)
    data = next(path for path in tmp_path.glob("checkpoints/4/state/d/*"))
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(
        RunError, match=f"checkpoints/4 cannot be read: its file state/d/{data.name}"
    ):
        made.run(begun, 9, watch=Watch(tmp_path, progress=False))
    assert path.read_bytes() == raw
    shutil.rmtree(tmp_path / "checkpoints" / "4")  # as the error says: from the start
    again, _ = made.run(begun, 9, watch=Watch(tmp_path, progress=False))
    assert same(again, made.run(begun, 9)[0])


def test_fewer_steps_than_are_done_are_refused(tmp_path):
    made, begun = nest()
    made.run(begun, 6, watch=Watch(tmp_path, progress=False))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"step 6 of this run, and 4 steps.*ask for at least 6"):
        made.run(begun, 4, watch=Watch(tmp_path, progress=False))
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


LEVEL = nest()[0].groups[0][0]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            {"objective": lambda v, b: jnp.sum(abs(v["w"] - b))},
            "the objective of level 'w' differs",
        ),
        ({"optimizer": optax.sgd(0.2)}, "the optimizer of level 'w' differs"),
        (
            {"context": lambda task, key: 2 * jax.random.normal(key, (2,))},
            "the context of level 'w' differs",
        ),
        ({"start": lambda v, task, key: jnp.ones(2), "horizon": 5}, "horizon of level 'w' differs"),
        ({"name": "u", "objective": lambda v, b: v["u"] @ b}, "the list of levels differs"),
        ({"value": jnp.ones(2)}, "the value of level 'w' differs"),
        ({"key": 1}, "the key differs"),
        ({"task": jnp.zeros(3)}, "the task differs"),
        ({}, None),
    ],
)
def test_a_folder_is_for_one_run(tmp_path_factory, change, what):
    folder = tmp_path_factory.getbasetemp() / "one-run"
    made, begun = nest()
    made.run(begun, 2, watch=Watch(folder, progress=False))
    change = {"value": jnp.zeros(2), "key": 0, "task": None, **change}
    value, key, task = (change.pop(name) for name in ("value", "key", "task"))
    level = dataclasses.replace(LEVEL, **change)
    other = nx.Nest([level], task)
    values = {} if level.start else {level.name: value}
    state = other.init(values, jax.random.key(key))
    if what is None:  # made anew, the same run
        other.run(state, 2, watch=Watch(folder, progress=False))
        return
    with pytest.raises(RunError, match=f"holds another run: .*{what}.*Name another folder"):
        other.run(state, 2, watch=Watch(folder, progress=False))


def test_an_open_folder_is_for_one_run_too(tmp_path):
    made, begun = nest()
    with RunFolder.create(tmp_path / "run", "mine", {"a": 1}) as folder:
        made.run(begun, 2, watch=Watch(folder, progress=False))
        made.run(begun, 3, watch=Watch(folder, progress=False))
        other, state = nest(rate=0.2)
        with pytest.raises(RunError, match="the optimizer of level 'w' differs"):
            other.run(state, 3, watch=Watch(folder, progress=False))
    with pytest.raises(RunError, match="a run of 'mine', not one"):
        made.run(begun, 3, watch=tmp_path / "run")


def test_programs_are_not_compared_across_versions_of_jax(tmp_path, monkeypatch):
    made, begun = nest()
    with monkeypatch.context() as patched:
        patched.setattr(jax, "__version__", "0.0.1")
        made.run(begun, 2, watch=Watch(tmp_path, progress=False))
    nest(rate=0.2)[0].run(begun, 2, watch=Watch(tmp_path, progress=False))
    moved = dataclasses.replace(begun, tick=begun.tick + 1)
    with pytest.raises(RunError, match="the tick differs"):
        made.run(moved, 2, watch=Watch(tmp_path, progress=False))


def test_killed_runs_go_on_to_the_same_state(tmp_path):
    """An environment, a replay buffer and a flow's perturbations are on disk when it is killed."""

    def start(folder):
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder)], stdout=subprocess.PIPE, text=True
        )

    def result(process):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        return [line for line in output.splitlines() if line.startswith(".")]  # paths of leaves

    process = start(tmp_path / "killed")
    deadline = time.monotonic() + 120
    folder, metrics = tmp_path / "killed", tmp_path / "killed" / "metrics.jsonl"

    def saved():
        return any(one.name.isdigit() for one in (folder / "checkpoints").glob("*"))

    while not (metrics.is_file() and metrics.read_bytes().count(b"\n") > 2 and saved()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert b'"step": 2000' not in metrics.read_bytes()
    resumed = result(start(folder))
    assert resumed == result(start(tmp_path / "whole"))
    remembered = {line.split("[")[0] for line in resumed}
    assert remembered >= {".values", ".optimizers", ".flows", ".contexts"}
    assert metrics.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
