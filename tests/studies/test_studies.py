"""What every study does alike: settings, stages that are done once, run folders, reports."""

import dataclasses
import json
from typing import get_args

import numpy as np
import pytest

from nestax.runs import RunError, SettingsError
from nestax_studies import lab
from nestax_studies.lab import figures
from nestax_studies.registry import EXPERIMENTS, STUDIES


@dataclasses.dataclass(frozen=True)
class Settings(lab.Options):
    """A study of nothing."""

    seeds: int = lab.option(3, least=1)


class Stub:
    """A study whose stages count how often they are done, and may be interrupted."""

    def __init__(self, fails=None, error=KeyboardInterrupt):
        self.done, self.fails, self.error, self.seen = [], fails, error, {}
        self.study = lab.Study("Nothing", "Why?", Settings, self.stages, self.find, self.draw)

    def stages(self, settings):
        return {f"seed {seed}": lambda desk, s=seed: self.stage(s, desk) for seed in range(3)}

    def stage(self, seed, desk):
        self.done.append(seed)
        self.seen[seed] = sorted(desk.done)
        desk.path.mkdir(parents=True, exist_ok=True)
        (desk.path / "kept").write_text("what an interruption must not lose")
        desk.say("half way")
        if seed == self.fails:
            raise self.error
        return {"seed": seed, "losses": [seed / 3, 1.0]}

    def find(self, settings, records):
        cases = {(name,): record for name, record in records.items()}
        numbers = lab.numbers(("arm",), cases, [lab.number("loss", lambda r: r["losses"])])
        values = {name: record["losses"] for name, record in records.items()}
        return lab.Findings(numbers, [lab.judge("It works", "yes", values, lambda *_: True)])

    def draw(self, settings, records):
        lines = [figures.Line([0, 1], r["losses"], name) for name, r in records.items()]
        panel = figures.Panel("panel", "x", "y", lines)
        return [figures.curves("losses", [panel], "Losses", "Nothing.")]


def test_an_interrupted_run_does_each_stage_once_and_equals_one_that_was_not(folder, tmp_path):
    whole, settings = Stub(), Settings()
    with folder(tmp_path / "whole", settings) as opened:
        whole.study.run(settings, opened)
        whole.study.report(settings, opened)
    broken = Stub(fails=1)
    with folder(tmp_path / "broken", settings) as opened:
        with pytest.raises(KeyboardInterrupt):
            broken.study.run(settings, opened)
        kept = opened.path / "checkpoints"
        assert [path.name for path in kept.iterdir()] == ["seed-1"]  # of the stage that is not done
        unfinished = broken.study.report(settings, opened)
        assert not unfinished["complete"] and list(unfinished["arms"]) == ["seed 0"]
        broken.fails = None
        broken.study.run(settings, opened)
        assert not list(kept.iterdir())
        finished = broken.study.report(settings, opened)
    assert broken.done == [0, 1, 1, 2] and whole.done == [0, 1, 2]
    assert broken.seen == {0: [], 1: ["seed 0"], 2: ["seed 0", "seed 1"]}
    assert finished["complete"] and set(finished["seconds"]) == {"seed 0", "seed 1", "seed 2"}
    first, second = (tmp_path / name / "metrics.jsonl" for name in ("whole", "broken"))
    assert first.read_bytes() == second.read_bytes()
    assert json.loads((tmp_path / "broken" / "summary.json").read_text()) == finished
    assert (tmp_path / "broken" / "figures" / "losses.png").is_file()


def test_a_stage_that_diverges_is_named_and_those_before_it_stay(folder, tmp_path):
    stub, settings = Stub(fails=1, error=FloatingPointError("no rate is finite")), Settings()
    with folder(tmp_path / "run", settings) as opened:
        with pytest.raises(RunError, match="seed 1: no rate is finite"):
            stub.study.run(settings, opened)
        assert [record["stage"] for record in opened.metrics()] == ["seed 0"]


def test_a_run_folder_of_the_old_layout_is_refused(folder, tmp_path):
    with folder(tmp_path / "run", Settings()) as opened:
        opened.append({"arm": "sgd", "epoch": 0})
        for call in (Stub().study.run, Stub().study.report):
            with pytest.raises(RunError, match=r"earlier version.*another folder"):
                call(Settings(), opened)


def test_a_run_without_measurements_has_no_report(folder, tmp_path):
    with (
        folder(tmp_path / "run", Settings()) as opened,
        pytest.raises(RunError, match="no measurement yet; go on with: nestax resume"),
    ):
        Stub().study.report(Settings(), opened)


# Of all studies


@pytest.fixture(params=STUDIES)
def settings(request):
    """The class of each study's settings."""
    return EXPERIMENTS[request.param].settings


def test_settings_come_back_from_a_run_folder_as_they_were(settings):
    one = settings()
    stored = json.loads(json.dumps(dataclasses.asdict(one)))
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    assert settings(**values) == one


def test_every_preset_is_applied_and_every_bound_is_kept(settings):
    for field in dataclasses.fields(settings):
        for words, value in field.metadata.get("presets", {}).items():
            *task, preset = words.split()  # those of a task are said with it: "omniglot small"
            found = getattr(
                settings(preset=preset, **({"task": task[0]} if task else {})), field.name
            )
            assert found == value or value == ("all",), field.name
        bounds = field.metadata.get("bounds", {})
        real = float in (field.type, *get_args(field.type))
        wrong = {"least": -1, "above": 0, "most": 1, "below": 0, "multiple": 1}
        for name in {"least", "above", "most", "below"} & set(bounds):
            with pytest.raises(SettingsError, match=f"{field.name} must be"):
                settings(**{field.name: (float if real else int)(bounds[name] + wrong[name])})
        if "known" in field.metadata:
            for given in (("nothing",), ()):
                if given or not field.metadata["presets"]:
                    with pytest.raises(SettingsError, match=f"{field.name} must be named"):
                        settings(**{field.name: given})


def test_every_number_among_settings_has_a_bound(settings):
    """So that nonsense is refused before a run begins."""
    for field in dataclasses.fields(settings):
        value = getattr(settings(), field.name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            nonsense = -1 if isinstance(value, int) else np.nan
            with pytest.raises(SettingsError, match=field.name):
                settings(**{field.name: nonsense})
