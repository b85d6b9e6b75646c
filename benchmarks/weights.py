"""Writes the trained weights that nestax ships, from a run of the study of learned optimizers.

    nestax run learned-optimizers --out runs/learned
    python benchmarks/weights.py runs/learned

Of the meta-seeds of a rule the one with the lowest meta-loss over the last hundred outer steps is
taken; the worlds that rules are judged on have no say.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.datasets import load_digits

from nestax import learned
from nestax.learned.loading import text
from nestax.runs import RunFolder
from nestax_studies import learned_optimizers as study
from nestax_studies.lab.records import read_back

FOLDER = Path(learned.__file__).parent / "weights"
OPTIONS = {"small_fc": {"step": 0.01}}
LICENCE = "Apache-2.0, as nestax; made by nestax's own meta-training, no weights of others"


def curve(rule: learned.Rule, theta: Any, rate: float | None) -> list[float]:
    """What the weights do on digits, which come with scikit-learn: means of 8 tasks."""
    digits: Any = load_digits()
    images = np.float32(digits.images.reshape(-1, 64) / 16)
    family = learned.mlps((images, np.int32(digits.target)), hidden=(32,), batch=128)
    schedule = 1.0 if rate is None else study.falling(rate, 50)
    found = learned.curves(rule(theta, schedule), family, jax.random.key(7), steps=50, tasks=8)
    return [float(f"{x:.4g}") for x in np.mean(np.asarray(found), 0)]


def write(name: str, run: RunFolder, records: dict[str, Any]) -> None:
    arm, record = study.TRAINED[name], records[f"train {name}"]
    last = np.mean(np.asarray(record["losses"])[-100 // study.CHUNK :], 0)
    seed = int(np.argmin(last))
    theta = jax.tree.map(lambda a: a[seed], study.weights(record, arm.rule))
    tuned = records[study.FAMILY][name]["rate"]
    rate = float(f"{tuned:.4g}") if arm.cosine else None
    recipe = {
        "task": "perceptrons 64-32-10 (relu, tanh, gelu) on digits and Fashion-MNIST of 8 x 8",
        "phases": [
            {"outer steps": steps, "horizon": phase.horizon, "flow": str(phase.flow),
             "rate of theta": phase.rate}
            for steps, phase in zip(record["steps"], arm.phases, strict=True)
        ],
        "pairs": study.PAIRS, "truncation": study.TRUNCATION, "seconds": round(record["seconds"]),
        "learning rate while training": arm.rate,
        "commit": run.read_json("facts.json", "machine")["machine"].get("commit", ""),
    }  # fmt: skip
    content = text(
        name, OPTIONS.get(name, {}), theta, learning_rate=rate, most=most(name, records),
        licence=LICENCE, seed=seed, seeds=len(last), recipe=recipe,
        curve=curve(arm.rule, theta, rate),
        curve_of="mean of 8 tasks of mlps((images / 16, labels) of load_digits(), hidden=(32,), "
        "batch=128), key 7, 50 steps",
    )  # fmt: skip
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(content, "utf-8")
    print(f"{path.name}: {len(content)} bytes, seed {seed} of {len(last)}, rate {rate}")


def most(name: str, records: dict[str, Any]) -> int:
    """The longest training on MNIST at which the rule is at most a tenth above tuned Adam."""
    fit = 100
    for world, steps in study.LONGER.items():
        losses = (np.median(records[world][arm]["loss"]) for arm in (name, "adam"))
        mine, adam = losses
        if mine <= 1.1 * adam and fit >= 100:
            fit = steps
        else:
            break
    return fit


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the weights that are shipped")
    parser.add_argument("run", type=Path)
    parser.add_argument("names", nargs="*", default=["delta_momentum", "normalized", "small_fc"])
    options = parser.parse_args()
    with RunFolder(options.run) as run:
        stages = {line["stage"]: read_back(line) for line in run.metrics()}
        for name in options.names:
            write(name, run, stages)


if __name__ == "__main__":
    main()
