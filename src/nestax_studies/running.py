"""`nestax run`: where its settings come from, what it would do, and what it does."""

import contextlib
import dataclasses
import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from nestax.runs import RunError, RunFolder
from nestax.runs.files import resuming
from nestax.runs.place import vacant

from . import data, interrupts
from .cli import CONTROLS, fail, misspelt_option
from .lab import log as logs
from .lab import page
from .lab.options import presets
from .parsing import plain, shown
from .registry import EXPERIMENTS, STUDIES, Entry, Experiment
from .spelling import last_value

Open = Annotated[bool, tyro.conf.arg(name="open")]
Logger = Annotated[
    Literal["tensorboard", "wandb", "trackio"] | None,
    tyro.conf.arg(metavar="{tensorboard,wandb,trackio}", help_behavior_hint="(default: none)"),
]
_From = Annotated[
    Path | None, tyro.conf.arg(name="from", metavar="RUN", help_behavior_hint="(default: none)")
]


def command(_: str, words: list[str]) -> Callable[..., None]:
    """The function behind `nestax run STUDY`.

    Args:
        words: behind `nestax run`.
    """
    name = words[0]
    experiment = EXPERIMENTS[name]
    given, start = last_value(words, "--from"), None
    if given is not None:
        start = _settings_from(name, Path(given), last_value(words, "--preset") is not None)
        if wrong := misspelt_option("run", words, vars(start)):
            fail(wrong, 2)

    def function(
        settings: Any,
        out: Path = Path("runs") / name,
        from_: _From = None,
        resume: bool = False,
        overwrite: bool = False,
        dry_run: bool = False,
        log: Logger = None,
        open_: Open = False,
        verbose: bool = False,
    ) -> None:
        made = plain(experiment.settings, settings)
        if resume and overwrite:
            fail(
                "--resume goes on with the run in the folder and --overwrite deletes it; give one",
                2,
            )
        if log:
            logs.check(log)
        asked = json.loads(json.dumps(dataclasses.asdict(made)))  # as it comes back
        if dry_run:
            say(_plan(name, experiment, made))
            say([_place(name, asked, out, resume, overwrite), "Nothing was run or written."])
            return
        if resume and (out / "settings.json").exists():
            with RunFolder(out) as folder:
                _is_the_same(name, asked, out, (folder.experiment, folder.settings))
                finish(experiment, made, folder, log, open_, verbose)
        else:
            with RunFolder.create(out, name, asked, overwrite) as folder:
                finish(experiment, made, folder, log, open_, verbose)

    function.__doc__ = (
        f"{experiment.summary}\n\nArgs:\n"
        "    settings: What to run.\n"
        "    out: Folder of the run: settings, metrics, checkpoints, figures, report.\n"
        "    from_: Take the settings of this run, a folder or its settings.json; options given "
        "beside it go first, and --preset says again all that has presets.\n"
        "    resume: Go on with the run in that folder, or start it.\n"
        "    overwrite: Replace the run in that folder.\n"
        "    dry_run: Show settings, data and rough time; run and write nothing.\n"
        "    log: Hand the numbers of the run to this logger too.\n"
        "    open_: Show the report in a browser when it is written.\n"
        "    verbose: Print criteria and measurements of every claim.\n"
    )
    if start is None:
        kind, told = shown(experiment.settings), tyro.conf.arg(name="")
    else:
        kind, told = experiment.settings, tyro.conf.arg(name="", default=start)
    function.__annotations__["settings"] = Annotated[kind, told]
    return function


def _is_the_same(name: str, asked: dict[str, Any], path: Path, header: tuple[str, Any]) -> None:
    if header != (name, asked):
        keys = {*asked, *header[1]}
        different = sorted(k for k in keys if header[1].get(k) != asked.get(k))
        raise RunError(
            f"the run in {path} has other settings ({', '.join(different) or name}); "
            f"go on with its own: {resuming(path)}"
        )


# Settings of a run that there is


def settings_of(path: Path, name: str, values: dict[str, Any]) -> tuple[Experiment, Any]:
    """The study and the settings that the settings.json of a run names.

    Raises:
        RunError: this version has no such study or setting, or the file lacks one.
    """
    if name not in STUDIES and name not in EXPERIMENTS:
        raise RunError(
            f"{path} is a run of {name!r}, which this version does not have; "
            f"it has: {', '.join(STUDIES)}. A study of your own is reported, and goes on, where it "
            "is defined: by its `perform`, into this folder"
        )
    experiment = EXPERIMENTS[name]
    known = {f.name for f in dataclasses.fields(experiment.settings)}
    if unknown := sorted(set(values) - known):
        raise RunError(f"{path} was made by another version: unknown {', '.join(unknown)}")
    try:
        made = experiment.settings(**values)
    except (TypeError, ValueError) as error:
        raise RunError(f"{path}: {error}; put back what the run wrote") from None
    left_open = {k for k in values if values[k] is None and getattr(made, k) is not None}
    if lacking := sorted(known - set(values) | left_open):
        raise RunError(
            f"{path} does not say {', '.join(lacking)}; put back what the run wrote, or add them"
        )
    return experiment, made


def _header(path: Path, words: str) -> tuple[str, dict[str, Any]]:
    """A run's study and settings, as they are stored; `words` begin the errors."""
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        study, values = header["experiment"], header["settings"]
    except FileNotFoundError:
        raise RunError(f"{words}: there is no such file; name a run's folder") from None
    except (OSError, ValueError, KeyError, TypeError):
        study, values = None, None
    if not isinstance(study, str) or not isinstance(values, dict):
        raise RunError(f"{words}: these are not a run's settings")
    return study, values


def _settings_from(name: str, path: Path, by_preset: bool) -> Any:
    """The settings of a run. Those that have presets are left open if a preset is to say them."""
    path = path / "settings.json" if path.is_dir() else path
    study, values = _header(path, f"--from {path}")
    if study != name:
        also = f"nestax run {study} --from {shlex.quote(str(path))}"
        raise RunError(f"--from {path}: a run of {study}; write: {also}")
    experiment, settings = settings_of(path, study, values)
    start, usual = object.__new__(experiment.settings), presets(experiment.settings)
    for field in dataclasses.fields(settings):
        is_open = by_preset and field.name in usual
        value = field.default if is_open else getattr(settings, field.name)
        object.__setattr__(start, field.name, value)
    return start


# What would be done


def _plan(name: str, experiment: Experiment, settings: Any) -> list[str]:
    """Settings, data and rough time of a run."""
    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    wide = max(map(len, values))
    lines = [f"nestax run {name} would run with"]
    for field, value in values.items():
        lines += page.hung(f"  {field:{wide}}  ", page.shown(value), width())
    entry = STUDIES.get(name)
    needed = _data(entry, values)
    lines += [] if needed else ["data: none needed"]
    for one in needed:
        known = data.describe(one)
        lines.append(f"data: {one}, {known.where or 'not here yet; it would be downloaded'}")
    if entry is not None:
        usual = experiment.settings()
        other = [field for field, value in values.items() if value != getattr(usual, field)]
        text = f"about {entry.minutes} minutes on two cores with the default settings"
        lines.append(f"time: {text}{'; here differ: ' + ', '.join(other) if other else ''}")
    return lines


def _place(name: str, asked: dict[str, Any], out: Path, resume: bool, overwrite: bool) -> str:
    """What would become of a run's folder.

    Raises:
        RunError: the run would be refused.
    """
    vacant(out)
    there = next(one for one in (out, *out.absolute().parents) if one.exists())
    try:  # nothing else tells whether a folder can be written to
        tempfile.TemporaryDirectory(dir=there).cleanup()
    except OSError as error:
        raise RunError(f"cannot write to {there}: {error.strerror}; name another folder") from None
    file = out / "settings.json"
    if not file.exists():
        return f"folder: {out}"
    if resume:
        _is_the_same(name, asked, out, _header(file, str(file)))
    then = "--resume goes on with it, --overwrite replaces it"
    then = "it would go on" if resume else "it would be replaced" if overwrite else then
    return f"folder: {out} holds a run; {then}"


def _data(entry: Entry | None, values: dict[str, Any]) -> list[str]:
    """The data sets that settings name."""
    needs = {} if entry is None else entry.needs
    given = [value for name, value in values.items() if name not in needs.values()]
    words = [w for value in given for w in (value if isinstance(value, tuple) else [value])]
    named = [needs.get(w, w) for w in words if isinstance(w, str)]
    found = list(dict.fromkeys(values.get(w, w) for w in named if values.get(w, w) in data.names()))
    return found or list(() if entry is None or needs else entry.data)


# Doing it


def finish(
    experiment: Experiment,
    settings: Any,
    folder: RunFolder,
    log: str | None = None,
    browse: bool = False,
    verbose: bool = False,
) -> None:
    """Does what a run lacks, and writes its report."""
    interrupted = f"interrupted, nothing is lost; go on with: {resuming(folder.path)}"
    interrupts.says(interrupted)
    try:
        with logs.opened(log, folder) if log else contextlib.nullcontext() as logger:
            experiment.run(settings, folder, logger)
    except KeyboardInterrupt:
        fail(interrupted, interrupts.INTERRUPTED)
    tell(experiment, settings, folder, browse, verbose)


def tell(
    experiment: Experiment,
    settings: Any,
    folder: RunFolder,
    browse_: bool = False,
    verbose: bool = False,
) -> None:
    """Writes a run's report, and prints what it found."""
    lines = page.lines(experiment.report(settings, folder), verbose, width())
    path = folder.path / "report.html"
    say([*lines, f"report: {path}"])
    if browse_:
        browse(path)


def browse(path: Path) -> None:
    """Shows a page in the user's browser; says where it is if there is none."""
    import webbrowser

    if not webbrowser.open(path.resolve().as_uri()):
        print(f"no browser was found; open {path}")


def width() -> int:
    """Columns of text to print in."""
    return min(100, max(60, shutil.get_terminal_size((80, 24)).columns))


def say(lines: Iterable[str]) -> None:
    """Prints lines."""
    print("\n".join(map(_printable, lines)))


def _printable(text: str) -> str:
    """The text as this terminal's encoding can have it, which controls nothing."""
    text = CONTROLS.sub("?", text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    for mark, plain_mark in page.PLAIN.items():
        try:
            mark.encode(encoding)
        except UnicodeEncodeError:
            text = text.replace(mark, plain_mark)
    return text
