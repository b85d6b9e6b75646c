"""Every file of a run's folder damaged in every way: what is read is right, or refused by name."""

import dataclasses
import itertools
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from studies import stubs

from nestax.runs import RunError, RunFolder
from nestax_studies import commands
from nestax_studies.registry import EXPERIMENTS, Experiment

STATE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.int16(7)}
STUDY = dataclasses.replace(stubs.STUDY, draw=lambda settings, records: [])
SETTINGS = stubs.Settings(arms=("all",))


@pytest.fixture(autouse=True)
def study(monkeypatch):
    known = Experiment("Stubs.", stubs.Settings, STUDY.run, STUDY.report)
    monkeypatch.setitem(EXPERIMENTS, "stub", known)


def made(settings, path, until=None):
    """The folder of a finished run of the stubs, or of one interrupted after so many stages."""
    first = lambda settings: dict(itertools.islice(stubs.stages(settings).items(), until))  # noqa: E731
    asked = json.loads(json.dumps(dataclasses.asdict(settings)))
    with RunFolder.create(path, "stub", asked) as folder:
        dataclasses.replace(STUDY, stages=first).run(settings, folder)
        if until is None:
            STUDY.report(settings, folder)
    return path


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


def _lines(change):
    """A change of the list of lines, as one of bytes."""
    return lambda raw: b"".join(change(raw.splitlines(keepends=True)))


def _digit(where):
    """Another digit in place of one of those that there are."""

    def change(raw):
        at = [i for i, byte in enumerate(raw) if 48 <= byte < 58]
        if not at:
            return raw
        i = at[where(len(at))]
        return raw[:i] + bytes([48 + (raw[i] - 47) % 10]) + raw[i + 1 :]

    return change


TEXTS = ["", "\n", "garbage\n", "null\n", "5\n", "[]\n", "{}\n", '"text"\n', '{"a": NaN}\n']
DAMAGE = {
    **{f"is {text!r}": lambda raw, text=text: text.encode() for text in TEXTS},
    "is deeply nested": lambda raw: b"[" * 100_000 + b"\n",
    "is half": lambda raw: raw[: len(raw) // 2],
    "is a third": lambda raw: raw[: len(raw) // 3],
    "lacks a byte": lambda raw: raw[:-1],
    "lacks its first byte": lambda raw: raw[1:],
    "lacks its first line": _lines(lambda lines: lines[1:]),
    "lacks its second line": _lines(lambda lines: lines[:1] + lines[2:]),
    "lacks its last line": _lines(lambda lines: lines[:-1]),
    "has a line twice": _lines(lambda lines: lines[:1] + lines),
    "is swapped": _lines(lambda lines: lines[::-1]),
    "has line ends CRLF": lambda raw: raw.replace(b"\n", b"\r\n"),
    "has garbage at its end": lambda raw: raw + b"garbage\n",
    "has a null byte": lambda raw: raw[:9] + b"\0" + raw[10:],
    "is not UTF-8": lambda raw: raw[: len(raw) // 2] + b"\xff\xfe" + raw[len(raw) // 2 :],
    "has a byte order mark": lambda raw: b"\xef\xbb\xbf" + raw,
    "has another first digit": _digit(lambda count: 0),
    "has another digit": _digit(lambda count: count // 2),
    "has another last digit": _digit(lambda count: -1),
    "is missing": None,
    "is a directory": Path.mkdir,
}
FEW = ("is ''", "is half", "has another digit", "is missing", "is a directory")
OUTPUTS = ("summary.json", "report.html")  # written anew by every report
CHECKED = ("metrics.jsonl", "settings.json", "facts.json")


def _damage(path, how):
    raw, change = path.read_bytes(), DAMAGE[how]
    if change is None or change is Path.mkdir:
        path.unlink()
        if change is not None:
            path.mkdir()
        return True
    path.write_bytes(change(raw))
    return path.read_bytes() != raw


def _content(folder):
    every = folder.rglob("*")
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in every}


def _results(folder):
    path = folder / "summary.json"
    summary = json.loads(path.read_text()) if path.exists() else {}
    summary.pop("seconds", None)
    return (folder / "metrics.jsonl").read_bytes(), summary


def _holds(command, folder, file, how, whole):
    """One damage, one command: the results of the whole run, or an error that names the file."""
    before = _content(folder)
    try:
        command(folder)
    except RunError as error:
        text = str(error)
        assert str(folder / file.split("/")[0]) in text, f"{file} {how}: {text}"
        assert len(text) < 700 and "\n" not in text, text
        if file in CHECKED and "digit" in how:
            assert re.search(r", line \d+: not what the run wrote", text), text
        assert _content(folder) == before, f"{file} {how}"
        return "refused"
    assert _results(folder) == whole, f"{file} {how}"
    return "right"


def _every(base, command, ways, whole):
    """What becomes of each damage of each file: "right" or "refused"."""
    seen, run = {}, base.parent / "run"
    files = [file for file, raw in _content(base).items() if raw is not None]
    for file, how in [(one, how) for one in files for how in ways(one)]:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(base, run)
        if _damage(run / file, how):
            seen[file, how] = _holds(command, run, file, how, whole)
    return seen


@pytest.mark.parametrize("until", [None, 2])
def test_a_damaged_study_is_right_or_refused(tmp_path, until, capsys):
    base, command = made(SETTINGS, tmp_path / "whole"), commands.report
    whole = _results(base)
    if until is not None:
        base, command = made(SETTINGS, tmp_path / "base", until), commands.resume
    seen = _every(base, command, lambda file: FEW if file in OUTPUTS else DAMAGE, whole)
    assert (".lock", "is half") in seen
    # What is measured and asked for is never repaired by guessing.
    for file in CHECKED:
        for how in ("has line ends CRLF", "has another digit", "lacks its second line", *FEW):
            assert seen[file, how] == "refused", (file, how)
    if until is None:
        assert seen["summary.json", "has another digit"] == "right"
        assert seen["report.html", "is a directory"] == "refused"


def test_a_damaged_checkpoint_is_right_or_refused(tmp_path, capsys):
    whole, base = _results(counted(tmp_path / "whole")), counted(tmp_path / "base", until=4)

    def ways(file):
        return FEW[:4] if file.startswith("checkpoints") and "process_0" not in file else ()

    seen = _every(base, counted, ways, whole)
    kinds = {Path(file): what for (file, how), what in seen.items() if how == "is half"}
    assert {what for file, what in kinds.items() if file.name == "metadata"} == {"refused"}
    assert {what for file, what in kinds.items() if file.name == "manifest.ocdbt"} == {"refused"}
    data = [what for (file, _), what in seen.items() if Path(file).parent.name == "d"]
    assert data and set(data) == {"refused"}


class Killed(BaseException):
    pass


def test_a_run_killed_at_any_moment_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch, capsys):
    """Killed before each of the calls that have something on disk."""
    whole, run = _results(made(stubs.Settings(), tmp_path / "whole")), tmp_path / "run"
    calls = []

    def dying(really):
        def call(*args):
            calls.append(really)
            if len(calls) == moment:
                raise Killed
            return really(*args)

        return call

    for moment in range(1, 100):
        shutil.rmtree(run, ignore_errors=True)
        calls.clear()
        with monkeypatch.context() as patched:
            for name in ("fsync", "replace", "truncate"):
                patched.setattr(f"os.{name}", dying(getattr(os, name)))
            try:
                made(stubs.Settings(), run)
                break
            except Killed:
                pass
        if not (run / "settings.json").exists():
            made(stubs.Settings(), run)
        commands.resume(run)
        assert _results(run) == whole, (moment, calls[-1])
    assert 20 < moment < 99


def test_without_a_journal_files_are_taken_as_they_are_if_they_can_be_read(tmp_path, capsys):
    """Folders of earlier versions, and changes that are meant."""
    run = made(SETTINGS, tmp_path / "run", until=2)
    path, journal = run / "metrics.jsonl", run / ".lock"
    first, second = path.read_bytes().splitlines(keepends=True)
    for text, line, why in (
        (first + b"garbage\n" + second, 2, "is not a measurement: Expecting value"),
        (first + b"[]\n", 2, "is not a measurement: expected an object in braces, found list"),
        (first + b'{"loss": NaN}\n', 2, "NaN is not JSON"),
        (first + b'{"loss": "\xff"}\n', 2, "it is not UTF-8"),
        (first.replace(b"\n", b"\r\n"), 1, "CRLF"),
        (first + b'{"seed": 1}\n', 2, "lacks stage"),
    ):
        journal.write_bytes(b"")
        path.write_bytes(text)
        with pytest.raises(RunError, match=why) as caught:
            commands.resume(run)
        assert f"{path}, line {line}" in str(caught.value)
        assert path.read_bytes() == text
    journal.unlink()
    path.write_bytes(second)
    commands.resume(run)
    with RunFolder(run) as folder:
        assert [one["stage"] for one in folder.metrics()] == ["fast", "slow", "still", "late"]
    # Killed while it was made, a journal is none.
    journal.unlink()
    RunFolder(run).close()
    raw = journal.read_bytes()
    for length in range(0, len(raw), 40):
        journal.write_bytes(raw[:length])
        RunFolder(run).close()
        assert journal.read_bytes() == raw


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
