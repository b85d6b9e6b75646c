"""A study: settings, stages that leave records, findings with verdicts, figures, a report.

A stage (an arm, a seed, a solver) is done whole or not at all; going on with an interrupted run
does the stages that are missing.
"""

import re
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nestax.levels import Nest, State
from nestax.plots import save
from nestax.runs import Picture, Progress, RunError, RunFolder, Watch, refusals
from nestax.runs.files import resuming
from nestax.runs.machine import machine

from . import page
from .figures import Sheet
from .log import Log
from .options import question
from .records import Record, Records, listed, read_back, refuse_repeated
from .summary import Findings, summarized


@dataclass(frozen=True)
class Desk:
    """What a stage works with.

    Attributes:
        say: shows a line of text while the stage runs.
        path: a folder of the stage's own, for what an interruption must not lose, such as the
            folder of a `Watch`; it need not exist, and is deleted when the stage is finished.
        done: records of the finished stages.
        loggers: what `Nest.run(..., watch=...)` is given beside a `Watch`, see `watch`.
    """

    say: Callable[[str], None]
    path: Path
    done: Records = field(default_factory=dict)
    loggers: Sequence[Any] = ()

    def watch(self, name: str = "", **options: Any) -> list[Any]:
        """What `Nest.run(..., watch=...)` is given, so that an interrupted stage goes on where it
        was, and its numbers reach the logger that the run was given (`nestax run --log`).

        Args:
            name: of the folder within `path`, where a stage has several runs.
            options: see `Watch`; no bar is shown unless asked for.
        """
        folder = self.path / plain("name of a watched run", name) if name else self.path
        return [Watch(folder, **{"progress": False, **options}), *self.loggers]


Stage = Callable[[Desk], Record]


@dataclass(frozen=True)
class Example:
    """A study's nest, for a look at its levels and flows.

    Attributes:
        nest: the program that the study runs, small.
        state: where to look.
        level: the level whose gradient the flows give; None if none has a flow.
        flows: name -> flow, to compare.
    """

    nest: Nest
    state: State
    level: str | None = None
    flows: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """An experiment in stages; `run` and `report` are what the command line calls.

    Attributes:
        title: of the report.
        lead: the question, and how it is asked.
        settings: a frozen dataclass, see `Options`; raises SettingsError.
        stages: settings -> name -> stage. A stage is given its desk and returns its `Record`.
        find: (settings, records) -> Findings; records hold the finished stages, by name.
        draw: (settings, records) -> figures, the most important one first; those with nothing drawn
            are left out.
        example: settings -> the nest it is about, with a state and flows to compare; None if there
            is no nest.
    """

    title: str
    lead: str
    settings: type
    stages: Callable[[Any], Mapping[str, Stage]]
    find: Callable[[Any, Records], Findings]
    draw: Callable[[Any, Records], Sequence[Sheet]]
    example: Callable[[Any], Example] | None = None

    def run(self, settings: Any, folder: RunFolder, log: Log | None = None) -> None:
        """Does the stages that the folder lacks.

        Args:
            settings: what to run.
            folder: where; it holds these settings.
            log: is told the numbers of every stage too.

        Raises:
            RunError: the folder cannot be written, a file of it was changed, or a loss is not
                finite. Finished stages stay.
            ValueError: a stage's name is not a file's, or JSON cannot hold its record.
        """
        done, stages = _records(folder), self.stages(settings)
        folders = {name: plain("name of a stage", name).replace(" ", "-") for name in stages}
        refuse_repeated("names of stages' folders", folders.values())
        facts = _facts(folder) or {"machine": machine(), "seconds": {}}
        with Progress(len(stages)) as progress:
            for number, (name, stage) in enumerate(stages.items()):
                if name in done:
                    continue

                def say(text: str, number: int = number, name: str = name) -> None:
                    progress.update(number, f"{name}  {text}")

                say("begins")
                began = time.monotonic()
                own = folder.path / "checkpoints" / folders[name]
                desk = Desk(say, own, dict(done), [log.of(name)] if log else [])
                try:
                    record = stage(desk)
                except FloatingPointError as error:
                    raise RunError(f"{name}: {error}") from error
                finally:  # an interrupted stage's time counts too
                    spent = facts["seconds"].get(name, 0) + time.monotonic() - began
                    facts["seconds"][name] = spent
                    folder.write_json("facts.json", facts)
                stored = _stored(name, record)
                folder.append(stored)
                done[name] = read_back(stored)
                shutil.rmtree(desk.path, ignore_errors=True)
                if log:
                    log.record(name, number, done[name])
                progress.note(f"{name}: {facts['seconds'][name]:.1f} s")
            progress.update(len(stages), "done")

    def perform(self, path: str | Path, settings: Any) -> dict[str, Any]:
        """Runs the study into a folder, or goes on with the run that is there, and writes its
        report: for programs; the command line does the same for the studies it knows. Warns where
        every stage was done before.

        Args:
            path: of the run's folder.
            settings: what to run.

        Raises:
            RunError: as `run`; or the folder holds another run.
        """
        path, name = Path(path), self.title.lower().replace(" ", "-")
        asked = listed(asdict(settings), None, "settings")  # as it comes back
        there = (path / "settings.json").exists()
        with RunFolder(path) if there else RunFolder.create(path, name, asked) as folder:
            if (folder.experiment, folder.settings) != (name, asked):
                raise RunError(f"{path} holds a run with other settings; name another folder")
            if set(self.stages(settings)) <= set(_records(folder)):
                warnings.warn(
                    f"{path} holds this run already: no stage was done again, whatever has changed "
                    "in the program; name another folder, or delete it, to do them anew",
                    stacklevel=2,
                )
            self.run(settings, folder)
            return self.report(settings, folder)

    def report(self, settings: Any, folder: RunFolder) -> dict[str, Any]:
        """Writes summary.json, figures/ and report.html; returns the summary.

        Raises:
            RunError: there is no measurement yet.
            ValueError: two figures of one name, or JSON cannot hold what was found.
        """
        records = _records(folder)
        if not records:
            hint = f"go on with: {resuming(folder.path)}"
            raise RunError(f"{folder.path} holds no measurement yet; {hint}")
        found, facts = self.find(settings, records), _facts(folder)
        complete = set(self.stages(settings)) <= set(records)
        summary = summarized(folder, question(self.settings), complete, found, facts)
        folder.write_json("summary.json", summary)
        sheets = [sheet for sheet in self.draw(settings, records) if sheet.drawn]
        refuse_repeated("names of figures", (plain("name of a figure", s.name) for s in sheets))
        with refusals(folder.path):
            directory, pictures = folder.path / "figures", []
            directory.mkdir(exist_ok=True)
            for sheet in sheets:
                path = directory / f"{sheet.name}.png"
                save(sheet.figure, path)
                pictures.append(Picture(path, sheet.caption, sheet.title))
            page.write(folder.path / "report.html", self.title, self.lead, summary, found, pictures)
        return summary


def plain(what: str, name: Any) -> str:
    """A name, if it can be a file's within a folder.

    Raises:
        ValueError: it cannot.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or re.search(r"[/\\\0]", name):
        raise ValueError(f"{what} must be able to name a file, without / and \\, got {name!r}")
    return name


def _stored(name: str, record: Any) -> Record:
    """A stage's record as the folder holds it."""
    if not isinstance(record, Mapping) or "stage" in record:
        got = f"keys {', '.join(map(str, record))}" if isinstance(record, Mapping) else record
        raise ValueError(
            f"stage {name!r} must return a mapping without the key 'stage', under which its own "
            f"name is stored; got {got!r:.80}"
        )
    return {"stage": name, **listed(record, None, f"stage {name!r}: record")}


def _facts(folder: RunFolder) -> dict[str, Any]:
    return folder.read_json("facts.json", "machine", "seconds")


def _records(folder: RunFolder) -> Records:
    """The finished stages, by name."""
    found = folder.metrics()
    if found and not any("stage" in record for record in found):
        raise RunError(
            f"{folder.path} was written by an earlier version of nestax, whose run folders were "
            "laid out otherwise; run the study again in another folder, or replace it with "
            "--overwrite"
        )
    return {str(record["stage"]): read_back(record) for record in folder.metrics("stage")}
