"""The command line: `nestax`."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from nestax import __version__
from nestax.levels import compare_flows
from nestax.runs import RunError, RunFolder, SettingsError, refusals
from nestax.runs.machine import machine

from . import data, interrupts
from .registry import EXPERIMENTS, Experiment
from .spelling import correction, options, unnamed
from .study import Example

_CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
DataName = Literal["digits", "mnist", "fashion-mnist", "omniglot", "tinyshakespeare", "wikitext2"]
_console = Console(highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits 0, 1 (a run could not be done) or 2 (the command was not understood)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _named(given)
        if given[:1] == ["run"]:
            _spelled(given, out=Path(), resume=False, overwrite=False)
            _parse({name: _run(name) for name in EXPERIMENTS}, given[1:], "nestax run", _RUN)
        elif given[:1] == ["data"]:
            _parse(
                {"list": data_list, "path": data_path, "fetch": data_fetch},
                given[1:],
                "nestax data",
                data_.__doc__,
            )
        elif given[:1] in (["levels"], ["flows"]):
            look, text = (_levels, _LEVELS) if given[0] == "levels" else (_flows, _FLOWS)
            commands = {name: look(name) for name, one in EXPERIMENTS.items() if one.example}
            _spelled(given, out=Path())
            _parse(commands, given[1:], f"nestax {given[0]}", text)
        elif given == ["--version"]:
            print(__version__)
        else:
            _parse(
                {
                    "run": run_,
                    "resume": resume,
                    "report": report,
                    "list": list_,
                    "levels": levels_,
                    "flows": flows_,
                    "data": data_,
                    "doctor": doctor,
                },
                given,
                "nestax",
                "Nested learning in JAX: experiments, their runs and reports.",
            )
    except SettingsError as error:
        _fail(str(error), 2)
    except (RunError, data.DataError, ImportError) as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted", interrupts.INTERRUPTED)


_RUN = "Run an experiment and leave everything about it in a folder."


_LEVELS = "Show the levels of an experiment's nest: who is updated how often, who waits for whom."
_FLOWS = "Compare flows on an experiment's nest: bias, spread, time and memory of each."


def _named(given: list[str]) -> None:
    """Refuses a command or an experiment that does not exist, in one line with the nearest one."""
    commands = ("run", "resume", "report", "list", "levels", "flows", "data", "doctor")
    with_example = [name for name, one in EXPERIMENTS.items() if one.example]
    parts = {
        "run": EXPERIMENTS,
        "levels": with_example,
        "flows": with_example,
        "data": ("list", "path", "fetch"),
    }
    for word, known, before in (
        (given[:1], commands, "nestax"),
        (given[1:2], parts.get("".join(given[:1]), ()), f"nestax {''.join(given[:1])}"),
    ):
        if known == with_example and word and word[0] in EXPERIMENTS and word[0] not in known:
            raise SettingsError(
                f"{before} {word[0]}: this experiment has no nest; {', '.join(known)} have one"
            )
        if wrong := unnamed(known, word, before):
            raise SettingsError(wrong)


def _spelled(given: list[str], **more: Any) -> None:
    """Refuses misspelled options of an experiment, in one line that has the right spelling."""
    if len(given) > 1 and given[1] in EXPERIMENTS:
        known = options(EXPERIMENTS[given[1]].settings, **more)
        if wrong := correction(known, given[2:], " ".join(["nestax", *given[:2]])):
            raise SettingsError(wrong)


def _parse(
    commands: dict[str, Callable[..., Any]], given: list[str], prog: str, text: str | None
) -> None:
    registry = _comma_separated()
    with registry:
        tyro.extras.subcommand_cli_from_dict(
            commands, args=given, prog=prog, description=text or "", config=_CONFIG
        )


def _comma_separated() -> tyro.constructors.ConstructorRegistry:
    """Lists are written 12,10,8 on this command line."""
    registry = tyro.constructors.ConstructorRegistry()

    def make(kind: type, metavar: str) -> Any:
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar=metavar,
            instance_from_str=lambda args: tuple(
                kind(part.strip()) for part in args[0].split(",") if part.strip()
            ),
            is_instance=lambda x: isinstance(x, tuple),
            str_from_instance=lambda x: [",".join(map(str, x))],
        )

    @registry.primitive_rule
    def _(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
        if info.type == tuple[str, ...]:
            return make(str, "A,B,...")
        if info.type == tuple[int, ...]:
            return make(int, "N,N,...")
        return None

    return registry


def run_() -> None:
    """Run an experiment: nestax run EXPERIMENT [--out DIR]."""
    _parse({name: _run(name) for name in EXPERIMENTS}, ["--help"], "nestax run", _RUN)


def _run(name: str) -> Callable[..., None]:
    experiment = EXPERIMENTS[name]

    def command(
        settings: Any,
        out: Path = Path("runs") / name,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        if resume and overwrite:
            _fail(
                "--resume goes on with the run in the folder and --overwrite deletes it; give one",
                2,
            )
        asked = json.loads(json.dumps(dataclasses.asdict(settings)))  # as it comes back
        if resume and (out / "settings.json").exists():
            with RunFolder(out) as folder:
                if (folder.experiment, folder.settings) != (name, asked):
                    keys = {*asked, *folder.settings}
                    different = sorted(k for k in keys if folder.settings.get(k) != asked.get(k))
                    raise RunError(
                        f"the run in {out} has other settings ({', '.join(different) or name}); "
                        f"go on with its own: nestax resume {out}"
                    )
                _finish(experiment, settings, folder)
        else:
            with RunFolder.create(out, name, asked, overwrite) as folder:
                _finish(experiment, settings, folder)

    command.__doc__ = (
        f"{experiment.summary}\n\nArgs:\n"
        "    settings: What to run.\n"
        "    out: Folder of the run: settings, metrics, checkpoints, figures, report.\n"
        "    resume: Go on with the run in that folder, or start it.\n"
        "    overwrite: Replace the run in that folder.\n"
    )
    command.__annotations__["settings"] = Annotated[experiment.settings, tyro.conf.arg(name="")]
    return command


def levels_() -> None:
    """Show the levels of an experiment's nest: nestax levels EXPERIMENT."""
    main(["levels", "--help"])


def flows_() -> None:
    """Compare flows on an experiment's nest: nestax flows EXPERIMENT."""
    main(["flows", "--help"])


def _levels(name: str) -> Callable[..., None]:
    def show(example: Example, out: Path) -> Path:
        from nestax.plots import draw_levels

        table = example.nest.levels(example.state)
        print(table)
        return draw_levels(out / "levels.png", table, f"Levels of {name}").path

    return _look(name, show, _LEVELS)


def _flows(name: str) -> Callable[..., None]:
    def show(example: Example, out: Path) -> Path:
        from nestax.plots import draw_flows

        if not example.flows:
            raise RunError(f"the nest of {name} has no flow to compare")
        found = compare_flows(example.nest, example.state, example.flows, example.level)
        print(found)
        return draw_flows(out / "flows.png", found).path

    return _look(name, show, _FLOWS)


def _look(name: str, show: Callable[[Example, Path], Path], text: str) -> Callable[..., None]:
    experiment = EXPERIMENTS[name]

    def command(settings: Any, out: Path = Path("runs")) -> None:
        assert experiment.example is not None
        with refusals(out):
            out.mkdir(parents=True, exist_ok=True)
        print(f"picture: {show(experiment.example(settings), out)}")

    command.__doc__ = (
        f"{text}\n\nArgs:\n    settings: What to look at.\n    out: Folder for the picture.\n"
    )
    command.__annotations__["settings"] = Annotated[experiment.settings, tyro.conf.arg(name="")]
    return command


def resume(folder: tyro.conf.Positional[Path]) -> None:
    """Go on with an interrupted run; the measurements will be those of an uninterrupted one.

    Args:
        folder: Folder of the run.
    """
    with RunFolder(folder) as opened:
        experiment, settings = _settings(opened)
        _finish(experiment, settings, opened)


def report(folder: tyro.conf.Positional[Path]) -> None:
    """Rebuild summary.json, the figures and report.html from what was measured; no training.

    Args:
        folder: Folder of the run.
    """
    with RunFolder(folder) as opened:
        experiment, settings = _settings(opened)
        _report(experiment, settings, opened)


def list_() -> None:
    """List the experiments."""
    for name, experiment in EXPERIMENTS.items():
        _console.print(f"{name}\n    {experiment.summary}", markup=False)


def data_() -> None:
    """Data sets: list them, show where they are, download them."""
    _parse(
        {"list": data_list, "path": data_path, "fetch": data_fetch},
        ["--help"],
        "nestax data",
        data_.__doc__,
    )


def data_list() -> None:
    """List the data sets, their sizes and whether they are here."""
    for status in data.status():
        what = f"images of {'x'.join(map(str, status.image))}, {status.classes} classes"
        if not status.image:
            what = f"characters of {status.classes} kinds"
        _console.print(
            f"{status.name:15} {status.train:7} + {status.test:5} {what}, {status.licence}\n"
            f"{'':15} {status.where or 'not here yet'}",
            markup=False,
        )


def data_path(
    name: tyro.conf.Positional[DataName],
) -> None:
    """Print the folder in which a data set is, or would be put.

    Args:
        name: Name of the data set.
    """
    print(data.locate(name))


def data_fetch(
    name: tyro.conf.Positional[DataName],
) -> None:
    """Download a data set into the user's cache and check it.

    Args:
        name: Name of the data set.
    """
    print(data.fetch(name))


def doctor() -> None:
    """Show versions, devices and the data found; for bug reports."""
    for key, value in machine().items():
        shown = (
            ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        )
        _console.print(
            f"{key:10} {', '.join(shown) if isinstance(shown, list) else shown}", markup=False
        )
    _console.print(f"{'NESTAX_DATA':10} {os.environ.get('NESTAX_DATA', 'not set')}", markup=False)
    data_list()


def _settings(folder: RunFolder) -> tuple[Experiment, Any]:
    if folder.experiment not in EXPERIMENTS:
        raise RunError(
            f"{folder.path} is a run of {folder.experiment!r}, which this version does not have; "
            f"it has: {', '.join(EXPERIMENTS)}"
        )
    experiment = EXPERIMENTS[folder.experiment]
    known = {f.name for f in dataclasses.fields(experiment.settings)}
    path = folder.path / "settings.json"
    if unknown := sorted(set(folder.settings) - known):
        raise RunError(f"{path} was made by another version: unknown {', '.join(unknown)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in folder.settings.items()}
    try:
        return experiment, experiment.settings(**values)
    except (TypeError, ValueError) as error:
        raise RunError(f"{path}: {error}; put back what the run wrote") from None


def _finish(experiment: Experiment, settings: Any, folder: RunFolder) -> None:
    interrupted = f"interrupted, nothing is lost; go on with: nestax resume {folder.path}"
    interrupts.says(interrupted)
    try:
        experiment.run(settings, folder)
    except KeyboardInterrupt:
        _fail(interrupted, interrupts.INTERRUPTED)
    _report(experiment, settings, folder)


def _report(experiment: Experiment, settings: Any, folder: RunFolder) -> None:
    for line in experiment.report(settings, folder):
        _console.print(line, markup=False)
    _console.print(f"report: {folder.path / 'report.html'}", markup=False)


def _fail(message: str, code: int) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"nestax: {message}", markup=False)
    raise SystemExit(code)
