"""A folder with a checkpoint, damaged: what is read is right, or refused by name."""

import re
from pathlib import Path

import numpy as np
import pytest
from references.damage import FEW, every, results

from nestax.runs import RunError, RunFolder

STATE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.int16(7)}


def counted(path, until=5):
    """Steps counted in a folder, from its checkpoint, which is written after the third."""
    fresh = not path.exists()
    with RunFolder.create(path, "count", {}) if fresh else RunFolder(path) as folder:
        saved, state = folder.saved(), STATE
        if saved is not None:
            state = folder.restore(STATE)
        folder.rewind()
        for step in range(saved["step"] if saved else 0, until):
            state = {"w": state["w"] * np.float32(1.5), "n": np.int16(state["n"] + 1)}
            folder.append({"step": step + 1, "sum": float(state["w"].sum()), "n": int(state["n"])})
            if step == 2:
                folder.checkpoint(step + 1, state, {"step": step + 1})
    return path


def test_a_damaged_checkpoint_is_right_or_refused(tmp_path, capsys):
    whole, base = results(counted(tmp_path / "whole")), counted(tmp_path / "base", until=4)

    def ways(file):
        return FEW[:4] if file.startswith("checkpoints") and "process_0" not in file else ()

    seen = every(base, counted, ways, whole)
    kinds = {Path(file): what for (file, how), what in seen.items() if how == "is half"}
    assert {what for file, what in kinds.items() if file.name == "metadata"} == {"refused"}
    assert {what for file, what in kinds.items() if file.name == "manifest.ocdbt"} == {"refused"}
    data = [what for (file, _), what in seen.items() if Path(file).parent.name == "d"]
    assert data and set(data) == {"refused"}


def test_a_checkpoint_counts_these_measurements_and_no_others(tmp_path):
    """Without a journal the checkpoint knows what it counts: nothing is cut within a line."""
    run = counted(tmp_path / "run", until=4)
    path = run / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for kept in (lines[1:], lines[:2] + lines[3:], lines[:2]):
        (run / ".lock").unlink()
        path.write_bytes(b"".join(kept))
        with pytest.raises(RunError, match=f"{re.escape(str(path))}.*its checkpoint counts"):
            counted(run)
        assert path.read_bytes() == b"".join(kept)


def test_killed_while_it_was_made_a_journal_is_none(tmp_path):
    run = counted(tmp_path / "run", until=2)
    journal = run / ".lock"
    journal.unlink()
    RunFolder(run).close()
    raw = journal.read_bytes()
    for length in range(0, len(raw), 40):
        journal.write_bytes(raw[:length])
        RunFolder(run).close()
        assert journal.read_bytes() == raw
