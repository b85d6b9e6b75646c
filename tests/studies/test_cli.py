"""The commands: what they print, what they refuse, that their help can be read."""

import pytest

from nestax import __version__
from nestax_studies import cli


def run(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    out, err = capsys.readouterr()
    return stopped.value.code, out, err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["run", "resume", "report", "list", "levels", "flows", "data", "doctor"]),
        (["run", "--help"], ["information-plane"]),
        (
            ["run", "information-plane", "--help"],
            ["--arms", "--widths", "--tune", "--seeds", "--out", "--overwrite", "log-spaced"],
        ),
        (["resume", "--help"], ["interrupted"]),
        (["report", "--help"], ["no training"]),
        (["data", "--help"], ["list", "path", "fetch"]),
        (["data", "fetch", "--help"], ["fashion-mnist"]),
        (["doctor", "--help"], ["devices"]),
    ],
)
def test_help_names_what_there_is(arguments, words, capsys):
    code, out, _ = run(arguments, capsys)
    assert code == 0
    for word in words:
        assert word in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["run", "perpetual-motion"],
        ["run", "information-plane", "--arms=adamax"],
        ["run", "information-plane", "--epochs=many"],
        ["run", "information-plane", "--widths=12,x"],
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


def test_right_spellings_are_let_pass(monkeypatch):
    """Underscores, values with minus signs, switches before the next option, lists with spaces."""
    parsed = []
    monkeypatch.setattr(cli, "_parse", lambda commands, given, *rest: parsed.append(given))
    for words in (
        ["information-plane", "--tune", "--arms", "sgd,gdm", "--widths=3,4", "--learning_rate=0.1"],
        ["maml", "--no-tune", "--overwrite", "--out", "x", "--arms", "joint, unrolled"],
        ["information-plane", "--match-step", "-1", "--seeds", "2"],
        ["maml", "--tune", "--help"],
    ):
        cli.main(["run", *words])
        assert parsed.pop() == words


def test_a_folder_without_a_run_is_named(tmp_path, capsys):
    code, _, err = run(["resume", str(tmp_path)], capsys)
    assert code == 1
    assert f"{tmp_path} holds no run" in err


def test_list_doctor_version_and_data(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("NESTAX_DATA", str(tmp_path))
    cli.main(["--version"])
    assert capsys.readouterr().out.strip() == __version__
    cli.main(["list"])
    assert "information-plane" in capsys.readouterr().out
    cli.main(["doctor"])
    out = capsys.readouterr().out
    for word in ("python", "jax", "cpu", "digits", str(tmp_path)):
        assert word in out
    cli.main(["data", "list"])
    out = capsys.readouterr().out
    assert "60000 + 10000 images of 28x28" in out
    cli.main(["data", "path", "digits"])
    assert capsys.readouterr().out.strip()


def test_a_run_of_an_unknown_experiment_is_refused(tmp_path, capsys):
    (tmp_path / "settings.json").write_text('{"experiment": "alchemy", "settings": {}}')
    code, _, err = run(["report", str(tmp_path)], capsys)
    assert code == 1
    assert "a run of 'alchemy', which this version does not have" in err


def test_levels_prints_and_draws_the_levels_of_an_experiment(tmp_path, capsys):
    cli.main(["levels", "maml", "--width", "3", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert "init" in out and "shift" in out
    assert (tmp_path / "levels.png").stat().st_size > 5_000


def test_flows_compares_the_flows_of_an_experiment(tmp_path, capsys):
    cli.main(["flows", "maml", "--width", "3", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    for word in ("MAML", "first order", "iMAML, 5 products", "cosine"):
        assert word in out
    assert (tmp_path / "flows.png").stat().st_size > 5_000


def test_an_experiment_without_a_nest_has_no_levels(capsys):
    code, out, err = run(["levels", "information-plane"], capsys)
    assert code == 2 and "maml" in out + err


@pytest.mark.parametrize(
    "given, said",
    [
        (["rn"], "nestax rn: nothing has that name; did you mean: nestax run?"),
        (["run", "implicit-bais"], "did you mean: nestax run implicit-bias?"),
        (["data", "lst"], "did you mean: nestax data list?"),
        (["flows", "zzz"], "nestax flows zzz: nothing has that name; there are: "),
    ],
)
def test_names_that_there_are_not(given, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(given)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
