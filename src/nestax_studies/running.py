"""`nestax run`: where its settings come from, what it would do, and what it does."""

import contextlib
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from nestax.runs import RunError, RunFolder

from . import data, interrupts
from .cli import fail
from .lab import log as logs
from .lab import page
from .lab.options import presets
from .parsing import plain, shown
from .registry import EXPERIMENTS, STUDIES, Entry, Experiment

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
    given = _value(words, "--from")
    start = None if given is None else _settings_from(name, Path(given), _value(words, "--preset"))

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
        if dry_run:
            print("\n".join(_plan(name, experiment, made, out)))
            return
        if log:
            logs.check(log)
        asked = json.loads(json.dumps(dataclasses.asdict(made)))  # as it comes back
        if resume and (out / "settings.json").exists():
            with RunFolder(out) as folder:
                _is_the_same(name, asked, folder)
                finish(experiment, made, folder, log, open_, verbose)
        else:
            with RunFolder.create(out, name, asked, overwrite) as folder:
                finish(experiment, made, folder, log, open_, verbose)

    function.__doc__ = (
        f"{experiment.summary}\n\nArgs:\n"
        "    settings: What to run.\n"
        "    out: Folder of the run: settings, metrics, checkpoints, figures, report.\n"
        "    from_: Take the settings of this run, a folder or its settings.json; options given "
        "beside it go first.\n"
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


def _is_the_same(name: str, asked: dict[str, Any], folder: RunFolder) -> None:
    if (folder.experiment, folder.settings) != (name, asked):
        keys = {*asked, *folder.settings}
        different = sorted(k for k in keys if folder.settings.get(k) != asked.get(k))
        raise RunError(
            f"the run in {folder.path} has other settings ({', '.join(different) or name}); "
            f"go on with its own: nestax resume {folder.path}"
        )


# Settings of a run that there is


def settings_of(path: Path, name: str, values: dict[str, Any]) -> tuple[Experiment, Any]:
    """The study and the settings that a run's folder names.

    Raises:
        RunError: this version has no such study or setting.
    """
    if name not in STUDIES and name not in EXPERIMENTS:
        raise RunError(
            f"{path} is a run of {name!r}, which this version does not have; "
            f"it has: {', '.join(STUDIES)}"
        )
    experiment, path = EXPERIMENTS[name], path / "settings.json"
    known = {f.name for f in dataclasses.fields(experiment.settings)}
    if unknown := sorted(set(values) - known):
        raise RunError(f"{path} was made by another version: unknown {', '.join(unknown)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        return experiment, experiment.settings(**values)
    except (TypeError, ValueError) as error:
        raise RunError(f"{path}: {error}; put back what the run wrote") from None


def _settings_from(name: str, path: Path, preset: str | None) -> Any:
    """The settings of a run, of which those that its preset chose follow another preset."""
    path = path / "settings.json" if path.is_dir() else path
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        study, values = header["experiment"], dict(header["settings"])
    except FileNotFoundError:
        raise RunError(f"--from {path}: there is no such file; name a run's folder") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"--from {path}: these are not a run's settings") from None
    if study != name:
        raise RunError(f"--from {path}: a run of {study}; write: nestax run {study} --from {path}")
    experiment, settings = settings_of(path.parent, study, values)
    before = getattr(settings, "preset", None)
    if preset is None or preset == before:
        return settings
    kept = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    for field, by_preset in presets(experiment.settings).items():
        if preset in by_preset and before in by_preset and kept[field] == by_preset[before]:
            del kept[field]
    try:
        return experiment.settings(**kept | {"preset": preset})
    except (KeyError, ValueError):
        return settings  # the parser says which presets there are


def _value(words: list[str], flag: str) -> str | None:
    """The value of an option among words, the last one given."""
    found = None
    for at, word in enumerate(words):
        if word == flag and at + 1 < len(words):
            found = words[at + 1]
        elif word.startswith(f"{flag}="):
            found = word.partition("=")[2]
    return found


# What would be done


def _plan(name: str, experiment: Experiment, settings: Any, out: Path) -> list[str]:
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
    if holds := (out / "settings.json").exists():
        lines.append(
            f"folder: {out} holds a run; --resume goes on with it, --overwrite replaces it"
        )
    lines += [] if holds else [f"folder: {out}"]
    if entry is not None:
        usual = experiment.settings()
        other = [field for field, value in values.items() if value != getattr(usual, field)]
        text = f"about {entry.minutes} minutes on two cores with the default settings"
        lines.append(f"time: {text}{'; here differ: ' + ', '.join(other) if other else ''}")
    return [*lines, "Nothing was run or written."]


def _data(entry: Entry | None, values: dict[str, Any]) -> list[str]:
    """The data sets that settings name."""
    words = [
        v for value in values.values() for v in (value if isinstance(value, tuple) else [value])
    ]
    needs = {} if entry is None else entry.needs
    named = [needs.get(w, w) for w in words if isinstance(w, str)]
    found = list(dict.fromkeys(w for w in named if w in data.names()))
    return found or list(() if entry is None else entry.data)


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
    interrupted = f"interrupted, nothing is lost; go on with: nestax resume {folder.path}"
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
    print("\n".join(map(_printable, [*lines, f"report: {path}"])))
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


def _printable(text: str) -> str:
    """The text as this terminal's encoding can have it."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    for mark, plain_mark in page.PLAIN.items():
        try:
            mark.encode(encoding)
        except UnicodeEncodeError:
            text = text.replace(mark, plain_mark)
    return text
