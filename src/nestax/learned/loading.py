"""Trained weights that come with the library, as text."""

import json
import warnings
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from ..optim.internal import Rate, whole
from .deep import deep_momentum
from .delta import delta_momentum
from .normalized import normalized
from .rule import Rule
from .small_fc import small_fc

RULES = {rule.__name__: rule for rule in (small_fc, normalized, deep_momentum, delta_momentum)}


@dataclass(frozen=True)
class Shipped:
    """A rule with trained weights, and how these were made.

    Attributes:
        rule: the rule.
        theta: its weights.
        learning_rate: the largest rate of the schedule that `load` uses; None for a rule whose
            steps are its own.
        most: number of steps up to which it was judged at least as good as Adam.
        record: recipe, seeds, licence, the curve that the weights reproduce and what it was
            measured on.
    """

    rule: Rule
    theta: PyTree
    learning_rate: float | None
    most: int
    record: dict[str, Any]


def names() -> tuple[str, ...]:
    """The names of all rules with weights in the library.

    Returns:
        Names that `load` and `shipped` know.
    """
    folder = files("nestax.learned") / "weights"
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".json")))


def shipped(name: str) -> Shipped:
    """A rule whose trained weights come with the library. It reads a file and no network.

    Args:
        name: one of `names()`.

    Returns:
        The rule, its weights and their record. `rule(theta)` is the optimizer; theta can be
        trained further by `meta_train(rule, ..., theta=theta)`.

    Raises:
        ValueError: no such name.
    """
    if name not in names():
        raise ValueError(f"no weights are named {name!r}; there are {', '.join(names())}")
    return _read(name)


def load(
    name: str, num_steps: int, learning_rate: Rate | None = None
) -> optax.GradientTransformationExtraArgs:
    """A trained rule as an optax transformation, for a run of known length.

    Args:
        name: one of `names()`.
        num_steps: number of updates of the run.
        learning_rate: a number or a schedule. None: for rules with normalized steps a cosine to
            zero over `num_steps`, from the rate in the record; for `small_fc`, whose steps are its
            own, 1.

    Returns:
        An optax transformation. Its `update` needs the parameters.

    Raises:
        ValueError: no such name; `num_steps` is no whole number of at least 1.

    Warns:
        UserWarning: more steps than the weights were found to be good for.
    """
    known, steps = shipped(name), whole("load", "num_steps", num_steps)
    if steps > known.most:
        warnings.warn(
            f"nestax.learned.load: {name!r} was found to be as good as Adam for up to {known.most} "
            f"steps, and {steps} are planned; see its record: nestax.learned.shipped({name!r})",
            stacklevel=2,
        )
    if learning_rate is None:
        peak = known.learning_rate
        learning_rate = 1.0 if peak is None else optax.cosine_decay_schedule(peak, steps)
    return known.rule(known.theta, learning_rate, steps)


def text(rule: str, options: dict[str, Any], theta: PyTree, most: int, **record: Any) -> str:
    """Weights and their record as text, as the files in `weights/` have it.

    Args:
        rule: name of a function of `nestax.learned` that makes the rule.
        options: its arguments.
        theta: the weights.
        most: number of steps up to which they are good.
        record: what else is known of them, JSON's kinds of values.

    Returns:
        JSON, with a line for each array.

    Raises:
        ValueError: a rule that is not known here; theta of another rule or of other options.
    """
    if rule not in RULES:
        raise ValueError(f"text: rule is one of {', '.join(RULES)}, got {rule!r}")
    RULES[rule](**options).check(theta)
    lines = [
        f"  {json.dumps(jax.tree_util.keystr(path))}: "
        + json.dumps([float(f"{x:.9g}") for x in np.ravel(np.asarray(leaf, np.float32))])
        for path, leaf in jax.tree_util.tree_leaves_with_path(theta)
    ]
    head = json.dumps({"rule": rule, "options": options, "most": most, **record}, indent=1)[1:-2]
    return "{" + head + ',\n "theta": {\n' + ",\n".join(lines) + "\n }\n}\n"


def _read(name: str) -> Shipped:
    content = json.loads((files("nestax.learned") / "weights" / f"{name}.json").read_text("utf-8"))
    options = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in content.pop("options").items()
    }
    rule = RULES[content.pop("rule")](**options)
    shapes = jax.eval_shape(rule.init, jax.eval_shape(lambda: jax.random.key(0)))
    kept = content.pop("theta")
    theta = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.asarray(
            kept[jax.tree_util.keystr(path)], np.float32
        ).reshape(leaf.shape),
        shapes,
    )  # fmt: skip
    return Shipped(
        rule, theta, content.pop("learning_rate", None), content.pop("most"), content
    )  # fmt: skip
