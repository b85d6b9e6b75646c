"""Learning to learn from few examples: MAML and two approximations of it, on the same nest.

Sources: Finn, Abbeel and Levine, "Model-agnostic meta-learning" (2017), sections 5.1 and 5.2, for
MAML and its first-order form; Rajeswaran, Finn, Kakade and Levine, "Meta-learning with implicit
gradients" (2019), for iMAML.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nestax.flows import CG, Direct, Implicit, Unroll
from nestax.levels import DivergenceError, Held, Level, Nest

from .. import lab
from ..lab import train
from ..lab.figures import Line, Panel, Sheet, curves
from ..lab.options import Preset
from .tasks import Episode, Family, omniglot, sinusoids

ARMS = {
    "unrolled": "MAML, unrolled",
    "first-order": "MAML, first order",
    "implicit": "iMAML",
    "joint": "no adaptation in learning",
}
TESTED = 600  # fresh tasks to judge by
_POINTS = 60  # of a learning curve
# Adaptation is never complete: what is left of its gradient is recorded rather than warned of.
_FLOWS = {"unrolled": Unroll(), "implicit": Implicit(CG(5), tolerance=1e6)}
_RATES = "inner", "outer", "pull"
_EXACTNESS = "inner_gradient", "residual"  # of an implicit gradient
# All combinations are tried: of the adaptation's rates, the initialization's rates, and pulls.
_TRIED = {
    "sinusoid": ((0.01, 0.03), (1e-3, 3e-3), (0.0,)),
    "omniglot": ((0.2, 0.4), (1e-3, 3e-3), (0.0,)),
    "sinusoid implicit": ((0.02,), (1e-3, 3e-3), (3.0, 10.0)),
    "omniglot implicit": ((0.2,), (1e-3, 3e-3), (0.5, 2.0)),
}


def _sized(small: int, full: int, omniglot_small: int, omniglot_full: int) -> Any:
    """A number of at least 1 with presets of its own on Omniglot."""
    more = {"omniglot small": omniglot_small, "omniglot full": omniglot_full}
    return lab.option(least=1, small=small, full=full, **more)


@dataclasses.dataclass(frozen=True)
class Settings(lab.Options):
    """Does it pay to differentiate through the learning of a task?

    Attributes:
        task: Sine waves from a few points, or Omniglot characters of five classes, pictures turned
            by quarters counted as classes of their own.
        preset: What is not given below: small is for two cores, full has the size of the
            publications.
        arms: Ways to take the gradient, separated by commas, of unrolled, first-order, implicit
            and joint, the control that does not adapt while it learns; or all, on Omniglot without
            joint.
        tune: Choose each arm's rates by its score on validation tasks after a tenth of the steps,
            of four candidates for each.
        seeds: Initial weights and streams of tasks.
        steps: Updates of the initialization.
        tasks: Tasks in each of them.
        shots: Examples to adapt to; on Omniglot of each class.
        width: Units of the two hidden layers, or filters of each of four convolutions.
        inner_steps: Steps of adaptation while learning.
        test_steps: Steps of adaptation when judged.
        implicit_steps: Both for implicit, whose gradient holds where adaptation converges.
    """

    task: Literal["sinusoid", "omniglot"] = "sinusoid"
    preset: Preset = "small"
    arms: tuple[str, ...] = lab.names(ARMS)
    tune: bool = True
    seeds: int | None = _sized(3, 5, 2, 3)
    steps: int | None = _sized(3000, 60000, 3000, 30000)
    tasks: int | None = _sized(25, 25, 16, 32)
    shots: int | None = _sized(10, 10, 1, 1)
    width: int | None = _sized(40, 40, 32, 64)
    inner_steps: int | None = _sized(10, 10, 1, 1)
    test_steps: int | None = _sized(10, 10, 3, 3)
    implicit_steps: int | None = _sized(20, 20, 5, 16)

    def __post_init__(self) -> None:
        if self.task == "omniglot" and self.arms == ("all",):
            object.__setattr__(self, "arms", tuple(arm for arm in ARMS if arm != "joint"))
        super().__post_init__()

    @property
    def _preset_key(self) -> str:
        return f"omniglot {self.preset}" if self.task == "omniglot" else self.preset


def system(
    family: Family, arm: str, steps: int, tasks: int, sample: Callable, still: bool = False
) -> Nest:
    """The nest: a level adapts to a task, one learns what adaptation begins with, and one holds the
    rates of both, so that other rates need no other program.

    The inner value is the shift from the initialization, which starts as zero, not the adapted
    weights; so the initialization occurs in the outer objective too. `Unroll()` differentiates
    through the shift's steps: MAML. `Direct()`, the partial derivative, is the gradient at the
    adapted weights: first-order MAML. `Implicit` eliminates the shift where (H + pull) shift = -g,
    whence (I + H / pull)^-1: iMAML. With `still` nothing is learned and every step is judged.
    """

    def adapted(v: dict[str, Any]) -> Any:
        return jax.tree.map(jnp.add, v["init"], v["shift"])

    def inner(v: dict[str, Any], episode: Episode) -> Any:
        size = sum(jnp.sum(x**2) for x in jax.tree.leaves(v["shift"]))
        loss = family.judge(adapted(v), episode.support)[0] + v["rates"]["pull"] / 2 * size
        return (loss, family.judge(adapted(v), episode.query)[1]) if still else loss

    def outer(v: dict[str, Any], episode: Episode) -> Any:
        weights = v["init"] if arm == "joint" and not still else adapted(v)
        return family.judge(weights, episode.query)

    def zero(v: dict[str, Any], episode: Episode, key: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, v["init"])

    shift = Level("shift", inner, lambda v: optax.sgd(v["rates"]["inner"]), start=zero)
    learned = Level("init", outer, _adam, every=steps, flow=_FLOWS.get(arm, Direct()))
    init = Held("init", every=steps, report=outer) if still else learned
    return Nest([shift, init, Held("rates", every=steps)], task=sample, copies=tasks)


def _adam(v: dict[str, Any]) -> optax.GradientTransformation:
    """Its rate falls to zero along half a cosine."""
    rate, steps = v["rates"]["outer"], v["rates"]["steps"]
    return optax.adam(lambda step: rate * (1 + jnp.cos(jnp.pi * jnp.minimum(step / steps, 1))) / 2)


def family_of(settings: Any) -> Family:
    make = functools.partial(omniglot, 5) if settings.task == "omniglot" else sinusoids
    return make(settings.shots, settings.width)


def values_of(init: Any, rates: dict[str, Any]) -> dict[str, Any]:
    """What a nest begins with: weights, and the rates "inner", "outer", "pull" and "steps"."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), {"init": init, "rates": rates})


def stages(settings: Any, tested: int = TESTED) -> dict[str, lab.Stage]:
    """A stage for each arm; all are judged by the same nests, on so many fresh tasks."""
    family = functools.cache(lambda: family_of(settings))  # may read a file

    @functools.cache
    def judge(part: str, steps: int) -> Nest:
        return system(family(), "joint", steps, tested, getattr(family(), part), still=True)

    def learns(arm: str) -> lab.Stage:
        return lambda desk: learn(settings, arm, family(), judge, desk)

    return {arm: learns(arm) for arm in settings.arms}


def learn(
    settings: Any, arm: str, family: Family, judge: Callable[..., Nest], desk: lab.Desk
) -> lab.Record:
    """One arm: its rates chosen, its seeds trained and judged.

    Raises:
        FloatingPointError: all of its rates diverge.
    """
    implicit = arm == "implicit"
    length = settings.implicit_steps if implicit else settings.inner_steps
    nest = system(family, arm, length, settings.tasks, family.train)
    grid = itertools.product(*_TRIED[f"{settings.task} implicit" if implicit else settings.task])
    tried: list[Any] = [dict(zip(_RATES, rates, strict=True)) for rates in grid]

    def trained(rates: dict[str, float], seed: int, steps: int, name: str) -> Any:
        """None if it diverges."""
        key = jax.random.key(seed)
        init = family.init(jax.random.fold_in(key, 0))
        state = nest.init(values_of(init, rates | {"steps": steps}), key)

        def words(done: int, infos: Any) -> str:
            return f"{name}  {done}/{steps}  loss {np.mean(infos['init'].loss[-20:]):.3g}"

        try:
            return train.watched(nest, state, steps, desk, name, words)
        except DivergenceError:
            return None

    def judged(part: str, run: Any) -> np.ndarray:
        """Scores of fresh tasks, the same for every arm, (task, steps taken)."""
        still = judge(part, settings.implicit_steps if implicit else settings.test_steps)
        values = {name: run[0].values[name] for name in ("init", "rates")}
        _, info = still.step(still.init(values, jax.random.key(2026)))
        return np.concatenate([info["shift"].user, info["init"].user]).T

    sweep = []
    for number, rates in enumerate(tried if settings.tune else ()):
        run = trained(rates, 99, -(-settings.steps // 10), f"candidate-{number}")
        score = float(judged("valid", run)[:, -1].mean()) if run else np.nan
        sweep += [rates | {"score": score}] if np.isfinite(score) else []
    best_first = sorted(sweep, key=lambda one: one["score"], reverse=settings.task == "omniglot")
    for place, best in enumerate(best_first if settings.tune else tried[-1:]):
        rates = {name: best[name] for name in _RATES}
        every = (
            trained(rates, seed, settings.steps, f"choice-{place}-seed-{seed}")
            for seed in range(settings.seeds)
        )
        runs = list(itertools.takewhile(bool, every))
        if len(runs) == settings.seeds:
            seeds = [
                _curve(*run[1:]) | {"scores": judged("test", run).round(5).tolist()} for run in runs
            ]
            return {"rates": rates, "sweep": sweep, "seeds": seeds}
        best["diverged"] = True  # a tenth of the steps did not show it; the next best then
    raise FloatingPointError("every choice of its rates diverges")


def _curve(infos: Any, rows: Any) -> dict[str, Any]:
    """A seed's learning curve, averaged; and how exact an implicit gradient was at its end."""
    parts = np.array_split(
        [(row["step"], row["loss"]["init"]) for row in rows], min(_POINTS, len(rows))
    )
    step, loss = np.transpose([part.mean(0) for part in parts]).tolist()
    found = {"step": step, "loss": loss}
    info = infos["init"]
    if info.residual is not None and len(info.residual):
        tail = max(1, len(info.residual) // 10)
        found |= {name: float(np.median(info[name][-tail:])) for name in _EXACTNESS}
    return found


def scores_of(record: lab.Record) -> np.ndarray:
    """Scores of the same fresh tasks for all arms, (seed, task, steps of adaptation taken)."""
    return np.asarray([seed["scores"] for seed in record["seeds"]])


def interval(values: np.ndarray) -> tuple[float, float]:
    """The mean and half the width of its 95 % interval."""
    return float(values.mean()), float(1.96 * values.std(ddof=1) / len(values) ** 0.5)


# Of each task a claim, its criterion, arms and rule; then criterion and rule of the approximations.
# Rules are about the seeds' means, or numbers that an interval's lower end must reach.
_CLAIMS: dict[str, tuple[str, str, tuple[str, ...], Any, str, Any]] = {
    "sinusoid": (
        "Learning to adapt is not learning all tasks at once (Finn et al. 2017)",
        "after adaptation at most a fifth of the error of the control, in every seed",
        ("unrolled", "joint"), lambda exact, joint: exact.max() <= joint.min() / 5,
        "an error of at most 1.2 times that of MAML",
        lambda other, exact: other.mean() <= 1.2 * exact.mean(),
    ),
    "omniglot": (
        "An initialization learnt by MAML tells five new characters apart after one drawing of "
        "each (Finn et al. 2017)",
        "accuracy of at least 90 % on characters of unseen alphabets, at the lower end of its "
        "interval; the publication reaches 98.7 % on an easier split with more training",
        ("unrolled",), 0.9,
        "no worse than 1 point, at the lower end of the paired difference's interval", -0.01,
    ),
}  # fmt: skip


def exactness(name: str, record: lab.Record) -> list[float] | None:
    """(seeds,): of an implicit gradient, at the end of learning."""
    return [seed[name] for seed in record["seeds"] if name in seed] or None


def find(settings: Any, records: lab.Records) -> lab.Findings:
    characters = settings.task == "omniglot"
    name = "accuracy" if characters else "mean squared error"
    look = ("%", 1, 100) if characters else ("", 3, 1)

    def facts(record: lab.Record) -> dict[str, str]:
        mean, half = interval(scores_of(record)[:, :, -1].mean(0))
        rates = {name: f"{record['rates'][name]:g}" for name in _RATES}
        return rates | {"mean over all": f"{mean:.3f} ± {half:.3f}"}

    means = lambda step: lambda record: scores_of(record)[:, :, step].mean(1)  # noqa: E731
    measures = [
        lab.Measure(f"{name} before", means(0), *look),
        lab.Measure(f"{name} after adaptation", means(-1), *look),
        *(lab.number(n.replace("_", " "), functools.partial(exactness, n)) for n in _EXACTNESS),
    ]
    caption = (
        "On fresh tasks, the same for all: means over tasks, and their median (least to most) over "
        "seeds; the mean over tasks and seeds has its 95 % interval over tasks. Rates are of the "
        "adaptation (inner) and of the initialization (outer)."
    )
    cases = {(ARMS[arm],): record for arm, record in records.items()}
    table = lab.numbers(("arm",), cases, measures, caption, facts)
    more = {
        arm: {"sweep": r["sweep"], "by_step": scores_of(r).mean((0, 1)).tolist()}
        for arm, r in records.items()
    }
    final = {arm: scores_of(r)[:, :, -1] for arm, r in records.items()}
    return lab.Findings(table, verdicts(settings.task, final), more)


def verdicts(task: str, scores: dict[str, np.ndarray]) -> list[lab.Verdict]:
    """`scores`: arm -> final scores of the same fresh tasks, (seed, task)."""

    def judge(claim: str, criterion: str, arms: tuple[str, ...], rule: Any) -> lab.Verdict:
        means = {ARMS[arm]: scores[arm].mean(1) if arm in scores else None for arm in arms}
        shown, text, low = functools.partial(lab.spread, digits=2, scale=1), "", np.nan
        if task == "omniglot" and set(arms) <= set(scores):
            # Of the scores, or of how much they exceed the second arm's on the same tasks.
            paired = scores[arms[0]] - (scores[arms[1]] if arms[1:] else 0)
            mean, half = interval(paired.mean(0))
            text = f"{100 * mean:.1f} ± {100 * half:.1f} {'points' if arms[1:] else '%'}"
            low = mean - half
        holds = rule if callable(rule) else lambda *_: low >= rule
        return lab.judge(claim, criterion, means, holds, shown=shown, unit="", measured=text)

    claim, criterion, arms, first, bound, rule = _CLAIMS[task]
    first_order = "First-order MAML does nearly as well as MAML (Finn et al. 2017)"
    implicit = "iMAML does as well as MAML (Rajeswaran et al. 2019)"
    return [
        judge(claim, criterion, arms, first),
        judge(first_order, bound, ("first-order", "unrolled"), rule),
        judge(implicit, bound, ("implicit", "unrolled"), rule),
    ]


def draw(settings: Any, records: lab.Records) -> list[Sheet]:
    error = settings.task == "sinusoid"
    loss, log = ("mean squared error", "y") if error else ("cross entropy in nats", "")
    learning, adapting = [], []
    for arm, record in records.items():
        losses, scores = np.asarray([s["loss"] for s in record["seeds"]]), scores_of(record)
        learning.append(Line(record["seeds"][0]["step"], losses.T, ARMS[arm]))
        adapting.append(Line(range(scores.shape[2]), scores.mean(1).T, ARMS[arm]))
    x, score = "update of the initialization", loss if error else "accuracy"
    panels = [
        Panel("Learning", x, f"loss after adaptation, {loss}", learning, log=log),
        Panel("Fresh tasks", "step of adaptation", score, adapting, log=log),
    ]
    caption = (
        "Left: the loss that is learned from, averaged over neighbouring updates. Right: fresh "
        "tasks, mean over all of them. Lines are medians over seeds, bands their range."
    )
    return [curves("maml", panels, "Learning to learn", caption)]


def example(settings: Any) -> lab.Example:
    """The nest with few tasks."""
    family = family_of(settings)
    nest = system(family, "unrolled", 10, 4, family.train)
    rates = {"inner": 0.01, "outer": 1e-3, "pull": 3.0, "steps": settings.steps}
    state = nest.init(values_of(family.init(jax.random.key(0)), rates), jax.random.key(0))
    flows = {"MAML": Unroll(), "last step": Unroll(last=1), "first order": Direct()}
    flows |= {f"iMAML, {n} products": Implicit(CG(n), tolerance=1e6) for n in (5, 20)}
    return lab.Example(nest, state, "init", flows)


LEAD = """An initialization is learned from which few examples of a new task suffice. The gradient
through the adaptation is taken in full (MAML), at the adapted weights only (first order), or by the
implicit function theorem (iMAML)."""
TITLE = "Learning to learn from few examples"
STUDY = lab.Study(TITLE, LEAD, Settings, stages, find, draw, example)
