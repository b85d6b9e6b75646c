"""Every file of a run's folder damaged in every way: what is read is right, or refused by name."""

import dataclasses
import itertools
import json
import os
import shutil

import pytest
from references.damage import CHECKED, DAMAGE, FEW, every, results
from studies import stubs

from nestax.runs import RunError, RunFolder
from nestax_studies import commands
from nestax_studies.registry import EXPERIMENTS, Experiment

STUDY = dataclasses.replace(stubs.STUDY, draw=lambda settings, records: [])
OUTPUTS = ("summary.json", "report.html")  # written anew by every report
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


@pytest.mark.parametrize("until", [None, 2])
def test_a_damaged_study_is_right_or_refused(tmp_path, until, capsys):
    base, command = made(SETTINGS, tmp_path / "whole"), commands.report
    whole = results(base)
    if until is not None:
        base, command = made(SETTINGS, tmp_path / "base", until), commands.resume
    seen = every(base, command, lambda file: FEW if file in OUTPUTS else DAMAGE, whole)
    assert (".lock", "is half") in seen
    # What is measured and asked for is never repaired by guessing.
    for file in CHECKED:
        for how in ("has line ends CRLF", "has another digit", "lacks its second line", *FEW):
            assert seen[file, how] == "refused", (file, how)
    if until is None:
        assert seen["summary.json", "has another digit"] == "right"
        assert seen["report.html", "is a directory"] == "refused"


class Killed(BaseException):
    pass


def test_a_run_killed_at_any_moment_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch, capsys):
    """Killed before each of the calls that have something on disk."""
    whole, run = results(made(stubs.Settings(), tmp_path / "whole")), tmp_path / "run"
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
        assert results(run) == whole, (moment, calls[-1])
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
