"""Bilevel methods without an inner loop: lists of levels under `Direct()` and nothing else.

All solve min_x f(x, z*(x)) with z*(x) = argmin_z g(x, z); x is slow, z fast.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from ._calls import shown
from ._level import Level
from ._signatures import check_arguments, check_optimizer, is_transformation
from ._values import like, widened

Objective = Callable[[Any, Any, Any], Any]


def soba(
    outer: Objective,
    inner: Objective,
    optimizer: Any,
    outer_optimizer: Any,
    context: Any = None,
    names: tuple[str, str, str] = ("x", "z", "aux"),
) -> list[Level]:
    """Stochastic bilevel algorithm (SOBA): three peers, each with one gradient step per tick.

    With constant rates it stalls at the noise of its batches. Use rates that fall like `t^(-1/2)`,
    or `saba`. With f the outer and g the inner objective, every tick does

    ```text
    z <- z - rho  dg/dz
    v <- v - rho  (d²g/dz² v + df/dz)
    x <- x - gamma (d²g/dxdz v + df/dx)
    ```

    where v tends to `-(d²g/dz²)^-1 df/dz`. The second line is a gradient step on the objective `<v,
    d²g/dz² v> / 2 + <v, df/dz>`, the third one on `f + <v, dg/dz>`.

    Example:
        ```python
        inner = lambda x, z, batch: (z - x) ** 2
        outer = lambda x, z, batch: (z - 1) ** 2
        nest = nx.Nest(nx.soba(outer, inner, optax.sgd(0.3), optax.sgd(0.1)))
        state = nest.init({"x": 0.0, "z": 0.0, "aux": 0.0}, jax.random.key(0))
        print(f"{nest.run(state, steps=100)[0].values['x']:.2f}")  # 1.00
        ```

    Args:
        outer: f, `(slow, fast, batch) -> scalar`.
        inner: g, `(slow, fast, batch) -> scalar`, strongly convex in fast.
        optimizer: the optimizer of z and v: an optax transformation, or a function `values ->
            transformation`.
        outer_optimizer: the optimizer of x, of the same kinds.
        context: `(task, key) -> batch`, the same for all three; a batch contains the data of f and
            g.
        names: the names of x (slow), z (fast) and v. v has the structure of z and begins with
            zeros.

    Returns:
        The levels z, v and x, to be given to `Nest` as the whole list, as a tuple beside other
        levels, or as `Peers(*levels, order="simultaneous")` in a nest of another order.

    Raises:
        ValueError: an argument that is not of the kind above.

    Source: Dagréou, Ablin, Vaiter and Moreau, "A framework for bilevel optimization that enables
    stochastic and global variance reduction algorithms" (2022), sections 2 and 3.
    """
    slow, fast, aux = names
    _check("soba", outer, inner, optimizer, outer_optimizer)

    def follow(values: dict[str, Any], batch: Any) -> Any:
        return inner(values[slow], values[fast], batch)

    def solve(values: dict[str, Any], batch: Any) -> Any:
        curved = _along(lambda z: inner(values[slow], z, batch), values[fast], values[aux])
        linear = _along(lambda z: outer(values[slow], z, batch), values[fast], values[aux])
        return _slope(lambda step: _slope(curved, step)) / 2 + _slope(linear)

    def lead(values: dict[str, Any], batch: Any) -> Any:
        coupled = _along(lambda z: inner(values[slow], z, batch), values[fast], values[aux])
        return outer(values[slow], values[fast], batch) + _slope(coupled)

    return [
        Level(fast, follow, optimizer, context),
        Level(aux, solve, optimizer, context),
        Level(slow, lead, outer_optimizer, context),
    ]


def saba(
    outer: Objective,
    inner: Objective,
    optimizer: Any,
    outer_optimizer: Any,
    context: Any,
    batches: int,
    index: Callable[[Any], Any],
    names: tuple[str, str, str] = ("x", "z", "aux"),
) -> list[Level]:
    """Stochastic average bilevel algorithm (SABA): `soba` with a SAGA memory before each optimizer.

    The variance vanishes at the solution, so constant rates converge linearly. The samples of both
    objectives are cut into the same number of batches of equal size, and one index names a batch of
    each. The paper draws two indices and keeps five tables. With one index, the sum of the
    estimates in each direction needs one table, so there are three.

    Args:
        outer: f, `(slow, fast, batch) -> scalar`, the mean over the batch.
        inner: g, `(slow, fast, batch) -> scalar`, the mean over the batch.
        optimizer: the optimizer of z and v; it sees the variance-reduced gradient.
        outer_optimizer: the optimizer of x.
        context: `(task, key) -> batch`; the batch contains its number.
        batches: number of batches; the memory has this many times the size of z, v and x.
        index: `batch -> its number`, from 0 to batches - 1.
        names: the names of x, z and v.

    Returns:
        The levels z, v and x.

    Raises:
        ValueError: the number of batches is less than 1; an argument that is not of the kind above.

    Source: Dagréou, Ablin, Vaiter and Moreau (2022), section 3; for the memory Defazio, Bach and
    Lacoste-Julien, "SAGA" (2014), equation (1).
    """
    memory = saga(batches, index)
    _check("saba", outer, inner, optimizer, outer_optimizer)

    def remembering(optimizer: Any) -> Any:
        if is_transformation(optimizer):
            return optax.chain(memory, optimizer)
        return lambda values: optax.chain(memory, optimizer(values))

    optimizers = remembering(optimizer), remembering(outer_optimizer)
    return soba(outer, inner, *optimizers, context, names)


def f2sa(
    outer: Objective,
    inner: Objective,
    optimizer: Any,
    outer_optimizer: Any,
    context: Any = None,
    every: int = 1,
    growth: float | int = 0.1,
    names: tuple[str, str, str, str] = ("x", "z", "y", "penalty"),
) -> list[Level]:
    """Fully first-order stochastic approximation (F2SA): a penalty instead of second derivatives.

    With y near `argmin f / lambda + g` and z near `argmin g`, x steps along the gradient of `f(x,
    y) + lambda (g(x, y) - g(x, z))`. The bias of that gradient is O(1 / lambda). lambda is itself a
    level with the objective -lambda, moved by plain descent with the rate `growth`. The paper steps
    along `df/dy + lambda dg/dy` with a rate that falls like 1 / lambda, which is equivalent.

    Args:
        outer: f, `(slow, fast, batch) -> scalar`.
        inner: g, `(slow, fast, batch) -> scalar`, strongly convex in fast.
        optimizer: the optimizer of y and z.
        outer_optimizer: the optimizer of x.
        context: `(task, key) -> batch`, the same for all.
        every: number of ticks, which are steps of y and z, between two steps of x and of lambda.
        growth: increase of lambda with each step of x; 0 keeps it constant.
        names: the names of x, z, y and lambda. The initial value of lambda is a positive number.

    Returns:
        The levels y, z, x and lambda, to be given to `Nest`.

    Raises:
        ValueError: an argument that is not of the kind above.

    Source: Kwon, Kwon, Wright and Nowak, "A fully first-order method for stochastic bilevel
    optimization" (2023), algorithm 1.
    """
    slow, fast, shifted, penalty = names
    _check("f2sa", outer, inner, optimizer, outer_optimizer)
    if isinstance(growth, bool) or not isinstance(growth, (int, float)):
        raise ValueError(f"f2sa: growth is a number, got {shown(growth)}")

    def shift(values: dict[str, Any], batch: Any) -> Any:
        x, y = values[slow], values[shifted]
        return outer(x, y, batch) / values[penalty] + inner(x, y, batch)

    def follow(values: dict[str, Any], batch: Any) -> Any:
        return inner(values[slow], values[fast], batch)

    def lead(values: dict[str, Any], batch: Any) -> Any:
        x, y, z = values[slow], values[shifted], values[fast]
        gap = inner(x, y, batch) - inner(x, z, batch)
        return outer(x, y, batch) + values[penalty] * gap

    def grow(values: dict[str, Any], batch: Any) -> Any:
        return -values[penalty]

    return [
        Level(shifted, shift, optimizer, context),
        Level(fast, follow, optimizer, context),
        Level(slow, lead, outer_optimizer, context, every),
        Level(penalty, grow, optax.sgd(growth), context, every),
    ]


class SagaState(NamedTuple):
    """The last gradient of every batch, with a leading axis of batches, and their mean, in float32
    at least: it is a sum over all updates."""

    table: Any
    mean: Any


def saga(batches: int, index: Callable[[Any], Any]) -> optax.GradientTransformationExtraArgs:
    """The gradient, less what it was for this batch the last time, plus the mean of all last times.

    An associative memory whose keys are the numbers of the batches (Defazio, Bach, Lacoste-Julien,
    "SAGA", NIPS 2014, eq. 1). It begins with zeros.

    Args:
        batches: how many there are.
        index: batch -> its number; `update` gets the batch as the extra argument `batch`, which a
            level's optimizer receives.

    Raises:
        ValueError: the number of batches is less than 1; `update` without a batch.
    """
    if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
        raise ValueError(
            f"saga: the number of batches is a whole number of at least 1, got {shown(batches)}"
        )
    check_arguments("saga", "index", index, ("batch",))

    def init(params: PyTree) -> SagaState:
        table = jax.tree.map(lambda p: jnp.zeros((batches, *p.shape), p.dtype), params)
        return SagaState(table, jax.tree.map(lambda p: widened(jnp.zeros_like(p)), params))

    def update(
        updates: PyTree, state: SagaState, params: Any = None, *, batch: Any = None, **_: Any
    ) -> tuple[Any, SagaState]:
        del params
        if batch is None:
            raise ValueError(
                "saga needs to know which batch the gradient is of: give update(..., batch=batch)"
            )
        number = index(batch)
        news = jax.tree.map(
            lambda g, memory: widened(g) - widened(memory[number]), updates, state.table
        )
        direction = like(jax.tree.map(jnp.add, news, state.mean), updates)
        mean = jax.tree.map(lambda m, new: m + new / batches, state.mean, news)
        table = jax.tree.map(lambda memory, g: memory.at[number].set(g), state.table, updates)
        return direction, SagaState(table, mean)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]


def _check(owner: str, outer: Any, inner: Any, optimizer: Any, outer_optimizer: Any) -> None:
    for role, objective in (("outer", outer), ("inner", inner)):
        if not callable(objective):
            raise ValueError(
                f"{owner}: {role} is a function (slow, fast, batch) -> loss, got {shown(objective)}"
            )
        check_arguments(owner, role, objective, ("slow", "fast", "batch"))
    for one in (optimizer, outer_optimizer):
        check_optimizer(owner, one)


def _along(function: Callable[[Any], Any], point: Any, direction: Any) -> Callable[[Any], Any]:
    """step -> function(point + step direction); leaves that are not trained stay."""

    def move(p: Any, d: Any, step: Any) -> Any:
        trained = jnp.issubdtype(jnp.result_type(p), jnp.inexact)
        return p + step.astype(p.dtype) * d if trained else p

    return lambda step: function(jax.tree.map(lambda p, d: move(p, d, step), point, direction))


def _slope(function: Callable[[Any], Any], step: Any = None) -> Any:
    """The derivative with respect to a scalar step, by default at 0."""
    step = jnp.zeros(()) if step is None else step
    return jax.jvp(function, (step,), (jnp.ones_like(step),))[1]
