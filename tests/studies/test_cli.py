"""The commands: what they print and refuse, what they cost, that their help can be read."""

import dataclasses
import inspect
import json
import subprocess
import sys
import types
import webbrowser

import pytest
from studies import stubs

from nestax import __version__
from nestax.runs import RunFolder
from nestax_studies import cli, commands, completion, data, registry, running
from nestax_studies.registry import EXPERIMENTS, STUDIES, Experiment
from nestax_studies.spelling import options


def run(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    out, err = capsys.readouterr()
    return stopped.value.code, out, err


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """The study of stubs, known to the command line, whose runs lie in this folder."""
    study = stubs.STUDY
    monkeypatch.setitem(
        EXPERIMENTS,
        "stub",
        Experiment("Stubs.", stubs.Settings, study.run, study.report),
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


# What it costs


@pytest.mark.parametrize("words", [["--version"], ["list"], ["--help"], ["completion", "bash"]])
def test_quick_commands_import_no_package(words):
    program = f"""
import sys, time
sys.argv = ["nestax", *{words!r}]
before = set(sys.modules)
from nestax_studies import cli
try:
    cli.main()
except SystemExit:
    pass
brought = {{name.partition(".")[0] for name in set(sys.modules) - before}}
heavy = brought - set(sys.stdlib_module_names) - {{"nestax_studies"}}
print(sorted(heavy), time.process_time(), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    heavy, seconds = done.stderr.rsplit(" ", 1)
    assert heavy == "[]" and done.stdout
    assert float(seconds) < 0.5  # of the processor: other processes may share it


# The table of studies


@pytest.mark.parametrize("name", STUDIES)
def test_the_table_of_studies_says_what_their_modules_say(name):
    entry, study = STUDIES[name], EXPERIMENTS[name]
    asked = study.settings.__doc__.strip().partition("\n")[0]
    question = entry.question.partition("?")[0]
    assert asked.partition("?")[0] == question and entry.minutes > 0
    assert set(entry.data) | set(entry.needs.values()) <= set(data.names())
    module = registry.imported(entry.module)
    if hasattr(module, "STUDY"):
        assert module.STUDY.title and study.run and study.report
    known = options(study.settings, **cli.COMMANDS["run"].options)
    flags = {f"--{'no-' * (v is True)}{n.replace('_', '-')}" for n, v in known.items()}
    assert {*flags, "--help"} == set(completion.words()[f"run {name}"])
    values = {f.name: getattr(study.settings(), f.name) for f in dataclasses.fields(study.settings)}
    assert set(running._data(entry, values)) <= {*entry.data} or not entry.data
    assert bool(running._data(entry, values)) == bool(entry.data)


def test_names_that_are_written_twice_agree():
    assert data.names() == cli.DATA
    assert set(registry.SHIPPED) == {
        s.name for s in data.status() if s.source and s.name == "digits"
    }
    for name in ("resume", "report", "compare", "doctor"):
        parameters = list(inspect.signature(getattr(commands, name)).parameters.values())
        options_ = {p.name.rstrip("_"): p.default for p in parameters if p.default is not p.empty}
        assert options_ == cli.COMMANDS[name].options
    made = inspect.signature(running.command("run", ["recall"])).parameters
    assert [name.rstrip("_") for name in made][1:] == list(cli.COMMANDS["run"].options)


def test_list_has_offline_studies_first_and_says_what_they_need(capsys):
    cli.main(["list"])
    ready, others = capsys.readouterr().out.split("Studies that download")
    rows = {line.split()[0]: line for line in others.splitlines() if " min " in line}
    assert "mnist" in rows["cleaning"] and "min" in rows["cleaning"]
    assert set(rows) == {n for n, e in STUDIES.items() if set(e.data) - {"digits"}}
    assert all(name in ready for name in set(STUDIES) - set(rows))
    assert "Minutes are rough" in others
    assert all(len(line) <= 100 for line in (ready + others).splitlines())


# Help


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], list(cli.COMMANDS)),
        ([], ["usage: nestax"]),
        (["run", "--help"], list(STUDIES)),
        (
            ["run", "information-plane", "--help"],
            ["--arms", "--widths", "--tune", "--seeds", "--out", "--overwrite", "log-spaced"],
        ),
        (["run", "needle", "--help"], ["(small 48, full 256)", "--dry-run", "--from RUN"]),
        (["resume", "--help"], ["interrupted"]),
        (["report", "--help"], ["no training", "--verbose"]),
        (["compare", "--help"], ["side by side", "--out"]),
        (["data"], ["list", "path", "fetch"]),
        (["data", "fetch", "--help"], ["fashion-mnist"]),
        (["doctor", "--help"], ["devices"]),
        (["completion", "--help"], ["~/.bashrc", "compinit", "fish"]),
    ],
)
def test_help_names_what_there_is(arguments, words, capsys):
    code, out, _ = run(arguments, capsys)
    assert code == 0
    for word in words:
        assert word in out


def test_presets_are_shown_for_every_option_that_has_them(stub, capsys):
    code, out, _ = run(["run", "stub", "--help"], capsys)
    assert code == 0 and "(small 10, full 100)" in out and "--steps INT" in out
    assert "default: None" not in out


# What is not understood


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["run", "perpetual-motion"],
        ["run", "information-plane", "--arms=adamax"],
        ["run", "information-plane", "--epochs=many"],
        ["run", "information-plane", "--widths=12,x"],
        ["resume"],
        ["doctor", "much"],
    ],
)
def test_what_is_not_understood_is_refused_without_a_traceback(arguments, capsys):
    code, out, err = run(arguments, capsys)
    assert code == 2
    assert "Traceback" not in out + err
    assert out + err


@pytest.mark.parametrize(
    ("words", "right"),
    [
        ("information-plane --tune True", "--tune takes no value; write --tune instead of"),
        ("information-plane --tune=true", "write --tune instead of --tune true"),
        ("information-plane --tune False", "tune is off by default; leave out --tune"),
        ("information-plane --no-tune", "tune is off by default; leave out --no-tune"),
        ("maml --tune False", "write --no-tune instead of --tune False"),
        ("maml --tune", "tune is on by default; leave out --tune"),
        ("maml --no-tune maybe", "--no-tune takes no value, and got maybe"),
        ("maml --overwrite yes", "write --overwrite instead of"),
        ("information-plane --arms sgd gdm", "write --arms sgd,gdm instead of --arms sgd gdm"),
        ("information-plane --arms sgd, gdm", "write --arms sgd,gdm instead of --arms sgd, gdm"),
        ("information-plane --arms=sgd, gdm --tune", "write --arms sgd,gdm instead of"),
        ("information-plane --widths [12,10]", "write --widths 12,10 instead of"),
        ("information-plane --seed 3", "has no option --seed; did you mean --seeds?"),
        ("maml --learning-rate 3", "has no option --learning-rate. All options: nestax run maml"),
    ],
)
def test_a_misspelled_option_is_answered_with_the_right_one(words, right, capsys):
    code, out, err = run(["run", *words.split()], capsys)
    assert code == 2 and not out
    assert right in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("rn", "nestax rn: nothing has that name; did you mean: nestax run?"),
        ("maml --seeds 3", "maml is a study; did you mean: nestax run maml --seeds 3?"),
        ("--seeds 3 run maml", "a command comes first"),
        ("run", "needs the name of a study"),
        ("run implicit-bais", "did you mean: nestax run implicit-bias?"),
        ("run Implicit_Bias", "did you mean: nestax run implicit-bias?"),
        ("run --seeds 3 maml", "the study first: nestax run maml --seeds 3"),
        ("data lst", "did you mean: nestax data list?"),
        ("data fetch mnst", "did you mean: nestax data fetch mnist?"),
        ("data fetch mnist --forse", "nestax data fetch has no option --forse"),
        ("flows zzz", "nestax flows zzz: nothing has that name; there are: "),
        ("levels information-plane", "this study has no nest"),
        ("compare a b --ouut c", "did you mean --out? All options: nestax compare --help"),
        ("report a --resume", "it is an option of: nestax run STUDY. All options: nestax report"),
        ("resume a --tune", "nestax resume has no option --tune"),
        ("list --all", "nestax list has no option --all"),
        ("completion", "one of bash, zsh, fish"),
        ("completion bsh", "did you mean: nestax completion bash?"),
    ],
)
def test_what_was_meant(given, said, capsys):
    code, out, err = run(given.split(), capsys)
    assert (code, out) == (2, "")
    assert said in err and err.count("\n") == 1


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


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setattr(registry, "import_module", _missing("tyro"))
    code, _, err = run(["doctor"], capsys)
    assert (
        code == 1
        and 'needs the package tyro; install it with: pip install "nestax[studies]"' in err
    )


def _missing(name):
    def load(*_):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    return load


# Runs


def test_a_dry_run_shows_settings_data_and_time_and_writes_nothing(stub, capsys, monkeypatch):
    monkeypatch.setenv("NESTAX_DATA", str(stub))
    cli.main(["run", "stub", "--dry-run", "--preset", "full"])
    out = capsys.readouterr().out
    assert "steps   100" in out and "data: none needed" in out and "Nothing was run" in out
    cli.main(["run", "weight-decay", "--dry-run", "--seeds", "3"])
    out = capsys.readouterr().out
    assert "data: mnist, " in out and "about 8 minutes" in out and "here differ: seeds" in out
    cli.main(["run", "optimizers", "--dry-run", "--tasks", "toy,language"])
    assert "data: tinyshakespeare, " in capsys.readouterr().out
    assert list(stub.iterdir()) == []


def test_a_run_prints_a_screen_and_more_only_if_asked_for(stub, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    cli.main(["run", "stub"])
    out = capsys.readouterr().out
    assert "Which stub is larger?" in out and "10 points more" not in out
    assert out.splitlines()[-1] == f"report: {running.Path('runs/stub/report.html')}"
    assert len(out.splitlines()) <= 24 and all(len(line) <= 80 for line in out.splitlines())
    cli.main(["report", "runs/stub", "--verbose"])
    out = capsys.readouterr().out
    assert "criterion: 10 points more, in the median" in out
    assert "measured:  slow 11 (10 to 12) points; fast 31 (30 to 32) points" in out
    code, _, err = run(["run", "stub", "--seeds", "2", "--resume"], capsys)
    assert code == 1 and "has other settings (seeds)" in err


def test_settings_are_taken_from_a_run(stub, capsys):
    cli.main(["run", "stub", "--steps", "7", "--seeds", "2", "--no-tune", "--arms", "fast"])
    capsys.readouterr()

    def asked(*words):
        cli.main(["run", "stub", "--dry-run", *words])
        lines = capsys.readouterr().out.splitlines()
        return dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))

    same = {"arms": "fast", "preset": "small", "seeds": "2", "steps": "7", "tune": "False"}
    assert asked("--from", "runs/stub") == same
    assert asked("--from=runs/stub/settings.json") == same
    assert asked("--from", "runs/stub", "--seeds", "5") == same | {"seeds": "5"}
    # Another preset decides what the run's preset has decided, and nothing else.
    assert asked("--from", "runs/stub", "--preset", "full") == same | {"preset": "full"}
    cli.main(["run", "stub", "--out", "plain"])
    capsys.readouterr()
    assert asked("--from", "plain", "--preset", "full")["steps"] == "100"
    cli.main(["run", "stub", "--from", "runs/stub", "--seeds", "1", "--out", "again"])
    with RunFolder(stub / "again") as folder:
        assert folder.settings == {
            "arms": ["fast"], "preset": "small", "seeds": 1, "steps": 7, "tune": False
        }  # fmt: skip


def test_settings_that_cannot_be_taken_are_refused(stub, capsys):
    (stub / "other.json").write_text('{"experiment": "recall", "settings": {}}')
    (stub / "text.json").write_text("[]")
    (stub / "new.json").write_text('{"experiment": "stub", "settings": {"speed": 3}}')
    for name, said in (
        ("none", "there is no such file"),
        ("other.json", "write: nestax run recall --from other.json"),
        ("text.json", "these are not a run's settings"),
        ("new.json", "made by another version: unknown speed"),
    ):
        code, _, err = run(["run", "stub", "--from", name], capsys)
        assert code == 1 and said in err


class _Writer:
    """As TensorBoard's."""

    def __init__(self, folder):
        self.folder, self.told, self.closed = folder, [], False
        _Writer.last = self

    def add_scalar(self, name, number, step):
        self.told.append((name, number, step))

    def close(self):
        self.closed = True


def test_a_run_is_handed_to_tensorboard(stub, monkeypatch):
    module = types.ModuleType("tensorboardX")
    module.SummaryWriter = _Writer
    for name in ("torch", "torch.utils", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    cli.main(["run", "stub", "--log", "tensorboard", "--seeds", "2"])
    assert _Writer.last.closed and _Writer.last.folder.endswith("tensorboard")
    assert _Writer.last.told == [
        ("slow/score", 10.5, 0),
        ("slow/rate", 0.1, 0),
        ("fast/score", 30.5, 1),
        ("fast/rate", 0.1, 1),
    ]


def test_a_run_is_handed_to_loggers_whose_steps_never_fall(stub, monkeypatch):
    told, finished = [], []
    logged = types.SimpleNamespace(
        log=lambda numbers: told.append(numbers), finish=lambda: finished.append(1)
    )
    begun = {}
    fake = types.SimpleNamespace(init=lambda **options: begun.update(options) or logged)
    monkeypatch.setitem(sys.modules, "trackio", fake)
    cli.main(["run", "stub", "--log", "trackio", "--seeds", "1", "--arms", "fast"])
    assert told == [{"fast/score": 30.0, "fast/rate": 0.1, "fast/step": 0}] and finished == [1]
    assert begun["project"] == "nestax" and begun["config"]["seeds"] == 1


def test_a_logger_that_is_not_installed_is_refused_before_anything_runs(stub, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    code, _, err = run(["run", "stub", "--log", "wandb"], capsys)
    assert code == 1 and "--log wandb needs the package wandb" in err
    assert list(stub.iterdir()) == []


def test_the_report_is_opened_if_asked_for(stub, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(webbrowser, "open", lambda address: not seen.append(address))
    cli.main(["run", "stub", "--open"])
    assert seen == [(stub / "runs" / "stub" / "report.html").as_uri()]
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    cli.main(["report", "runs/stub", "--open"])
    assert "no browser was found" in capsys.readouterr().out


def test_a_folder_without_a_run_is_named(tmp_path, capsys):
    code, _, err = run(["resume", str(tmp_path)], capsys)
    assert code == 1
    assert f"{tmp_path} holds no run" in err


def test_a_run_of_an_unknown_study_is_refused(tmp_path, capsys):
    (tmp_path / "settings.json").write_text('{"experiment": "alchemy", "settings": {}}')
    code, _, err = run(["report", str(tmp_path)], capsys)
    assert code == 1
    assert "a run of 'alchemy', which this version does not have" in err


def test_settings_that_were_tampered_with_are_refused(stub, capsys):
    cli.main(["run", "stub"])
    path = stub / "runs" / "stub" / "settings.json"
    (stub / "bad").mkdir()
    header = json.loads(path.read_text())
    header["settings"]["seeds"] = 0
    (stub / "bad" / "settings.json").write_text(json.dumps(header))
    code, _, err = run(["resume", "bad"], capsys)
    assert code == 1 and "seeds must be at least 1, got 0; put back what the run wrote" in err


# The other commands


def test_doctor_version_and_data(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("NESTAX_DATA", str(tmp_path))
    cli.main(["--version"])
    assert capsys.readouterr().out.strip() == __version__
    cli.main(["doctor"])
    out = capsys.readouterr().out
    for word in ("python", "jax", "cpu", "digits", str(tmp_path)):
        assert word in out
    cli.main(["data", "list"])
    out = capsys.readouterr().out
    assert "60000 + 10000 images of 28x28" in out
    cli.main(["data", "path", "digits"])
    assert capsys.readouterr().out.strip()


def test_levels_and_flows_of_a_study_are_printed_and_drawn(tmp_path, capsys):
    cli.main(["levels", "maml", "--width", "3", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert "init" in out and "shift" in out
    assert (tmp_path / "levels.png").stat().st_size > 5_000
    cli.main(["flows", "maml", "--width", "3", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    for word in ("MAML", "first order", "iMAML, 5 products", "cosine"):
        assert word in out
    assert (tmp_path / "flows.png").stat().st_size > 5_000


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


def test_bash_completes_commands_studies_options_and_names():
    program = BASH.format(script=completion.script("bash"))
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    first, *rest = done.stdout.splitlines()
    assert first.split() == [*cli.COMMANDS, "--help", "--version"]
    assert rest == [
        "run resume report", "needle", "--tuning-seeds --trials --times", "mnist", "wandb", "zsh"
    ]  # fmt: skip


def test_other_shells_are_given_the_same_words():
    assert completion.script("bash") in completion.script("zsh")
    fish = completion.script("fish")
    for words in completion.words().values():
        assert f"-a '{' '.join(words)}'" in fish
