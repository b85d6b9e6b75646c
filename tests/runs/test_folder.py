"""A run's folder: what is refused, what survives."""

import errno
import json
import os
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest

from nestax.runs import RunError, RunFolder

STATE = {"w": jnp.arange(6.0).reshape(2, 3), "n": [jnp.int32(3), None]}


def start(tmp_path, **options):
    return RunFolder.create(str(tmp_path / "run"), "toy", {"a": 1}, **options)


def test_a_new_run_knows_what_was_asked(tmp_path):
    with start(tmp_path) as folder:
        assert (folder.experiment, folder.settings) == ("toy", {"a": 1})
        assert folder.saved() is None
        assert folder.metrics() == []
    with RunFolder(str(tmp_path / "run")) as folder:
        assert folder.settings == {"a": 1}


def test_a_second_run_is_refused_unless_it_may_overwrite(tmp_path):
    with start(tmp_path) as folder:
        folder.append({"x": 1})
    with pytest.raises(RunError, match="already holds a run; continue it with --resume"):
        start(tmp_path)
    with start(tmp_path, overwrite=True) as folder:
        assert folder.metrics() == []


def test_what_is_not_a_run_is_never_deleted(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        start(tmp_path, overwrite=True)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        RunFolder.create(tmp_path / "file", "toy", {})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_unreadable_settings_are_refused(tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(RunError, match=r"is not a run's settings"):
        RunFolder(tmp_path)
    with pytest.raises(RunError, match="holds no run"):
        RunFolder(tmp_path / "nowhere")


def test_one_process_at_a_time(tmp_path):
    with start(tmp_path), pytest.raises(RunError, match="another process is writing"):
        RunFolder(tmp_path / "run")
    with RunFolder(tmp_path / "run"):
        pass


def test_state_comes_back_bit_for_bit(tmp_path):
    with start(tmp_path) as folder:
        folder.checkpoint(3, STATE, {"epoch": 3})
    with RunFolder(tmp_path / "run") as folder:
        assert folder.saved()["epoch"] == 3
        restored = folder.restore(STATE)
    np.testing.assert_array_equal(restored["w"], STATE["w"])
    assert restored["n"][0].dtype == jnp.int32
    assert restored["n"][1] is None


def test_numbers_and_empty_arrays_come_back_as_they_were(tmp_path):
    """numpy's and Python's numbers with their types; a state of another kind is refused."""
    state = {
        "float32": np.float32(0.1), "float64": np.float64(1 / 3), "int64": np.int64(2**60),
        "bool_": np.bool_(True), "float16": np.float16(0.1), "complex64": np.complex64(1 + 2j),
        "float": 1 / 3, "int": 7, "bool": True, "array": np.arange(3, dtype=np.uint8),
        "scalar": np.array(5, np.int16), "empty": np.zeros((0, 3)), "jax": jnp.bfloat16(1.5),
    }  # fmt: skip
    with start(tmp_path) as folder:
        with pytest.raises(RunError, match="has no checkpoint"):
            folder.restore(state)
        folder.checkpoint(1, state, {})
        found = folder.restore(state)
        assert list(found) == sorted(state) or list(found) == list(state)
        for name, leaf in state.items():
            assert type(found[name]) is type(leaf), name
            assert getattr(found[name], "dtype", None) == getattr(leaf, "dtype", None)
            assert np.shape(found[name]) == np.shape(leaf) and np.all(found[name] == leaf), name
        for other, what in (
            ({**state, "float32": np.float64(0)}, r"float32\[\] and float64\[\] is asked for"),
            ({**state, "array": np.zeros(2, np.uint8)}, r"uint8\[3\] and uint8\[2\]"),
            ({"a": 1.0}, "float64"),
            ({**state, "z": np.zeros(1)}, "13 arrays and 14 are asked for"),
        ):
            with pytest.raises(RunError, match=what):
                folder.restore(other)
        folder.checkpoint(2, {"empty": np.zeros((2, 0))}, {})
        assert folder.restore({"empty": np.zeros((2, 0))})["empty"].shape == (2, 0)


def test_going_on_forgets_what_the_checkpoint_did_not_count(tmp_path):
    with start(tmp_path) as folder:
        folder.append({"epoch": 0})
        folder.checkpoint(1, STATE, {})
        folder.append({"epoch": 1})
        with (folder.path / "metrics.jsonl").open("a") as file:
            file.write('{"epoch": 2, "lo')  # killed while writing
        assert [r["epoch"] for r in folder.metrics()] == [0, 1]
    with RunFolder(tmp_path / "run") as folder:
        folder.rewind()
        assert (folder.path / "metrics.jsonl").read_text() == '{"epoch": 0}\n'


def test_going_on_without_a_checkpoint_starts_over(tmp_path):
    with start(tmp_path) as folder:
        folder.append({"epoch": 0})
        assert folder.rewind() is None
        assert folder.metrics() == []


def test_only_numbers_that_json_knows_are_written(tmp_path):
    with start(tmp_path) as folder:
        with pytest.raises(ValueError, match="JSON"):
            folder.append({"loss": float("nan")})
        assert folder.metrics() == []


def test_lost_measurements_are_noticed_not_padded(tmp_path):
    with start(tmp_path) as folder:
        folder.append({"epoch": 0})
        folder.checkpoint(1, STATE, {})
        (folder.path / "metrics.jsonl").write_text("")
        with pytest.raises(RunError, match="has lost measurements"):
            folder.rewind()
        assert (folder.path / "metrics.jsonl").read_text() == ""


def test_a_run_that_measured_nothing_does_not_claim_the_folder(tmp_path):
    start(tmp_path).close()
    (tmp_path / "run" / "metrics.jsonl").unlink(missing_ok=True)
    with RunFolder.create(tmp_path / "run", "toy", {"a": 2}) as folder:
        assert folder.settings == {"a": 2}
        assert folder.metrics() == []


def test_a_start_that_is_refused_changes_nothing(tmp_path):
    with start(tmp_path) as folder:
        folder.append({"epoch": 0})
        for overwrite in (False, True):
            with pytest.raises(RunError, match="another process"):
                RunFolder.create(folder.path, "toy", {"a": 2}, overwrite=overwrite)
        assert folder.metrics() == [{"epoch": 0}]
    with RunFolder(tmp_path / "run") as folder:
        assert folder.settings == {"a": 1}


class Killed(BaseException):
    pass


def test_what_is_overwritten_stays_until_something_else_is_measured(tmp_path, monkeypatch):
    """Whether the new run is refused, interrupted or killed before each of its calls."""
    run, calls, moment = tmp_path / "run", [], 0

    def files():
        found = (path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
        return {path.relative_to(run).as_posix(): path.read_bytes() for path in found}

    def dying(really):
        def call(*args, **options):
            calls.append(really)
            if len(calls) == moment:
                raise Killed
            return really(*args, **options)

        return call

    with start(tmp_path) as folder:
        folder.append({"epoch": 0})
        folder.write_json("facts.json", {})
        folder.checkpoint(1, STATE, {})
        (run / "figures").mkdir()
        (run / "figures" / "one.png").write_text("drawn")
    before = files()
    for moment in range(1, 99):
        calls.clear()
        with monkeypatch.context() as patched:
            for where, name in (("os", "replace"), ("shutil", "rmtree"), ("os", "unlink")):
                really = getattr(sys.modules[where], name)
                patched.setattr(sys.modules[where], name, dying(really))
            try:
                with start(tmp_path, overwrite=True) as folder:
                    assert folder.metrics() == []
                    (run / "checkpoints").mkdir()
                    (run / "checkpoints" / "other").write_text("of the new run")
                    raise RunError("no data")
            except RunError as error:
                assert "is in its place again" in error.__notes__[0] and files() == before
                if len(calls) < moment:
                    break
            except Killed:
                pass
        with pytest.raises(RunError), start(tmp_path, overwrite=True):
            raise RunError("no data")
        assert files() == before, (moment, calls)
        with RunFolder(run) as folder:
            assert folder.metrics() == [{"epoch": 0}]
    assert 10 < moment < 98
    with RunFolder(run) as folder:
        assert folder.rewind() == folder.saved() and folder.restore(STATE)
    with pytest.raises(KeyboardInterrupt), start(tmp_path, overwrite=True):
        raise KeyboardInterrupt
    with RunFolder(run) as folder:
        assert folder.metrics() == [] and (run / ".replaced").is_dir()
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr("os.replace", lambda *_: (_ for _ in ()).throw(Killed))
            folder.append({"epoch": 5})
    with pytest.raises(RunError), start(tmp_path, overwrite=True):
        raise RunError("no data")
    with RunFolder(run) as folder:
        assert folder.metrics() == [{"epoch": 5}]
    assert set(files()) == {"settings.json", "metrics.jsonl"}


def test_killed_before_its_settings_were_written_the_folder_is_as_good_as_empty(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / ".settings.json.99").write_text("{")
    start(tmp_path).close()


def test_files_of_others_survive_overwriting(tmp_path):
    with start(tmp_path) as folder:
        folder.append({"epoch": 0})
        (folder.path / "notes.txt").write_text("mine")
    start(tmp_path, overwrite=True).close()
    assert {one.name for one in (tmp_path / "run").iterdir()} <= {
        ".lock",
        "settings.json",
        "notes.txt",
    }
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_a_damaged_checkpoint_is_named(tmp_path):
    with start(tmp_path) as folder:
        folder.checkpoint(1, STATE, {"epoch": 1})
    for path in (tmp_path / "run" / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(b"x")
    with RunFolder(tmp_path / "run") as folder, pytest.raises(RunError, match="cannot be read"):
        folder.saved()


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    with start(tmp_path) as folder:
        folder.append({"epoch": 0})
        folder.write_json("summary.json", {"old": True})

        def full(handle):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"disk is full.*nestax resume"):
            folder.append({"epoch": 1})
        with pytest.raises(RunError, match="disk is full"):
            folder.write_json("summary.json", {"old": False})
        monkeypatch.undo()
        assert folder.metrics() == [{"epoch": 0}]
        assert folder.read_json("summary.json") == {"old": True}
        assert sorted(p.name for p in folder.path.iterdir()) == [
            ".lock",
            "metrics.jsonl",
            "settings.json",
            "summary.json",
        ]


def test_a_file_size_limit_in_the_middle_of_a_checkpoint_keeps_the_one_before(tmp_path):
    """A real refusal by the system, in a process of its own: files may not exceed 64 kB."""
    program = textwrap.dedent("""
        import resource, signal, sys
        from pathlib import Path
        import jax.numpy as jnp
        from nestax.runs import RunError, RunFolder

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with RunFolder.create(Path(sys.argv[1]), "toy", {}) as folder:
            folder.checkpoint(1, {"w": jnp.ones(4)}, {"epoch": 1})
            resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
            try:
                folder.checkpoint(2, {"w": jnp.linspace(0, 1, 10**6) ** 0.3}, {"epoch": 2})
            except RunError as error:
                print("refused:", error)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run")], capture_output=True, text=True
    )
    assert "refused: cannot write to" in done.stdout, done.stderr
    assert "File too large. What was written before is intact" in done.stdout
    assert "Traceback" not in done.stderr
    with RunFolder(tmp_path / "run") as folder:
        assert folder.saved()["epoch"] == 1
        np.testing.assert_array_equal(folder.restore({"w": jnp.zeros(4)})["w"], np.ones(4))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match=r"cannot write to .* another folder"):
        start(tmp_path)


def test_a_path_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot write to .* another folder"):
        RunFolder.create(tmp_path / "file" / "run", "toy", {})


def test_settings_are_plain_json(tmp_path):
    with start(tmp_path) as folder:
        assert json.loads((folder.path / "settings.json").read_text()) == {
            "experiment": "toy",
            "settings": {"a": 1},
        }
