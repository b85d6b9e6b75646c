"""The joint field of a game: each player's gradient of the player's own loss, side by side."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp

from ..flows.internal import dependence
from ..levels import Nest, State

Loss = Callable[..., Any]
Losses = Mapping[Any, Loss] | Sequence[Loss]
Field = Callable[[Any], Any]

_differentiating: ContextVar[bool] = ContextVar("differentiating", default=False)


@contextmanager
def differentiating() -> Iterator[None]:
    """While a field is traced inside, nests refuse flows whose derivative is wrong by design."""
    token = _differentiating.set(True)
    try:
        yield
    finally:
        _differentiating.reset(token)


def joint_field(players: Any, state: Any = None) -> Field:
    """The joint field of a game: each player's gradient of the player's own loss.

    At a Nash equilibrium in the interior the field is zero. Players who descend at the same time
    with one learning rate follow it: `values - rate * field(values)`, see `descent`. It need not be
    the gradient of anything: its Jacobian is symmetric only if the players' interests agree.

    Example:
        ```python
        field = nx.games.joint_field((lambda x, y: x * y, lambda x, y: -x * y))
        x, y = field((1.0, 2.0))
        print(x, y)  # 2.0 -1.0
        ```

    Args:
        players: player -> loss, as a dict; or a tuple or list of losses. A loss takes all values,
            `loss(values) -> scalar`, in the structure of `players`: `values["x"]` or `values[0]`.
            In a tuple of several players, a loss may also take one argument for each player,
            `loss(x, y)`. A `Nest` instead: its levels are the players, and their flows,
            batches and inner levels count.
        state: the state of the nest, at a step's boundary; only with a nest. Draws are those of
            its tick.

    Returns:
        `field(values) -> pytree like values`. For a nest `values` is a dict like `state.values`;
        levels that are left out, and leaves that are None, are those of the state and do not move.
        Leave out held levels, and give None for leaves that a level does not train.

    Raises:
        ValueError: not a game, or a state without a nest. From the field: values that do not have
            the players' structure, a player whose value has no floating-point array, a loss that
            is not a scalar or does not depend on the player's own value.

    Source: Balduzzi et al., "The Mechanics of n-Player Differentiable Games" (2018), Definition 2.
    """
    if isinstance(players, Nest):
        return _nest_field(players, state)
    if state is not None:
        raise ValueError("joint_field: a state belongs to a nest; joint_field(nest, state)")
    losses = as_losses(players, "joint_field")

    def field(values: Any) -> Any:
        check_players(losses, values)
        found = {name: own_gradient(losses, name, values) for name in names(losses)}
        return like_players(values, found)

    return field


def descent(field: Field, rate: Any) -> Field:
    """Simultaneous descent along a field, as a map: `x -> x - rate field(x)`.

    The optimization map whose Jacobian, exponents and branches `spectrum`, `lyapunov_exponents` and
    the branching methods look at. `Nest.map` makes such a map of any nest, momentum included.

    Example:
        ```python
        field = nx.games.joint_field((lambda x, y: x * y, lambda x, y: -x * y))
        x, y = nx.games.descent(field, 0.5)((1.0, 2.0))
        print(x, y)  # 0.0 2.5
        ```

    Args:
        field: values -> pytree like values.
        rate: learning rate of all players, a number; may be traced.

    Returns:
        A function from values to values.
    """

    def step(values: Any) -> Any:
        if isinstance(values, Mapping):  # `State.values` is a dict of its own
            values = dict(values)
        moving, back = floating(values)
        along = floating(field(values))[0]
        check_structure("descent: the field", along, moving)
        return back(added(moving, -rate, along))

    return step


def names(losses: Any) -> list[Any]:
    """What the players' values are found under: their names, or their numbers."""
    return list(losses) if isinstance(losses, Mapping) else list(range(len(losses)))


def as_losses(given: Any, function: str) -> Losses:
    """Losses that all take `values`, by player.

    Args:
        given: as `joint_field` takes them.
        function: public function that they were given to, for messages.

    Raises:
        ValueError: no players, or something that is not a function.
    """
    expected = (
        f"{function} takes the losses of the players, {{'x': loss_x, 'y': loss_y}} or "
        "(loss_x, loss_y), each a function of all values"
    )
    if callable(given) or not isinstance(given, (Mapping, Sequence)) or isinstance(given, str):
        raise ValueError(f"{expected}; got {_shown(given)}")
    if not given:
        raise ValueError(f"{expected}; got no players")
    for name in names(given):
        if not callable(given[name]):
            raise ValueError(f"{expected}; player {name!r} has {_shown(given[name])}")
    ready = [_taking_values(given[n], n, given, function) for n in names(given)]
    return dict(zip(given, ready, strict=True)) if isinstance(given, Mapping) else tuple(ready)


def own_gradient(losses: Losses, name: Any, values: Any) -> Any:
    """The gradient of a player's loss with respect to the player's own value.

    Returns:
        A pytree like the player's value, with None for leaves that are not floating-point arrays.
    """
    own, combine = floating(values[name])

    def loss(own: Any) -> Any:
        try:
            found = losses[name](with_value(values, name, combine(own)))
        except KeyError as error:
            raise ValueError(
                f"player {name!r}: the loss asks for {error}, and the values are those of the "
                f"players {', '.join(map(repr, names(losses)))}"
            ) from error
        if not hasattr(found, "shape") and not isinstance(found, (float, int)):
            raise ValueError(f"player {name!r}: a loss returns one number, got {_shown(found)}")
        if jnp.shape(found) != () or not jnp.issubdtype(jnp.result_type(found), jnp.floating):
            raise ValueError(
                f"player {name!r}: a loss returns one floating-point number, got "
                f"{jnp.result_type(found)}{list(jnp.shape(found))}; take the sum or the mean"
            )
        return jnp.asarray(found)

    if not any(dependence(loss, own, differentiable=True)):
        raise ValueError(
            f"player {name!r}: the loss does not depend on the player's own value, "
            f"values[{name!r}], on a path that a derivative follows, so its gradient is always "
            "zero; check the order of the losses, and for a stop_gradient"
        )
    return jax.grad(loss)(own)


def check_players(losses: Losses, values: Any) -> None:
    """Refuses values that do not have the players' structure.

    Raises:
        ValueError: which players are missing or unknown, or who has nothing to differentiate.
    """
    if isinstance(losses, Mapping):
        found = set(values) if isinstance(values, Mapping) else None
        if found != set(losses):
            got = _shown(values) if found is None else ", ".join(sorted(map(repr, found)))
            players = ", ".join(sorted(map(repr, losses)))
            raise ValueError(f"the values of this game are a dict of {players}; got {got}")
    elif not isinstance(values, (tuple, list)) or len(values) != len(losses):
        size = f" of {len(values)}" if isinstance(values, (tuple, list)) else ""
        raise ValueError(
            f"the values of this game are a tuple of {len(losses)}, one for each loss; got "
            f"{type(values).__name__}{size}"
        )
    for name in names(losses):
        if not jax.tree.leaves(floating(values[name])[0]):
            raise ValueError(
                f"player {name!r}: the value has no real floating-point array to move, got "
                f"{_shown(values[name])}; convert whole numbers to float"
            )


def floating(
    tree: Any, flags: Sequence[bool | None] | None = None
) -> tuple[Any, Callable[[Any], Any]]:
    """A pytree's real floating-point leaves, and the way back.

    Args:
        tree: any pytree.
        flags: for every leaf whether it moves; None: all floating-point leaves do.

    Returns:
        `(moving, combine)`: the tree with None for every other leaf, and a function that puts the
        others back.
    """
    leaves, structure = jax.tree.flatten(tree)
    allowed = [True] * len(leaves) if flags is None else flags
    chosen = [bool(f) and _is_floating(leaf) for f, leaf in zip(allowed, leaves, strict=True)]

    def combine(moving: Any) -> Any:
        given = iter(jax.tree.leaves(moving))
        pairs = zip(leaves, chosen, strict=True)
        return structure.unflatten([next(given) if here else leaf for leaf, here in pairs])

    pairs = zip(leaves, chosen, strict=True)
    return structure.unflatten([jnp.asarray(a) if here else None for a, here in pairs]), combine


def with_value(values: Any, name: Any, value: Any) -> Any:
    """The values with another value of one player."""
    if isinstance(values, Mapping):
        return {**values, name: value}
    return like_players(values, {n: value if n == name else v for n, v in enumerate(values)})


def like_players(values: Any, found: dict[Any, Any]) -> Any:
    """What was found for each player, as a dict, tuple, list or named tuple like the values."""
    if isinstance(values, Mapping):
        return found
    parts = [found[name] for name in names(values)]
    make = getattr(type(values), "_make", type(values))  # a named tuple takes its parts one by one
    return make(parts)


def check_structure(what: str, found: Any, moving: Any) -> None:
    """Refuses what a field or a map has returned, if it has other parts than those that move.

    Args:
        what: public function and argument, for messages.
        found: the floating-point leaves that were returned.
        moving: those that were given.

    Raises:
        ValueError: another structure.
    """
    if jax.tree.structure(found) != jax.tree.structure(moving):
        raise ValueError(
            f"{what} returns another structure than it was given: {jax.tree.structure(found)} for "
            f"{jax.tree.structure(moving)}. What does not move must not be in the values: of a "
            "nest leave out held levels, and give None for leaves that a level does not train"
        )


def added(a: Any, factor: Any, b: Any) -> Any:
    """`a + factor b` for pytrees, in the dtypes of `a`, whatever the dtype of the factor."""
    return jax.tree.map(lambda one, other: _like_dtype(one + factor * other, one), a, b)


def _taking_values(loss: Loss, name: Any, losses: Losses, function: str) -> Loss:
    """A loss of all values. In a tuple, one with a parameter for each player gets them one by one.

    Raises:
        ValueError: a loss that takes another number of arguments.
    """
    try:
        parameters = inspect.signature(loss).parameters.values()
    except (TypeError, ValueError):
        return loss
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    allowed = [p for p in parameters if p.kind in places]
    needed = [p.name for p in allowed if p.default is inspect.Parameter.empty]
    one_by_one = not isinstance(losses, Mapping) and len(losses) > 1
    if one_by_one and len(needed) == len(losses):
        return lambda values: loss(*values)
    many = any(p.kind == inspect.Parameter.VAR_POSITIONAL for p in parameters)
    if len(needed) > 1 or not (allowed or many):
        raise ValueError(
            f"{function}: player {name!r}: a loss takes all values as one argument, loss(values); "
            f"this one takes ({', '.join(p.name for p in parameters)}); wrap it, such as "
            f"lambda values: loss(values[{names(losses)[0]!r}], ...)"
        )
    return loss


def _nest_field(nest: Nest, state: Any) -> Field:
    if not isinstance(state, State):
        raise ValueError(
            f"joint_field: a nest needs its state, joint_field(nest, state); got {_shown(state)}"
        )
    players = [level.name for level in nest.declaration.levels if not level.held]

    def field(values: Any) -> Any:
        if _differentiating.get():
            _check_flows(nest)
        if not isinstance(values, Mapping):
            return nest.gradient(state.replace(values=values), players)
        given = {name: _filled(value, state.values.get(name)) for name, value in values.items()}
        here = state.replace(values={**state.values, **given})
        return nest.gradient(here, [name for name in players if name in values])

    return field


def _filled(given: Any, own: Any) -> Any:
    """A level's value, with the state's leaves in place of None."""
    leaves, structure = jax.tree.flatten(own)
    try:
        parts = structure.flatten_up_to(given)
    except ValueError:
        return given  # `State.replace` says what is wrong with it
    return structure.unflatten([a if b is None else b for a, b in zip(leaves, parts, strict=True)])


def _check_flows(nest: Nest) -> None:
    for level in nest.declaration.levels:
        flow = level.flow
        if flow is not None and (flow.first_order or flow.rough):
            raise ValueError(
                f"joint_field: level {level.name!r} has the flow {flow!r}, whose gradient has a "
                "derivative of its own that is not the gradient's, so a Jacobian of the field "
                "would be wrong; use Unroll() or Implicit(CG(20))"
            )


def _is_floating(leaf: Any) -> bool:
    if isinstance(leaf, float):
        return True
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def _like_dtype(found: Any, like: Any) -> Any:
    """In the dtype of `like`. A weak one stays weak."""
    return found if found.dtype == like.dtype else found.astype(like.dtype)


def _shown(value: Any) -> str:
    return f"{value!r:.60}"
