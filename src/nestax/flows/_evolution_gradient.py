"""Evolution strategies as a plain function: the gradient of a loss from its values alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ._estimate import estimated
from ._flow import Flow, Period, Reached
from ._hoist import partition
from ._solvers import check_count
from ._weights import check_arrays


def evolution_gradient(
    loss: Callable[[Any], Array],
    value: PyTree,
    key: Any,
    flow: Flow,
    pairs: int = 16,
) -> tuple[Array, PyTree]:
    """Estimates the gradient of a smoothed loss from values of the loss alone.

    It is `jax.value_and_grad` without derivatives. With perturbations e drawn from N(0, sigma^2),
    one for each pair, the gradient is the mean over pairs of `e (loss(value + e) - loss(value - e))
    / (2 sigma^2)`. It is unbiased for the expectation of `loss(value + e)`, unless the flow ranks,
    clips or takes signs. Its variance is proportional to 1 / pairs, and grows with the number of
    perturbed numbers.

    The loss may be anything that `jax.vmap` accepts: all 2 * pairs values are evaluated at once.
    Its randomness should come from a key that it closes over, so that all pairs share it. It may
    contain an inner problem: `lambda slow: outer(nx.best_response(inner, optax.sgd(0.1), 20)(slow,
    start))`.

    Example:
        ```python
        loss = lambda x: jnp.sum(jnp.floor(4 * x))  # the derivative is 0 almost everywhere
        key, flow = jax.random.key(0), nx.ES(1.0)
        value, gradient = nx.evolution_gradient(loss, jnp.ones(2), key, flow, pairs=9999)
        print(jnp.round(gradient))  # [4. 4.]
        ```

    Args:
        loss: `value -> real scalar`.
        value: a pytree. Its arrays of real numbers are perturbed; all other leaves are constants.
        key: such as `jax.random.key(0)`; a new one for every call.
        flow: `ES(sigma)`, with its options `shape` and `clip`.
        pairs: number of antithetic pairs, at least 1.

    Returns:
        (loss, gradient): the mean loss of the 2 * pairs perturbed values, not finite if one of them
        is not; and a pytree like `value`, in its dtypes, with None in place of constants.

    Raises:
        TypeError: a loss that is not a function, or does not return a real scalar; a flow that does
            not perturb values.
        ValueError: a flow that remembers perturbations (`PES`, `NRES`), which needs a nest; pairs
            below 1; not a key; a value without an array of real numbers, or with a complex one.

    Source: Salimans, Ho, Chen, Sidor and Sutskever (2017), with antithetic pairs.
    """
    who = "evolution_gradient"
    if not callable(loss):
        raise TypeError(f"{who}: loss must be a function from a value to a scalar, got {loss!r}")
    if not isinstance(flow, Flow) or not flow.perturbs:
        raise TypeError(
            f"{who}: flow must be an evolution strategy such as ES(0.1), got {flow!r}; for "
            "derivatives of the loss use jax.value_and_grad"
        )
    check_count(who, "pairs", pairs)
    _check_key(who, key)
    check_arrays(f"{who}: value", value)
    given, value_of = partition(value)
    if not jax.tree.leaves(given):
        raise ValueError(
            f"{who}: nothing in value can be perturbed, since it holds no array of an inexact "
            f"dtype; convert Python numbers with jnp.asarray. Got {value!r}"
        )
    memory = flow.init(given, 2 * pairs)
    if jax.tree.leaves(memory):
        raise ValueError(
            f"{who}: {flow!r} remembers its perturbations along an episode of several periods, and "
            f"a loss has one; use ES({getattr(flow, 'sigma', 0.1)!r}), or for truncated episodes a "
            f"nest: nx.Level(..., every=K, flow={flow!r})"
        )

    def one(point: PyTree) -> Array:
        found = loss(value_of(jax.tree.map(lambda a, like: a.astype(like.dtype), point, given)))
        single = isinstance(found, (float, jax.Array, np.ndarray, np.generic))
        real = single and jnp.issubdtype(jnp.result_type(found), jnp.floating)
        if not real or jnp.shape(found) != ():
            raise TypeError(
                f"{who}: the loss must return a real scalar, got {_kind(found)}; average or sum it"
            )
        found = jnp.asarray(found)
        return found.astype(jnp.promote_types(found.dtype, jnp.float32))

    def run(point: PyTree) -> Reached:
        reached = one(point)
        return Reached(reached, reached, ())

    def run_each(points: PyTree) -> Reached:
        losses = jax.vmap(one)(points)
        return Reached(jnp.mean(losses), losses, ())

    wide = jax.tree.map(lambda a: a.astype(jnp.promote_types(a.dtype, jnp.float32)), given)
    period = Period(wide, 2 * pairs, run, run_each)
    gradient, reached, _ = estimated(who, flow, period, memory, key)
    return reached.loss, jax.tree.map(lambda a, like: a.astype(like.dtype), gradient, given)


def _kind(found: Any) -> str:
    if hasattr(found, "dtype"):
        return f"an array of shape {jnp.shape(found)} and dtype {found.dtype}"
    return f"a {type(found).__name__}"


def _check_key(who: str, key: Any) -> None:
    example = jax.random.key_data(jax.random.key(0))
    known = isinstance(key, jax.Array)
    typed = known and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
    if not typed and not (known and (key.shape, key.dtype) == (example.shape, example.dtype)):
        raise ValueError(f"{who}: key must be a key, such as jax.random.key(0), got {key!r}")
