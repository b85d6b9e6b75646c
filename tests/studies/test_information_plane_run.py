"""Whole runs on embedded data: complete folders, resumed ones, refused ones."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from nestax.runs import RunFolder
from nestax_studies import cli
from nestax_studies.information_plane import Settings, experiment

SMALL = [
    "run",
    "information-plane",
    "--arms=sgd,dmgd",
    "--widths=4,3",
    "--epochs=30",
    "--seeds=2",
    "--measurements=6",
    "--kde-points=50",
    "--learning-rate=0.1",
]


def start(arguments, tmp_path):
    """The command in a process of its own; compiled programs are shared between processes."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "nestax", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(arguments, tmp_path):
    process = start(arguments, tmp_path)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


def lines(folder):
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def test_killed_at_several_moments_and_resumed_it_ends_as_if_nothing_had_happened(tmp_path, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    out = finish([*SMALL, f"--out={whole}"], tmp_path)
    assert "report: " in out
    assert "\x1b" not in out
    process = start([*SMALL, f"--out={broken}"], tmp_path)
    for moment in (1, 7):
        deadline = time.monotonic() + 120
        while lines(broken) < moment and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        process = start(["resume", str(broken)], tmp_path)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()

    summaries = [json.loads((f / "summary.json").read_text()) for f in (whole, broken)]
    assert summaries[0]["verdicts"] == summaries[1]["verdicts"]
    assert summaries[0]["complete"] and summaries[1]["complete"]
    names = {p.name for p in whole.iterdir()}
    assert names >= {"settings.json", "metrics.jsonl", "checkpoints", "figures", "report.html"}
    records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    schedule = Settings(epochs=30, measurements=6).schedule()
    assert [r["epoch"] for r in records] == 2 * list(schedule)
    assert [r["arm"] for r in records] == ["sgd"] * len(schedule) + ["dmgd"] * len(schedule)

    # The report is rebuilt from what was measured, without training.
    for name in ("report.html", "summary.json"):
        (whole / name).unlink()
    cli.main(["report", str(whole)])
    assert json.loads((whole / "summary.json").read_text()) == summaries[0]
    assert (whole / "report.html").stat().st_size > 10_000

    # A finished run can be resumed (nothing to do), not silently repeated or continued otherwise.
    before = (whole / "metrics.jsonl").read_bytes()
    cli.main([*SMALL, f"--out={whole}", "--resume"])
    capsys.readouterr()
    for extra, message in (
        ([], "already holds a run"),
        (["--resume", "--overwrite"], "give one"),
        (["--resume", "--seeds=3"], "has other settings (seeds)"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main([*SMALL, f"--out={whole}", *extra])
        assert stopped.value.code in (1, 2)
        assert message in capsys.readouterr().err
    assert (whole / "metrics.jsonl").read_bytes() == before


def test_interrupted_between_two_measurements_it_goes_on_from_there(tmp_path, monkeypatch, capsys):
    """Checkpoints after every piece of training, an interruption at each of the first ones."""
    monkeypatch.setattr(experiment, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(experiment, "_PIECE_SECONDS", 0.0)
    arguments = ["--arms=sgd", "--widths=3", "--epochs=9", "--seeds=1", "--measurements=3"]
    arguments = ["run", "information-plane", *arguments, "--kde-points=20"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    cli.main([*arguments, f"--out={whole}"])
    steps, save = [], RunFolder.checkpoint

    def interrupted(self, step, state, meta):
        save(self, step, state, meta)
        steps.append(step)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "checkpoint", interrupted)
    command = [*arguments, f"--out={broken}"]
    for _ in range(4):
        with pytest.raises(SystemExit) as stopped:
            cli.main(command)
        assert stopped.value.code == 130
        assert f"go on with: nestax resume {broken}" in capsys.readouterr().err
        command = ["resume", str(broken)]
    monkeypatch.setattr(RunFolder, "checkpoint", save)
    cli.main(command)
    assert steps == [1, 2, 3, 4]  # 2 and 4 lie between measurements
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_weights_that_overflow_after_a_finite_loss_are_a_divergence_too(tmp_path, capsys):
    arguments = ["--arms=sgd", "--widths=3", "--epochs=1", "--batch-size=1437"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(
            ["run", "information-plane", *arguments, "--learning-rate=1e38", f"--out={tmp_path}/r"]
        )
    assert stopped.value.code == 1
    assert "not finite in epoch 1" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_with_the_place_and_keeps_what_there_is(tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = [a for a in SMALL if not a.startswith("--learning-rate")]
    with pytest.raises(SystemExit) as stopped:
        cli.main([*arguments, "--learning-rate=1e38", "--arms=sgd", f"--out={folder}"])
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    assert "the loss of SGD is not finite in epoch 1 (seeds 0, 1, learning rate 1e+38)" in message
    assert "smaller --learning-rate" in message
    assert lines(folder) == 1
    cli.main(["report", str(folder)])
    assert "The run is not finished" in capsys.readouterr().out
    assert "The run is not finished" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ("sgd", "adamax")}, "unknown arms adamax; there are: sgd, gdm"),
        ({"arms": ("sgd", "sgd")}, "named once each"),
        ({"arms": ()}, "named once each, got none"),
        ({"widths": (3, 0)}, "widths must be positive"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"measurements": 1}, "measurements must be at least 2"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"tune": True, "match_step": 1e-3}, "give one of them"),
        ({"tune_epochs": 3}, "give --tune as well"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Settings(**options)


def test_schedule_is_log_spaced_and_complete():
    schedule = Settings(epochs=3999, measurements=25).schedule()
    assert schedule[:3] == (0, 1, 2)
    assert schedule[-1] == 3999
    assert len(schedule) <= 25
    assert Settings(epochs=1).schedule() == (0, 1)
    assert list(schedule) == sorted(set(schedule))


def test_all_arms_can_be_asked_for():
    assert {"sgd", "dmgd", "published"} < set(Settings(arms=("all",)).arms)
