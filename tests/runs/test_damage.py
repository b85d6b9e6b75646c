"""Every file of a run's folder damaged in every way: what is read is right, or refused by name."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from nestax import cli
from nestax.experiments import EXPERIMENTS, Experiment
from nestax.experiments.study import Findings, Study, Verdict
from nestax.runs import RunError, RunFolder, Table


@dataclasses.dataclass(frozen=True)
class Settings:
    """A study of nothing.

    Attributes:
        seeds: how many stages.
    """

    seeds: int = 4


def _stages(settings):
    return {
        f"seed {seed}": lambda say, seed=seed: {"seed": seed, "losses": [seed / 3, 1 / (seed + 1)]}
        for seed in range(settings.seeds)
    }


def _find(settings, records):
    losses = {name: record["losses"] for name, record in records.items()}
    verdict = Verdict("It works.", "all is here", str(len(losses)), len(losses) == settings.seeds)
    return Findings({"losses": losses}, Table(["stage"], [[name] for name in losses]), [verdict])


def _draw(settings, records, directory):
    (directory / "losses.txt").write_text(str(sorted(records)))
    return []


STUDY = Study("Nothing", "Nothing.", _stages, _find, _draw, lambda settings: None)
STATE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.int16(7)}


def _count(settings, folder):
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
    return []


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


def _open(name, folder):
    with RunFolder.create(folder, name, dataclasses.asdict(EXPERIMENTS[name].settings())) as opened:
        yield opened


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
        assert str(folder / file) in text, f"{file} {how}: {text}"
        assert len(text) < 700 and "\n" not in text, text
        after = _content(folder)
        assert after == before, f"{file} {how}: {[k for k in after if after[k] != before.get(k)]}"
        return "refused"
    assert _results(folder) == whole, f"{file} {how}"
    return "right"


@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_a_damaged_study_is_right_or_refused(tmp_path, state, capsys):
    made("study", tmp_path / "whole")
    whole, base = _results(tmp_path / "whole"), tmp_path / "whole"
    if state == "interrupted":
        base = tmp_path / "base"
        made("study", base, until=2)
    seen = {}
    for file in [f for f, raw in _content(base).items() if raw is not None]:
        for how in DAMAGE:
            commands = (cli.resume, cli.report) if state == "finished" else (cli.resume,)
            for command in commands:
                shutil.rmtree(tmp_path / "run", ignore_errors=True)
                shutil.copytree(base, tmp_path / "run")
                if _damage(tmp_path / "run" / file, how):
                    seen[file, how] = _holds(command, tmp_path / "run", file, how, whole)
    capsys.readouterr()
    # What is measured and asked for is never repaired by guessing.
    for file in ("metrics.jsonl", "settings.json", "facts.json"):
        for how in ("has line ends CRLF", "has another digit", "is missing", "is a directory"):
            assert seen[file, how] == "refused", (file, how)
    assert seen["metrics.jsonl", "lacks its second line"] == "refused"
    if state == "finished":
        assert {seen["report.html", how] for how in DAMAGE} == {"right", "refused"}
        assert seen["summary.json", "has another digit"] == "right"
