"""How any sequence model is tuned and judged on any task: runs side by side in one program.

Every arm gets the same steps, batches and seeds, and learning rates by the same rule, chosen on
seeds that nothing is judged by. Examples are drawn afresh at every step, on the device.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from nestax.levels import Nest

from .. import lab
from ..lab import train
from .arms import Arm
from .tasks import Example, Task, graded, judge

POINTS = 20  # of a curve; they divide the steps
_SPACING = 0.5  # decades between the rates tried
_TIE = 1e-4  # accuracy; rates closer than this are told apart by the loss
_CLIP = 1.0  # norm of a gradient, at most
_GATES = re.compile(r"\b(rate|retain|forget|mu)\b|bias")  # names of parameters


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The size of a model, and how it is trained; the same for every arm.

    Attributes:
        width, depth, heads: of the model.
        steps, batch_size: of a run.
        centre: of the grid of learning rates.
        smoothing: probability that the targets of training give to any answer. Above 0, what is
            asked of a model does not vanish when all its answers are right: scores are to be as
            large at the last symbol as at the first, which only a state that does not fade can do.
        together: runs side by side in one program, which saves time where a step is too small to
            fill the machine.
    """

    width: int
    depth: int
    heads: int
    steps: int
    batch_size: int
    centre: float = 3e-3
    smoothing: float = 0.0
    together: int = 1


def _keys(key: Array) -> list[Array]:
    """Of a run: for its world, its model, what the model is wrapped in, its batches, its tests."""
    return [jax.random.fold_in(key, i) for i in range(5)]


def _first(task: Task, arm: Arm, recipe: Recipe, key: Array) -> Any:
    """What a run begins with."""
    keys, sizes = _keys(key), (recipe.width, recipe.depth, recipe.heads)
    return task.wrap(arm.make(task.vocabulary, *sizes, task.window, keys[1]), keys[2])


def batch(task: Task, recipe: Recipe, key: Array, number: Array) -> Example:
    """Examples for a step of a run, with a leading axis."""
    keys = _keys(key)
    drawn = jax.random.split(jax.random.fold_in(keys[3], number), recipe.batch_size + 1)
    places = jax.random.uniform(drawn[0], (recipe.batch_size,))
    return jax.vmap(task.train, (None, 0, 0))(task.world(keys[0]), drawn[1:], places)


def objective(
    task: Task, recipe: Recipe, trained: Any, examples: Example
) -> tuple[Array, dict[str, Array]]:
    """What is descended; and the mean loss (nats) and accuracy over all answers of a batch."""
    scores = jax.vmap(lambda tokens: task.answer(trained, tokens, None))(examples.tokens)
    each, right = graded(scores, examples)
    count = jnp.maximum(jnp.sum(examples.mask), 1)
    loss = jnp.sum(each) / count
    descended = loss
    if recipe.smoothing:
        any_ = -jnp.mean(jax.nn.log_softmax(scores), axis=-1)
        any_ = jnp.sum(jnp.where(examples.mask, any_, 0.0)) / count
        descended = (1 - recipe.smoothing) * loss + recipe.smoothing * any_
    return descended, {"loss": loss, "accuracy": jnp.sum(right) / count}


def optimizer(
    rate: Any, steps: Any, decay: float = 0.0, eps: float = 1e-8
) -> optax.GradientTransformation:
    """AdamW behind a clipped gradient: the rate warms up, then falls to zero along a cosine; what
    is `decayed` is pulled towards 0. The rate at its highest and the steps of the whole run may be
    traced; decay is in units of the rate."""
    adam = optax.adamw(
        train.warmed(rate, steps), b2=0.95, eps=eps, weight_decay=decay, mask=decayed
    )
    return optax.chain(optax.clip_by_global_norm(_CLIP), adam)


def decayed(params: Any) -> Any:
    """Which of a model's parameters are: matrices, but for those that gates are made by, whose
    eigenvalues would be pulled away from where they must be."""

    def one(path: Any, leaf: Any) -> bool:
        return leaf.ndim > 1 and not _GATES.search(jax.tree_util.keystr(path))

    return jax.tree_util.tree_map_with_path(one, params)


def system(task: Task, recipe: Recipe) -> Nest:
    """The model as a level, whose memories are levels inside it."""

    def descent(rate: Any, steps: Any) -> optax.GradientTransformation:
        # Next to nothing is added to the memory of squares: what a rule for all lengths takes
        # beyond one for the lengths learned from (an eigenvalue of -1 rather than -0.99) is learned
        # from gradients that have become small.
        return optimizer(rate, steps, eps=1e-12)

    return train.learner(
        functools.partial(objective, task, recipe), functools.partial(batch, task, recipe), descent
    )


def example(task: Task, arm: Arm, recipe: Recipe) -> lab.Example:
    """One run, at the middle of the grid of rates."""
    nest, keys = system(task, recipe), jax.random.split(jax.random.key(0), 1)
    models = jax.tree.map(lambda a: a[None], _first(task, arm, recipe, keys[0]))
    return lab.Example(
        nest, train.started(nest, models, [recipe.centre], keys, recipe.steps).run(0)
    )


def runner(
    task: Task, arm: Arm, recipe: Recipe
) -> Callable[[Sequence[float], Sequence[int]], dict[str, Any]]:
    """(rates, seeds), one of each for every run -> curves and tests, with a leading axis of runs.

    `loss` and `accuracy` are means over a stretch of training, (runs, points); `tests` holds for
    each test what `judge` finds.
    """
    import equinox as eqx

    nest = system(task, recipe)
    first = eqx.filter_jit(eqx.filter_vmap(functools.partial(_first, task, arm, recipe)))

    @eqx.filter_jit
    @eqx.filter_vmap
    def judged(model: Any, key: Array) -> dict[str, Any]:
        keys = _keys(key)
        world = task.world(keys[0])
        return {
            name: judge(task, test, model, world, jax.random.fold_in(keys[4], i))
            for i, (name, test) in enumerate(task.tests.items())
        }

    def program(rates: Sequence[float], seeds: Sequence[int]) -> dict[str, Any]:
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        state = train.started(nest, first(keys), rates, keys, recipe.steps)
        # Rates may be too large: such a run has answered nothing right.
        state, info = nest.run(state, recipe.steps, check=False)
        seen = info["model"].user
        found = {name: train.stretches(seen[name], POINTS).T for name in seen}
        return found | {"tests": judged(state.values["model"], keys)}

    return functools.partial(lab.side_by_side, program, recipe.together)


def compare(
    task: Task, arm: Arm, recipe: Recipe, trials: int, tuning_seeds: int, seeds: int, desk: lab.Desk
) -> lab.Record:
    """One arm on one task: its rate tuned, fresh seeds judged; everything that a report needs.

    Curves are (points, seeds), numbers of a test (seeds,), accuracies along it (blocks, seeds) and
    in groups of places (groups, seeds); None stands for what is not finite.
    """
    run = runner(task, arm, recipe)

    def attempt(rates: Sequence[float]) -> list[tuple[float, float]]:
        """The share of right answers, or whole sequences, and the loss of each."""
        desk.say(f"tries rates from {min(rates):.1g} to {max(rates):.1g}")
        pairs = [(rate, lab.tuning(seed)) for rate in rates for seed in range(tuning_seeds)]
        found = run(*zip(*pairs, strict=True))["tests"][task.tune]
        right, losses = (
            np.nan_to_num(found[name], nan=worst).reshape(len(rates), -1).mean(1).tolist()
            for name, worst in ((task.measure, 0.0), ("loss", np.inf))
        )
        return list(zip(right, losses, strict=True))

    tried, best = lab.tuned(
        lab.rates(recipe.centre, _SPACING, trials),
        attempt,
        lambda tried: max(tried, key=lambda r: (round(tried[r][0] / _TIE), -tried[r][1], -r)),
        lambda tried, best: lab.beyond(tried, best, _SPACING),
    )
    desk.say(f"runs {seeds} seeds at {best:.2g}")
    found = run([best] * seeds, list(range(seeds)))
    rates = sorted(tried)
    shape = jax.eval_shape(
        lambda key: jax.tree.leaves(_first(task, arm, recipe, key)), jax.random.key(0)
    )
    return {
        "rates": rates,
        "scores": lab.listed([tried[rate][0] for rate in rates]),
        "rate": best,
        "edge": best in (rates[0], rates[-1]),
        "parameters": train.parameters(shape),
        "step": [(i + 1) * recipe.steps // POINTS for i in range(POINTS)],
        **lab.listed(jax.tree.map(lambda a: a.T, found)),
    }
