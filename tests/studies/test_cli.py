"""The commands: what they print and refuse, what they cost, that their help can be read."""

import dataclasses
import inspect
import io
import json
import subprocess
import sys
import types

import jax
import pytest
from studies import stubs

from nestax import __version__
from nestax.runs import RunFolder, machine
from nestax_studies import cli, commands, completion, data, registry, running
from nestax_studies.registry import EXPERIMENTS, STUDIES, Experiment
from nestax_studies.spelling import options


@pytest.fixture
def nestax(capsys):
    """The command line: words -> exit code, output, errors."""

    def run(words):
        code = 0
        try:
            cli.main(words.split() if isinstance(words, str) else words)
        except SystemExit as stopped:
            code = stopped.code
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """The study of stubs, known to the command line, whose runs lie in this folder."""
    study = stubs.STUDY
    known = Experiment("Stubs.", stubs.Settings, study.run, study.report, study.example)
    monkeypatch.setitem(EXPERIMENTS, "stub", known)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def completed():
    """What may follow which words, which takes half a second to find."""
    return completion.words()


# What it costs

COST = """
import sys, time
before = set(sys.modules)
from nestax_studies import cli
try:
    cli.main()
except SystemExit:
    pass
brought = {name.partition(".")[0] for name in set(sys.modules) - before}
heavy = brought - set(sys.stdlib_module_names) - {"nestax_studies"}
print(sorted(heavy), time.process_time(), file=sys.stderr)
"""


@pytest.mark.parametrize("words", ["--version", "list", "--help", "completion bash"])
def test_quick_commands_import_no_package(words):
    command = [sys.executable, "-c", COST, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    heavy, seconds = done.stderr.rsplit(" ", 1)
    assert heavy == "[]" and done.stdout
    assert float(seconds) < 0.5  # of the processor: other processes may share it


# The table of studies


@pytest.mark.parametrize("name", STUDIES)
def test_the_table_of_studies_says_what_their_modules_say(name, completed):
    entry, study = STUDIES[name], EXPERIMENTS[name]
    asked = study.settings.__doc__.strip().partition("\n")[0]
    assert asked.partition("?")[0] == entry.question.partition("?")[0] and entry.minutes > 0
    named = {field.name for field in dataclasses.fields(study.settings)}
    assert set(entry.data) | set(entry.needs.values()) - named <= set(data.names())
    assert registry.imported(entry.module).STUDY.title and study.run and study.report
    known = options(study.settings, **cli.COMMANDS["run"].options)
    flags = {f"--{'no-' * (v is True)}{n.replace('_', '-')}" for n, v in known.items()}
    assert {*flags, "--help"} == set(completed[f"run {name}"])
    values = {f.name: getattr(study.settings(), f.name) for f in dataclasses.fields(study.settings)}
    assert set(running._data(entry, values)) <= {*entry.data} or not entry.data
    assert bool(running._data(entry, values)) == bool(entry.data)


def test_names_that_are_written_twice_agree():
    assert data.names() == cli.DATA
    shipped = {s.name for s in data.status() if s.source and s.name == "digits"}
    assert set(registry.SHIPPED) == shipped
    for name in ("resume", "report", "compare", "doctor"):
        parameters = list(inspect.signature(getattr(commands, name)).parameters.values())
        options_ = {p.name.rstrip("_"): p.default for p in parameters if p.default is not p.empty}
        assert options_ == cli.COMMANDS[name].options
    made = inspect.signature(running.command("run", ["recall"])).parameters
    assert [name.rstrip("_") for name in made][1:] == list(cli.COMMANDS["run"].options)


def test_list_has_offline_studies_first_and_says_what_they_need(nestax):
    ready, others = nestax("list")[1].split("Studies that download")
    rows = {line.split()[0]: line for line in others.splitlines() if " min " in line}
    assert "mnist" in rows["cleaning"] and "min" in rows["cleaning"]
    assert set(rows) == {n for n, e in STUDIES.items() if set(e.data) - {"digits"}}
    assert all(name in ready for name in set(STUDIES) - set(rows))
    assert "Minutes are rough" in others
    assert all(len(line) <= 100 for line in (ready + others).splitlines())


# Help and what is not understood

HELP = {
    "--help": list(cli.COMMANDS),
    "run --help": list(STUDIES),
    "run information-plane --help": ["--arms", "--widths", "--tune", "--out", "log-spaced"],
    "run stub --help": ["(small 10, full 100)", "--steps INT", "--dry-run", "--from RUN"],
    "report --help": ["no training", "--verbose"],
    "compare --help": ["side by side", "--out"],
    "data": ["list", "path", "fetch"],
    "data fetch --help": ["fashion-mnist"],
    "completion --help": ["~/.bashrc", "compinit", "fish"],
}


@pytest.mark.parametrize("words", HELP)
def test_help_names_what_there_is(words, nestax, stub):
    code, out, _ = nestax(words)
    assert code == 0 and all(word in out for word in HELP[words])
    assert words != "run stub --help" or "default: None" not in out


MEANT = {
    # Switches and lists
    "run information-plane --tune True": "--tune takes no value; write --tune instead of",
    "run information-plane --tune False": "tune is off by default; leave out --tune",
    "run information-plane --no-tune": "tune is off by default; leave out --no-tune",
    "run maml --tune False": "write --no-tune instead of --tune False",
    "run maml --tune": "tune is on by default; leave out --tune",
    "run maml --no-tune maybe": "--no-tune takes no value, and got maybe",
    "run maml --overwrite yes": "write --overwrite instead of",
    "run maml --arms joint implicit": "write --arms joint,implicit instead of --arms joint impl",
    "run maml --arms joint, implicit": "write --arms joint,implicit instead of --arms joint, impl",
    "run maml --arms=joint, implicit --seeds 3": "write --arms joint,implicit instead of",
    "run information-plane --widths [12,10]": "write --widths 12,10 instead of",
    # Names
    "run information-plane --seed 3": "has no option --seed; did you mean --seeds?",
    "run maml --learning-rate 3": "has no option --learning-rate. All options: nestax run maml",
    "rn": "nestax rn: nothing has that name; did you mean: nestax run?",
    "fly": "nestax fly: nothing has that name; there are: run",
    "maml --seeds 3": "maml is a study; did you mean: nestax run maml --seeds 3?",
    "--seeds 3 run maml": "a command comes first",
    "run": "needs the name of a study",
    "run implicit-bais": "did you mean: nestax run implicit-bias?",
    "run Implicit_Bias": "did you mean: nestax run implicit-bias?",
    "run --seeds 3 maml": "the study first: nestax run maml --seeds 3",
    "data lst": "did you mean: nestax data list?",
    "data fetch mnst": "did you mean: nestax data fetch mnist?",
    "data fetch mnist --forse": "nestax data fetch has no option --forse",
    "flows zzz": "nestax flows zzz: nothing has that name; there are: ",
    "levels information-plane": "this study has no nest",
    "compare a b --ouut c": "did you mean --out? All options: nestax compare --help",
    "report a --resume": "it is an option of: nestax run STUDY. All options: nestax report",
    "resume a --tune": "nestax resume has no option --tune",
    "list --all": "nestax list has no option --all",
    "completion": "one of bash, zsh, fish",
    "list extra": "nestax list takes nothing more; leave out extra",
    "list -x": "nestax list takes nothing more; leave out -x",
    "doctor much": "nestax doctor takes nothing more; leave out much",
    "completion bash zsh": "nestax completion takes nothing more; leave out zsh",
    "--version x": "nestax --version stands alone; leave out x",
    "--help run": "nestax --help stands alone; did you mean: nestax run --help?",
    "completion bsh": "did you mean: nestax completion bash?",
    # Values
    "run maml --arms=adamax": "arms must be named once each, of all, unrolled",
}


@pytest.mark.parametrize("words", MEANT)
def test_what_is_misspelt_is_answered_with_what_was_meant(words, nestax):
    code, out, err = nestax(words)
    assert (code, out) == (2, "") and MEANT[words] in err and err.count("\n") == 1


def test_what_the_parser_does_not_understand_is_refused_without_a_traceback(nestax):
    for words in ("run maml --seeds=many", "run information-plane --widths=12,x", "resume"):
        code, out, err = nestax(words)
        assert code == 2 and out + err and "Traceback" not in out + err


def test_right_spellings_are_let_pass(monkeypatch):
    """Underscores, values with minus signs, switches before the next option, lists with spaces."""
    parsed = []
    monkeypatch.setattr(commands, "parse", lambda function, given, prog: parsed.append(given))
    for words in (
        ["information-plane", "--tune", "--arms", "sgd,gdm", "--widths=3,4", "--learning_rate=0.1"],
        ["maml", "--no-tune", "--overwrite", "--out", "x", "--arms", "joint, unrolled"],
        ["information-plane", "--match-step", "-1", "--seeds", "2"],
        ["maml", "--dry-run", "--help"],
    ):
        cli.main(["run", *words])
        assert parsed.pop() == words[1:]


def test_a_missing_package_is_named(monkeypatch, nestax):
    def load(*_):
        raise ModuleNotFoundError("No module named 'tyro'", name="tyro")

    monkeypatch.setattr(registry, "import_module", load)
    code, _, err = nestax("doctor")
    assert code == 1
    assert 'needs the package tyro; install it with: pip install "nestax[studies]"' in err


# Runs


def test_a_dry_run_shows_settings_data_and_time_and_writes_nothing(stub, nestax, monkeypatch):
    monkeypatch.setenv("NESTAX_DATA", str(stub))
    for words, *said in (
        ("stub --preset full", "steps   100", "data: none needed", "Nothing was run"),
        ("weight-decay --seeds 3", "data: mnist, ", "about 8 minutes", "here differ: seeds"),
        ("optimizers --tasks toy,language", "data: tinyshakespeare, "),
        ("optimizers --tasks toy --data mnist", "data: none needed"),
        ("optimizers --tasks network --data mnist", "data: mnist, "),
        ("continual --streams languages --preset full", "data: none needed"),
    ):
        _, out, _ = nestax(f"run {words} --dry-run")
        assert all(one in out for one in said)
    assert list(stub.iterdir()) == []


def test_a_run_prints_a_screen_and_more_only_if_asked_for(stub, nestax, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = nestax("run stub")[1].splitlines()
    assert "Which stub is larger?" in lines and "10 points more" not in "\n".join(lines)
    assert lines[-1] == f"report: {running.Path('runs/stub/report.html')}"
    assert len(lines) <= 24 and all(len(line) <= 80 for line in lines)
    _, out, _ = nestax("report runs/stub --verbose")
    assert "criterion: 10 points more, in the median" in out
    assert "measured:  slow 11 (10 to 12) points; fast 31 (30 to 32) points" in out
    code, _, err = nestax("run stub --seeds 2 --resume")
    assert code == 1 and "has other settings (seeds)" in err


def test_settings_are_taken_from_a_run(stub, nestax):
    nestax("run stub --steps 7 --seeds 2 --no-tune --arms fast")

    def asked(words):
        lines = nestax(f"run stub --dry-run --from {words}")[1].splitlines()
        return dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))

    same = {"arms": "fast", "preset": "small", "seeds": "2", "steps": "7", "tune": "False"}
    assert asked("runs/stub") == asked("runs/stub/settings.json") == same
    assert asked("runs/stub --seeds 5") == same | {"seeds": "5"}
    # A preset decides all that it can, whatever that was in the run, unless it is given.
    assert asked("runs/stub --preset full") == same | {"preset": "full", "steps": "100"}
    assert asked("runs/stub --preset=small --steps 8") == same | {"steps": "8"}
    # Switches are those which change what the run has.
    assert asked("runs/stub --tune") == same | {"tune": "True"}
    code, _, err = nestax("run stub --from runs/stub --no-tune --dry-run")
    assert code == 2 and "tune is off by default; leave out --no-tune" in err
    nestax("run stub --tune --from runs/stub --out tuned")
    assert asked("tuned --no-tune") == same
    assert nestax("run stub --from runs/stub --preset ful --steps 3 --dry-run")[0] == 2
    nestax("run stub --from=runs/stub --seeds 1 --out again")
    with RunFolder(stub / "again") as folder:
        stored = {"arms": ["fast"], "preset": "small", "seeds": 1, "steps": 7, "tune": False}
        assert folder.settings == stored


def test_settings_and_folders_that_cannot_be_taken_are_refused(stub, nestax):
    whole = json.loads(json.dumps(dataclasses.asdict(stubs.Settings())))
    for name, experiment, settings in (
        ("other", "recall", {}),
        ("new", "stub", {"speed": 3}),
        ("bad", "stub", {"seeds": 0}),
        ("half", "stub", whole | {"seeds": 2.5}),
        ("medium", "stub", whole | {"preset": "medium"}),
        ("null", "stub", whole | {"steps": None}),
        ("lacking", "stub", {k: v for k, v in whole.items() if k != "tune"}),
        ("list", "stub", []),
        ("unknown", "alchemy", {}),
    ):
        (stub / name).mkdir()
        header = {"experiment": experiment, "settings": settings}
        (stub / name / "settings.json").write_text(json.dumps(header))
    (stub / "text.json").write_text("[]")
    for words, said in (
        ("run stub --from none", "there is no such file"),
        ("run stub --from other", "write: nestax run recall --from other"),
        ("run stub --from text.json", "these are not a run's settings"),
        ("run stub --from new", "made by another version: unknown speed"),
        ("run stub --from half --dry-run", "seeds must be a whole number, got 2.5"),
        ("resume medium", "preset must be one of small, full, got 'medium'"),
        ("run stub --from null", "null/settings.json does not say steps"),
        ("run stub --from lacking", "lacking/settings.json does not say tune"),
        ("run stub --from list", "these are not a run's settings"),
        ("report text.json", "text.json is a file; name the folder that a run wrote"),
        ("resume bad", "seeds must be at least 1, got 0; put back what the run wrote"),
        ("resume .", "holds no run"),
        ("report unknown", "a run of 'alchemy', which this version does not have"),
    ):
        code, _, err = nestax(words)
        assert code == 1 and said in err


def test_an_overwriting_run_that_is_refused_leaves_the_run_that_was_there(
    stub, nestax, monkeypatch
):
    nestax("run stub")
    before = {p: p.read_bytes() for p in stub.rglob("*") if p.is_file()}

    def refuses(settings, folder, log):
        folder.write_json("facts.json", {})
        raise data.DataError("mnist cannot be had")

    monkeypatch.setitem(EXPERIMENTS, "stub", EXPERIMENTS["stub"]._replace(run=refuses))
    code, _, err = nestax("run stub --overwrite --seeds 2")
    said = "mnist cannot be had. The run that was to be replaced is in its place again."
    assert (code, err) == (1, f"nestax: {said}\n")
    assert {p: p.read_bytes() for p in stub.rglob("*") if p.is_file()} == before
    assert nestax("report runs/stub")[0] == 0


def test_a_dry_run_refuses_what_the_run_would(stub, nestax):
    nestax(["run", "stub", "--out", "a b"])
    (stub / "file").write_text("")
    (stub / "foreign").mkdir()
    (stub / "foreign" / "thesis.tex").write_text("years of work")
    before = sorted(stub.rglob("*"))
    for words, code, said in (
        (["file"], 1, "file is a file; name a folder"),
        (["file/x"], 1, "cannot write to"),
        (["/proc/x"], 1, "cannot write to /proc"),
        (["foreign"], 1, "is not empty and holds no run"),
        (
            ["a b", "--resume", "--seeds", "2"],
            1,
            "(seeds); go on with its own: nestax resume 'a b'",
        ),
        (["a b", "--resume"], 0, "it would go on"),
        (["a b", "--overwrite"], 0, "it would be replaced"),
        (["a b"], 0, "--resume goes on with it, --overwrite replaces it"),
        (["new/er"], 0, "folder: new/er"),
    ):
        found, out, err = nestax(["run", "stub", "--dry-run", "--out", *words])
        assert found == code and said in out + err, words
    assert sorted(stub.rglob("*")) == before


def test_a_comparison_overwrites_no_file_of_a_run(stub, nestax):
    for out in ("a", "b"):
        nestax(f"run stub --out {out}")
    before = {p: p.read_bytes() for p in stub.rglob("*") if p.is_file()}
    for out in ("b/metrics.jsonl", "b/report.html", "page", "", "b"):
        code, _, err = nestax(["compare", "a", "b", "--out", out])
        assert code == 1 and err.startswith("nestax: --out "), out
    assert {p: p.read_bytes() for p in stub.rglob("*") if p.is_file()} == before
    assert nestax("compare a b --out b/compare.html")[0] == 0


def test_terminals_that_know_ascii_alone_get_ascii(stub, monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    for words in ("run stub --out a", "run stub --out \u00e4", "compare a \u00e4"):
        cli.main(words.split())
    shown.flush()
    assert b"report: ?/report.html" in shown.buffer.getvalue()
    assert b"scores more  y  y" in shown.buffer.getvalue()


def test_a_run_is_handed_to_tensorboard(stub, monkeypatch, nestax):
    told = []
    writer = types.SimpleNamespace(
        add_scalar=lambda *one: told.append(one), close=lambda: told.append("closed")
    )
    opened = types.SimpleNamespace(SummaryWriter=lambda folder: told.append(folder) or writer)
    for name in ("torch", "torch.utils", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "tensorboardX", opened)
    nestax("run stub --log tensorboard --seeds 2")
    folder, *numbers, last = told
    assert folder.endswith("tensorboard") and last == "closed"
    slow, fast = (("slow/score", 10.5, 0), ("slow/rate", 0.1, 0)), (("fast/score", 30.5, 1),)
    assert numbers == [*slow, *fast, ("fast/rate", 0.1, 1)]


def test_a_run_is_handed_to_loggers_whose_steps_never_fall(stub, monkeypatch, nestax):
    told, begun = [], {}
    logged = types.SimpleNamespace(log=told.append, finish=lambda: told.append("finished"))
    fake = types.SimpleNamespace(init=lambda **options: begun.update(options) or logged)
    monkeypatch.setitem(sys.modules, "trackio", fake)
    nestax("run stub --log trackio --seeds 1 --arms fast")
    assert told == [{"fast/score": 30.0, "fast/rate": 0.1, "fast/step": 0}, "finished"]
    assert begun["project"] == "nestax" and begun["config"]["seeds"] == 1


def test_a_logger_that_is_not_installed_is_refused_before_anything_runs(stub, monkeypatch, nestax):
    for found in (None, types.ModuleType("wandb")):  # as a folder wandb, imported, is
        monkeypatch.setitem(sys.modules, "wandb", found)
        code, _, err = nestax("run stub --log wandb")
        assert code == 1 and "--log wandb needs the package wandb" in err
    assert list(stub.iterdir()) == []


# The other commands


def test_doctor_version_and_data(nestax, monkeypatch, tmp_path):
    monkeypatch.setenv("NESTAX_DATA", str(tmp_path))
    assert nestax("--version")[1].strip() == __version__
    out = nestax("doctor")[1]
    assert all(word in out for word in ("python", "jax", "cpu", "digits", str(tmp_path)))
    assert "60000 + 10000 images of 28x28" in nestax("data list")[1]
    assert nestax("data path digits")[1].strip()


def test_texts_of_runs_do_not_control_the_terminal(capsys):
    running.say(["\x1b[2Ja\tb\x9bc", "d"])
    with pytest.raises(SystemExit):
        cli.fail("unknown \x1b[2J", 1)
    assert capsys.readouterr() == ("?[2Ja\tb?c\nd\n", "nestax: unknown ?[2J\n")


@pytest.mark.parametrize(
    "plugin, platforms, told",
    [
        (None, None, 'jaxlib is CPU-only here\n           pip install -U "jax[cuda13]"'),
        ("jax-cuda12-plugin", "cpu", "JAX was told not to\n           unset JAX_PLATFORMS"),
        ("jax-cuda12-plugin", None, "jax-cuda12-plugin 0.10 is installed, but found no GPU\n"),
    ],
)
def test_doctor_tells_of_a_gpu_that_is_not_used(
    nestax, monkeypatch, tmp_path, plugin, platforms, told
):
    def version(package):
        if package == plugin or "plugin" not in package:
            return "0.10"
        raise machine.PackageNotFoundError(package)

    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-1)'")
    tool.chmod(0o755)
    config = types.SimpleNamespace(jax_platforms=platforms)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "version", version)
    monkeypatch.setattr(machine, "jax", types.SimpleNamespace(devices=jax.devices, config=config))
    assert f"\ngpu        GPU 0: NVIDIA H200: not used, {told}" in nestax("doctor")[1]


def test_a_gpu_is_known_by_its_files_and_silent_if_used(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    assert machine.unused_gpu(tmp_path) is None
    (tmp_path / "dev" / "nvidia0").mkdir(parents=True)
    assert (machine.unused_gpu(tmp_path) or "").startswith(f"NVIDIA GPU at {tmp_path}/dev/nvidia0:")
    used = types.SimpleNamespace(devices=lambda: [types.SimpleNamespace(platform="gpu")])
    monkeypatch.setattr(machine, "jax", used)
    assert machine.unused_gpu(tmp_path) is None


def test_levels_flows_and_reports_are_printed_drawn_and_opened(stub, nestax, monkeypatch):
    for look, words in {"levels": ("inner", "outer"), "flows": ("both", "last", "cosine")}.items():
        out = nestax(f"{look} stub --out x")[1]
        assert all(word in out for word in words) and (stub / "x" / f"{look}.png").is_file()
    seen = []
    monkeypatch.setattr("webbrowser.open", lambda address: not seen.append(address))
    nestax("run stub --open")
    assert seen == [(stub / "runs" / "stub" / "report.html").as_uri()]
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    assert "no browser was found" in nestax("report runs/stub --open")[1]


# Completion

BASH = """
source /dev/stdin <<'END'
{script}
END
for line in "" r "run ne" "run needle --t" "data fetch m" "run needle --log w" "completion z"; do
  COMP_WORDS=(nestax $line); [ -n "$line" ] || COMP_WORDS+=("")
  COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
  _nestax; echo "${{COMPREPLY[@]}}"
done
"""


def test_shells_complete_commands_studies_options_and_names(completed, monkeypatch):
    monkeypatch.setattr(completion, "words", lambda: completed)
    script, fish = completion.script("bash"), completion.script("fish")
    program = ["bash", "-c", BASH.format(script=script)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    first, *rest = done.stdout.splitlines()
    assert first.split() == [*cli.COMMANDS, "--help", "--version"]
    options_ = "--tuning-seeds --trials --times"
    assert rest == ["run resume report", "needle", options_, "mnist", "wandb", "zsh"]
    assert script in completion.script("zsh")
    for words in completed.values():
        assert f"-a '{' '.join(words)}'" in fish
