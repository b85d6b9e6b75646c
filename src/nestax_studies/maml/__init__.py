"""Learning to learn from few examples: MAML and two approximations of it, on one and the same nest.

    nestax run maml --out runs/maml
    nestax run maml --task omniglot --out runs/omniglot

Sinusoids, 8 minutes on one core (3 seeds): mean squared error after ten steps of adaptation 0.16
with the full gradient, 0.44 with the first-order one, 2.3 with the implicit one, 1.45 if learning
does not adapt. The implicit gradient holds where adaptation has converged, and after twenty steps
it has not; three of its four rates diverge. Omniglot, 18 minutes on one core for the first two (2
seeds): 90.9 ± 0.6 % of five new characters are told apart after one drawing of each with the full
gradient, 86.6 ± 0.8 % with the first-order one. The implicit arm takes several times as long as
both.

Sources: Finn, Abbeel and Levine, "Model-agnostic meta-learning" (2017), sections 5.1 and 5.2, for
MAML and its first-order form; Rajeswaran, Finn, Kakade and Levine, "Meta-learning with implicit
gradients" (2019), for iMAML.
"""

import dataclasses
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nestax.flows import CG, Direct, Implicit, Unroll
from nestax.levels import DivergenceError, Level, Nest
from nestax.runs import RunFolder, SettingsError, Watch

from ..study import Example, Study
from .findings import ARMS, TESTED, figures, find
from .tasks import Episode, Family, omniglot, sinusoids

_PRESETS: dict[tuple[str, str], dict[str, int]] = {
    ("sinusoid", "small"): {"steps": 3000, "seeds": 3, "tasks": 25, "shots": 10, "width": 40,
                            "inner_steps": 10, "test_steps": 10, "implicit_steps": 20},
    ("sinusoid", "full"): {"steps": 60000, "seeds": 5, "tasks": 25, "shots": 10, "width": 40,
                           "inner_steps": 10, "test_steps": 10, "implicit_steps": 20},
    ("omniglot", "small"): {"steps": 3000, "seeds": 2, "tasks": 16, "shots": 1, "width": 32,
                            "inner_steps": 1, "test_steps": 3, "implicit_steps": 5},
    ("omniglot", "full"): {"steps": 30000, "seeds": 3, "tasks": 32, "shots": 1, "width": 64,
                           "inner_steps": 1, "test_steps": 3, "implicit_steps": 16},
}  # fmt: skip
# What is tried: rates of the adaptation, of the initialization, and pulls towards it.
_TRIED = {
    "sinusoid": ((0.01, 0.03), (1e-3, 3e-3), (0.0,)),
    "omniglot": ((0.2, 0.4), (1e-3, 3e-3), (0.0,)),
}
_TRIED_IMPLICIT = {
    "sinusoid": ((0.02,), (1e-3, 3e-3), (3.0, 10.0)),
    "omniglot": ((0.2,), (1e-3, 3e-3), (0.5, 2.0)),
}
_POINTS = 60  # of a learning curve


@dataclasses.dataclass(frozen=True)
class Settings:
    """Does it pay to differentiate through the learning of a task?

    Learns an initialization from which few examples suffice, with the gradient through the
    adaptation to them taken in several ways, and judges all on fresh tasks.

    Attributes:
        task: Sine waves from a few points, or Omniglot characters of five classes, pictures turned
            by quarters counted as classes of their own.
        preset: What is not given below: small is for two cores, full has the size of the
            publications.
        arms: Ways to take the gradient, separated by commas, of unrolled, first-order, implicit
            and joint, the control that does not adapt while it learns; or all.
        tune: Choose each arm's rates by its score on validation tasks after a tenth of the steps,
            of four candidates for each.
        seeds: Initial weights and streams of tasks.
        steps: Updates of the initialization.
        tasks: Tasks in each of them.
        shots: Examples to adapt to; on Omniglot of each class.
        width: Units of the two hidden layers, or filters of each of four convolutions.
        inner_steps: Steps of adaptation while learning.
        test_steps: The same when judged.
        implicit_steps: Both for implicit, whose gradient holds where adaptation converges.

    Raises:
        SettingsError: a value that makes no sense.
    """

    task: Literal["sinusoid", "omniglot"] = "sinusoid"
    preset: Literal["small", "full"] = "small"
    arms: tuple[str, ...] = ("all",)
    tune: bool = True
    seeds: int | None = None
    steps: int | None = None
    tasks: int | None = None
    shots: int | None = None
    width: int | None = None
    inner_steps: int | None = None
    test_steps: int | None = None
    implicit_steps: int | None = None

    def __post_init__(self) -> None:
        if self.arms == ("all",):
            object.__setattr__(self, "arms", tuple(ARMS)[: 4 if self.task == "sinusoid" else 3])
        if set(self.arms) - set(ARMS) or not self.arms or len(set(self.arms)) < len(self.arms):
            raise SettingsError(
                f"arms must be named once each, of {', '.join(ARMS)}; got "
                f"{', '.join(self.arms) or 'none'}"
            )
        for name, usual in _PRESETS[self.task, self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, usual)
            elif getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, got {getattr(self, name)}")


def system(
    family: Family, arm: str, steps: int, tasks: int, sample: Callable, still: bool = False
) -> Nest:
    """The nest: a level adapts to a task, one learns what adaptation begins with, and one, which
    stands still, holds the rates of both, so that other rates need no other program.

    The inner value is the *shift* from the initialization, not the adapted weights. It starts as
    zero, and "init" occurs in both objectives. So one declaration holds all three gradients:

    * `Unroll()` differentiates through the steps of the shift: MAML;
    * `Direct()`, the partial derivative at the shift that was found, is the gradient at the adapted
      weights: first-order MAML. Were the adapted weights the value, which starts as
      `v["init"]`, the outer objective would not mention "init", and this would be zero;
    * `Implicit` eliminates the shift where (H + pull) shift = -g, whence (I + H / pull)^-1: iMAML.

    With `still` nothing is learnt and every step of adaptation is judged.
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

    def nothing(v: dict[str, Any], episode: Episode) -> jax.Array:
        return jnp.zeros(())

    fixed, flow = optax.set_to_zero(), Direct() if still else _FLOWS.get(arm, Direct())
    shift = Level("shift", inner, lambda v: optax.sgd(v["rates"]["inner"]), start=zero)
    init = Level("init", outer, fixed if still else _adam, every=steps, flow=flow)
    rates = Level("rates", nothing, fixed, every=steps, flow=Direct())
    return Nest([shift, init, rates], task=sample, copies=tasks)


# Adaptation is never complete: what is left of its gradient is recorded rather than warned of.
_FLOWS = {"unrolled": Unroll(), "implicit": Implicit(CG(5), tolerance=1e6)}


def _adam(v: dict[str, Any]) -> optax.GradientTransformation:
    """Its rate falls to zero along half a cosine."""
    rate, steps = v["rates"]["outer"], v["rates"]["steps"]
    return optax.adam(lambda step: rate * (1 + jnp.cos(jnp.pi * jnp.minimum(step / steps, 1))) / 2)


@dataclasses.dataclass
class _Told:
    """A watch that also says how far the run is."""

    watch: Watch
    say: Callable[[str], None]

    def record(self, nest: Any, state: Any, infos: Any, done: int, steps: int) -> None:
        self.watch.record(nest, state, infos, done, steps)
        self.say(f"{done}/{steps}  loss {np.mean(infos['init'].loss[-20:]):.3g}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.watch, name)


def _family(settings: Any) -> Family:
    if settings.task == "omniglot":
        return omniglot(5, settings.shots, settings.width)
    return sinusoids(settings.shots, settings.width)


def learn(settings: Any, arm: str, path: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """One arm: its rates chosen, its seeds trained and judged. What is done is kept below `path`,
    and an interrupted run goes on from there."""
    family = _family(settings)
    implicit = arm == "implicit"
    length = settings.implicit_steps if implicit else settings.inner_steps
    test_length = settings.implicit_steps if implicit else settings.test_steps
    nest = system(family, arm, length, settings.tasks, family.train)
    judges = {
        part: system(family, arm, test_length, TESTED, getattr(family, part), still=True)
        for part in ("valid", "test")
    }

    def trained(rates: dict[str, float], seed: int, steps: int, name: str) -> tuple[Any, Any]:
        key = jax.random.key(seed)
        values = {
            "init": family.init(jax.random.fold_in(key, 0)),
            "rates": rates | {"steps": steps},
        }
        watch = _Told(Watch(path / name, progress=False), lambda text: say(f"{name}  {text}"))
        state, info = nest.run(nest.init(_floats(values), key), steps, watch=watch)
        return state.values, info["init"]

    def judged(part: str, values: Any) -> np.ndarray:
        """Scores of fresh tasks, the same for every arm, in the order (task, steps taken)."""
        values = {"init": values["init"], "rates": values["rates"]}
        state = judges[part].init(values, jax.random.key(2026))
        _, info = judges[part].step(state)
        return np.concatenate([info["shift"].user, info["init"].user]).T

    sweep = []
    grid = itertools.product(*(_TRIED_IMPLICIT if implicit else _TRIED)[settings.task])
    candidates: list[dict[str, float]] = [
        dict(zip(("inner", "outer", "pull"), one, strict=True)) for one in grid
    ]
    for number, rates in enumerate(candidates if settings.tune else ()):
        try:
            values, _ = trained(rates, 99, -(-settings.steps // 10), f"candidate-{number}")
        except DivergenceError:
            continue
        score = float(judged("valid", values)[:, -1].mean())
        sweep += [rates | {"score": score}] if np.isfinite(score) else []
    if settings.tune and not sweep:
        raise FloatingPointError("every candidate of its rates diverges")
    order = sorted(sweep, key=lambda one: one["score"], reverse=settings.task == "omniglot")
    for place, best in enumerate(order or candidates[-1:]):
        rates = {name: best[name] for name in ("inner", "outer", "pull")}
        names = [f"choice-{place}-seed-{seed}" for seed in range(settings.seeds)]
        try:
            runs = [trained(rates, seed, settings.steps, name) for seed, name in enumerate(names)]
        except DivergenceError:  # a tenth of the steps did not show it; the next best then
            best["diverged"] = True
            continue
        found = [
            _seed(path / n, v, i, judged, implicit) for n, (v, i) in zip(names, runs, strict=True)
        ]
        return {"rates": rates, "sweep": sweep, "seeds": found}
    raise FloatingPointError("every choice of its rates diverges")


def _seed(path: Path, values: Any, info: Any, judged: Callable, implicit: bool) -> dict[str, Any]:
    """What is recorded of one seed: its learning curve, averaged, and its scores."""
    with RunFolder(path) as folder:
        rows = folder.metrics("step", "loss")
    parts = np.array_split(np.arange(len(rows)), min(_POINTS, len(rows)))
    found = {
        "step": [float(np.mean([rows[i]["step"] for i in part])) for part in parts],
        "loss": [float(np.mean([rows[i]["loss"]["init"] for i in part])) for part in parts],
        "scores": judged("test", values).round(5).tolist(),
    }
    if implicit and len(info.residual):
        tail = slice(-max(1, len(info.residual) // 10), None)
        found["inner_gradient"] = float(np.median(info.inner_gradient[tail]))
        found["residual"] = float(np.median(info.residual[tail]))
    return found


def _floats(values: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), values)


def stages(settings: Settings, path: Path | None = None) -> dict[str, Any]:
    """A stage for each arm; `path` is where what they have done is kept, else nothing outlives an
    interruption."""

    def stage(arm: str) -> Callable:
        def does(say: Callable[[str], None]) -> dict[str, Any]:
            if path is not None:
                return learn(settings, arm, path / arm, say)
            with tempfile.TemporaryDirectory() as directory:
                return learn(settings, arm, Path(directory), say)

        return does

    return {arm: stage(arm) for arm in settings.arms}


def run(settings: Settings, folder: RunFolder) -> None:
    """Does the stages that the folder lacks, and goes on within the one that was interrupted."""
    kept = folder.path / "checkpoints"
    dataclasses.replace(STUDY, stages=lambda s: stages(s, kept)).run(settings, folder)


def example(settings: Any) -> Example:
    """The nest with few tasks."""
    family = _family(settings)
    nest = system(family, "unrolled", 10, 4, family.train)
    rates = {"inner": 0.01, "outer": 1e-3, "pull": 3.0, "steps": settings.steps}
    values = {"init": family.init(jax.random.key(0)), "rates": rates}
    flows = {"MAML": Unroll(), "last step": Unroll(last=1), "first order": Direct()}
    flows |= {f"iMAML, {n} products": Implicit(CG(n), tolerance=1e6) for n in (5, 20)}
    return Example(nest, nest.init(_floats(values), jax.random.key(0)), "init", flows)


STUDY = Study(
    title="Learning to learn from few examples",
    lead="An initialization is learnt from which few examples of a new task suffice. The gradient "
    "through the adaptation is taken in full (MAML), at the adapted weights only (first order), or "
    "by the implicit function theorem (iMAML).",
    stages=stages,
    find=find,
    draw=figures,
    example=example,
)
