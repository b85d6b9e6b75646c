"""The command line `nestax`: its commands, their options and spelling.

This file imports no package, so that `nestax --version` and `nestax list` answer at once;
`commands` does the rest.
"""

import io
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple, NoReturn

from . import interrupts
from .registry import DATA, EXPERIMENTS, SHIPPED, STUDIES, Entry, imported
from .spelling import correction, last_value, options, unnamed


class Command(NamedTuple):
    """A command.

    Attributes:
        says: one line for the help.
        takes: what follows: "study", "run" (a folder), "runs", "data" or "shell"; nothing if empty.
        options: name -> default.
    """

    says: str
    takes: str = ""
    options: dict[str, Any] = {}  # noqa: RUF012  nobody changes it


_SHOW = {"log": None, "open": False, "verbose": False}
COMMANDS = {
    "run": Command(
        "Run a study and leave everything about it in a folder.",
        "study",
        {"out": "", "from": None, "resume": False, "overwrite": False, "dry_run": False, **_SHOW},
    ),
    "resume": Command("Go on with an interrupted run.", "run", _SHOW),
    "report": Command(
        "Rebuild a run's report; no training.", "run", {"open": False, "verbose": False}
    ),
    "compare": Command(
        "Compare the settings, measures and claims of runs.", "runs", {"out": None, "open": False}
    ),
    "list": Command("List the studies: question, rough minutes, data needed."),
    "levels": Command(
        "Show the levels of a study's nest: who is updated how often, who waits for whom.",
        "study",
        {"out": ""},
    ),
    "flows": Command(
        "Compare flows on a study's nest: bias, spread, time and memory of each.",
        "study",
        {"out": ""},
    ),
    "data": Command("Data sets: list them, show where they are, download them.", "data"),
    "doctor": Command("Show versions, devices and the data found; for bug reports."),
    "completion": Command("Print a script that completes commands, studies, options.", "shell"),
}
DATA_COMMANDS = {
    "list": "List the data sets, their sizes and whether they are here.",
    "path": "Print the folder in which a data set is, or would be put.",
    "fetch": "Download a data set into the user's cache and check it.",
}
LOGGERS = ("tensorboard", "wandb", "trackio")
SHELLS = ("bash", "zsh", "fish")
_TAKES = {
    "study": " STUDY",
    "run": " FOLDER",
    "runs": " FOLDER FOLDER...",
    "data": " COMMAND",
    "shell": " SHELL",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits 0, 1 (a run could not be done) or 2 (the command was not understood)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # signs that the terminal's encoding lacks
        sys.stdout.reconfigure(errors="replace")
    try:
        if given == ["--version"]:
            print(version("nestax"))
        elif given in ([], ["-h"], ["--help"]):
            _help(_top())
        elif wrong := _misspelt(given):
            fail(wrong, 2)
        elif help_ := _quick_help(given):
            _help(help_)
        elif given == ["list"]:
            print("\n".join(_listed()))
        elif given[0] == "completion":
            print(imported("completion").script(given[1]), end="")
        else:
            imported("commands").main(given)
    except ImportError as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("interrupted", interrupts.INTERRUPTED)


# Characters that control a terminal, but tab and line end: a run's files may come from anybody.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def fail(message: str, code: int) -> NoReturn:
    """Ends the command with a line on standard error."""
    print(f"nestax: {CONTROLS.sub('?', message)}", file=sys.stderr)
    raise SystemExit(code)


# What was meant


def _misspelt(given: list[str]) -> str | None:
    """What to write instead of a command, study, data set or option that does not exist."""
    command, words = given[0], given[1:]
    if command in STUDIES:
        return f"{command} is a study; did you mean: nestax run {shlex.join(given)}?"
    if command in ("--version", "--help", "-h"):
        meant = f"leave out {shlex.join(words)}"
        if command != "--version":
            meant = f"did you mean: nestax {shlex.join(words)} --help?"
        return f"nestax {command} stands alone; {meant}"
    if wrong := unnamed(COMMANDS, given[:1], "nestax"):
        return wrong
    if command not in COMMANDS:
        return f"nestax has no option {command}; a command comes first. All of them: nestax --help"
    takes, before = COMMANDS[command].takes, f"nestax {command}"
    if takes == "study":
        return _study_misspelt(command, words)
    known = {"data": DATA_COMMANDS, "shell": SHELLS}.get(takes, ())
    if wrong := unnamed(known, words[:1], before):
        return wrong
    if takes == "shell" and words[:1] not in ([shell] for shell in (*SHELLS, "-h", "--help")):
        return f"{before} needs the name of a shell, one of {', '.join(SHELLS)}"
    if takes == "data" and words[:1] in (["path"], ["fetch"]):
        if wrong := unnamed(DATA, words[1:2], f"{before} {words[0]}"):
            return wrong
        before = f"{before} {words[0]}"
    wrong = correction(COMMANDS[command].options, words, before, _elsewhere(command))
    rest = words[len(takes) > 0 :]
    if not wrong and takes in ("", "shell") and rest and not {"-h", "--help"} & set(words):
        return f"{before} takes nothing more; leave out {shlex.join(rest)}"
    return wrong


def _study_misspelt(command: str, words: list[str]) -> str | None:
    before, known = f"nestax {command}", [*STUDIES, *(n for n in EXPERIMENTS if n not in STUDIES)]
    if words[:1] and words[0].startswith("-") and not {"-h", "--help"} & set(words):
        study = next((word for word in words if word in known), "STUDY")
        rest = [word for word in words if word != study]
        return f"{before} needs the study first: {before} {study} {shlex.join(rest)}"
    if not words:
        one = known[0] if command == "run" else "maml"  # which has a nest, and flows
        return f"{before} needs the name of a study, such as: {before} {one}. All: nestax list"
    if words[0] not in known:
        return unnamed(known, words[:1], before)
    study = EXPERIMENTS[words[0]]
    if command != "run" and study.example is None:
        return f"{before} {words[0]}: this study has no nest"
    if command == "run" and last_value(words, "--from") is not None:
        return None  # `running` knows the defaults, which are that run's settings
    return misspelt_option(command, words)


def misspelt_option(
    command: str, words: Sequence[str], usual: Mapping[str, Any] | None = None
) -> str | None:
    """What to write instead of the first option of a study that is spelled wrong; None if all are
    right.

    Args:
        command: that takes a study.
        words: behind it; the first one is the study's name.
        usual: setting -> default, where it is not the study's own.
    """
    known = options(EXPERIMENTS[words[0]].settings, **COMMANDS[command].options) | dict(usual or {})
    return correction(known, words[1:], f"nestax {command} {words[0]}", _elsewhere(command))


def _elsewhere(command: str) -> dict[str, str]:
    """Option -> a command that has it, of the other commands."""
    others = {name: other for name, other in COMMANDS.items() if name != command}
    return {
        option: f"nestax {name}{_TAKES.get(other.takes, '')}"
        for name, other in reversed(others.items())
        for option in other.options
    }


# Help without packages


def _help(lines: Iterable[str]) -> NoReturn:
    print("\n".join(lines))
    raise SystemExit(0)


def _quick_help(given: list[str]) -> list[str]:
    """The help of commands whose help needs no package; of the others nothing."""
    command, asked = given[0], bool({"-h", "--help"} & set(given[1:]))
    takes = COMMANDS[command].takes
    says = [f"usage: nestax {command}{_TAKES.get(takes, '')}", "", COMMANDS[command].says, ""]
    if takes == "data" and (len(given) == 1 or (asked and given[1] not in DATA_COMMANDS)):
        return [*says, *_aligned(DATA_COMMANDS.items())]
    if not asked or len(given) > 2:
        return []
    if takes == "study":
        more = f"nestax {command} STUDY --help shows the options of a study."
        questions = [(name, entry.question) for name, entry in STUDIES.items()]
        return [*says, *_aligned(questions), "", more]
    if takes == "shell":
        return [*says, *textwrap.dedent(_COMPLETION).splitlines()]
    return [*says[:3], "", "-h, --help  show this"] if not takes else []


_COMPLETION = """
    bash: eval "$(nestax completion bash)"         in ~/.bashrc
    zsh:  eval "$(nestax completion zsh)"          in ~/.zshrc, after compinit
    fish: nestax completion fish | source          in ~/.config/fish/config.fish
"""


def _top() -> list[str]:
    lines = ["usage: nestax COMMAND ...", ""]
    lines += ["Nested learning in JAX: studies, their runs and reports.", ""]
    lines += _aligned((name, command.says) for name, command in COMMANDS.items())
    return [
        *lines,
        "",
        "nestax --version shows the version, nestax COMMAND --help a command's use.",
    ]


def _aligned(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Names, and what is said of them, in at most 80 columns."""
    rows = list(rows)
    wide = max(len(name) for name, _ in rows) + 4
    wrapped = [
        textwrap.wrap(text, 80, initial_indent=f"  {name:{wide - 2}}", subsequent_indent=" " * wide)
        for name, text in rows
    ]
    return [line for lines in wrapped for line in lines]


def _listed() -> list[str]:
    """The studies, those that need no download first, then by their time."""
    ready, others = {}, {}
    for name, entry in sorted(STUDIES.items(), key=lambda item: item[1].minutes):
        (ready if set(entry.data) <= set(SHIPPED) else others)[name] = entry
    last = "Minutes are rough: two cores, default settings. Data in brackets comes with nestax."
    return [
        "Studies that need no download",
        *_rows(ready),
        "",
        "Studies that download data when they are first run",
        *_rows(others),
        "",
        last,
        "nestax run STUDY --dry-run shows the settings and the data found.",
    ]


def _rows(entries: dict[str, Entry]) -> list[str]:
    lines, wide = [], min(100, max(60, shutil.get_terminal_size().columns))
    for name, entry in entries.items():
        data = ", ".join(f"({one})" if one in SHIPPED else one for one in entry.data) or "-"
        lines.append(f"  {name:18} {entry.minutes:4} min  {data}")
        lines += textwrap.wrap(
            entry.question, wide, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return lines
