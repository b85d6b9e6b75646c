"""Every file of a run's folder damaged in every way: what is read is right, or refused by name."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from nestax.runs import RunError, RunFolder
from nestax_studies import commands, lab
from nestax_studies.registry import EXPERIMENTS, Experiment


@dataclasses.dataclass(frozen=True)
class Settings:
    """A study of nothing.

    Attributes:
        seeds: how many stages.
    """

    seeds: int = 4


def _stages(settings):
    return {
        f"seed {seed}": lambda desk, seed=seed: {"seed": seed, "losses": [seed / 3, 1 / (seed + 1)]}
        for seed in range(settings.seeds)
    }


def _find(settings, records):
    losses = {(name,): record for name, record in records.items()}
    numbers = lab.numbers(("stage",), losses, [lab.number("loss", lambda r: r["losses"])])
    held = len(losses) == settings.seeds
    return lab.Findings(numbers, [lab.Verdict("It works.", "all is here", str(len(losses)), held)])


STUDY = lab.Study("Nothing", "Nothing.", Settings, _stages, _find, lambda settings, records: [])
STATE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.int16(7)}


def _count(settings, folder, log=None):
    """A run with a state: five steps, a checkpoint after each but the last."""
    saved, state = folder.saved(), STATE
    if saved is not None:
        state = folder.restore(STATE)
    folder.rewind()
    for step in range(saved["step"] if saved else 0, 5):
        state = {"w": state["w"] * np.float32(1.5), "n": np.int16(state["n"] + 1)}
        folder.append({"step": step + 1, "sum": float(state["w"].sum()), "n": int(state["n"])})
        if step in settings.kept:
            folder.checkpoint(step + 1, state, {"step": step + 1})


def _tell(settings, folder):
    folder.write_json("summary.json", {"rows": folder.metrics("step", "sum")})
    return {"question": "", "complete": True, "answer": "", "claims": []}


@dataclasses.dataclass(frozen=True)
class Steps:
    """A count.

    Attributes:
        kept: steps after which a checkpoint is written.
    """

    kept: tuple[int, ...] = (2,)


@pytest.fixture(autouse=True)
def experiments(monkeypatch):
    study = Experiment("Nothing.", Settings, STUDY.run, STUDY.report)
    monkeypatch.setitem(EXPERIMENTS, "study", study)
    monkeypatch.setitem(EXPERIMENTS, "count", Experiment("A count.", Steps, _count, _tell))


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


def _damage(path, how):
    raw = path.read_bytes()
    change = DAMAGE[how]
    if change is None or change is Path.mkdir:
        path.unlink()
        if change is not None:
            path.mkdir()
        return True
    path.write_bytes(change(raw))
    return path.read_bytes() != raw


def _content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def _results(folder):
    summary = json.loads((folder / "summary.json").read_text())
    summary.pop("seconds", None)
    return (folder / "metrics.jsonl").read_bytes(), summary


def made(name, folder, until=None):
    """A finished folder of an experiment, or what is left if it is interrupted."""
    settings = EXPERIMENTS[name].settings()
    asked = json.loads(json.dumps(dataclasses.asdict(settings)))
    with RunFolder.create(folder, name, asked) as opened:
        if until is None:
            EXPERIMENTS[name].run(settings, opened)
            EXPERIMENTS[name].report(settings, opened)
            return
        append = opened.append

        def interrupted(*records):
            if len(opened.metrics()) == until:
                raise KeyboardInterrupt
            append(*records)

        opened.append = interrupted
        with pytest.raises(KeyboardInterrupt):
            EXPERIMENTS[name].run(settings, opened)


def _holds(command, folder, file, how, whole):
    """One damage, one command: the results of the whole run, or an error that names the file."""
    before = _content(folder)
    try:
        command(folder)
    except RunError as error:
        text = str(error)
        named = folder / file.split("/")[0]
        assert str(named) in text, f"{file} {how}: {text}"
        assert len(text) < 700 and "\n" not in text, text
        if file in CHECKED and "digit" in how:
            assert re.search(r", line \d+: not what the run wrote", text), text
        after = _content(folder)
        assert after == before, f"{file} {how}: {[k for k in after if after[k] != before.get(k)]}"
        return "refused"
    assert _results(folder) == whole, f"{file} {how}"
    return "right"


OUTPUTS = ("summary.json", "report.html", "figures/losses.txt")  # written anew by every report
CHECKED = ("metrics.jsonl", "settings.json", "facts.json")
FEW = ("is ''", "is half", "has another digit", "is missing", "is a directory")


def _every(base, run, command, files, ways, whole):
    """What becomes of each damage of each file: "right" or "refused"."""
    seen = {}
    for file, how in [(one, way) for one in files for way in ways(one)]:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(base, run)
        if _damage(run / file, how):
            seen[file, how] = _holds(command, run, file, how, whole)
    return seen


def _files(folder):
    return [file for file, raw in _content(folder).items() if raw is not None]


@pytest.mark.parametrize("until", [None, 2])
def test_a_damaged_study_is_right_or_refused(tmp_path, until, capsys):
    base, command = tmp_path / "whole", commands.report
    made("study", base)
    whole = _results(base)
    if until is not None:
        base, command = tmp_path / "base", commands.resume
        made("study", base, until)
    files = _files(base)
    assert {".lock", "settings.json", "facts.json", "metrics.jsonl"} <= set(files)
    ways = lambda file: FEW if file in OUTPUTS else DAMAGE  # noqa: E731
    seen = _every(base, tmp_path / "run", command, files, ways, whole)
    # What is measured and asked for is never repaired by guessing.
    for file in CHECKED:
        for how in ("has line ends CRLF", "has another digit", "lacks its second line", *FEW):
            assert seen[file, how] == "refused", (file, how)
    if until is None:
        assert seen["summary.json", "has another digit"] == "right"
        assert seen["report.html", "is a directory"] == "refused"


def test_a_damaged_checkpoint_is_right_or_refused(tmp_path, capsys):
    made("count", tmp_path / "whole")
    base = tmp_path / "base"
    made("count", base, until=4)
    files = [f for f in _files(base) if f.startswith("checkpoints") and "process_0" not in f]
    assert len(files) > 4
    whole = _results(tmp_path / "whole")
    seen = _every(base, tmp_path / "run", commands.resume, files, lambda file: FEW[:4], whole)
    kinds = {Path(file).name: what for (file, how), what in seen.items() if how == "is half"}
    assert kinds["metadata"] == kinds["manifest.ocdbt"] == "refused"
    data = [what for (file, _), what in seen.items() if Path(file).parent.name == "d"]
    assert data and set(data) == {"refused"}


class Killed(BaseException):
    pass


def test_a_run_killed_at_any_moment_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch, capsys):
    """Killed before each of the calls that have something on disk."""
    monkeypatch.setattr(Settings.__init__, "__defaults__", (2,))
    made("study", tmp_path / "whole")
    whole, run = _results(tmp_path / "whole"), tmp_path / "run"
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
                made("study", run)
                break
            except Killed:
                pass
        if not (run / "settings.json").exists():
            made("study", run)
        commands.resume(run)
        assert _results(run) == whole, (moment, calls[-1])
    assert 20 < moment < 99


def test_without_a_journal_files_are_taken_as_they_are_if_they_can_be_read(tmp_path):
    """Folders of earlier versions, and changes that are meant."""
    made("study", tmp_path / "run", until=2)
    path = tmp_path / "run" / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for text, line, why in (
        (lines[0] + b"garbage\n" + lines[1], 2, "is not a measurement: Expecting value"),
        (lines[0] + b"[]\n", 2, "is not a measurement: expected an object in braces, found list"),
        (lines[0] + b'{"loss": NaN}\n', 2, "NaN is not JSON"),
        (lines[0] + b'{"loss": "\xff"}\n', 2, "it is not UTF-8"),
        (lines[0].replace(b"\n", b"\r\n"), 1, "CRLF"),
        (lines[0] + b'{"seed": 1}\n', 2, "lacks stage"),
    ):
        (tmp_path / "run" / ".lock").write_bytes(b"")
        path.write_bytes(text)
        with pytest.raises(RunError, match=why) as caught:
            commands.resume(tmp_path / "run")
        assert f"{path}, line {line}" in str(caught.value)
        assert path.read_bytes() == text
    (tmp_path / "run" / ".lock").unlink()
    path.write_bytes(lines[1])
    commands.resume(tmp_path / "run")
    with RunFolder(tmp_path / "run") as folder:
        assert [one["seed"] for one in folder.metrics()] == [1, 0, 2, 3]
    # Killed while it was made, a journal is none.
    journal = tmp_path / "run" / ".lock"
    journal.unlink()
    RunFolder(tmp_path / "run").close()
    raw = journal.read_bytes()
    for length in range(0, len(raw), 40):
        journal.write_bytes(raw[:length])
        RunFolder(tmp_path / "run").close()
        assert journal.read_bytes() == raw


def test_a_checkpoint_counts_these_measurements_and_no_others(tmp_path):
    """Without a journal the checkpoint knows what it counts: nothing is cut within a line."""
    made("count", tmp_path / "run", until=4)
    path = tmp_path / "run" / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for kept in (lines[1:], lines[:2] + lines[3:], lines[:2]):
        (tmp_path / "run" / ".lock").unlink()
        path.write_bytes(b"".join(kept))
        with pytest.raises(RunError, match="its checkpoint counts") as caught:
            commands.resume(tmp_path / "run")
        assert str(path) in str(caught.value)
        assert path.read_bytes() == b"".join(kept)
