"""What the commands do, but for those that `cli` answers itself and `nestax run`, see `running`."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from nestax.levels import compare_flows
from nestax.runs import RunError, RunFolder, SettingsError, refusals
from nestax.runs.machine import machine, unused_gpu
from nestax.runs.place import holds_run

from . import data, running
from .cli import fail
from .parsing import parse, plain, shown
from .registry import EXPERIMENTS
from .running import Logger, Open, settings_of

DataName = Literal["digits", "mnist", "fashion-mnist", "omniglot", "tinyshakespeare", "wikitext2"]
_Folder = tyro.conf.Positional[Path]


def main(given: list[str]) -> None:
    """Does what the words say, which are known to be spelled right; see `cli.main`."""
    command, words, prog = given[0], given[1:], "nestax "
    try:
        if command in ("run", "levels", "flows"):
            make = running.command if command == "run" else _look
            function, length = make(command, words), 2
        elif command == "data":
            function, length = (
                {"list": data_list, "path": data_path, "fetch": data_fetch}[words[0]],
                2,
            )
        else:
            function, length = {
                "resume": resume, "report": report, "compare": compare, "doctor": doctor
            }[command], 1  # fmt: skip
        parse(function, given[length:], prog + " ".join(given[:length]))
    except SettingsError as error:
        fail(str(error), 2)
    except (RunError, data.DataError) as error:
        fail(". ".join([str(error), *getattr(error, "__notes__", ())]), 1)


def resume(
    folder: _Folder,
    log: Logger = None,
    open_: Open = False,
    verbose: bool = False,
) -> None:
    """Go on with an interrupted run; the measurements will be those of an uninterrupted one.

    Args:
        folder: Folder of the run.
        log: Hand the numbers of the run to this logger too.
        open_: Show the report in a browser when it is written.
        verbose: Print criteria and measurements of every claim.
    """
    with RunFolder(folder) as opened:
        experiment, settings = settings_of(
            opened.path / "settings.json", opened.experiment, opened.settings
        )
        running.finish(experiment, settings, opened, log, open_, verbose)


def report(
    folder: _Folder,
    open_: Open = False,
    verbose: bool = False,
) -> None:
    """Rebuild summary.json, the figures and report.html from what was measured; no training.

    Args:
        folder: Folder of the run.
        open_: Show the report in a browser.
        verbose: Print criteria and measurements of every claim.
    """
    with RunFolder(folder) as opened:
        experiment, settings = settings_of(
            opened.path / "settings.json", opened.experiment, opened.settings
        )
        running.tell(experiment, settings, opened, open_, verbose)


def compare(
    folders: tyro.conf.Positional[tuple[Path, ...]],
    out: Path | None = None,
    open_: Open = False,
) -> None:
    """Compare runs: the settings that differ, measures side by side, claims.

    Args:
        folders: Folders of runs, or their summary.json; two or more.
        out: Write the comparison as a page to this file too, NAME.html.
        open_: Show that page in a browser; it is compare.html beside the first run if no file is
            named.
    """
    from .lab import compared

    if out is not None:
        _is_a_page(out)
    found = compared.read(folders)
    running.say(compared.lines(found, running.width()))
    if open_ and out is None:
        out = found[0].path.parent / "compare.html"
    if out is not None:
        with refusals(out.parent):
            compared.write(out, found)
        print(f"page: {out}")
        if open_:
            running.browse(out)


def _is_a_page(out: Path) -> None:
    if out.suffix.lower() not in (".html", ".htm"):
        raise RunError(f"--out {out}: the comparison is a page; name a file that ends in .html")
    if holds_run(out.parent) and out.name != "compare.html":
        raise RunError(
            f"--out {out}: that folder holds a run; name a file outside of it, or compare.html"
        )


def _look(command: str, words: list[str]) -> Any:
    name, look = words[0], {"levels": _levels, "flows": _flows}[command]
    experiment, text = EXPERIMENTS[name], look.__doc__

    def function(settings: Any, out: Path = Path("runs")) -> None:
        assert experiment.example is not None
        with refusals(out):
            out.mkdir(parents=True, exist_ok=True)
        example = experiment.example(plain(experiment.settings, settings))
        print(f"picture: {look(name, example, out)}")

    function.__doc__ = (
        f"{text}\n\nArgs:\n    settings: What to look at.\n    out: Folder for the picture.\n"
    )
    kind = shown(experiment.settings)
    function.__annotations__["settings"] = Annotated[kind, tyro.conf.arg(name="")]
    return function


def _levels(name: str, example: Any, out: Path) -> Path:
    """Show the levels of a study's nest: who is updated how often, who waits for whom."""
    from nestax.plots import draw_levels

    table = example.nest.levels(example.state)
    print(table)
    return draw_levels(out / "levels.png", table, f"Levels of {name}").path


def _flows(name: str, example: Any, out: Path) -> Path:
    """Compare flows on a study's nest: bias, spread, time and memory of each."""
    from nestax.plots import draw_flows

    if not example.flows:
        raise RunError(f"the nest of {name} has no flow to compare")
    found = compare_flows(example.nest, example.state, example.flows, example.level)
    print(found)
    return draw_flows(out / "flows.png", found).path


def data_list() -> None:
    """List the data sets, their sizes and whether they are here."""
    for status in data.status():
        what = f"images of {'x'.join(map(str, status.image))}, {status.classes} classes"
        if not status.image:
            what = f"characters of {status.classes} kinds"
        print(
            f"{status.name:15} {status.train:7} + {status.test:5} {what}, {status.licence}\n"
            f"{'':15} {status.where or 'not here yet'}"
        )


def data_path(name: tyro.conf.Positional[DataName]) -> None:
    """Print the folder in which a data set is, or would be put.

    Args:
        name: Name of the data set.
    """
    print(data.locate(name))


def data_fetch(name: tyro.conf.Positional[DataName]) -> None:
    """Download a data set into the user's cache and check it.

    Args:
        name: Name of the data set.
    """
    print(data.fetch(name))


def doctor() -> None:
    """Show versions, devices and the data found; for bug reports."""
    for key, value in machine().items():
        told = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"{key:10} {', '.join(told) if isinstance(told, list) else told}")
    if gpu := unused_gpu():
        print(f"{'gpu':10} " + gpu.replace("\n", f"\n{'':10} "))
    print(f"{'NESTAX_DATA':10} {os.environ.get('NESTAX_DATA', 'not set')}")
    data_list()
