"""What every study does alike: settings, stages that are done once, run folders."""

import dataclasses
import json
from typing import get_args

import numpy as np
import pytest
from studies import stubs

from nestax.runs import RunError, RunFolder, SettingsError
from nestax_studies.registry import EXPERIMENTS, STUDIES


def interrupted(error):
    """The stubs whose second stage ends so until the errors are taken from the list, and what
    stages were done: their name, and what was finished before."""
    done, errors = [], [error]

    def watched(name, stage):
        def does(desk):
            done.append((name, *desk.done))
            desk.path.mkdir(parents=True, exist_ok=True)
            (desk.path / "kept").write_text("what an interruption must not lose")
            desk.say("half way")
            if name == "fast" and errors:
                raise errors[0]
            return stage(desk)

        return does

    def stages(settings):
        return {name: watched(name, stage) for name, stage in stubs.stages(settings).items()}

    return dataclasses.replace(stubs.STUDY, stages=stages), done, errors


def test_an_interrupted_run_does_each_stage_once_and_equals_one_that_was_not(folder, tmp_path):
    settings = stubs.Settings(seeds=2)
    whole = stubs.STUDY.perform(tmp_path / "whole", settings)
    study, done, errors = interrupted(KeyboardInterrupt)
    with folder(tmp_path / "broken", settings) as opened:
        with pytest.raises(KeyboardInterrupt):
            study.run(settings, opened)
        kept = opened.path / "checkpoints"
        assert [path.name for path in kept.iterdir()] == ["fast"]  # of the stage that is not done
        unfinished = study.report(settings, opened)
        assert not unfinished["complete"] and list(unfinished["arms"]) == ["slow"]
        spent = unfinished["seconds"]["fast"]
        errors.clear()
        study.run(settings, opened)
        assert not list(kept.iterdir())
        finished = study.report(settings, opened)
    assert done == [("slow",), ("fast", "slow"), ("fast", "slow")]
    assert finished["complete"] and set(finished["seconds"]) == {"slow", "fast"}
    assert finished["seconds"]["fast"] > spent > 0  # both attempts count
    assert [finished[key] for key in ("arms", "claims")] == [
        whole[key] for key in ("arms", "claims")
    ]
    first, second = (tmp_path / name / "metrics.jsonl" for name in ("whole", "broken"))
    assert first.read_bytes() == second.read_bytes()
    assert json.loads((tmp_path / "broken" / "summary.json").read_text()) == finished
    assert (tmp_path / "broken" / "figures" / "scores.png").is_file()


def test_runs_that_cannot_go_on_or_be_reported_say_why(folder, tmp_path):
    settings = stubs.Settings()
    study, *_ = interrupted(FloatingPointError("no rate is finite"))
    with folder(tmp_path / "diverges", settings) as opened:
        with pytest.raises(RunError, match="no measurement yet; go on with: nestax resume"):
            study.report(settings, opened)
        with pytest.raises(RunError, match="fast: no rate is finite"):
            study.run(settings, opened)
        assert [record["stage"] for record in opened.metrics()] == ["slow"]
    with folder(tmp_path / "old", settings) as opened:
        opened.append({"arm": "sgd", "epoch": 0})
        for call in (study.run, study.report):
            with pytest.raises(RunError, match=r"earlier version.*another folder"):
                call(settings, opened)
    again = stubs.STUDY.perform(tmp_path / "done", settings)
    with pytest.warns(UserWarning, match=r"done holds this run already.*another folder"):
        assert stubs.STUDY.perform(str(tmp_path / "done"), settings) == again
    with pytest.raises(RunError, match="other settings"):
        stubs.STUDY.perform(tmp_path / "done", stubs.Settings(seeds=1))
    with RunFolder(tmp_path / "done") as opened:
        assert len(opened.metrics()) == 2


RECORD = {"score": np.array([1, np.nan, np.inf]), "rate": np.float32(0.5), "curve": [(1, 2)]}


def test_records_come_back_alike_in_the_run_that_made_them_and_in_one_that_goes_on(tmp_path):
    """Arrays as lists, and what is not finite as nan; claims about it are not measured."""
    seen = []

    def find(settings, records):
        seen.append(records["slow"])
        more = {"n": np.int64(3), "x": np.nan}
        return dataclasses.replace(stubs.find(settings, records), more=more)

    def second(desk):
        seen.append(desk.done["slow"])
        return RECORD

    study = dataclasses.replace(
        stubs.STUDY, stages=lambda s: {"slow": lambda desk: RECORD, "fast": second}, find=find
    )
    found = study.perform(tmp_path / "run", stubs.Settings())
    expected = {"stage": "slow", "score": [1.0, np.nan, np.nan], "rate": 0.5, "curve": [[1, 2]]}
    assert [repr(one) for one in seen] == 2 * [repr(expected)]
    assert found["claims"][0]["verdict"] == "not measured" and found["more"] == {"n": 3, "x": None}
    assert found["arms"]["slow"]["measures"]["score"]["values"] == [1, None, None]


def raises(settings, records):
    raise FileNotFoundError("my own data")


@pytest.mark.parametrize(
    ("stages", "parts", "said"),
    [
        *(({name: RECORD}, {}, "name of a stage must be able to name a file") for name in
          ("/abs", "..", "", "a/b")),
        ({"a b": RECORD, "a-b": RECORD}, {}, "folders must differ, got twice: a-b"),
        ({"slow": RECORD | {"stage": 1}}, {}, "'slow' must .* without the key 'stage'"),
        ({"slow": None}, {}, "'slow' must return a mapping .* got None"),
        ({"slow": {"a": {"b": [1j]}}}, {}, r"'slow': record\['a'\]\['b'\] holds a complex"),
        ({"slow": RECORD}, {"draw": lambda s, r: 2 * stubs.draw(s, r)}, "figures must differ"),
        ({"slow": RECORD}, {"draw": raises}, "my own data"),
    ],
)  # fmt: skip
def test_what_a_study_cannot_mean_is_refused_by_name(stages, parts, said, tmp_path):
    made = {name: lambda desk, record=record: record for name, record in stages.items()}
    study = dataclasses.replace(stubs.STUDY, stages=lambda s: made, **parts)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        study.perform(tmp_path / "run", stubs.Settings())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


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
            made = settings(preset=preset, **dict(zip(["task"], task, strict=False)))
            assert getattr(made, field.name) == value or value == ("all",), field.name
        bounds = field.metadata.get("bounds", {})
        kind = float if float in (field.type, *get_args(field.type)) else int
        wrong = {"least": -1, "above": 0, "most": 1, "below": 0}
        refused = [kind(bounds[name] + wrong[name]) for name in wrong if name in bounds]
        value = getattr(settings(), field.name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            refused.append(-1 if isinstance(value, int) else np.nan)  # nonsense, whatever bounds
        if "known" in field.metadata:
            refused += [("nothing",), *([] if field.metadata["presets"] else [()])]
        for value in refused:
            with pytest.raises(SettingsError, match=f"{field.name} must"):
                settings(**{field.name: value})
