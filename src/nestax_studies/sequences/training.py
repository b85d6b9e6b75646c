"""How any sequence model is tuned and judged on any task: whole runs compiled, side by side.

Every arm gets the same steps, batches and seeds, and learning rates by the same rule, chosen on
seeds that nothing is judged by. Examples are drawn afresh at every step, on the device.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from nestax.levels import Level, Nest

from .. import study
from .arms import Arm
from .descent import optimizer
from .judging import graded, judge
from .tasks import Example, Task

POINTS = 20  # of a curve, usually
_SPACING = 0.5  # decades between the rates tried
_TIE = 1e-4  # accuracy; rates closer than this are told apart by the loss


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The size of a model, and how it is trained; the same for every arm.

    Attributes:
        width, depth, heads: of the model.
        steps: of a run.
        batch_size: examples in a step.
        centre: of the grid of learning rates.
        decay: of weights, in units of the learning rate.
        smoothing: probability that the targets of training give to any answer. Above 0, what is
            asked of a model does not vanish when all its answers are right: scores are to be as
            large at the last symbol as at the first, which only a state that does not fade can do.
        points: of a curve; divides `steps`.
        together: runs side by side in one program, which saves time where a step is too small to
            fill the machine.
    """

    width: int
    depth: int
    heads: int
    steps: int
    batch_size: int
    centre: float = 3e-3
    decay: float = 0.0
    smoothing: float = 0.0
    points: int = POINTS
    together: int = 1


def grid(recipe: Recipe, trials: int) -> list[float]:
    """The learning rates tried, smallest first."""
    return [recipe.centre * 10 ** (_SPACING * (i - (trials - 1) / 2)) for i in range(trials)]


def _model(task: Task, arm: Arm, recipe: Recipe, key: Array) -> Any:
    sizes = recipe.width, recipe.depth, recipe.heads
    return arm.make(task.vocabulary, *sizes, task.window, key)


def _descent(recipe: Recipe, rate: Any) -> optax.GradientTransformation:
    # Next to nothing is added to the memory of squares: what a rule for all lengths takes beyond
    # one for the lengths learned from (an eigenvalue of -1 rather than -0.99) is learned from
    # gradients that have become small.
    return optimizer(rate, recipe.steps, recipe.decay, eps=1e-12)


def batch(task: Task, recipe: Recipe, world: Any, key: Array) -> Example:
    """Examples for a step, with a leading axis."""
    drawn = jax.random.split(key, recipe.batch_size + 1)
    places = jax.random.uniform(drawn[0], (recipe.batch_size,))
    return jax.vmap(task.train, (None, 0, 0))(world, drawn[1:], places)


def objective(
    task: Task, recipe: Recipe, trained: Any, examples: Example
) -> tuple[Array, tuple[Array, Array]]:
    """What is descended, and the mean loss (nats) and accuracy over all answers of a batch."""
    scores = jax.vmap(lambda tokens: task.answer(trained, tokens, None))(examples.tokens)
    each, right = graded(scores, examples)
    count = jnp.maximum(jnp.sum(examples.mask), 1)
    loss = jnp.sum(each) / count
    descended = loss
    if recipe.smoothing:
        any_ = -jnp.mean(jax.nn.log_softmax(scores), axis=-1)
        any_ = jnp.sum(jnp.where(examples.mask, any_, 0.0)) / count
        descended = (1 - recipe.smoothing) * loss + recipe.smoothing * any_
    return descended, (loss, jnp.sum(right) / count)


def example(task: Task, arm: Arm, recipe: Recipe) -> study.Example:
    """The training of one model as a nest of one level, whose memories are levels inside it."""

    def loss(values: dict[str, Any], examples: Any) -> tuple[Array, Any]:
        return objective(task, recipe, values["model"], examples)

    keys = jax.random.split(jax.random.key(0), 3)
    model = _model(task, arm, recipe, keys[0])
    level = Level(
        "model",
        loss,
        _descent(recipe, recipe.centre),
        lambda world, key: batch(task, recipe, world, key),
    )
    nest = Nest([level], task=task.world(keys[1]))
    state = nest.init({"model": task.wrap(model, keys[2])}, jax.random.key(0))
    return study.Example(nest, state, None, {})


def runner(
    task: Task, arm: Arm, recipe: Recipe
) -> Callable[[Sequence[float], Sequence[int]], dict[str, Any]]:
    """(rates, seeds), one of each for every run -> curves and tests, with a leading axis of runs.

    `loss` and `accuracy` are means over a stretch of training, (runs, points); `tests` holds for
    each test what `judge` finds.
    """
    import equinox as eqx

    def one(rate: Array, key: Array) -> dict[str, Any]:
        keys = [jax.random.fold_in(key, i) for i in range(5)]
        world = task.world(keys[0])
        model = _model(task, arm, recipe, keys[1])
        params, static = eqx.partition(task.wrap(model, keys[2]), eqx.is_inexact_array)
        descent = _descent(recipe, rate)

        def loss(params: Any, number: Array) -> tuple[Array, Any]:
            examples = batch(task, recipe, world, jax.random.fold_in(keys[3], number))
            return objective(task, recipe, eqx.combine(params, static), examples)

        def step(carry: Any, number: Array) -> Any:
            params, state = carry
            gradient, found = jax.grad(loss, has_aux=True)(params, number)
            updates, state = descent.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), found

        def point(carry: Any, numbers: Array) -> Any:
            carry, found = jax.lax.scan(step, carry, numbers)
            return carry, [jnp.mean(a) for a in found]

        start = params, descent.init(params)
        numbers = jnp.arange(recipe.steps).reshape(recipe.points, -1)
        (params, _), (losses, accuracies) = jax.lax.scan(point, start, numbers)
        trained = eqx.combine(params, static)
        tests = {
            name: judge(task, test, trained, world, jax.random.fold_in(keys[4], i))
            for i, (name, test) in enumerate(task.tests.items())
        }
        return {"loss": losses, "accuracy": accuracies, "tests": tests}

    compiled = jax.jit(jax.vmap(one))

    def run(rates: Sequence[float], seeds: Sequence[int]) -> dict[str, Any]:
        found = []
        for begin in range(0, len(rates), recipe.together):
            # Always as many, so that there is one program.
            index = [min(begin + i, len(rates) - 1) for i in range(recipe.together)]
            keys = jnp.stack([jax.random.key(seeds[i]) for i in index])
            got = compiled(jnp.asarray([rates[i] for i in index], float), keys)
            fresh = min(recipe.together, len(rates) - begin)
            found.append(jax.tree.map(lambda a: np.asarray(a)[:fresh], got))  # noqa: B023
        return jax.tree.map(lambda *parts: np.concatenate(parts), *found)

    return run


def compare(
    task: Task,
    arm: Arm,
    recipe: Recipe,
    trials: int,
    tuning_seeds: int,
    seeds: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """One arm on one task: its rate tuned, fresh seeds judged; everything that a report needs.

    Curves are (points, seeds), numbers of a test (seeds,), accuracies along it (blocks, seeds) and
    in groups of places (groups, seeds); None stands for what is not finite.
    """
    import equinox as eqx

    run = runner(task, arm, recipe)

    def attempt(rates: Sequence[float]) -> list[tuple[float, float]]:
        """The share of right answers, or whole sequences, and the loss of each."""
        say(f"tries rates from {min(rates):.1g} to {max(rates):.1g}")
        pairs = [(rate, study.tuning(seed)) for rate in rates for seed in range(tuning_seeds)]
        found = run(*zip(*pairs, strict=True))["tests"][task.tune]
        right, losses = (
            np.nan_to_num(found[name], nan=worst).reshape(len(rates), -1).mean(1).tolist()
            for name, worst in ((task.measure, 0.0), ("loss", np.inf))
        )
        return list(zip(right, losses, strict=True))

    tried, best = study.tuned(
        grid(recipe, trials),
        attempt,
        lambda tried: max(tried, key=lambda r: (round(tried[r][0] / _TIE), -tried[r][1], -r)),
        lambda tried, best: study.beyond(tried, best, _SPACING),
    )
    say(f"runs {seeds} seeds at {best:.2g}")
    found = run([best] * seeds, list(range(seeds)))
    rates = sorted(tried)
    shape = eqx.filter_eval_shape(
        lambda key: task.wrap(_model(task, arm, recipe, key), key), jax.random.key(0)
    )
    return {
        "rates": rates,
        "scores": _listed([tried[rate][0] for rate in rates]),
        "rate": best,
        "edge": best in (rates[0], rates[-1]),
        "parameters": study.parameters(shape),
        "step": [(i + 1) * recipe.steps // recipe.points for i in range(recipe.points)],
        **jax.tree.map(lambda a: _listed(a.T), found),
    }


def _listed(values: Any) -> Any:
    """Six digits are enough; JSON has no NaN."""
    if np.ndim(values):
        return [_listed(value) for value in values]
    return float(f"{values:.6g}") if np.isfinite(values) else None
