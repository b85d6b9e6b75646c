"""Meta-training: a nest whose outer level is the update rule of the levels inside it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ..flows import PES
from ..levels import DivergenceError, Level, Nest, State
from ..optim.internal import number, option, whole
from .family import Family
from .rule import Rule

RULE, PARAMS = "rule", "params"  # the levels


@dataclasses.dataclass(frozen=True)
class MetaTraining:
    """What `meta_train` returns.

    Attributes:
        theta: the trained weights of the rule.
        losses: mean meta-loss of each outer step, shape (steps,); of the
            steps that this call did itself.
        bad: share of the task-steps of each outer step that were lost: a loss that is not finite, a
            scale that is not positive, a negative loss under "log"; shape (steps,).
        state: the last state of the nest.
        nest: the nest, to go on with: `nest.run(state, steps, check=False)`.
    """

    theta: PyTree
    losses: np.ndarray
    bad: np.ndarray
    state: State
    nest: Nest

    def __repr__(self) -> str:
        if not self.losses.size:
            return f"MetaTraining(nothing done, {_size(self.theta)} weights)"
        return (
            f"MetaTraining({self.losses.size} steps, {_size(self.theta)} weights, meta-loss "
            f"{self.losses[0]:.3g} -> {self.losses[-1]:.3g}, {np.mean(self.bad):.1%} bad)"
        )


def cosine(rate: Any, end: Any = 0.0) -> Callable[[Any, Any], Array]:
    """A learning rate that falls along a cosine over the episode, however long it is.

    Args:
        rate: at the first step.
        end: after the last step, relative to `rate`.

    Returns:
        A function `(count, num_steps) -> learning rate` for `meta_nest` and `meta_train`; use
        `optax.cosine_decay_schedule` where the number of steps is known.

    Raises:
        ValueError: a rate that is not a positive number; an end outside 0 to 1.
    """
    start, low = number("cosine", "rate", rate), number("cosine", "end", end, 0, 1)

    def schedule(count: Any, num_steps: Any) -> Array:
        done = jnp.clip(count / num_steps, 0, 1)
        return start * (low + (1 - low) * (1 + jnp.cos(jnp.pi * done)) / 2)

    return schedule


def meta_nest(
    rule: Any,
    families: Any,
    *,
    tasks: Any = 16,
    horizon: Any = 100,
    truncation: Any = 20,
    flow: Any = None,
    optimizer: Any = None,
    learning_rate: Any = 1.0,
    meta_loss: Any = "mean",
    ceiling: Any = 3.0,
    stagger: bool = True,
    mesh: Any = None,
) -> Nest:
    """The nest in which a rule is trained: theta outside, the parameters that it trains inside.

    The inner level, "params", begins an episode with a new task of each family, and trains on them
    by `rule(theta)`. After each truncation the outer level, "rule", moves theta against the
    gradient of the mean meta-loss over the truncation, as the flow computes it. The meta-loss is
    that after each update, on a batch that the update has not seen.

    A task is lost if its loss is not finite, its scale not positive, or its loss negative under
    "log". It counts as the ceiling, and its episode ends with the truncation.
    Without a ceiling, evolution strategies count its pair as nothing. A gradient that is not finite
    leaves theta as it is.

    Args:
        rule: the rule.
        families: a family, or several; every episode has a task of each, with updates of its own.
        tasks: number of episodes side by side. With `ES`, `PES` or `NRES` each is a pair of copies.
        horizon: steps of an episode, or `(least, most)`: drawn log-uniformly for each, and rounded
            up to whole truncations.
        truncation: inner steps for each outer step.
        flow: `ES`, `PES`, `NRES`, `Unroll` or another flow; None: `PES(0.01)`.
        optimizer: of theta; None: Adam with a rate of 0.003 after clipping the global norm at 1.
        learning_rate: of the rule inside; a number, or a function `(count, num_steps) -> rate` such
            as `cosine(0.01)`.
        meta_loss: "mean": the mean of loss / scale over the truncation. "log": the mean of its
            logarithm, in which tasks and late steps count alike.
        ceiling: largest loss / scale that counts; None: no bound.
        stagger: whether the episodes are at different places at the beginning.
        mesh: devices over which the copies are spread, see `Nest`.

    Returns:
        A `Nest`, to be begun with `nest.init({"rule": theta}, key)`.

    Raises:
        ValueError: an argument outside the ranges above.

    Source: Vicol, Metz and Sohl-Dickstein (2021); Metz et al., "Practical tradeoffs between memory,
    compute, and performance in learned optimizers" (2022).
    """
    who = "meta_nest"
    if not isinstance(rule, Rule):
        raise ValueError(f"{who}: rule is a nestax.learned.Rule, got {type(rule).__name__}")
    several = _several(who, families)
    count, period = whole(who, "tasks", tasks), whole(who, "truncation", truncation)
    shortest, longest = _horizon(who, horizon, period)
    option(who, "meta_loss", meta_loss, ("mean", "log"))
    most = math.inf if ceiling is None else number(who, "ceiling", ceiling)
    if most == 0:
        raise ValueError(f"{who}: ceiling is a positive number, such as 3.0, or None; got 0")
    flow = PES(0.01) if flow is None else flow
    if optimizer is None:
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
    rate = _rate(who, learning_rate)

    def draw(key: Array) -> dict[str, Any]:
        own, length = jax.random.split(key)
        exponent = jax.random.uniform(length, minval=math.log(shortest), maxval=math.log(longest))
        steps = jnp.ceil(jnp.exp(exponent) / period).astype(int) * period
        steps = jnp.clip(steps, shortest, longest) if shortest < longest else jnp.asarray(shortest)
        keys = jax.random.split(own, len(several))
        drawn = {f.name: f.sample(k) for f, k in zip(several, keys, strict=True)}
        return {"tasks": drawn, "num_steps": steps}

    def context(task: Any, key: Array) -> dict[str, Any]:
        keys = jax.random.split(key, len(several))
        return {
            f.name: {
                "batch": f.batch(task["tasks"][f.name], k),
                "scale": 1.0 if f.scale is None else f.scale(task["tasks"][f.name]),
                "num_steps": task["num_steps"],
            }
            for f, k in zip(several, keys, strict=True)
        }

    def unseen(task: Any, key: Array) -> dict[str, Any]:  # another function, hence other batches
        return context(task, key)

    def counted(family: Family, params: PyTree, data: Any) -> tuple[Array, dict[str, Array]]:
        loss, scale = family.loss(params, data["batch"]), data["scale"]
        if isinstance(loss, (tuple, list, dict)) or jnp.shape(loss) or jnp.shape(scale):
            raise ValueError(
                f"{who}: loss and scale of family {family.name!r} must be scalars, got "
                f"{jax.tree.map(jnp.shape, (loss, scale))}"
            )
        relative = jnp.where(jnp.asarray(scale) > 0, loss / scale, jnp.nan)
        if meta_loss == "log":
            relative = jnp.where(relative >= 0, relative, jnp.nan)
        lost = ~jnp.isfinite(relative)
        if most < math.inf:  # what is not finite is as bad as can be
            relative = jnp.where(lost, most, jnp.minimum(relative, most))
        known = jnp.log(jnp.maximum(relative, 1e-10)) if meta_loss == "log" else relative
        return loss, {"meta_loss": known, "lost": lost.astype(float)}

    def objective(values: Any, batch: Any) -> tuple[Array, PyTree]:
        params = values[PARAMS]
        each = [counted(f, params[f.name], batch[f.name]) for f in several]
        total = sum((loss for loss, _ in each[1:]), each[0][0])
        return total, jax.tree.map(lambda *a: jnp.stack(a), *(info for _, info in each))

    def outer(values: Any, batch: Any) -> Array:
        return jnp.mean(objective(values, batch)[1]["meta_loss"])

    def transformation(values: Any) -> optax.GradientTransformationExtraArgs:
        def made(num_steps: Any) -> optax.GradientTransformationExtraArgs:
            at = rate if not callable(rate) else lambda count: rate(count, num_steps)
            return rule(values[RULE], at, num_steps)

        def init(params: Any) -> Any:
            return {f.name: made(longest).init(params[f.name]) for f in several}

        def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
            found, states = {}, {}
            for f in several:
                own, data = params[f.name], extra["batch"][f.name]
                found[f.name], states[f.name] = made(data["num_steps"]).update(
                    updates[f.name], state[f.name], own, value=f.loss(own, data["batch"])
                )
            return found, states

        return optax.GradientTransformationExtraArgs(init, update)

    def start(values: Any, task: Any, key: Array) -> Any:
        keys = jax.random.split(key, len(several))
        return {
            f.name: f.init(task["tasks"][f.name], k) for f, k in zip(several, keys, strict=True)
        }

    fixed = shortest == longest
    inner = Level(
        PARAMS,
        objective,
        transformation,
        context,
        start=start,
        horizon=shortest if fixed else lambda task, key: task["num_steps"],
        done=None if fixed and longest == period else lambda value, info: jnp.sum(info["lost"]) > 0,
    )
    # A step that one lost task has spoilt is left out.
    careful = optax.apply_if_finite(optimizer, 2**30)
    rules = Level(RULE, outer, careful, unseen, every=period, flow=flow, accumulate="mean")
    copies = 2 * count if getattr(flow, "perturbs", False) else count
    return Nest(
        [inner, rules], task=draw, copies=copies, stagger=stagger, mesh=mesh, norms=False
    )  # fmt: skip


def meta_train(
    rule: Any,
    families: Any,
    steps: int,
    key: Array,
    *,
    theta: PyTree | None = None,
    watch: Any = None,
    **options: Any,
) -> MetaTraining:
    """Trains the weights of a rule on a family of tasks, in one compiled loop.

    Args:
        rule: the rule.
        families: a family, or several.
        steps: outer steps.
        key: of `jax.random.key`; decides over theta, tasks, starts, batches and perturbations.
        theta: the weights to begin with; None: `rule.init`.
        watch: a folder, from which the same call goes on after an interruption, a function or a
            logger; see `Nest.run`.
        **options: those of `meta_nest`: `tasks`, `horizon`, `truncation`, `flow`, `optimizer`,
            `learning_rate`, `meta_loss`, `ceiling`, `stagger`, `mesh`.

    Returns:
        A `MetaTraining`. `rule(result.theta)` is the trained optimizer.

    Raises:
        ValueError: see `meta_nest`; theta of another rule.
        DivergenceError: theta is not finite.
    """
    nest = meta_nest(rule, families, **options)
    begin, run = jax.random.split(key)
    if theta is None:
        theta = rule.init(begin)
    else:
        rule.check(theta)
    state = nest.init({RULE: theta}, run)
    # A task that diverges is no reason to stop.
    state, info = nest.run(state, steps, watch=watch, check=False)
    found = state.values[RULE]
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        if not np.all(np.isfinite(leaf)):
            raise DivergenceError(
                RULE, int(state.tick), state, info, "", f"theta{jax.tree_util.keystr(path)}", ""
            )
    done, told = len(np.asarray(info[RULE].loss)), info[PARAMS].user
    known, lost = (
        np.asarray(told[n]).reshape(done, math.prod(np.shape(told[n])) // max(done, 1))
        for n in ("meta_loss", "lost")
    )
    seen = np.isfinite(known)
    total, count = np.sum(np.where(seen, known, 0), axis=1), np.sum(seen, axis=1)
    losses = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    bad = np.sum(lost, axis=1) / max(lost.shape[1], 1)
    return MetaTraining(found, losses, bad, state, nest)


def _several(who: str, families: Any) -> list[Family]:
    several = [families] if isinstance(families, Family) else list(families)
    for family in several:
        if not isinstance(family, Family):
            raise ValueError(
                f"{who}: families is a nestax.learned.Family or several, got "
                f"{type(family).__name__} in it"
            )
    names = [family.name for family in several]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"{who}: at least one family, and names that differ from each other, got "
            f"{names}; rename one with dataclasses.replace(family, name=...)"
        )
    return several


def _horizon(who: str, horizon: Any, period: int) -> tuple[int, int]:
    pair = isinstance(horizon, (tuple, list)) and len(horizon) == 2
    least, most = horizon if pair else (horizon, horizon)
    least, most = whole(who, "horizon", least), whole(who, "horizon", most)
    if pair and least >= most:
        raise ValueError(f"{who}: a horizon that is drawn is (least, most), got {horizon}")
    if least % period or most % period:
        raise ValueError(
            f"{who}: an episode has whole truncations of {period} steps, got a horizon of {horizon}"
        )
    return least, most


def _rate(who: str, given: Any) -> Any:
    if callable(given):
        from ..levels._signatures import check_arguments

        check_arguments(who, "learning_rate", given, ("count", "num_steps"))
        return given
    return number(who, "learning_rate", given)


def _size(theta: PyTree) -> int:
    return sum(jnp.size(leaf) for leaf in jax.tree.leaves(theta))
