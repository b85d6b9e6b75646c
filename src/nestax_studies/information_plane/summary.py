"""From measurements to summary, figures and report; computes nothing anew."""

from typing import Any

import numpy as np

from nestax.runs import (
    Details,
    Picture,
    RunError,
    RunFolder,
    Section,
    Table,
    Text,
    refusals,
    write_report,
)

from .arms import ARMS
from .claims import ARTEFACT, NOT_MEASURED, NOT_SUPPORTED, SUPPORTED, verdicts
from .curves import curves, gap_at_equal_loss
from .experiment import FACTS
from .figures import draw
from .measure import SCALE_BOUND, SCALE_FREE
from .settings import Settings

_LEAD = (
    "Small networks were trained with several optimizers, and the information that their hidden "
    "layers carry about inputs and labels was estimated in several ways, beside controls that tell "
    "compression from a change of scale. Nothing was tuned toward or against the published figure."
)

_UNFINISHED = "The run is not finished; only finished arms are judged."
# The estimators whose values are shown beside a verdict; all of them are in its details.
_SHOWN = ("gaussian", "binned30", "kde_standardized_upper", "quantile4")
_BADGES = {SUPPORTED: "good", NOT_SUPPORTED: "bad", ARTEFACT: "warn", NOT_MEASURED: "muted"}


def report(settings: Settings, folder: RunFolder) -> list[str]:
    """Writes summary.json, figures/ and report.html; returns the verdicts as lines.

    Raises:
        RunError: there is no measurement yet.
    """
    metrics = folder.metrics("arm", "epoch")
    if not metrics:
        raise RunError(
            f"{folder.path} holds no measurement yet; go on with: nestax resume {folder.path}"
        )
    facts = folder.read_json("facts.json", *FACTS)
    if not facts:
        raise RunError(f"{folder.path / 'facts.json'} is missing; put back what the run wrote")
    summary = summarize(settings, metrics, facts)
    folder.write_json("summary.json", summary)
    with refusals(folder.path):
        directory = folder.path / "figures"
        directory.mkdir(exist_ok=True)
        pictures = [Picture(d.path, d.caption, d.title) for d in draw(metrics, summary, directory)]
        write_report(
            folder.path / "report.html",
            "The information plane of nested optimizers",
            _LEAD if summary["complete"] else f"{_UNFINISHED}\n\n{_LEAD}",
            [
                Section("Verdicts", _verdict_blocks(summary)),
                Section("Arms", [_arm_table(summary), *_sweep_blocks(summary)]),
                Section("Figures", pictures),
                Section("How it was measured", [Text(_method(summary)), _machine_table(summary)]),
            ],
        )
    return _lines(summary)


def summarize(
    settings: Settings, metrics: list[dict[str, Any]], facts: dict[str, Any]
) -> dict[str, Any]:
    """Every number that the report prints, JSON-able."""
    by_arm = curves(metrics)
    arms = {}
    for name, c in by_arm.items():
        choice = facts["rates"][name]
        arms[name] = {
            "label": ARMS[name].label,
            "description": ARMS[name].description,
            "rate": choice["rate"],
            "rate_source": choice["how"],
            "sweep": choice.get("sweep", []),
            "epoch": int(c.epochs[-1]),
            "accuracy": {p: _spread(c.performance(p, "accuracy")[-1]) for p in ("train", "test")},
            "loss": {p: _spread(c.performance(p, "loss")[-1]) for p in ("train", "test")},
            "controls": {
                control: [
                    _spread(np.array(c.records[-1]["controls"][control])[:, layer])
                    for layer in range(len(settings.widths))
                ]
                for control in c.records[-1]["controls"]
            },
            "information": {
                estimator: {
                    axis: [
                        _spread(c.information(estimator, axis)[-1, :, layer])
                        for layer in range(len(settings.widths))
                    ]
                    for axis in ("x", "y")
                }
                for estimator in c.records[-1]["information"]["train"]
            },
        }
    # One arm that never learned would leave the others no loss in common with it.
    learned = {
        arm: c
        for arm, c in by_arm.items()
        if np.all((loss := c.performance("train", "loss")).min(0) < loss[0] / 2)
    }
    losses, gaps = gap_at_equal_loss(learned)
    return {
        "experiment": "information-plane",
        "settings": {k: getattr(settings, k) for k in settings.__dataclass_fields__},
        "images": facts["images"],
        "complete": all(
            arm in by_arm and by_arm[arm].epochs[-1] == settings.epochs for arm in settings.arms
        ),
        "ceilings": facts["ceilings"],
        "arms": arms,
        "generalization": {
            "losses": losses.tolist(),
            "arms": {
                arm: {
                    "median": np.median(values, 1).tolist(),
                    "low": values.min(1).tolist(),
                    "high": values.max(1).tolist(),
                }
                for arm, values in gaps.items()
            },
        },
        "verdicts": verdicts(metrics, settings.epochs, facts["ceilings"]),
        "machine": facts["machine"],
        "seconds": facts["seconds"],
    }


def _spread(seeds: np.ndarray) -> dict[str, float]:
    return {
        "median": float(np.median(seeds)),
        "low": float(seeds.min()),
        "high": float(seeds.max()),
    }


def _range(spread: dict[str, Any], factor: int = 1, digits: int = 1) -> str:
    low, mid, high = (factor * spread[k] for k in ("low", "median", "high"))
    return f"{mid:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _values(row: dict[str, Any], names: tuple[str, ...]) -> str:
    """The judged values with their spread over seeds."""
    values = row["by_estimator"]
    shown = [name for name in names if name in values] or list(values)
    return "; ".join(
        f"{name} {v['median']:.3g} ({v['low']:.3g} to {v['high']:.3g})"
        for name, v in ((name, values[name]) for name in shown)
    )


def _verdict_blocks(summary: dict[str, Any]) -> list[Any]:
    rows = summary["verdicts"]
    table = Table(
        ["Claim", "Arm", "Criterion", "Verdict", "Because", "Values (seeds, least to most)"],
        [
            [
                r["claim"],
                _label(r["arm"]),
                r["criterion"],
                r["verdict"],
                r["because"],
                f"{_values(r, _SHOWN)} [{r['unit']}]" if r["by_estimator"] else "",
            ]
            for r in rows
        ],
        "Supported: met under every scale-free estimator and at least one scale-bound one. Not "
        "supported: met under no scale-bound one. Artefact: otherwise. A claim of absence is "
        "supported unless the presence it denies would be.",
        _BADGES,
    )
    return [table, *(_details(r) for r in rows if r["by_estimator"])]


def _details(row: dict[str, Any]) -> Details:
    def yes(value: bool | None) -> str:
        return "" if value is None else "yes" if value else "no"

    return Details(
        f"{row['claim']} ({_label(row['arm'])}): the values",
        [
            Table(
                [
                    "Estimator",
                    f"Median [{row['unit']}]",
                    "Least",
                    "Most",
                    "Met",
                    "Decides",
                    "At its ceiling",
                ],
                [
                    [
                        name,
                        *(f"{v[k]:.2f}" for k in ("median", "low", "high")),
                        yes(v["met"]),
                        yes(v.get("decides")),
                        yes(v.get("at_ceiling")),
                    ]
                    for name, v in row["by_estimator"].items()
                ],
                row["criterion"],
            )
        ],
    )


def _arm_table(summary: dict[str, Any]) -> Table:
    return Table(
        [
            "Arm",
            "What it is",
            "Learning rate",
            "Train accuracy [%]",
            "Test accuracy [%]",
            "Train loss [nats]",
        ],
        [
            [
                arm["label"],
                arm["description"],
                f"{arm['rate']:.3g}, {arm['rate_source']}",
                _range(arm["accuracy"]["train"], 100),
                _range(arm["accuracy"]["test"], 100),
                _range(arm["loss"]["train"], 1, 4),
            ]
            for arm in summary["arms"].values()
        ],
        "Median over seeds (least to most), at the last measurement.",
    )


def _sweep_blocks(summary: dict[str, Any]) -> list[Any]:
    swept = {a["label"]: a["sweep"] for a in summary["arms"].values() if a["sweep"]}
    if not swept:
        return []
    rates = [entry["rate"] for entry in next(iter(swept.values()))]
    rows = [
        [
            label,
            *(
                "not finite" if e["held_out_loss"] is None else f"{e['held_out_loss']:.3f}"
                for e in sweep
            ),
        ]
        for label, sweep in swept.items()
    ]
    table = Table(
        ["Arm", *(f"{rate:.2g}" for rate in rates)], rows, "Held-out loss [nats] by learning rate."
    )
    return [Details("The sweeps of the learning rate", [table])]


def _machine_table(summary: dict[str, Any]) -> Table:
    machine = summary["machine"]
    rows = [[k, str(v)] for k, v in machine.items() if k != "versions"]
    rows += [[package, version] for package, version in machine["versions"].items()]
    rows += [
        [f"seconds, {_label(arm)}", ", ".join(f"{k} {v:.1f}" for k, v in parts.items())]
        for arm, parts in summary["seconds"].items()
    ]
    return Table(["What", "Value"], rows, "Machine, versions and time.")


def _method(summary: dict[str, Any]) -> str:
    s = summary["settings"]
    return (
        f"Data {s['data']}, hidden layers {'-'.join(map(str, s['widths']))} ({s['activation']}), "
        f"{s['seeds']} seeds, {s['epochs']} epochs of batches of {s['batch_size']}. Seeds differ "
        "in their initial weights; the order of the data is shared. Information is estimated on "
        "all training images by cells, on "
        f"{min(s['kde_points'], summary['images']['train'])} by kernel density (noise variance "
        "0.1) and on 500 by the published Gaussian log-determinant (noise 0.1); "
        "I(T;Y) always on the channel of I(T;X). "
        f"Scale-bound estimators: {', '.join(SCALE_BOUND)}. Scale-free: {', '.join(SCALE_FREE)}."
    )


def _label(arm: str) -> str:
    return ARMS[arm].label if arm in ARMS else arm


def _lines(summary: dict[str, Any]) -> list[str]:
    """The verdict table for a terminal."""
    lines = [] if summary["complete"] else [_UNFINISHED]
    for r in summary["verdicts"]:
        lines.append(f"{r['verdict']:13}  {_label(r['arm']):16}  {r['claim']}")
        lines.append(f"{'':33}{r['because']}")
        if r["by_estimator"]:
            lines.append(f"{'':33}{_values(r, _SHOWN)} {r['unit']}")
    return lines
