"""Adam and Lion as update rules whose hyperparameters are the weights."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..optim.internal import Scalar, number
from .rule import Moment, PerTensor


def adam_like(
    b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8, weight_decay: Scalar = 0.0
) -> PerTensor:
    """Adam whose hyperparameters are theta; as `init` gives them it is `optax.adamw`.

    Theta holds one number for each hyperparameter, 0 where it has the value given here. Every
    real theta is valid: it is added to the log-odds of a decay and to the logarithm of `eps` and
    `weight_decay`; "scale" is the logarithm of a factor of the update. Adam is thus a fixed member
    of the family of rules, and its hyperparameters can be meta-trained as those of any rule.

    The derivative of the root of exactly 0 counts as 0.

    Args:
        b1: decay of the first moment, in (0, 1).
        b2: decay of the second moment, in (0, 1).
        eps: added to the root of the second moment, above 0.
        weight_decay: decoupled weight decay. 0: none, and theta has no number for it.

    Returns:
        A rule. Its theta is the same for all keys.

    Raises:
        ValueError: an argument outside the ranges above.

    Source: Kingma and Ba, "Adam" (2015), algorithm 1; Loshchilov and Hutter, "Decoupled weight
    decay regularization" (2019), algorithm 2.

    Example:
        ```python
        rule = nx.learned.adam_like()
        theta = rule.init(jax.random.key(0))
        optimizer = rule(theta, 0.1)
        weights = jnp.array([1.0, -3.0])
        updates, _ = optimizer.update(weights, optimizer.init(weights), weights)
        print(jnp.round(updates, 3))  # [-0.1  0.1]
        ```
    """
    return _Adam(
        _decay("adam_like", "b1", b1),
        _decay("adam_like", "b2", b2),
        _positive("adam_like", "eps", eps),
        number("adam_like", "weight_decay", weight_decay),
    )


def lion_like(b1: Scalar = 0.9, b2: Scalar = 0.99, weight_decay: Scalar = 0.001) -> PerTensor:
    """Lion whose hyperparameters are theta; as `init` gives them it is `optax.lion`.

    Theta is as that of `adam_like`. With m the momentum and g the gradient,

        c = b1 m + (1 - b1) g,    w <- w - (sign c + weight_decay w),    m <- b2 m + (1 - b2) g.

    The sign has the derivative 0 wherever it has one. Only "scale" and "weight_decay" therefore
    have a derivative by `nx.Unroll`; that of the two decays is 0, and `nx.ES` or `nx.PES` train
    them.

    Args:
        b1: decay of the momentum within the update, in (0, 1).
        b2: decay of the momentum that is kept, in (0, 1).
        weight_decay: decoupled weight decay. 0: none, and theta has no number for it.

    Returns:
        A rule. Its theta is the same for all keys.

    Raises:
        ValueError: an argument outside the ranges above.

    Source: Chen et al., "Symbolic discovery of optimization algorithms" (2023), program 1.

    Example:
        ```python
        rule = nx.learned.lion_like(weight_decay=0)
        theta = rule.init(jax.random.key(0))
        optimizer = rule(theta, 0.1)
        weights = jnp.array([1.0, -3.0])
        updates, _ = optimizer.update(weights, optimizer.init(weights), weights)
        print(jnp.round(updates, 3))  # [-0.1  0.1]
        ```
    """
    return _Lion(
        _decay("lion_like", "b1", b1),
        _decay("lion_like", "b2", b2),
        number("lion_like", "weight_decay", weight_decay),
    )


@dataclasses.dataclass(frozen=True)
class _Adam(PerTensor):
    name: ClassVar[str] = "adam_like"
    b1: Any
    b2: Any
    eps: Any
    weight_decay: Any

    def init(self, key: Array) -> PyTree:
        return _zeros(key, "scale", "b1", "b2", "eps", weight_decay=self.weight_decay)

    def begin_tensor(self, theta: PyTree, param: Array) -> PyTree:
        return {"m": jnp.zeros_like(param), "v": jnp.zeros_like(param)}

    def update_tensor(
        self, theta: PyTree, gradient: Array, state: PyTree, param: Array, moment: Moment
    ) -> tuple[Array, PyTree]:
        theta = jax.tree.map(lambda a: a.astype(gradient.dtype), theta)
        keep, gain = moved(self.b1, theta["b1"])
        m = keep * state["m"] + gain * gradient
        first = m / since(gain, moment.count)
        keep, gain = moved(self.b2, theta["b2"])
        v = keep * state["v"] + gain * jnp.square(gradient)
        second = v / since(gain, moment.count)
        root = jnp.where(second > 0, jnp.sqrt(jnp.where(second > 0, second, 1)), 0)
        direction = first / (root + self.eps * jnp.exp(theta["eps"]))
        return _step(self.weight_decay, theta, direction, param), {"m": m, "v": v}


@dataclasses.dataclass(frozen=True)
class _Lion(PerTensor):
    name: ClassVar[str] = "lion_like"
    b1: Any
    b2: Any
    weight_decay: Any

    def init(self, key: Array) -> PyTree:
        return _zeros(key, "scale", "b1", "b2", weight_decay=self.weight_decay)

    def begin_tensor(self, theta: PyTree, param: Array) -> PyTree:
        return jnp.zeros_like(param)

    def update_tensor(
        self, theta: PyTree, gradient: Array, state: PyTree, param: Array, moment: Moment
    ) -> tuple[Array, PyTree]:
        theta = jax.tree.map(lambda a: a.astype(gradient.dtype), theta)
        keep, gain = moved(self.b1, theta["b1"])
        direction = jnp.sign(keep * state + gain * gradient)
        keep, gain = moved(self.b2, theta["b2"])
        return (
            _step(self.weight_decay, theta, direction, param),
            keep * state + gain * gradient,
        )


def moved(decay: float, offset: Array) -> tuple[Array, Array]:
    """The decay whose log-odds are those of `decay` plus the offset, and one minus it.

    Both are exact at an offset of 0, and neither is computed from the other: one minus a decay
    close to 1 would be rounding alone.
    """
    keep = decay * jnp.exp(jnp.minimum(offset, 0))
    gain = (1 - decay) * jnp.exp(jnp.minimum(-offset, 0))
    return keep / (keep + gain), gain / (keep + gain)


def since(gain: Array, count: Array) -> Array:
    """`1 - decay^(count + 1)`, from one minus the decay: the weights of an average so far."""
    # A decay so close to 1 counts as this one, so that neither the average nor its derivative is
    # divided by 0.
    gain = jnp.clip(gain, 1e-12, 1 - jnp.finfo(gain.dtype).epsneg)
    return -jnp.expm1((count + 1).astype(gain.dtype) * jnp.log1p(-gain))


def _step(weight_decay: Any, theta: PyTree, direction: Array, param: Array) -> Array:
    if "weight_decay" in theta:
        direction = direction + weight_decay * jnp.exp(theta["weight_decay"]) * param
    return -jnp.exp(theta["scale"]) * direction


def _zeros(key: Array, *names: str, weight_decay: Any) -> PyTree:
    del key
    decays = isinstance(weight_decay, jax.Array) or weight_decay > 0
    names = (*names, "weight_decay") if decays else names
    return {name: jnp.zeros((), jnp.float32) for name in names}


def _positive(name: str, argument: str, value: Any, **limits: Any) -> Any:
    value = number(name, argument, value, **limits)
    if not isinstance(value, jax.Array) and value == 0:
        raise ValueError(f"{name}: {argument} must be above 0, got {value:g}")
    return value


def _decay(name: str, argument: str, value: Any) -> Any:
    return _positive(name, argument, value, high=1, below=True)
