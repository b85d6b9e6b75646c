"""Every file of a run's folder damaged in every way: what is read is right, or refused by name."""

import json
import re
import shutil
from pathlib import Path

from nestax.runs import RunError


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


def results(folder):
    """What was measured, and what is told of it but for the time."""
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
    assert results(folder) == whole, f"{file} {how}"
    return "right"


def every(base, command, ways, whole):
    """(file, how it was damaged) -> what becomes of it: "right" or "refused".

    Args:
        base: a run's folder.
        command: goes on with a run's folder, or reports it.
        ways: file -> the kinds of damage to try.
        whole: `results` of the run that was not damaged.
    """
    seen, run = {}, base.parent / "run"
    files = [file for file, raw in _content(base).items() if raw is not None]
    for file, how in [(one, how) for one in files for how in ways(one)]:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(base, run)
        if _damage(run / file, how):
            seen[file, how] = _holds(command, run, file, how, whole)
    return seen
