"""One process writes to a run's folder, whatever locks its system has."""

import errno
import os
import subprocess
import sys

import pytest

from nestax.runs import RunError, RunFolder, exclusive

WINDOWS = """
import os, pathlib, sys, types
import jax, jax.numpy as jnp, optax, orbax.checkpoint

held = set()  # (file, byte); Windows gives a lock back when the file is closed
def locking(handle, mode, count):
    assert (mode, count) == (2, 1)
    position = os.lseek(handle, 0, os.SEEK_CUR)
    assert os.fstat(handle).st_size <= position < 2**31 - 1
    place = os.fstat(handle).st_ino, position
    if place in held:
        raise PermissionError(13, "Permission denied")
    held.add(place)
sys.modules["fcntl"] = None
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)

import nestax as nx, nestax.runs

level = nx.Level("w", lambda v, batch: jnp.sum(v["w"] ** 2), optax.sgd(0.1))
nest = nx.Nest([level])
state = nest.init({"w": jnp.ones(2)}, jnp.zeros(2, "uint32"))
nest.run(state, 2, watch=nx.runs.Watch("run", progress=False))
print((open("run/metrics.jsonl").read().count("\\n"), len(held)))
try:
    nest.run(state, 2, watch="run")
except nx.runs.RunError as error:
    print(error)
held.clear()
with nx.runs.RunFolder(pathlib.Path("run")) as folder:
    print(len(folder.metrics()))
"""


def test_windows_has_locks_of_its_own(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WINDOWS], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        "(2, 1)",
        "another process is writing to run; wait for it or stop it",
        "2",
    ], done.stderr


def test_a_system_without_locks_goes_without(tmp_path, monkeypatch):
    monkeypatch.setattr(exclusive, "fcntl", None)
    RunFolder.create(tmp_path, "toy", {}).close()
    with RunFolder(tmp_path) as folder:
        assert folder.experiment == "toy"


def test_a_file_system_without_locks_is_not_another_process(tmp_path, monkeypatch):
    def refuse(handle, kind):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(exclusive.fcntl, "flock", refuse)
    with pytest.raises(RunError, match=r"cannot write to .*: No locks available"):
        RunFolder.create(tmp_path, "toy", {})
