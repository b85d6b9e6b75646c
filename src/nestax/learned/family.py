"""A family of tasks that update rules are trained and judged on."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..levels._signatures import check_arguments


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """Tasks of one shape: how they are drawn, where training begins, batches, and the loss.

    All functions are traced by JAX, and the arrays of all tasks have the same shapes.

    Attributes:
        name: one word, for reports and errors.
        sample: `sample(key) -> task`, a pytree of arrays.
        init: `init(task, key) -> params`, where training begins.
        batch: `batch(task, key) -> batch`, the data of one step.
        loss: `loss(params, batch) -> scalar`.
        scale: `scale(task) -> scalar`, the loss that the meta-loss of the task is divided by, such
            as that of a guess; None: 1.

    Raises:
        ValueError: a name that is not a word; something that is not a function of these arguments.
    """

    name: str
    sample: Any
    init: Any
    batch: Any
    loss: Any
    scale: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(f"a family's name is a word, got {self.name!r}")
        owner = f"family {self.name!r}"
        wanted = {
            "sample": ("key",),
            "init": ("task", "key"),
            "batch": ("task", "key"),
            "loss": ("params", "batch"),
            "scale": ("task",),
        }
        for field, arguments in wanted.items():
            given = getattr(self, field)
            if field == "scale" and given is None:
                continue
            if not callable(given):
                raise ValueError(
                    f"{owner}: {field} is a function ({', '.join(arguments)}), got {given!r:.60}"
                )
            check_arguments(owner, field, given, arguments)


def rescaled(family: Family, least: float = 0.01, most: float = 100.0) -> Family:
    """The family with parameters in drawn units, so that a rule cannot rely on their scale.

    For each task and tensor a factor is drawn log-uniformly. The optimizer trains parameters that
    the loss sees multiplied by it; training begins at the same point of the loss.

    Args:
        family: the family.
        least: smallest factor.
        most: largest factor.

    Returns:
        The family whose tasks and batches carry the factors, too.

    Raises:
        ValueError: not `0 < least <= most`.

    Source: Metz et al., "VeLO" (2022), task augmentation; Celo2 (2602.19142).
    """
    if not 0 < least <= most < float("inf"):
        raise ValueError(f"rescaled: 0 < least <= most, got least={least}, most={most}")

    def factors(task: PyTree, key: Array) -> PyTree:
        shapes = jax.eval_shape(family.init, task, key)
        leaves, structure = jax.tree.flatten(shapes)
        exponents = jax.random.uniform(
            key, (len(leaves),), minval=jnp.log(least), maxval=jnp.log(most)
        )
        return structure.unflatten(list(jnp.exp(exponents)))

    def sample(key: Array) -> PyTree:
        one, two = jax.random.split(key)
        task = family.sample(one)
        return {"task": task, "factors": factors(task, two)}

    def init(task: PyTree, key: Array) -> PyTree:
        params = family.init(task["task"], key)
        return jax.tree.map(lambda p, f: p / f.astype(p.dtype), params, task["factors"])

    def batch(task: PyTree, key: Array) -> PyTree:
        return {"batch": family.batch(task["task"], key), "factors": task["factors"]}

    def loss(params: PyTree, batch: PyTree) -> Array:
        seen = jax.tree.map(lambda p, f: p * f.astype(p.dtype), params, batch["factors"])
        return family.loss(seen, batch["batch"])

    scale = family.scale
    return dataclasses.replace(
        family,
        name=f"{family.name}, rescaled",
        sample=sample,
        init=init,
        batch=batch,
        loss=loss,
        scale=None if scale is None else lambda task: scale(task["task"]),
    )
