"""Runs side by side: what differs, what is measured, what is refused."""

import copy
import dataclasses

import pytest
from references.browser import BROWSER, measured
from studies import stubs

from nestax.runs import RunError
from nestax_studies import cli
from nestax_studies.lab import compared


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs of the stub, the last one of another study with an arm and a claim of its own."""

    def find(settings, records):
        found = stubs.find(settings, records)
        other = dataclasses.replace(found.verdicts[0], claim="Another claim", of="all", holds=None)
        return dataclasses.replace(found, verdicts=[*found.verdicts, other])

    folder = tmp_path_factory.mktemp("runs")
    other, longer = dataclasses.replace(stubs.STUDY, find=find), {"steps": 3, "seeds": 1}
    stubs.STUDY.perform(folder / "small", stubs.Settings())
    stubs.STUDY.perform(folder / "longer", stubs.Settings(**longer))
    other.perform(folder / "other", stubs.Settings(arms=("fast",)))
    return [folder / name for name in ("small", "longer", "other")]


def test_settings_measures_and_claims_are_compared(runs):
    found = compared.read(runs)
    assert [run.name for run in found] == ["A", "B", "C"]
    assert compared.settings(found) == {
        "arms": ["slow, fast", "slow, fast", "fast"],
        "seeds": ["3", "1", "3"],
        "steps": ["10", "3", "10"],
    }
    assert compared.measures(found) == {
        ("slow", "score (points)"): ["11 (10 to 12)", "3", ""],
        ("fast", "score (points)"): ["31 (30 to 32)", "9", "31 (30 to 32)"],
    }
    words, other = ["supported", "not supported", "not measured"], ["", "", "not measured"]
    claim = "The fast one scores more (Stubs, 2020)", ""
    assert compared.claims(found) == {claim: words, ("Another claim", "all"): other}
    same = compared.lines(compared.read([runs[0], runs[0] / "summary.json"]))
    assert "All settings are the same." in same
    with pytest.raises(RunError, match="needs 2 to 26 runs, got 1"):
        compared.read(runs[:1])


def test_the_table_fits_the_terminal(runs):
    for count, columns in ((2, 80), (3, 80), (5, 80), (5, 100)):
        lines = compared.lines(compared.read([*runs, *runs][:count]), columns)
        assert all(len(line) <= columns for line in lines)
        assert ("11 (10 to 12)" in "\n".join(lines)) == (count <= 3)
        steps = ["steps", "10", "3", "10", "10", "3"]
        assert steps[: 1 + count] in [line.split() for line in lines]
        (claim,) = [line for line in lines if line.startswith("The fast one scores more")]
        assert claim.split()[5:] == ["✓", "✗", "\u2013", "✓", "✗"][:count]


def test_any_number_of_runs_fits_and_what_differs_is_seen(runs):
    for count, columns in ((8, 80), (6, 60), (26, 120)):
        lines = compared.lines(compared.read((runs * 9)[:count]), columns)
        assert max(map(len, lines)) <= columns
    one, other = (copy.deepcopy(run) for run in compared.read([runs[0]] * 2))
    one.summary["settings"] |= {"list": [*range(50)], "one": 1, "empty": []}
    other.summary["settings"] |= {"list": [*range(49), 99], "one": "1"}
    other.summary["study"] = "other"
    told = [line.split() for line in compared.lines([one, other])]
    for line in (
        ["list", "…7,", "48,", "49", "…7,", "48,", "99"],
        ["one", "1", '"1"'],
        ["empty", "[]"],
    ):
        assert line in told
    assert "different studies" in "\n".join(compared.lines([one, other]))


def test_many_measures_and_claims_are_cut_and_counted(runs):
    one, other = (copy.deepcopy(run) for run in compared.read(runs[:2]))
    measure = one.summary["arms"]["slow"]["measures"]["score"]
    for run in (one, other):
        run.summary["arms"]["slow"]["measures"] = {f"score {i}": measure for i in range(70)}
        first = one.summary["claims"][0]
        run.summary["claims"] = [first | {"claim": f"Claim {i}"} for i in range(30)]
    other.summary["claims"][7]["verdict"] = "artefact"
    lines = compared.lines([one, other])
    assert "… and 31 more; all of them: --out compare.html" in lines  # 71 with that of "fast"
    at = lines.index("Claims: 30, of which 1 differ:")
    assert lines[at + 2].split() == ["Claim", "7", "✓", "~"] and len(lines) < 80


def test_the_command_prints_and_writes_a_page(runs, tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: not opened.append(address))
    names, page = [str(run) for run in runs], tmp_path / "compare.html"
    cli.main(["compare", *names])
    out = capsys.readouterr().out
    assert "A: " in out and "page: " not in out
    cli.main(["compare", *names, "--out", str(page)])
    text = page.read_text()
    for word in ("Which stub is larger?", "31 (30\u00a0to\u00a032)", "Another claim", ">steps<"):
        assert word in text
    cli.main(["compare", *names, "--open"])
    assert opened == [(runs[0] / "compare.html").as_uri()]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["compare", names[0], str(tmp_path / "none")])
    assert stopped.value.code == 1 and "there is no such file" in capsys.readouterr().err


@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_the_page_is_never_too_narrow(runs, tmp_path):
    compared.write(tmp_path / "compare.html", compared.read([*runs, *runs, *runs]))
    text = (tmp_path / "compare.html").read_text()
    for width, found in measured(text, tmp_path, (1200, 800, 390)).items():
        assert found["wide"] == [] and found["tables"] >= 4, width
