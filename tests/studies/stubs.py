"""A study whose stages compute nothing: for what all studies have in common."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nestax.flows import Unroll
from nestax.levels import Level, Nest
from nestax_studies import lab
from nestax_studies.lab import names, option
from nestax_studies.lab.figures import Line, Panel, curves

ARMS = {"slow": 1.0, "fast": 3.0, "still": 0.0, "late": 2.0}


@dataclass(frozen=True)
class Settings(lab.Options):
    """Which stub is larger?

    Attributes:
        arms: Of slow, fast, still and late, separated by commas; or all.
        preset: small or full.
        seeds: Runs to judge by.
        steps: Of every run.
        tune: Whether anything is tuned.
    """

    arms: tuple[str, ...] = names(ARMS, ("slow", "fast"))
    preset: lab.Preset = "small"
    seeds: int = option(3, least=1)
    steps: int | None = option(small=10, full=100, least=1)
    tune: bool = True


def stages(settings):
    def does(arm):
        scores = [ARMS[arm] * settings.steps + seed for seed in range(settings.seeds)]
        return {"score": scores, "rate": 0.1, "curve": [[1.0, 2.0, 3.0]]}

    return {arm: lambda desk, arm=arm: does(arm) for arm in settings.arms}


def find(settings, records):
    measures = [lab.number("score", lambda record: record["score"], "points")]
    cases = {(arm,): record for arm, record in records.items()}
    table = lab.numbers(("arm",), cases, measures, "Scores.", lambda r: {"rate": r["rate"]})
    verdict = lab.judge(
        "The fast one scores more (Stubs, 2020)",
        "10 points more, in the median",
        {arm: records.get(arm, {}).get("score") for arm in ("slow", "fast")},
        lab.medians(lambda slow, fast: fast >= slow + 10),
        shown=lab.significant,
        unit=" points",
    )
    return lab.Findings(table, [verdict])


def draw(settings, records):
    lines = [Line([1, 2], np.outer([1, 2], r["score"]), arm) for arm, r in records.items()]
    return [curves("scores", [Panel("scores", "time", "score", lines)], "Scores", "As they were.")]


def example(settings):
    inner = Level("inner", lambda v, _: (v["inner"] - v["outer"]) ** 2 / 2, optax.sgd(0.1))
    outer = Level("outer", lambda v, _: v["inner"] ** 2, optax.sgd(0.1), every=2, flow=Unroll())
    nest = Nest([inner, outer])
    state = nest.init({"inner": jnp.ones(()), "outer": jnp.zeros(())}, jax.random.key(0))
    return lab.Example(nest, state, "outer", {"both": Unroll(), "last": Unroll(last=1)})


LEAD = "Two stubs, of which one is faster."
STUDY = lab.Study("Stubs", LEAD, Settings, stages, find, draw, example)
